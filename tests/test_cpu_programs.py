"""The programs tuned for CPUs compute what the plain formulas do, which run where nothing is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import cross_entropy
from tests.losses import LOSSES

pytestmark = pytest.mark.cpu

every_row = pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.name)

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
    return jnp.asarray(x, jnp.float32), jnp.asarray(rng.choice([0, 1, 0.25], shape), jnp.float32)


def step(row, options, x, y):
    """Losses, their mean, slopes, sums by row, a Hessian-vector product, and the gradient of narrow predictions."""
    each = functools.partial(row, **options, reduction="none")

    def slope(x):
        return jax.grad(lambda x: jnp.sum(each(x, y)))(x)

    by_row = row(x, y, **options, axis=-1, reduction="sum")
    narrow = jax.grad(lambda x: row(x, y, **options))(x.astype(jnp.bfloat16))
    return each(x, y), row(x, y, **options), slope(x), by_row, jax.jvp(slope, (x,), (jnp.ones_like(x),))[1], narrow


@every_row
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


def test_classes_at_infinite_logits_equal_the_plain_formula():
    """A class of probability 0 may come first, last or in between; one that is certain leaves nothing to the others."""
    inf = np.inf
    x = jnp.float32(
        [[-inf, 0, 1], [0, -inf, 1], [-inf, -inf, 2], [1, 0, -inf], [inf, 0, -inf], [0, inf, 1], [-3, 5, 5]]
    )
    y = jnp.float32([[0, 0.5, 0.5], [0.5, 0, 0.5], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5]])
    for labels, options in (
        (y, {}),
        (jnp.argmax(y, -1), {}),
        (jnp.argmax(y, -1), {"class_weight": jnp.float32([1, 2, 3])}),
    ):
        losses = functools.partial(cross_entropy, reduction="none", **options)

        def both(x, labels=labels, losses=losses):
            return losses(x, labels), jax.grad(lambda x: jnp.sum(losses(x, labels)))(x)

        compiled = jax.jit(both)(x)
        with jax.disable_jit():
            plain = both(x)
        assert np.isfinite(compiled[0]).all()
        for actual, expected in zip(compiled, plain, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
