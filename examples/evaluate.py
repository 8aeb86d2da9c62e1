"""Evaluate a model in padded batches of unequal size, and compute the mean loss over all examples.

The model is scikit-learn's logistic regression on its breast-cancer data. The held-out half is split into batches of
unequal size, each padded to the largest, so that one compiled function serves all batches. `Average` sums losses and
counts, and its value is the mean over all examples. The mean of the batch means is another number.

Run it with: python examples/evaluate.py
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from jaxbce import Average, binary_cross_entropy_with_logits


def predict(params, features):
    """Compute one logit per example."""
    kernel, bias = params
    # Set the highest precision, since the default of some accelerators rounds the factors of a matrix product.
    return jnp.dot(features, kernel, precision="highest") + bias


@jax.jit
def evaluate_batch(params, features, labels, mask) -> Average:
    """Compute the average of one batch, to be added to other averages."""
    losses = binary_cross_entropy_with_logits(predict(params, features), labels, where=mask, reduction="none")
    return Average.of(losses, where=mask)


@jax.jit
def evaluate_stack(params, stack) -> Average:
    """Compute the average over stacked batches in one compiled `lax.scan`."""

    def add(average, batch):
        return average + evaluate_batch(params, *batch), None

    empty = Average.of(jnp.zeros(0, jnp.float32))
    return jax.lax.scan(add, empty, stack)[0]


def pad(features, labels, size: int):
    """Pad a batch to `size` rows, and mask the padding. Masked rows may hold any value: here NaN, and labels of -1."""
    missing = size - len(labels)
    return (
        np.pad(features, ((0, missing), (0, 0)), constant_values=np.nan),
        np.pad(labels, (0, missing), constant_values=-1),
        np.arange(size) < len(labels),
    )


def main() -> None:
    """Fit the model, evaluate it in three ways, and compare with the mean over all examples at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and of the batch sizes")
    options = parser.parse_args()

    features, labels = load_breast_cancer(return_X_y=True)
    train_features, features, train_labels, labels = train_test_split(
        features, labels, test_size=0.5, stratify=labels, random_state=options.seed
    )
    scaler = StandardScaler().fit(train_features)
    model = LogisticRegression().fit(scaler.transform(train_features), train_labels)
    features = scaler.transform(features).astype(np.float32)
    params = (model.coef_[0].astype(np.float32), model.intercept_[0].astype(np.float32))

    rng = np.random.default_rng(options.seed)
    cuts = np.sort(rng.choice(np.arange(1, len(labels)), options.batches - 1, replace=False))
    pieces = list(zip(np.split(features, cuts), np.split(labels, cuts), strict=True))
    sizes = [len(piece_labels) for _, piece_labels in pieces]
    batches = [pad(*piece, max(sizes)) for piece in pieces]
    print(f"{len(labels)} examples in batches of {', '.join(map(str, sizes))}")

    averages = [evaluate_batch(params, *batch) for batch in batches]
    stack = tuple(np.stack(arrays) for arrays in zip(*batches, strict=True))
    one_shot = float(binary_cross_entropy_with_logits(predict(params, features), labels))
    results = {
        "Average, summed over batches": float(sum(averages).value),
        "Average, inside lax.scan": float(evaluate_stack(params, stack).value),
        "mean of the batch means (wrong)": float(np.mean([average.value for average in averages])),
    }
    print(f"{'':<32} {'loss':>12} {'relative difference':>20}")
    print(f"{'one-shot mean':<32} {one_shot:12.9f}")
    for name, loss in results.items():
        print(f"{name:<32} {loss:12.9f} {abs(loss / one_shot - 1):20.1e}")

    # Allow float32 rounding, which depends on the order of the sum.
    right = [loss for name, loss in results.items() if name.startswith("Average")]
    if not np.allclose(right, one_shot, rtol=1e-6, atol=0):
        sys.exit("the averages differ from the one-shot mean")


if __name__ == "__main__":
    main()
