"""Data-parallel steps of the losses in `tests.losses` and of the contrastive one, over one process or several.

``python -m tests.parallel ADDRESS PROCESSES PROCESS`` is one process of several, and prints its results as JSON.
"""

import contextlib
import functools
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbce import Average, sigmoid_contrastive_loss, sparse_binary_cross_entropy_with_logits
from tests.losses import FAMILIES, Loss

DEVICES = 8
OVER, SAME = PartitionSpec("data"), PartitionSpec()
PARAMS = {"shift": np.float64(0.1), "slope": np.float64(0.7)}

Step = Callable[..., tuple[Any, Any]]  # (params, *batch) -> the loss and its gradient


def batch(row: Loss) -> list[np.ndarray]:
    """Features, labels, weight and mask [32, 3]; mask and weight differ in total from one eighth to the next."""
    rng, shape = np.random.default_rng(9), (4 * DEVICES, 3)
    part = np.arange(4 * DEVICES)[:, None] // 4
    # Of the last eighth nothing is included.
    mask = (rng.random(shape) < 0.9 - part / DEVICES) & (part < DEVICES - 1)
    return [row.draw(rng, shape), rng.integers(0, 2, shape), rng.uniform(0.5, 1.5, shape) * (DEVICES - part), mask]


def predictions(params: dict[str, Any], features: Any) -> Any:
    return features * params["slope"] + params["shift"]


def whole(row: Loss, reduction: str) -> Step:
    """The step as one writes it for one device; the compiler spreads it over sharded arrays."""

    def loss(params, features, labels, weight, mask):
        return row(predictions(params, features), labels, weight=weight, where=mask, reduction=reduction)

    return jax.value_and_grad(loss)


def mapped(row: Loss, reduction: str, mesh: Mesh) -> Step:
    """The step inside `shard_map`, on the averages of the devices."""

    def loss(params, features, labels, weight, mask):
        x = predictions(params, features)
        if reduction == "weighted_mean":
            losses = Average.of(row(x, labels, reduction="none"), weight=weight, where=mask)
        else:
            losses = Average.of(row(x, labels, weight=weight, reduction="none"), where=mask)
        return losses.psum("data").value

    specs = (SAME, OVER, OVER, OVER, OVER)
    return jax.shard_map(jax.value_and_grad(loss), mesh=mesh, in_specs=specs, out_specs=SAME)


def reductions(row: Loss) -> tuple[str, ...]:
    """One row has both, since what an average does with a weight is the same for all."""
    return ("mean", "weighted_mean") if row is FAMILIES[0] else ("mean",)


def pairwise(axis_name: str | None = None) -> Step:
    def loss(params, x, y):
        options = {"logit_scale": params["slope"], "logit_bias": params["shift"], "axis_name": axis_name}
        return sigmoid_contrastive_loss(x * params["slope"], y, **options)

    return jax.value_and_grad(loss)


def eager(place: Callable[[np.ndarray], Any]) -> Any:
    """A loss outside `jit`, which reads its arguments: as many indices as labels, which might be dense labels."""
    features, labels = batch(FAMILIES[0])[:2]
    return sparse_binary_cross_entropy_with_logits(place(features), place(np.where(labels, np.arange(3), -1)))


def results(place: Callable[[np.ndarray, PartitionSpec], Any], mesh: Mesh) -> dict[str, list[float]]:
    """By loss and way of running it, the loss and its gradient by shift and slope."""

    def numbers(step: Step, *batch: np.ndarray) -> list[float]:
        params = jax.tree.map(functools.partial(place, spec=SAME), PARAMS)
        outcome = jax.jit(step)(params, *(place(array, spec=OVER) for array in batch))
        return [float(np.asarray(leaf.addressable_data(0))) for leaf in jax.tree.leaves(outcome)]

    found = {}
    for row in FAMILIES:
        for reduction in reductions(row):
            found[f"{row.name} {reduction}, sharded"] = numbers(whole(row, reduction), *batch(row))
            found[f"{row.name} {reduction}, mapped"] = numbers(mapped(row, reduction, mesh), *batch(row))
    ring = jax.shard_map(pairwise("data"), mesh=mesh, in_specs=(SAME, OVER, OVER), out_specs=SAME)
    found["pairwise, mapped"] = numbers(ring, *batch(FAMILIES[0])[:3:2])
    found["sparse, eager"] = [float(np.asarray(eager(functools.partial(place, spec=OVER)).addressable_data(0)))]
    return found


def over_devices() -> dict[str, list[float]]:
    """The results over all devices, of this process and of those that it was joined with."""
    mesh = Mesh(np.asarray(jax.devices("cpu")), ("data",))

    def place(array: np.ndarray, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(np.shape(array), sharding, lambda index: jnp.asarray(array)[index])

    return results(place, mesh)


def launch(processes: int, seconds: float = 300) -> list[dict[str, list[float]]]:
    """The results of each of several processes. When one fails, or time is up, none is left behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as files:
        logs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(processes)]
        command = [sys.executable, "-m", "tests.parallel", address, str(processes)]
        workers = [
            subprocess.Popen([*command, str(process)], stdout=log, stderr=subprocess.STDOUT)
            for process, log in enumerate(logs)
        ]
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not any(codes := [worker.poll() for worker in workers]):
                if None not in codes:
                    break
                time.sleep(0.05)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        for log in logs:
            log.seek(0)
        printed = [log.read() for log in logs]
    codes = [worker.returncode for worker in workers]
    if any(codes):
        raise RuntimeError(f"the processes ended with {codes}:\n" + "\n".join(printed))
    return [json.loads(text[text.index("{") :]) for text in printed]


def main() -> None:
    address, processes, process = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", DEVICES // processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, process, initialization_timeout=60)
    assert len(jax.devices("cpu")) == DEVICES
    print(json.dumps(over_devices()))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
