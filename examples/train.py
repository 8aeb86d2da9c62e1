"""Train a classifier on imbalanced data, with and without `pos_weight`.

The task is "is this digit an 8?" on scikit-learn's handwritten digits: one in ten is an 8. A small Flax model is
trained twice with Optax: on the plain loss, and with `pos_weight` = negatives / positives, so that both classes have
the same total weight. The table shows the effect: recall rises, and precision falls. The plot shows both trainings, and
the loss and its gradient against the logit.

Run it with: python examples/train.py
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, precision_score, recall_score
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from jaxbce import binary_cross_entropy_with_logits

BATCH_SIZE = 64


class Classifier(nnx.Module):
    """A network with one hidden layer and one logit."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 16, rngs=rngs)
        self.output = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, images):
        """Compute logits of shape [N], the shape of the labels; with [N, 1] the loss raises a ValueError."""
        return self.output(nnx.relu(self.hidden(images)))[:, 0]


def loss_fn(model, images, labels, pos_weight, mask=None):
    """Compute the mean loss over the unmasked examples; the divisor is their number, not the batch size."""
    return binary_cross_entropy_with_logits(model(images), labels, pos_weight=pos_weight, where=mask)


@nnx.jit
def train_step(model, optimizer, images, labels, pos_weight, mask):
    """Update the model once, in place."""
    grads = nnx.grad(loss_fn)(model, images, labels, pos_weight, mask)
    optimizer.update(model, grads)


def shuffled_batches(images, labels, rng: np.random.Generator) -> Iterator[tuple]:
    """Yield batches of one shape, so that the step compiles once; pad the last batch and mask its padding."""
    order = rng.permutation(len(labels))
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        padding = BATCH_SIZE - len(chosen)
        mask = np.arange(BATCH_SIZE) < len(chosen)
        yield np.pad(images[chosen], ((0, padding), (0, 0))), np.pad(labels[chosen], (0, padding)), mask


def train(images, labels, pos_weight: float, epochs: int, seed: int) -> tuple[Classifier, list[float]]:
    """Train a new model; return the model, and the loss on all training data after each epoch."""
    rng = np.random.default_rng(seed)
    model = Classifier(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)
    full_loss = nnx.jit(loss_fn)
    history = []
    for _ in tqdm(range(epochs), desc=f"pos_weight = {pos_weight:.1f}", unit="epoch"):
        for batch_images, batch_labels, mask in shuffled_batches(images, labels, rng):
            train_step(model, optimizer, batch_images, batch_labels, pos_weight, mask)
        history.append(float(full_loss(model, images, labels, pos_weight)))
    return model, history


def draw(histories: dict[float, list[float]], path: Path) -> None:
    """Draw the training losses on the left; on the right, the loss and the gradient of one example."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    training, loss, gradient = figure.subplots(1, 3)
    for pos_weight, history in histories.items():
        training.plot(range(1, len(history) + 1), history, label=f"pos_weight = {pos_weight:.1f}")
    logits = jnp.linspace(-8, 8, 321)
    curves = [(1, w, f"y = 1, pos_weight = {w:.1f}") for w in histories] + [(0, 1.0, "y = 0, any pos_weight")]
    for label, pos_weight, name in curves:
        cost = functools.partial(binary_cross_entropy_with_logits, labels=label, pos_weight=pos_weight)
        losses, slopes = jax.vmap(jax.value_and_grad(cost))(logits)
        loss.plot(logits, losses, label=name)
        gradient.plot(logits, slopes, label=name)
    training.set(title="Training", xlabel="epoch", ylabel="training loss, with its own pos_weight", yscale="log")
    loss.set(title="Loss of one example", xlabel="logit", ylabel="loss", ylim=(0, 15))
    gradient.set(title="Gradient of one example", xlabel="logit", ylabel="∂ loss / ∂ logit")
    for axes in (training, loss, gradient):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train twice, compare on held-out data, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot")
    options = parser.parse_args()

    images, digits = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), (digits == 8).astype(np.int32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.4, stratify=labels, random_state=options.seed
    )
    negatives, positives = np.bincount(train_labels)
    print(f"training data: {positives} positive, {negatives} negative: pos_weight = {negatives / positives:.1f}")

    histories, rows = {}, []
    for pos_weight in (1.0, float(negatives / positives)):
        model, histories[pos_weight] = train(train_images, train_labels, pos_weight, options.epochs, options.seed)
        logits = np.asarray(model(test_images))
        found = logits > 0  # a logit of 0 is a probability of 1/2
        scores = (
            float(binary_cross_entropy_with_logits(logits, test_labels)),  # without pos_weight in both rows
            average_precision_score(test_labels, logits),
            precision_score(test_labels, found, zero_division=0),
            recall_score(test_labels, found),
        )
        rows.append((f"{pos_weight:.1f}", *(f"{score:.3f}" for score in scores)))

    print(f"test data: {(test_labels == 1).sum()} positive, {(test_labels == 0).sum()} negative; threshold 0.5")
    for row in [("pos_weight", "loss", "average precision", "precision", "recall"), *rows]:
        print("{:>10}{:>8}{:>19}{:>11}{:>8}".format(*row))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(histories, options.out / "train.png")
    print(f"plot: {options.out / 'train.png'}")


if __name__ == "__main__":
    main()
