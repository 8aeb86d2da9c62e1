"""Compare losses on multi-label data with imbalanced and unknown labels.

An image is a pair of scikit-learn's handwritten digits side by side; its ten labels name the digits of the pair. The
digits are drawn with unequal frequencies: the most frequent label is positive for three quarters of the images, and
the rarest for 3 %. A random 30 % of the training labels are set to -1, unknown. Each seed draws the frequencies and the
split into training and test digits anew.

Losses have their default options; the model, its initial parameters, the batches and the number of steps are the same
for all losses. Average precision measures the ranking of positive above negative images over all thresholds; recall and
precision have a threshold of 1/2. The last row counts unknown labels as negative; the other rows mask them with
`where`. The shorter the training (`--steps`), the larger are the differences.

Run it with: python examples/multilabel.py
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, precision_score, recall_score
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from jaxbce import asymmetric_loss, binary_cross_entropy_with_logits, pos_weight_from_labels, sigmoid_focal_loss

BATCH_SIZE = 128
HIDDEN = 64


def pairs(images, digits, frequency, number: int, rng: np.random.Generator):
    """Draw pairs of digits: [number, 128] pixels, [number, 10] labels."""
    chance = frequency[digits] / np.bincount(digits)[digits]
    chosen = rng.choice(len(digits), (number, 2), p=chance / chance.sum())
    return images[chosen].reshape(number, 128), np.eye(10, dtype=int)[digits[chosen]].max(axis=1)


def predict(params, images):
    """Compute ten logits per image, with one hidden layer."""
    hidden = jax.nn.relu(images @ params["hidden"] + params["hidden_bias"])
    return hidden @ params["output"] + params["output_bias"]


@functools.partial(jax.jit, static_argnames="steps")
def train(loss: Partial, images, labels, key, *, steps: int):
    """Train a new model. The loss is a `Partial`, a pytree with traced weights, so it compiles once for all seeds."""
    hidden_key, output_key, batch_key = jax.random.split(key, 3)
    start = jax.nn.initializers.he_normal()
    params = {
        "hidden": start(hidden_key, (128, HIDDEN)),
        "hidden_bias": jnp.zeros(HIDDEN),
        "output": start(output_key, (HIDDEN, 10)),
        "output_bias": jnp.zeros(10),
    }
    optimizer = optax.adam(3e-3)

    def step(carry, batch):
        params, state = carry

        def batch_loss(params):
            return loss(predict(params, images[batch]), labels[batch], where=labels[batch] >= 0)

        updates, state = optimizer.update(jax.grad(batch_loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    batches = jax.random.randint(batch_key, (steps, BATCH_SIZE), 0, len(images))
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params


def scores(logits, labels, rarest) -> tuple[float, ...]:
    """Compute mean average precision of all labels and of the rarest, then macro-averaged recall and precision."""
    average = average_precision_score(labels, logits, average=None)
    found = logits > 0
    return (
        average.mean(),
        average[rarest].mean(),
        recall_score(labels, found, average="macro"),
        precision_score(labels, found, average="macro", zero_division=0),
    )


def compare(seed: int, steps: int, progress: tqdm) -> dict[str, tuple[float, ...]]:
    """Train with every loss on the data of one seed; return the scores of the losses and of chance."""
    rng = np.random.default_rng(seed)
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train_images, test_images, train_digits, test_digits = train_test_split(
        images, digits, test_size=0.5, stratify=digits, random_state=seed
    )
    frequency = rng.permutation(np.arange(1.0, 11.0) ** -1.5)
    frequency /= frequency.sum()
    train_images, train_labels = pairs(train_images, train_digits, frequency, 2000, rng)
    test_images, test_labels = pairs(test_images, test_digits, frequency, 5000, rng)
    train_labels = np.where(rng.random(train_labels.shape) < 0.3, -1, train_labels)
    rarest = np.argsort(frequency)[:3]

    pos_weight = pos_weight_from_labels(train_labels, where=train_labels >= 0)
    bce = Partial(binary_cross_entropy_with_logits)
    runs = {
        "BCE": (bce, train_labels),
        "BCE with pos_weight": (Partial(binary_cross_entropy_with_logits, pos_weight=pos_weight), train_labels),
        "focal": (Partial(sigmoid_focal_loss), train_labels),
        "asymmetric": (Partial(asymmetric_loss), train_labels),
        "BCE, unknown = negative": (bce, np.maximum(train_labels, 0)),
    }
    prevalence = test_labels.mean(axis=0)
    results = {"chance": (prevalence.mean(), prevalence[rarest].mean(), 0.5, prevalence.mean())}
    for name, (loss, labels) in runs.items():
        params = train(loss, train_images, labels, jax.random.key(seed), steps=steps)
        results[name] = scores(np.asarray(predict(params, test_images)), test_labels, rarest)
        progress.update()
    return results


def main() -> None:
    """Train with every loss and seed, and print mean scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    options = parser.parse_args()

    with tqdm(total=5 * options.seeds, desc="training", unit="model") as progress:
        results = [compare(seed, options.steps, progress) for seed in range(options.seeds)]
    reference = np.array([result["BCE"] for result in results])

    print(f"seeds: {options.seeds}. Scores are means over the seeds; ± is the standard deviation over the seeds")
    columns = f"{'all labels':>10}{'against BCE':>18}{'rarest 3':>11}{'against BCE':>18}"
    print(f"{'mean average precision':<26}{columns}{'recall':>9}{'precision':>11}")
    for name in results[0]:
        values = np.array([result[name] for result in results])
        every, rare, recall, precision = values.mean(axis=0)
        differences = (values - reference).T[:2]
        against = [f"{d.mean():+.3f} ± {d.std(ddof=min(1, options.seeds - 1)):.3f}" for d in differences]
        if name in ("chance", "BCE"):
            against = ["", ""]
        print(f"{name:<26}{every:10.3f}{against[0]:>18}{rare:11.3f}{against[1]:>18}{recall:9.3f}{precision:11.3f}")


if __name__ == "__main__":
    main()
