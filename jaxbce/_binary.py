"""Binary cross-entropy of a probability and of a logit."""

import functools

from jax import Array

from jaxbce._alignment import Aligned
from jaxbce._elementwise import elementwise
from jaxbce._inputs import admit
from jaxbce._logit_loss import logit_loss, weighted_logit_loss
from jaxbce._prob_loss import prob_loss, weighted_prob_loss
from jaxbce._typing import ArrayLike, Axis, Reduction


def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Binary cross-entropy between labels and the sigmoid of logits, exact over the whole range of floats.

    Use it for two classes, or for any number of labels that are on or off independently of each other. With
    y = labels, x = logits, w = pos_weight and v = weight, each entry costs::

        v·[w·y·log(1 + exp(-x)) + (1 - y)·log(1 + exp(x))]  =  -v·[w·y·log σ(x) + (1 - y)·log(1 - σ(x))]

    The derivatives are closed forms, differentiable again: ∂/∂x = v·[(1 - y)·σ(x) - w·y·σ(-x)], which is σ(x) - y
    without weights.

    Domain:
        Any logit. 0·inf is 0: a certain and right prediction (x = +inf, y = 1) costs exactly 0 with gradient 0; a
        certain and wrong one costs inf with gradient 1 in size. NaN in gives NaN out. Labels outside [0, 1]
        and negative or infinite weights are refused; under a transform, where no value can be read, they give NaN (see
        Raises).

    Args:
        logits: floating, any shape: unnormalised log-odds of label 1.
        labels: of the shape of `logits`, or a scalar; bool, integer or floating, in [0, 1].
        pos_weight: ≥ 0, broadcasts to the shape of `logits`; multiplies the cost of the positive part.
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
        ValueError: shapes that do not fit; an unknown reduction; an axis that is not there; labels outside [0, 1];
            negative or infinite weights. Under `jit` and other transforms the checks of values need
            `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> logits = jnp.array([2.0, -1.0, 0.5])
        >>> labels = jnp.array([1, 0, 0])
        >>> print(f"{binary_cross_entropy_with_logits(logits, labels):.4f}")
        0.4714
        >>> print(jax.grad(binary_cross_entropy_with_logits)(logits, labels).round(4))
        [-0.0397  0.0896  0.2075]

    References:
        Cox, "The regression analysis of binary sequences", JRSS B, 1958. King & Zeng, "Logistic regression in rare
        events data", Political Analysis, 2001 (`pos_weight`). Szegedy et al., "Rethinking the Inception
        architecture for computer vision", CVPR 2016 (`label_smoothing`).
    """
    given, axes = admit(
        "binary_cross_entropy_with_logits",
        "logits",
        logits,
        labels,
        {"pos_weight": pos_weight},
        weight=weight,
        label_smoothing=label_smoothing,
        where=where,
        axis=axis,
        reduction=reduction,
    )
    return from_logits(given, axis=axes, reduction=reduction)


@elementwise(safe_prediction=0.0, weighted=functools.partial(weighted_logit_loss, fused=True))
def from_logits(given: Aligned) -> Array:
    return logit_loss(given.predictions, given.labels, **given.parameters)


def binary_cross_entropy(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Binary cross-entropy between labels and probabilities.

    For models that end in a probability. A model that ends in a sigmoid trains better without it, on
    `binary_cross_entropy_with_logits`: a probability next to 1 cannot say how near it is. With y = labels, p = probs,
    w = pos_weight and v = weight, each entry costs::

        -v·[w·y·max(log p, -100) + (1 - y)·max(log(1 - p), -100)]

    The clamp at -100 is PyTorch's, and so is the gradient with respect to p, (p - y) / (p·(1 - p)) without weights:
    bit for bit in float32 and float64 where p·(1 - p) > 1e-12, under "none" and "sum".

    Domain:
        Probabilities in [0, 1]. At exactly 0 and 1 the gradient is its limit, with 1e12 in the place of an infinite
        slope; at p = y = 0 it is 1 and at p = y = 1 it is -1. Probabilities and labels outside [0, 1] and negative
        or infinite weights are refused; under a transform, where no value can be read, they give NaN (see Raises).

    Args:
        probs: floating, any shape, in [0, 1]: the probability of label 1.
        labels: of the shape of `probs`, or a scalar; bool, integer or floating, in [0, 1].
        pos_weight: ≥ 0, broadcasts to the shape of `probs`; multiplies the cost of the positive part.
        weight: ≥ 0, broadcasts to the shape of `probs`; multiplies the loss.
        label_smoothing: s in [0, 1]; labels become y·(1 - s) + s/2.
        where: bool mask, broadcasts to the shape of `probs`; False leaves an entry out, whatever it holds.
        axis: the axes to reduce; None is all of them.
        reduction: "mean" (Σ loss / number of included entries), "weighted_mean" (Σ loss / Σ weight), "sum" or "none".

    Returns:
        The loss in float32, or float64 for float64 probs: of the shape of `probs` for "none", else without the
        reduced axes.

    Raises:
        TypeError: probs that are not floating, labels or weights that are not real, a mask that is not bool.
        ValueError: shapes that do not fit; an unknown reduction; an axis that is not there; probs or labels outside
            [0, 1]; negative or infinite weights. Under `jit` and other transforms the checks of values need
            `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> probs = jnp.array([0.9, 0.2, 0.6])
        >>> labels = jnp.array([1, 0, 0])
        >>> print(f"{binary_cross_entropy(probs, labels):.4f}")
        0.4149
        >>> print(binary_cross_entropy(probs, labels, reduction="none").round(4))
        [0.1054 0.2231 0.9163]

    References:
        Good, "Rational decisions", JRSS B, 1952 (the logarithmic score).
    """
    given, axes = admit(
        "binary_cross_entropy",
        "probs",
        probs,
        labels,
        {"pos_weight": pos_weight},
        weight=weight,
        label_smoothing=label_smoothing,
        where=where,
        axis=axis,
        reduction=reduction,
    )
    return _from_probs(given, axis=axes, reduction=reduction)


@elementwise(safe_prediction=0.5, weighted=weighted_prob_loss)
def _from_probs(given: Aligned) -> Array:
    return prob_loss(given.predictions, given.labels, **given.parameters)
