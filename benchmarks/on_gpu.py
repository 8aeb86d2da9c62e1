"""Measure the time of the losses on a GPU beside their peers: one Markdown table.

``benchmarks/on_gpu.sh`` runs the tests marked `accelerator` and then this script, in less than seven minutes together.
The script needs jax and optax, and uses PyTorch if it is installed. It prints each row at once; a failed contender has
its error in the cell.

Contenders take turns as in `benchmarks/speed.py`. A ratio is the median over the turns of time of jaxbce ÷ time of the
other library, with the quartiles beside it. A turn enqueues up to 32 calls of a contender before it blocks on the last
one, so that the GPU does not wait for Python. PyTorch computes on the arrays of JAX.

- "of copy" is time of a copy ÷ time of jaxbce. The copy is x + 1, on an array of float32 that moves the bytes of the
  floor: each argument of the loss read once, each result written once. The next column is the bandwidth of the copy.
- At 1e7 entries the cache of a large GPU holds part of an array, and a call takes hardly longer than its launch. The
  time of a launch stands below the table.
- "by hand" is the formula in one line under `jit`. From bfloat16 logits it computes bfloat16 losses, and jaxbce
  computes float32 losses.

For the linear head and the pairwise loss, "by hand" is the same step on all logits at once. Each of these rows runs in
a subprocess. The peak memory of the subprocess, arguments and results included, is read after the first calls of
jaxbce, and again after the first calls of the dense step.
"""

import argparse
import functools
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Leave memory to PyTorch: JAX preallocates three quarters of a GPU. JAX reads the variable when it creates its backend.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from devices import LABELS, PAIRS, Loop, loops
from speed import Loss, Run, cases, jax_function, machine, ratio, take_turns, torch_run

PEERS = ("optax", "by hand", "torch", "torch.compile")
QUANTITIES = ("mean", "value_and_grad", "none")
RATIOS = [f"× {name}" for name in PEERS]
COLUMNS = ["loss", "quantity", "N", "ms", "of copy", "copy, GB/s", *RATIOS, "peak GB: ours, by hand"]

# --- Calls in batches ---------------------------------------------------------------------------------------------

BATCH, MOST = 10e-3, 32
"""The target time of a batch, in seconds, and the largest number of its calls."""


class Batch(NamedTuple):
    """A run that enqueues `calls` calls and blocks on the last."""

    run: Run
    calls: int


def _batch(call: Run, wait: Callable[[Any], Any]) -> Batch:
    wait(call())  # compiles, or allocates memory
    started = time.perf_counter()
    wait(call())
    calls = min(max(round(BATCH / (time.perf_counter() - started)), 1), MOST)

    def run() -> None:
        for _ in range(calls):
            result = call()
        wait(result)

    return Batch(run, calls)


def _jax_batch(function: Callable[..., Any], arrays: list[Any]) -> Batch:
    compiled = jax.jit(function).lower(*arrays).compile()
    return _batch(lambda: compiled(*arrays), jax.block_until_ready)


def _torch_batch(loss: Loss, quantity: str, arrays: list[Any], compiled: bool) -> Batch:
    import torch

    torch.compiler.reset()  # reset: new shapes count towards the recompilation limit
    wrap = functools.partial(torch.compile, dynamic=False) if compiled else lambda function: function
    call = torch_run(loss, quantity, [torch.from_dlpack(array) for array in arrays], wrap)
    return _batch(call, lambda _: torch.cuda.synchronize() if torch.cuda.is_available() else None)


def _times(batches: dict[str, Batch], seconds: float) -> dict[str, np.ndarray]:
    """Measure the seconds of one call of each batch, turn by turn."""
    turns = take_turns({name: batch.run for name, batch in batches.items()}, seconds)
    return {name: times / batches[name].calls for name, times in turns.items()}


def _cause(error: Exception, label: str) -> str:
    """Print an error to stderr, and return its cell of the table."""
    print(f"{label}: {error!r:.400}", file=sys.stderr, flush=True)
    exhausted = "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    return "out of memory" if exhausted else f"failed: {type(error).__name__}"


def _measure(
    title: str, makers: dict[str, Callable[[], Batch]], seconds: float
) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Time the contenders that compile; return the cell of jaxbce, the ratios to its peers, and all times."""
    batches, causes = {}, {}
    for name, make in makers.items():
        try:
            batches[name] = make()
        except Exception as error:
            causes[name] = _cause(error, f"{title}: {name}")
    if "jaxbce" in causes:
        return causes["jaxbce"], [causes.get(name, "—") for name in PEERS], {}
    times = _times(batches, seconds)
    ratios = [causes.get(name) or ratio(times, name) for name in PEERS]
    return f"{np.median(times['jaxbce']) * 1e3:.3g}", ratios, times


# --- Elementwise losses -------------------------------------------------------------------------------------------


def _mean(losses: Callable[..., Any]) -> Loss:
    return lambda reduction, *arrays: losses(*arrays).mean() if reduction == "mean" else losses(*arrays)


def _focal(x: Any, y: Any) -> Any:
    p = jax.nn.sigmoid(x)
    return (p + y - 2 * p * y) ** 2 * (jax.nn.softplus(x) - x * y)


def _classes(x: Any, labels: Any) -> Any:
    return jax.nn.logsumexp(x, -1) - jnp.take_along_axis(x, labels[:, None], -1)[:, 0]


CASES = {case.title: case for case in cases()}
BY_HAND: dict[str, dict[str, Loss]] = {
    "binary_cross_entropy_with_logits": {},
    "binary_cross_entropy_with_logits, bfloat16": {},
    "sigmoid_focal_loss": {"by hand": _mean(_focal)},
    "cross_entropy, 1000 classes": {"by hand": _mean(_classes)},
}
"""The losses to measure, each with its formula by hand unless `benchmarks/speed.py` has one."""


@functools.lru_cache(1)
def _arrays(title: str, n: int) -> list[Any]:
    return [jnp.asarray(array) for array in CASES[title].arrays(np.random.default_rng(0), n)]


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _row(title: str, quantity: str, n: int, options: argparse.Namespace) -> list[str]:
    arrays, losses = _arrays(title, n), {**CASES[title].losses, **BY_HAND[title]}
    floor = _bytes(arrays) + _bytes(jax.eval_shape(jax_function(losses["jaxbce"], quantity), *arrays))
    copied = jnp.zeros(max(floor // 8, 1), jnp.float32)
    makers = {"copy": functools.partial(_jax_batch, lambda x: x + 1, [copied])}
    for name in ("jaxbce", "optax", "by hand"):
        makers[name] = functools.partial(_jax_batch, jax_function(losses[name], quantity), arrays)
    for name in PEERS[2:]:
        if name not in options.without:
            makers[name] = functools.partial(_torch_batch, losses["torch"], quantity, arrays, name == "torch.compile")
    own, ratios, times = _measure(f"{title}, {quantity}, {n:,}", makers, options.each)
    share, bandwidth = "—", "—"
    if "copy" in times:
        share = f"{np.median(times['copy'] / times['jaxbce']):.0%}"
        bandwidth = f"{floor / np.median(times['copy']) / 1e9:,.0f}"
    return [own, share, bandwidth, *ratios]


# --- Linear head and pairwise loss --------------------------------------------------------------------------------


def _random_array(array: jax.ShapeDtypeStruct) -> Any:
    """Make an array on the host, since random numbers made on the device would raise its peak memory."""
    rng = np.random.default_rng(0)
    some = rng.integers(0, 1000, 9973) if array.dtype == jnp.int32 else rng.standard_normal(1_000_003, np.float32) / 30
    return jnp.asarray(np.resize(some.astype(array.dtype), array.shape))


def _loop(loop: Loop, seconds: float) -> list[str]:
    """Measure the cells of a loop; call it in a subprocess of its own, since the peak memory is that of a process."""
    arrays, peaks = [_random_array(array) for array in loop.arrays], []

    def make(function: Callable[..., Any]) -> Batch:
        batch = _jax_batch(function, arrays)
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        peaks.append("—" if peak is None else f"{peak / 1e9:.2f}")
        return batch

    makers = {"jaxbce": functools.partial(make, loop.ours), "by hand": functools.partial(make, loop.dense)}
    own, ratios, _ = _measure(loop.title, makers, seconds)
    return [own, "—", "—", *ratios, ", ".join(peaks)]


def _loop_in_subprocess(number: int, options: argparse.Namespace, limit: float) -> list[str]:
    """Run `_loop` in a subprocess, so that a crash or a timeout costs this row alone."""
    arguments = {"loop": number, "labels": options.labels, "pairs": options.pairs, "each": options.each}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit, check=True)
    return done.stdout.splitlines()[-1].split(" | ")


# --- Table --------------------------------------------------------------------------------------------------------

LIMIT = 90.0
"""The timeout of the subprocess of a loop, in seconds."""


def _rows(options: argparse.Namespace, left: Callable[[], float]) -> Iterator[list[str]]:
    """Yield the rows: the loops first, while this process holds no memory of the GPU."""
    todo: list[tuple[list[str], Callable[[], list[str]]]] = []
    for number, loop in enumerate(loops(options.labels, options.pairs)):
        head = [loop.title, "value and gradients", "—"]
        todo.append((head, lambda number=number: _loop_in_subprocess(number, options, min(left(), LIMIT))))
    for n, title, quantity in itertools.product(map(int, options.sizes), BY_HAND, QUANTITIES):
        make = functools.partial(_row, title, quantity, n, options)
        todo.append(([title, quantity, f"{n:.0e}".replace("+0", "")], make))
    for head, make in todo:
        try:
            cells = make() if left() > 0 else ["skipped: no time left"]
        except Exception as error:
            cells = [_cause(error, ", ".join(head))]
        row = [*head, *cells]
        yield row + ["—"] * (len(COLUMNS) - len(row))


def _torch_usable() -> bool:
    """Check that PyTorch is installed, and has a GPU if JAX has one."""
    try:
        import torch
    except Exception as error:
        _cause(error, "torch")
        return False
    return torch.cuda.is_available() or jax.default_backend() == "cpu"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found[0] if found else "unknown"


def _launch() -> str:
    """Time a launch: a compiled call on a scalar."""
    times = _times({"launch": _jax_batch(lambda x: x + 1, [jnp.zeros(())])}, 0.1)
    return f"{np.median(times['launch']) * 1e6:.0f} µs"


def _report(options: argparse.Namespace, left: Callable[[], float]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"{machine(set(options.without), ('torch',))} Driver {_driver()}.\n"
    for cells in itertools.chain([COLUMNS, ["---"] * len(COLUMNS)], _rows(options, left)):
        yield f"| {' | '.join(cells)} |"
    yield f"\nA launch takes {_launch()}: one compiled call on a scalar. {options.note}".rstrip()


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description="Measure the time of the losses on a GPU beside their peers.")
    parser.add_argument(
        "--sizes", type=float, nargs="*", default=[1e8, 1e7], help="numbers of entries of elementwise losses"
    )
    parser.add_argument("--labels", type=int, default=LABELS, help="number of labels of the linear head")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="batch size of the pairwise loss")
    parser.add_argument("--seconds", type=float, default=400.0, help="skip the rows that remain after this time")
    parser.add_argument("--each", type=float, default=0.5, help="seconds for the turns of a row")
    parser.add_argument("--without", nargs="*", default=[], choices=PEERS[2:], help="leave these peers out")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="write the report to this file too")
    parser.add_argument("--note", default="", help="text below the table")
    parser.add_argument("--loop", type=int, help="print the cells of this loop alone")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    if options.loop is not None:
        print(" | ".join(_loop(loops(options.labels, options.pairs)[options.loop], options.each)))
        return
    if not _torch_usable():
        options.without = ["torch", "torch.compile"]
    with options.out.open("w") as file:
        for line in _report(options, lambda: end - time.perf_counter()):
            print(line, flush=True)
            print(line, file=file, flush=True)


if __name__ == "__main__":
    main()
