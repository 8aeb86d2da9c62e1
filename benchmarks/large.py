"""Measure time and memory of the losses over very many labels beside dense logits and labels: one Markdown table.

``python benchmarks/large.py`` measures value and gradients of a linear head fused with its loss, and of sparse labels
(indices of the positives) on given logits, from ten thousand labels to a million. The peers are optax and PyTorch: a
matrix product, then a loss on dense logits and dense labels. The dense labels are arguments, so the time leaves their
construction out. The contenders of a row take turns as in speed.py. A ratio is the median over the turns of time of
jaxbce ÷ time of the other library, with the quartiles beside it: below 1 jaxbce is faster. Memory is the temporary
memory of the compiled call, beside arguments and results. If the logits would exceed ``--most`` gigabytes, the peers
are left out.

The last rows have wide features and small batches, so that the matrix products dominate: there the fusion gains least.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from speed import Run, machine, missing_peers, ratio, show, take_turns
from tqdm import tqdm

import jaxbce

POSITIVES = 10


class Case(NamedTuple):
    """A loss with its sizes and the argnums of its gradients.

    If `linear`, the arguments are features, kernel and bias; otherwise they are the logits. `theirs` are the argnums of
    the peers, if they differ from `gradients`.
    """

    title: str
    labels: int
    batch: int = 256
    width: int = 128
    dtype: Any = np.float32
    gradients: tuple[int, ...] = (0, 1, 2)
    theirs: tuple[int, ...] | None = None
    linear: bool = True
    reduction: str = "mean"


def cases(sizes: list[int]) -> list[Case]:
    """Return the rows of the table."""
    few, middle = sizes[0], sizes[len(sizes) // 2]
    rows = [Case("linear", labels) for labels in sizes]
    rows += [
        Case("linear, frozen kernel", middle, gradients=(0, 2)),
        Case("linear, frozen kernel (not theirs)", middle, gradients=(0, 2), theirs=(0, 1, 2)),
        Case("linear, bfloat16", middle, dtype=jnp.bfloat16),
        Case('linear, "none"', middle, reduction="none"),
        Case("sparse logits", middle, gradients=(0,), linear=False),
    ]
    return [*rows, Case("linear, wide", few, width=2048), Case("linear, wide, small batch", few, 16, 2048)]


def _data(case: Case) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw the arrays to differentiate, and the indices of the positives."""
    rng = np.random.default_rng(0)
    if case.linear:
        shapes = (case.batch, case.width), (case.width, case.labels), (case.labels,)
        scales = 1.0, case.width**-0.5, 1.0
    else:
        shapes, scales = ((case.batch, case.labels),), (3.0,)
    arrays = [rng.standard_normal(shape, np.float32) * np.float32(s) for shape, s in zip(shapes, scales, strict=True)]
    return arrays, rng.integers(0, case.labels, (case.batch, POSITIVES), np.int32)


def _ours(case: Case) -> Callable[..., Any]:
    def linear(features: Any, kernel: Any, bias: Any, positives: Any) -> Any:
        loss = jaxbce.linear_binary_cross_entropy(
            features, kernel, positives=positives, bias=bias, reduction=case.reduction
        )
        return loss.mean() / case.labels if case.reduction == "none" else loss

    return linear if case.linear else jaxbce.sparse_binary_cross_entropy_with_logits


def _naive(case: Case) -> Callable[..., Any]:
    def loss(*arguments: Any) -> Any:
        *arrays, labels = arguments
        logits = arrays[0] @ arrays[1] + arrays[2] if case.linear else arrays[0]
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    return loss


def _jax_run(
    case: Case, loss: Callable[..., Any], gradients: tuple[int, ...], arrays: list[np.ndarray], labels: np.ndarray
) -> tuple[Run, float]:
    """Compile a call; return its run and its temporary memory in megabytes."""
    placed = [*(jnp.asarray(array, case.dtype) for array in arrays), jnp.asarray(labels)]
    compiled = jax.jit(jax.value_and_grad(loss, gradients)).lower(*placed).compile()
    return lambda: jax.block_until_ready(compiled(*placed)), compiled.memory_analysis().temp_size_in_bytes / 1e6


def _torch_run(case: Case, gradients: tuple[int, ...], arrays: list[np.ndarray], labels: np.ndarray) -> Run:
    import torch
    import torch.nn.functional as F  # noqa: N812 - the alias of PyTorch's documentation

    half = case.dtype == jnp.bfloat16
    tensors = [torch.from_numpy(array).to(torch.bfloat16 if half else torch.float32) for array in arrays]
    dense = torch.from_numpy(labels).to(tensors[0].dtype)
    moving = [tensors[i].requires_grad_(True) for i in gradients]

    def run() -> Any:
        logits = tensors[0] @ tensors[1] + tensors[2] if case.linear else tensors[0]
        loss = F.binary_cross_entropy_with_logits(logits, dense)
        return loss, torch.autograd.grad(loss, moving)

    return run


def measure(case: Case, seconds: float, most: float, missing: set[str]) -> list[str]:
    """Measure a row of the table."""
    arrays, positives = _data(case)
    theirs = case.theirs or case.gradients
    runs, memory = {}, {}
    runs["jaxbce"], memory["jaxbce"] = _jax_run(case, _ours(case), case.gradients, arrays, positives)
    if case.batch * case.labels * 4 <= most * 1e9:
        dense = np.zeros((case.batch, case.labels), np.float32)
        np.put_along_axis(dense, positives, 1, 1)
        runs["optax"], memory["optax"] = _jax_run(case, _naive(case), theirs, arrays, dense.astype(case.dtype))
        if "torch" not in missing:
            runs["torch"] = _torch_run(case, theirs, arrays, dense)
    times = take_turns(runs, seconds)

    width = f"{case.width}" if case.linear else "—"
    needed = [f"{memory[name]:,.1f}" if name in memory else "—" for name in ("jaxbce", "optax")]
    own = f"{np.median(times['jaxbce']) * 1e3:.3g}"
    return [
        case.title,
        f"{case.labels:,}",
        f"{case.batch}",
        width,
        own,
        ratio(times, "optax"),
        ratio(times, "torch"),
        *needed,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure time and memory of the losses over very many labels.")
    parser.add_argument("--sizes", type=float, nargs="*", default=[1e4, 102_400, 1_024_000], help="numbers of labels")
    parser.add_argument("--losses", default="", help="measure only the losses whose title contains this text")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds for the turns of a row")
    parser.add_argument("--most", type=float, default=2.0, help="gigabytes of logits up to which the peers run")
    parser.add_argument("--without", nargs="*", default=[], choices=["torch"], help="leave these peers out")
    options = parser.parse_args()
    missing = (missing_peers() & {"torch"}) | set(options.without)
    todo = [case for case in cases([int(size) for size in options.sizes]) if options.losses in case.title]
    table = [measure(case, options.seconds, options.most, missing) for case in tqdm(todo, disable=None)]
    header = ["loss", "labels", "batch", "width", "ms", "× optax", "× torch", "MB: ours", "MB: optax"]
    show(header, table)
    print(machine(missing, ("torch",)))


if __name__ == "__main__":
    main()
