"""Weights from data: definitions, classes with nothing to balance, masks, and what the weights bring about."""

import functools

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.experimental import checkify
from sklearn.utils.class_weight import compute_class_weight

from jaxbce import binary_cross_entropy_with_logits, class_weight_from_counts, pos_weight_from_labels

NAN = float("nan")


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.float16, jnp.bfloat16, np.float32, np.float64])
def test_negatives_per_positive(rng, transform, dtype):
    labels = (rng.random((50, 4)) < [0.1, 0.3, 0.5, 0.9]).astype(dtype)
    hard = labels.astype(float)
    weight = transform(pos_weight_from_labels)(labels)
    np.testing.assert_allclose(weight, (1 - hard).sum(0) / hard.sum(0), rtol=1e-6)
    chex.assert_type(weight, np.float64 if dtype == np.float64 else np.float32)
    assert not weight.weak_type


def test_axes_masks_and_soft_labels(rng):
    soft, mask = rng.random((6, 3, 4)), rng.random((6, 1, 4)) < 0.6
    every = np.broadcast_to(mask, soft.shape)
    poisoned = np.where(every, soft, -1.0)
    for axis in (0, -1, (0, 2), (), None):
        expected = np.where(every, 1 - soft, 0).sum(axis) / np.where(every, soft, 0).sum(axis).clip(1e-300)
        expected = np.where(every.any(axis) if axis != () else every, expected, 1.0)
        for transform in (lambda f: f, jax.jit):
            weight = transform(functools.partial(pos_weight_from_labels, axis=axis, where=mask))(poisoned)
            np.testing.assert_allclose(weight, expected, rtol=1e-12)


def test_both_kinds_weigh_the_same_in_total(rng):
    """At the logit 0, where positives and negatives cost the same, the gradients of the two kinds cancel."""
    labels = (rng.random((200, 3)) < [0.05, 0.2, 0.6]).astype(np.float32)
    slope = jax.grad(binary_cross_entropy_with_logits)(
        jnp.zeros((200, 3), jnp.float32), labels, pos_weight=pos_weight_from_labels(labels)
    )
    np.testing.assert_allclose(slope.sum(0), 0, atol=1e-6)


def test_classes_of_one_kind_have_nothing_to_balance():
    labels = jnp.array([[0, 1, 0, 1], [0, 1, 0, 0]])
    where = jnp.array([True, True, False, True])
    np.testing.assert_array_equal(pos_weight_from_labels(labels), [1, 1, 1, 1])
    np.testing.assert_array_equal(pos_weight_from_labels(labels, where=where), [1, 1, 1, 1])
    np.testing.assert_array_equal(pos_weight_from_labels(jnp.zeros((0, 2))), [1, 1])


def test_max_weight():
    labels = jnp.asarray(np.eye(100)[:, :1])
    assert pos_weight_from_labels(labels) == 99
    assert pos_weight_from_labels(labels, max_weight=10) == 10
    assert jax.jit(lambda m: pos_weight_from_labels(labels, max_weight=m))(10.0) == 10
    assert np.isnan(jax.jit(lambda m: pos_weight_from_labels(labels, max_weight=m))(-10.0))
    assert pos_weight_from_labels(labels, max_weight=np.float64(1e39)) == 99
    with pytest.raises(ValueError, match="max_weight must be finite"):
        pos_weight_from_labels(labels.astype(jnp.float32), max_weight=np.float64(1e39))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_inverse_frequency_is_what_scikit_learn_calls_balanced(rng, transform):
    y = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    expected = compute_class_weight("balanced", classes=np.arange(5), y=y)
    weight = transform(class_weight_from_counts)(np.bincount(y))
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    chex.assert_type(weight, np.float32)
    chex.assert_type(class_weight_from_counts(np.bincount(y).astype(float)), np.float64)


def exact_weights(beta, *counts):
    shares = [1 / n if beta == 1 else (1 - beta) / (1 - beta**n) for n in counts]
    return mpmath.matrix([len(counts) * share / sum(shares) for share in shares])


def test_counts_next_to_the_largest_number():
    for beta, expected in ((None, [0.5, 1.5e38]), (1.0, [6.666667e-39, 2.0])):
        weight = class_weight_from_counts(jnp.asarray([3e38, 1], jnp.float32), beta=beta)
        np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-38)
    np.testing.assert_array_equal(class_weight_from_counts(jnp.asarray([1e38, 1e38], jnp.float32), beta=1.0), 1)


def test_no_class_at_all_has_no_nan_to_debug():
    f = jax.jit(jax.grad(lambda beta, n: class_weight_from_counts(n, beta=beta).sum(), (0, 1)))
    error, slopes = checkify.checkify(f, errors=checkify.float_checks)(0.9, jnp.zeros(2))
    error.throw()
    assert all((np.asarray(slope) == 0).all() for slope in slopes)


def test_less_than_one_example():
    """Frequencies, or soft counts."""
    counts = np.array([1e-3, 1e-5, 2])
    np.testing.assert_allclose(class_weight_from_counts(counts.astype(np.float32), beta=0.0), 1, rtol=1e-6)
    for beta in (1e-30, 0.1, 0.499, 0.501, 0.99):
        with mpmath.workdps(60):
            expected = np.array(exact_weights(mpmath.mpf(beta), *map(mpmath.mpf, counts)), float).ravel()
        np.testing.assert_allclose(class_weight_from_counts(counts, beta=beta), expected, rtol=1e-12)
        in_float32 = class_weight_from_counts(counts.astype(np.float32), beta=beta)
        np.testing.assert_allclose(in_float32, expected, rtol=1e-6)


def differences(order, *arguments):
    """The derivatives of the weights by each argument, at order 2 of that by the first, from left to right."""
    with mpmath.workdps(120):
        at, h = [mpmath.mpf(float(value)) for value in arguments], mpmath.mpf(10) ** -25

        def moved(*which):
            return exact_weights(*(value + h * which.count(i) for i, value in enumerate(at)))

        columns = [
            moved(j) - moved() if order == 1 else moved(0, j) - moved(0) - moved(j) + moved() for j in range(len(at))
        ]
        return np.array([column / h**order for column in columns], float).reshape(len(at), -1).T


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.float64, 1e-9)])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("counts", [[900, 90, 10, 2, 1], [0.9, 0.09, 0.01, 1.5, 1]])
def test_derivatives_of_the_effective_number(mode, dtype, tolerance, counts):
    """By beta and by the counts, and how these change with beta, against mpmath.

    Counts of 1 and 2, whose powers of beta have derivatives by beta that are 0, are among them.
    """
    counts = np.array(counts, dtype)
    first = mode(lambda beta, n: class_weight_from_counts(n, beta=beta), (0, 1))
    both = jax.jit(lambda beta, n: (first(beta, n), jax.jacfwd(first)(beta, n)))
    for beta in np.array([0.1, 0.5, 0.75, 0.99, 1 - 2.0**-10], dtype):
        for order, actual in enumerate(both(beta, counts), 1):
            expected = differences(order, beta, *counts)
            if order == 1 or dtype == jnp.float64:
                atol = tolerance * np.abs(expected).max()
                np.testing.assert_allclose(np.column_stack(actual), expected, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999])
def test_effective_number(beta):
    """Cui et al. (2019), equations 1 to 6, with weights of mean 1: in float32 to rounding however near 1 beta is."""
    counts = np.array([1, 5, 50, 500, 5000, 500_000])
    share = (1 - np.longdouble(beta)) / (1 - np.longdouble(beta) ** counts)
    expected = (share / share.sum() * len(counts)).astype(float)
    np.testing.assert_allclose(class_weight_from_counts(counts, beta=beta), expected, rtol=2e-6)
    np.testing.assert_allclose(
        jax.jit(functools.partial(class_weight_from_counts, beta=beta))(counts), expected, rtol=2e-6
    )
    traced = jax.jit(lambda beta: class_weight_from_counts(counts.astype(float), beta=beta))(jnp.float64(beta))
    np.testing.assert_allclose(traced, expected, rtol=1e-9)


def test_beta_1_is_inverse_frequency():
    counts = np.array([1, 10, 100])
    inverse = class_weight_from_counts(counts)
    np.testing.assert_allclose(class_weight_from_counts(counts, beta=1), inverse * 3 / inverse.sum(), rtol=1e-6)
    np.testing.assert_array_equal(class_weight_from_counts(counts, beta=0), [1, 1, 1])
    checked = checkify.checkify(jax.jit(class_weight_from_counts), errors=checkify.all_checks)
    for beta in (0.0, 1.0):
        checked(counts, beta=jnp.float32(beta))[0].throw()  # no NaN and no division by zero on the way


def test_classes_that_do_not_occur_weigh_1():
    for beta in (None, 0.9, 0.0, 1.0):
        f = functools.partial(class_weight_from_counts, beta=beta)
        for transform in (lambda f: f, jax.jit):
            weight = transform(f)(jnp.array([0, 30, 10, 0]))
            np.testing.assert_array_equal(weight[jnp.array([0, 3])], [1, 1])
            np.testing.assert_allclose(weight[1:3], f(jnp.array([30, 10])), rtol=1e-6)
            np.testing.assert_array_equal(transform(f)(jnp.zeros(3, int)), [1, 1, 1])


def test_values_outside_the_domain():
    with pytest.raises(ValueError, match=r"pos_weight_from_labels: labels must lie in \[0, 1\], got values from -1"):
        pos_weight_from_labels(jnp.array([[0], [-1]]))
    assert np.isnan(jax.jit(pos_weight_from_labels)(jnp.array([[1.0], [-1.0]]))).all()
    with pytest.raises(ValueError, match="class_weight_from_counts: counts must be finite and not negative"):
        class_weight_from_counts([1, -1])
    assert np.isnan(jax.jit(class_weight_from_counts)(jnp.array([1, -1]))).any()
    assert np.isnan(class_weight_from_counts([1.0, NAN])).any()
    assert np.isnan(class_weight_from_counts([2, 1], beta=NAN)).all()
    for beta in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"class_weight_from_counts: beta must lie in \[0, 1\]"):
            class_weight_from_counts([1, 2], beta=beta)
        assert np.isnan(jax.jit(lambda beta: class_weight_from_counts(jnp.array([1, 2]), beta=beta))(beta)).all()
    with pytest.raises(ValueError, match="counts must have one axis"):
        class_weight_from_counts([[1, 2]])
    with pytest.raises(ValueError, match="pos_weight_from_labels: axis must lie in"):
        pos_weight_from_labels(jnp.zeros(3), axis=1)
    with pytest.raises(TypeError, match="pos_weight_from_labels: where must be a bool mask"):
        pos_weight_from_labels(jnp.zeros(3), where=jnp.ones(3))
