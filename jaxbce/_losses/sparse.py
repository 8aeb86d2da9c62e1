"""Binary cross-entropy of logits whose labels are given by the indices of those that are on."""

import jax.numpy as jnp
from jax import Array

from jaxbce._core.arrays import Arguments, ArrayLike, Axis, Reduction, broadcast_like
from jaxbce._core.indices import PADDING, is_out_of_bounds, multi_hot
from jaxbce._core.numerics import nan_where, zero_where_masked
from jaxbce._core.program import jit
from jaxbce._losses.binary import bce_with_logits_core
from jaxbce._validate.arguments import validate, validate_positives, validate_reduction


def sparse_binary_cross_entropy_with_logits(
    logits: ArrayLike,
    positives: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Binary cross-entropy of sparse labels, given by the indices of the positives.

    `binary_cross_entropy_with_logits` on the labels that are 1 at the positives and 0 elsewhere, in value and every
    derivative, without an array of such labels to build and to feed (a bool mask is built inside). With P = the
    set of the positives of an example, x = logits, w = pos_weight and v = weight::

        Σ_{l in P} v_l·w_l·log(1 + exp(-x_l))  +  Σ_{l not in P} v_l·log(1 + exp(x_l))

    is its loss, and under "none" the single terms are. Where the logits themselves do not fit in memory, see
    `linear_binary_cross_entropy`.

    Domain:
        Any logit, exact in both tails. An index that occurs twice counts once. An index of L or more is refused; under
        a transform, where no value can be read, the loss of its example is NaN, never that of another label, and so is
        whatever that loss is reduced into, and the whole gradient of it.

    Args:
        logits: floating, [..., L]: unnormalised log-odds of each label.
        positives: integers, [..., K]: the indices in [0, L) of the labels that are on. Negative numbers are padding.
        pos_weight: ≥ 0, broadcasts to the shape of `logits`; multiplies the cost of the positives.
        weight: ≥ 0, broadcasts to the shape of `logits`; multiplies the loss.
        label_smoothing: s in [0, 1]; labels become 1 - s/2 at the positives and s/2 elsewhere.
        where: bool mask, broadcasts to the shape of `logits`; False leaves an entry out, whatever it holds. Of an
            example that is left out wholly, the positives may be anything too.
        axis: the axes to reduce; None is all of them.
        reduction: "mean" (Σ loss / number of included entries), "weighted_mean" (Σ loss / Σ weight), "sum" or "none".

    Returns:
        In at least float32: the losses, of the shape of `logits`, for "none"; else without the reduced axes.

    Example:
        >>> logits = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
        >>> positives = jnp.array([[0, -1], [2, 1]])  # the first example has one label, the second two
        >>> print(f"{sparse_binary_cross_entropy_with_logits(logits, positives):.4f}")
        0.7138
        >>> print(sparse_binary_cross_entropy_with_logits(logits, positives, axis=-1).round(4))
        [0.4714 0.9562]

    References:
        Cox, "The regression analysis of binary sequences", JRSS B, 1958. Prabhu & Varma, "FastXML: a fast, accurate and
        stable tree-classifier for extreme multi-label learning", KDD 2014 (many labels, few of them on).
    """
    function = "sparse_binary_cross_entropy_with_logits"
    values = {"logits": logits, "where": where, "pos_weight": pos_weight, "weight": weight}
    checked = validate(function, "logits", {**values, "label_smoothing": label_smoothing})
    array, mask = checked["logits"], checked["where"]
    if array.ndim == 0:
        raise ValueError(f"{function}: logits must have an axis of labels, the last, got shape {array.shape}.")
    examples = None if mask is None else _any_label(mask)
    indices = validate_positives(function, positives, array.shape[:-1], array.shape[-1], examples)
    axes = validate_reduction(function, reduction, axis, array.ndim)
    own = {"pos_weight": checked["pos_weight"]}
    given = Arguments(array, indices, own, checked["weight"], checked["label_smoothing"], mask)
    return _sparse_core(given, axis=axes, reduction=reduction)


@jit("axis", "reduction")
def _sparse_core(given: Arguments, *, axis: tuple[int, ...] | None, reduction: Reduction) -> Array:
    """Compute the loss of validated arguments, whose labels are indices."""
    logits, positives, where = given.predictions, given.labels, given.where
    loss = bce_with_logits_core(given._replace(labels=multi_hot(positives, logits.shape[-1])), axis, reduction)
    # Make NaN of all that an example with an index out of bounds takes part in, in value and gradient.
    outside = jnp.any(is_out_of_bounds(positives, logits.shape[-1], PADDING), -1, keepdims=True)
    if where is not None:
        outside &= broadcast_like(_any_label(where), outside)
    if reduction != "none":
        outside = jnp.any(outside, axis)
    loss *= nan_where(outside, jnp.ones_like(outside, loss.dtype))
    return loss if where is None or reduction != "none" else zero_where_masked(loss, broadcast_like(where, logits))


def _any_label(mask: Array) -> Array:
    """Reduce the mask to examples."""
    return mask if mask.ndim == 0 else jnp.any(mask, -1, keepdims=True)
