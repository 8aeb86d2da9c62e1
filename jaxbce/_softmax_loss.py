"""Cross-entropy of a softmax, over one axis of an array.

    ℓ(x, a) = -Σ_c a_c·log p_c,    p_c = exp(x_c) / Σ_k exp(x_k)
            = A·log1p(S) + T

with A = Σ_c a_c, T = Σ_c a_c·(max(x) - x_c) and S = Σ_{c not the maximum} exp(x_c - max(x)).

For a ≥ 0 every term is non-negative, so nothing cancels. The 1 that the maximum contributes to the sum of exponentials
stays out of S, so that a sure prediction keeps its small loss: log(1 + S) would be 0 from S = 6e-8 on. Of k equal
maxima, k - 1 count in S. 1 - p_c of the maximum is S/(1 + S) for the same reason.

The coefficients a are those of `Labels`: a dense part and a spike at one class, which no one-hot array need hold. An
infinite maximum is a certain class. Several of them, or -inf in every class, are no distribution: NaN.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbce import _cpu
from jaxbce._numerics import included, nan_where, weigh
from jaxbce._program import Program, ToFront, run


class Spike(NamedTuple):
    """The coefficient `height` of one class `at` of each entry. Arrays of the rank of the logits, with one class."""

    height: Array
    at: Array


class Labels(NamedTuple):
    """The coefficients a, as the sum of the parts that are there, and which entries are included.

    The mask has the rank of the logits, with one class. Where it is False, loss and derivatives are 0.
    """

    dense: Array | None
    spike: Spike | None
    where: Array | None


class Softmax(Protocol):
    """Statistics of the softmax that losses read. Arrays have one class, but where it is said."""

    x: Array
    labels: Labels
    axis: int
    rest: Array
    """S."""

    @property
    def dense_sum(self) -> Array:
        """A of the dense part of the labels."""

    @property
    def dense_cost(self) -> Array:
        """T of the dense part of the labels."""

    def distance(self, values: Array) -> Array:
        """Logits, of whatever classes, minus the maximum: ≤ 0."""

    def distances(self) -> Array:
        """Those of all classes, for what is not reduced over them."""

    def cost(self, coefficients: Array, values: Array) -> Array:
        """a·(max(x) - v) for coefficients and logits."""

    def keep(self, values: Array) -> Array:
        """Values by class, and 0 for the entries that the mask leaves out."""


class OnePass:
    """The maximum, S, and A and T of the dense part, in one reduction, which reads the logits once."""

    def __init__(self, x: Array, labels: Labels, axis: int) -> None:
        """Reduce over the classes."""
        self.x, self.labels, self.axis = x, labels, axis
        zeros = jnp.zeros_like(x)
        dense = zeros if labels.dense is None else jnp.broadcast_to(labels.dense, x.shape)
        start = [jnp.asarray(value, x.dtype) for value in (-jnp.inf, 0.0, 0.0, 0.0)]
        parts = jax.lax.reduce([x, zeros, dense, zeros], start, _join, [axis])
        self._maximum, rest, self.dense_sum, self.dense_cost = (jnp.expand_dims(part, axis) for part in parts)
        self.rest = nan_where(self._maximum == -jnp.inf, rest)

    def distance(self, values: Array) -> Array:
        # An infinite maximum is at no distance of itself.
        return jnp.where(values == self._maximum, 0.0, values - self._maximum)

    def distances(self) -> Array:
        return self.distance(self.x)

    def cost(self, coefficients: Array, values: Array) -> Array:
        return weigh(coefficients, -self.distance(values))

    def keep(self, values: Array) -> Array:
        return included(values, self.labels.where)


def _join(left: list[Array], right: list[Array]) -> tuple[Array, ...]:
    """(max, S, A, T) of two sets of classes together, from those of each."""
    left_is_greater = left[0] >= right[0]
    greater, lesser = (
        [jnp.where(left_is_greater, *pair) for pair in zip(*sides, strict=True)]
        for sides in ((left, right), (right, left))
    )
    # -inf is the start, too, and has no exponentials.
    factor = jnp.where(lesser[0] == -jnp.inf, 0.0, jnp.exp(lesser[0] - greater[0]))
    distance = jnp.where(lesser[0] == greater[0], 0.0, greater[0] - lesser[0])
    return (
        # Not that of a select: NaN is greater than nothing.
        jnp.maximum(left[0], right[0]),
        greater[1] + factor * (1.0 + lesser[1]),
        greater[2] + lesser[2],
        greater[3] + lesser[3] + weigh(lesser[2], distance),
    )


# --- The loss and its derivatives, closed under differentiation ---------------------------------------------------


class _Moving(NamedTuple):
    """Arguments and tangents, of which None is 0; beside a loss its slope."""

    x: Array
    labels: Labels
    axis: int
    x_tangent: Array | None
    dense_tangent: Array | None
    height_tangent: Array | None
    slope: Array | None


def softmax_loss(x: Array, labels: Labels, axis: int) -> Array:
    """ℓ(x, a), without the axis of the classes."""
    (loss,) = _call([_LOSS], x, labels, axis)
    return jnp.squeeze(loss, axis)


def _loss(softmax: Softmax) -> Array:
    labels = softmax.labels
    loss = _sum_of_coefficients(softmax) * jnp.log1p(softmax.rest)
    if labels.dense is not None:
        loss += softmax.dense_cost
    if labels.spike is not None:
        loss += softmax.cost(labels.spike.height, at_class(softmax.x, labels.spike.at, softmax.axis))
    return included(loss, labels.where)


def _change_of_loss(moving: _Moving) -> Array:
    x, labels, axis, x_tangent, dense, height, slope = moving
    terms = [] if x_tangent is None or slope is None else [total(slope * x_tangent, axis)]
    if dense is not None or height is not None:
        (each,) = _call([_NEGATIVE_LOG_SOFTMAX], x, Labels(None, None, labels.where), axis)
        terms += [] if dense is None else [total(each * dense, axis)]
        terms += [] if height is None or labels.spike is None else [at_class(each, labels.spike.at, axis) * height]
    return included(functools.reduce(operator.add, terms), labels.where)  # A tangent may be NaN under the mask, too.


def _slope(softmax: Softmax) -> Array:
    """∂ℓ/∂x_c = A·p_c - a_c = (A - a_c)·p_c - a_c·(1 - p_c), where no 1 - 1 loses the tail.

    With S + 1 as the common denominator, p_c is what the class itself adds to the sum, 1 - p_c the `rest` of it.
    """
    x, labels, axis = softmax.x, softmax.labels, softmax.axis
    distance, every = softmax.distances(), 1.0 + softmax.rest
    if labels.dense is None and labels.spike is not None:
        height, at = labels.spike
        rest = softmax.rest - (jnp.exp(softmax.distance(at_class(x, at, axis))) - 1.0)
        slope = jnp.where(_is_label(x, at, axis), -height * (rest / every), height / every * jnp.exp(distance))
        return softmax.keep(slope)
    own = jnp.exp(distance)
    rest = jnp.where(distance == 0.0, softmax.rest, every - own)
    coefficients = _coefficients(labels, x, axis)
    return softmax.keep(((_sum_of_coefficients(softmax) - coefficients) * own - coefficients * rest) / every)


def _change_of_slope(moving: _Moving) -> Array:
    x, labels, axis, x_tangent, dense, height, _ = moving
    terms = []
    if x_tangent is not None:
        parts = [] if labels.dense is None else [total(labels.dense, axis)]
        parts += [] if labels.spike is None else [labels.spike.height]
        terms += [functools.reduce(operator.add, parts) * _change_of_softmax(moving)]
    if dense is not None or height is not None:
        spike = None if height is None or labels.spike is None else Spike(height, labels.spike.at)
        moved = _coefficients(Labels(dense, spike, None), x, axis)
        (p,) = _call([_SOFTMAX], x, labels, axis)
        terms += [p * total(moved, axis) - moved]
    return included(functools.reduce(operator.add, terms), labels.where)


def _negative_log_softmax(softmax: Softmax) -> Array:
    """∂ℓ/∂a_c = -log p_c."""
    return softmax.keep(jnp.log1p(softmax.rest) - softmax.distance(softmax.x))


def _change_of_negative_log_softmax(moving: _Moving) -> Array:
    x, labels, axis, direction, *_ = moving
    assert direction is not None  # There is no other argument that could move.
    (p,) = _call([_SOFTMAX], x, labels, axis)
    return included(total(p * direction, axis) - direction, labels.where)


def _softmax(softmax: Softmax) -> Array:
    """p_c."""
    return softmax.keep(jnp.exp(softmax.distances()) / (1.0 + softmax.rest))


def _change_of_softmax(moving: _Moving) -> Array:
    """Σ_k ∂p_c/∂x_k·d_k = p_c·(d_c - Σ_k p_k·d_k).

    What is added to every d_k makes no difference, so that d is taken relative to its mean over the maxima, where p_c
    may be next to 1 and d_c - Σ_k p_k·d_k would cancel.
    """
    x, labels, axis, direction, *_ = moving
    assert direction is not None
    p, top = _call([_SOFTMAX, _TOP], x, labels, axis)
    relative = direction - total(top * direction, axis) / jnp.maximum(total(top, axis), 1.0)
    return p * (relative - total(p * relative, axis))


def _top(softmax: Softmax) -> Array:
    """1 at the maxima, and 0 elsewhere."""
    return (softmax.distances() == 0.0).astype(softmax.x.dtype)


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
    return run(_Rows(tuple(functions), structure, axis), *leaves)


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
        # Each by itself: what two of them shared would be stored.
        x, labels = jax.tree.unflatten(self.structure, leaves)
        return [function.formula(_cpu.TwoPasses(x, labels, self.axis)) for function in self.functions]

    def results(self, x: Any, *_: Any) -> list[Any]:
        return [one_class(x, self.axis) if function.one_class else x for function in self.functions]

    def differentiate(self, leaves: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        x, labels = jax.tree.unflatten(self.structure, leaves)
        x_tangent, change = jax.tree.unflatten(self.structure, [tangents.get(i) for i in range(len(leaves))])
        height = None if change.spike is None else change.spike.height
        # A loss and its slope are one program, which needs to read the logits for both once.
        together = [*self.functions, *([_SLOPE] if _LOSS in self.functions and 0 in tangents else [])]
        values = _call(together, x, labels, self.axis)
        slope = values[-1] if together[-1] is _SLOPE else None
        moving = _Moving(x, labels, self.axis, x_tangent, change.dense, height, slope)
        return values[: len(self.functions)], [function.change(moving) for function in self.functions]

    def batch(self, leaves: Sequence[Array], axes: Sequence[int | None], to_front: ToFront) -> Any:
        return dataclasses.replace(self, axis=self.axis + 1), list(map(to_front, leaves, axes))


# --- Arrays of classes --------------------------------------------------------------------------------------------


def one_class(aval: Any, axis: int) -> Any:
    """The type of an array with one class in the place of all."""
    shape = tuple(1 if a == axis else n for a, n in enumerate(aval.shape))
    spec = jax.sharding.PartitionSpec(*(None if a == axis else names for a, names in enumerate(aval.sharding.spec)))
    return aval.update(shape=shape, sharding=jax.sharding.NamedSharding(aval.sharding.mesh, spec))


def total(values: Array, axis: int) -> Array:
    """The sum over the classes, as an array with one class."""
    return jnp.sum(values, axis, keepdims=True)


def at_class(values: Array, index: Array, axis: int) -> Array:
    """The value of one class for each entry. The index is within bounds, and this spares the looking."""
    return jnp.take_along_axis(values, index, axis, mode="promise_in_bounds")


def along(by_class: Array, x: Array, axis: int) -> Array:
    """A value for each class, as an array of the rank of x, with one entry."""
    return by_class.reshape([x.shape[a] if a == axis else 1 for a in range(x.ndim)])


def _numbered(x: Array, axis: int, dtype: DTypeLike) -> Array:
    """0, 1, ... along the axis of the classes."""
    return along(jnp.arange(x.shape[axis], dtype=dtype), x, axis)


def _is_label(x: Array, at: Array, axis: int) -> Array:
    return _numbered(x, axis, at.dtype) == at


def _sum_of_coefficients(softmax: Softmax) -> Array:
    """A."""
    labels = softmax.labels
    parts = [] if labels.dense is None else [softmax.dense_sum]
    parts += [] if labels.spike is None else [labels.spike.height]
    return functools.reduce(operator.add, parts)


def _coefficients(labels: Labels, x: Array, axis: int) -> Array:
    """a_c, compared on the fly in whatever loop reads it."""
    dense = jnp.zeros_like(x) if labels.dense is None else labels.dense
    if labels.spike is None:
        return dense
    height, at = labels.spike
    return dense + jnp.where(_is_label(x, at, axis), height, jnp.zeros_like(height))
