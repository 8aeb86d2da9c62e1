"""What is particular to the focal and the asymmetric loss: kinship, infinities, dead zones, their own parameters."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxbce import asymmetric_loss, binary_cross_entropy_with_logits, sigmoid_focal_loss
from tests import oracle

INF = float("inf")
GAMMAS = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0]

FAR = [-INF, -1e30, -200.0, -90.0, -30.0, -1.0, 0.0, 1.0, 30.0, 90.0, 200.0, 1e30, INF]


def points():
    x, y = jnp.meshgrid(jnp.asarray(FAR, jnp.float32), jnp.asarray([0.0, 0.25, 1.0], jnp.float32))
    return x.ravel(), y.ravel()


def derivatives(loss):
    """Loss, gradient and second derivative by the logit, entry by entry."""
    slope = jax.grad(lambda x, y: loss(x, y).sum())
    return [loss, slope, jax.grad(lambda x, y: slope(x, y).sum())]


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("soft", [False, True])
def test_gamma_0_is_binary_cross_entropy_to_the_last_bit(rng, transform, soft):
    x = jnp.asarray(np.concatenate([rng.normal(0, 20, 500), FAR]), jnp.float32)
    y = jnp.asarray(rng.random(x.shape) if soft else rng.integers(0, 2, x.shape), jnp.float32)
    focal = derivatives(functools.partial(sigmoid_focal_loss, gamma=0, reduction="none"))
    plain = derivatives(functools.partial(binary_cross_entropy_with_logits, reduction="none"))
    for f, g in zip(focal[:2], plain[:2], strict=True):
        np.testing.assert_array_equal(transform(f)(x, y), transform(g)(x, y))
    np.testing.assert_allclose(transform(focal[2])(x, y), transform(plain[2])(x, y), rtol=1e-6)


@pytest.mark.cpu
def test_a_traced_gamma_of_0_too(rng):
    x, y = jnp.asarray(rng.normal(0, 20, 500), jnp.float32), jnp.asarray(rng.random(500), jnp.float32)
    traced = jax.jit(lambda x, y, gamma: sigmoid_focal_loss(x, y, gamma=gamma, reduction="none"))
    expected = jax.jit(functools.partial(binary_cross_entropy_with_logits, reduction="none"))(x, y)
    np.testing.assert_array_equal(traced(x, y, 0.0), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("margin", [None, 0.0, 0.05, 1.0])
def test_numbers_at_every_gamma(dtype, margin):
    """Of the focal loss, or with a margin of the asymmetric one."""
    with np.errstate(over="ignore"):
        x, y = (np.asarray(a).astype(dtype) for a in points())
    x, y, gamma = np.broadcast_arrays(x, y, np.asarray(GAMMAS, dtype)[:, None])
    loss = functools.partial(sigmoid_focal_loss, gamma=gamma)
    if margin is not None:
        loss = functools.partial(asymmetric_loss, gamma_pos=gamma, gamma_neg=gamma, margin=margin)
    for f in derivatives(functools.partial(loss, reduction="none")):
        result = jax.jit(f)(x, y)
        assert not np.isnan(result).any()
        assert np.isfinite(np.asarray(result)[np.isfinite(x.astype(float))]).all()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_infinite_logits(transform):
    """Certain and right costs nothing, certain and wrong inf; gradients 0 and 1, second derivatives 0."""
    cases = [(INF, 1, 0, 0), (-INF, 0, 0, 0), (-INF, 1, INF, -1), (INF, 0, INF, 1)]
    x, y, value, slope = (np.broadcast_to(np.float32(column), (len(GAMMAS), 4)) for column in zip(*cases, strict=True))
    gamma = np.float32(GAMMAS)[:, None]
    loss, gradient, curvature = map(
        transform, derivatives(functools.partial(sigmoid_focal_loss, gamma=gamma, reduction="none"))
    )
    np.testing.assert_array_equal(loss(x, y), value)
    np.testing.assert_array_equal(gradient(x, y), slope)
    np.testing.assert_array_equal(curvature(x, y), np.zeros_like(x))
    np.testing.assert_array_equal(jax.jvp(lambda x: loss(x, y), (x,), (np.ones_like(x),))[1], slope)


@pytest.mark.parametrize(("gamma", "alpha"), [(0.5, None), (2.0, 0.25), (5.0, 0.9)])
def test_focal_loss_against_mpmath(rng, gamma, alpha):
    """Both tails: to a few ulp where optax and PyTorch's formula return 0 or lose every digit."""
    x = np.concatenate([rng.uniform(-40, 12, 150), rng.uniform(-12, 12, 150)]).astype(np.float32)
    y = rng.choice(np.float32([0, 1, 0.3]), x.shape)
    x = np.where(y == 1, -x, x)

    def exact(x, y):
        x, y, share = mpmath.mpf(float(x)), mpmath.mpf(float(y)), 1
        p, q = oracle.mp_sigmoid(x), oracle.mp_sigmoid(-x)
        if alpha is not None:
            share = alpha * y + (1 - mpmath.mpf(alpha)) * (1 - y)
        return share * (y * q + (1 - y) * p) ** gamma * oracle.mp_logit_loss(x, y, 1)

    losses = jax.jit(functools.partial(sigmoid_focal_loss, gamma=gamma, alpha=alpha, reduction="none"))(x, y)
    expected = list(map(exact, x, y))
    slack = 1 if jax.default_backend() == "cpu" else 4
    assert oracle.ulps(losses, expected, np.float32).max() < (6 + 4 * gamma) * slack


def test_asymmetric_loss_against_mpmath(rng):
    """Where published code clamps the logarithms at log(1e-8) = -18.4, a missed positive costs all of -x."""
    x = rng.uniform(-80, 80, 400).astype(np.float32)
    y = rng.integers(0, 2, x.shape).astype(np.float32)
    for gamma_pos, gamma_neg, margin in ((1.0, 4.0, 0.05), (0.0, 2.0, 0.0), (0.5, 0.0, 1e-12)):

        def exact(x, y, gamma_pos=gamma_pos, gamma_neg=gamma_neg, margin=margin):
            p, q = oracle.mp_sigmoid(mpmath.mpf(float(x))), oracle.mp_sigmoid(-mpmath.mpf(float(x)))
            if y == 1:
                return -(q**gamma_pos) * mpmath.log(p)
            u = max(p - mpmath.mpf(float(np.float32(margin))), 0)
            return -(u**gamma_neg) * mpmath.log1p(-u)

        losses = asymmetric_loss(x, y, gamma_pos=gamma_pos, gamma_neg=gamma_neg, margin=margin, reduction="none")
        expected = np.asarray([float(exact(*point)) for point in zip(x, y, strict=True)])
        # Next to p = margin the difference p - margin has the rounding of p, which γ + 1 powers multiply.
        near = (y == 0) & (np.abs(1 / (1 + np.exp(-x.astype(float))) - margin) < 0.02)
        tiny = expected < 1e-37
        np.testing.assert_allclose(losses[~near & ~tiny], expected[~near & ~tiny], rtol=3e-6)
        np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-7)
    assert asymmetric_loss(-60.0, 1) == pytest.approx(60.0, rel=1e-6)
    assert jax.grad(asymmetric_loss)(-60.0, 1) == pytest.approx(-1.0, rel=1e-6)


def test_asymmetric_loss_is_kin(rng):
    x, y = rng.normal(0, 4, 200), rng.integers(0, 2, 200)
    for gamma in GAMMAS:
        one = asymmetric_loss(x, y, gamma_pos=gamma, gamma_neg=gamma, margin=0.0, reduction="none")
        np.testing.assert_allclose(one, sigmoid_focal_loss(x, y, gamma=gamma, reduction="none"), rtol=1e-12)
    plain = asymmetric_loss(x, y, gamma_pos=0, gamma_neg=0, margin=0, reduction="none")
    np.testing.assert_allclose(plain, binary_cross_entropy_with_logits(x, y, reduction="none"), rtol=1e-12)


def test_negatives_below_the_margin_count_nothing():
    margin, edge = 0.05, float(np.log(0.05 / 0.95))
    for x in (edge - 1e-3, -10.0, -INF):
        value, slope = jax.value_and_grad(asymmetric_loss)(jnp.float32(x), 0, margin=margin, gamma_neg=0.0)
        assert value == slope == 0
    assert asymmetric_loss(jnp.float32(edge + 1e-3), 0, margin=margin) > 0
    assert asymmetric_loss(INF, 0, margin=margin) == pytest.approx(0.95**4 * np.log(20), rel=1e-6)
    assert jax.grad(asymmetric_loss)(INF, 0, margin=margin) == 0


def test_without_a_margin_a_sure_mistake_keeps_its_slope():
    """Where σ(-x) has underflowed and σ(-x)/(σ(-x) + margin) would be 0/0."""
    for gamma in (0.0, 1.5):
        np.testing.assert_array_equal(
            jax.vmap(jax.grad(functools.partial(asymmetric_loss, gamma_neg=gamma, margin=0.0)), (0, None))(
                jnp.float32([100, 1e4, 1e38]), 0
            ),
            1,
        )


@pytest.mark.parametrize(
    ("x", "y", "gamma", "s"), [(-INF, 0.3, 90.0, 0.0), (INF, 0.3, 300.0, 0.0), (INF, 1.0, 30.0, 0.1)]
)
def test_a_power_that_underflows_leaves_no_trace_of_an_infinite_loss(x, y, gamma, s):
    for transform in (lambda f: f, jax.jit):
        loss = transform(lambda x: sigmoid_focal_loss(x, y, gamma=gamma, label_smoothing=s))
        assert loss(jnp.float32(x)) == 0
        assert jax.grad(loss)(jnp.float32(x)) == 0


def test_derivatives_by_the_label_at_infinite_logits():
    """Those of binary cross-entropy at gamma 0, and the mixed ones are numbers for every gamma."""
    x, y = jnp.float32([-INF, -INF, INF, INF]), jnp.float32([1, 0, 1, 0])

    def by_label(loss):
        """Each entry's derivative by its label, and that of its slope."""
        return jax.jit(jax.vmap(lambda x, y: (jax.grad(loss, 1)(x, y), jax.grad(jax.grad(loss), 1)(x, y))))(x, y)

    plain = by_label(binary_cross_entropy_with_logits)
    for actual, expected in zip(by_label(functools.partial(sigmoid_focal_loss, gamma=0.0)), plain, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert (plain[1] == -1).all()
    assert np.isfinite(by_label(sigmoid_focal_loss)[1]).all()


def test_parameters_per_class(rng):
    x, y = rng.normal(0, 3, (5, 2)), rng.integers(0, 2, (5, 2))
    gamma, alpha = np.array([0.5, 2.0]), np.array([0.25, 0.75])
    both = sigmoid_focal_loss(x, y, gamma=gamma, alpha=alpha, reduction="none")
    for c in range(2):
        one = sigmoid_focal_loss(x[:, c], y[:, c], gamma=gamma[c], alpha=alpha[c], reduction="none")
        np.testing.assert_allclose(both[:, c], one, rtol=1e-14)


@pytest.mark.parametrize(
    ("loss", "parameter", "bad"),
    [
        (sigmoid_focal_loss, "gamma", -1.0),
        (sigmoid_focal_loss, "gamma", INF),
        (sigmoid_focal_loss, "alpha", -1.0),
        (sigmoid_focal_loss, "alpha", 1.5),
        (asymmetric_loss, "gamma_pos", -0.5),
        (asymmetric_loss, "gamma_neg", -0.5),
        (asymmetric_loss, "margin", 1.5),
    ],
)
def test_refusals(loss, parameter, bad):
    with pytest.raises(ValueError, match=rf"{loss.__name__}: {parameter} must .*, got values from"):
        loss(0.5, 1, **{parameter: bad})
    value, slope = jax.jit(lambda p: jax.value_and_grad(loss)(0.5, 0, **{parameter: p}))(bad)
    assert np.isnan(value)
    assert np.isnan(slope)


@pytest.mark.parametrize("bad", ["gamma_pos", "gamma_neg", "margin"])
def test_a_parameter_outside_spoils_the_derivatives_by_all(bad):
    """Also by those of the half that it is no part of."""
    parameters = {"gamma_pos": 1.5, "gamma_neg": 2.5, "margin": 0.05, bad: -1.0}
    slopes = jax.jit(jax.grad(lambda p: asymmetric_loss(jnp.arange(3.0), jnp.asarray([0, 1, 0.5]), **p)))(parameters)
    assert np.isnan(list(slopes.values())).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(sigmoid_focal_loss, gamma=0.5),
        sigmoid_focal_loss,
        functools.partial(asymmetric_loss, margin=0.0),
        functools.partial(asymmetric_loss, gamma_pos=0.5, gamma_neg=2.5),
    ],
)
def test_third_and_fourth_derivatives_at_sure_predictions(loss):
    """Where σ(x)² underflows float32, beside what they are in float64."""
    x = np.array([-120.0, -87.0, -60.0, -45.0, -30.0, 20.0, 30.0, 45.0, 60.0, 87.0, 120.0])
    x, y = (grid.ravel() for grid in np.meshgrid(x, [0.0, 1.0, 0.3]))

    @jax.jit
    @jax.vmap
    def derivatives(x, y):
        def second(x):
            return jax.jvp(lambda x: jax.grad(loss)(x, y), (x,), (jnp.ones_like(x),))[1]

        return jax.jvp(jax.grad(second), (x,), (jnp.ones_like(x),))

    for found, expected in zip(derivatives(x.astype(np.float32), y), derivatives(x, y), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)


def test_the_slope_by_gamma_of_hard_mistakes():
    """The logarithm of u rests on 1 - u, which is small there: 2e-9 at x = 20, where u is 1 in float32."""
    for x in (5.0, 10.0, 15.0, 20.0):
        expected = float(mpmath.log(oracle.mp_sigmoid(mpmath.mpf(x))) * oracle.mp_softplus(mpmath.mpf(x)))
        focal = jax.grad(lambda gamma, x=x: sigmoid_focal_loss(jnp.float32(x), 0.0, gamma=gamma))
        negative = jax.grad(lambda gamma, x=x: asymmetric_loss(jnp.float32(x), 0.0, gamma_neg=gamma, margin=0.0))
        for slope in (focal, negative):
            np.testing.assert_allclose(slope(jnp.float32(0)), expected, rtol=1e-5)


def test_an_infinite_loss_keeps_the_slopes_by_the_parameters_of_the_other_half():
    x, y, weight = jnp.float32([-INF, 1]), jnp.float32([1, 0]), jnp.float32([0, 1])

    def loss(gamma_neg, margin):
        return asymmetric_loss(x, y, gamma_neg=gamma_neg, margin=margin, weight=weight, reduction="sum")

    def alone(gamma_neg, margin):
        return asymmetric_loss(x[1:], y[1:], gamma_neg=gamma_neg, margin=margin, reduction="sum")

    at = jnp.float32(1), jnp.float32(0.05)
    for actual, expected in zip(jax.grad(loss, (0, 1))(*at), jax.grad(alone, (0, 1))(*at), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
