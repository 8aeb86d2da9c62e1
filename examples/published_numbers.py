"""Compare jaxbce with the numbers of published PyTorch tutorials.

The first table has the losses of the tutorials' small arrays, to four decimals. The second has the cross-entropy of two
classes, which is a binary cross-entropy, computed in three ways. The last two have the textbook formula, which is right
for small logits, and gives inf, NaN or 0 for large logits. The script exits with status 1 if a number differs in its
last printed digit.

Run it with: python examples/published_numbers.py
"""

import math
import sys

import jax
import jax.numpy as jnp

from jaxbce import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy

THREE_CLASSES = jnp.array([[0.7, -0.1, 0.2], [-1.587, -0.5907, 0.3]])
TWO_CLASSES = jnp.array([[0.7, -0.1], [-1.587, -0.5907]])
SOFT_LOGITS = jnp.array([[-0.5474, 0.2197], [-0.1033, -1.3856], [-0.2582, -0.1918]])
SOFT_LABELS = jnp.array([[0.7867, 0.5643], [0.2240, 0.8263], [0.3244, 0.2778]])
THREE_LOGITS = jnp.array([1.3210, -0.0636, 0.8165])
THREE_LABELS = jnp.array([0, 1, 1])


def published() -> list[tuple[str, str, jax.Array]]:
    """Return the name of each number, its published value, and its value in jaxbce."""
    indices = jnp.array([1, 2])
    one_hot = jax.nn.one_hot(indices, 3)
    return [
        ("three classes: cross-entropy", "0.9833", cross_entropy(THREE_CLASSES, indices)),
        ("  binary, softmax against one-hot", "0.5649", binary_cross_entropy(jax.nn.softmax(THREE_CLASSES), one_hot)),
        ("  binary, logits against one-hot", "0.6378", binary_cross_entropy_with_logits(THREE_CLASSES, one_hot)),
        ("a discriminator on two fakes", "0.9687", binary_cross_entropy_with_logits([1.2, -0.5], 0)),
        ("soft labels: logits", "0.8196", binary_cross_entropy_with_logits(SOFT_LOGITS, SOFT_LABELS)),
        ("  probabilities", "0.8196", binary_cross_entropy(jax.nn.sigmoid(SOFT_LOGITS), SOFT_LABELS)),
        ("hard labels: logits", "0.8830", binary_cross_entropy_with_logits(THREE_LOGITS, THREE_LABELS)),
        ("  probabilities", "0.8830", binary_cross_entropy(jax.nn.sigmoid(THREE_LOGITS), THREE_LABELS)),
    ]


def two_classes() -> list[tuple[str, jax.Array]]:
    """Compute one loss in three ways: a softmax over two classes is the sigmoid of the difference of their logits."""
    indices = jnp.array([1, 1])
    one_hot = jax.nn.one_hot(indices, 2)
    difference = TWO_CLASSES @ jnp.array([-1.0, 1.0])
    return [
        ("cross-entropy", cross_entropy(TWO_CLASSES, indices)),
        ("binary, softmax against one-hot", binary_cross_entropy(jax.nn.softmax(TWO_CLASSES), one_hot)),
        ("binary, difference of the logits", binary_cross_entropy_with_logits(difference, indices)),
    ]


def naive(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the textbook formula, without a stable form."""
    probs = jax.nn.sigmoid(logits)
    return -jnp.mean(labels * jnp.log(probs) + (1 - labels) * jnp.log(1 - probs))


def exact(logit: float, label: float) -> tuple[float, float]:
    """Compute loss and derivative of a hard label in float64, which is exact in all printed digits."""
    sign = 1 - 2 * label
    return math.log1p(math.exp(sign * logit)), sign / (1 + math.exp(-sign * logit))


def far_logits() -> list[tuple[str, str, str, str]]:
    """Compute losses and gradients by the naive formula, exactly, and by jaxbce."""
    rows = []
    for logit, label in ((40.0, 0.0), (40.0, 1.0), (-80.0, 0.0), (-100.0, 1.0)):
        by_naive = jax.value_and_grad(naive)(logit, label)
        by_jaxbce = jax.value_and_grad(binary_cross_entropy_with_logits)(logit, label)
        for name, *values in zip(("loss", "gradient"), by_naive, exact(logit, label), by_jaxbce, strict=True):
            rows.append((f"logit {logit:.0f}, label {label:.0f}: {name}", *(f"{value:.4g}" for value in values)))
    return rows


def show(title: str, columns: list[str], rows: list[tuple[str, ...]]) -> int:
    """Print a table; return the number of rows with different last two columns."""
    print(f"{title:<34}" + "".join(f"{column:>13}" for column in columns) + "  same")
    for name, *texts in rows:
        same = "yes" if texts[-2] == texts[-1] else "NO"
        print(f"{name:<34}" + "".join(f"{text:>13}" for text in texts) + f"  {same}")
    print()
    return sum(row[-2] != row[-1] for row in rows)


def main() -> None:
    """Print the tables; exit with status 1 if a digit differs."""
    in_print = [(name, number, f"{loss:.4f}") for name, number, loss in published()]
    differing = show("in print", ["published", "jaxbce"], in_print)

    three_ways = [(name, f"{loss:.4f}") for name, loss in two_classes()]
    first = three_ways[0][1]
    differing += show("two classes", ["first way", "this way"], [(name, first, loss) for name, loss in three_ways])

    logits, labels = jnp.array([0.2, -0.4, 1.2, 0.8]), jnp.array([0.0, 1.0, 1.0, 0.0])
    losses = [f"{loss(logits, labels):.4f}" for loss in (naive, binary_cross_entropy_with_logits)]
    differing += show("the textbook formula, small logits", ["naive", "jaxbce"], [("four logits", *losses)])
    differing += show("one large logit, in float32", ["naive", "exact", "jaxbce"], far_logits())

    if differing:
        sys.exit(f"{differing} of the numbers differ")
    print("all the same")


if __name__ == "__main__":
    main()
