"""The public face as a type checker sees it from outside: `mypy --strict` reads this against the installed wheel.

Nothing runs it. A line that must be refused carries a `type: ignore` with the code of the refusal and the reason:
`--strict` warns of those that are not needed, so a refusal that vanishes is noticed. So is, by `assert_type`, a result
that becomes `Any`.
"""

from collections.abc import Callable
from typing import Literal, assert_type

import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxbce
from jaxbce import Average, BCELoss, BCEWithLogitsLoss, CrossEntropyLoss

# What data may be: arrays of JAX and NumPy, Python numbers, nested lists and tuples of them.
logits = jnp.zeros((4, 3))
labels = np.zeros((4, 3), np.int32)
mask = np.ones((4, 3), np.bool_)
assert_type(jaxbce.binary_cross_entropy_with_logits(0.5, True), Array)
assert_type(jaxbce.binary_cross_entropy_with_logits([2.0, -1.0], (1, 0)), Array)
assert_type(jaxbce.binary_cross_entropy_with_logits([[2.0], [jnp.float32(1)]], [[True], [False]]), Array)

# Every loss, with every option that it has.
assert_type(
    jaxbce.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=[1.0, 2.0, 3.0], weight=2, label_smoothing=0.1, where=mask, axis=-1, reduction="none"
    ),
    Array,
)
assert_type(
    jaxbce.binary_cross_entropy(
        logits, labels, pos_weight=2.0, weight=mask, label_smoothing=0, where=mask, axis=(0, 1), reduction="sum"
    ),
    Array,
)
assert_type(
    jaxbce.sigmoid_focal_loss(
        logits,
        labels,
        gamma=logits[0, 0],
        alpha=0.25,
        weight=labels,
        label_smoothing=0.1,
        where=None,
        axis=[0],
        reduction="weighted_mean",
    ),
    Array,
)
assert_type(
    jaxbce.asymmetric_loss(
        logits,
        labels,
        gamma_pos=0,
        gamma_neg=4.0,
        margin=np.float32(0.05),
        weight=None,
        label_smoothing=0.0,
        where=mask,
        axis=None,
        reduction="mean",
    ),
    Array,
)
assert_type(
    jaxbce.cross_entropy(
        logits,
        np.zeros(4, np.int64),
        class_axis=1,
        class_weight=[1.0, 1.0, 2.0],
        ignore_index=None,
        label_smoothing=0.1,
        where=mask[:, 0],
        axis=0,
        reduction="mean",
    ),
    Array,
)
assert_type(
    jaxbce.sparse_binary_cross_entropy_with_logits(
        logits,
        [[0], [1], [2], [-1]],
        pos_weight=2.0,
        weight=1,
        label_smoothing=0.1,
        where=mask,
        axis=-1,
        reduction="sum",
    ),
    Array,
)
assert_type(
    jaxbce.linear_binary_cross_entropy(
        logits,
        np.zeros((3, 8)),
        positives=[[0], [1], [2], [-1]],
        bias=np.zeros(8),
        pos_weight=2.0,
        weight=None,
        label_smoothing=0.1,
        reduction="none",
        chunk_size=4,
        axis_name=("data", "model"),
        label_axis_name="label",
    ),
    Array,
)
assert_type(jaxbce.linear_binary_cross_entropy(logits, np.zeros((3, 8)), np.zeros((4, 8))), Array)
assert_type(
    jaxbce.sigmoid_contrastive_loss(
        logits, logits, logit_scale=10.0, logit_bias=jnp.float32(-10), tile_size=2, axis_name="data", reduction="none"
    ),
    Array,
)
assert_type(jaxbce.gan_discriminator_loss(logits, logits[:2], label_smoothing=0.2, reduction="mean"), Array)
assert_type(jaxbce.gan_generator_loss(logits, saturating=True, reduction="sum"), Array)

# Weights from data.
assert_type(jaxbce.pos_weight_from_labels(labels, axis=None, where=mask, max_weight=100), Array)
assert_type(jaxbce.class_weight_from_counts([90, 10], beta=0.99), Array)

# Criteria: fields have the types that they were given.
binary = BCEWithLogitsLoss(pos_weight=[5.0, 1.0, 1.0], weight=None, label_smoothing=0.1, axis=-1, reduction="none")
assert_type(binary(logits, labels, where=mask), Array)
assert_type(binary.label_smoothing, float)
probable = BCELoss(pos_weight=2, weight=1.0, label_smoothing=0.0, axis=(0, 1), reduction="weighted_mean")
assert_type(probable(logits, labels, where=mask), Array)
categorical = CrossEntropyLoss(
    class_weight=None, class_axis=-1, ignore_index=0, label_smoothing=0.0, axis=None, reduction="mean"
)
assert_type(categorical(logits, [0, 1, 2, 1]), Array)
assert_type(categorical.ignore_index, int | None)

# Averages add, also from the 0 that `sum` begins with.
average = Average.of(logits, weight=labels, where=mask, axis=0)
assert_type(average, Average)
assert_type(average + average, Average)
assert_type(sum([average, average]), Average | Literal[0])
assert_type(sum([average, average], start=Average.of(jnp.zeros(0))), Average)
assert_type(average.psum(["data"]), Average)
assert_type(average.value, Array)
assert_type(average.total / average.weight, Array)

# Functions and criteria go wherever a function of predictions and labels does.
losses: list[Callable[[Array, Array], Array]] = [
    jaxbce.binary_cross_entropy_with_logits,
    jaxbce.binary_cross_entropy,
    jaxbce.sigmoid_focal_loss,
    jaxbce.asymmetric_loss,
    jaxbce.cross_entropy,
    jaxbce.sparse_binary_cross_entropy_with_logits,
    binary,
    probable,
    categorical,
]
assert_type(jaxbce.__version__, str)

# --- What must be refused, and why ------------------------------------------------------------------------------------

jaxbce.binary_cross_entropy_with_logits(logits, labels, reduction="batchmean")  # type: ignore[arg-type]  # no such reduction
binary = BCEWithLogitsLoss(reduction="average")  # type: ignore[arg-type]  # no such reduction
jaxbce.binary_cross_entropy_with_logits(logits, labels, mask)  # type: ignore[call-arg]  # options go by name
BCEWithLogitsLoss(2.0)  # type: ignore[call-arg]  # where PyTorch has the weight
probable(logits, labels, mask)  # type: ignore[call-arg]  # a mask would pass for a weight
# A string passes for numbers: it is a sequence of strings.
jaxbce.sigmoid_focal_loss(logits, labels, gamma=None)  # type: ignore[arg-type]  # None is no number
jaxbce.binary_cross_entropy(None, labels)  # type: ignore[arg-type]  # None is no array
jaxbce.cross_entropy(logits, labels, axis=0.5)  # type: ignore[arg-type]  # a float is no axis
jaxbce.cross_entropy(logits, labels, pos_weight=2.0)  # type: ignore[call-arg]  # an option of binary losses
jaxbce.sigmoid_contrastive_loss(logits, logits, logit_scale=10.0)  # type: ignore[call-arg]  # the bias is missing
categorical.reduction = "sum"  # type: ignore[misc]  # a criterion is frozen
_ = average + 1.0  # type: ignore[operator]  # an average is no number
_ = jaxbce.from_logits  # type: ignore[attr-defined]  # it is not public
