"""Train two towers to match the halves of an image, with the pairwise sigmoid loss.

A positive pair is the upper and the lower half of one of scikit-learn's handwritten digits, so the pairs need no
labels. The halves share the digit, the thickness of the pen and the slant. Each half has its own tower. The loss pairs
every upper half of a batch with every lower half: the pairs of the same image are positive, all others are negative.
The table has the accuracy of retrieval on held-out images, before and after the training. The plot shows the training
loss, the retrieval and the logits of positive and negative pairs.

Run it with: python examples/siglip.py
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from jaxbce import sigmoid_contrastive_loss

BATCH_SIZE = 400


class Tower(nnx.Module):
    """A network from half an image to a unit feature vector."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(32, 128, rngs=rngs)
        self.output = nnx.Linear(128, 32, rngs=rngs)

    def __call__(self, halves):
        """Compute features of shape [N, 32]."""
        features = self.output(nnx.relu(self.hidden(halves)))
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


class TwoTowers(nnx.Module):
    """A tower for each half, with logit scale and bias; both have the initial values of the SigLIP paper."""

    def __init__(self, rngs: nnx.Rngs):
        self.upper, self.lower = Tower(rngs), Tower(rngs)
        self.log_scale = nnx.Param(jnp.log(10.0))
        self.bias = nnx.Param(jnp.float32(-10.0))

    def __call__(self, upper, lower):
        """Compute the features and the options of the loss."""
        options = {"logit_scale": jnp.exp(self.log_scale[...]), "logit_bias": self.bias[...]}
        return (self.upper(upper), self.lower(lower)), options


def loss_fn(model, upper, lower):
    """Compute the loss of all pairs, without materialising their logits [B, B]."""
    features, options = model(upper, lower)
    return sigmoid_contrastive_loss(*features, **options)


@nnx.jit
def train_step(model, optimizer, upper, lower):
    """Update the model once, in place."""
    loss, grads = nnx.value_and_grad(loss_fn)(model, upper, lower)
    optimizer.update(model, grads)
    return loss


def rank_pairs(model, upper, lower) -> tuple[np.ndarray, np.ndarray]:
    """Rank the lower half of each upper half among all lower halves, 1 is best; return the logits of all pairs too."""
    (x, y), options = model(upper, lower)
    logits = np.asarray(options["logit_scale"] * (x @ y.T) + options["logit_bias"])
    return (logits >= np.diag(logits)[:, None]).sum(axis=1), logits


def draw(losses: list[float], ranks: dict[str, np.ndarray], logits: np.ndarray, path: Path) -> None:
    """Draw the training loss, the retrieval, and the logits of the trained model."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    training, retrieval, histogram = figure.subplots(1, 3)
    training.plot(losses)
    training.set(title="Training", xlabel="step", ylabel="loss of a batch", yscale="log")
    cutoffs = np.arange(1, 101)
    for name, rank in ranks.items():
        retrieval.plot(cutoffs, [(rank <= cutoff).mean() for cutoff in cutoffs], label=name)
    retrieval.set(title="Retrieval among held-out halves", xlabel="k", ylabel="recall at k", ylim=(0, 1))
    positive = np.eye(len(logits), dtype=bool)
    for name, values in {"positive pairs": logits[positive], "negative pairs": logits[~positive]}.items():
        histogram.hist(values, 60, density=True, alpha=0.6, label=name)
    histogram.set(title="Logits of held-out pairs", xlabel="logit", ylabel="density")
    for axes in (retrieval, histogram):
        axes.legend(fontsize="small")
    for axes in (training, retrieval, histogram):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train the towers, rank before and after, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot")
    options = parser.parse_args()

    images = (load_digits().data / 16).astype(np.float32)
    train, test = train_test_split(images, test_size=1 / 3, random_state=options.seed)
    halves = test[:, :32], test[:, 32:]
    model = TwoTowers(nnx.Rngs(options.seed))
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)
    ranks = {"before": rank_pairs(model, *halves)[0]}

    rng, losses = np.random.default_rng(options.seed), []
    for _ in tqdm(range(options.steps), desc="training", unit="step"):
        batch = rng.choice(train, BATCH_SIZE, replace=False)
        losses.append(float(train_step(model, optimizer, batch[:, :32], batch[:, 32:])))
    ranks["after"], logits = rank_pairs(model, *halves)

    print(f"{len(train)} pairs to train on: loss {losses[0]:.2f} at first, {losses[-1]:.2f} at the end")
    print(f"retrieval among {len(test)} held-out images: recall at 1 and at 10, and median rank")
    print(f"{'':<10}{'at 1':>8}{'at 10':>10}{'median rank':>15}")
    print(f"{'chance':<10}{1 / len(test):8.1%}{10 / len(test):10.1%}{len(test) / 2:15.0f}")
    for name, rank in ranks.items():
        print(f"{name:<10}{(rank == 1).mean():8.1%}{(rank <= 10).mean():10.1%}{np.median(rank):15.0f}")
    options.out.mkdir(parents=True, exist_ok=True)
    draw(losses, ranks, logits, options.out / "siglip.png")
    print(f"plot: {options.out / 'siglip.png'}")


if __name__ == "__main__":
    main()
