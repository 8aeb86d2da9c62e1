"""The programs tuned for CPUs compute what the plain formulas do, which run where nothing is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import cross_entropy
from tests.losses import LOSSES, each_of

pytestmark = pytest.mark.cpu


# Entries by row, each of which another program computes: a loop of their own, with a mask; the loop that reduces them;
# and that of an odd number.
CASES = {
    "masked": ((7, 3), {"label_smoothing": 0.2, "where": np.arange(7)[:, None] % 3 > 0}),
    "reduced": ((32, 128), {}),
    "reduced, weighted": ((32, 128), {"pos_weight": 3.0, "weight": 0.5}),
    "odd": ((9, 129), {"pos_weight": 3.0, "weight": 0.5}),
}


def arrays(row, shape, rng):
    """Predictions with the ends of their domain among them, and labels of every kind."""
    x = np.asarray(row.draw(rng, shape))
    ends = np.asarray(row.extremes[: x.size // 2])
    x.ravel()[: ends.size] = ends
    return jnp.asarray(x, jnp.float32), jnp.asarray(row.draw_labels(rng, shape), jnp.float32)


def step(row, options, x, y):
    """Losses, their mean, slopes, sums by row, a Hessian-vector product, and the gradient of narrow predictions."""
    each = functools.partial(row, **options, reduction="none")

    def slope(x):
        return jax.grad(lambda x: jnp.sum(each(x, y)))(x)

    by_row = row(x, y, **options, axis=-1, reduction="sum")
    narrow = jax.grad(lambda x: row(x, y, **options))(x.astype(jnp.bfloat16))
    return each(x, y), row(x, y, **options), slope(x), by_row, jax.jvp(slope, (x,), (jnp.ones_like(x),))[1], narrow


@each_of(row for row in LOSSES if row.each == "entry" and row.labels == "soft")
@pytest.mark.parametrize(
    "case",
    ["masked", "reduced", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reduced, weighted", "odd"))],
)
def test_equal_the_plain_formula(row, case, rng):
    shape, options = CASES[case]
    arguments = arrays(row, shape, rng)
    call = functools.partial(step, row, options)
    compiled = jax.jit(call)(*arguments)
    with jax.disable_jit():
        plain = call(*arguments)
    for actual, expected in zip(compiled, plain, strict=True):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        tolerance = 2**-7 if actual.dtype == jnp.bfloat16 else 2e-6
        actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
        # A second derivative of focal losses cancels: it is as exact as the largest of its terms, of the size of 1.
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=1e-7)


INF = np.inf
EXTREMES = np.float32(
    [
        [3, -20, -25],  # sure
        [-20, 3, 3],  # two maxima
        [0, 0, 0],
        [INF, 1, 2],  # certain
        [0, INF, -INF],
        [INF, INF, 2],  # no distribution
        [-INF, 1, 2],  # impossible: the first class, one in between, the last
        [0, -INF, 1],
        [1, 0, -INF],
        [-INF, -INF, 2],
        [-INF, -INF, -INF],
        [3e38, -3e38, 3e38],
        [1, -2, 0.5],
        [-3, 5, 5],
        [0.1, 0.2, 0.3],
        [-7, -8, -9],
    ]
)


@pytest.mark.slow
@pytest.mark.parametrize("class_axis", [0, 1])
@pytest.mark.parametrize("kind", ["indices", "weighted indices", "probabilities"])
def test_classes_equal_the_plain_formula(kind, class_axis):
    """Few classes of a multiple of 16 entries are taken one by one, of other numbers all at once."""
    x, t = jnp.asarray(np.repeat(EXTREMES, 3, 0)), np.arange(48) % 3  # each extreme with every label
    soft = np.where(x == -INF, 0, np.eye(3)[t] * 0.5 + 0.5 / 3).astype(np.float32)
    options = {"class_weight": jnp.float32([1, 2, 3])} if kind.startswith("weighted") else {}

    def everything(x, labels):
        def loss(x):
            y = labels.T if class_axis == 0 else labels  # of indices itself
            return cross_entropy(x.T if class_axis == 0 else x, y, class_axis=class_axis, reduction="none", **options)

        gradient = jax.grad(lambda x: loss(x).sum())
        along = jnp.broadcast_to(jnp.float32([[1, 2, 4]]), x.shape)
        return loss(x), *jax.jvp(gradient, (x,), (along,))

    for number in (48, 45):
        y = jnp.asarray((soft if kind == "probabilities" else t)[:number])
        compiled = jax.jit(everything)(x[:number], y)
        with jax.disable_jit():
            plain = everything(x[:number], y)
        assert np.isnan(plain[0]).any()
        assert np.isinf(plain[0]).any()
        for actual, expected in zip(compiled, plain, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=1e-7)
