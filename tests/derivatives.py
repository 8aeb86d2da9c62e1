"""Derivatives held against finite differences."""

from collections.abc import Callable
from typing import Any

import chex
import jax


def assert_numerical_derivatives(
    f: Callable[..., Any], arguments: tuple[Any, ...], order: int, tolerance: float
) -> None:
    """The derivatives of a scalar up to `order`, in every argument, forward and reverse.

    Each order is held against finite differences of the one below, which is taken in reverse. To let
    `assert_numerical_grads` go through the orders would compile every sequence of modes, of which there are 2^order.
    """
    for _ in range(order):
        chex.assert_numerical_grads(jax.jit(f), arguments, order=1, atol=tolerance, rtol=tolerance)
        f = jax.jacrev(f, argnums=tuple(range(len(arguments))))
