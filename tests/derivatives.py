"""Derivatives held against finite differences."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

STEP = 1e-4
"""Of the size at which, in float64, the curvature and the rounding of a central difference weigh about the same."""


def assert_numerical_derivatives(
    f: Callable[..., Any], arguments: tuple[Any, ...], order: int, tolerance: float
) -> None:
    """The derivatives of a scalar up to `order`, in every argument, forward and reverse.

    Each order is held against finite differences of the one below, which is taken in reverse. To go through the orders
    by every sequence of modes would compile 2^order functions.
    """
    arguments = jax.tree.map(jnp.float64, arguments)
    rng = np.random.default_rng(20260101)
    for _ in range(order):
        along = _like(arguments, rng)
        against = _like(jax.eval_shape(f, *arguments), rng)
        difference, forward, reverse = _three(f, arguments, along, against)
        chex.assert_tree_all_finite(difference)
        chex.assert_trees_all_close(forward, difference, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(reverse, _dot(against, forward), atol=tolerance, rtol=tolerance)
        f = jax.jacrev(f, argnums=tuple(range(len(arguments))))


def _three(f: Callable[..., Any], arguments: Any, along: Any, against: Any) -> Any:
    """The derivative of f along a direction, as a difference and forward, and in reverse its product with another.

    In one compilation, and f at both ends in one loop.
    """

    @jax.jit
    def three(arguments, along, against):
        ends = jax.tree.map(lambda a, t: jnp.stack([a - STEP * t, a + STEP * t]), arguments, along)
        values = jax.lax.map(lambda end: f(*end), ends)
        difference = jax.tree.map(lambda v: (v[1] - v[0]) / (2 * STEP), values)
        gradient = jax.vjp(f, *arguments)[1](against)
        return difference, jax.jvp(f, arguments, along)[1], _dot(gradient, along)

    return three(arguments, along, against)


def _like(tree: Any, rng: np.random.Generator) -> Any:
    """A random direction in the shape of a tree."""
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), tree)


def _dot(a: Any, b: Any) -> Any:
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
