"""What is particular to the two binary cross-entropies: infinities, limits, known values, kinship."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import binary_cross_entropy, binary_cross_entropy_with_logits

INF = float("inf")


@pytest.mark.parametrize(
    ("x", "y", "w", "loss", "slope", "label_slope"),
    [
        (INF, 1.0, None, 0.0, 0.0, -INF),
        (INF, 1.0, 3.0, 0.0, 0.0, -INF),
        (INF, 0.0, None, INF, 1.0, -INF),
        (INF, 0.0, 3.0, INF, 1.0, -INF),
        (-INF, 0.0, None, 0.0, 0.0, INF),
        (-INF, 0.0, 3.0, 0.0, 0.0, INF),
        (-INF, 1.0, None, INF, -1.0, INF),
        (-INF, 1.0, 3.0, INF, -3.0, INF),
        (-INF, 1.0, 0.0, 0.0, 0.0, 0.0),
        (INF, 0.5, None, INF, 0.5, -INF),
        (-INF, 0.25, 2.0, INF, -0.5, INF),
    ],
)
def test_infinite_logits(x, y, w, loss, slope, label_slope):
    """A certain and right prediction costs exactly nothing; a certain and wrong one has a finite gradient."""

    def f(x, y):
        return binary_cross_entropy_with_logits(x, y, pos_weight=w)

    x, y = jnp.float32(x), jnp.float32(y)
    for transform in (lambda g: g, jax.jit):
        assert transform(f)(x, y) == loss
        assert transform(jax.grad(f))(x, y) == slope
        assert transform(jax.grad(f, argnums=1))(x, y) == label_slope
        assert transform(jax.hessian(f))(x, y) == 0
        assert transform(jax.jacfwd(f))(x, y) == slope
        assert transform(jax.grad(jax.grad(f, argnums=1)))(x, y) == (-1 if w is None or x > 0 else -w)


@pytest.mark.parametrize(
    ("p", "y", "loss", "slope", "curvature"),
    [
        (0.0, 0.0, 0.0, 1.0, 1.0),
        (1.0, 1.0, 0.0, -1.0, 1.0),
        (0.0, 1.0, 100.0, -1e12, 1e24),
        (1.0, 0.0, 100.0, 1e12, 1e24),
        (0.0, 0.5, 50.0, 0.5 - 5e11, 5e23),
        (0.25, 1.0, np.log(4), -4.0, 16.0),
        (0.25, 0.0, -np.log(0.75), 4 / 3, 16 / 9),
    ],
)
def test_certain_probabilities(p, y, loss, slope, curvature):
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.float64, 1e-14)):
        x, y = dtype(p), dtype(y)
        np.testing.assert_allclose(binary_cross_entropy(x, y), loss, rtol=tolerance)
        np.testing.assert_allclose(jax.grad(binary_cross_entropy)(x, y), slope, rtol=tolerance)
        np.testing.assert_allclose(jax.hessian(binary_cross_entropy)(x, y), curvature, rtol=tolerance)


def test_the_slope_of_the_slope_by_the_label_at_tiny_probabilities():
    """∂²ℓ/∂p∂y = -1/(p·(1 - p)), where ∂²ℓ/∂p² overflows: in forward mode, which asks for the one alone."""
    for p in (1e-10, 1e-25, 1e-37, 0.5):

        def slope(y, p=p):
            return jax.grad(binary_cross_entropy)(jnp.float32(p), y)

        expected = -1 / (p * (1 - p))
        np.testing.assert_allclose(jax.jvp(slope, (jnp.float32(1),), (jnp.float32(1),))[1], expected, rtol=1e-6)
        mixed = jax.jacfwd(jax.grad(binary_cross_entropy), 1)(jnp.float32(p), jnp.float32(1))
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_the_slope_at_the_least_normal_probability():
    """(1 - y)·p is flushed to zero, and 1 - y is not."""
    p, y = (jnp.float32(value) for value in (np.finfo(np.float32).tiny, 0.5))
    assert jax.grad(lambda p: binary_cross_entropy(p, y, pos_weight=0.0))(p) == 0.5


def test_a_probability_may_be_half_precision_and_certain():
    """PyTorch's float16 gradient is NaN here."""
    p, y = jnp.asarray([0.0, 1.0, 0.0], jnp.float16), jnp.asarray([0.0, 1.0, 0.25], jnp.float16)
    gradient = jax.grad(lambda p: binary_cross_entropy(p, y, reduction="sum"))(p)
    np.testing.assert_array_equal(gradient, np.asarray([1.0, -1.0, -np.inf], np.float16))


def test_gradient_of_a_chained_sigmoid_is_not_flattened():
    """The logit form's gradient, -σ(-x), through a probability that float32 can still resolve."""
    x = jnp.asarray([-80.0, -50.0, -20.0, 0.0, 5.0], jnp.float32)

    def chained(x):
        return binary_cross_entropy(jax.nn.sigmoid(x), 1, reduction="sum")

    direct = jax.grad(lambda x: binary_cross_entropy_with_logits(x, 1, reduction="sum"))(x)
    np.testing.assert_allclose(jax.grad(chained)(x), direct, rtol=1e-5)


def test_tails_of_higher_derivatives():
    """σ' = σ(x)·σ(-x) again and again; 1 - σ(x) is exactly 0 from x = 17 on."""
    loss = binary_cross_entropy_with_logits
    for x, sign in ((20.0, -1), (-20.0, 1)):
        x = jnp.float32(x)
        third = jax.grad(jax.hessian(loss))(x, 0.0)
        np.testing.assert_allclose(third, sign * np.exp(-20.0), rtol=1e-6)
        mixed = jax.grad(jax.grad(lambda x, w: loss(x, 1.0, pos_weight=w)), argnums=1)(x, jnp.float32(2))
        np.testing.assert_allclose(mixed, -1 / (1 + np.exp(np.float64(x))), rtol=1e-6)


def test_label_gradient_is_minus_the_logit_exactly(rng):
    x = jnp.asarray(10.0 ** rng.uniform(-30, 30, 100) * rng.choice([-1, 1], 100), jnp.float32)

    def total(y, w=None):
        return binary_cross_entropy_with_logits(x, y, pos_weight=w, reduction="sum")

    y = jnp.full_like(x, 0.5)
    chex.assert_trees_all_equal(jax.grad(total)(y), -x)
    chex.assert_trees_all_equal(jax.jit(jax.grad(total))(y, jnp.float32(1)), -x)


def test_unperturbed_arguments_cost_no_nan():
    """Only the arguments that are differentiated take part: 0·inf never forms for the others."""
    x, y, w = jnp.float32(INF), jnp.float32(1), jnp.float32(2)

    def f(x, y, w):
        return binary_cross_entropy_with_logits(x, y, pos_weight=w)

    for argnums in (0, 2):
        assert jax.grad(f, argnums)(x, y, w) == 0
        assert (
            jax.linearize(
                lambda a, n=argnums: f(*[a if i == n else v for i, v in enumerate((x, y, w))]), (x, y, w)[argnums]
            )[1](jnp.float32(1))
            == 0
        )


@pytest.mark.parametrize("names", [(), ("pos_weight",), ("weight",), ("pos_weight", "weight")])
@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, binary_cross_entropy])
def test_the_loop_of_a_reduction_adds_up_the_losses(rng, loss, names):
    """It has a formula of its own: the same at every end of the domain, and beyond it."""
    size = 2**12  # few enough for one loop, and enough for one in which XLA on CPU reduces
    logits = loss is binary_cross_entropy_with_logits
    ends = [0.0, 5.0, -90.0, 3e38, -3e38, INF, -INF, np.nan] if logits else [0.0, 1.0, 0.5, 2e-38, np.nan, -0.5, 1.5]
    labels, weights = [0.0, 1.0, 0.3, -0.1, INF], [0.0, 3.0, 1e30, np.nan, -1.0, INF]

    def call(x, y, *given, reduction):
        return loss(x, y, reduction=reduction, **dict(zip(names, given, strict=True)))

    each, total = (jax.jit(functools.partial(call, reduction=reduction)) for reduction in ("none", "sum"))
    cases = list(itertools.product(ends, labels, *[weights] * len(names)))
    for case in rng.permutation(np.asarray(cases, np.float32))[:200]:
        x = rng.normal(0, 3, size) if logits else rng.uniform(0.01, 0.99, size)
        arrays = [x, rng.integers(0, 2, size), *rng.uniform(0.5, 2, (len(names), size))]
        arrays = [np.asarray(array, np.float32) for array in arrays]
        for array, value in zip(arrays, case, strict=True):
            array[size // 2] = value
        with np.errstate(over="ignore"):
            expected = np.float32(np.sum(np.asarray(each(*arrays), np.float64)))
        np.testing.assert_allclose(total(*arrays), expected, rtol=3e-6, err_msg=str(case))
