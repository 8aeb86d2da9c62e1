"""Numbers that other projects publish in their tests and documentation, as literal cases with their source named.

Inputs and expected values are facts; no code is theirs. Each value is held to half a unit of its last published digit.
Where a project does not round to the nearest, or states a tolerance of its own, the case says so.
"""

import functools
import math
from decimal import Decimal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    class_weight_from_counts,
    cross_entropy,
    gan_discriminator_loss,
    gan_generator_loss,
    sigmoid_focal_loss,
)

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # They are held to the last digit of float32.

INF = float("inf")


class Published(NamedTuple):
    """Numbers in the order of the flattened result, and how far from each the result may be."""

    values: np.ndarray
    margins: np.ndarray


def digits(text, units=0.5):
    """Numbers as they are printed: a margin of so many units of the last digit of each. Zero and infinity are exact."""
    numbers = [Decimal(word) for word in text.split()]
    margins = [units * 10.0 ** n.as_tuple().exponent if n.is_finite() and n else 0.0 for n in numbers]
    return Published(np.asarray(numbers, np.float64), np.asarray(margins))


def within(values, rtol=0.0, atol=0.0):
    """Finite numbers with a tolerance, mostly the one that their project states."""
    values = np.asarray(values, np.float64)
    return Published(np.ravel(values), np.ravel(atol + rtol * np.abs(values)))


def truncated(text):
    """Printed digits that were cut off, not rounded."""
    return digits(text, units=1.0)


def case(function, arguments, published, **options):
    return functools.partial(function, **options), arguments, published


# The functions under the reductions that the sources use.
bce, entries_ce = binary_cross_entropy_with_logits, functools.partial(cross_entropy, reduction="none")
rows_bce, rows_focal = functools.partial(bce, axis=-1), functools.partial(sigmoid_focal_loss, axis=-1)


def log_probs_ce(probs, labels, **options):
    """Cross-entropy of probabilities; the softmax divides by their sum, as Keras does."""
    return cross_entropy(jnp.log(probs), labels, **options)


def probs_focal(probs, labels, **options):
    return sigmoid_focal_loss(jax.scipy.special.logit(probs), labels, **options)


def derivatives(x, y):
    """Loss, slope and curvature of each entry, one row per entry."""
    slope = jax.grad(functools.partial(bce, reduction="sum"))
    curvature = jax.grad(lambda x: jnp.sum(slope(x, y)))
    return jnp.stack([bce(x, y, reduction="none"), slope(x, y), curvature(x)], axis=-1)


# optax. Its tests of focal loss hold ratios and no numbers.
SAFE_LOGITS = [[10.0, 1.0, -2.0], [1.0, 4.0, 0.2], [-INF, 0.0, 0.0], [-INF, 0.0, 0.0], [-INF, 0.0, -INF]]
SAFE_LABELS = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]]
POLY_LOGITS, POLY_LABELS = [[4.0, 2.0, 1.0], [0.0, 5.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 0.8, 0.2]]
EXAMPLE_LOGITS, EXAMPLE_LABELS = [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
SIGMOID_LOGITS = [*[[-1e9, -1e-9]] * 2, *[[1e9, 1e-9]] * 2, *[[-1e9, 1e-9]] * 2, *[[1e9, -1e-9]] * 2, *[[0.0, 0.0]] * 2]
SIGMOID_LOSSES = [5e8, 0.3465736, 0.3465736, 5e8, 5e8, 0.3465736, 0.3465736, 5e8, 0.6931472, 0.6931472]
OPTAX = {
    # The poly loss with epsilon 0 is the cross-entropy.
    "SafeSoftmaxCrossEntropyTest, PolyLossTest.test_batched, documentation of softmax_cross_entropy": case(
        entries_ce,
        (SAFE_LOGITS + POLY_LOGITS + EXAMPLE_LOGITS, SAFE_LABELS + POLY_LABELS + EXAMPLE_LABELS),
        digits("9.00013 3.0696733 0.693147 Infinity 0.0 0.1698 0.8247 0.2761 2.9518"),
    ),
    "SigmoidCrossEntropyTest": case(
        rows_bce, (SIGMOID_LOGITS, [[1.0, 0.0], [0.0, 1.0]] * 5), within(SIGMOID_LOSSES, rtol=1e-6, atol=1e-6)
    ),
    # There the classes are 3·4 in two axes, and the labels (1, 1) and (2, 3).
    "softmax_cross_entropy_with_integer_labels, documentation": case(
        entries_ce, (np.arange(24.0).reshape(1, 2, 12), [[5, 11]]), digits("6.4587 0.4587")
    ),
}

# Keras, where its clip of probabilities to [1e-7, 1 - 1e-7] does not enter the digits.
KERAS_LOGITS, KERAS_LABELS = [[-18.6, 0.51], [2.94, -12.8]], [[0, 1], [0, 0]]
SPARSE_LOGITS = [[8.0, 1.0, 1.0], [0.0, 9.0, 1.0], [2.0, 3.0, 5.0]]
ROW_WEIGHT = np.asarray([[0.8], [0.2]])
KERAS = {
    "BinaryCrossentropy, documentation, sample_weight": case(
        bce, (KERAS_LOGITS, KERAS_LABELS), truncated("0.243"), weight=ROW_WEIGHT
    ),
    # Computed in float32.
    "BinaryCrossentropyTest.test_unweighted, probabilities": case(
        binary_cross_entropy,
        ([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.1, 0.2, 0.7]], np.eye(3)),
        within(0.20046903, rtol=1e-6, atol=1e-6),
    ),
    "BinaryFocalCrossentropy, documentation, gamma 5, balanced, no reduction": case(
        rows_focal, (KERAS_LOGITS, KERAS_LABELS), truncated("0.0004 0.8670"), gamma=5.0, alpha=0.25
    ),
    "BinaryFocalCrossentropyTest.test_no_reduction": case(
        probs_focal, ([[0.9, 0.8], [0.7, 0.2]], [[1, 0], [1, 0]]), digits("0.515547 0.020513"), axis=-1
    ),
    "CategoricalCrossentropyTest.test_unweighted, probabilities": case(
        log_probs_ce, ([[0.9, 0.05, 0.05], [0.5, 0.89, 0.6], [0.05, 0.01, 0.94]], np.eye(3)), truncated("0.3239")
    ),
    "SparseCategoricalCrossentropyTest.test_no_reduction": case(
        entries_ce, (SPARSE_LOGITS, [0, 1, 2]), digits("0.001822 0.000459 0.169846")
    ),
    "SparseCategoricalCrossentropyTest.test_ignore_class": case(
        entries_ce,
        ([[[0.854, 0.698, 0.598], [0.088, 0.86, 0.018]]], [[-1, 2]]),
        digits("0.0 1.480129"),
        ignore_index=-1,
    ),
    # Published as this formula, which leaves out e^-200.
    "CategoricalCrossentropyTest.test_label_smoothing": case(
        cross_entropy, ([[100.0, -100.0, -100.0]], [0]), within(400.0 * 0.1 / 3.0, rtol=1e-12), label_smoothing=0.1
    ),
    # A probability of 0 is a logit of -inf.
    "SparseCategoricalCrossentropy, documentation": case(
        log_probs_ce, ([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]], [1, 2]), digits("0.0513 2.303"), reduction="none"
    ),
}

# TF-GAN, losses_impl_test. Its label smoothing s, by default 0.25, is ours: the label of the real becomes 1 - s/2.
REAL, FAKE = [-5.0, 1.4, 12.5, 2.7], [10.0, 4.4, -5.5, 3.6]
GAN_CLASSES = [1, 2, 0, 0]
FAKE_CLASS_LOGITS = [[10.0, 4.4, -5.5, 3.6], [-4.0, 4.4, 5.2, 4.6], [1.1, 2.4, -3.5, 5.6], [1.1, 2.4, -3.5, 5.6]]
REAL_CLASS_LOGITS = [[-2.0, 0.4, 12.5, 2.7], [-1.2, 1.9, 12.3, 2.6], [-2.4, -1.7, 2.5, 2.7], [1.1, 2.4, -3.5, 5.6]]
TF_GAN = {
    "ModifiedLossTest, generator": case(gan_generator_loss, (FAKE,), digits("1.38582")),
    "ModifiedLossTest and MinimaxLossTest, discriminator, patches": case(
        gan_discriminator_loss,
        (np.reshape(REAL, (2, 2)), np.reshape(FAKE, (2, 2))),
        digits("6.19637"),
        label_smoothing=0.25,
    ),
    # There the generator's loss holds a constant too: real logits of 1.
    "MinimaxLossTest, generator": case(
        lambda fake: gan_generator_loss(fake, saturating=True) - bce(jnp.ones_like(fake), 1),
        (FAKE,),
        digits("-4.82408"),
    ),
    "ACGANLossTest, discriminator": case(
        lambda fake, real, y: cross_entropy(fake, y) + cross_entropy(real, y),
        (FAKE_CLASS_LOGITS, REAL_CLASS_LOGITS, GAN_CLASSES),
        digits("9.43950"),
    ),
}

# MONAI, test_focal_loss. The layout is [N, C, H, W], and the target [[0, 1], [2, 0]].
MONAI_LOGITS = np.broadcast_to([[1.0, 1.0], [0.5, 0.0]], (1, 3, 2, 2))
MONAI_LABELS = np.asarray([[[[1, 0], [0, 1]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]]])
MONAI = {
    "TEST_CASES, alpha 0.8": case(sigmoid_focal_loss, (MONAI_LOGITS, MONAI_LABELS), digits("0.08423"), alpha=0.8),
    "TEST_CASES, no reduction": case(
        sigmoid_focal_loss,
        (MONAI_LOGITS, MONAI_LABELS),
        digits("0.02266 0.70187 0.37741 0.17329 0.70187 0.02266 0.37741 0.17329 0.70187 0.70187 0.06757 0.17329"),
        reduction="none",
    ),
    # The last but one is 0.01351 to the nearest.
    "TEST_CASES, weight, no reduction": case(
        sigmoid_focal_loss,
        (MONAI_LOGITS, MONAI_LABELS),
        truncated("0.01133 0.35093 0.18871 0.08664 0.07019 0.00227 0.03774 0.01733 0.14037 0.14037 0.01352 0.03466"),
        weight=np.asarray([0.5, 0.1, 0.2]).reshape(3, 1, 1),
        reduction="none",
    ),
}

# scikit-learn. The extremes are numbers of mpmath: label, logit, and loss, slope, curvature. Those last three are held
# to the relative 1e-15 of the source; its absolute 1e-15 is wanted only by the last two rows, where 0 stands for 5e-17
# and less. That also lets pass a slope and a curvature of 1.43e-101 at the logit 232.8, where e^-232.8 is 7.87e-102,
# and a slope above 0 for the label 1 at 37: those rows are left out.
TAIL_37, TAIL_36_9, TAIL_37_5 = 8.533047625744065e-17, 9.430476078526806e-17, 5.175555005801868e-17
EXTREMES = np.asarray(
    [
        (0.0, -1e20, 0, 0, 0),
        (1.0, -1e20, 1e20, -1, 0),
        (0.0, -1e3, 0, 0, 0),
        (1.0, -1e3, 1e3, -1, 0),
        (1.0, -37.0, 37, 1e-16 - 1, TAIL_37),
        (0.0, -37.0, TAIL_37, TAIL_37, TAIL_37),
        (1.0, -36.9, 36.9, 1e-16 - 1, TAIL_36_9),
        (0.0, -36.9, TAIL_36_9, TAIL_36_9, TAIL_36_9),
        (0.0, 37.0, 37, 1 - 1e-16, TAIL_37),
        (0.0, 37.5, 37.5, 1, TAIL_37_5),
        (1.0, 1e20, 0, 0, 0),
        (0.0, 1e20, 1e20, 1, 0),
        (1.0, 1e3, 0, 0, 0),
        (0.0, 1e3, 1e3, 1, 0),
        (1.0, -37.5, 37.5, -1, 0),
        (1.0, 232.9, 0, 0, 0),
    ]
)
EXTREMES_ATOL = np.asarray([*[[0.0]] * 14, *[[1e-15]] * 2])
SCIKIT_LEARN = {
    "HalfBinomialLoss, test_loss_on_specific_values": case(
        bce, (math.log(4), 0.25), within(math.log1p(4) - 0.25 * math.log(4), rtol=1e-15)
    ),
    "HalfBinomialLoss, test_loss_on_specific_values, extremes": case(
        derivatives, (EXTREMES[:, 1], EXTREMES[:, 0]), within(EXTREMES[:, 2:], rtol=1e-15, atol=EXTREMES_ATOL)
    ),
    "HalfMultinomialLoss, test_loss_on_specific_values, 1e4": case(
        cross_entropy, ([[1e4, 0.0, 7e-7]], [2]), within(1e4 - 7e-7, rtol=1e-15)
    ),
    "test_log_loss, two classes": case(binary_cross_entropy, ([0.7, 0.4, 0.6, 0.3], [0, 1, 1, 0]), digits("0.7469410")),
    "test_compute_sample_weight": case(class_weight_from_counts, ([3, 3, 1],), truncated("0.7777 0.7777 2.3333")),
}

# Flux. Its tests compare with ≈, a relative 1.5e-8.
FLUX = {
    # γ = 2 and no alpha.
    "losses.jl, binary_focal_loss": case(
        probs_focal,
        ([[0.268941, 0.5, 0.268941], [0.731059, 0.5, 0.731059]], [[0, 1, 0], [1, 0, 1]]),
        within(0.0728675615927385, rtol=1.5e-8),
    ),
    "logitcrossentropy, documentation": case(
        cross_entropy,
        (np.reshape([*range(-9, 1), *range(10), 7.5], (7, 3)), [0, 1, 2, 0, 1, 0, 0]),
        digits("1.5791205"),
    ),
    "logitbinarycrossentropy, documentation": case(
        bce, ([2.0, -1.0, math.pi], [True, False, True]), digits("0.160832")
    ),
}

# burn, in the tests of burn-nn.
BURN_LOGITS, BURN_LABELS = np.asarray([0.8271, 0.9626, 0.3796, 0.2355]), [0, 1, 0, 1]
BURN_PROBS = 1 / (1 + np.exp(-BURN_LOGITS))
MANY_LOGITS, MANY_LABELS = [[0.5150, 0.3097, 0.7556], [0.4974, 0.9879, 0.1564]], np.asarray([[1, 0, 1], [1, 0, 0]])
BURN = {
    "test_binary_cross_entropy_preds_all_incorrect": case(
        binary_cross_entropy, ([0.0, 1.0, 0.0, 1.0], [1, 0, 1, 0]), digits("100.000")
    ),
    # A weight per kind of label: 3 for 0 and 7 for 1.
    "test_binary_cross_entropy_with_weights": case(
        binary_cross_entropy, (BURN_PROBS, BURN_LABELS), digits("3.1531"), weight=np.asarray([3.0, 7.0, 3.0, 7.0])
    ),
    "test_binary_cross_entropy_multilabel_with_weights": case(
        bce, (MANY_LOGITS, MANY_LABELS), digits("3.1708"), weight=np.asarray([3.0, 7.0, 0.9])
    ),
    # Of 3 labels burn smooths with s/3, and we with s/2: the soft labels are given.
    "test_binary_cross_entropy_multilabel_with_smoothing": case(
        bce, (MANY_LOGITS, MANY_LABELS * 0.9 + 0.1 / 3), digits("0.7228")
    ),
    "padded_targets_have_zero_gradient": case(
        jax.grad(functools.partial(cross_entropy, ignore_index=2)),
        ([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], [0, 2]),
        digits("-0.1562053 0.1141952 0.04201007 0.0 0.0 0.0"),
    ),
}

# mmpretrain, test_losses. It compares with a relative 1e-5, and computes in float32.
MM_LOGITS, MM_LABELS = [[5.0, -5.0, 0.0], [5.0, -5.0, 0.0]], [[1, 0, 1], [0, 1, 0]]
FAR_LOGITS, FAR_LABELS = [[-200.0, 100.0], [500.0, -1000.0], [300.0, -300.0]], [[1, 0], [0, 1], [1, 0]]
FAR_CLASS_LOGITS = [[-1000.0, 1000.0], [100.0, -100.0]]
MMPRETRAIN = {
    "test_asymmetric_loss": case(asymmetric_loss, (MM_LOGITS, MM_LABELS), within(3.80845 / 3, rtol=1e-5)),
    "test_asymmetric_loss, no clip": case(
        asymmetric_loss, (MM_LOGITS, MM_LABELS), within(5.1186 / 3, rtol=1e-5), margin=0.0
    ),
    "test_focal_loss": case(sigmoid_focal_loss, (MM_LOGITS, MM_LABELS), digits("0.8522"), alpha=0.25),
    # There the mean is by the number of entries, which is ours of class probabilities.
    "test_cross_entropy_loss, softmax, class_weight": case(
        cross_entropy,
        (FAR_CLASS_LOGITS, [[1.0, 0.0], [0.0, 1.0]]),
        within(370.0, rtol=1e-5),
        class_weight=np.asarray([0.3, 0.7]),
    ),
    "test_cross_entropy_loss, sigmoid, pos_weight": case(
        bce, (FAR_LOGITS, FAR_LABELS), digits("136.6667"), pos_weight=np.asarray([0.1, 0.2])
    ),
}

SOURCES = {
    "optax": OPTAX,
    "Keras": KERAS,
    "TF-GAN": TF_GAN,
    "MONAI": MONAI,
    "scikit-learn": SCIKIT_LEARN,
    "Flux": FLUX,
    "burn": BURN,
    "mmpretrain": MMPRETRAIN,
}


def check(result, published):
    result = np.ravel(result)
    assert result.shape == published.values.shape
    for got, value, margin in zip(result, published.values, published.margins, strict=True):
        assert got == pytest.approx(value, rel=0, abs=margin)


def arrays(arguments):
    return [jnp.asarray(np.asarray(argument)) for argument in arguments]


@pytest.mark.parametrize(
    ("function", "arguments", "published"),
    [pytest.param(*case, id=f"{source}: {name}") for source, cases in SOURCES.items() for name, case in cases.items()],
)
def test_published_values(function, arguments, published):
    check(function(*arrays(arguments)), published)


@pytest.mark.parametrize("cases", SOURCES.values(), ids=SOURCES)
def test_published_values_under_jit(cases):
    """All cases of a source in one program: it is compiling that takes the time."""
    program = jax.jit(lambda given: {name: cases[name][0](*given[name]) for name in cases})
    results = program({name: arrays(arguments) for name, (_, arguments, _) in cases.items()})
    assert results.keys() == cases.keys()
    for name, (_, _, published) in cases.items():
        check(results[name], published)
