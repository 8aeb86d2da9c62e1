"""Cross-entropy of a softmax, over one axis of an array.

    ℓ(x, a) = -Σ_c a_c·log p_c,    p_c = exp(x_c) / Σ_k exp(x_k)
            = A·log1p(S) + Σ_c a_c·(max(x) - x_c)    with A = Σ_c a_c,  S = Σ_{c not the maximum} exp(x_c - max(x)).

For a ≥ 0 every term is non-negative, so nothing cancels; and the 1 that the maximum contributes to the sum of
exponentials stays out of it, so that a sure prediction keeps its small loss: log(1 + S) would be 0 from S = 6e-8 on.
1 - p_c of the maximum is S/(1 + S) for the same reason. Of k equal maxima, k - 1 count in S.

An infinite maximum is a certain class. Several of them, or -inf in every class, are no distribution: NaN.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._numerics import Tangent, directional, product


class _Exponentials(NamedTuple):
    """What softmax and loss are made of."""

    top: Array  # whether a class is a maximum
    ties: Array  # how many are
    below: Array  # x - max(x) ≤ 0
    others: Array  # S


def _exponentials(x: Array, axis: int) -> _Exponentials:
    greatest = jnp.max(x, axis, keepdims=True)
    top = x == greatest
    ties = jnp.sum(top.astype(x.dtype), axis, keepdims=True)
    undefined = (greatest == -jnp.inf) | ((greatest == jnp.inf) & (ties > 1.0))
    below = jnp.where(top, jnp.where(undefined, jnp.nan, jnp.zeros_like(x)), x - greatest)
    others = jnp.sum(jnp.where(top, 0.0, jnp.exp(below)), axis, keepdims=True) + (ties - 1.0)
    return _Exponentials(top, ties, below, others)


def _total(values: Array, axis: int) -> Array:
    return jnp.sum(values, axis, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_loss(x: Array, coefficients: Array, axis: int) -> Array:
    """ℓ(x, a), without the axis of the classes."""
    _, _, below, others = _exponentials(x, axis)
    kink = jnp.sum(product(coefficients, -below), axis)
    return jnp.sum(coefficients, axis) * jnp.squeeze(jnp.log1p(others), axis) + kink


@functools.partial(softmax_loss.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    x, coefficients = primals
    terms = directional(
        (lambda: _slope(x, coefficients, axis), tangents[0]),
        (lambda: _negative_log_softmax(x, axis), tangents[1]),
    )
    return softmax_loss(x, coefficients, axis), jnp.sum(terms, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _negative_log_softmax(x: Array, axis: int) -> Array:
    """∂ℓ/∂a_c = -log p_c."""
    _, _, below, others = _exponentials(x, axis)
    return jnp.log1p(others) - below


@_negative_log_softmax.defjvp
def _(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (direction,) = primals, tangents
    return _negative_log_softmax(x, axis), _total(_softmax(x, axis) * direction, axis) - direction


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slope(x: Array, coefficients: Array, axis: int) -> Array:
    """∂ℓ/∂x_c = A·p_c - a_c = (A - a_c)·p_c - a_c·(1 - p_c), where no 1 - 1 loses the tail."""
    top, _, below, others = _exponentials(x, axis)
    p = jnp.exp(below) / (1.0 + others)
    complement = jnp.where(top, others / (1.0 + others), 1.0 - p)
    return (_total(coefficients, axis) - coefficients) * p - coefficients * complement


@functools.partial(_slope.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    (x, coefficients), (x_tangent, tangent) = primals, tangents
    change = jnp.zeros_like(x)
    if not isinstance(x_tangent, SymbolicZero):
        change += _total(coefficients, axis) * _softmax_change(x, x_tangent, axis)
    if not isinstance(tangent, SymbolicZero):
        change += _softmax(x, axis) * _total(tangent, axis) - tangent
    return _slope(x, coefficients, axis), change


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(x: Array, axis: int) -> Array:
    """p_c."""
    _, _, below, others = _exponentials(x, axis)
    return jnp.exp(below) / (1.0 + others)


@_softmax.defjvp
def _(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (direction,) = primals, tangents
    return _softmax(x, axis), _softmax_change(x, direction, axis)


def _softmax_change(x: Array, direction: Array, axis: int) -> Array:
    """Σ_k ∂p_c/∂x_k·d_k = p_c·(d_c - Σ_k p_k·d_k).

    What is added to every d_k makes no difference, so that d is taken relative to the maximum, where p_c may be next to
    1 and d_c - Σ_k p_k·d_k would cancel.
    """
    top, ties, _, _ = _exponentials(x, axis)
    p = _softmax(x, axis)
    relative = direction - _total(jnp.where(top, direction, 0.0), axis) / ties
    return p * (relative - _total(p * relative, axis))
