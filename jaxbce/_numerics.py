"""Scalar mathematics with exact derivatives, for all losses: directions, products, powers, the logistic function.

Functions act elementwise on floating arrays of one dtype and one shape.

Three habits run through this file and those that stand on it. The values of plain and weighted binary cross-entropy are
built from arithmetic, `minimum`, `maximum` and `sign`, without a select or a comparison: XLA on CPU then fuses a loss
and its reduction into one pass. And derivatives are closed forms, which are differentiable in turn: nothing is left to
autodiff where it would meet 0·inf, inf - inf or the kink of |x| at 0. And what may be NaN comes second in `minimum` and
`maximum`, or goes into the result on another way too: the loops in which XLA on CPU reduces arrays answer with the
second operand where one is NaN, and its reductions by `max` and `min` leave NaN out (jaxlib 0.10 to 0.12).

`stop_gradient` is here for JAX before 0.12, which forgets the rules where reverse mode goes through a `scan` and is
differentiated again, and differentiates the formulas.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._typing import ArrayLike

Tangent: TypeAlias = Array | SymbolicZero


def directional(*terms: tuple[Callable[[], Array], Tangent]) -> Array:
    """Σ slope·tangent over the perturbed inputs alone: an infinite slope never meets a tangent that is not there."""
    return functools.reduce(
        operator.add, (slope() * tangent for slope, tangent in terms if not isinstance(tangent, SymbolicZero))
    )


# --- Domains and products -----------------------------------------------------------------------------------------


@jax.custom_jvp
def nan_outside(value: Array, margin: Array) -> Array:
    """`value` where margin is finite and ≥ 0, NaN elsewhere, in value and derivative: √margin - √margin is 0 or NaN."""
    root = jnp.sqrt(jax.lax.stop_gradient(margin))
    return value + (root - root)


@nan_outside.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    value, margin = primals
    return nan_outside(value, margin), nan_outside(jnp.ones_like(value), margin) * tangents[0]


def nan_where(condition: Array, value: Array) -> Array:
    """`value`, and NaN where the condition holds.

    As inf - inf: a NaN that is written down `jax_debug_nans` reports where nothing is compiled, chosen or not.
    """
    mark = jnp.where(condition, jnp.inf, jnp.zeros_like(value))
    return jnp.where(condition, mark - mark, value)


@jax.custom_jvp
def product(factor: Array, value: Array) -> Array:
    """factor·value with 0·inf = 0, for factor ≥ 0 and value > -inf; NaN where one of them is.

    The cap |factor·max|·max, with the largest finite number, is 0 at factor 0 and inf above; of a subnormal factor,
    which XLA on CPU takes for 0, it may be finite. The absolute value changes nothing, but keeps the compiler from
    multiplying max·max out to inf, and 0·inf is NaN. The sign of the factor says the same and takes twice as long.
    """
    largest = float(np.finfo(factor.dtype).max)
    cap = jnp.abs(jax.lax.stop_gradient(factor) * largest) * largest
    return factor * jnp.minimum(cap, value)


@functools.partial(product.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    factor, value = primals
    return product(factor, value), directional((lambda: value, tangents[0]), (lambda: factor, tangents[1]))


def included(values: Array, where: Array | None) -> Array:
    """`values`, and 0 where the mask leaves them out."""
    return values if where is None else jnp.where(where, values, jnp.zeros_like(values))


def coefficients(labels: Array, pos_weight: Array | None) -> tuple[Array, Array]:
    """What multiplies the two halves of a binary loss: w·y, where no weight is w = 1, and 1 - y."""
    return (labels if pos_weight is None else pos_weight * labels), 1.0 - labels


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


def power(base: Array, exponent: Exponent) -> Array:
    """base^exponent, where 0^0 is 1."""
    return jax.lax.integer_pow(base, exponent.number) if isinstance(exponent, Whole) else jnp.power(base, exponent)


def as_factor(exponent: Exponent) -> Array | float:
    """The exponent as a factor."""
    return float(exponent.number) if isinstance(exponent, Whole) else exponent


# --- The logistic function ----------------------------------------------------------------------------------------


def lesser_sigmoid(x: Array) -> Array:
    """σ(-|x|) = m / (1 + m) with m = exp(-|x|), the smaller of σ(x) and σ(-x), with no cancellation in either tail.

    m/(1 + m) rounds twice at full weight, and is off by up to 2.2 ulp; m - m·t with t = m/(1 + m) ≤ 1/2 rounds mostly
    in a term that is small, and is off by up to 1.9. Doubled throughout, which is exact.
    """
    m = 2.0 * jnp.exp(-jnp.abs(x))
    return 0.5 * (m - m * (m / (m + 2.0)))


@jax.custom_jvp
def sigmoids(x: Array) -> tuple[Array, Array]:
    """σ(x) = 1 / (1 + exp(-x)) and σ(-x): the lesser of the two and what it lacks to 1, which loses nothing."""
    above, lesser = jnp.maximum(jnp.sign(x), 0.0), lesser_sigmoid(x)
    return jnp.abs(above - lesser), jnp.abs(1.0 - above - lesser)


@sigmoids.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    p, q = sigmoids(*primals)
    # σ' = σ(x)·σ(-x). Autodiff's σ·(1 - σ) is exactly 0 from x = 17 on in float32.
    change = p * q * tangents[0]
    return (p, q), (change, -change)


def sigmoid(x: Array) -> Array:
    """σ(x)."""
    return sigmoids(x)[0]


# Chebyshev interpolation of log1p(m)/m on [0, 1] at degree 9, off by 5e-9 of itself; highest power first.
_LOG1P = (
    *(-0.003176057, 0.019542528, -0.056373615, 0.105436236, -0.15269667),
    *(0.19663274, -0.24951616, 0.3332971, -0.49999893, 1.0),
)


def log1p_exp(x: Array, *, fused: bool = False) -> Array:
    """log(1 + exp(-|x|)) = softplus(x) - max(x, 0), in (0, log 2].

    In float32 a polynomial is nearer than XLA's log1p on CPU (1.5 ulp against 2.5), and faster in a loop of its own. In
    one that XLA has `fused` with a reduction every operation costs a pass over a tile, and log1p is one operation.
    """
    m = jnp.exp(-jnp.abs(x))
    if fused or m.dtype != jnp.float32:
        return jnp.log1p(m)
    return m * functools.reduce(
        lambda sum_, coefficient: sum_ * m + coefficient, _LOG1P[1:], jnp.full_like(m, _LOG1P[0])
    )


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = -log σ(-x) = max(x, 0) + log1p(exp(-|x|))."""
    return jnp.maximum(x, 0.0) + log1p_exp(x)


@softplus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    return softplus(x), sigmoid(x) * tangents[0]
