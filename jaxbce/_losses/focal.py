"""Binary losses that count easy examples less: focal and asymmetric loss."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._core.arrays import ArrayLike, Axis, Reduction
from jaxbce._core.elementwise import Loss
from jaxbce._core.numerics import (
    SATURATION,
    Exponent,
    define_partials,
    divide_no_nan,
    multiply_no_nan,
    power,
    sigmoid,
    sigmoids,
    softplus,
    zero_or_nan,
)
from jaxbce._cpu import elementwise as cpu
from jaxbce._losses.binary import bce_with_logits
from jaxbce._validate.arguments import validate_elementwise


def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    alpha: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Focal loss: binary cross-entropy times a power of the probability of being wrong.

    Use it where easy examples are so many that they drown the hard ones, as background does in detection. With
    y = labels, x = logits, p = σ(x), γ = gamma and v = weight, each entry costs::

        v·α·u^γ·ℓ    with    ℓ = y·log(1 + exp(-x)) + (1 - y)·log(1 + exp(x))
                             u = y·(1 - p) + (1 - y)·p
                             α = alpha·y + (1 - alpha)·(1 - y), or 1 without alpha

    as torchvision and optax have it, soft labels included. With gamma 0 and no alpha an entry costs what it does in
    `binary_cross_entropy_with_logits`, to the last bit. The derivative with respect to x is
    v·α·u^γ·(γ·r·ℓ + p - y) with r = (1 - 2y)·p·(1 - p)/u: it and every further one are numbers for every γ ≥ 0.

    Domain:
        Any logit. A confident and right prediction (x = +inf, y = 1) costs exactly 0 with gradient 0; a confident and
        wrong one costs inf with gradient 1 in size (of v·α). NaN in gives NaN out.

    Args:
        logits: floating, any shape: unnormalised log-odds of label 1.
        labels: of the shape of `logits`, or a scalar; bool, integer or floating, in [0, 1].
        gamma: ≥ 0, broadcasts to the shape of `logits`; how much less an easy example counts. A whole Python number up
            to 16 is compiled in, and faster.
        alpha: in [0, 1], broadcasts to the shape of `logits`; the weight of label 1, and 1 - alpha that of label 0.
        weight: ≥ 0, broadcasts to the shape of `logits`; multiplies the loss.
        label_smoothing: s in [0, 1]; labels become y·(1 - s) + s/2.
        where: bool mask, broadcasts to the shape of `logits`; False leaves an entry out, whatever it holds.
        axis: the axes to reduce; None is all of them.
        reduction: "mean" (Σ loss / number of included entries), "weighted_mean" (Σ loss / Σ weight), "sum" or "none".

    Returns:
        In at least float32: the losses, of the shape of `logits`, for "none"; else without the reduced axes.

    Example:
        >>> logits = jnp.array([2.0, -1.0, 0.5])
        >>> labels = jnp.array([1, 0, 0])
        >>> print(sigmoid_focal_loss(logits, labels, reduction="none").round(3))
        [0.002 0.023 0.377]
        >>> print(f"{sigmoid_focal_loss(logits, labels, gamma=1.0, alpha=0.25):.4f}")
        0.1739

    References:
        Lin et al., "Focal loss for dense object detection", ICCV 2017.
    """
    common = weight, label_smoothing, where, axis, reduction
    given, axes = validate_elementwise("sigmoid_focal_loss", "logits", logits, labels, common, gamma=gamma, alpha=alpha)
    return _focal_core(given, axes, reduction)


# Leave the derivative to autodiff: u^γ·(γ·u'/u·ℓ + p - y), in which `power` divides by u last.
def _focal(x: Array, y: Array, *, gamma: Exponent, alpha: Array | None) -> Array:
    p, q = sigmoids(x)
    loss = multiply_no_nan(power(y * q + (1.0 - y) * p, gamma, y * p + (1.0 - y) * q), bce_with_logits(x, y))
    return loss if alpha is None else multiply_no_nan(alpha * y + (1.0 - alpha) * (1.0 - y), loss)


_focal_core = Loss(_focal, safe_prediction=0.0, cpu=cpu.focal, saturation=SATURATION)


def asymmetric_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma_pos: ArrayLike = 1.0,
    gamma_neg: ArrayLike = 4.0,
    margin: ArrayLike = 0.05,
    weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Asymmetric loss: focal loss with an exponent for each kind of label, and a margin for the negatives.

    For many labels of which few are on: easy negatives count less than easy positives, and those of a probability below
    the margin not at all. With y = labels, x = logits, p = σ(x) and v = weight, each entry costs::

        -v·[y·(1 - p)^gamma_pos·log p + (1 - y)·u^gamma_neg·log(1 - u)]    with    u = max(p - margin, 0)

    Soft labels mix the two halves. Where the published code clamps both logarithms at log(1e-8), here they are exact:
    a missed positive costs -x however small p is, and its gradient never dies. With margin 0, one gamma and hard labels
    it is `sigmoid_focal_loss`; with gammas 0 too it is `binary_cross_entropy_with_logits`.

    Domain:
        Any logit. A confident and right prediction costs exactly 0 with gradient 0. A confident and wrong one costs inf
        for y = 1 (gradient 1 in size) and, with a margin, (1 - margin)^gamma_neg·log(1 / margin) for y = 0 (gradient
        0). At p = margin a loss with gamma_neg < 1 has a kink: there it is 0, and so are its derivatives. NaN in gives
        NaN out.

    Args:
        logits: floating, any shape: unnormalised log-odds of label 1.
        labels: of the shape of `logits`, or a scalar; bool, integer or floating, in [0, 1].
        gamma_pos: ≥ 0, broadcasts to the shape of `logits`; how much less an easy positive counts. A whole Python
            number up to 16 is compiled in, and faster.
        gamma_neg: ≥ 0, broadcasts to the shape of `logits`; how much less an easy negative counts. A whole Python
            number up to 16 is compiled in, and faster.
        margin: in [0, 1], broadcasts to the shape of `logits`; taken off the probability of a negative.
        weight: ≥ 0, broadcasts to the shape of `logits`; multiplies the loss.
        label_smoothing: s in [0, 1]; labels become y·(1 - s) + s/2.
        where: bool mask, broadcasts to the shape of `logits`; False leaves an entry out, whatever it holds.
        axis: the axes to reduce; None is all of them.
        reduction: "mean" (Σ loss / number of included entries), "weighted_mean" (Σ loss / Σ weight), "sum" or "none".

    Returns:
        In at least float32: the losses, of the shape of `logits`, for "none"; else without the reduced axes.

    Example:
        >>> logits = jnp.array([2.0, -1.0, 0.5, -4.0])
        >>> labels = jnp.array([1, 0, 0, 0])
        >>> print(asymmetric_loss(logits, labels, reduction="none").round(4))
        [0.0151 0.0006 0.0913 0.    ]

    References:
        Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021.
    """
    common = weight, label_smoothing, where, axis, reduction
    parameters = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "margin": margin}
    given, axes = validate_elementwise("asymmetric_loss", "logits", logits, labels, common, **parameters)
    return _asymmetric_core(given, axes, reduction)


def _asymmetric(x: Array, y: Array, *, gamma_pos: Exponent, gamma_neg: Exponent, margin: Array) -> Array:
    p, q = sigmoids(x)
    u = jnp.where(p > margin, p - margin, 0.0)
    positive = multiply_no_nan(power(q, gamma_pos, p), softplus(-x))
    negative = multiply_no_nan(power(u, gamma_neg, q + margin), _shifted_softplus(x, margin))
    # Make all derivatives NaN where a parameter of one half is. Stop its gradient: an infinite loss times that is NaN.
    validity = 1.0 + jax.lax.stop_gradient(zero_or_nan(gamma_pos, gamma_neg, margin))
    return (multiply_no_nan(y, positive) + multiply_no_nan(1.0 - y, negative)) * validity


@jax.custom_jvp
def _shifted_softplus(x: Array, margin: Array) -> Array:
    """-log(1 - u), where 1 - u = min(q + m, 1): from u while it is small, else from log q and log m."""
    u = jnp.maximum(sigmoid(x) - margin, 0.0)
    large = -jnp.logaddexp(-softplus(x), jnp.log(margin))
    small = jnp.minimum(u, 0.5)
    return jnp.where(u < 0.5, jnp.log1p(small / (1.0 - small)), large)


def _beyond_margin(x: Array, margin: Array) -> Array:
    return jnp.where(sigmoid(x) > margin, 1.0, jnp.zeros_like(x))


@jax.custom_jvp
def _share(x: Array, margin: Array) -> Array:
    """q/(q + m), and 1 at m = 0, where q may have underflowed."""
    q = sigmoid(-x)
    remaining = q + margin
    return jnp.where(remaining == 0.0, 1.0, q / jnp.where(remaining == 0.0, 1.0, remaining))


define_partials(
    _share,
    lambda t, share, x, m: -sigmoid(x) * share * (1.0 - share) * t,
    lambda t, share, x, m: -share * divide_no_nan(t, sigmoid(-x) + m),
)

define_partials(
    _shifted_softplus,
    lambda t, _, x, m: _beyond_margin(x, m) * sigmoid(x) * _share(x, m) * t,
    lambda t, _, x, m: -_beyond_margin(x, m) * divide_no_nan(t, sigmoid(-x) + m),
)

_asymmetric_core = Loss(_asymmetric, safe_prediction=0.0, cpu=cpu.asymmetric, saturation=SATURATION)
