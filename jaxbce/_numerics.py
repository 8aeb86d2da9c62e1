"""Scalar mathematics that losses share. Functions act elementwise on floating arrays of one dtype and one shape.

A formula is a select between analytic branches wherever it can be: |x|, `maximum` and `minimum` have a kink at 0, where
autodiff takes a subgradient, and every zero-initialised head starts there. A custom rule stands where autodiff would
meet 0·inf, inf - inf or a cancellation, and nowhere else.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._typing import ArrayLike


def define_partials(function: Any, *partials: Callable[..., Array]) -> None:
    """Give a `custom_jvp` function its derivatives, one for each argument: `partial(tangent, value, *arguments)`.

    Those of arguments that stand still are not computed: an infinite slope never meets a tangent that is not there.
    """

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        value = function(*primals)
        moving = [
            (partial, t)
            for partial, t in zip(partials, tangents, strict=True)
            if t is not None and not isinstance(t, SymbolicZero)
        ]
        return value, functools.reduce(operator.add, (partial(t, value, *primals) for partial, t in moving))

    function.defjvp(rule, symbolic_zeros=True)


# --- NaN and 0·inf ------------------------------------------------------------------------------------------------


def nan_where(condition: Array, value: Array) -> Array:
    """`value`, and NaN where the condition holds.

    As inf - inf: a NaN that is written down `jax_debug_nans` reports where nothing is compiled, chosen or not.
    """
    mark = jnp.where(condition, jnp.inf, jnp.zeros_like(value))
    return jnp.where(condition, mark - mark, value)


def nan_unless(condition: Array, value: Array) -> Array:
    """`value` where the condition holds, and NaN elsewhere, in value and derivative."""
    return value * nan_where(~condition, jnp.ones_like(value))


@jax.custom_jvp
def multiply_no_nan(factor: Array, value: Array) -> Array:
    """factor·value with 0·inf = 0, in every derivative too: of formulas that are differentiated by the entry."""
    return factor * jnp.where((factor == 0.0) & jnp.isinf(value), 0.0, value)


define_partials(
    multiply_no_nan,
    lambda t, _, factor, value: multiply_no_nan(t, value),
    lambda t, _, factor, value: multiply_no_nan(factor, t),
)


@jax.custom_jvp
def weigh(weight: Array, value: Array) -> Array:
    """weight·value with 0·inf = 0, and derivatives that are linear, as reverse mode asks of all else."""
    return multiply_no_nan(weight, value)


define_partials(weigh, lambda t, _, weight, value: t * value, lambda t, _, weight, value: weight * t)


@jax.custom_jvp
def divide_no_nan(numerator: Array, denominator: Array) -> Array:
    """numerator/denominator, and 0 at a denominator of 0."""
    nothing = denominator == 0.0
    return jnp.where(nothing, 0.0, numerator / jnp.where(nothing, 1.0, denominator))


# Autodiff's 1/denominator² overflows long before the quotient does.
define_partials(
    divide_no_nan,
    lambda t, _, n, d: divide_no_nan(t, d),
    lambda t, value, n, d: -value * divide_no_nan(t, d),
)


def included(values: Array, where: Array | None) -> Array:
    """`values`, and 0 where the mask leaves them out."""
    return values if where is None else jnp.where(where, values, jnp.zeros_like(values))


# --- Powers -------------------------------------------------------------------------------------------------------


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole exponent that is known when a function is traced: products take the place of logarithm and exp."""

    number: int


Exponent: TypeAlias = Array | Whole


def is_python_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an int or a float of Python: a value that no trace hides, in full precision. A bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_exponent(value: ArrayLike) -> ArrayLike | Whole:
    """The value, or what it is as a number that is whole and small."""
    return Whole(int(value)) if is_python_number(value) and value in range(17) else value


def power(base: Array, exponent: Exponent, missing: Array | None = None) -> Array:
    """base^exponent for a base in [0, 1], where 0^0 is 1; `missing` is 1 - base to all digits, for the logarithm."""
    if isinstance(exponent, Whole):
        return jax.lax.integer_pow(base, exponent.number)
    return _power(base, exponent, 1.0 - base if missing is None else missing)


@jax.custom_jvp
def _power(base: Array, exponent: Array, missing: Array) -> Array:
    del missing
    return jnp.power(base, exponent)


def _log(base: Array, missing: Array) -> Array:
    """The logarithm of a base, and 0 of 0; next to 1 it rests on what is missing there."""
    near, far = jnp.log1p(-jnp.minimum(missing, 0.5)), jnp.log(jnp.where(base == 0.0, 1.0, base))
    return jnp.where(base > 0.5, near, far)


# In terms of base'/base: autodiff's base^(exponent - 1) overflows where the base underflows.
define_partials(
    _power,
    lambda t, value, base, exponent, missing: exponent * value * divide_no_nan(t, base),
    lambda t, value, base, exponent, missing: value * _log(base, missing) * t,
    lambda t, value, base, exponent, missing: jnp.zeros_like(value),
)


# --- The logistic function ----------------------------------------------------------------------------------------


def magnitude(x: Array) -> Array:
    """|x|, with the slope -1 at 0, where that of `abs` is 0."""
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
