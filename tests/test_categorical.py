"""What is particular to cross-entropy over classes: labels, class axes, ignored and stray indices, tails."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.experimental import checkify

from jaxbce import binary_cross_entropy_with_logits, class_weight_from_counts, cross_entropy
from tests import oracle
from tests.settings import configured

INF, NAN = float("inf"), float("nan")
N, C = 6, 5
REDUCTIONS = ["none", "mean", "weighted_mean", "sum"]


def batch(rng, shape=(N, C), dtype=np.float32):
    return rng.normal(0, 4, shape).astype(dtype), rng.integers(0, shape[-1], shape[:-1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_indices_and_probabilities_are_the_definition(rng, weighted, s):
    """Under every reduction, by itself and all compiled in one."""
    x, t = batch(rng)
    t[0] = -100
    soft = rng.dirichlet(np.ones(C), N).astype(np.float32)
    options = {"class_weight": rng.uniform(0.5, 3, C).astype(np.float32) if weighted else None, "label_smoothing": s}

    def reduced(x, labels, loss=cross_entropy):
        return [loss(x, labels, reduction=reduction, **options) for reduction in REDUCTIONS]

    for labels in (t, soft):
        expected = reduced(x, labels, oracle.naive_cross_entropy)
        for actual in (reduced(x, labels), jax.jit(reduced)(x, labels)):
            chex.assert_trees_all_close(jax.tree.map(np.float64, actual), expected, rtol=2e-6)


def test_an_index_is_a_one_hot_label(rng):
    x, t = batch(rng)
    u = rng.uniform(0.5, 3, C)  # whose dtype does not decide
    for s, kind in itertools.product((0.0, 0.2), (np.float32, np.int32, bool)):
        step = jax.value_and_grad(functools.partial(cross_entropy, class_weight=u, label_smoothing=s, reduction="sum"))
        (value, slope), (expected, expected_slope) = step(x, t), step(x, np.eye(C, dtype=kind)[t])
        assert value.dtype == expected.dtype == slope.dtype == np.float32
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [lambda t: t, lambda t: jnp.eye(2, dtype=jnp.float32)[t]], ids=["index", "probs"])
def test_two_classes_are_binary_cross_entropy_with_logits(labelled):
    """In both tails to the relative error of each entry, in value, gradient and second derivative."""
    magnitudes = [0.0, 1e-3, 1.0, 8.0, 17.0, 20.0, 87.0, 200.0, 1e30]
    x = jnp.float32([*magnitudes, *np.negative(magnitudes)])

    def ours(x, t, s):
        return cross_entropy(jnp.stack([jnp.zeros_like(x), x]), labelled(t), label_smoothing=s)

    def binary(x, t, s):
        return binary_cross_entropy_with_logits(x, t, label_smoothing=s)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(loss):
        found = [loss, jax.grad(loss), jax.grad(jax.grad(loss))]
        cases = itertools.product((0, 1), (0.0, 0.1))
        return [[jax.vmap(functools.partial(f, t=t, s=s))(x) for f in found] for t, s in cases]

    chex.assert_trees_all_close(derivatives(ours), derivatives(binary), rtol=1e-6, atol=1e-38)


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


@pytest.mark.parametrize("axis", [0, 1, -2, -4])
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


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_included_is_0_with_gradient_0(reduction):
    x = jnp.full((3, C), NAN)

    def f(x, **options):
        return cross_entropy(x, -100, reduction=reduction, **options).sum()

    for options in ({}, {"class_weight": jnp.ones(C)}):
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
    for included in (value, cross_entropy(x, t, where=mask)):
        np.testing.assert_allclose(included, cross_entropy(x[mask], t[mask]), rtol=1e-6)


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


X, T = np.zeros((2, 3)), np.array([0, 1])
EITHER = r"indices of shape \(2,\) .* probabilities of shape \(2, 3\), got shape"
REFUSALS = [
    (TypeError, "logits must be floating", X.astype(int), T, {}),
    (TypeError, "class indices must be integers", X, T * 1.0, {}),
    (TypeError, "class indices must be integers", X, T > 0, {}),
    (TypeError, "where must be a bool mask", X, T, {"where": T}),
    (TypeError, "class_axis must be an integer", X, T, {"class_axis": 0.5}),
    (TypeError, "ignore_index must be an integer", X, T, {"ignore_index": 0.5}),
    (ValueError, rf"{EITHER} \(2, 1\)", X, T[:, None], {}),
    (ValueError, rf"{EITHER} \(3,\)", X, np.zeros(3, int), {}),
    (ValueError, "class_axis must be an axis of logits", X, T, {"class_axis": 2}),
    (ValueError, "class_axis must be an axis of logits", 1.0, 0, {}),
    (ValueError, "at least one class", X[:, :0], T, {}),
    (ValueError, r"class_weight must have shape \(3,\)", X, T, {"class_weight": [1.0, 2.0]}),
    (ValueError, "class_weight must be finite and not negative", X, T, {"class_weight": [1.0, -2.0, 1.0]}),
    (ValueError, "where must be a scalar or broadcast", X, T, {"where": X == 0}),
    (ValueError, "ignore_index needs labels that are class indices", X, X, {"ignore_index": 0}),
    (ValueError, r"labels must lie in \[0, 1\]", X, X + 1.5, {}),
]


@pytest.mark.parametrize(("error", "text", "x", "labels", "options"), REFUSALS)
def test_refusals(error, text, x, labels, options):
    with pytest.raises(error, match=f"cross_entropy: .*{text}|cross_entropy: {text}"):
        cross_entropy(x, labels, **options)


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
