"""Train data-parallel in several processes, and match the losses of one process.

JAX runs in the same way on several machines: the same program on each, `jax.distributed.initialize` to connect them,
and arrays sharded over all devices. Here the processes share one machine and communicate over its loopback. Each
process loads its own part of scikit-learn's handwritten digits, and later parts have fewer known labels. The step is
that of a single device, under `jit`: the compiler inserts the collectives, and every process sees the loss of the whole
batch. The script starts the processes itself, trains once more in one process, and compares the losses.

Run it with: python examples/multi_process.py
"""

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxbce import binary_cross_entropy_with_logits


def load(part: slice) -> tuple[np.ndarray, ...]:
    """Load images, ten labels each, and the mask of known labels; later images have fewer known labels."""
    images, digits = load_digits(return_X_y=True)
    images, digits = images[:1796], digits[:1796]  # keep a multiple of 4, the largest number of processes
    known = np.random.default_rng(0).random((1796, 10)) < np.linspace(1, 0.1, 1796)[:, None]
    labels = np.where(known, np.eye(10, dtype=int)[digits], -1)
    return (images[part] / 16).astype(np.float32), labels[part].astype(np.int32), known[part]


def loss_fn(params, images, labels, known):
    """Compute the mean over the known labels of all processes."""
    return binary_cross_entropy_with_logits(images @ params["kernel"] + params["bias"], labels, where=known)


def train(batch, steps: int) -> list[float]:
    """Train; return the loss of each step."""
    params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, *batch):
        value, gradient = jax.value_and_grad(loss_fn)(params, *batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in tqdm(range(steps), unit="step", disable=jax.process_index() > 0):
        params, state, value = step(params, state, *batch)
        losses.append(float(value))
    return losses


def work(address: str, processes: int, process: int, steps: int) -> None:
    """Run a worker process: join the others, load a part of the data, train, print the losses."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, process, initialization_timeout=60)
    size = 1796 // processes
    part = load(slice(process * size, (process + 1) * size))
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batch = [jax.make_array_from_process_local_data(sharding, array) for array in part]
    losses = train(batch, steps)
    print(json.dumps({"process": process, "known": int(part[2].sum()), "losses": losses}))
    jax.distributed.shutdown()


def launch(processes: int, steps: int, seconds: float = 300) -> list[dict]:
    """Start the worker processes and return their results. If one fails or times out, kill all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as files:
        logs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(processes)]
        command = [sys.executable, __file__, "--steps", str(steps), "--processes", str(processes), "--join", address]
        workers = [
            subprocess.Popen([*command, "--process", str(process)], stdout=log, stderr=None if process == 0 else log)
            for process, log in enumerate(logs)
        ]
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not any(codes := [worker.poll() for worker in workers]):
                if None not in codes:
                    break
                time.sleep(0.1)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        for log in logs:
            log.seek(0)
        printed = [log.read() for log in logs]
    codes = [worker.returncode for worker in workers]
    if any(codes):
        raise SystemExit(f"the processes ended with {codes}:\n" + "\n".join(printed))
    return [json.loads(next(line for line in text.splitlines() if line.startswith("{"))) for text in printed]


def main() -> None:
    """Train in several processes and in one process, and compare the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2, 4))
    parser.add_argument("--join", metavar="ADDRESS", help="for a worker: address of the coordinator")
    parser.add_argument("--process", type=int, help="for a worker: its index")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # avoid an accelerator, which serves one process at a time
    if options.join:
        work(options.join, options.processes, options.process, options.steps)
        return

    results = launch(options.processes, options.steps)
    alone = np.array(train(load(slice(None)), options.steps))
    for result in results:
        losses = np.array(result["losses"])
        print(
            f"process {result['process']}: {result['known']} known labels, loss {losses[0]:.6f} at first, "
            f"{losses[-1]:.6f} at the end; relative error against one process: {abs(losses / alone - 1).max():.1e}"
        )


if __name__ == "__main__":
    main()
