"""Elementwise mathematics that losses share, on floating arrays of one dtype and one shape.

A formula is a select between analytic branches wherever it can be: |x|, `maximum` and `minimum` have a kink at 0, where
autodiff takes a subgradient, and every zero-initialised head starts there. A custom rule stands where autodiff would
meet 0·inf, inf - inf or a cancellation, and nowhere else.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


def define_partials(function: Any, *partials: Callable[..., Array]) -> None:
    """Give a `custom_jvp` function one derivative for each argument: `partial(tangent, value, *arguments)`.

    Skip arguments whose tangent is a symbolic zero: an infinite slope times 0 would be NaN.
    """

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        value = function(*primals)
        moving = [
            (partial, t)
            for partial, t in zip(partials, tangents, strict=True)
            if t is not None and not isinstance(t, SymbolicZero)
        ]
        return value, functools.reduce(operator.add, (partial(t, value, *primals) for partial, t in moving))

    rule.__name__ = f"{function.__name__}_jvp"  # which a traceback shows
    function.defjvp(rule, symbolic_zeros=True)


# --- NaN and 0·inf ------------------------------------------------------------------------------------------------


def nan_where(condition: Array, value: Array) -> Array:
    """Replace `value` by NaN where the condition holds.

    Compute the NaN as inf - inf: `jax_debug_nans` reports a literal NaN even where it is not selected.
    """
    infinite = jnp.where(condition, jnp.inf, jnp.zeros_like(value))
    return jnp.where(condition, infinite - infinite, value)


def nan_unless(condition: Array, value: Array) -> Array:
    """Replace `value` and its derivative by NaN unless the condition holds."""
    return value * nan_where(~condition, jnp.ones_like(value))


def zero_where_masked(value: Array, where: Array | None) -> Array:
    """Replace `value` by 0 where the mask is False."""
    return value if where is None else jnp.where(where, value, jnp.zeros_like(value))


@jax.custom_jvp
def multiply_no_nan(factor: Array, value: Array) -> Array:
    """factor·value with 0·inf = 0, in every derivative too: for formulas, which take a JVP by the entry."""
    return factor * jnp.where((factor == 0.0) & jnp.isinf(value), 0.0, value)


define_partials(
    multiply_no_nan,
    lambda t, _, factor, value: multiply_no_nan(t, value),
    lambda t, _, factor, value: multiply_no_nan(factor, t),
)


@jax.custom_jvp
def apply_weight(weight: Array, value: Array) -> Array:
    """weight·value with 0·inf = 0, whose derivative can be transposed, unlike that of `multiply_no_nan`."""
    return multiply_no_nan(weight, value)


define_partials(apply_weight, lambda t, _, weight, value: t * value, lambda t, _, weight, value: weight * t)


@jax.custom_jvp
def divide_no_nan(numerator: Array, denominator: Array) -> Array:
    """numerator/denominator, and 0 at a denominator of 0."""
    is_zero = denominator == 0.0
    return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1.0, denominator))


# Avoid autodiff's 1/denominator², which overflows long before the quotient does.
define_partials(
    divide_no_nan, lambda t, _, n, d: divide_no_nan(t, d), lambda t, value, n, d: -value * divide_no_nan(t, d)
)


# --- Powers -------------------------------------------------------------------------------------------------------


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StaticExponent:
    """A whole exponent known at trace time: multiplications replace the logarithm and exponential."""

    number: int


Exponent: TypeAlias = Array | StaticExponent


def power(base: Array, exponent: Exponent, complement: Array | None = None) -> Array:
    """base^exponent for a base in [0, 1], with 0^0 = 1; `complement` is 1 - base to all digits, for the logarithm."""
    if isinstance(exponent, StaticExponent):
        return jax.lax.integer_pow(base, exponent.number)
    return _power(base, exponent, 1.0 - base if complement is None else complement)


@jax.custom_jvp
def _power(base: Array, exponent: Array, complement: Array) -> Array:
    del complement
    return jnp.power(base, exponent)


def _log(base: Array, complement: Array) -> Array:
    """The logarithm of a base, from the complement next to 1; 0 for a base of 0."""
    near, far = jnp.log1p(-jnp.minimum(complement, 0.5)), jnp.log(jnp.where(base == 0.0, 1.0, base))
    return jnp.where(base > 0.5, near, far)


# Write the slope with base'/base: autodiff's base^(exponent - 1) overflows where the base underflows.
define_partials(
    _power,
    lambda t, value, base, exponent, complement: exponent * value * divide_no_nan(t, base),
    lambda t, value, base, exponent, complement: value * _log(base, complement) * t,
    lambda t, value, base, exponent, complement: jnp.zeros_like(value),
)


# --- The logistic function ----------------------------------------------------------------------------------------


SATURATION = 1e4
"""A logit at which σ is 0 or 1 in every dtype."""


def magnitude(x: Array) -> Array:
    """|x| with slope -1 at 0, where `abs` has 0, so that softplus has slope 1/2 there."""
    return jnp.where(x > 0.0, x, -x)


def sigmoids(x: Array) -> tuple[Array, Array]:
    """σ(x) = 1 / (1 + exp(-x)) and σ(-x), each to all digits in its tail."""
    e = jnp.exp(-magnitude(x))
    greater, lesser = 1.0 / (1.0 + e), e / (1.0 + e)
    return jnp.where(x > 0.0, greater, lesser), jnp.where(x > 0.0, lesser, greater)


def sigmoid(x: Array) -> Array:
    """σ(x)."""
    return sigmoids(x)[0]


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = -log σ(-x)."""
    return jnp.where(x > 0.0, x, 0.0) + jnp.log1p(jnp.exp(-magnitude(x)))


# --- The two halves of a binary loss ------------------------------------------------------------------------------


def label_coefs(y: Array, pos_weight: Array | None) -> tuple[Array, Array]:
    """The factors a = w·y and b = 1 - y of the losses of label 1 and label 0."""
    return (y if pos_weight is None else pos_weight * y), 1.0 - y


def zero_or_nan(*parameters: Exponent) -> Array | float:
    """NaN where a parameter is NaN, else 0."""
    return sum(0.0 * value for value in parameters if not isinstance(value, StaticExponent))
