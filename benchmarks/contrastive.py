"""Measure time and memory of the pairwise loss beside the loss on full logits: two Markdown tables.

``python benchmarks/contrastive.py`` measures value and gradients of features, scale and bias, in turns as
`benchmarks/speed.py` does. A ratio is the median over the turns of time of jaxbce ÷ time of the other, with the
quartiles beside it: below 1 jaxbce is faster. "naive" is the common form of the loss on logits [B, B], in JAX under
`jit`; "torch" is the same in PyTorch. "checkpoint" is autodiff through the tiles of jaxbce under `jax.checkpoint`: the
same memory without a derivative rule.

The second table has a ring of simulated devices with a fixed number of examples on each, beside the naive loss that
XLA partitions over the same sharded arrays. Its memory is the compiler's count; nothing is run.
"""

import argparse
import functools
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from speed import Run, machine, missing_peers, ratio, show, take_turns
from tqdm import tqdm

from jaxbce import sigmoid_contrastive_loss

FEATURES = 256
EVERY = (0, 1, 2, 3)  # argnums of x, y, scale and bias


def _ours(x: Any, y: Any, scale: Any, bias: Any, **options: Any) -> Any:
    return sigmoid_contrastive_loss(x, y, logit_scale=scale, logit_bias=bias, **options)


def _checkpoint(x: Any, y: Any, scale: Any, bias: Any) -> Any:
    return _ours(x, y, scale, bias, reduction="none").mean()


def _naive(x: Any, y: Any, scale: Any, bias: Any) -> Any:
    """Compute the loss on full logits, as in the appendix of the SigLIP paper."""
    size = len(x)
    signs = 2 * jnp.eye(size, dtype=x.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * (scale * (x @ y.T) + bias))) / size


def _torch_run(arrays: list[np.ndarray]) -> Run:
    import torch

    inputs = [torch.tensor(array, requires_grad=True) for array in arrays]

    def run() -> Any:
        x, y, scale, bias = inputs
        signs = 2 * torch.eye(len(x)) - 1
        loss = -torch.nn.functional.logsigmoid(signs * (scale * (x @ y.T) + bias)).sum() / len(x)
        return torch.autograd.grad(loss, inputs)

    return run


def _arrays(size: int) -> list[np.ndarray]:
    """Draw correlated pairs of unit features; scale and bias have the initial values of the SigLIP paper."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, FEATURES), np.float32)
    y = x + rng.standard_normal((size, FEATURES), np.float32)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    return [*unit, np.float32(10), np.float32(-10)]


def _step(loss: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(jax.value_and_grad(loss, EVERY)).lower(*arguments).compile()


def _megabytes(compiled: Any) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def _row(size: int, largest: int, seconds: float, missing: set[str]) -> list[str]:
    arrays = _arrays(size)
    placed = [jnp.asarray(array) for array in arrays]
    steps = {"jaxbce": _step(_ours, *placed), "checkpoint": _step(_checkpoint, *placed)}
    memory = [f"{_megabytes(steps['jaxbce']):.1f}", f"{_megabytes(_step(_naive, *placed)):,.0f}"]
    if size <= largest:
        steps["naive"] = _step(_naive, *placed)
    runs: dict[str, Run] = {
        name: lambda step=step: jax.block_until_ready(step(*placed)) for name, step in steps.items()
    }
    if "torch" not in missing and size <= largest:
        runs["torch"] = _torch_run(arrays)
    times = take_turns(runs, seconds)

    own = f"{np.median(times['jaxbce']) * 1e3:.3g}"
    return [f"{size:,}", own, *(ratio(times, name) for name in ("naive", "torch", "checkpoint")), *memory]


def _ring_rows(numbers: list[int], examples: int) -> list[list[str]]:
    """Compile the rows of the ring, in a subprocess: simulated devices would share the threads of the timed calls."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(numbers))
    return [_ring_row(devices, examples) for devices in tqdm(numbers, disable=None)]


def _ring_row(devices: int, examples: int) -> list[str]:
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    sharded, replicated = PartitionSpec("data"), PartitionSpec()
    ring = jax.shard_map(
        functools.partial(_ours, axis_name="data"),
        mesh=mesh,
        in_specs=(sharded, sharded, replicated, replicated),
        out_specs=replicated,
    )
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in [((devices * examples, FEATURES), sharded)] * 2 + [((), replicated)] * 2
    ]
    memory = [f"{_megabytes(_step(loss, *shapes)):.1f}" for loss in (ring, _naive)]
    return [str(devices), f"{devices * examples:,}", *memory]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Measure time and memory of the pairwise loss beside full logits.")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_024, 2_048, 4_096, 8_192, 16_384])
    parser.add_argument("--largest", type=float, default=math.inf, help="largest B of naive and torch")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for the turns of a row")
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="numbers of devices of the ring"
    )
    parser.add_argument("--examples", type=int, default=1_024, help="number of examples on each device")
    parser.add_argument("--without", nargs="*", default=[], choices=["torch"], help="leave these peers out")
    options = parser.parse_args()
    missing = (missing_peers() & {"torch"}) | set(options.without)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        ring = executor.submit(_ring_rows, options.devices, options.examples).result()
    rows = [_row(size, options.largest, options.seconds, missing) for size in tqdm(options.sizes, disable=None)]
    show(["B", "ms", "× naive", "× torch", "× checkpoint", "temp MB", "naive, temp MB"], rows)
    show(["devices", "B", "ring: temp MB per device", "naive, partitioned: temp MB per device"], ring)
    print(machine(missing, ("torch",)))


if __name__ == "__main__":
    main()
