"""What is particular to cross-entropy over classes: labels, class axes, ignored and stray indices, tails."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify

from jaxbce import (
    Average,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    class_weight_from_counts,
    cross_entropy,
)
from tests import oracle
from tests.derivatives import assert_numerical_derivatives
from tests.settings import configured

INF, NAN = float("inf"), float("nan")
N, C = 6, 5
REDUCTIONS = ["none", "mean", "weighted_mean", "sum"]


def naive(logits, probs, class_weight=1.0):
    """-Σ u·y·log p over the last axis, in longdouble."""
    logits = np.asarray(logits, np.longdouble)
    log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    return -(class_weight * probs * (log_p - logits.max(-1, keepdims=True))).sum(-1)


def smoothed(probs, s):
    return probs * (1 - s) + s / probs.shape[-1]


def batch(rng, shape=(N, C), dtype=np.float32):
    return rng.normal(0, 4, shape).astype(dtype), rng.integers(0, shape[-1], shape[:-1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_indices_and_probabilities_are_the_definition(rng, weighted, s):
    """Under every reduction, by itself and all compiled in one."""
    x, t = batch(rng)
    t[0] = -100
    hard, soft = np.eye(C)[np.where(t < 0, 0, t)], rng.dirichlet(np.ones(C), N).astype(np.float32)
    u = rng.uniform(0.5, 3, C).astype(np.float32) if weighted else np.ones(C, np.float32)
    f = functools.partial(cross_entropy, class_weight=u if weighted else None, label_smoothing=s)

    def reduced(x, labels):
        return {reduction: f(x, labels, reduction=reduction) for reduction in REDUCTIONS}

    for labels, probs, included in ((t, hard, t >= 0), (soft, soft, np.ones(N, bool))):
        losses = np.where(included, naive(x, smoothed(probs, s), u), 0)
        weights = np.where(included, (u * probs).sum(-1), 0).sum()
        total = losses.sum()
        mean = total / (weights if labels is t else N)
        expected = {"none": losses, "sum": total, "mean": mean, "weighted_mean": total / weights}
        for actual in (reduced(x, labels), jax.jit(reduced)(x, labels)):
            for reduction in REDUCTIONS:
                np.testing.assert_allclose(actual[reduction], expected[reduction].astype(float), rtol=2e-6)


def test_an_index_is_a_one_hot_label(rng):
    x, t = batch(rng)
    u = rng.uniform(0.5, 3, C).astype(np.float32)
    for s, kind in itertools.product((0.0, 0.2), (np.float32, np.int32, bool)):
        one_hot = np.eye(C, dtype=kind)[t]
        f = functools.partial(cross_entropy, class_weight=u, label_smoothing=s, reduction="sum")
        np.testing.assert_allclose(f(x, t), f(x, one_hot), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(f)(x, t), jax.grad(f)(x, one_hot), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("t", "s"), [(0, 0.0), (1, 0.0), (0, 0.1), (1, 0.1)])
@pytest.mark.parametrize("labelled", [lambda t: t, lambda t: jnp.eye(2, dtype=jnp.float32)[t]], ids=["index", "probs"])
def test_two_classes_are_binary_cross_entropy_with_logits(t, s, labelled):
    """In both tails, in value, gradient and second derivative, forward and reverse."""
    magnitudes = [0.0, 1e-3, 1.0, 8.0, 17.0, 20.0, 87.0, 200.0, 1e30] + [INF] * (s == 0)
    x = jnp.float32([*magnitudes, *np.negative(magnitudes)])

    def ours(x):
        return cross_entropy(jnp.stack([jnp.zeros_like(x), x]), labelled(t), label_smoothing=s)

    def binary(x):
        return binary_cross_entropy_with_logits(x, t, label_smoothing=s)

    def equal(f, g):
        np.testing.assert_allclose(jax.jit(jax.vmap(f))(x), jax.jit(jax.vmap(g))(x), rtol=1e-6, atol=1e-38)

    equal(ours, binary)
    equal(jax.grad(ours), jax.grad(binary))
    equal(jax.jacfwd(ours), jax.grad(binary))
    equal(jax.grad(jax.grad(ours)), jax.grad(jax.grad(binary)))


def test_softmax_then_binary_cross_entropy_is_the_same_for_two_classes(rng):
    x, t = batch(rng, (N, 2), np.float64)
    probs = jax.nn.softmax(x)
    np.testing.assert_allclose(binary_cross_entropy(probs, np.eye(2)[t]), cross_entropy(x, t), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_in_ulp(dtype):
    """Against mpmath, at points drawn afresh: also where a sure and right prediction costs next to nothing."""
    rng = np.random.default_rng(np.random.SeedSequence())
    far = 20 if dtype == np.float32 else 150
    x = (rng.normal(0, 1, (300, C)) * rng.choice([0.1, 3, far], (300, 1))).astype(dtype)
    t = rng.integers(0, C, 300)

    def exact(row, t):
        row = [mpmath.mpf(float(value)) for value in row]
        target = row.pop(t)
        return mpmath.log1p(mpmath.fsum(mpmath.exp(value - target) for value in row))

    losses = jax.jit(functools.partial(cross_entropy, reduction="none"))(x, t)
    errors = oracle.ulps(losses, [exact(*point) for point in zip(x, t, strict=True)], dtype)
    slack = 1 if jax.default_backend() == "cpu" else 4
    # The differences x - max(x) are rounded to half an ulp of theirs, of which exp makes that many ulp of its own.
    spread = np.ptp(x, axis=-1)
    assert (errors <= (5 + spread) * slack).all()


def test_a_sure_prediction_keeps_its_loss_and_gradient():
    """log(1 + 2e-9) rounds to 0, and 1 - p with it: PyTorch's and optax's answers."""
    x = jnp.float32([0.0, 20.0, -1.0])
    s = np.exp(-20.0) + np.exp(-21.0)
    assert cross_entropy(x, 1) == pytest.approx(np.log1p(s), rel=1e-6)
    np.testing.assert_allclose(jax.grad(cross_entropy)(x, 1)[1], -s / (1 + s), rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(cross_entropy)(x, 1)[1, 1], s / (1 + s) ** 2, rtol=1e-6)


@pytest.mark.slow
def test_derivatives_in_every_argument_and_order(rng):
    x, soft = jnp.asarray(rng.normal(0, 2, (3, C))), jnp.asarray(rng.dirichlet(np.ones(C), 3))
    u, t = jnp.asarray(rng.uniform(0.5, 2, C)), jnp.asarray([0, 4, 2])

    def probabilities(x, y, u, s):
        return cross_entropy(x, y, class_weight=u, label_smoothing=s, reduction="weighted_mean")

    def indices(x, u, s):
        return cross_entropy(x, t, class_weight=u, label_smoothing=s)

    def one(x):
        return cross_entropy(x, 1)

    assert_numerical_derivatives(probabilities, (x, soft * 0.9 + 0.01, u, 0.2), order=2, tolerance=1e-5)
    assert_numerical_derivatives(indices, (x, u, 0.2), order=1, tolerance=1e-5)
    assert_numerical_derivatives(one, (x[0],), order=3, tolerance=1e-4)
    second = jax.jit(lambda x: [f(g(one))(x) for f, g in itertools.product((jax.jacfwd, jax.jacrev), repeat=2)])(x[0])
    for other in second[1:]:
        np.testing.assert_allclose(other, second[0], rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_impossible_classes_leave_finite_values_and_derivatives():
    """-inf on a class that is not the label: value, gradient, Hessian, forward and reverse."""
    x = jnp.float32([1.0, -INF, 0.5])
    without = x[jnp.array([0, 2])]
    for labels, rest in (
        (0, 0),
        (np.float32([1, 0, 0]), np.float32([1, 0])),
        (np.float32([0.3, 0, 0.7]), np.float32([0.3, 0.7])),
    ):
        np.testing.assert_allclose(cross_entropy(x, labels), cross_entropy(without, rest), rtol=1e-6)
        gradient = jax.grad(cross_entropy)(x, labels)
        np.testing.assert_allclose(gradient[jnp.array([0, 2])], jax.grad(cross_entropy)(without, rest), rtol=1e-6)
        assert gradient[1] == 0
        np.testing.assert_allclose(jax.jacfwd(cross_entropy)(x, labels), gradient, rtol=1e-6)
        assert np.isfinite(jax.hessian(cross_entropy)(x, labels)).all()
    assert cross_entropy(x, 1) == INF
    np.testing.assert_allclose(
        jax.grad(cross_entropy)(x, 1), [*jax.nn.softmax(without)[:1], -1, jax.nn.softmax(without)[1]], rtol=1e-6
    )
    assert cross_entropy(x, 0, label_smoothing=0.1) == INF


def test_infinite_logits():
    assert cross_entropy([0.0, INF, 1.0], 1) == 0
    assert cross_entropy([0.0, INF, 1.0], 0) == INF
    for dtype in (np.float32, np.float64):
        most = np.nextafter(np.finfo(dtype).max, dtype(0))
        assert cross_entropy(np.array([INF, most], dtype), 1) == INF
        assert cross_entropy(np.array([INF, most], dtype), 0) == 0
    np.testing.assert_array_equal(jax.grad(cross_entropy)(jnp.float32([0, INF, 1]), 0), [-1, 1, 0])
    np.testing.assert_array_equal(jax.grad(cross_entropy)(jnp.float32([0, INF, 1]), 1), [0, 0, 0])
    for undefined in ([INF, INF, 0.0], [-INF, -INF, -INF], [NAN, 0.0, 1.0]):
        x = jnp.float32(undefined)
        for labels in (0, 1, 2, np.float32([0, 1, 0]), np.float32([0.25, 0.25, 0.5])):
            assert np.isnan(cross_entropy(x, labels))
            assert np.isnan(jax.grad(cross_entropy)(x, labels)).any()


def test_the_slope_changes_with_weights_and_probabilities(rng):
    """∂²ℓ/∂x∂u and ∂²ℓ/∂x∂y, in forward mode: what is not perturbed takes no part."""
    x, t = batch(rng)
    p = np.asarray(jax.nn.softmax(x))

    def slope(labels, weight):
        return jax.grad(lambda x: cross_entropy(x, labels, class_weight=weight, reduction="sum"))(x)

    u = jnp.ones(C, jnp.float32)
    by_weight = jax.jit(jax.jacfwd(lambda u: slope(t, u)))(u)
    each = p - np.eye(C)[t]
    np.testing.assert_allclose(by_weight, each[..., None] * np.eye(C)[t][:, None], rtol=1e-5, atol=1e-7)
    by_label = jax.jit(jax.jacfwd(lambda y: slope(y, u)))(jnp.full((N, C), 1 / C, jnp.float32))
    expected = np.einsum("nm,nkc->nkmc", np.eye(N), p[..., None] - np.eye(C))
    np.testing.assert_allclose(by_label, expected, rtol=1e-5, atol=1e-7)


def test_ties_share():
    x = jnp.zeros(4, jnp.float32)
    assert cross_entropy(x, 2) == pytest.approx(np.log(4), rel=1e-6)
    np.testing.assert_allclose(jax.grad(cross_entropy)(x, 2), [0.25, 0.25, -0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(cross_entropy)(x, 2), np.eye(4) / 4 - 1 / 16, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 4, 2, 16, 12, 1), 3), ((4, 8, 4, 3, 3, 4, 8, 3), 5)])
@pytest.mark.parametrize("indices", [True, False])
def test_many_axes(rng, shape, axis, indices):
    """XLA on CPU, jaxlib 0.10.2: sums over classes at rank 7 and 8 were a segmentation fault, and ended the process."""
    classes = shape[axis]
    x, u = rng.normal(size=shape).astype(np.float32), np.linspace(1, 2, classes, dtype=np.float32)
    probs = np.asarray(jax.nn.softmax(rng.normal(size=shape).astype(np.float32), axis))

    def flat(array):
        return np.moveaxis(array, axis, -1).reshape(-1, classes)

    def step(x, labels, class_axis):
        loss = functools.partial(cross_entropy, class_weight=u, label_smoothing=0.1, class_axis=class_axis)
        return loss(x, labels), *jax.value_and_grad(loss)(x, labels)

    labels, flat_labels = (probs.argmax(axis), flat(probs).argmax(-1)) if indices else (probs, flat(probs))
    *values, gradient = step(x, labels, axis)
    *expected, flat_gradient = step(flat(x), flat_labels, -1)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(flat(gradient), flat_gradient, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("axis", range(-4, 4))
def test_class_axis(rng, axis):
    x, t = rng.normal(0, 2, (2, 3, 4, C)), rng.integers(0, C, (2, 3, 4))
    soft, u = rng.dirichlet(np.ones(C), (2, 3, 4)), rng.uniform(0.5, 2, C)
    mask = rng.random((3, 4)) < 0.7
    options = {"class_weight": u, "label_smoothing": 0.1, "where": mask, "reduction": "none"}
    for labels in (t, soft):
        moved = labels if labels is t else np.moveaxis(labels, -1, axis)
        actual = cross_entropy(np.moveaxis(x, -1, axis), moved, class_axis=axis, **options)
        np.testing.assert_allclose(actual, cross_entropy(x, labels, **options), rtol=1e-12)


def test_axis_counts_without_the_classes(rng):
    x, t = rng.normal(0, 2, (2, C, 3, 4)), rng.integers(0, C, (2, 3, 4))
    t[0, 0] = -100
    losses = cross_entropy(x, t, class_axis=1, reduction="none")
    for axis in (0, -1, (1, 2), ()):
        each = cross_entropy(x, t, class_axis=1, axis=axis)
        number = (t != -100).sum(axis)
        expected = np.where(number == 0, 0, np.asarray(losses).sum(axis) / np.maximum(number, 1))
        np.testing.assert_allclose(each, expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("ignore_index", [-100, 2, 0, -1, None])
def test_ignored_is_masked(rng, ignore_index):
    x, t = batch(rng)
    included = np.arange(N) % 2 == 0
    t = np.where(included, np.where(t == ignore_index, 1, t), ignore_index or 0)
    x = np.where(included[:, None] | (ignore_index is None), x, NAN)
    f = functools.partial(cross_entropy, class_weight=np.arange(1.0, 6.0), label_smoothing=0.1)

    def derivatives(t, **options):
        """Both reductions, compiled in one."""

        def loss(x, t, reduction):
            losses = f(x, t, reduction=reduction, **options)
            return losses.sum(), losses

        gradient = jax.value_and_grad(loss, has_aux=True)
        return jax.jit(lambda x, t: [gradient(x, t, reduction) for reduction in ("none", "mean")])(x, t)

    where = True if ignore_index is None else included
    actual = derivatives(t, ignore_index=ignore_index)
    chex.assert_trees_all_equal(actual, derivatives(np.maximum(t, 0), ignore_index=None, where=where))
    chex.assert_tree_all_finite(actual)
    np.testing.assert_array_equal(f(x, t, ignore_index=ignore_index), actual[1][0][1])


def test_masks_hide_anything(rng):
    x, t = batch(rng)
    mask = np.array([True, False, True, True, False, True])
    for labels, poison in ((t, 77), (np.eye(C, dtype=np.float32)[t], NAN)):
        poisoned = np.where(mask.reshape(-1, *[1] * (labels.ndim - 1)), labels, poison)
        expected = jax.value_and_grad(cross_entropy)(x[mask], labels[mask])
        eager = jax.value_and_grad(functools.partial(cross_entropy, where=mask))
        compiled = jax.jit(eager)
        for f, bad in ((eager, NAN), (compiled, NAN), (compiled, INF), (compiled, -INF)):
            value, gradient = f(np.where(mask[:, None], x, np.float32(bad)), poisoned)
            np.testing.assert_allclose(value, expected[0], rtol=1e-6)
            np.testing.assert_allclose(gradient[mask], expected[1], rtol=1e-5, atol=1e-7)
            assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bool_probabilities_let_no_bad_number_through(bad):
    """A number times a converted bool is a select to XLA, in which a NaN is lost where the bool is False."""
    y = np.asarray([[False, False, False], [True, False, False]])
    losses = jax.jit(lambda x, y, u: cross_entropy(x, y, class_weight=u, reduction="none"))
    assert np.isnan(losses(jnp.zeros((2, 3)), y, jnp.asarray([1.0, bad, 1.0]))).all()
    one = jax.jit(functools.partial(cross_entropy, reduction="none"))(jnp.asarray([[np.nan], [0.0]]), y[:, 1:2])
    np.testing.assert_array_equal(np.isnan(one), [True, False])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(500, 10), (1024, 10), (41, 101), (1040, 16), (70, 1000), (5, 5000)])
def test_a_nan_logit_of_any_class_gets_through(rng, shape):
    """In the loops that reduce many logits XLA on CPU may drop a NaN in `maximum` and `minimum`."""
    x, t = jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(rng.integers(0, shape[1], shape[0]))
    soft = jax.nn.one_hot(t, shape[1], dtype=jnp.float32)

    @jax.jit
    def programs(a, b, c, d):
        """The arguments of each are others to the compiler, so that it shares nothing."""
        value, slope = jax.value_and_grad(cross_entropy)(d, t)
        none = cross_entropy(c, t, reduction="none", label_smoothing=0.1)
        return cross_entropy(a, t), cross_entropy(b, soft), jnp.sum(none), value, slope

    assert not any(np.isnan(found).any() for found in programs(x, x, x, x))
    for row, of_label in itertools.product((0, 3, shape[0] - 1), (True, False)):
        at = row, (t[row] + (0 if of_label else 1)) % shape[1]
        bad = x.at[at].set(jnp.nan)
        *values, slope = programs(bad, bad, bad, bad)
        assert np.isnan(values).all(), (at, values)
        assert np.isnan(slope[at])


def test_what_is_masked_is_no_nan_to_debug():
    x, mask = jnp.float32([[2, 1], [NAN, NAN]]), np.array([True, False])
    with configured(jax_debug_nans=True):
        value, gradient = jax.value_and_grad(cross_entropy)(x, jnp.array([0, 1]), where=mask)
    np.testing.assert_allclose(value, np.log1p(np.exp(-1)), rtol=1e-6)
    assert (gradient[1] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_included_is_0_with_gradient_0(reduction):
    x = jnp.full((3, C), NAN)

    def f(x, **options):
        return cross_entropy(x, -100, reduction=reduction, **options).sum()

    for options in ({}, {"where": False, "ignore_index": None}, {"class_weight": jnp.ones(C)}):
        value, gradient = jax.value_and_grad(functools.partial(f, **options))(x)
        assert value == 0
        assert (gradient == 0).all()
    assert cross_entropy(jnp.zeros((2, C)), 1, class_weight=jnp.zeros(C), reduction=reduction).sum() == 0


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_a_mean_of_no_weight_is_0_whatever_smoothing_leaves(reduction):
    """The classes that no label names have weight, and a part of every smoothed label."""

    def mean(x, label=0):
        weight = np.array([0.0, 1, 1])
        return cross_entropy(x, label, class_weight=weight, label_smoothing=0.1, reduction=reduction)

    for x in ([[1.0, 2, 3]] * 4, [[INF, 2, 3]]):
        value, gradient = jax.value_and_grad(mean)(jnp.array(x))
        assert value == 0
        assert (gradient == 0).all()
    for unknown in ([[NAN, 2, 3]], [[INF, INF, 3]]):
        assert np.isnan(mean(jnp.array(unknown)))
    assert np.isnan(jax.jit(mean)(jnp.zeros((1, 3)), 7))


def test_empty_batches():
    empty = jnp.zeros((0, C), jnp.float32)
    assert np.isnan(cross_entropy(empty, jnp.zeros(0, jnp.int32)))
    assert cross_entropy(empty, jnp.zeros(0, jnp.int32), reduction="sum") == 0
    assert cross_entropy(empty, empty, reduction="none").shape == (0,)


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_indices_of_every_dtype(rng, dtype):
    """Neither -100 nor the number of classes may wrap around in the dtype of the index."""
    x = rng.normal(size=(2, 300)).astype(np.float32)
    t = np.array([0, 126], dtype)
    expected = cross_entropy(x, np.array([0, 126]), reduction="none")
    np.testing.assert_array_equal(cross_entropy(x, t, reduction="none"), expected)
    if np.issubdtype(dtype, np.unsignedinteger):
        wrapped = np.array([-100], np.int64).astype(dtype)  # 156 in uint8: a class; else far outside
        if dtype == np.uint8:
            assert cross_entropy(x[:1], wrapped) == cross_entropy(x[:1], np.array([156]))
        else:
            with pytest.raises(ValueError, match="class indices"):
                cross_entropy(x[:1], wrapped)
            assert np.isnan(jax.jit(cross_entropy)(x[:1], wrapped))


def test_64_bit_indices_are_not_cut_off_to_32():
    """Without x64, 2³² + 1 would be class 1."""
    x, t = np.zeros((2, 3), np.float32), np.array([1, 2**32 + 1])
    with configured(jax_enable_x64=False):
        with pytest.raises(ValueError, match="cross_entropy: labels must fit int32, got int64 from 1 to 4294967297"):
            cross_entropy(x, t)
        with pytest.raises(ValueError, match="class_weight_from_counts: counts must fit int32"):
            class_weight_from_counts(np.array([2**32 + 10, 10]))
        with pytest.raises(ValueError, match="binary_cross_entropy_with_logits: labels must fit int32"):
            binary_cross_entropy_with_logits(np.zeros(2, np.float32), t)
        with pytest.raises(ValueError, match="cross_entropy: labels must fit"):
            cross_entropy(x, list(t))
        with pytest.raises(ValueError, match="cross_entropy: labels must fit int32"):
            cross_entropy(x[:, None], [t[:1], t[1:]])
        with pytest.raises(ValueError, match="cross_entropy: labels must fit int32"):
            jax.jit(lambda zero: cross_entropy(x, [zero, t[1]]))(0)
        assert cross_entropy(x, list(np.array([1, 2]))) == pytest.approx(np.log(3), rel=1e-6)
        assert cross_entropy(x, np.array([1, 2])) == pytest.approx(np.log(3), rel=1e-6)


STRAYS = [-1, C, 2**31 - 1, -(2**31)]


def with_stray(rng, stray):
    x, t = batch(rng)
    t = t.astype(np.int32)
    t[2] = stray
    return x, t


@pytest.mark.parametrize("stray", STRAYS)
def test_indices_out_of_range_are_refused(rng, stray):
    x, t = with_stray(rng, stray)
    with pytest.raises(
        ValueError, match=rf"cross_entropy: labels must be class indices in \[0, {C}\), got values from"
    ):
        cross_entropy(x, t)
    error, _ = checkify.checkify(jax.jit(cross_entropy), errors=checkify.user_checks)(x, t)
    assert f"[0, {C})" in error.get()
    mask = np.arange(N) != 2
    masked = jax.jit(functools.partial(cross_entropy, where=mask))
    error, value = checkify.checkify(masked, errors=checkify.user_checks)(x, t)
    assert error.get() is None
    np.testing.assert_allclose(value, cross_entropy(x[mask], t[mask]), rtol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_indices_out_of_range_never_cost_what_another_class_costs(rng, reduction):
    f = functools.partial(cross_entropy, class_weight=jnp.ones(C), label_smoothing=0.1, reduction=reduction)
    loss, gradient = jax.jit(f), jax.jit(jax.grad(lambda x, t: f(x, t).sum()))
    for stray in STRAYS:
        x, t = with_stray(rng, stray)
        assert np.isnan(loss(x, t) if reduction != "none" else loss(x, t)[2])
        slope = np.asarray(gradient(x, t))
        assert np.isnan(slope[2]).all()
        if reduction in ("none", "sum"):
            assert np.isfinite(np.delete(slope, 2, 0)).all()


@pytest.mark.parametrize("masked", [False, True])
def test_ignored_indices_reach_no_gradient_of_the_weights(masked):
    """NaN in what a mask hides is 0·NaN in the gradient of whatever multiplies it."""
    x, t = jnp.float32([[1, 2], [0, 3]]), jnp.array([1, -1 if masked else -100])
    where = jnp.array([True, not masked])

    def loss(u, s):
        return cross_entropy(x, t, class_weight=u, label_smoothing=s, where=where, reduction="sum")

    def first(u, s):
        return cross_entropy(x[:1], t[:1], class_weight=u, label_smoothing=s, reduction="sum")

    for transform in (lambda f: f, jax.jit):
        actual = transform(jax.grad(loss, (0, 1)))(jnp.float32([1, 2]), jnp.float32(0.1))
        chex.assert_trees_all_close(actual, jax.grad(first, (0, 1))(jnp.float32([1, 2]), jnp.float32(0.1)), rtol=1e-6)


def test_optax_and_jax_agree_where_they_are_numbers(rng):
    x, t = batch(rng, (N, C), np.float64)
    soft = rng.dirichlet(np.ones(C), N)
    expected = optax.softmax_cross_entropy_with_integer_labels(x, t)
    np.testing.assert_allclose(cross_entropy(x, t, reduction="none"), expected, rtol=1e-12)
    np.testing.assert_allclose(
        cross_entropy(x, soft, reduction="none"), optax.softmax_cross_entropy(x, soft), rtol=1e-12
    )


def test_dtypes(rng):
    x, t = batch(rng)
    for dtype, result in (
        (jnp.bfloat16, np.float32),
        (jnp.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
    ):
        for labels in (t, np.eye(C)[t]):
            value, gradient = jax.value_and_grad(cross_entropy)(jnp.asarray(x, dtype), labels, class_weight=np.ones(C))
            chex.assert_type(value, result)
            chex.assert_type(gradient, dtype)
            assert not value.weak_type


def test_an_average_of_weighted_losses(rng):
    """Over unequal batches: the sums of losses and of the weights of their labels."""
    x, t = batch(rng)
    u = jnp.asarray(rng.uniform(0.5, 3, C), jnp.float32)
    parts = [slice(0, 2), slice(2, N)]
    sums = [Average(cross_entropy(x[p], t[p], class_weight=u, reduction="sum"), u[t[p]].sum()) for p in parts]
    np.testing.assert_allclose(sum(sums).value, cross_entropy(x, t, class_weight=u), rtol=1e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_random_calls_meet_the_definition(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4), label="shape"))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), label="class_axis")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    x = rng.normal(0, 5, shape).astype(np.float32)
    classes = shape[axis]
    entries = tuple(np.delete(shape, axis % len(shape)))
    t = rng.integers(0, classes, entries)
    indices = data.draw(st.booleans(), label="indices")
    s = data.draw(st.sampled_from([0.0, 0.25, 1.0]), label="smoothing")
    u = rng.uniform(0, 3, classes).astype(np.float32) if data.draw(st.booleans(), label="weighted") else None
    mask = rng.random(entries) < 0.7 if data.draw(st.booleans(), label="masked") else np.ones(entries, bool)
    reduction = data.draw(st.sampled_from(REDUCTIONS), label="reduction")
    probs = np.eye(classes)[t] if indices else rng.random((*entries, classes)).astype(np.float32)
    labels = t if indices else np.moveaxis(probs, -1, axis)
    weights = np.where(mask, ((1 if u is None else u.astype(float)) * probs).sum(-1), 0)
    losses = naive(np.moveaxis(x, axis, -1), smoothed(probs, s), 1.0 if u is None else u.astype(float))
    losses = np.where(mask, losses, 0).astype(float)
    number = weights.sum() if reduction == "weighted_mean" or indices else mask.sum()
    mean = losses.sum() / number if number else 0.0
    expected = {"none": losses, "sum": losses.sum()}.get(reduction, mean)
    f = functools.partial(
        cross_entropy, class_axis=axis, class_weight=u, label_smoothing=s, where=mask, reduction=reduction
    )
    np.testing.assert_allclose(f(x, labels), expected, rtol=5e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jit(f)(x, labels), expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "text", "arguments", "options"),
    [
        (TypeError, "logits must be floating", ([[1, 2]], [0]), {}),
        (TypeError, "class indices must be integers", ([[1.0, 2.0]], [0.0]), {}),
        (TypeError, "class indices must be integers", ([[1.0, 2.0]], [True]), {}),
        (TypeError, "where must be a bool mask", ([[1.0, 2.0]], [0]), {"where": [1]}),
        (TypeError, "class_axis must be an integer", ([[1.0, 2.0]], [0]), {"class_axis": 0.5}),
        (TypeError, "ignore_index must be an integer", ([[1.0, 2.0]], [0]), {"ignore_index": 0.5}),
        (
            ValueError,
            r"indices of shape \(2,\) .* probabilities of shape \(2, 3\), got shape \(2, 1\)",
            (np.zeros((2, 3)), np.zeros((2, 1), int)),
            {},
        ),
        (ValueError, r"got shape \(3,\)", (np.zeros((2, 3)), np.zeros(3, int)), {}),
        (ValueError, "class_axis must be an axis of logits", (np.zeros((2, 3)), [0, 1]), {"class_axis": 2}),
        (ValueError, "class_axis must be an axis of logits", (1.0, 0), {}),
        (ValueError, "at least one class", (np.zeros((2, 0)), [0, 1]), {}),
        (ValueError, r"class_weight must have shape \(3,\)", (np.zeros((2, 3)), [0, 1]), {"class_weight": [1.0, 2.0]}),
        (
            ValueError,
            "class_weight must be finite and not negative",
            (np.zeros((2, 2)), [0, 1]),
            {"class_weight": [1.0, -2.0]},
        ),
        (
            ValueError,
            "where must be a scalar or broadcast",
            (np.zeros((2, 3)), [0, 1]),
            {"where": np.ones((2, 3), bool)},
        ),
        (
            ValueError,
            "ignore_index needs labels that are class indices",
            (np.zeros((2, 3)), np.zeros((2, 3))),
            {"ignore_index": 0},
        ),
        (ValueError, r"labels must lie in \[0, 1\]", (np.zeros((1, 2)), [[0.0, 1.5]]), {}),
        (ValueError, r"label_smoothing must lie in \[0, 1\]", (np.zeros((1, 2)), [0]), {"label_smoothing": -0.1}),
        (ValueError, "axis must lie in", (np.zeros((2, 3)), [0, 1]), {"axis": 1}),
        (ValueError, "reduction must be one of", (np.zeros((2, 3)), [0, 1]), {"reduction": "batchmean"}),
    ],
)
def test_refusals(error, text, arguments, options):
    with pytest.raises(error, match=f"cross_entropy: .*{text}|cross_entropy: {text}"):
        cross_entropy(*arguments, **options)


@pytest.mark.parametrize("classes", [3, 5_000])
def test_a_weight_outside_its_domain_is_nan_whatever_the_labels(classes):
    """Also where no label is of its class: what `jit` returns is no number where an eager call refuses."""
    x, t, u = jnp.ones((2, classes), jnp.float32), jnp.array([1, 0]), jnp.ones(classes, jnp.float32)

    @jax.jit
    def losses(u):
        probs = jax.nn.one_hot(t, classes, dtype=jnp.float32)
        return jnp.stack([cross_entropy(x, y, class_weight=u, reduction="none") for y in (t, probs, probs > 0)])

    for wrong in (-5.0, INF, NAN):
        assert np.isnan(losses(u.at[2].set(wrong))).all()
    assert np.isfinite(losses(u.at[2].set(3e38))).all()


EXTREMES = np.float32(
    [
        [3.0, -20.0, -25.0],  # sure
        [-20.0, 3.0, 3.0],  # two maxima
        [0.0, 0.0, 0.0],
        [INF, 1.0, 2.0],  # certain
        [INF, INF, 2.0],  # no distribution
        [-INF, 1.0, 2.0],
        [-INF, -INF, -INF],
        [3e38, -3e38, 3e38],
    ]
)


@pytest.mark.slow
@pytest.mark.parametrize("class_axis", [0, 1])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_class_by_class_is_all_at_once(rng, kind, class_axis):
    """Few classes of a multiple of 16 entries are taken one by one; of eight entries they are not."""
    x = np.concatenate([np.repeat(EXTREMES, 3, 0), batch(rng, (8, 3))[0]])  # [32, 3], each extreme with every label
    t = np.arange(32) % 3
    labels = t if kind == "indices" else np.where(np.arange(3) == t[:, None], 1, 0).astype(np.float32)

    @jax.jit
    def everything(x, labels):
        def loss(x):
            y = labels.T if class_axis == 0 else labels  # of indices itself
            return cross_entropy(x.T if class_axis == 0 else x, y, class_axis=class_axis, reduction="none")

        gradient = jax.grad(lambda x: loss(x).sum())
        along = jnp.broadcast_to(jnp.float32([[1, 2, 4]]), x.shape)
        return loss(x), *jax.jvp(gradient, (x,), (along,))

    together = everything(x, labels)
    parts = [everything(x[i : i + 8], labels[i : i + 8]) for i in range(0, 32, 8)]
    assert any(np.isnan(together[0]))
    assert any(np.isinf(together[0]))
    for whole, *pieces in zip(together, *parts, strict=True):
        np.testing.assert_allclose(whole, np.concatenate(pieces), rtol=3e-6, atol=1e-37)
