"""Binary cross-entropy of a logit, elementwise.

    ℓ(x, y, w) = -[w·y·log σ(x) + (1 - y)·log σ(-x)]
               = a·softplus(-x) + b·softplus(x)                            with a = w·y, b = 1 - y
               = (b if x > 0 else a)·|x| + (a + b)·log1p(exp(-|x|)).

For y in [0, 1] and w ≥ 0 every term is non-negative, so nothing cancels. `pos_weight` may be None, which stands for
w = 1 and spares its cost: a + b is 1 then.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._numerics import (
    Tangent,
    coefficients,
    directional,
    lesser_sigmoid,
    log1p_exp,
    product,
    sigmoid,
    sigmoids,
    softplus,
)


def _total(labels: Array, pos_weight: Array | None, value: Array) -> Array:
    """(a + b)·value."""
    if pos_weight is None:
        return value
    a, b = coefficients(labels, pos_weight)
    return (a + b) * value


def weighted_logit_loss(
    x: Array, labels: Array, pos_weight: Array | None, weight: Array | None, *, fused: bool
) -> Array:
    """v·ℓ(x, y, w), in the fewest operations, which count where a reduction follows that XLA has `fused` with it.

    A weight of the loss multiplies the two parts: to keep 0·inf out of one of them is enough. The derivatives are left
    to `logit_loss`.
    """
    # The logarithm first: XLA on CPU computes in this order, and least has to be kept meanwhile, 0.95 of the time.
    smooth, side = log1p_exp(x, fused=fused), jnp.sign(x)
    # What multiplies |x|: b where x > 0 and a where x < 0.
    if pos_weight is None:
        stake = jnp.abs(jnp.maximum(side, 0.0) - labels)
    else:
        # -a, and not `coefficients`: one operation less, for a weight is mostly one number, and cheaply negated.
        minus_a, b = -pos_weight * labels, 1.0 - labels
        smooth *= b - minus_a
        stake = jnp.maximum(b * side, minus_a * side)
    if weight is not None:
        smooth, stake = weight * smooth, weight * stake
    return smooth + product(stake, jnp.abs(x))


@jax.custom_jvp
def logit_loss(x: Array, labels: Array, pos_weight: Array | None) -> Array:
    """ℓ(x, y, w)."""
    return weighted_logit_loss(x, labels, pos_weight, None, fused=False)


@functools.partial(logit_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, labels, pos_weight = primals
    terms = [(lambda: logit_slope(x, labels, pos_weight), tangents[0])]
    if pos_weight is None:
        terms += [(lambda: -x, tangents[1])]
    else:
        terms += [(lambda: _label_slope(x, pos_weight), tangents[1])]
        terms += [(lambda: product(labels, softplus(-x)), tangents[2])]
    return logit_loss(x, labels, pos_weight), directional(*terms)


@jax.custom_jvp
def hard_logit_loss(x: Array, labels: Array) -> Array:
    """ℓ(x, y) of bool labels: softplus of x, or of -x where y; soft labels take more operations."""
    u = jnp.where(labels, -x, x)
    return jnp.maximum(u, 0.0) + log1p_exp(u, fused=True)


@functools.partial(hard_logit_loss.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Array, Tangent]) -> tuple[Array, Array]:
    x, labels = primals
    p = sigmoid(jnp.where(labels, -x, x))
    return hard_logit_loss(x, labels), jnp.where(labels, -p, p) * tangents[0]


@jax.custom_jvp
def logit_slope(x: Array, labels: Array, pos_weight: Array | None) -> Array:
    """∂ℓ/∂x = b·σ(x) - a·σ(-x), from q = σ(-|x|) alone: 1 - q would lose the tail."""
    a, b = coefficients(labels, pos_weight)
    q = _total(labels, pos_weight, lesser_sigmoid(x))
    return jnp.where(x >= 0.0, b - q, q - a)


@functools.partial(logit_slope.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    x, labels, pos_weight = primals
    p, q = sigmoids(x)
    terms = [(lambda: _total(labels, pos_weight, p * q), tangents[0])]
    if pos_weight is None:
        terms += [(lambda: -jnp.ones_like(x), tangents[1])]
    else:
        terms += [(lambda: -(pos_weight * q + p), tangents[1])]
        terms += [(lambda: -labels * q, tangents[2])]
    return logit_slope(x, labels, pos_weight), directional(*terms)


@jax.custom_jvp
def _label_slope(x: Array, pos_weight: Array) -> Array:
    """∂ℓ/∂y = w·softplus(-x) - softplus(x), arranged so that it is exactly -x at w = 1 and right at x = ±inf."""
    kink = product(pos_weight, -jnp.minimum(x, 0.0)) - jnp.maximum(x, 0.0)
    return kink + (pos_weight - 1.0) * log1p_exp(x)


@functools.partial(_label_slope.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    x, pos_weight = primals
    p, q = sigmoids(x)
    return _label_slope(x, pos_weight), directional(
        (lambda: -(pos_weight * q + p), tangents[0]),
        (lambda: softplus(-x), tangents[1]),
    )
