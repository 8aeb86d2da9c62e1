"""Binary cross-entropy of a logit times a power of its error: what focal and asymmetric losses are made of.

    F(x, y, γ, m) = u^γ·ℓ(x, y)

with p = σ(x), q = σ(-x), and, without a margin, u = y·q + (1 - y)·p, the probability of being wrong, and ℓ the binary
cross-entropy. A margin m belongs to y = 0: then u = max(p - m, 0) and ℓ = -log(1 - u).

Derivatives never divide by u^(1 - γ). In terms of the relative slope r = u'/u,

    F' = u^γ·(γ·r·ℓ + ℓ')    and    r' = r·(q - p - r),

where u^γ only multiplies. So every order is a number for every γ ≥ 0, where the definition has one. At u = 0 the power
is 0 unless γ is, and r may read 0 in both cases.

`margin` may be None, for a loss that has none.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._logit_loss import logit_loss, logit_slope
from jaxbce._numerics import (
    Exponent,
    Tangent,
    Whole,
    as_factor,
    directional,
    log1p_exp,
    power,
    product,
    sigmoid,
    sigmoids,
    softplus,
)

_BEYOND = 1e4
"""At logits beyond it p and q are 0 and 1. Slopes are those at this logit, where r·ℓ is 0 and not 0·inf, in every
derivative."""


def _error(x: Array, labels: Array, margin: Array | None) -> Array:
    """The probability u of being wrong."""
    p, q = sigmoids(x)
    error = labels * q + (1.0 - labels) * p
    return error if margin is None else jnp.maximum(error - margin, 0.0)


def _over(numerator: Array, error: Array) -> Array:
    """numerator/u, and 0 at u = 0."""
    return jnp.where(error == 0.0, 0.0, numerator / jnp.where(error == 0.0, 1.0, error))


@jax.custom_jvp
def _relative_slope(x: Array, labels: Array, margin: Array | None) -> Array:
    """The relative slope r = u'/u = (1 - 2y)·p·q/u."""
    p, q = sigmoids(x)
    return (1.0 - 2.0 * labels) * _over(p * q, _error(x, labels, margin))


@functools.partial(_relative_slope.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, _, margin = primals
    r, u, (p, q) = _relative_slope(*primals), _error(*primals), sigmoids(x)
    terms = [(lambda: r * (q - p - r), tangents[0])]
    # -(p·q/u²)·(2·u + (1 - 2y)·(q - p)), of which the bracket is 1. With a margin
    # the labels are the constant 0, and nobody asks for this tangent.
    terms += [(lambda: -_over(_over(p * q, u), u), tangents[1])]
    if margin is not None:
        terms += [(lambda: _over(r, u), tangents[2])]
    return r, directional(*terms)


@jax.custom_jvp
def _modulator(x: Array, labels: Array, gamma: Exponent, margin: Array | None) -> Array:
    """u^γ."""
    return power(_error(x, labels, margin), gamma)


@functools.partial(_modulator.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, labels, gamma, margin = primals
    modulator, u, (p, q) = _modulator(*primals), _error(x, labels, margin), sigmoids(x)
    rate = modulator * as_factor(gamma)
    terms = [
        (lambda: rate * _relative_slope(x, labels, margin), tangents[0]),
        (lambda: rate * _over(q - p, u), tangents[1]),
    ]
    if not isinstance(gamma, Whole):
        terms += [(lambda: modulator * _log_error(x, labels, margin), tangents[2])]
    if margin is not None:
        terms += [(lambda: -_over(rate, u), tangents[3])]
    return modulator, directional(*terms)


def _log_error(x: Array, labels: Array, margin: Array | None) -> Array:
    """The logarithm of u, and 0 at u = 0, where u^γ·log u is to be 0."""
    u, (p, q) = _error(x, labels, margin), sigmoids(x)
    # Next to u = 1 the logarithm rests on what is missing there.
    missing = labels * p + (1.0 - labels) * q
    missing = missing if margin is None else missing + margin
    return jnp.where(u > 0.5, jnp.log1p(-jnp.minimum(missing, 0.5)), jnp.log(jnp.where(u == 0.0, 1.0, u)))


@jax.custom_jvp
def modulated_loss(x: Array, labels: Array, gamma: Exponent, margin: Array | None) -> Array:
    """F(x, y, γ, m)."""
    return product(_modulator(x, labels, gamma, margin), _unmodulated(x, labels, margin))


@functools.partial(modulated_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, labels, gamma, margin = primals
    terms = [
        (lambda: _modulated_slope(x, labels, gamma, margin), tangents[0]),
        (lambda: _label_slope(x, labels, gamma), tangents[1]),
    ]
    if not isinstance(gamma, Whole):
        terms += [(lambda: _gamma_slope(x, labels, gamma, margin), tangents[2])]
    if margin is not None:
        terms += [(lambda: _margin_slope(x, labels, gamma, margin), tangents[3])]
    return modulated_loss(*primals), directional(*terms)


def _modulated_slope(x: Array, labels: Array, gamma: Exponent, margin: Array | None) -> Array:
    """∂F/∂x = u^γ·(γ·r·ℓ + ℓ')."""
    x = _near(x)
    slope = logit_slope(x, labels, None) if margin is None else _shifted_slope(x, margin)
    change = as_factor(gamma) * _relative_slope(x, labels, margin) * _unmodulated(x, labels, margin)
    return _modulator(x, labels, gamma, margin) * (change + slope)


def _label_slope(x: Array, labels: Array, gamma: Exponent) -> Array:
    """∂F/∂y = u^γ·(γ·(q - p)/u·ℓ - x).

    With a margin the labels are the constant 0, and nobody asks for it.
    """
    modulator, u, (p, q) = _modulator(x, labels, gamma, None), _error(x, labels, None), sigmoids(x)
    change = product(modulator, jnp.maximum(-x, 0.0)) - product(modulator, jnp.maximum(x, 0.0))
    rate = modulator * as_factor(gamma)
    return rate * _over(q - p, u) * logit_loss(_near(x), labels, None) + change


def _gamma_slope(x: Array, labels: Array, gamma: Array, margin: Array | None) -> Array:
    """∂F/∂γ = u^γ·log u·ℓ."""
    loss = _unmodulated(_near(x), labels, margin)
    return _modulator(x, labels, gamma, margin) * _log_error(x, labels, margin) * loss


def _margin_slope(x: Array, labels: Array, gamma: Exponent, margin: Array) -> Array:
    """∂F/∂m = -u^γ·(γ·ℓ/u + 1/(1 - u)), at u > 0."""
    u = _error(x, labels, margin)
    remaining = jnp.minimum(sigmoid(-x) + margin, 1.0)
    change = as_factor(gamma) * _over(_shifted_loss(x, margin), u) + _over(jnp.sign(u), remaining)
    return -_modulator(x, labels, gamma, margin) * change


def _near(x: Array) -> Array:
    return jnp.clip(x, -_BEYOND, _BEYOND)


def _unmodulated(x: Array, labels: Array, margin: Array | None) -> Array:
    """ℓ."""
    return logit_loss(x, labels, None) if margin is None else _shifted_loss(x, margin)


# --- The negative part behind a margin ----------------------------------------------------------------------------
#
# ℓ = -log(1 - u) with u = max(p - m, 0) and 1 - u = min(q + m, 1)
#   = log1p(u / (1 - u))                     for small u
#   = min(A, B) - log1p(exp(-|A - B|))       for large u, where q alone would underflow: A = -log q, B = -log m


@jax.custom_jvp
def _shifted_loss(x: Array, margin: Array) -> Array:
    u, from_q, from_m = jnp.maximum(sigmoid(x) - margin, 0.0), softplus(x), -jnp.log(margin)
    small = jnp.minimum(u, 0.5)
    large = jnp.minimum(from_q, from_m) - log1p_exp(softplus(_near(x)) - from_m)
    return jnp.where(u < 0.5, jnp.log1p(small / (1.0 - small)), large)


@functools.partial(_shifted_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    x, margin = primals
    return _shifted_loss(x, margin), directional(
        (lambda: _shifted_slope(x, margin), tangents[0]),
        (lambda: -_over(_beyond_margin(x, margin), sigmoid(-x) + margin), tangents[1]),
    )


def _shifted_slope(x: Array, margin: Array) -> Array:
    """ℓ' = p·q/(q + m) where p > m, else 0."""
    return _beyond_margin(x, margin) * sigmoid(x) * _share(x, margin)


def _beyond_margin(x: Array, margin: Array) -> Array:
    return (sigmoid(x) > margin).astype(x.dtype)


@jax.custom_jvp
def _share(x: Array, margin: Array) -> Array:
    """q/(q + m), and 1 at m = 0, where q may have underflowed."""
    q = sigmoid(-x)
    remaining = q + margin
    return jnp.where(remaining == 0.0, 1.0, q / jnp.where(remaining == 0.0, 1.0, remaining))


@functools.partial(_share.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    x, margin = primals
    share, (p, q) = _share(x, margin), sigmoids(x)
    return share, directional(
        (lambda: -p * share * (1.0 - share), tangents[0]),
        (lambda: -_over(share, q + margin), tangents[1]),
    )
