"""Binary cross-entropy of logits whose labels are given by the indices of those that are on."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import Admitted, spread
from jaxbce._binary import from_logits
from jaxbce._indices import PADDING, is_stray
from jaxbce._inputs import Target, admit_mask, admit_predictions, admit_smoothing, admit_weight
from jaxbce._numerics import included, nan_where
from jaxbce._options import admit_reduction
from jaxbce._positives import admit_positives, multi_hot
from jaxbce._typing import ArrayLike, Axis, Reduction


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
    r"""Binary cross-entropy of many labels of which few are on, and those are named by their indices.

    `binary_cross_entropy_with_logits` on the labels that are 1 at the positives and 0 elsewhere, in value and every
    derivative, without an array of such labels to build and to feed (inside, they are bools for a while). With P = the
    set of the positives of an example, x = logits, w = pos_weight and v = weight::

        Σ_{l in P} v_l·w_l·log(1 + exp(-x_l))  +  Σ_{l not in P} v_l·log(1 + exp(x_l))

    is its loss, and under "none" the single terms are. Where the logits themselves do not fit in memory, see
    `linear_binary_cross_entropy`.

    Domain:
        Any logit, exact in both tails. An index that occurs twice counts once. An index of L or more is refused; under
        a transform, where no value can be read, the loss of its example is NaN, never that of another label, and so is
        whatever that loss is reduced into, and the whole gradient of it (see Raises).

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
        The loss in float32, or float64 for float64 logits: of the shape of `logits` for "none", else without the
        reduced axes.

    Raises:
        TypeError: logits that are not floating, positives that are not integers, weights that are not real, a mask that
            is not bool.
        ValueError: shapes that do not fit; an unknown reduction; an axis that is not there; indices of L or more; L > 2
            indices that are all 0 or 1, which look like dense labels; negative or infinite weights. Under `jit` and
            other transforms the checks of values need `checkify.checkify(jit(f), errors=checkify.user_checks)`.

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
    array = admit_predictions(function, "logits", logits)
    if array.ndim == 0:
        raise ValueError(f"{function}: logits must have an axis of labels, the last, got shape {array.shape}.")
    target = Target(function, "logits", array)
    mask = admit_mask(target, where)
    examples = None if mask is None else _by_example(mask)
    indices = admit_positives(function, positives, array.shape[:-1], array.shape[-1], examples)
    parameters = {"pos_weight": admit_weight(target, "pos_weight", pos_weight, mask)}
    weights = admit_weight(target, "weight", weight, mask)
    given = Admitted(array, indices, parameters, weights, admit_smoothing(target, label_smoothing), mask)
    axes = admit_reduction(function, reduction, axis, array.ndim)
    loss: Array = _from_positives(given, axis=axes, reduction=reduction)
    return loss


@functools.partial(jax.jit, static_argnames=("axis", "reduction"))
def _from_positives(given: Admitted, *, axis: tuple[int, ...] | None, reduction: Reduction) -> Array:
    """The loss of admitted arguments, whose labels are indices."""
    logits, positives, where = given.predictions, given.labels, given.where
    dense = given._replace(labels=multi_hot(positives, logits.shape[-1]))
    loss = from_logits(dense, axis, reduction)
    # An index of no label makes NaN of whatever its example takes part in, in value and gradient.
    stray = jnp.any(is_stray(positives, logits.shape[-1], PADDING), -1, keepdims=True)
    if where is not None:
        stray &= spread(_by_example(where), stray)
    if reduction != "none":
        stray = jnp.any(stray, axis)
    factor = nan_where(stray, jnp.ones_like(stray, loss.dtype))
    return included(loss * factor, spread(where, logits) if where is not None and reduction == "none" else None)


def _by_example(mask: Array) -> Array:
    """Whether a mask includes any label of an example."""
    return mask if mask.ndim == 0 else jnp.any(mask, -1, keepdims=True)
