"""Cross-entropy over mutually exclusive classes.

    ℓ(x, a) = -Σ_c a_c·log p_c,    p_c = exp(x_c) / Σ_k exp(x_k)
            = A·log1p(S) + T

with A = Σ_c a_c, T = Σ_c a_c·(max(x) - x_c) and S = Σ_{c not the maximum} exp(x_c - max(x)).

For a ≥ 0 every term is non-negative, so nothing cancels. The 1 that the maximum contributes to the sum of exponentials
stays out of S, so that a sure prediction keeps its small loss: log(1 + S) would be 0 from S = 6e-8 on. Of k equal
maxima, k - 1 count in S. 1 - p_c of the maximum is S/(1 + S) for the same reason.

The coefficients a are those of `Labels`: a dense part and a value at one class, which no one-hot array need hold. An
infinite maximum is a certain class. Several of them, or -inf in every class, are no distribution: NaN.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbce._core import arrays
from jaxbce._core.arrays import Arguments, ArrayLike, Axis, Reduction
from jaxbce._core.indices import Ignored, is_ignored, is_out_of_bounds
from jaxbce._core.numerics import apply_weight, nan_unless, nan_where, zero_where_masked
from jaxbce._core.program import Program, bind, jit
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
    by_entry = arrays.replace_axis(jax.typeof(array), class_axis)
    mask = validate(function, "logits without class_axis", {"where": where}, by_entry)["where"]
    targets, indices, ignored = _validate_labels(function, labels, array, mask, by_entry, class_axis, ignore_index)
    if w is not None and w.shape != (shape[class_axis],):
        raise ValueError(
            f"{function}: class_weight must have shape ({shape[class_axis]},), one per class, got {w.shape}. "
            "class_axis says which axis of logits holds the classes."
        )
    axes = validate_reduction(function, reduction, axis, by_entry.ndim)
    given = Arguments(array, targets, {"class_weight": w}, None, checked["label_smoothing"], mask)
    reduction = "weighted_mean" if indices and reduction == "mean" else reduction
    return _cross_entropy_core(given, class_axis, indices, ignored, axes, reduction)


def _validate_labels(
    function: str,
    labels: ArrayLike,
    logits: Array,
    mask: Array | None,
    by_entry: Any,
    class_axis: int,
    ignore_index: int | None,
) -> tuple[Array, bool, int | None]:
    """Check the labels and ignore_index; return the labels, whether they are class indices, and the ignored index."""
    array, shape, classes = as_real(function, "labels", labels), logits.shape, logits.shape[class_axis]
    indices = array.shape != shape
    if indices and array.shape not in (by_entry.shape, ()):
        raise ValueError(
            f"{function}: labels must be class indices of shape {by_entry.shape} or a scalar, or class probabilities "
            f"of shape {shape}, got shape {array.shape}. The classes are axis {class_axis} of logits: see class_axis."
        )
    if indices and not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: class indices must be integers, got dtype {array.dtype} and shape {array.shape}. Convert "
            f"with labels.astype(jnp.int32); class probabilities have the shape of logits, {shape}."
        )
    ignored = None if ignore_index is None else as_integer(function, "ignore_index", ignore_index, "an integer or None")
    if indices:
        words = f"{function}: labels must be class indices in [0, {classes})"
        remedy = "Hide missing labels with `where` or ignore_index"
        remedy += "." if ignored is None else f", which is {ignored}."
        return check_indices(array, classes, ignored, mask, by_entry, words, remedy), True, ignored
    if ignored is not None and ignored >= 0:
        raise ValueError(
            f"{function}: ignore_index needs labels that are class indices, got ignore_index={ignored} and class "
            "probabilities. Leave entries out with `where`."
        )
    mask = None if mask is None else jnp.expand_dims(jnp.broadcast_to(mask, by_entry.shape), class_axis)
    remedy = f"Class indices have the shape {by_entry.shape}; leave entries out with `where`."
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
    by_entry = arrays.replace_axis(jax.typeof(given.predictions), class_axis)
    if where is not None:
        where = jnp.expand_dims(arrays.broadcast_like(where, by_entry), class_axis)
    if w is not None:
        w = arrays.nan_outside_domain(jax.lax.convert_element_type(w, logits.dtype), "class_weight")
        w = nan_unless(jnp.all(jnp.isfinite(w)), w)  # Also where the label is of a class whose weight is in order.
        w = _along(w, logits, class_axis)
    if s is not None:
        s = arrays.nan_outside_domain(jax.lax.convert_element_type(s, logits.dtype), "label_smoothing")
    if indices:
        index = jnp.expand_dims(arrays.broadcast_like(given.labels, by_entry), class_axis)
        labels, weight = _from_indices(logits, index, where, w, s, class_axis, ignored)
    else:
        labels, weight = _from_probs(logits, given.labels, where, w, s, class_axis)
    losses = _softmax_losses(logits, labels, class_axis)
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
) -> tuple["Labels", Array | None]:
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
        value, dense = value * (1.0 - s), _along(jnp.broadcast_to(s / classes, (classes,)), logits, class_axis)
        dense = dense if w is None else w * dense
    weight = None if weight is None else zero_where_masked(weight, where)
    return Labels(dense, OneHot(zero_where_masked(value, where), index), where), weight


def _from_probs(
    logits: Array, probs: Array, where: Array | None, w: Array | None, s: Array | None, class_axis: int
) -> tuple["Labels", Array]:
    """The coefficients of class probabilities, and the weight of each entry before smoothing."""
    # Guard bools too, for the reason that `prepare` has.
    probs = arrays.cast_and_fill(probs, logits, None if where is None else arrays.broadcast_like(where, logits), 0.0)
    probs = jax.lax.platform_dependent(
        probs,
        cpu=functools.partial(cpu.nan_outside_domain_with_derivative, name="labels"),
        default=functools.partial(arrays.nan_outside_domain, name="labels"),
    )

    def weighted(probs: Array) -> Array:
        return probs if w is None else arrays.broadcast_like(w, probs) * probs

    dense = weighted(probs if s is None else arrays.smooth(probs, s, logits.shape[class_axis]))
    return Labels(dense, None, where), jnp.expand_dims(arrays.sum_of(weighted(probs), (class_axis,)), class_axis)


# --- Labels and the statistics of a softmax -----------------------------------------------------------------------


class OneHot(NamedTuple):
    """The coefficient `value` of the class `label` of each entry. Arrays of the rank of the logits, with one class."""

    value: Array
    label: Array


class Labels(NamedTuple):
    """The coefficients a, as the sum of the parts that are there, and which entries are included.

    The mask has the rank of the logits, with one class. Where it is False, loss and derivatives are 0.
    """

    dense: Array | None
    one_hot: OneHot | None
    where: Array | None


class OnePass:
    """The maximum, S, and A and T of the dense part, in one reduction, which reads the logits once.

    Arrays have one class, unless it is said. `rest` is S; `dense_sum` and `dense_cost` are A and T of the dense labels.
    """

    def __init__(self, x: Array, labels: Labels, axis: int) -> None:
        """Reduce over the classes."""
        self.x, self.labels, self.axis = x, labels, axis
        zeros = jnp.zeros_like(x)
        dense = zeros if labels.dense is None else jnp.broadcast_to(labels.dense, x.shape)
        start = [jnp.asarray(value, x.dtype) for value in (-jnp.inf, 0.0, 0.0, 0.0)]
        parts = jax.lax.reduce([x, zeros, dense, zeros], start, _join, [axis])
        self._maximum, rest, self.dense_sum, self.dense_cost = (jnp.expand_dims(part, axis) for part in parts)
        self.rest = nan_where(self._maximum == -jnp.inf, rest)

    def shifted(self, values: Array) -> Array:
        """Logits, of one class or all, minus the maximum: ≤ 0, and 0 for an infinite maximum."""
        return jnp.where(values == self._maximum, 0.0, values - self._maximum)

    def all_shifted(self) -> Array:
        """The logits of all classes minus the maximum, for what is not reduced over them."""
        return self.shifted(self.x)

    def cost(self, coefficients: Array, values: Array) -> Array:
        """a·(max(x) - v) for coefficients and logits."""
        return apply_weight(coefficients, -self.shifted(values))

    def zero_where_masked(self, values: Array) -> Array:
        """Values of all classes, and 0 for the entries that the mask leaves out."""
        return zero_where_masked(values, self.labels.where)


Softmax: TypeAlias = OnePass | TwoPasses


def _join(left: list[Array], right: list[Array]) -> tuple[Array, ...]:
    """(max, S, A, T) of two sets of classes together, from those of each."""
    left_is_greater = left[0] >= right[0]
    greater, lesser = (
        [jnp.where(left_is_greater, *pair) for pair in zip(*sides, strict=True)]
        for sides in ((left, right), (right, left))
    )
    # Give -inf, which is the start, too, no exponential.
    factor = jnp.where(lesser[0] == -jnp.inf, 0.0, jnp.exp(lesser[0] - greater[0]))
    distance = jnp.where(lesser[0] == greater[0], 0.0, greater[0] - lesser[0])
    return (
        # Take no select: NaN is greater than nothing.
        jnp.maximum(left[0], right[0]),
        greater[1] + factor * (1.0 + lesser[1]),
        greater[2] + lesser[2],
        greater[3] + lesser[3] + apply_weight(lesser[2], distance),
    )


# --- The loss and its derivatives, closed under differentiation ---------------------------------------------------


class _Moving(NamedTuple):
    """Arguments and tangents, of which None is 0; beside a loss its slope."""

    x: Array
    labels: Labels
    axis: int
    x_tangent: Array | None
    dense_tangent: Array | None
    value_tangent: Array | None
    slope: Array | None


def _softmax_losses(x: Array, labels: Labels, axis: int) -> Array:
    """ℓ(x, a), without the axis of the classes."""
    shape = x.shape
    if len(shape) >= 7:
        # Unite the axes around the classes: jaxlib 0.10.2 crashes on sums over them at rank 7 and above (jax#40412).
        def united(array: Array) -> Array:
            return array.reshape(math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :]))

        (loss,) = _call([_LOSS], united(x), jax.tree.map(united, labels), 1)
    else:
        (loss,) = _call([_LOSS], x, labels, axis)
    return loss.reshape(*shape[:axis], *shape[axis + 1 :])


def _loss(softmax: Softmax) -> Array:
    labels = softmax.labels
    loss = _sum_of_coefficients(softmax) * jnp.log1p(softmax.rest)
    if labels.dense is not None:
        loss += softmax.dense_cost
    if labels.one_hot is not None:
        loss += softmax.cost(labels.one_hot.value, _at_class(softmax.x, labels.one_hot.label, softmax.axis))
    return zero_where_masked(loss, labels.where)


def _change_of_loss(moving: _Moving) -> Array:
    x, labels, axis, x_tangent, dense, value, slope = moving
    terms = [] if x_tangent is None or slope is None else [_total(slope * x_tangent, axis)]
    if dense is not None or value is not None:
        (each,) = _call([_NEGATIVE_LOG_SOFTMAX], x, Labels(None, None, labels.where), axis)
        terms += [] if dense is None else [_total(each * dense, axis)]
        terms += (
            [] if value is None or labels.one_hot is None else [_at_class(each, labels.one_hot.label, axis) * value]
        )
    # Mask the tangent too: it may be NaN.
    return zero_where_masked(functools.reduce(operator.add, terms), labels.where)


def _slope(softmax: Softmax) -> Array:
    """∂ℓ/∂x_c = A·p_c - a_c = (A - a_c)·p_c - a_c·(1 - p_c), where no 1 - 1 loses the tail.

    With S + 1 as the common denominator, p_c is what the class itself adds to the sum, 1 - p_c the `rest` of it.
    """
    x, labels, axis = softmax.x, softmax.labels, softmax.axis
    shifted, every = softmax.all_shifted(), 1.0 + softmax.rest
    if labels.dense is None and labels.one_hot is not None:
        value, label = labels.one_hot
        rest = softmax.rest - (jnp.exp(softmax.shifted(_at_class(x, label, axis))) - 1.0)
        slope = jnp.where(_is_label(x, label, axis), -value * (rest / every), value / every * jnp.exp(shifted))
        return softmax.zero_where_masked(slope)
    own = jnp.exp(shifted)
    rest = jnp.where(shifted == 0.0, softmax.rest, every - own)
    coefficients = _coefficients(labels, x, axis)
    return softmax.zero_where_masked(
        ((_sum_of_coefficients(softmax) - coefficients) * own - coefficients * rest) / every
    )


def _change_of_slope(moving: _Moving) -> Array:
    x, labels, axis, x_tangent, dense, value, _ = moving
    terms = []
    if x_tangent is not None:
        parts = [] if labels.dense is None else [_total(labels.dense, axis)]
        parts += [] if labels.one_hot is None else [labels.one_hot.value]
        terms += [functools.reduce(operator.add, parts) * _change_of_softmax(moving)]
    if dense is not None or value is not None:
        one_hot = None if value is None or labels.one_hot is None else OneHot(value, labels.one_hot.label)
        moved = _coefficients(Labels(dense, one_hot, None), x, axis)
        (p,) = _call([_SOFTMAX], x, labels, axis)
        terms += [p * _total(moved, axis) - moved]
    return zero_where_masked(functools.reduce(operator.add, terms), labels.where)


def _negative_log_softmax(softmax: Softmax) -> Array:
    """∂ℓ/∂a_c = -log p_c."""
    return softmax.zero_where_masked(jnp.log1p(softmax.rest) - softmax.shifted(softmax.x))


def _change_of_negative_log_softmax(moving: _Moving) -> Array:
    x, labels, axis, direction, *_ = moving
    assert direction is not None  # There is no other argument that could move.
    (p,) = _call([_SOFTMAX], x, labels, axis)
    return zero_where_masked(_total(p * direction, axis) - direction, labels.where)


def _softmax(softmax: Softmax) -> Array:
    """p_c."""
    return softmax.zero_where_masked(jnp.exp(softmax.all_shifted()) / (1.0 + softmax.rest))


def _change_of_softmax(moving: _Moving) -> Array:
    """Σ_k ∂p_c/∂x_k·d_k = p_c·(d_c - Σ_k p_k·d_k).

    What is added to every d_k makes no difference, so that d is taken relative to its mean over the maxima, where p_c
    may be next to 1 and d_c - Σ_k p_k·d_k would cancel.
    """
    x, labels, axis, direction, *_ = moving
    assert direction is not None
    p, top = _call([_SOFTMAX, _TOP], x, labels, axis)
    relative = direction - _total(top * direction, axis) / jnp.maximum(_total(top, axis), 1.0)
    return p * (relative - _total(p * relative, axis))


def _top(softmax: Softmax) -> Array:
    """1 at the maxima, and 0 elsewhere."""
    return (softmax.all_shifted() == 0.0).astype(softmax.x.dtype)


def _change_of_top(moving: _Moving) -> Array:
    return jnp.zeros_like(moving.x)


# --- As programs --------------------------------------------------------------------------------------------------


class _Function(NamedTuple):
    """A function of logits and labels, its derivative, and whether its result has one class or all."""

    formula: Callable[[Softmax], Array]
    change: Callable[[_Moving], Array]
    one_class: bool = False


_LOSS = _Function(_loss, _change_of_loss, one_class=True)
_SLOPE = _Function(_slope, _change_of_slope)
_NEGATIVE_LOG_SOFTMAX = _Function(_negative_log_softmax, _change_of_negative_log_softmax)
_SOFTMAX = _Function(_softmax, _change_of_softmax)
_TOP = _Function(_top, _change_of_top)


def _call(functions: Sequence[_Function], x: Array, labels: Labels, axis: int) -> list[Array]:
    leaves, structure = jax.tree.flatten((x, labels))
    return bind(_Rows(tuple(functions), structure, axis), *leaves)


@dataclasses.dataclass(frozen=True)
class _Rows(Program):
    """Functions of logits and labels as a program of their leaves, all of the rank of the logits."""

    functions: tuple[_Function, ...]
    structure: Any
    axis: int

    def __repr__(self) -> str:
        return f"{', '.join(function.formula.__name__.strip('_') for function in self.functions)}; axis={self.axis}"

    def plain(self, *leaves: Array) -> list[Array]:
        x, labels = jax.tree.unflatten(self.structure, leaves)
        softmax = OnePass(x, labels, self.axis)
        return [function.formula(softmax) for function in self.functions]

    def cpu(self, *leaves: Array) -> list[Array]:
        # Give each statistics of its own: XLA would store what two of them shared.
        x, labels = jax.tree.unflatten(self.structure, leaves)
        return [function.formula(TwoPasses(x, labels, self.axis)) for function in self.functions]

    def abstract_eval(self, x: Any, *_: Any) -> list[Any]:
        return [arrays.replace_axis(x, self.axis, 1) if function.one_class else x for function in self.functions]

    def jvp(self, leaves: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        x, labels = jax.tree.unflatten(self.structure, leaves)
        x_tangent, change = jax.tree.unflatten(self.structure, [tangents.get(i) for i in range(len(leaves))])
        value = None if change.one_hot is None else change.one_hot.value
        # A loss and its slope are one program, which needs to read the logits for both once.
        together = [*self.functions, *([_SLOPE] if _LOSS in self.functions and 0 in tangents else [])]
        values = _call(together, x, labels, self.axis)
        slope = values[-1] if together[-1] is _SLOPE else None
        moving = _Moving(x, labels, self.axis, x_tangent, change.dense, value, slope)
        return values[: len(self.functions)], [function.change(moving) for function in self.functions]

    def batch(self, leaves: Sequence[Array], batched: tuple[bool, ...]) -> tuple[Program, Sequence[Array]]:
        if not batched[0]:
            return super().batch(leaves, batched)  # Broadcast logits would be stored.
        size = leaves[0].shape[0]
        every = [
            leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            for leaf, is_batched in zip(leaves, batched, strict=True)
        ]
        return dataclasses.replace(self, axis=self.axis + 1), every


# --- Arrays of classes --------------------------------------------------------------------------------------------


def _total(values: Array, axis: int) -> Array:
    """The sum over the classes, as an array with one class."""
    return jnp.sum(values, axis, keepdims=True)


def _at_class(values: Array, index: Array, axis: int) -> Array:
    """The value of one class for each entry. The index is within bounds, and this spares the looking."""
    return jnp.take_along_axis(values, index, axis, mode="promise_in_bounds")


def _along(by_class: Array, x: Array, axis: int) -> Array:
    """A value for each class, as an array of the rank of x, with one entry."""
    return by_class.reshape([x.shape[a] if a == axis else 1 for a in range(x.ndim)])


def _numbered(x: Array, axis: int, dtype: DTypeLike) -> Array:
    """0, 1, ... along the axis of the classes."""
    return _along(jnp.arange(x.shape[axis], dtype=dtype), x, axis)


def _is_label(x: Array, label: Array, axis: int) -> Array:
    return _numbered(x, axis, label.dtype) == label


def _sum_of_coefficients(softmax: Softmax) -> Array:
    """A."""
    labels = softmax.labels
    parts = [] if labels.dense is None else [softmax.dense_sum]
    parts += [] if labels.one_hot is None else [labels.one_hot.value]
    return functools.reduce(operator.add, parts)


def _coefficients(labels: Labels, x: Array, axis: int) -> Array:
    """a_c, compared on the fly in whatever loop reads it."""
    dense = jnp.zeros_like(x) if labels.dense is None else labels.dense
    if labels.one_hot is None:
        return dense
    value, label = labels.one_hot
    return dense + jnp.where(_is_label(x, label, axis), value, jnp.zeros_like(value))
