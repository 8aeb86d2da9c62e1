"""What holds for every loss of the table.

Derivatives of every order, in every argument, by every nesting of modes: tests/test_derivatives_anywhere.py. Random
calls: tests/test_fuzz.py.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from tests.losses import ENTRYWISE, FAMILIES, FUNCTIONS, LOSSES, each_of

REDUCTIONS = ["none", "mean", "weighted_mean", "sum"]
PREDICTION_OPTIONS = ("pos_weight", "label_smoothing")


every_row, every_loss, every_entrywise_loss = each_of(LOSSES), each_of(FUNCTIONS), each_of(ENTRYWISE)
every_weighted_loss = each_of(row for row in FUNCTIONS if row.takes("weight"))
every_masked_loss = each_of(row for row in FUNCTIONS if row.takes("where"))


def close(actual, expected, tolerance=2e-6):
    """Equal to rounding: a few float32 ulp of the largest entry (sums and soft labels cancel)."""
    oracle.assert_close(actual, expected, tolerance)


def batch(row, rng, dtype=jnp.float32):
    return tuple(jnp.asarray(draw(rng, row.shape), dtype) for draw in (row.draw, row.draw_labels))


def labels(row):
    return (0.0, 0.3, 1.0) if row.labels == "soft" else (0.0, 1.0)


def options(row, rng):
    """Every option of a loss on its own, in every shape it may have, and all of them together."""

    def positive(*shape):
        return jnp.asarray(rng.uniform(0.1, 4.0, shape), jnp.float32)

    n, c = row.shape
    mask = rng.random(row.shape) < 0.6
    every = [
        {"pos_weight": 3.0},
        {"pos_weight": jnp.float32(0.5)},
        {"pos_weight": positive(c)},
        {"pos_weight": positive(n, c)},
        {"weight": 2},
        {"weight": positive(c)},
        {"weight": positive(n, 1)},
        {"label_smoothing": 0.1},
        {"label_smoothing": 1},
        {"where": mask},
        {"where": mask[:, :1]},
        {"pos_weight": positive(c), "weight": positive(n, 1), "label_smoothing": 0.2, "where": mask},
    ]
    given = [{}, *filter(None, map(row.known, every))]
    # A function's second row has other parameters; how options come in shapes is the function's, and the first row's.
    if row.bound:
        return [given[0], given[-1]]
    return given if row is LOSSES[0] else given[::2] + given[-1:]


def split(given_options):
    """The options of the definition of one entry, and those of the reduction."""
    entry = {k: v for k, v in given_options.items() if k in PREDICTION_OPTIONS}
    return entry, {k: v for k, v in given_options.items() if k not in PREDICTION_OPTIONS}


@every_row
def test_value_is_the_definition(row, rng):
    """Every option under every reduction, compiled in one; eagerly, and with axes, in turn."""
    x, y = batch(row, rng)
    axes = itertools.cycle([None, 0, -1, (0, 1), ()] if row.takes("axis") else [None])
    every = list(itertools.product(options(row, rng), REDUCTIONS))
    every = [({"reduction": name, "axis": None if name == "none" else next(axes)} | given) for given, name in every]
    losses = [functools.partial(row, **given_options) for given_options in every]
    compiled = jax.jit(lambda x, y: [loss(x, y) for loss in losses])(x, y)
    for i, (given_options, actual) in enumerate(zip(every, compiled, strict=True)):
        expected = row.expected(x, y, **given_options)
        for found in (actual, losses[i](x, y)) if i % 7 == 0 else (actual,):
            chex.assert_shape(found, expected.shape)
            close(found, expected)


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


@every_loss
def test_eager_jit_vmap_and_linearize_agree(row, rng):
    x, y = batch(row, rng)
    every = options(row, rng)
    losses = [functools.partial(row, reduction=name, **g) for g in (every[0], every[-1]) for name in ("none", "mean")]
    step, many = jax.value_and_grad(row), (jnp.stack([x, x[::-1]]), jnp.stack([y, y]))

    @jax.jit
    def compiled(many):
        x, y = (a[0] for a in many)
        primal, linear = jax.linearize(lambda x: row(x, y), x)
        return [loss(x, y) for loss in losses], jax.vmap(step)(*many), (primal, linear(x))

    values, (each, gradients), (primal, along) = compiled(many)
    for actual, loss in zip(values, losses, strict=True):
        close(actual, loss(x, y), 5e-7)
    for i, one in enumerate(zip(*many, strict=True)):
        value, gradient = step(*one)
        close(each[i], value, 5e-7)
        close(gradients[i], gradient)
    close((primal, along), (each[0], jnp.vdot(gradients[0], x)))
    if row.labels != "pairs":
        along_labels = jax.vmap(functools.partial(row, reduction="none"), (0, None))(x[:, None], y[:1])
        close(along_labels[:, 0], row(x, jnp.broadcast_to(y[0], x.shape), reduction="none"), 5e-7)


@pytest.mark.slow
@every_entrywise_loss
def test_traced_options_agree_with_constants(row):
    """Constants are folded by the compiler: 0·inf must not come of it."""
    x = jnp.asarray(row.extremes, jnp.float32)
    x, y = (a.ravel() for a in jnp.meshgrid(x, jnp.asarray(labels(row), jnp.float32)))

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
@each_of(row for row in LOSSES if row.each == "entry")
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_numbers_everywhere_in_the_domain(row, dtype):
    """Losses ≥ 0, and slopes and curvatures that are never NaN, from one end of the domain to the other."""
    with np.errstate(over="ignore"):
        x = jnp.asarray(np.asarray(row.extremes).astype(dtype))
    x, y, w = (a.ravel() for a in jnp.meshgrid(x, jnp.asarray(labels(row), dtype), jnp.asarray([0, 2], dtype)))
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
        if (w and not row.takes("pos_weight")) or (np.isnan(y) and row.labels != "soft"):
            continue

        def loss(x, y, w=w):
            return row(x, y, pos_weight=w[0] if w else None)

        assert np.isnan(loss(x, y))
        assert np.isnan(jax.jit(loss)(x, y))
        assert np.isnan(jax.grad(loss)(x, y))


@every_entrywise_loss
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
@each_of(FAMILIES)
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


@pytest.mark.slow
@every_entrywise_loss
def test_many_at_once_are_each_by_itself(row, rng):
    """A loss and its reduction are one loop of other formulas for long arrays whose size is odd, or large."""
    n, ends = 257, jnp.float32(row.extremes)
    x = jnp.concatenate([jnp.asarray(row.draw(rng, n - 2 * len(ends)), jnp.float32), ends, ends])
    right = jnp.float32(ends > jnp.median(ends))
    y = jnp.concatenate([jnp.asarray(row.draw_labels(rng, n - 2 * len(ends)), jnp.float32), right, right])
    weights = jnp.asarray(rng.uniform(0.1, 4.0, (2, n)), jnp.float32)

    @functools.partial(jax.jit, static_argnames="reduction")
    def step(x, y, reduction):
        given = {"reduction": reduction, "pos_weight": weights[0], "weight": weights[1]}
        return jax.value_and_grad(lambda x: jnp.sum(row(x, y, **given)))(x)

    (total, gradient), (each, gradient_of_each) = step(x, y, "sum"), step(x, y, "none")
    assert np.isfinite(total)
    close(total, each)
    close(gradient, gradient_of_each)
    if row.takes("pos_weight") and row.labels == "soft":
        assert np.isnan(step(x, y.at[0].set(1.5), "sum")[0])
        assert np.isnan(step(x, y.at[0].set(-0.5), "sum")[0])
        wrong = step(x, 1 - y, "sum")[0]
        assert np.isinf(wrong) if np.isinf(row.extremes[0]) else wrong > 100


@pytest.mark.slow
@every_entrywise_loss
def test_a_value_beside_its_gradient_changes_with_what_moves_alone(row):
    """Labels that stand still would add 0·inf at an infinite logit."""
    x = jnp.float32([row.extremes[0], row.extremes[-1]])

    def step(x):
        return jax.value_and_grad(lambda x: row(x, jnp.float32([0, 1]), reduction="sum"))(x)

    (_, slope), (change, _) = jax.jvp(step, (x,), (jnp.ones_like(x),))
    close(change, jnp.sum(slope))


@pytest.mark.slow
@every_masked_loss
def test_a_mask_is_a_subset(row, rng):
    """What stands under the mask reaches neither value, gradient nor Hessian, in any argument."""
    x, y = batch(row, rng)
    w, v = jnp.asarray(rng.uniform(0.5, 2, (2, *row.shape)), jnp.float32)
    mask = rng.random(row.shape) < 0.5

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


@every_masked_loss
def test_a_tangent_under_the_mask_is_ignored(row):
    """The model that made the logits may have an infinite slope there: that of a square root at 0."""
    x, y, mask = jnp.float32([0.25, 0.5]), jnp.float32([1, 0]), jnp.array([True, False])

    def derivatives(along):
        def loss(x):
            return row(x, y, where=mask)

        return jax.jvp(loss, (x,), (along,))[1], *jax.jvp(jax.grad(loss), (x,), (along,))[1]

    for slope, other in zip(derivatives(jnp.float32([1, np.nan])), derivatives(jnp.float32([1, 0])), strict=True):
        np.testing.assert_array_equal(slope, other)


@every_masked_loss
def test_all_masked_is_zero_with_zero_gradient(row, rng):
    x, y = batch(row, rng)
    for reduction in REDUCTIONS:

        def loss(x, v, reduction=reduction):
            return row(x, y, weight=v, where=False, reduction=reduction).sum()

        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x * jnp.nan, jnp.ones_like(x))
        chex.assert_trees_all_equal((value, *gradients), (jnp.zeros_like(value), jnp.zeros_like(x), jnp.zeros_like(x)))


@each_of(row for row in FUNCTIONS if row.labels != "pairs")
def test_empty_arrays(row):
    for shape in ((0, 3), (3, 0)):
        empty = jnp.zeros(shape, jnp.float32)
        assert np.isnan(row(empty, empty))
        assert np.isnan(row(empty, empty, reduction="weighted_mean"))
        assert row(empty, empty, reduction="sum") == 0
        assert row(empty, empty, reduction="none").shape == (shape if row.each == "entry" else shape[:1])
    if row.takes("axis"):
        assert np.isnan(row(empty, empty, axis=-1)).all()
        assert row(empty, empty, axis=0).shape == (0,)


@every_weighted_loss
def test_a_weight_of_zero_leaves_no_trace(row):
    x = jnp.asarray([row.extremes[0], row.extremes[-1]], jnp.float32)
    for y in labels(row):

        def loss(x, y=y):
            return row(x, y, weight=0.0, reduction="sum")

        chex.assert_trees_all_equal(jax.value_and_grad(loss)(x), (jnp.float32(0), jnp.zeros_like(x)))


@pytest.mark.slow
@pytest.mark.cpu
@each_of(row for row in FUNCTIONS if row.labels == "soft")
def test_labels_of_every_kind(row, rng):
    x, _ = batch(row, rng)
    hard = rng.integers(0, 2, row.shape)
    expected = row(x, jnp.asarray(hard, jnp.float32), reduction="none")
    for dtype in (bool, np.int8, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64, jnp.bfloat16):
        chex.assert_trees_all_equal(row(x, hard.astype(dtype), reduction="none"), expected)
    chex.assert_trees_all_equal(row(x.tolist(), hard.tolist(), reduction="none").shape, expected.shape)
    for scalar in (1, 1.0, True, jnp.int32(1)):
        close(row(x, scalar), row(x, jnp.ones_like(x)), 5e-7)


@pytest.mark.slow
@every_loss
def test_the_predictions_decide_the_dtype(row, rng):
    hard = rng.integers(0, 2, row.shape)
    results = {jnp.bfloat16: jnp.float32, jnp.float16: jnp.float32, jnp.float32: jnp.float32, jnp.float64: jnp.float64}
    others = results if row.takes("pos_weight") else [jnp.bfloat16, jnp.float64]
    for i, (dtype, other) in enumerate(itertools.product(results, others)):
        reduction = REDUCTIONS[(i + i // len(REDUCTIONS)) % len(REDUCTIONS)]  # each of them beside each dtype
        x = jnp.asarray(row.draw(rng, row.shape), dtype)
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
