"""Binary cross-entropy of a probability, elementwise.

    ℓ(p, y, w) = -[a·max(log p, -100) + b·max(log(1 - p), -100)]            with a = w·y, b = 1 - y
    ∂ℓ/∂p      = b/(1 - p) - a/p                                            = (p - y) / (p·(1 - p)) without w

The clamp at -100 is PyTorch's. The slope in p is that of the unclamped logarithms, and 1/0 reads 1e12 in it: PyTorch's
figure for a certain and wrong probability. Those in y and w are of the clamped ones. Nothing divides by 0, which
`checkify` would report.

Outside [0, 1] a logarithm is NaN, and so is the loss; the slopes, which would be numbers, are made so.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._numerics import Tangent, coefficients, directional, nan_outside

_LEAST_LOG = -100.0
_STEEPEST = 1e12


@jax.custom_jvp
def _quotient(a: Array, x: Array) -> Array:
    """a/x, with a·1e12 for a/0."""
    return jnp.where(x == 0.0, _STEEPEST * a, a / jnp.where(x == 0.0, 1.0, x))


@functools.partial(_quotient.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    (a, x), (a_tangent, x_tangent) = primals, tangents
    quotient = _quotient(a, x)
    # -a/x² overflows long before a/x, and would meet 0·inf in a tangent that is 0. So the tangent comes in between.
    x_tangent = x_tangent if isinstance(x_tangent, SymbolicZero) else quotient * x_tangent
    return quotient, directional((lambda: _reciprocal(x), a_tangent), (lambda: -_reciprocal(x), x_tangent))


def _reciprocal(x: Array) -> Array:
    return _quotient(jnp.ones_like(x), x)


def _clamped(log: Array, p: Array) -> Array:
    """max(log, -100) for the logarithm of p, and NaN where it is NaN, which is why it comes second.

    A constant XLA would put there. p - 100 is rounded to -100 where p is small, and below the logarithm elsewhere.
    """
    return jnp.maximum(p + _LEAST_LOG, log)


@jax.custom_jvp
def _log(p: Array) -> Array:
    """max(log p, -100)."""
    return _clamped(jnp.log(p), p)


@_log.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (p,) = primals
    return _log(p), _reciprocal(p) * tangents[0]


@jax.custom_jvp
def _log_complement(p: Array) -> Array:
    """max(log(1 - p), -100)."""
    if p.dtype != jnp.float64:
        return _clamped(jnp.log1p(-p), 1.0 - p)
    # XLA's log1p of -p is off by 128 ulp in float64 (jax#39707), and by 2 ulp of a positive argument.
    complement = 1.0 - p
    odds = p / jnp.maximum(complement, float(np.finfo(p.dtype).tiny))
    return _clamped(nan_outside(-jnp.log1p(odds), complement), complement)


@_log_complement.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (p,) = primals
    return _log_complement(p), -_reciprocal(1.0 - p) * tangents[0]


def weighted_prob_loss(p: Array, labels: Array, pos_weight: Array | None, weight: Array | None) -> Array:
    """v·ℓ(p, y, w), in the fewest operations; its derivatives are left to `prob_loss`.

    The loss is finite but where 100·w overflows: no 0·inf has to be kept out of the product with the weight.
    """
    # PyTorch's form, one operation shorter than with 1 - y: a certain and right positive costs -0, as it does there.
    a = coefficients(labels, pos_weight)[0]
    loss = (labels - 1.0) * _log_complement(p) - a * _log(p)
    return loss if weight is None else weight * loss


@jax.custom_jvp
def prob_loss(p: Array, labels: Array, pos_weight: Array | None) -> Array:
    """ℓ(p, y, w)."""
    return weighted_prob_loss(p, labels, pos_weight, None)


@functools.partial(prob_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    p, labels, pos_weight = primals
    value, p = prob_loss(p, labels, pos_weight), nan_outside(p, p * (1.0 - p))
    terms = [(lambda: _prob_slope(p, labels, pos_weight), tangents[0])]
    if pos_weight is None:
        terms += [(lambda: _log_complement(p) - _log(p), tangents[1])]
    else:
        terms += [(lambda: _log_complement(p) - pos_weight * _log(p), tangents[1])]
        terms += [(lambda: -labels * _log(p), tangents[2])]
    return value, directional(*terms)


def _prob_partial_fractions(p: Array, labels: Array, pos_weight: Array | None) -> Array:
    """b/(1 - p) - a/p: the slope in the form that has its limits at 0 and 1, and that is differentiated further."""
    a, b = coefficients(labels, pos_weight)
    return _quotient(b, 1.0 - p) - _quotient(a, p)


@jax.custom_jvp
def _prob_slope(p: Array, labels: Array, pos_weight: Array | None) -> Array:
    """∂ℓ/∂p over the common denominator, as PyTorch has it to the last bit; partial fractions at 1 and next to 0."""
    a, b = coefficients(labels, pos_weight)
    numerator = p - labels if pos_weight is None else b * p - a * (1.0 - p)
    denominator = (1.0 - p) * p
    # Next to 0 a numerator may be flushed to zero.
    info = np.finfo(p.dtype)
    tiny = denominator < float(info.tiny / info.eps)
    slope = numerator / jnp.where(tiny, 1.0, denominator)
    return jnp.where(tiny, _prob_partial_fractions(p, labels, pos_weight), slope)


@_prob_slope.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    return _prob_slope(*primals), jax.jvp(_prob_partial_fractions, primals, tangents)[1]
