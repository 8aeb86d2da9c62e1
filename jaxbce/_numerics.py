"""Scalar mathematics with exact derivatives: every custom derivative rule of the package lives here.

All functions act elementwise on floating arrays of one dtype and one shape. `pos_weight` may be None, which
stands for 1 and spares its cost.

Two habits run through the file. Losses are built from arithmetic, `minimum`, `maximum` and `sign`, without a select or
a comparison: XLA on CPU then fuses a loss and its reduction into one pass. And derivatives are closed forms, which are
differentiable in turn: nothing is left to autodiff where it would meet 0·inf, inf - inf or the kink of |x| at 0.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

Tangent = Array | SymbolicZero


def _directional(*terms: tuple[Callable[[], Array], Tangent]) -> Array:
    """Σ slope·tangent over the perturbed inputs alone: an infinite slope never meets a tangent that is not there."""
    return functools.reduce(
        operator.add, (slope() * tangent for slope, tangent in terms if not isinstance(tangent, SymbolicZero))
    )


# --- Domains and products -----------------------------------------------------------------------------------------


@jax.custom_jvp
def nan_where_negative(value: Array, margin: Array) -> Array:
    """`value` where margin ≥ 0, NaN elsewhere, in value and derivative: min(√margin, 0) is 0 or NaN."""
    return value + jnp.minimum(jnp.sqrt(margin), 0.0)


@nan_where_negative.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    value, margin = primals
    return nan_where_negative(value, margin), nan_where_negative(jnp.ones_like(value), margin) * tangents[0]


@jax.custom_jvp
def product(factor: Array, value: Array) -> Array:
    """factor·value with 0·inf = 0, for factor ≥ 0 and value > -inf.

    The cap 2s·max with s = sign(factor) and the largest finite number is 0 at factor 0 and inf above. It is written
    s + s because the compiler would multiply 2·max out to inf, and 0·inf is NaN.
    """
    positive = jnp.sign(factor)
    return factor * jnp.minimum(value, (positive + positive) * float(np.finfo(factor.dtype).max))


@functools.partial(product.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    factor, value = primals
    return product(factor, value), _directional((lambda: value, tangents[0]), (lambda: factor, tangents[1]))


# --- The logistic function ----------------------------------------------------------------------------------------


def _lesser_sigmoid(x: Array) -> Array:
    """σ(-|x|) = m / (1 + m) with m = exp(-|x|), the smaller of σ(x) and σ(-x), with no cancellation in either tail.

    m/(1 + m) rounds twice at full weight, and is off by up to 2.2 ulp; m - m·t with t = m/(1 + m) ≤ 1/2 rounds mostly
    in a term that is small, and is off by up to 1.9. Doubled throughout, which is exact.
    """
    m = 2.0 * jnp.exp(jnp.minimum(x, -x))
    return 0.5 * (m - m * (m / (m + 2.0)))


@jax.custom_jvp
def sigmoid(x: Array) -> Array:
    """σ(x) = 1 / (1 + exp(-x))."""
    q = _lesser_sigmoid(x)
    return jnp.where(x >= -x, 1.0 - q, q)


@sigmoid.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    # σ' = σ(x)·σ(-x). Autodiff's σ·(1 - σ) is exactly 0 from x = 17 on in float32.
    return sigmoid(x), sigmoid(x) * sigmoid(-x) * tangents[0]


def _log1p_exp(x: Array) -> Array:
    """log(1 + exp(-|x|)) = softplus(x) - max(x, 0), in (0, log 2]."""
    return jnp.log1p(jnp.exp(-jnp.abs(x)))


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = -log σ(-x) = max(x, 0) + log1p(exp(-|x|))."""
    return jnp.maximum(x, 0.0) + _log1p_exp(x)


@softplus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    return softplus(x), sigmoid(x) * tangents[0]


# --- Binary cross-entropy of a logit ------------------------------------------------------------------------------
#
# ℓ(x, y, w) = -[w·y·log σ(x) + (1 - y)·log σ(-x)]
#            = a·softplus(-x) + b·softplus(x)                            with a = w·y, b = 1 - y
#            = a·max(-x, 0) + b·max(x, 0) + (a + b)·log1p(exp(-|x|)).
#
# For y in [0, 1] and w ≥ 0 every term is non-negative, so nothing cancels. Without w, a + b is 1.


def _coefficients(labels: Array, pos_weight: Array | None) -> tuple[Array, Array]:
    return (labels if pos_weight is None else pos_weight * labels), 1.0 - labels


def _total(labels: Array, pos_weight: Array | None, value: Array) -> Array:
    """(a + b)·value."""
    if pos_weight is None:
        return value
    a, b = _coefficients(labels, pos_weight)
    return (a + b) * value


@jax.custom_jvp
def logit_loss(x: Array, labels: Array, pos_weight: Array | None) -> Array:
    """ℓ(x, y, w)."""
    a, b = _coefficients(labels, pos_weight)
    kink = product(b, jnp.maximum(x, 0.0)) + product(a, -jnp.minimum(x, 0.0))
    return kink + _total(labels, pos_weight, _log1p_exp(x))


@functools.partial(logit_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, labels, pos_weight = primals
    terms = [(lambda: _logit_slope(x, labels, pos_weight), tangents[0])]
    if pos_weight is None:
        terms += [(lambda: -x, tangents[1])]
    else:
        terms += [(lambda: _label_slope(x, pos_weight), tangents[1])]
        terms += [(lambda: product(labels, softplus(-x)), tangents[2])]
    return logit_loss(x, labels, pos_weight), _directional(*terms)


@jax.custom_jvp
def _logit_slope(x: Array, labels: Array, pos_weight: Array | None) -> Array:
    """∂ℓ/∂x = b·σ(x) - a·σ(-x), from q = σ(-|x|) alone: 1 - q would lose the tail."""
    a, b = _coefficients(labels, pos_weight)
    q = _total(labels, pos_weight, _lesser_sigmoid(x))
    return jnp.where(x >= -x, b - q, q - a)


@functools.partial(_logit_slope.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, labels, pos_weight = primals
    terms = [(lambda: _total(labels, pos_weight, sigmoid(x) * sigmoid(-x)), tangents[0])]
    if pos_weight is None:
        terms += [(lambda: -jnp.ones_like(x), tangents[1])]
    else:
        terms += [(lambda: -(pos_weight * sigmoid(-x) + sigmoid(x)), tangents[1])]
        terms += [(lambda: -labels * sigmoid(-x), tangents[2])]
    return _logit_slope(x, labels, pos_weight), _directional(*terms)


@jax.custom_jvp
def _label_slope(x: Array, pos_weight: Array) -> Array:
    """∂ℓ/∂y = w·softplus(-x) - softplus(x), arranged so that it is exactly -x at w = 1 and right at x = ±inf."""
    kink = product(pos_weight, -jnp.minimum(x, 0.0)) - jnp.maximum(x, 0.0)
    return kink + (pos_weight - 1.0) * _log1p_exp(x)


@functools.partial(_label_slope.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    x, pos_weight = primals
    return _label_slope(x, pos_weight), _directional(
        (lambda: -(pos_weight * sigmoid(-x) + sigmoid(x)), tangents[0]),
        (lambda: softplus(-x), tangents[1]),
    )


# --- Binary cross-entropy of a probability ------------------------------------------------------------------------
#
# ℓ(p, y, w) = -[a·max(log p, -100) + b·max(log(1 - p), -100)]            with a = w·y, b = 1 - y
# ∂ℓ/∂p      = b/(1 - p) - a/p                                            = (p - y) / (p·(1 - p)) without w
#
# The clamp at -100 is PyTorch's. Derivatives are those of the unclamped logarithms, and 1/0 reads 1e12: PyTorch's
# figure for the slope of a certain and wrong probability. Nothing divides by 0, which `checkify` would report.

_LEAST_LOG = -100.0
_STEEPEST = 1e12


@jax.custom_jvp
def _quotient(a: Array, x: Array) -> Array:
    """a/x, with a·1e12 for a/0."""
    return jnp.where(x == 0.0, _STEEPEST * a, a / jnp.where(x == 0.0, 1.0, x))


@functools.partial(_quotient.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    a, x = primals
    return _quotient(a, x), _directional(
        (lambda: _reciprocal(x), tangents[0]),
        # (a/x)/x is 0 at a = 0, where a/x² would meet 0·inf: 1/x² overflows long before 1/x.
        (lambda: -_quotient(_quotient(a, x), x), tangents[1]),
    )


def _reciprocal(x: Array) -> Array:
    return _quotient(jnp.ones_like(x), x)


@jax.custom_jvp
def _log(p: Array) -> Array:
    """max(log p, -100)."""
    return jnp.maximum(jnp.log(p), _LEAST_LOG)


@_log.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (p,) = primals
    return _log(p), _reciprocal(p) * tangents[0]


@jax.custom_jvp
def _log_complement(p: Array) -> Array:
    """max(log(1 - p), -100)."""
    if p.dtype != jnp.float64:
        return jnp.maximum(jnp.log1p(-p), _LEAST_LOG)
    # XLA's log1p of -p is off by 128 ulp in float64 (jax#39707), and by 2 ulp of a positive argument.
    odds = p / jnp.maximum(1.0 - p, float(np.finfo(p.dtype).tiny))
    return jnp.maximum(-jnp.log1p(odds), _LEAST_LOG)


@_log_complement.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (p,) = primals
    return _log_complement(p), -_reciprocal(1.0 - p) * tangents[0]


@jax.custom_jvp
def prob_loss(p: Array, labels: Array, pos_weight: Array | None) -> Array:
    """ℓ(p, y, w)."""
    a, b = _coefficients(labels, pos_weight)
    return -(b * _log_complement(p)) - a * _log(p)


@functools.partial(prob_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    p, labels, pos_weight = primals
    terms = [(lambda: _prob_slope(p, labels, pos_weight), tangents[0])]
    if pos_weight is None:
        terms += [(lambda: _log_complement(p) - _log(p), tangents[1])]
    else:
        terms += [(lambda: _log_complement(p) - pos_weight * _log(p), tangents[1])]
        terms += [(lambda: -labels * _log(p), tangents[2])]
    return prob_loss(p, labels, pos_weight), _directional(*terms)


def _prob_partial_fractions(p: Array, labels: Array, pos_weight: Array | None) -> Array:
    """b/(1 - p) - a/p: the slope in the form that has its limits at 0 and 1, and that is differentiated further."""
    a, b = _coefficients(labels, pos_weight)
    return _quotient(b, 1.0 - p) - _quotient(a, p)


@jax.custom_jvp
def _prob_slope(p: Array, labels: Array, pos_weight: Array | None) -> Array:
    """∂ℓ/∂p over the common denominator, as PyTorch has it to the last bit; at p = 0 and 1 the partial fractions."""
    a, b = _coefficients(labels, pos_weight)
    numerator = p - labels if pos_weight is None else b * p - a * (1.0 - p)
    denominator = (1.0 - p) * p
    certain = denominator == 0.0
    slope = numerator / jnp.where(certain, 1.0, denominator)
    return jnp.where(certain, _prob_partial_fractions(p, labels, pos_weight), slope)


@_prob_slope.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    return _prob_slope(*primals), jax.jvp(_prob_partial_fractions, primals, tangents)[1]
