"""Binary cross-entropy: the loss of a logit and of a probability, and their slopes."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._cpu._entries import TunedEntries
from jaxbce._cpu._numerics import lesser_sigmoid, log1p_exp, multiply_no_nan, nan_outside, sigmoids


def _coefficients(labels: Array, pos_weight: Array | None) -> tuple[Array, Array]:
    return (labels if pos_weight is None else pos_weight * labels), 1.0 - labels


# --- Of a logit ---------------------------------------------------------------------------------------------------


def logit_loss(
    x: Array, labels: Array, pos_weight: Array | None = None, weight: Array | None = None, *, fused: bool = False
) -> Array:
    """v·[(b if x > 0 else a)·|x| + (a + b)·log1p(exp(-|x|))], in the fewest operations.

    A weight of the loss multiplies the two parts: to keep 0·inf out of one of them is enough.
    """
    # The logarithm first: XLA computes in this order, and least has to be kept meanwhile, 0.95 of the time.
    log_term, sign = log1p_exp(x, fused=fused), jnp.sign(x)
    # What multiplies |x|: b where x > 0 and a where x < 0.
    if pos_weight is None:
        abs_coef = jnp.abs(jnp.maximum(sign, 0.0) - labels)
    else:
        # -a, and not a: one operation less, for a weight is mostly one number, and cheaply negated.
        minus_a, b = -pos_weight * labels, 1.0 - labels
        log_term *= b - minus_a
        abs_coef = jnp.maximum(b * sign, minus_a * sign)
    if weight is not None:
        log_term, abs_coef = weight * log_term, weight * abs_coef
    return log_term + multiply_no_nan(abs_coef, jnp.abs(x))


def logit_slope(x: Array, labels: Array, pos_weight: Array | None = None) -> Array:
    """b·σ(x) - a·σ(-x), from q = σ(-|x|) alone: 1 - q would lose the tail."""
    a, b = _coefficients(labels, pos_weight)
    q = lesser_sigmoid(x) if pos_weight is None else (a + b) * lesser_sigmoid(x)
    return jnp.where(x >= 0.0, b - q, q - a)


def _hard_loss(x: Array, labels: Array, pos_weight: Array | None = None) -> Array:
    """Softplus of x, or of -x where the label is on."""
    wrong = jnp.where(labels, -x, x)
    loss = jnp.maximum(wrong, 0.0) + log1p_exp(wrong, fused=True)
    return loss if pos_weight is None else multiply_no_nan(_hard_weight(labels, pos_weight), loss)


def _hard_slope(x: Array, labels: Array, pos_weight: Array | None = None) -> Array:
    p = sigmoids(jnp.where(labels, -x, x))[0]
    slope = jnp.where(labels, -p, p)
    return slope if pos_weight is None else _hard_weight(labels, pos_weight) * slope


def _hard_weight(labels: Array, pos_weight: Array) -> Array:
    """The weight of the positives, and 1 of the negatives, or NaN if it is."""
    return jnp.where(labels, pos_weight, 1.0 + 0.0 * pos_weight)


bce_with_logits = TunedEntries(
    logit_loss, logit_slope, functools.partial(logit_loss, fused=True), TunedEntries(_hard_loss, _hard_slope)
)


# --- Of a probability ---------------------------------------------------------------------------------------------


def _clamped(log: Array, p: Array) -> Array:
    """max(log, -100) for the logarithm of p, and NaN where it is NaN, which is why it comes second.

    A constant XLA would put there. p - 100 is rounded to -100 where p is small, and below the logarithm elsewhere.
    """
    return jnp.maximum(p - 100.0, log)


def _log_complement(p: Array) -> Array:
    if p.dtype != jnp.float64:
        return _clamped(jnp.log1p(-p), 1.0 - p)
    complement = 1.0 - p
    odds = p / jnp.maximum(complement, float(np.finfo(p.dtype).tiny))
    return _clamped(nan_outside(-jnp.log1p(odds), complement), complement)


def _prob_loss(p: Array, labels: Array, pos_weight: Array | None = None, weight: Array | None = None) -> Array:
    """v·ℓ(p, y, w), in the fewest operations.

    The loss is finite but where 100·w overflows: no 0·inf has to be kept out of the product with the weight.
    """
    # PyTorch's form, one operation shorter than with 1 - y: a certain and right positive costs -0, as it does there.
    a = _coefficients(labels, pos_weight)[0]
    loss = (labels - 1.0) * _log_complement(p) - a * _clamped(jnp.log(p), p)
    return loss if weight is None else weight * loss


bce = TunedEntries(_prob_loss, fused=_prob_loss)
