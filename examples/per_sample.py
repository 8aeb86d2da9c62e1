"""Find mislabelled examples by per-sample losses and per-sample gradients.

A linear model with one sigmoid per digit is trained on scikit-learn's handwritten digits. Beforehand 5 % of the labels
are replaced by a wrong digit, drawn with a fixed seed. After the training most samples with the largest losses are
mislabelled.

Run it with: python examples/per_sample.py
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tqdm import tqdm

from jaxbce import binary_cross_entropy_with_logits

# Sum the ten losses of an image. Bind the option here: `jax.vmap(f)(..., reduction="sum")` would map over the string,
# and raise.
sum_of_losses = functools.partial(binary_cross_entropy_with_logits, reduction="sum")


def sample_loss(params, image, targets):
    """Compute the loss of one image, [64] pixels and [10] targets; `vmap` adds the batch axis."""
    return sum_of_losses(image @ params["kernel"] + params["bias"], targets)


def train(images, targets, steps: int):
    """Train a linear model on all samples; it has too few parameters to memorise single images."""
    params = {"kernel": jnp.zeros((64, 10), jnp.float32), "bias": jnp.zeros(10, jnp.float32)}
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    def mean_loss(params):
        return jax.vmap(sample_loss, in_axes=(None, 0, 0))(params, images, targets).mean()

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(mean_loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in tqdm(range(steps), desc="training", unit="step"):
        params, state = step(params, state)
    return params


@jax.jit
def hardness(params, images, targets):
    """Compute the loss of each sample, and the norm of its gradient with respect to the parameters."""
    losses = jax.vmap(sample_loss, in_axes=(None, 0, 0))(params, images, targets)
    grads = jax.vmap(jax.grad(sample_loss), in_axes=(None, 0, 0))(params, images, targets)
    norms = jnp.sqrt(jnp.square(grads["kernel"]).sum(axis=(1, 2)) + jnp.square(grads["bias"]).sum(axis=1))
    return losses, norms


def draw(images, titles: list[str], rows: dict[str, np.ndarray], path: Path) -> None:
    """Draw the first ten images of each row, under its heading."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    for part, (heading, samples) in zip(figure.subfigures(len(rows)), rows.items(), strict=True):
        part.suptitle(heading)
        for axes, i in zip(part.subplots(1, 10), samples[:10], strict=True):
            axes.imshow(images[i].reshape(8, 8), cmap="gray_r")
            axes.set_title(titles[i], fontsize="small")
            axes.axis("off")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Replace labels, train the model, rank the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="seed of the wrong labels")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot")
    options = parser.parse_args()

    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    rng = np.random.default_rng(options.seed)
    flipped = np.zeros(len(digits), bool)
    flipped[rng.choice(len(digits), len(digits) // 20, replace=False)] = True
    # Add 1 to 9 modulo 10, which always gives another digit.
    labels = np.where(flipped, (digits + rng.integers(1, 10, len(digits))) % 10, digits)
    targets = np.eye(10, dtype=bool)[labels]
    number = int(flipped.sum())
    print(f"{number} of {len(labels)} labels are made wrong (seed {options.seed})")

    params = train(images, targets, options.steps)
    losses, norms = map(np.asarray, hardness(params, images, targets))

    hardest = np.argsort(-losses)
    print("rank  sample    loss  gradient norm  label  digit  made wrong")
    for rank, i in enumerate(hardest[:10], start=1):
        made_wrong = "yes" if flipped[i] else "no"
        print(f"{rank:4}{i:8}{losses[i]:8.2f}{norms[i]:15.2f}{labels[i]:7}{digits[i]:7}{made_wrong:>12}")
    print(f"of the {number} wrong labels, found among the {number} hardest samples:")
    for name, score in (("loss", losses), ("gradient norm", norms)):
        print(f"  {'by ' + name:<16} {flipped[np.argsort(-score)[:number]].mean():7.1%}")
    print(f"  {'by chance':<16} {flipped.mean():7.1%}")

    options.out.mkdir(parents=True, exist_ok=True)
    rows = {"Hardest of all": hardest, "Hardest of those that kept their own label": hardest[~flipped[hardest]]}
    titles = [f"label {label}, loss {loss:.1f}" for label, loss in zip(labels, losses, strict=True)]
    draw(images, titles, rows, options.out / "per_sample.png")
    print(f"plot: {options.out / 'per_sample.png'}")


if __name__ == "__main__":
    main()
