"""Measure time and memory of jaxbce beside its peers: one Markdown table, and a chart.

``python benchmarks/speed.py`` measures every loss at ten million entries, and the plain binary cross-entropy from a
thousand to a hundred million. The contenders of a row take turns in one process, so that a disturbance of the machine
hits all of them. A ratio is the median over the turns of time of jaxbce ÷ time of the other library, with the
quartiles beside it: below 1 jaxbce is faster. The floor reads each input once, and writes one result if the quantity
has the size of the inputs. The floor of a layer reads the labels alone, and has no matrix product.

The peers come with the extra `bench`; the last line of the output names the peers that are not installed. Every JAX
library runs under `jit`, except in the rows of eager calls. Inputs are float32 normal logits of standard deviation 3
and hard labels, unless a row says otherwise.
"""

import argparse
import functools
import importlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbce

Loss = Callable[..., Any]  # (reduction, *arrays) -> loss
Run = Callable[[], Any]  # one measured call, which blocks until its result is ready

TURNS = 7
"""The least number of turns of a row. With ``--seconds 0`` a row has one turn, a test that every contender runs."""


# --- Cases --------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A loss: its title, a maker of its arrays, and its function in each library."""

    title: str
    arrays: Callable[[np.random.Generator, int], list[np.ndarray]]
    losses: dict[str, Loss]


def _logits(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    x = rng.standard_normal(n, np.float32) * 3
    return [x, (rng.random(n, np.float32) < 0.5).astype(np.float32)]


def _probs(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    x, y = _logits(rng, n)
    return [1 / (1 + np.exp(-x)), y]


def _weighted(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [*_logits(rng, n), rng.random(n, np.float32)]


def _masked(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [*_logits(rng, n), rng.random(n, np.float32) < 0.7]


def _half(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [array.astype(jnp.bfloat16) for array in _logits(rng, n)]


def _classes(rng: np.random.Generator, n: int, classes: int) -> list[np.ndarray]:
    shape = max(n // classes, 1), classes
    return [rng.standard_normal(shape, np.float32) * 3, rng.integers(0, classes, shape[0], np.int32)]


def _layer(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """Draw the kernel, labels and features of a linear layer, scaled to logits of standard deviation 3."""
    rows, width, outputs = max(n // 1000, 1), 64, 1000
    kernel = rng.standard_normal((width, outputs), np.float32) * np.float32(3 / width**0.5)
    labels = (rng.random((rows, outputs), np.float32) < 0.5).astype(np.float32)
    return [kernel, labels, rng.standard_normal((rows, width), np.float32)]


def _after_layer(loss: Loss) -> Loss:
    """Compose a loss with a linear layer, so that the logits are an intermediate of the step and no argument."""
    return lambda reduction, kernel, labels, features: loss(reduction, features @ kernel, labels)


def _mean(elementwise: Loss) -> Loss:
    """Add the argument `reduction` to an elementwise loss."""

    def loss(reduction: str, *arrays: Any) -> Any:
        losses = elementwise(*arrays)
        return losses.mean() if reduction == "mean" else losses

    return loss


def _ours(function: Loss, *names: str, **options: Any) -> Loss:
    """Wrap a loss of jaxbce; `names` are the keyword arguments for the arrays after the second."""

    def loss(reduction: str, x: Any, y: Any, *more: Any) -> Any:
        return function(x, y, reduction=reduction, **options, **dict(zip(names, more, strict=True)))

    return loss


def _torch(name: str, *names: str) -> Loss:
    """Wrap a loss of `torch.nn.functional`; `names` as in `_ours`."""

    def loss(reduction: str, x: Any, y: Any, *more: Any) -> Any:
        import torch.nn.functional as F  # noqa: N812 - the alias of PyTorch's documentation

        return getattr(F, name)(x, y, reduction=reduction, **dict(zip(names, more, strict=True)))

    return loss


def _torch_pos_weight(reduction: str, x: Any, y: Any) -> Any:
    import torch

    pos_weight = torch.tensor(3.0)
    return torch.nn.functional.binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight, reduction=reduction)


def _torch_masked(reduction: str, x: Any, y: Any, mask: Any) -> Any:
    losses = _torch("binary_cross_entropy_with_logits")("none", x, y) * mask
    return losses.sum() / mask.sum() if reduction == "mean" else losses


def _torch_focal(reduction: str, x: Any, y: Any) -> Any:
    """Compute the focal loss as `torchvision.ops.sigmoid_focal_loss` does, with alpha=-1."""
    import torch

    loss, p = _torch("binary_cross_entropy_with_logits")("none", x, y), torch.sigmoid(x)
    losses = loss * (1 - (p * y + (1 - p) * (1 - y))) ** 2
    return losses.mean() if reduction == "mean" else losses


def _keras(name: str, *, from_logits: bool) -> Loss:
    def elementwise(x: Any, y: Any) -> Any:
        return getattr(importlib.import_module("keras").ops, name)(y, x, from_logits=from_logits)

    return _mean(elementwise)


def _by_hand(x: Any, y: Any) -> Any:
    """Compute the common stable formula, max(x, 0) - x·y + log1p(exp(-|x|))."""
    return jnp.maximum(x, 0) - x * y + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _masked_mean(elementwise: Loss) -> Loss:
    def loss(reduction: str, x: Any, y: Any, mask: Any) -> Any:
        losses = elementwise(x, y)
        return jnp.mean(losses, where=mask) if reduction == "mean" else jnp.where(mask, losses, 0)

    return loss


def cases() -> Iterator[Case]:
    """Yield every loss with its peers."""
    bce, theirs = jaxbce.binary_cross_entropy_with_logits, optax.sigmoid_binary_cross_entropy
    logits, probs = "binary_cross_entropy_with_logits", "binary_cross_entropy"
    keras = _keras("binary_crossentropy", from_logits=True)
    plain = {
        "jaxbce": _ours(bce),
        "optax": _mean(theirs),
        "torch": _torch(logits),
        "Keras": keras,
        "by hand": _mean(_by_hand),
    }
    yield Case(logits, _logits, plain)
    pos_weight = _mean(lambda x, y: (1 + 2 * y) * theirs(x, y))  # optax has no pos_weight; exact for hard labels only
    yield Case(
        f"{logits}, `pos_weight`",
        _logits,
        {"jaxbce": _ours(bce, pos_weight=3.0), "optax": pos_weight, "torch": _torch_pos_weight},
    )
    yield Case(
        f"{logits}, `weight`",
        _weighted,
        {
            "jaxbce": _ours(bce, "weight"),
            "optax": _mean(lambda x, y, v: v * theirs(x, y)),
            "torch": _torch(logits, "weight"),
        },
    )
    yield Case(
        f"{logits}, `where`",
        _masked,
        {"jaxbce": _ours(bce, "where"), "optax": _masked_mean(theirs), "torch": _torch_masked},
    )
    yield Case(f"{logits}, bfloat16", _half, plain)
    yield Case(f"{logits}, of a layer", _layer, {name: _after_layer(loss) for name, loss in plain.items()})
    yield Case(
        probs,
        _probs,
        {
            "jaxbce": _ours(jaxbce.binary_cross_entropy),
            "torch": _torch(probs),
            "Keras": _keras("binary_crossentropy", from_logits=False),
        },
    )
    focal = _mean(functools.partial(optax.losses.sigmoid_focal_loss, gamma=2.0))
    yield Case(
        "sigmoid_focal_loss",
        _logits,
        {"jaxbce": _ours(jaxbce.sigmoid_focal_loss), "optax": focal, "torch": _torch_focal},
    )
    # Compare with optax's focal loss, since optax has no asymmetric loss.
    yield Case("asymmetric_loss", _logits, {"jaxbce": _ours(jaxbce.asymmetric_loss), "optax": focal})
    for classes in (10, 1000):
        yield Case(
            f"cross_entropy, {classes} classes",
            functools.partial(_classes, classes=classes),
            {
                "jaxbce": _ours(jaxbce.cross_entropy),
                "optax": _mean(optax.softmax_cross_entropy_with_integer_labels),
                "torch": _torch("cross_entropy"),
                "Keras": _keras("sparse_categorical_crossentropy", from_logits=True),
            },
        )


# --- Runs and turns -----------------------------------------------------------------------------------------------

QUANTITIES = ("mean", "value_and_grad", "none", "HVP")


def jax_function(loss: Loss, quantity: str) -> Callable[..., Any]:
    """Return the function of the arrays that computes a quantity of a loss."""
    if quantity in ("mean", "none"):
        return functools.partial(loss, quantity)
    mean = functools.partial(loss, "mean")
    if quantity == "value_and_grad":
        return jax.value_and_grad(mean)
    return lambda x, *more: jax.jvp(lambda x: jax.grad(mean)(x, *more), (x,), (x,))[1]


def _jax_run(loss: Loss, quantity: str, arrays: list[np.ndarray]) -> tuple[Run, float]:
    """Compile a call; return its run and its temporary memory ÷ bytes of the largest array."""
    placed = [jnp.asarray(array) for array in arrays]
    compiled = jax.jit(jax_function(loss, quantity)).lower(*placed).compile()
    temporary, largest = compiled.memory_analysis().temp_size_in_bytes, max(array.nbytes for array in placed)
    return lambda: jax.block_until_ready(compiled(*placed)), temporary / largest


def _tensor(array: np.ndarray) -> Any:
    import torch

    half = array.dtype == jnp.bfloat16
    made = torch.from_numpy(array.astype(np.float32) if half else array)
    return made.bfloat16() if half else made


def torch_run(loss: Loss, quantity: str, tensors: list[Any], wrap: Callable[[Loss], Loss]) -> Run:
    """Return the run of a PyTorch call. Class indices are cast to int64 beforehand, as PyTorch requires."""
    import torch

    x, *more = (tensor.long() if tensor.dtype == torch.int32 else tensor for tensor in tensors)
    function = wrap(functools.partial(loss, "none" if quantity == "none" else "mean"))
    if quantity == "value_and_grad":
        x.requires_grad_(True)
        return lambda: torch.autograd.grad(function(x, *more), x)

    def run() -> Any:
        with torch.no_grad():
            return function(x, *more)

    return run


def _floor(quantity: str, arrays: list[np.ndarray]) -> Run:
    size = max(array.size for array in arrays)
    inputs = [jnp.asarray(array) for array in arrays if array.size == size]
    # Write no array for "none" with class indices: the losses have one entry per row of logits.
    has_class_indices = any(array.dtype == np.int32 for array in arrays)
    writes = quantity in ("value_and_grad", "HVP") or (quantity == "none" and not has_class_indices)

    def once(*inputs: Any) -> Any:
        read = functools.reduce(jnp.multiply, (a.astype(inputs[0].dtype) for a in inputs)) * 2
        return read if writes else jnp.sum(read)

    compiled = jax.jit(once).lower(*inputs).compile()
    return lambda: jax.block_until_ready(compiled(*inputs))


def _runs(case: Case, quantity: str, n: int, missing: set[str]) -> tuple[dict[str, Run], dict[str, float]]:
    """Return the run of each contender, and the temporary memory of those on JAX."""
    arrays = case.arrays(np.random.default_rng(0), n)
    runs, memory = {"floor": _floor(quantity, arrays)}, {}
    for library, loss in case.losses.items():
        if library in missing:
            continue
        if library != "torch":
            runs[library], memory[library] = _jax_run(loss, quantity, arrays)
        elif quantity != "HVP":
            import torch

            tensors = list(map(_tensor, arrays))
            runs["torch"] = torch_run(loss, quantity, tensors, lambda f: f)
            if "torch.compile" not in missing:
                runs["torch.compile"] = torch_run(loss, quantity, tensors, torch.compile)
    return runs, memory


def take_turns(runs: dict[str, Run], seconds: float, pause: float = 0.0) -> dict[str, np.ndarray]:
    """Measure the seconds of one call of each run, turn by turn; sleep for `pause` seconds before each call."""
    repeats = {}
    for name, run in runs.items():
        run()  # compiles, or allocates memory
        repeats[name] = max(1, round(2e-3 / _seconds(run, 1, pause)))
    turns: list[dict[str, float]] = []
    least = TURNS if seconds else 1
    started = time.perf_counter()
    while len(turns) < least or time.perf_counter() - started < seconds:
        # Rotate the order from turn to turn, so that each contender is the first of a turn equally often.
        first = len(turns) % len(runs)
        order = [*runs][first:] + [*runs][:first]
        turns.append({name: _seconds(runs[name], repeats[name], pause) for name in order})
    return {name: np.array([turn[name] for turn in turns]) for name in runs}


REST = 5e-3
"""Seconds to sleep before each contender, until the spinning worker threads of the previous one are idle."""


def _seconds(run: Run, repeats: int, pause: float) -> float:
    time.sleep(REST)
    if repeats > 1:
        run()  # wakes the worker threads of this contender
    total = 0.0
    for _ in range(repeats):
        if pause:
            time.sleep(pause)
        started = time.perf_counter()
        run()
        total += time.perf_counter() - started
    return total / repeats


# --- Eager calls and compilation ----------------------------------------------------------------------------------


PAUSE = 1e-4
"""Seconds to sleep before each eager call, in place of the other work of a program. In a tight loop the threads of XLA
stay awake between compiled calls, and fall asleep between eager calls."""


def _eager_runs(n: int) -> dict[str, Run]:
    """Return the runs of eager calls; their floor is the same call of jaxbce under `jit`."""
    x, y = map(jnp.asarray, _logits(np.random.default_rng(0), n))
    ours, theirs = jaxbce.binary_cross_entropy_with_logits, _mean(optax.sigmoid_binary_cross_entropy)
    compiled = jax.jit(ours)
    return {
        "floor": lambda: compiled(x, y).block_until_ready(),
        "jaxbce": lambda: ours(x, y).block_until_ready(),
        "optax": lambda: theirs("mean", x, y).block_until_ready(),
        "by hand": lambda: _by_hand(x, y).mean().block_until_ready(),
    }


def _compile_runs(case: Case) -> dict[str, Run]:
    """Return runs that trace and compile a step with empty caches."""
    arrays = [jnp.asarray(array) for array in case.arrays(np.random.default_rng(0), 1000)]

    def run(loss: Loss) -> None:
        jax.clear_caches()
        jax.jit(jax_function(loss, "value_and_grad")).lower(*arrays).compile()

    jax_libraries = {name: loss for name, loss in case.losses.items() if name not in ("torch", "Keras")}
    return {name: functools.partial(run, loss) for name, loss in jax_libraries.items()}


# --- Table and chart ----------------------------------------------------------------------------------------------

PEERS = ("optax", "torch", "torch.compile", "Keras", "by hand")


def ratio(times: dict[str, np.ndarray], name: str) -> str:
    """Format time of jaxbce ÷ time of a contender: median and quartiles over the turns; a dash if it did not run."""
    if name not in times:
        return "—"
    low, median, high = np.quantile(times["jaxbce"] / times[name], (0.25, 0.5, 0.75))
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def _row(title: str, quantity: str, n: int, times: dict[str, np.ndarray], memory: dict[str, float]) -> list[str]:
    peers = {name: f"{memory[name]:.2f}" for name in ("jaxbce", "optax") if name in memory}
    own = f"{np.median(times['jaxbce']) * 1e3:.3g}"
    return [
        title,
        quantity,
        f"{n:.0e}".replace("+0", ""),
        own,
        *(ratio(times, name) for name in ("floor", *PEERS)),
        ", ".join(peers.values()),
    ]


def _chart(path: Path, bars: dict[str, dict[str, float]]) -> None:
    """Draw the time of one entry, by row and contender."""
    import matplotlib  # import here, since on_gpu.py imports this module without matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 0.55 * len(bars) + 1.5), layout="constrained")
    names = [name for name in ("jaxbce", *PEERS) if any(name in row for row in bars.values())]
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        found = [(r, row[name]) for r, row in enumerate(bars.values()) if name in row]
        axes.barh([r + (i - len(names) / 2) * height for r, _ in found], [t for _, t in found], height, label=name)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("nanoseconds per entry (value and gradient of the mean); shorter is faster")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def show(header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print("|", " | ".join(row), "|")
    print()


def machine(missing: set[str], peers: tuple[str, ...] = ("torch", "Keras")) -> str:
    """Return the hardware, the versions of the libraries and the peers that were left out."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    device = jax.devices()[0]
    names = ["jax", "jaxlib", "optax", *(name.lower() for name in peers if name not in missing)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    where = f"{os.cpu_count()} × {model}" if device.platform == "cpu" else device.device_kind
    return f"{where}; {versions}." + (f" Left out: {', '.join(sorted(missing))}." if missing else "")


def missing_peers() -> set[str]:
    """Return the names of the peers that are not installed."""
    missing = set()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for name, module in (("torch", "torch"), ("Keras", "keras")):
        try:
            importlib.import_module(module)
        except ImportError:
            missing |= {name, "torch.compile"} if name == "torch" else {name}
    return missing


def main() -> None:
    """Print the table and draw the chart."""
    from tqdm import tqdm

    all_cases = list(cases())
    plain = all_cases[0]
    parser = argparse.ArgumentParser(description="Measure time and memory of jaxbce beside its peers.")
    parser.add_argument("--size", type=float, default=1e7, help="number of entries of every loss")
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="*",
        default=[1e3, 1e4, 1e5, 1e6, 1e8],
        help="sizes of the plain binary cross-entropy",
    )
    parser.add_argument(
        "--losses", nargs="*", choices=[case.title for case in all_cases], help="measure only these losses"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds for the turns of a row")
    parser.add_argument("--without", nargs="*", default=[], choices=PEERS, help="leave these peers out")
    parser.add_argument("--chart", type=Path, default=Path("out/speed.png"), help="file of the chart")
    options = parser.parse_args()
    missing = missing_peers() | set(options.without)
    chosen = [case for case in all_cases if options.losses is None or case.title in options.losses]
    todo = [(case, quantity, int(options.size)) for case in chosen for quantity in QUANTITIES]
    if plain in chosen:
        todo += [(plain, quantity, int(n)) for n in options.sizes for quantity in QUANTITIES]
    table, bars = [], {}
    for case, quantity, n in tqdm(todo, disable=None):
        runs, memory = _runs(case, quantity, n, missing)
        times = take_turns(runs, options.seconds)
        table.append(_row(case.title, quantity, n, times, memory))
        if quantity == "value_and_grad":
            bars[f"{case.title}, {n:.0e}"] = {name: np.median(t) / n * 1e9 for name, t in times.items()}
    for n in (1_000, 1_000_000) if plain in chosen else ():
        table.append(_row(plain.title, "eager mean", n, take_turns(_eager_runs(n), options.seconds, PAUSE), {}))
    for case in chosen:
        table.append(_row(case.title, "trace + compile", 1_000, take_turns(_compile_runs(case), options.seconds), {}))
    header = ["loss", "quantity", "N", "ms", *(f"× {name}" for name in ("floor", *PEERS)), "temp: ours, optax"]
    show(header, table)
    print(machine(missing))
    _chart(options.chart, bars)


if __name__ == "__main__":
    main()
