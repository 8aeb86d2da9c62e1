"""Arithmetic that XLA on CPU takes into the loop of a reduction: no select, no comparison.

What may be NaN comes second in `minimum` and `maximum`, or goes into the result on another way too: the loops that
reduce arrays answer with the second operand where one is NaN (jaxlib 0.10 to 0.12).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._domains import DOMAINS


def guard(value: Array, name: str) -> Array:
    """`value` within the domain of the argument `name`, NaN outside."""
    return nan_outside(value, _margin(value, name))


def differentiable_guard(value: Array, name: str) -> Array:
    """The same where autodiff goes through it, which makes NaN of the derivative, too."""
    return value * nan_outside(jnp.ones_like(value), jax.lax.stop_gradient(_margin(value, name)))


def _margin(value: Array, name: str) -> Array:
    high = DOMAINS[name].high
    return value if high == np.inf else jnp.minimum(value, high - value)


def nan_outside(value: Array, margin: Array) -> Array:
    """`value` where the margin is finite and ≥ 0, and NaN elsewhere: √margin - √margin is 0 or NaN."""
    root = jnp.sqrt(margin)
    return value + (root - root)


def multiply_no_nan(factor: Array, value: Array) -> Array:
    """factor·value with 0·inf = 0, for factor ≥ 0 and value > -inf; NaN where one of them is.

    The cap |factor·max|·max, with the largest finite number, is 0 at factor 0 and inf above; of a subnormal factor,
    which XLA takes for 0, it may be finite. The absolute value changes nothing, but keeps the compiler from
    multiplying max·max out to inf, and 0·inf is NaN. The sign of the factor says the same and takes twice as long.
    """
    largest = float(np.finfo(factor.dtype).max)
    return factor * jnp.minimum(jnp.abs(factor * largest) * largest, value)


def lesser_sigmoid(x: Array) -> Array:
    """σ(-|x|) = m / (1 + m) with m = exp(-|x|), the smaller of σ(x) and σ(-x).

    m/(1 + m) rounds twice at full weight, and is off by up to 2.2 ulp; m - m·t with t = m/(1 + m) ≤ 1/2 rounds mostly
    in a term that is small, and is off by up to 1.9. Doubled throughout, which is exact.
    """
    m = 2.0 * jnp.exp(-jnp.abs(x))
    return 0.5 * (m - m * (m / (m + 2.0)))


def sigmoids(x: Array) -> tuple[Array, Array]:
    """σ(x) and σ(-x): the lesser of the two and what it lacks to 1, which loses nothing."""
    above, lesser = jnp.maximum(jnp.sign(x), 0.0), lesser_sigmoid(x)
    return jnp.abs(above - lesser), jnp.abs(1.0 - above - lesser)


# Chebyshev interpolation of log1p(m)/m on [0, 1] at degree 9, off by 5e-9 of itself; highest power first.
LOG1P = (
    *(-0.003176057, 0.019542528, -0.056373615, 0.105436236, -0.15269667),
    *(0.19663274, -0.24951616, 0.3332971, -0.49999893, 1.0),
)


def log1p_exp(x: Array, *, fused: bool = False) -> Array:
    """log(1 + exp(-|x|)), in (0, log 2].

    In float32 a polynomial is nearer than XLA's log1p (1.5 ulp against 2.5), and faster in a loop of its own. In one
    that is `fused` with a reduction every operation costs a pass over a tile, and log1p is one operation.
    """
    m = jnp.exp(-jnp.abs(x))
    if fused or m.dtype != jnp.float32:
        return jnp.log1p(m)
    return m * functools.reduce(lambda sum_, coefficient: sum_ * m + coefficient, LOG1P[1:], jnp.full_like(m, LOG1P[0]))


def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0.0) + log1p_exp(x)
