"""Train on eight devices, and match the losses and parameters of one device.

The data are scikit-learn's handwritten digits with ten binary labels each ("is it a 3?"), some of them unknown. Each
device holds a shard of the batch, an eighth of the examples. The known share of the labels differs from 95 % on the
first device to 0.5 % on the last. The loss of the batch is Σ of the losses of known labels / number of known labels.
Two programs compute it:

- arrays with a `NamedSharding`, and the step for one device under `jit`: the compiler inserts the collectives;
- `jax.shard_map`, under which a step sees one shard: `Average.psum` sums totals and counts, then divides once.

A third program is common, and wrong: `pmean` of the means of the devices. A known label on the last device then weighs
many times as much as a known label on the first. The eight devices are simulated on the CPU.

Run it with: python examples/data_parallel.py
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxbce import Average, binary_cross_entropy_with_logits

DEVICES = 8
SHARDED, REPLICATED = PartitionSpec("data"), PartitionSpec()


def predict(params, images):
    """Compute ten logits per image."""
    return images @ params["kernel"] + params["bias"]


def loss_fn(params, images, labels, known):
    """Compute the mean over the known labels, as on one device."""
    return binary_cross_entropy_with_logits(predict(params, images), labels, where=known)


def average_loss(params, images, labels, known):
    """Compute the mean inside `shard_map`: sum totals and counts over the devices, then divide."""
    losses = binary_cross_entropy_with_logits(predict(params, images), labels, where=known, reduction="none")
    return Average.of(losses, where=known).psum("data").value


def mean_of_means(params, images, labels, known):
    """Compute the mean of the devices' means inside `shard_map`, which is not the mean of the batch."""
    return jax.lax.pmean(loss_fn(params, images, labels, known), "data")


def train(loss, batch, steps: int, progress: tqdm):
    """Train; return the loss of each step, and the parameters."""
    params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, *batch):
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state, *batch)
        losses.append(float(value))
        progress.update()
    return np.array(losses), params


def main() -> None:
    """Train four times on the same batch, and compare losses and parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Configure the devices before JAX creates its backend.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)

    images, digits = load_digits(return_X_y=True)
    size = len(images) // DEVICES * DEVICES
    images, labels = (images[:size] / 16).astype(np.float32), np.eye(10, dtype=np.int32)[digits[:size]]
    share = np.geomspace(0.95, 0.005, DEVICES).repeat(size // DEVICES)
    known = np.random.default_rng(options.seed).random(labels.shape) < share[:, None]
    batch = images, np.where(known, labels, -1), known
    counts = known.reshape(DEVICES, -1).sum(axis=1)
    print(f"known labels by device: {' '.join(map(str, counts))}")

    mesh = Mesh(np.asarray(jax.devices()[:DEVICES]), ("data",))
    sharded = jax.device_put(batch, NamedSharding(mesh, SHARDED))

    def mapped(loss):
        return jax.shard_map(loss, mesh=mesh, in_specs=(REPLICATED, SHARDED, SHARDED, SHARDED), out_specs=REPLICATED)

    runs = {
        "one device": (loss_fn, batch),
        "NamedSharding and jit": (loss_fn, sharded),
        "shard_map and Average.psum": (mapped(average_loss), sharded),
        "mean of means (wrong)": (mapped(mean_of_means), sharded),
    }
    with tqdm(total=len(runs) * options.steps, desc="training", unit="step") as progress:
        results = {name: train(*run, options.steps, progress) for name, run in runs.items()}

    losses, params = results["one device"]
    print(f"{'':<28}{'first loss':>12}{'last loss':>12}{'relative error':>17}{'parameter error':>20}")
    for name, (values, trained) in results.items():
        error = abs(values / losses - 1).max()
        difference = max(float(abs(a - b).max()) for a, b in zip(trained.values(), params.values(), strict=True))
        print(f"{name:<28}{values[0]:12.6f}{values[-1]:12.6f}{error:17.1e}{difference:20.1e}")


if __name__ == "__main__":
    main()
