"""Calls of every public name on one batch: what goes under every setting of JAX and to every platform.

A loss of (predictions, labels) comes from its row in tests/losses.py; others are written out here.
"""

import functools

import jax.numpy as jnp
import numpy as np

import jaxbce
from tests.losses import LOSSES

# What a batch holds, in which n is the number of examples and c that of labels or classes.
SHAPES = {
    "logits": "n, c",
    "probs": "n, c",
    "labels": "n, c",
    "soft": "n, c",
    "mask": "n, 1",
    "rows": "n",
    "per_label": "c",
    "counts": "c",
    "positives": "n, 2",
    "indices": "n, 2",
    "classes": "n",
    "kernel": "4, c",
    "x": "n, 4",
    "y": "n, 4",
    "scale": "",
}


def draw(n, c):
    """A batch in float32, int32 and bool, as users have it who have set nothing.

    The masks hide a row of NaN, of labels out of their domain and of indices that no label has.
    """
    rng = np.random.default_rng(7)
    sizes = {name: eval(f"({shape},)" if shape else "()", {"n": n, "c": c}) for name, shape in SHAPES.items()}
    batch = {name: rng.normal(0, 2, size).astype(np.float32) for name, size in sizes.items()}
    batch |= {name: rng.uniform(0.01, 0.99, (n, c)).astype(np.float32) for name in ("probs", "soft")}
    batch["per_label"] = rng.uniform(0.5, 2.0, c).astype(np.float32)
    lowest = {"labels": 0, "counts": 0, "positives": -1, "indices": -1, "classes": 0}
    highest = {"labels": 2, "counts": 9}
    batch |= {name: rng.integers(low, highest.get(name, c), sizes[name], np.int32) for name, low in lowest.items()}
    batch["classes"][3:4] = -100  # ignored
    labels = np.resize([-7, 7, 1], c)
    hidden = {"logits": np.nan, "probs": np.nan, "labels": labels, "positives": (77, c), "classes": 77}
    for name, values in hidden.items():
        batch[name][1] = values
    rows = np.arange(n) != 1
    return batch | {"rows": rows, "mask": rows[:, None]}


def of_row(row):
    """A row of the table, with every option that it has; in the first one the weights are differentiated too."""
    probs, logits = row.function is jaxbce.binary_cross_entropy, row.function is jaxbce.binary_cross_entropy_with_logits
    predictions = "probs" if probs else "logits"

    def loss(b):
        options = {"pos_weight": 3.0 if probs else b["per_label"], "weight": b["per_label"], "label_smoothing": 0.1}
        reduction = "weighted_mean" if row.bound else "mean"
        return row(b[predictions], b["labels"], **options, where=b["mask"], reduction=reduction)

    return (predictions, "per_label") if logits else (predictions,), loss


def of(moved, loss):
    return tuple(moved.split()), loss


def with_logits(b, loss=jaxbce.binary_cross_entropy_with_logits, **options):
    return loss(b["logits"], b["labels"], where=b["mask"], **options)


def of_classes(b, loss=jaxbce.cross_entropy, labels="classes", **options):
    return loss(b["logits"], b[labels], where=b["rows"], **options)


def contrastive(b, **options):
    return jaxbce.sigmoid_contrastive_loss(b["x"], b["y"], logit_scale=b["scale"], logit_bias=-1.0, **options)


def average(b):
    losses = with_logits(b, reduction="none")
    average = jaxbce.Average.of(losses, weight=b["per_label"], where=b["mask"])
    return (average + jaxbce.Average.of(b["logits"][:1], where=[[True]])).value


def weighted(losses):
    """A number of the losses of examples, to which each contributes otherwise."""
    return jnp.vdot(losses, 1.0 + jnp.arange(losses.shape[0], dtype=losses.dtype))


# By family, and by public name and what tells its calls apart: what is differentiated, and the loss of a batch.
CALLS = {
    "entries": {
        **{row.name: of_row(row) for row in LOSSES if row.adapter is None},
        "BCEWithLogitsLoss": of(
            "logits", lambda b: with_logits(b, jaxbce.BCEWithLogitsLoss(pos_weight=b["per_label"], label_smoothing=0.1))
        ),
        "BCELoss": of(
            "probs", lambda b: jaxbce.BCELoss(weight=b["per_label"])(b["probs"], b["labels"], where=b["mask"])
        ),
        "gan_discriminator_loss": of(
            "x y", lambda b: jaxbce.gan_discriminator_loss(b["x"], b["y"], label_smoothing=0.1)
        ),
        "gan_generator_loss": of("x", lambda b: jaxbce.gan_generator_loss(b["x"])),
        "gan_generator_loss, saturating": of("x", lambda b: jaxbce.gan_generator_loss(b["x"], saturating=True)),
        "pos_weight_from_labels": of(
            "logits",
            lambda b: with_logits(
                b, pos_weight=jaxbce.pos_weight_from_labels(b["labels"], where=b["mask"], max_weight=10)
            ),
        ),
        "Average": of("logits", average),
    },
    "classes": {
        "cross_entropy": of("logits", lambda b: of_classes(b, class_weight=b["per_label"], label_smoothing=0.1)),
        "cross_entropy, a fixed number of classes": of(
            "x", lambda b: jaxbce.cross_entropy(b["x"], b["classes"] % 4, where=b["rows"])
        ),
        "cross_entropy, probabilities": of(
            "logits soft", lambda b: of_classes(b, labels="soft", class_weight=b["per_label"], label_smoothing=0.1)
        ),
        "CrossEntropyLoss": of("logits", lambda b: of_classes(b, jaxbce.CrossEntropyLoss(class_weight=b["per_label"]))),
        "class_weight_from_counts": of(
            "logits", lambda b: of_classes(b, class_weight=jaxbce.class_weight_from_counts(b["counts"], beta=0.9))
        ),
    },
    "many labels": {
        "sparse_binary_cross_entropy_with_logits": of(
            "logits",
            lambda b: jaxbce.sparse_binary_cross_entropy_with_logits(
                b["logits"], b["positives"], pos_weight=3.0, weight=b["per_label"], label_smoothing=0.1, where=b["mask"]
            ),
        ),
        "linear_binary_cross_entropy": of(
            "x kernel",
            lambda b: jaxbce.linear_binary_cross_entropy(
                b["x"], b["kernel"], positives=b["indices"], bias=b["per_label"], weight=2, chunk_size=2
            ),
        ),
        "linear_binary_cross_entropy, each": of(
            "x kernel",
            lambda b: weighted(jaxbce.linear_binary_cross_entropy(b["x"], b["kernel"], b["soft"], reduction="none")),
        ),
    },
    "pairs": {
        "sigmoid_contrastive_loss": of("x y scale", functools.partial(contrastive, tile_size=3)),
        "sigmoid_contrastive_loss, each": of("x y", lambda b: weighted(contrastive(b, reduction="none"))),
    },
}


def moved(call, batch, dtype):
    """The arrays that are differentiated, in the dtype."""
    return {name: jnp.asarray(batch[name], dtype) for name in call[0]}


def of_moved(call, batch):
    """The loss as a function of these, the rest of the batch as it is."""
    return lambda by: call[1]({**batch, **by})
