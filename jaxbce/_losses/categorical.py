"""Cross-entropy over mutually exclusive classes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._core import arrays
from jaxbce._core.arrays import Arguments, ArrayLike, Axis, Reduction
from jaxbce._core.indices import Ignored, is_ignored, is_out_of_bounds
from jaxbce._core.numerics import nan_unless, nan_where, zero_where_masked
from jaxbce._core.program import jit
from jaxbce._core.softmax import Labels, OneHot, expand_class, softmax_losses
from jaxbce._cpu import elementwise as cpu
from jaxbce._cpu.softmax import TwoPasses
from jaxbce._validate.arguments import as_integer, as_real, check_domain, check_indices, validate, validate_reduction


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_axis: int = -1,
    class_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Cross-entropy between labels and the softmax of logits, over classes of which exactly one holds.

    PyTorch's `F.cross_entropy` with every option of it. With x = logits, log p_c = x_c - log Σ_k exp(x_k) and
    w = class_weight, an entry costs, for the class index t and for class probabilities y::

        -w_t·log p_t        and        -Σ_c w_c·y_c·log p_c

    An index is a probability of 1. Label smoothing s replaces y_c by y_c·(1 - s) + s/C, of indices too. No one-hot
    array is kept in memory for indices. The derivative with respect to x_c is A·p_c - w_c·y_c with A = Σ_k w_k·y_k. Of
    two classes, `cross_entropy([0, x], y)` is `binary_cross_entropy_with_logits(x, y)`, in both tails.

    Domain:
        Any logit. A class with logit -inf is impossible: it costs nothing where it is not the label, and inf where it
        is. One logit of +inf is certain. Several, or -inf in every class, are no distribution: NaN. An index outside
        [0, C) is refused; under a transform it gives NaN, never the loss of another class. Probabilities need not sum
        to 1.

    Args:
        logits: floating, C classes along `class_axis`, any other axes: unnormalised log-probabilities.
        labels: class indices, of an integer dtype and the shape of `logits` without `class_axis`, or a scalar; or class
            probabilities, of the shape of `logits` and any real dtype.
        class_axis: the axis of `logits` that holds the classes. PyTorch's layout [N, C, …] is class_axis=1.
        class_weight: ≥ 0, shape [C]; multiplies the cost of its class.
        ignore_index: an index that leaves its entry out; None leaves none out. Class probabilities have no index.
        label_smoothing: s in [0, 1]; labels become y·(1 - s) + s/C.
        where: bool mask, broadcasts to the shape of `logits` without `class_axis`; False leaves an entry out, whatever
            it holds.
        axis: the axes of the losses, which are without `class_axis`, to reduce; None is all of them.
        reduction: "mean" (for indices Σ loss / Σ w_t over the included entries, which is their number without weights;
            for probabilities Σ loss / number of included entries: PyTorch's two denominators), "weighted_mean"
            (Σ loss / Σ A with the A of labels before smoothing: for indices the same as "mean"), "sum" or "none". Where
            nothing is included, or all weight is 0, a mean is 0, and so is its gradient with respect to the logits.

    Returns:
        The loss in float32, or float64 for float64 logits: of the shape of `logits` without `class_axis` for "none",
        else also without the reduced axes.

    Example:
        >>> logits = jnp.array([[0.7, -0.1, 0.2], [-1.587, -0.5907, 0.3]])
        >>> print(f"{cross_entropy(logits, jnp.array([1, 2])):.4f}")
        0.9833
        >>> print(cross_entropy(logits, jnp.array([1, -100]), reduction="none").round(4))
        [1.5207 0.    ]

    References:
        Bridle, "Probabilistic interpretation of feedforward classification network outputs", Neurocomputing, 1990.
        Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016 (`label_smoothing`).
    """
    function = "cross_entropy"
    first = {"logits": logits, "class_weight": class_weight, "label_smoothing": label_smoothing}
    checked = validate(function, "logits", first)
    array, w = checked["logits"], checked["class_weight"]
    class_axis, shape = as_integer(function, "class_axis", class_axis, "an integer"), array.shape
    if not -array.ndim <= class_axis < array.ndim:
        got = f"got {class_axis} and logits of shape {shape}"
        raise ValueError(f"{function}: class_axis must be an axis of logits, {got}.")
    if shape[class_axis] == 0:
        raise ValueError(f"{function}: logits must hold at least one class, got shape {shape}.")
    class_axis %= array.ndim
    loss_aval = arrays.replace_axis(arrays.struct_of(array), class_axis)
    mask = validate(function, "logits without class_axis", {"where": where}, loss_aval)["where"]
    targets, indices, ignored = _validate_labels(function, labels, array, mask, loss_aval, class_axis, ignore_index)
    if w is not None and w.shape != (shape[class_axis],):
        raise ValueError(
            f"{function}: class_weight must have shape ({shape[class_axis]},), one per class, got {w.shape}. "
            "class_axis says which axis of logits holds the classes."
        )
    axes = validate_reduction(function, reduction, axis, loss_aval.ndim)
    given = Arguments(array, targets, {"class_weight": w}, None, checked["label_smoothing"], mask)
    reduction = "weighted_mean" if indices and reduction == "mean" else reduction
    return _cross_entropy_core(given, class_axis, indices, ignored, axes, reduction)


def _validate_labels(
    function: str,
    labels: ArrayLike,
    logits: Array,
    mask: Array | None,
    loss_aval: Any,
    class_axis: int,
    ignore_index: int | None,
) -> tuple[Array, bool, int | None]:
    """Check the labels and ignore_index; return the labels, whether they are class indices, and the ignored index."""
    array, shape, classes = as_real(function, "labels", labels), logits.shape, logits.shape[class_axis]
    indices = array.shape != shape
    if indices and array.shape not in (loss_aval.shape, ()):
        raise ValueError(
            f"{function}: labels must be class indices of shape {loss_aval.shape} or a scalar, or class probabilities "
            f"of shape {shape}, got shape {array.shape}. The classes are axis {class_axis} of logits: see class_axis."
        )
    if indices and not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: class indices must be integers, got dtype {array.dtype} and shape {array.shape}. Convert "
            f"with labels.astype(jnp.int32); class probabilities have the shape of logits, {shape}."
        )
    ignored = None if ignore_index is None else as_integer(function, "ignore_index", ignore_index, "an integer or None")
    if indices:
        requirement = f"{function}: labels must be class indices in [0, {classes})"
        remedy = "Hide missing labels with `where` or ignore_index"
        remedy += "." if ignored is None else f", which is {ignored}."
        return check_indices(array, classes, ignored, mask, loss_aval, requirement, remedy), True, ignored
    if ignored is not None and ignored >= 0:
        raise ValueError(
            f"{function}: ignore_index needs labels that are class indices, got ignore_index={ignored} and class "
            "probabilities. Leave entries out with `where`."
        )
    mask = None if mask is None else jnp.expand_dims(jnp.broadcast_to(mask, loss_aval.shape), class_axis)
    remedy = f"Class indices have the shape {loss_aval.shape}; leave entries out with `where`."
    return check_domain(function, "labels", array, mask, logits, remedy), False, None


@jit("class_axis", "indices", "ignored", "axis", "reduction")
def _cross_entropy_core(
    given: Arguments,
    class_axis: int,
    indices: bool,
    ignored: Ignored,
    axis: tuple[int, ...] | None,
    reduction: Reduction,
) -> Array:
    """Compute the loss of validated arguments; masks and weights have an axis of size 1 where the classes are."""
    logits = jax.lax.convert_element_type(given.predictions, arrays.compute_dtype(given.predictions))
    where, w, s = given.where, given.parameters["class_weight"], given.label_smoothing
    loss_aval = arrays.replace_axis(arrays.struct_of(given.predictions), class_axis)
    if where is not None:
        where = jnp.expand_dims(arrays.broadcast_like(where, loss_aval), class_axis)
    if w is not None:
        w = arrays.nan_outside_domain(jax.lax.convert_element_type(w, logits.dtype), "class_weight")
        w = nan_unless(jnp.all(jnp.isfinite(w)), w)  # Propagate a bad weight to all entries.
        w = expand_class(w, logits, class_axis)
    if s is not None:
        s = arrays.nan_outside_domain(jax.lax.convert_element_type(s, logits.dtype), "label_smoothing")
    if indices:
        index = jnp.expand_dims(arrays.broadcast_like(given.labels, loss_aval), class_axis)
        labels, weight = _from_indices(logits, index, where, w, s, class_axis, ignored)
    else:
        labels, weight = _from_probs(logits, given.labels, where, w, s, class_axis)
    losses = softmax_losses(logits, labels, class_axis, TwoPasses)
    weight, where = (None if array is None else jnp.squeeze(array, class_axis) for array in (weight, labels.where))
    return arrays.reduce(losses, weight, where, axis, reduction)


def _from_indices(
    logits: Array,
    index: Array,
    where: Array | None,
    w: Array | None,
    s: Array | None,
    class_axis: int,
    ignored: Ignored,
) -> tuple[Labels, Array | None]:
    """The coefficients of class indices, and the weight of each entry before smoothing."""
    classes = logits.shape[class_axis]
    if ignored is not None:
        counted = ~is_ignored(index, ignored)
        where = counted if where is None else where & counted
    outside = is_out_of_bounds(index, classes)
    index = jnp.where(outside, 0, index).astype(jnp.int32)
    # Leave masked indices alone: NaN in their value would be NaN in the gradient of the weights.
    included_outside = outside if where is None else outside & where
    nan_if_outside = nan_where(included_outside, jnp.ones_like(index, dtype=logits.dtype))
    weight = None if w is None else jnp.take(w.ravel(), index)
    value, dense = (nan_if_outside if weight is None else weight * nan_if_outside), None
    if s is not None:
        # y·(1 - s) + s/C, once for the label and once for every class.
        value, dense = value * (1.0 - s), expand_class(jnp.broadcast_to(s / classes, (classes,)), logits, class_axis)
        dense = dense if w is None else w * dense
    weight = None if weight is None else zero_where_masked(weight, where)
    return Labels(dense, OneHot(zero_where_masked(value, where), index), where), weight


def _from_probs(
    logits: Array, probs: Array, where: Array | None, w: Array | None, s: Array | None, class_axis: int
) -> tuple[Labels, Array]:
    """The coefficients of class probabilities, and the weight of each entry before smoothing."""
    # Guard bools too, for the reason that `prepare` has.
    probs = arrays.cast_and_fill(probs, logits, None if where is None else arrays.broadcast_like(where, logits), 0.0)
    probs = jax.lax.platform_dependent(
        probs,
        cpu=functools.partial(cpu.nan_outside_domain_with_derivative, name="labels"),
        default=functools.partial(arrays.nan_outside_domain, name="labels"),
    )

    def apply_class_weight(probs: Array) -> Array:
        return probs if w is None else arrays.broadcast_like(w, probs) * probs

    dense = apply_class_weight(probs if s is None else arrays.smooth_labels(probs, s, logits.shape[class_axis]))
    return Labels(dense, None, where), jnp.expand_dims(
        arrays.sum_of(apply_class_weight(probs), (class_axis,)), class_axis
    )
