"""Binary losses that count easy examples less: focal and asymmetric loss."""

import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import Aligned
from jaxbce._elementwise import elementwise
from jaxbce._inputs import admit
from jaxbce._modulated_loss import modulated_loss
from jaxbce._numerics import Whole, as_exponent, nan_outside, product
from jaxbce._typing import ArrayLike, Axis, Reduction


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
        Any logit. A certain and right prediction (x = +inf, y = 1) costs exactly 0 with gradient 0; a certain and wrong
        one costs inf with gradient 1 in size (of v·α). NaN in gives NaN out. Labels and alpha outside [0, 1], negative
        or infinite gamma and weights are refused; under a transform, where no value can be read, they give NaN
        (see Raises).

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
        The loss in float32, or float64 for float64 logits: of the shape of `logits` for "none", else without the
        reduced axes.

    Raises:
        TypeError: logits that are not floating, labels or weights that are not real, a mask that is not bool.
        ValueError: shapes that do not fit; an unknown reduction; an axis that is not there; values outside their
            domain. Under `jit` and other transforms the checks of values need
            `checkify.checkify(jit(f), errors=checkify.user_checks)`.

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
    given, axes = admit(
        "sigmoid_focal_loss",
        "logits",
        logits,
        labels,
        {"gamma": as_exponent(gamma), "alpha": alpha},
        weight=weight,
        label_smoothing=label_smoothing,
        where=where,
        axis=axis,
        reduction=reduction,
    )
    return _focal(given, axis=axes, reduction=reduction)


@elementwise(safe_prediction=0.0)
def _focal(given: Aligned) -> Array:
    labels, alpha = given.labels, given.parameters["alpha"]
    losses = modulated_loss(given.predictions, labels, given.parameters["gamma"], None)
    return losses if alpha is None else product(alpha * labels + (1.0 - alpha) * (1.0 - labels), losses)


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
        Any logit. A certain and right prediction costs exactly 0 with gradient 0. A certain and wrong one costs inf for
        y = 1 (gradient 1 in size) and, with a margin, (1 - margin)^gamma_neg·log(1 / margin) for y = 0 (gradient 0).
        At p = margin a loss with gamma_neg < 1 has a kink: there it is 0, and so are its derivatives. NaN in gives NaN
        out. Labels and margins outside [0, 1], negative or infinite gammas and weights are refused; under a transform,
        where no value can be read, they give NaN (see Raises).

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
        The loss in float32, or float64 for float64 logits: of the shape of `logits` for "none", else without the
        reduced axes.

    Raises:
        TypeError: logits that are not floating, labels or weights that are not real, a mask that is not bool.
        ValueError: shapes that do not fit; an unknown reduction; an axis that is not there; values outside their
            domain. Under `jit` and other transforms the checks of values need
            `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> logits = jnp.array([2.0, -1.0, 0.5, -4.0])
        >>> labels = jnp.array([1, 0, 0, 0])
        >>> print(asymmetric_loss(logits, labels, reduction="none").round(4))
        [0.0151 0.0006 0.0913 0.    ]

    References:
        Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021.
    """
    given, axes = admit(
        "asymmetric_loss",
        "logits",
        logits,
        labels,
        {"gamma_pos": as_exponent(gamma_pos), "gamma_neg": as_exponent(gamma_neg), "margin": margin},
        weight=weight,
        label_smoothing=label_smoothing,
        where=where,
        axis=axis,
        reduction=reduction,
    )
    return _asymmetric(given, axis=axes, reduction=reduction)


@elementwise(safe_prediction=0.0)
def _asymmetric(given: Aligned) -> Array:
    logits, labels, own = given.predictions, given.labels, given.parameters
    positive = modulated_loss(logits, jnp.ones_like(labels), own["gamma_pos"], None)
    negative = modulated_loss(logits, jnp.zeros_like(labels), own["gamma_neg"], own["margin"])
    losses = product(labels, positive) + product(1.0 - labels, negative)
    # Each half has parameters of its own. Where one is NaN, so are the derivatives with respect to the others'.
    doubt = sum(0.0 * value for value in own.values() if not isinstance(value, Whole))
    return nan_outside(losses, doubt)
