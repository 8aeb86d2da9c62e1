"""What holds for every loss of the table."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from tests import oracle
from tests.derivatives import assert_numerical_derivatives
from tests.losses import FAMILIES, LOSSES

SHAPE = (4, 5)
REDUCTIONS = ["none", "mean", "weighted_mean", "sum"]
PREDICTION_OPTIONS = ("pos_weight", "label_smoothing")

every_row = pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.name)
every_loss = pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
every_weighted_loss = pytest.mark.parametrize(
    "row", [row for row in FAMILIES if row.takes("weight")], ids=lambda row: row.name
)
every_symmetric_loss = pytest.mark.parametrize(
    "row", [row for row in FAMILIES if row.complement], ids=lambda row: row.name
)


def close(actual, expected, tolerance=2e-6):
    """Equal to rounding: a few float32 ulp of the largest entry (sums and soft labels cancel)."""
    expected = np.asarray(expected, np.float64)
    scale = np.max(np.abs(expected), initial=0)
    chex.assert_trees_all_close(np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance * scale)


def batch(row, rng, dtype=jnp.float32):
    x = jnp.asarray(row.draw(rng, SHAPE), dtype)
    y = jnp.asarray(rng.choice([0, 1, 0.25, 0.9], SHAPE), dtype)
    return x, y


def options(row, rng):
    """Every option of a loss on its own, in every shape it may have, and all of them together."""

    def positive(*shape):
        return jnp.asarray(rng.uniform(0.1, 4.0, shape), jnp.float32)

    mask = rng.random(SHAPE) < 0.6
    every = [
        {"pos_weight": 3.0},
        {"pos_weight": jnp.float32(0.5)},
        {"pos_weight": positive(SHAPE[-1])},
        {"pos_weight": positive(*SHAPE)},
        {"weight": 2},
        {"weight": positive(SHAPE[-1])},
        {"weight": positive(SHAPE[0], 1)},
        {"label_smoothing": 0.1},
        {"label_smoothing": 1},
        {"where": mask},
        {"where": mask[:, :1]},
        {"pos_weight": positive(SHAPE[-1]), "weight": positive(SHAPE[0], 1), "label_smoothing": 0.2, "where": mask},
    ]
    given = [{}, *filter(None, map(row.known, every))]
    # A function's second row has other parameters; how options come in shapes is the function's, and the first row's.
    return [given[0], given[-1]] if row.bound else given


def split(given_options):
    """The options of the definition of one entry, and those of the reduction."""
    entry = {k: v for k, v in given_options.items() if k in PREDICTION_OPTIONS}
    return entry, {k: v for k, v in given_options.items() if k not in PREDICTION_OPTIONS}


@every_row
def test_value_is_the_definition(row, rng):
    """Every option under two of the reductions, in turn, and so with axes."""
    x, y = batch(row, rng)
    reductions, axes = itertools.cycle(REDUCTIONS), itertools.cycle([None, 0, -1, (0, 1), ()])
    cases = [given_options for given_options in options(row, rng) for _ in range(2)] + [{}] * 2
    for given_options, reduction, axis in zip(cases, reductions, axes, strict=False):
        axis = None if reduction == "none" else axis
        actual = row(x, y, axis=axis, reduction=reduction, **given_options)
        expected = row.expected(x, y, axis=axis, reduction=reduction, **given_options)
        chex.assert_shape(actual, expected.shape)
        close(actual, expected)


@every_row
def test_gradient_and_hessian_are_the_closed_forms(row, rng):
    x, y = batch(row, rng)
    every = options(row, rng)

    @jax.jit
    def derivatives(x):
        losses = [functools.partial(row, reduction="sum", **given_options) for given_options in every]
        return [jax.jvp(lambda x, f=loss: jax.grad(f)(x, y), (x,), (jnp.ones_like(x),)) for loss in losses]

    for given_options, (gradient, curvature) in zip(every, derivatives(x), strict=True):
        entry, weighted = split(given_options)
        close(gradient, oracle.reduce(row.entries(1, x, y, **entry), **weighted, reduction="none"))
        close(curvature, oracle.reduce(row.entries(2, x, y, **entry), **weighted, reduction="none"))


@pytest.mark.slow
@every_loss
def test_derivatives_in_every_argument_and_order(row, rng):
    x, y = batch(row, rng, jnp.float64)
    x = x * 0.4 + 0.3  # steep slopes would drown the finite differences
    w, v = jnp.asarray(rng.uniform(0.5, 2, SHAPE[-1])), jnp.asarray(rng.uniform(0.5, 2, SHAPE))

    def loss(x, y, w, v):
        return row(x, y * 0.8 + 0.1, pos_weight=w, weight=v, label_smoothing=0.1, reduction="weighted_mean")

    def plain(x):
        return row(x, y[0])

    # Finite differences cost much compilation. Without pos_weight, second derivatives are held against the
    # closed forms and one another alone, and derivatives by what a loss has of its own are tested beside it.
    full = row.takes("pos_weight")
    assert_numerical_derivatives(loss, (x, y, w, v), order=2 if full else 1, tolerance=1e-5)
    assert_numerical_derivatives(plain, (x[0],), order=3 if full else 2, tolerance=1e-4)


@pytest.mark.slow
@every_loss
def test_forward_reverse_and_mixed_derivatives_agree(row, rng):
    x, y = (a[0] for a in batch(row, rng, jnp.float64))
    flat, unravel = ravel_pytree((x, y, jnp.float64(1.5), jnp.asarray(rng.uniform(0.5, 2, x.shape))))

    def loss(flat):
        x, y, w, v = unravel(flat)
        return row(x, y * 0.8 + 0.1, pos_weight=w, weight=v, label_smoothing=0.1, reduction="weighted_mean")

    # Along directions that are zero nowhere: whole Hessians would take four times as long to trace and compile.
    u, v = jnp.asarray(rng.normal(size=(2, *flat.shape)))

    def forward(f, along):
        return lambda flat: jax.jvp(f, (flat,), (along,))[1]

    def reverse(f, along):
        """What `forward` gives too where derivatives are symmetric: the gradient of f along `along`."""
        return jax.grad(lambda flat: jnp.vdot(f(flat), along))

    @jax.jit
    def derivatives(flat):
        slope = jax.grad(loss)
        second = [forward(slope, u), reverse(slope, u), jax.grad(forward(loss, u))]
        third = [mode(second[0], v) for mode in (forward, reverse)]
        return [f(flat) for f in second], [f(flat) for f in third], forward(forward(loss, u), v)(flat)

    second, third, twice_forward = derivatives(flat)
    for others in (second, third):
        for other in others[1:]:
            close(other, others[0], 1e-13)
    close(twice_forward, jnp.vdot(second[0], v), 1e-13)


@every_loss
def test_eager_jit_and_vmap_agree(row, rng):
    x, y = batch(row, rng)
    every = options(row, rng)
    for given_options in (*every[::3], every[-1]) if row.takes("pos_weight") else (every[0], every[-1]):
        losses = functools.partial(row, reduction="none", **given_options)
        close(jax.jit(losses)(x, y), losses(x, y), 5e-7)
        mean = functools.partial(row, **given_options)
        close(jax.jit(mean)(x, y), mean(x, y), 5e-7)
    each = jnp.stack([row(x[i], y[i]) for i in range(SHAPE[0])])
    close(jax.vmap(row)(x, y), each, 5e-7)
    close(jax.vmap(jax.grad(row))(x, y), jnp.stack([jax.grad(row)(*z) for z in zip(x, y, strict=True)]))
    chex.assert_shape(jax.vmap(functools.partial(row, reduction="none"), in_axes=(0, None))(x, y[0]), SHAPE)


@pytest.mark.slow
@every_loss
def test_traced_options_agree_with_constants(row):
    """Constants are folded by the compiler: 0·inf must not come of it."""
    x = jnp.asarray(row.extremes, jnp.float32)
    x, y = (a.ravel() for a in jnp.meshgrid(x, jnp.asarray([0, 0.3, 1], jnp.float32)))

    def losses(x, **given_options):
        return row(x, y, reduction="none", **given_options)

    traced_losses = jax.jit(losses)
    product = itertools.product((0.0, 1e-30, 3.0, 1e30), (0.0, 2.5), (0.0, 0.3))
    names = "pos_weight", "weight", "label_smoothing"
    cases = {tuple(row.known(dict(zip(names, values, strict=True))).items()) for values in product}
    constants = jax.jit(lambda x: {case: losses(x, **dict(case)) for case in cases})(x)
    for case, constant in constants.items():
        traced = traced_losses(x, **{name: jnp.float32(value) for name, value in case})
        assert not np.isnan(constant).any()
        np.testing.assert_allclose(constant, traced, rtol=1e-6)


@pytest.mark.slow
@every_row
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_numbers_everywhere_in_the_domain(row, dtype):
    """Losses ≥ 0, and slopes and curvatures that are never NaN, from one end of the domain to the other."""
    with np.errstate(over="ignore"):
        x = jnp.asarray(np.asarray(row.extremes).astype(dtype))
    x, y, w = (a.ravel() for a in jnp.meshgrid(x, jnp.asarray([0, 0.3, 1], dtype), jnp.asarray([0, 2], dtype)))
    for pos_weight in (None, w) if row.takes("pos_weight") else (None,):
        loss = functools.partial(row, pos_weight=pos_weight)

        def derivatives(x, y, loss=loss):
            slope = jax.grad(lambda x: loss(x, y, reduction="sum"))
            return loss(x, y, reduction="none"), *jax.jvp(slope, (x,), (jnp.ones_like(x),))

        for transform in (lambda f: f, jax.jit) if dtype == jnp.float32 else (jax.jit,):
            value, slope, curvature = transform(derivatives)(x, y)
            assert (value >= 0).all(), value
            assert np.isfinite(value[jnp.isfinite(x)]).all(), value
            assert not np.isnan(slope).any(), slope
            assert not np.isnan(curvature).any(), curvature


@every_loss
def test_nan_in_gives_nan_out(row):
    for arguments in [(jnp.nan, 1.0), (0.5, jnp.nan), (0.5, jnp.nan, 2.0), (0.5, 1.0, jnp.nan), (jnp.nan, 0.0, 0.0)]:
        x, y, *w = map(jnp.float32, arguments)
        if w and not row.takes("pos_weight"):
            continue

        def loss(x, y, w=w):
            return row(x, y, pos_weight=w[0] if w else None)

        assert np.isnan(loss(x, y))
        assert np.isnan(jax.jit(loss)(x, y))
        assert np.isnan(jax.grad(loss)(x, y))


@every_loss
def test_nan_and_outsiders_beside_bool_labels(row):
    """A number times a bool is a select to XLA, in which a NaN gets lost where the bool is False."""
    labels = jnp.array([False, True, False, True])

    @jax.jit
    def entries(x):
        losses, pull = jax.vjp(lambda x: row(x, labels, reduction="none"), x)
        return losses, *pull(jnp.ones_like(losses))

    for bad in (np.nan, -0.25, 1.25)[: 3 if row.name == "binary_cross_entropy" else 1]:
        for found in entries(jnp.array([bad, bad, 0.5, 0.5], jnp.float32)):
            np.testing.assert_array_equal(np.isnan(found), [True, True, False, False])


@pytest.mark.slow
@every_loss
def test_second_derivatives_through_a_scan(row, rng):
    """JAX before 0.12 forgets custom derivatives there and differentiates the formulas, which must not make it NaN."""
    names = [name for name in ("pos_weight", "weight") if row.takes(name)]
    x, y = jnp.asarray(row.draw(rng, (6,))), jnp.array([0.0, 1.0, 0.3, 1.0, 0.0, 0.7])

    def direct(x, *weights):
        return jnp.sum(row(x, y, reduction="none", **dict(zip(names, weights, strict=True))) ** 2)

    def scanned(x, *weights):
        def add(total, entry):
            return total + row(*entry, reduction="none", **dict(zip(names, weights, strict=True))) ** 2, None

        return jax.lax.scan(add, jnp.zeros(()), (x, y))[0]

    arguments = x, *(jnp.float64(1.5) for _ in names)

    def change(loss):
        gradient = jax.grad(loss, tuple(range(len(arguments))))
        return jax.jit(lambda *a: jax.jvp(gradient, a, tuple(map(jnp.ones_like, a))))(*arguments)

    chex.assert_trees_all_close(change(scanned), change(direct), rtol=1e-10)


@pytest.mark.slow
@every_loss
@pytest.mark.parametrize("size", [5_000, 8_192, 32_768])
def test_nan_and_outsiders_get_through_every_program(row, size):
    """One of thousands: XLA has other loops for arrays than for a number, and other ones for other sizes, and in those
    that reduce on CPU `maximum` and `minimum` may drop a NaN."""
    names = [name for name in ("pos_weight", "weight") if row.takes(name)]

    def loss(reduction, x, y, *weights):
        return row(x, y, reduction=reduction, **dict(zip(names, weights, strict=False)))  # or without weights

    @jax.jit
    def programs(alone, entries, beside):
        """The arguments of each are others to the compiler, so that it shares nothing."""
        value, slope = jax.value_and_grad(functools.partial(loss, "mean"))(*beside)
        return loss("mean", *alone), jnp.sum(loss("none", *entries)), value, slope

    middle, label, *weights = (jnp.full(size, value, jnp.float32) for value in (0.5, 0.25, 2.0, 3.0)[: 2 + len(names)])
    for used in ([middle, label], [middle, label, *weights])[: 1 + bool(names)]:
        assert not any(np.isnan(found).any() for found in programs(used, used, used))
        for which, array in enumerate(used):
            outsiders = [np.nan, *([-0.25] if which or row.name == "binary_cross_entropy" else [])]
            for bad, place in itertools.product(outsiders, (0, 7, size - 1)):
                given = [*used[:which], array.at[place].set(bad), *used[which + 1 :]]
                *values, slope = programs(given, given, given)
                assert np.isnan(values).all(), (which, bad, place, values)
                assert np.isnan(slope[place])


@every_loss
def test_reductions_are_sums_of_the_losses(row, rng):
    x, y = batch(row, rng)
    every = options(row, rng)

    @jax.jit
    def reductions(x, y):
        return [{name: row(x, y, reduction=name, **given_options) for name in REDUCTIONS} for given_options in every]

    for given_options, reduced in zip(every, reductions(x, y), strict=True):
        mask = np.broadcast_to(given_options.get("where", True), SHAPE)
        weights = np.broadcast_to(np.asarray(given_options.get("weight", 1), np.float64), SHAPE)[mask]
        total = np.asarray(reduced["none"], np.float64).sum()
        close(reduced["sum"], total)
        close(reduced["mean"], total / mask.sum())
        close(reduced["weighted_mean"], total / weights.sum())


@pytest.mark.slow
@every_loss
def test_many_at_once_are_each_by_itself(row, rng):
    """A loss and its reduction are one loop of other formulas for long arrays whose size is odd, or large."""
    n, ends = 257, jnp.float32(row.extremes)
    x = jnp.concatenate([jnp.asarray(row.draw(rng, n - 2 * len(ends)), jnp.float32), ends, ends])
    right = jnp.float32(ends > jnp.median(ends))
    y = jnp.concatenate([jnp.asarray(rng.choice([0, 1, 0.25], n - 2 * len(ends)), jnp.float32), right, right])
    weights = jnp.asarray(rng.uniform(0.1, 4.0, (2, n)), jnp.float32)

    @functools.partial(jax.jit, static_argnames="reduction")
    def step(x, y, reduction):
        given = {"reduction": reduction, "pos_weight": weights[0], "weight": weights[1]}
        return jax.value_and_grad(lambda x: jnp.sum(row(x, y, **given)))(x)

    (total, gradient), (each, gradient_of_each) = step(x, y, "sum"), step(x, y, "none")
    assert np.isfinite(total)
    close(total, each)
    close(gradient, gradient_of_each)
    if row.takes("pos_weight"):
        assert np.isnan(step(x, y.at[0].set(1.5), "sum")[0])
        assert np.isnan(step(x, y.at[0].set(-0.5), "sum")[0])
        wrong = step(x, 1 - y, "sum")[0]
        assert np.isinf(wrong) if np.isinf(row.extremes[0]) else wrong > 100


@pytest.mark.slow
@every_loss
def test_a_value_beside_its_gradient_changes_with_what_moves_alone(row):
    """Labels that stand still would add 0·inf at an infinite logit."""
    x = jnp.float32([row.extremes[0], row.extremes[-1]])

    def step(x):
        return jax.value_and_grad(lambda x: row(x, jnp.float32([0, 1]), reduction="sum"))(x)

    (_, slope), (change, _) = jax.jvp(step, (x,), (jnp.ones_like(x),))
    close(change, jnp.sum(slope))


@pytest.mark.slow
@every_loss
def test_a_mask_is_a_subset(row, rng):
    """What stands under the mask reaches neither value, gradient nor Hessian, in any argument."""
    x, y = batch(row, rng)
    w, v = jnp.asarray(rng.uniform(0.5, 2, (2, *SHAPE)), jnp.float32)
    mask = rng.random(SHAPE) < 0.5

    def loss(x, y, w, v, **where):
        return row(x, y, pos_weight=w, weight=v, label_smoothing=0.1, reduction="weighted_mean", **where)

    def first(f):
        return jax.value_and_grad(f, argnums=(0, 1, 2, 3))

    def both(*arguments):
        hvp = jax.jvp(jax.grad(masked), arguments, tuple(map(jnp.ones_like, arguments)))[1]
        return first(masked)(*arguments), (hvp, row(*arguments[:2], where=jnp.asarray(mask), reduction="none"))

    masked = functools.partial(loss, where=jnp.asarray(mask))
    value, gradients = jax.jit(first(loss))(*(a[mask] for a in (x, y, w, v)))
    eager, compiled = (lambda *a: (first(masked)(*a), ())), jax.jit(both)
    for call, poison in ((eager, np.nan), *((compiled, p) for p in (np.nan, np.inf, -np.inf, 1e38))):
        (actual_value, actual_gradients), others = call(*(jnp.where(mask, a, poison) for a in (x, y, w, v)))
        close(actual_value, value)
        for actual, expected in zip(actual_gradients, gradients, strict=True):
            close(actual[mask], expected)
        for actual in (*actual_gradients, *others):
            assert np.isfinite(actual).all()
            assert (actual[~mask] == 0).all()


@every_loss
def test_a_tangent_under_the_mask_is_nobody_s_business(row):
    """The model that made the logits may have an infinite slope there: that of a square root at 0."""
    x, y, mask = jnp.float32([0.25, 0.5]), jnp.float32([1, 0]), jnp.array([True, False])

    def derivatives(along):
        def loss(x):
            return row(x, y, where=mask)

        return jax.jvp(loss, (x,), (along,))[1], *jax.jvp(jax.grad(loss), (x,), (along,))[1]

    for slope, other in zip(derivatives(jnp.float32([1, np.nan])), derivatives(jnp.float32([1, 0])), strict=True):
        np.testing.assert_array_equal(slope, other)


@every_loss
def test_all_masked_is_zero_with_zero_gradient(row, rng):
    x, y = batch(row, rng)
    for reduction in REDUCTIONS:

        def loss(x, v, reduction=reduction):
            return row(x, y, weight=v, where=False, reduction=reduction).sum()

        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x * jnp.nan, jnp.ones_like(x))
        chex.assert_trees_all_equal((value, *gradients), (jnp.zeros_like(value), jnp.zeros_like(x), jnp.zeros_like(x)))


@every_loss
def test_empty(row):
    empty = jnp.zeros((3, 0), jnp.float32)
    assert np.isnan(row(empty, empty))
    assert np.isnan(row(empty, empty, reduction="weighted_mean"))
    assert row(empty, empty, reduction="sum") == 0
    assert row(empty, empty, reduction="none").shape == (3, 0)
    assert np.isnan(row(empty, empty, axis=-1)).all()
    assert row(empty, empty, axis=0).shape == (0,)


@every_weighted_loss
def test_weights_multiply_values_gradients_and_hessians(row, rng):
    x, y = batch(row, rng)
    v = jnp.asarray(rng.uniform(0.5, 2, SHAPE), jnp.float32)

    @jax.jit
    def derivatives(x, weight):
        def total(x, weight):
            return row(x, y, weight=weight, reduction="sum")

        hvp = jax.jvp(jax.grad(lambda x: total(x, weight)), (x,), (jnp.ones_like(x),))[1]
        return total(x, weight), jax.grad(total)(x, weight), hvp, jax.grad(total, argnums=1)(x, weight)

    plain, weighted = derivatives(x, jnp.ones_like(x)), derivatives(x, v)
    close(row(x, y, weight=3.0, reduction="sum"), 3 * plain[0])
    close(weighted[1], v * plain[1])
    close(weighted[2], v * plain[2])
    close(weighted[3], row(x, y, reduction="none"))
    close(row(x, y, reduction="sum"), plain[0])


@every_weighted_loss
def test_a_weight_of_zero_leaves_no_trace(row):
    x = jnp.asarray([row.extremes[0], row.extremes[-1]], jnp.float32)
    for y in (0.0, 0.5, 1.0):

        def loss(x, y=y):
            return row(x, y, weight=0.0, reduction="sum")

        chex.assert_trees_all_equal(jax.value_and_grad(loss)(x), (jnp.float32(0), jnp.zeros_like(x)))


@every_symmetric_loss
def test_the_complement_costs_the_same(row, rng):
    x, y = batch(row, rng)
    close(row(row.complement(x), 1 - y), row(x, y))


@pytest.mark.slow
@pytest.mark.cpu
@every_loss
def test_labels_of_every_kind(row, rng):
    x, _ = batch(row, rng)
    hard = rng.integers(0, 2, SHAPE)
    expected = row(x, jnp.asarray(hard, jnp.float32), reduction="none")
    for dtype in (bool, np.int8, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64, jnp.bfloat16):
        chex.assert_trees_all_equal(row(x, hard.astype(dtype), reduction="none"), expected)
    chex.assert_trees_all_equal(row(x.tolist(), hard.tolist(), reduction="none").shape, SHAPE)
    for scalar in (1, 1.0, True, jnp.int32(1)):
        close(row(x, scalar), row(x, jnp.ones_like(x)), 5e-7)


@pytest.mark.slow
@every_loss
def test_the_predictions_decide_the_dtype(row, rng):
    hard = rng.integers(0, 2, SHAPE)
    results = {jnp.bfloat16: jnp.float32, jnp.float16: jnp.float32, jnp.float32: jnp.float32, jnp.float64: jnp.float64}
    others = results if row.takes("pos_weight") else [jnp.bfloat16, jnp.float64]
    for i, (dtype, other) in enumerate(itertools.product(results, others)):
        reduction = REDUCTIONS[(i + i // len(REDUCTIONS)) % len(REDUCTIONS)]  # each of them beside each dtype
        x = jnp.asarray(row.draw(rng, SHAPE), dtype)
        y, w = jnp.asarray(hard, other), jnp.asarray(2, other)

        def loss(x, y=y, w=w, reduction=reduction):
            return row(x, y, pos_weight=w, weight=w, label_smoothing=0.1, reduction=reduction)

        def gradient(x, loss=loss):
            value, vjp = jax.vjp(loss, x)
            return value, vjp(jnp.ones_like(value))[0]

        value, slope = jax.eval_shape(gradient, x)
        assert (value.dtype, value.weak_type, slope.dtype) == (results[dtype], False, dtype)
    assert not row(0.25, 1).weak_type


@pytest.mark.slow
@every_loss
def test_low_precision_is_float32_of_the_rounded_input(row, rng):
    for dtype in (jnp.bfloat16, jnp.float16):
        x, y = batch(row, rng, dtype)
        exact = x.astype(jnp.float32), y.astype(jnp.float32)
        # The conversion is fused with what follows, and a compiler may then add up in another order, or round a product
        # and a sum once instead of twice. Computed in bfloat16, the loss would be off ten thousand times as far.
        close(row(x, y), row(*exact), 5e-7)
        slope = jax.grad(row)(*exact).astype(dtype)
        close(jax.grad(row)(x, y), slope, float(jnp.finfo(dtype).eps) if row.adapter else 0)


@pytest.mark.slow
@every_loss
def test_one_trace_serves_all_values(row, rng):
    x, y = batch(row, rng)

    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(x, y, w, s):
        return jax.value_and_grad(row)(x, y, pos_weight=w, label_smoothing=s)

    for w, s in ((1.0, 0.0), (2.0, 0.1), (3.0, 0.2)):
        close(step(x, y, w, s)[0], row.expected(x, y, pos_weight=w, label_smoothing=s))


@pytest.mark.slow
@every_loss
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_random_calls_meet_the_definition(row, data):
    """Random shapes, dtypes, values and options, eagerly and compiled."""
    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=4), label="shape"))
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    dtype = data.draw(st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]), label="dtype")
    rng = np.random.default_rng(seed)

    def smaller(name):
        """A shape that broadcasts to `shape`."""
        kept = [n if data.draw(st.booleans(), label=name) else 1 for n in shape]
        return tuple(kept[data.draw(st.integers(0, len(kept)), label=name) :])

    def weights(name):
        return jnp.asarray(rng.uniform(0, 3, smaller(name)), data.draw(st.sampled_from([jnp.float32, jnp.int32])))

    x = jnp.asarray(row.draw(rng, shape), dtype)
    y = jnp.asarray(rng.choice([0.0, 1.0, 0.5], shape), data.draw(st.sampled_from([dtype, jnp.float32])))
    maker = {
        "pos_weight": lambda: weights("pos_weight"),
        "weight": lambda: weights("weight"),
        "label_smoothing": lambda: data.draw(st.sampled_from([0.0, 0.25, 1.0])),
        "where": lambda: rng.random(smaller("where")) < 0.7,
        "axis": lambda: data.draw(st.sampled_from([None, *range(-len(shape), len(shape))])),
    }
    chosen = {name: make() for name, make in maker.items() if data.draw(st.booleans(), label=name)}
    reduction = data.draw(st.sampled_from(REDUCTIONS), label="reduction")
    if reduction == "none":
        chosen.pop("axis", None)
    loss = functools.partial(row, reduction=reduction, **chosen)
    expected = row.expected(np.asarray(x, np.float64), np.asarray(y, np.float64), reduction=reduction, **chosen)
    close(loss(x, y), expected, 4e-6)
    close(jax.jit(loss)(x, y), expected, 4e-6)
