"""Train data-parallel in several processes, and get what one process gets.

This is how JAX runs on more than one machine: the same program on each, `jax.distributed.initialize` to join them, and
arrays that lie over the devices of all. Here the processes are on one machine and talk over its loopback. Each loads
its own part of scikit-learn's handwritten digits, of which the later have fewer labels that are known. The step is the
one for a single device, under `jit`: the compiler puts the sums over processes where the loss needs them, and the loss
that each process sees is that of the whole batch. The script starts the processes itself, then trains once more alone,
and compares.

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
    """Images, ten labels each, and which of these are known: the later in the data, the fewer."""
    images, digits = load_digits(return_X_y=True)
    images, digits = images[:1796], digits[:1796]  # a number that four processes can share
    known = np.random.default_rng(0).random((1796, 10)) < np.linspace(1, 0.1, 1796)[:, None]
    labels = np.where(known, np.eye(10, dtype=int)[digits], -1)
    return (images[part] / 16).astype(np.float32), labels[part].astype(np.int32), known[part]


def loss_fn(params, images, labels, known):
    """The mean over all labels that are known, wherever they lie."""
    return binary_cross_entropy_with_logits(images @ params["kernel"] + params["bias"], labels, where=known)


def train(batch, steps: int) -> list[float]:
    """The loss of each step."""
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
    """One of the processes: join the others, load a part, train, print the losses."""
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
    """What each of the processes printed. If one fails, or time is up, all are ended."""
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
    """Train in several processes and in one, and compare the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2, 4))
    parser.add_argument("--join", metavar="ADDRESS", help="of a worker: where to meet the others")
    parser.add_argument("--process", type=int, help="of a worker: its number")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # the processes would quarrel over an accelerator
    if options.join:
        work(options.join, options.processes, options.process, options.steps)
        return

    results = launch(options.processes, options.steps)
    alone = np.array(train(load(slice(None)), options.steps))
    for result in results:
        losses = np.array(result["losses"])
        print(
            f"process {result['process']}: {result['known']} known labels, loss {losses[0]:.6f} at first, "
            f"{losses[-1]:.6f} in the end; off the loss of one process by at most {abs(losses / alone - 1).max():.1e}"
        )


if __name__ == "__main__":
    main()
