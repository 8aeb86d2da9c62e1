"""Binary cross-entropy of a probability and of a logit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._core.arrays import ArrayLike, Axis, Reduction
from jaxbce._core.elementwise import Loss
from jaxbce._core.numerics import define_partials, label_coefs, magnitude, multiply_no_nan, nan_unless
from jaxbce._cpu import elementwise as cpu
from jaxbce._validate.arguments import validate_elementwise


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
        Any logit. 0·inf is 0: a confident and right prediction (x = +inf, y = 1) costs exactly 0 with gradient 0; a
        confident and wrong one costs inf with gradient 1 in size. NaN in gives NaN out.

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
        In at least float32: the losses, of the shape of `logits`, for "none"; else without the reduced axes.

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
    common = weight, label_smoothing, where, axis, reduction
    given, axes = validate_elementwise(
        "binary_cross_entropy_with_logits", "logits", logits, labels, common, pos_weight=pos_weight
    )
    return bce_with_logits_core(given, axes, reduction)


def bce_with_logits(x: Array, y: Array, pos_weight: Array | None = None) -> Array:
    """a·softplus(-x) + b·softplus(x) with a = w·y and b = 1 - y, the |x| of both taken out.

    No term is negative, so nothing cancels, and both branches are analytic: autodiff is exact to any order.
    """
    a, b = label_coefs(y, pos_weight)
    both = 1.0 if pos_weight is None else a + b
    return multiply_no_nan(jnp.where(x > 0.0, b, a), magnitude(x)) + both * jnp.log1p(jnp.exp(-magnitude(x)))


bce_with_logits_core = Loss(bce_with_logits, safe_prediction=0.0, cpu=cpu.bce_with_logits)


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
    `binary_cross_entropy_with_logits`: near 1 a probability rounds to 1. With y = labels, p = probs,
    w = pos_weight and v = weight, each entry costs::

        -v·[w·y·max(log p, -100) + (1 - y)·max(log(1 - p), -100)]

    The clamp at -100 is PyTorch's, and so is the gradient with respect to p, (p - y) / (p·(1 - p)) without weights:
    bit for bit in float32 and float64 where p·(1 - p) > 1e-12, under "none" and "sum".

    Domain:
        Probabilities in [0, 1]. At exactly 0 and 1 the gradient is its limit, with 1e12 in the place of an infinite
        slope; at p = y = 0 it is 1 and at p = y = 1 it is -1.

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
        In at least float32: the losses, of the shape of `probs`, for "none"; else without the reduced axes.

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
    common = weight, label_smoothing, where, axis, reduction
    given, axes = validate_elementwise("binary_cross_entropy", "probs", probs, labels, common, pos_weight=pos_weight)
    return _bce_core(given, axes, reduction)


@jax.custom_jvp
def _bce(p: Array, y: Array, pos_weight: Array | None = None) -> Array:
    """-[a·max(log p, -100) + b·max(log(1 - p), -100)] with a = w·y and b = 1 - y."""
    a, b = label_coefs(y, pos_weight)
    return -(a * _clamped_log(p) + b * _clamped_log_complement(p))


_STEEPEST = 1e12
"""Stands for 1/0 in a slope: PyTorch's figure for a confident and wrong probability."""


@jax.custom_jvp
def _bce_slope(p: Array, y: Array, pos_weight: Array | None) -> Array:
    """∂ℓ/∂p over the common denominator, as PyTorch has it to the last bit; partial fractions at 1 and next to 0."""
    a, b = label_coefs(y, pos_weight)
    numerator = p - y if pos_weight is None else b * p - a * (1.0 - p)
    denominator = (1.0 - p) * p
    # Use partial fractions where the numerator would flush to 0.
    info = np.finfo(p.dtype)
    tiny = denominator < float(info.tiny / info.eps)
    slope = numerator / jnp.where(tiny, 1.0, denominator)
    return jnp.where(tiny, _bce_slope_in_fractions(p, y, pos_weight), slope)


@_bce_slope.defjvp
def _bce_slope_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    return _bce_slope(*primals), jax.jvp(_bce_slope_in_fractions, primals, tangents)[1]


def _bce_slope_in_fractions(p: Array, y: Array, pos_weight: Array | None) -> Array:
    """b/(1 - p) - a/p: the slope in the form that has its limits at 0 and 1, and that is differentiated further."""
    a, b = label_coefs(y, pos_weight)
    return _divide_steep(b, 1.0 - p) - _divide_steep(a, p)


@jax.custom_jvp
def _divide_steep(a: Array, x: Array) -> Array:
    """a/x, with a·1e12 for a/0."""
    return jnp.where(x == 0.0, _STEEPEST * a, a / jnp.where(x == 0.0, 1.0, x))


# Avoid autodiff's a/x², which overflows long before a/x does.
define_partials(
    _divide_steep,
    lambda t, _, a, x: _divide_steep(jnp.ones_like(a), x) * t,
    lambda t, value, a, x: -_divide_steep(jnp.ones_like(a), x) * (value * t),
)


@jax.custom_jvp
def _clamped_log(p: Array) -> Array:
    return jnp.maximum(jnp.log(p), -100.0)


define_partials(_clamped_log, lambda t, _, p: _divide_steep(t, p))


@jax.custom_jvp
def _clamped_log_complement(p: Array) -> Array:
    """max(log(1 - p), -100)."""
    if p.dtype != jnp.float64:
        return jnp.maximum(jnp.log1p(-p), -100.0)
    # Take log1p of a positive argument: that of a negative one is off by up to 129 ulp in float64 (jax#39707).
    odds = p / jnp.maximum(1.0 - p, float(np.finfo(p.dtype).tiny))
    return nan_unless(p <= 1.0, jnp.maximum(-jnp.log1p(odds), -100.0))


define_partials(_clamped_log_complement, lambda t, _, p: -_divide_steep(t, 1.0 - p))

# Differentiate the logarithms before the clamp by p, and use the clamped ones in the slopes by y and w.
define_partials(
    _bce,
    lambda t, _, p, y, w: _bce_slope(nan_unless((p >= 0.0) & (p <= 1.0), p), y, w) * t,
    lambda t, _, p, y, w: (_clamped_log_complement(p) - (1.0 if w is None else w) * _clamped_log(p)) * t,
    lambda t, _, p, y, w: -y * _clamped_log(p) * t,
)

_bce_core = Loss(_bce, safe_prediction=0.5, cpu=cpu.bce)
