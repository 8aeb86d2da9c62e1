"""Focal and asymmetric loss, and their slopes u^γ·(γ·r·ℓ + ℓ') with the relative slope r = u'/u."""

import jax.numpy as jnp
from jax import Array

from jaxbce._cpu._binary import logit_loss, logit_slope
from jaxbce._cpu._entries import TunedEntries
from jaxbce._cpu._numerics import log1p_exp, multiply_no_nan, sigmoids, softplus
from jaxbce._numerics import Exponent, Whole, power


def _loss(x: Array, y: Array, gamma: Exponent) -> Array:
    p, q = sigmoids(x)
    return multiply_no_nan(power(y * q + (1.0 - y) * p, gamma), logit_loss(x, y))


def _slope(x: Array, y: Array, gamma: Exponent) -> Array:
    x = jnp.clip(x, -1e4, 1e4)
    p, q = sigmoids(x)
    u = y * q + (1.0 - y) * p
    relative = (1.0 - 2.0 * y) * _over(p * q, u)
    return power(u, gamma) * (_as_factor(gamma) * relative * logit_loss(x, y) + logit_slope(x, y))


def _focal_loss(x: Array, y: Array, gamma: Exponent, alpha: Array | None) -> Array:
    loss = _loss(x, y, gamma)
    return loss if alpha is None else multiply_no_nan(alpha * y + (1.0 - alpha) * (1.0 - y), loss)


def _focal_slope(x: Array, y: Array, gamma: Exponent, alpha: Array | None) -> Array:
    slope = _slope(x, y, gamma)
    return slope if alpha is None else (alpha * y + (1.0 - alpha) * (1.0 - y)) * slope


focal = TunedEntries(_focal_loss, _focal_slope)


# --- Asymmetric loss, whose negative part lies behind a margin ----------------------------------------------------
#
# ℓ = -log(1 - u) with u = max(p - m, 0) and 1 - u = min(q + m, 1)
#   = log1p(u / (1 - u))                     for small u
#   = min(A, B) - log1p(exp(-|A - B|))       for large u, where q alone would underflow: A = -log q, B = -log m


def _shifted_loss(x: Array, p: Array, margin: Array) -> Array:
    u, from_m = jnp.maximum(p - margin, 0.0), -jnp.log(margin)
    small = jnp.minimum(u, 0.5)
    large = jnp.minimum(softplus(x), from_m) - log1p_exp(softplus(jnp.clip(x, -1e4, 1e4)) - from_m)
    return jnp.where(u < 0.5, jnp.log1p(small / (1.0 - small)), large)


def _asymmetric_loss(x: Array, y: Array, gamma_pos: Exponent, gamma_neg: Exponent, margin: Array) -> Array:
    p, _ = sigmoids(x)
    positive = _loss(x, jnp.ones_like(y), gamma_pos)
    negative = multiply_no_nan(power(jnp.maximum(p - margin, 0.0), gamma_neg), _shifted_loss(x, p, margin))
    doubt = _doubt(gamma_pos, gamma_neg, margin)
    return multiply_no_nan(y, positive) + multiply_no_nan(1.0 - y, negative) + doubt


def _asymmetric_slope(x: Array, y: Array, gamma_pos: Exponent, gamma_neg: Exponent, margin: Array) -> Array:
    positive = _slope(x, jnp.ones_like(y), gamma_pos)
    x = jnp.clip(x, -1e4, 1e4)
    p, q = sigmoids(x)
    u, remaining = jnp.maximum(p - margin, 0.0), q + margin
    share = jnp.where(remaining == 0.0, 1.0, q / jnp.where(remaining == 0.0, 1.0, remaining))
    own = (p > margin).astype(x.dtype) * p * share
    change = _as_factor(gamma_neg) * _over(p * q, u) * _shifted_loss(x, p, margin)
    negative = power(u, gamma_neg) * (change + own)
    return y * positive + (1.0 - y) * negative + _doubt(gamma_pos, gamma_neg, margin)


asymmetric = TunedEntries(_asymmetric_loss, _asymmetric_slope)


def _doubt(*parameters: Exponent) -> Array | float:
    """0, and NaN where a parameter is: each part has parameters of its own."""
    return sum(0.0 * value for value in parameters if not isinstance(value, Whole))


def _over(numerator: Array, error: Array) -> Array:
    """numerator/u, and 0 at u = 0."""
    return jnp.where(error == 0.0, 0.0, numerator / jnp.where(error == 0.0, 1.0, error))


def _as_factor(exponent: Exponent) -> Array | float:
    return float(exponent.number) if isinstance(exponent, Whole) else exponent
