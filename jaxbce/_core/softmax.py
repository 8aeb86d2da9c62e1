"""Cross-entropy of a softmax over one axis of an array, closed under differentiation.

    ℓ(x, a) = -Σ_c a_c·log p_c,    p_c = exp(x_c) / Σ_k exp(x_k)
            = A·log1p(S) + T

with A = Σ_c a_c, T = Σ_c a_c·(max(x) - x_c) and S = Σ_{c not the maximum} exp(x_c - max(x)).

For a ≥ 0 every term is non-negative, so nothing cancels. The 1 that the maximum contributes to the sum of exponentials
stays out of S, so that a sure prediction keeps its small loss: log(1 + S) would be 0 from S = 6e-8 on. Of k equal
maxima, k - 1 count in S. 1 - p_c of the maximum is S/(1 + S) for the same reason.

An infinite maximum is a certain class. Several of them, or -inf in every class, are no distribution: NaN.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbce._core.arrays import replace_axis
from jaxbce._core.numerics import apply_weight, nan_where, zero_where_masked
from jaxbce._core.program import Program, bind

# --- Labels, and arrays with a class axis -------------------------------------------------------------------------


class OneHot(NamedTuple):
    """The coefficient `value` of the class `label` of each entry. Arrays keep a class axis of size 1."""

    value: Array
    label: Array


class Labels(NamedTuple):
    """The coefficients a, as the sum of the parts that are not None; no one-hot array is stored.

    The mask keeps a class axis of size 1. Loss and derivatives are 0 where it is False.
    """

    dense: Array | None
    one_hot: OneHot | None
    where: Array | None

    def coefs(self, x: Array, axis: int) -> Array:
        """a_c, by comparison with the class index, which fuses into the loop that reads it."""
        if self.one_hot is None:
            return jnp.zeros_like(x) if self.dense is None else self.dense
        value, label = self.one_hot
        hot = jnp.where(class_iota(x, axis, label.dtype) == label, value, jnp.zeros_like(value))
        return add(self.dense, hot)


def add(*terms: Array | None) -> Array:
    """Add the terms that are not None."""
    return functools.reduce(operator.add, (term for term in terms if term is not None))


def sum_classes(values: Array, axis: int) -> Array:
    return jnp.sum(values, axis, keepdims=True)


def at_label(values: Array, label: Array, axis: int) -> Array:
    """Take the value of the class `label` of each entry. Skip the bounds check: labels are in range."""
    return jnp.take_along_axis(values, label, axis, mode="promise_in_bounds")


def expand_class(by_class: Array, x: Array, axis: int) -> Array:
    """Reshape a value for each class to the rank of x."""
    return by_class.reshape([x.shape[a] if a == axis else 1 for a in range(x.ndim)])


def class_iota(x: Array, axis: int, dtype: DTypeLike) -> Array:
    """0, 1, ... along the class axis."""
    return expand_class(jnp.arange(x.shape[axis], dtype=dtype), x, axis)


# --- Statistics ---------------------------------------------------------------------------------------------------


class Softmax:
    """The maximum, S, and A and T of the dense labels, in one reduction, which reads the logits once.

    Arrays keep a class axis of size 1 unless noted. `sum_exp_rest` is S.
    """

    def __init__(self, x: Array, labels: Labels, axis: int) -> None:
        """Reduce over the classes."""
        self.x, self.labels, self.axis = x, labels, axis
        zeros = jnp.zeros_like(x)
        dense = zeros if labels.dense is None else jnp.broadcast_to(labels.dense, x.shape)
        start = [jnp.asarray(value, x.dtype) for value in (-jnp.inf, 0.0, 0.0, 0.0)]
        parts = jax.lax.reduce([x, zeros, dense, zeros], start, _join, [axis])
        self._max, rest, self._dense_sum, self._dense_cost = (jnp.expand_dims(part, axis) for part in parts)
        self.sum_exp_rest = nan_where(self._max == -jnp.inf, rest)

    def shifted(self, values: Array) -> Array:
        """Subtract the maximum from logits of one class or all: ≤ 0, and 0 for an infinite maximum."""
        return jnp.where(values == self._max, 0.0, values - self._max)

    def all_shifted(self) -> Array:
        """Subtract the maximum from the logits of all classes, which are not reduced afterwards."""
        return self.shifted(self.x)

    def cost(self, coefs: Array, values: Array) -> Array:
        """a·(max(x) - v) for coefficients and logits."""
        return apply_weight(coefs, -self.shifted(values))

    def dense_sum(self) -> Array:
        return self._dense_sum

    def dense_cost(self) -> Array:
        return self._dense_cost

    def zero_where_masked(self, values: Array) -> Array:
        """Zero the values of all classes where the mask is False."""
        return zero_where_masked(values, self.labels.where)

    def coef_sum(self) -> Array:
        """A."""
        dense, one_hot, _ = self.labels
        return add(None if dense is None else self.dense_sum(), None if one_hot is None else one_hot.value)

    def coef_cost(self) -> Array:
        """T."""
        dense, one_hot, _ = self.labels
        return add(
            None if dense is None else self.dense_cost(),
            None if one_hot is None else self.cost(one_hot.value, at_label(self.x, one_hot.label, self.axis)),
        )


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
        jnp.maximum(left[0], right[0]),  # which propagates NaN; a select would not
        greater[1] + factor * (1.0 + lesser[1]),
        greater[2] + lesser[2],
        greater[3] + lesser[3] + apply_weight(lesser[2], distance),
    )


# --- The loss and its derivatives ---------------------------------------------------------------------------------


def softmax_losses(x: Array, labels: Labels, axis: int, cpu: type[Softmax]) -> Array:
    """ℓ(x, a), without the class axis; `cpu` computes the statistics on a CPU."""
    shape = x.shape
    if len(shape) >= 7:
        # Merge the axes around the classes: jaxlib 0.10.2 crashes on sums over them at rank 7 and above (jax#40412).
        def merged(array: Array) -> Array:
            return array.reshape(math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :]))

        (loss,) = _evaluate(cpu, [_LOSS], merged(x), jax.tree.map(merged, labels), 1)
    else:
        (loss,) = _evaluate(cpu, [_LOSS], x, labels, axis)
    return loss.reshape(*shape[:axis], *shape[axis + 1 :])


class _Jvp(NamedTuple):
    """Primals and tangents, of which None is zero; the slope, beside a loss whose logits have a tangent."""

    cpu: type[Softmax]
    x: Array
    labels: Labels
    axis: int
    x_tangent: Array | None
    dense_tangent: Array | None
    value_tangent: Array | None
    slope: Array | None


def _loss(softmax: Softmax) -> Array:
    loss = softmax.coef_sum() * jnp.log1p(softmax.sum_exp_rest) + softmax.coef_cost()
    return zero_where_masked(loss, softmax.labels.where)


def _loss_tangent(jvp: _Jvp) -> Array:
    labels, axis, dense, value = jvp.labels, jvp.axis, jvp.dense_tangent, jvp.value_tangent
    by_x = by_dense = by_value = None
    if jvp.x_tangent is not None and jvp.slope is not None:
        by_x = sum_classes(jvp.slope * jvp.x_tangent, axis)
    if dense is not None or value is not None:
        only_mask = Labels(None, None, labels.where)
        (cost,) = _evaluate(jvp.cpu, [_NEGATIVE_LOG_SOFTMAX], jvp.x, only_mask, axis)
        by_dense = None if dense is None else sum_classes(cost * dense, axis)
        if value is not None and labels.one_hot is not None:
            by_value = at_label(cost, labels.one_hot.label, axis) * value
    # Mask the tangent too: it may be NaN.
    return zero_where_masked(add(by_x, by_dense, by_value), labels.where)


def _slope(softmax: Softmax) -> Array:
    """∂ℓ/∂x_c = A·p_c - a_c = (A - a_c)·p_c - a_c·(1 - p_c), where no 1 - 1 loses the tail.

    Over the common denominator 1 + S, p_c is the exponential of the class, 1 - p_c the sum of the others.
    """
    x, labels, axis, rest = softmax.x, softmax.labels, softmax.axis, softmax.sum_exp_rest
    shifted, sum_exp = softmax.all_shifted(), 1.0 + softmax.sum_exp_rest
    if labels.dense is None and labels.one_hot is not None:
        value, label = labels.one_hot
        others = rest - (jnp.exp(softmax.shifted(at_label(x, label, axis))) - 1.0)
        is_label = class_iota(x, axis, label.dtype) == label
        slope = jnp.where(is_label, -value * (others / sum_exp), value / sum_exp * jnp.exp(shifted))
        return softmax.zero_where_masked(slope)
    exp_x, coefs = jnp.exp(shifted), labels.coefs(x, axis)
    others = jnp.where(shifted == 0.0, rest, sum_exp - exp_x)
    return softmax.zero_where_masked(((softmax.coef_sum() - coefs) * exp_x - coefs * others) / sum_exp)


def _slope_tangent(jvp: _Jvp) -> Array:
    x, labels, axis, value = jvp.x, jvp.labels, jvp.axis, jvp.value_tangent
    by_x = by_coefs = None
    if jvp.x_tangent is not None:
        dense = None if labels.dense is None else sum_classes(labels.dense, axis)
        by_x = add(dense, labels.one_hot and labels.one_hot.value) * _softmax_tangent(jvp)
    if jvp.dense_tangent is not None or value is not None:
        one_hot = None if value is None or labels.one_hot is None else OneHot(value, labels.one_hot.label)
        tangent = Labels(jvp.dense_tangent, one_hot, None).coefs(x, axis)
        (p,) = _evaluate(jvp.cpu, [_SOFTMAX], x, labels, axis)
        by_coefs = p * sum_classes(tangent, axis) - tangent
    return zero_where_masked(add(by_x, by_coefs), labels.where)


def _negative_log_softmax(softmax: Softmax) -> Array:
    """∂ℓ/∂a_c = -log p_c."""
    return softmax.zero_where_masked(jnp.log1p(softmax.sum_exp_rest) - softmax.shifted(softmax.x))


def _negative_log_softmax_tangent(jvp: _Jvp) -> Array:
    assert jvp.x_tangent is not None  # It depends on the logits alone.
    (p,) = _evaluate(jvp.cpu, [_SOFTMAX], jvp.x, jvp.labels, jvp.axis)
    return zero_where_masked(sum_classes(p * jvp.x_tangent, jvp.axis) - jvp.x_tangent, jvp.labels.where)


def _softmax(softmax: Softmax) -> Array:
    """p_c."""
    return softmax.zero_where_masked(jnp.exp(softmax.all_shifted()) / (1.0 + softmax.sum_exp_rest))


def _softmax_tangent(jvp: _Jvp) -> Array:
    """Σ_k ∂p_c/∂x_k·d_k = p_c·(d_c - Σ_k p_k·d_k).

    Shift d by its mean over the maxima: the result is invariant, and d_c - Σ p·d no longer cancels near p_c = 1.
    """
    assert jvp.x_tangent is not None  # It depends on the logits alone.
    axis = jvp.axis
    p, top = _evaluate(jvp.cpu, [_SOFTMAX, _TOP], jvp.x, jvp.labels, axis)
    shifted = jvp.x_tangent - sum_classes(top * jvp.x_tangent, axis) / jnp.maximum(sum_classes(top, axis), 1.0)
    return p * (shifted - sum_classes(p * shifted, axis))


def _top(softmax: Softmax) -> Array:
    """1 at the maxima, and 0 elsewhere."""
    return (softmax.all_shifted() == 0.0).astype(softmax.x.dtype)


# --- As programs --------------------------------------------------------------------------------------------------


class _Function(NamedTuple):
    """A function of logits and labels and its tangent; its result has a class axis of size 1, or all classes."""

    formula: Callable[[Softmax], Array]
    tangent: Callable[[_Jvp], Array]
    one_class: bool = False


_LOSS = _Function(_loss, _loss_tangent, one_class=True)
_SLOPE = _Function(_slope, _slope_tangent)
_NEGATIVE_LOG_SOFTMAX = _Function(_negative_log_softmax, _negative_log_softmax_tangent)
_SOFTMAX = _Function(_softmax, _softmax_tangent)
_TOP = _Function(_top, lambda jvp: jnp.zeros_like(jvp.x))


def _evaluate(cpu: type[Softmax], functions: Sequence[_Function], x: Array, labels: Labels, axis: int) -> list[Array]:
    leaves, structure = jax.tree.flatten((x, labels))
    return bind(SoftmaxProgram(cpu, tuple(functions), structure, axis), *leaves)


@dataclasses.dataclass(frozen=True)
class SoftmaxProgram(Program):
    """Functions of logits and labels as a program of their leaves, all of the rank of the logits."""

    softmax_on_cpu: type[Softmax]
    functions: tuple[_Function, ...]
    structure: Any
    axis: int

    def __repr__(self) -> str:
        return f"{', '.join(function.formula.__name__.strip('_') for function in self.functions)}; axis={self.axis}"

    def plain(self, *leaves: Array) -> list[Array]:
        x, labels = jax.tree.unflatten(self.structure, leaves)
        softmax = Softmax(x, labels, self.axis)
        return [function.formula(softmax) for function in self.functions]

    def cpu(self, *leaves: Array) -> list[Array]:
        # Give each statistics of its own: XLA would store what two of them shared.
        x, labels = jax.tree.unflatten(self.structure, leaves)
        return [function.formula(self.softmax_on_cpu(x, labels, self.axis)) for function in self.functions]

    def abstract_eval(self, x: Any, *_: Any) -> list[Any]:
        return [replace_axis(x, self.axis, 1) if function.one_class else x for function in self.functions]

    def jvp(self, leaves: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        x, labels = jax.tree.unflatten(self.structure, leaves)
        x_tangent, change = jax.tree.unflatten(self.structure, [tangents.get(i) for i in range(len(leaves))])
        # Compute a loss and its slope in one program, which reads the logits for both once.
        slopes = [_SLOPE] if _LOSS in self.functions and 0 in tangents else []
        values = _evaluate(self.softmax_on_cpu, [*self.functions, *slopes], x, labels, self.axis)
        value_tangent = None if change.one_hot is None else change.one_hot.value
        moving = x_tangent, change.dense, value_tangent, values[-1] if slopes else None
        jvp = _Jvp(self.softmax_on_cpu, x, labels, self.axis, *moving)
        return values[: len(self.functions)], [function.tangent(jvp) for function in self.functions]

    def batch(self, leaves: Sequence[Array], batched: tuple[bool, ...]) -> tuple[Program, Sequence[Array]]:
        if not batched[0]:
            return super().batch(leaves, batched)  # Broadcast logits would be stored.
        size = leaves[0].shape[0]
        every = [
            leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            for leaf, is_batched in zip(leaves, batched, strict=True)
        ]
        return dataclasses.replace(self, axis=self.axis + 1), every
