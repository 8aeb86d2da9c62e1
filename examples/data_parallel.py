"""Train on eight devices, and get what one device gets.

scikit-learn's handwritten digits with ten labels each ("is it a 3?"), of which some are known and some not. Each
device holds an eighth of the batch, and what is known differs: almost everything on the first, next to nothing on the
last. The loss of the batch is Σ of all known losses / number of all known labels. Two ways lead to it:

- arrays with a `NamedSharding`, and a step under `jit` as for one device: the compiler sees to the sums;
- `jax.shard_map`, in which a step sees one device's part: `Average.psum` adds totals and counts, and divides once.

A third is often written, and wrong: each device takes its mean, and `pmean` the mean of the means. A known label on the
last device then counts many times as much as one on the first. The devices are simulated: the processor plays eight.

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
OVER, SAME = PartitionSpec("data"), PartitionSpec()  # split over the devices; the same on each


def predict(params, images):
    """Ten logits."""
    return images @ params["kernel"] + params["bias"]


def loss_fn(params, images, labels, known):
    """The step's loss as for one device."""
    return binary_cross_entropy_with_logits(predict(params, images), labels, where=known)


def average_loss(params, images, labels, known):
    """Inside `shard_map`: this device's total and count, added to those of the others."""
    losses = binary_cross_entropy_with_logits(predict(params, images), labels, where=known, reduction="none")
    return Average.of(losses, where=known).psum("data").value


def mean_of_means(params, images, labels, known):
    """Inside `shard_map`, and wrong: this device's mean, averaged with those of the others."""
    return jax.lax.pmean(loss_fn(params, images, labels, known), "data")


def train(loss, batch, steps: int, progress: tqdm):
    """The losses of the steps, and the parameters."""
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
    """Train four times on the same batch, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Before JAX first looks for devices.
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
    sharded = jax.device_put(batch, NamedSharding(mesh, OVER))

    def mapped(loss):
        return jax.shard_map(loss, mesh=mesh, in_specs=(SAME, OVER, OVER, OVER), out_specs=SAME)

    runs = {
        "one device": (loss_fn, batch),
        "NamedSharding and jit": (loss_fn, sharded),
        "shard_map and Average.psum": (mapped(average_loss), sharded),
        "mean of means (wrong)": (mapped(mean_of_means), sharded),
    }
    with tqdm(total=len(runs) * options.steps, desc="training", unit="step") as progress:
        results = {name: train(*run, options.steps, progress) for name, run in runs.items()}

    losses, params = results["one device"]
    print(f"{'':<28}{'first loss':>12}{'last loss':>12}{'off by at most':>17}{'parameters off by':>20}")
    for name, (own, trained) in results.items():
        off = abs(own / losses - 1).max()
        apart = max(float(abs(a - b).max()) for a, b in zip(trained.values(), params.values(), strict=True))
        print(f"{name:<28}{own[0]:12.6f}{own[-1]:12.6f}{off:17.1e}{apart:20.1e}")


if __name__ == "__main__":
    main()
