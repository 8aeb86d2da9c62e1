"""Cross-entropy of a softmax, over one axis of an array.

    ℓ(x, a) = -Σ_c a_c·log p_c,    p_c = exp(x_c) / Σ_k exp(x_k)
            = A·log1p(S) + Σ_c a_c·(max(x) - x_c)    with A = Σ_c a_c,  S = Σ_{c not the maximum} exp(x_c - max(x)).

For a ≥ 0 every term is non-negative, so nothing cancels; and the 1 that the maximum contributes to the sum of
exponentials stays out of it, so that a sure prediction keeps its small loss: log(1 + S) would be 0 from S = 6e-8 on.
1 - p_c of the maximum is S/(1 + S) for the same reason. Of k equal maxima, k - 1 count in S.

The coefficients a are those of `Labels`: a dense part and a spike at one class, which no one-hot array need hold. What
is reduced over the classes is made of arithmetic, `minimum` and `sign` alone: XLA on CPU then stores none of it.

An infinite maximum is a certain class. Several of them, or -inf in every class, are no distribution: NaN.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike

from jaxbce._loops import class_by_class
from jaxbce._numerics import included, product


class Spike(NamedTuple):
    """What one class of each entry has on top of the others. Arrays of the rank of the logits, with one class."""

    height: Array
    at: Array


class Labels(NamedTuple):
    """The coefficients a, as the sum of the parts that are there, and which entries are included.

    The mask has the rank of the logits, with one class. Where it is False, loss and derivatives are 0.
    """

    dense: Array | None
    spike: Spike | None
    where: Array | None


class _Rows(NamedTuple):
    """What a softmax needs to know of each entry. Arrays with one class."""

    greatest: Array  # max(x), or the largest finite number of its sign
    reach: Array  # multiplies max(x) - x: 2, which overflows to inf, where max(x) is infinite; else 1
    others: Array  # S


def _total(values: Array, axis: int) -> Array:
    return jnp.sum(values, axis, keepdims=True)


def _parts(x: Array, axis: int) -> list[tuple[Array, Array | float]]:
    """The logits as they are computed, class by class or all at once, each part with the numbers of its classes."""
    classes = x.shape[axis]
    if class_by_class(classes, x.size // jax.core.max_dim(classes, 1)):
        return [(jax.lax.index_in_dim(x, c, axis), float(c)) for c in range(classes)]
    return [(x, _classes(x, axis, x.dtype))]


def _sum(terms: Iterable[Array], axis: int) -> Array:
    """The sum over the classes of all parts."""
    return functools.reduce(operator.add, (_total(term, axis) for term in terms))


def _below(x: Array, greatest: Array, scale: float) -> Array:
    """The distance x - max(x) ≤ 0, exact for a scale that is a power of two.

    The loops over the classes that a loss and its slope run side by side have a scale each: where two of them share a
    subexpression, if only the broadcast of max(x), XLA on CPU stores it in the size of the logits, and is several times
    slower.
    """
    greatest = scale * greatest
    return (jnp.minimum(scale * x, greatest) - greatest) / scale


def _rows(x: Array, spike: Spike | None, axis: int) -> _Rows:
    parts, largest = _parts(x, axis), float(np.finfo(x.dtype).max)
    maximum = functools.reduce(jnp.maximum, (jnp.max(part, axis, keepdims=True) for part, _ in parts))
    greatest = jnp.clip(maximum, -largest, largest)
    known = isinstance(x.shape[axis], int)  # and no symbol, while a function is exported
    if spike is not None and known and x.shape[axis] <= 1 / np.finfo(x.dtype).eps:
        at = spike.at.astype(x.dtype)
        # The distance of a class to the label is 0 or at least 1, and so at least the exponential.
        rest = _sum(
            (jnp.minimum(jnp.minimum(jnp.exp(part - greatest), 1.0), jnp.abs(at - number)) for part, number in parts),
            axis,
        )
        # Where the label is the maximum, the rest is all of S; where it is not, the rest is at least 1.
        label = _exp_label(x, greatest, spike, axis)
        others = jnp.where(label == 1.0, rest, rest + label - 1.0)
    else:
        # S + 1 with the k maxima in it, and S without any. Below 2 there is one maximum; above, S + 1 has all digits.
        every = _sum((jnp.exp(_below(part, greatest, 1.0)) for part, _ in parts), axis)
        below = (_below(part, greatest, 0.5) for part, _ in parts)
        others = jnp.where(every < 2.0, _sum((-jnp.sign(d) * jnp.exp(d) for d in below), axis), every - 1.0)
    undefined = (maximum == -jnp.inf) | ((maximum == jnp.inf) & (others != 0.0))
    reach = jnp.where(maximum == jnp.inf, 2.0, jnp.ones_like(maximum))
    # S is 0 or NaN where it is not divided by 1. XLA on CPU computes a division once for all that need it, and
    # otherwise would store the exponentials that S is made of, and add them up for each.
    return _Rows(greatest, reach, jnp.where(undefined, jnp.nan, others) / reach)


def _exp_label(x: Array, greatest: Array, spike: Spike, axis: int) -> Array:
    """exp(x_t - max(x)) for the label t."""
    return jnp.exp(_below(_at(x, spike.at, axis), greatest, 1.0))


def _sum_of_coefficients(labels: Labels, axis: int) -> Array:
    """A."""
    parts = [] if labels.dense is None else [_total(labels.dense, axis)]
    parts += [] if labels.spike is None else [labels.spike.height]
    return functools.reduce(operator.add, parts)


def _given(tangent: Any) -> TypeGuard[Array]:
    return tangent is not None and not isinstance(tangent, SymbolicZero)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_loss(x: Array, labels: Labels, axis: int) -> Array:
    """ℓ(x, a), without the axis of the classes."""
    greatest, reach, others = _rows(x, labels.spike, axis)
    loss = _sum_of_coefficients(labels, axis) * jnp.log1p(others)
    if labels.dense is not None:
        loss += _total(product(labels.dense, _below(x, greatest, 0.125) * -reach), axis)
    if labels.spike is not None:
        target = _at(x, labels.spike.at, axis)
        loss += product(labels.spike.height, _below(target, greatest, 1.0) * -reach)
    return jnp.squeeze(included(loss, labels.where), axis)


@functools.partial(softmax_loss.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Labels], tangents: tuple[Any, Labels]) -> tuple[Array, Array]:
    (x, labels), (x_tangent, change) = primals, tangents
    terms = []
    if _given(x_tangent):
        terms += [_total(_slope(x, labels, axis) * x_tangent, axis)]
    if _given(change.dense):
        terms += [_total(_negative_log_softmax(x, labels.where, axis) * change.dense, axis)]
    if labels.spike is not None and change.spike is not None and _given(change.spike.height):
        each = _negative_log_softmax(x, labels.where, axis)
        terms += [_at(each, labels.spike.at, axis) * change.spike.height]
    return softmax_loss(x, labels, axis), jnp.squeeze(functools.reduce(operator.add, terms), axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _negative_log_softmax(x: Array, where: Array | None, axis: int) -> Array:
    """∂ℓ/∂a_c = -log p_c."""
    greatest, reach, others = _rows(x, None, axis)
    return _kept(jnp.log1p(others) - _below(x, greatest, 1.0) * reach, where, axis)


@functools.partial(_negative_log_softmax.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Array | None], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (x, where), (direction, _) = primals, tangents
    change = _total(_softmax(x, Labels(None, None, where), axis) * direction, axis) - direction
    return _negative_log_softmax(x, where, axis), _kept(change, where, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slope(x: Array, labels: Labels, axis: int) -> Array:
    """∂ℓ/∂x_c = A·p_c - a_c = (A - a_c)·p_c - a_c·(1 - p_c), where no 1 - 1 loses the tail.

    With S + 1 as the common denominator, p_c is what the class itself adds to the sum, 1 - p_c the `rest` of it.
    """
    greatest, _, others = _rows(x, labels.spike, axis)
    below = _below(x, greatest, 0.25)
    if labels.dense is None and labels.spike is not None:
        height, at = labels.spike
        rest = others - (_exp_label(x, greatest, labels.spike, axis) - 1.0)
        at_label = -height * (rest / (1.0 + others))
        slope = jnp.where(_classes(x, axis, at.dtype) == at, at_label, height / (1.0 + others) * jnp.exp(below))
        return _kept(slope, labels.where, axis)
    every, own = 1.0 + others, jnp.exp(below)
    rest = jnp.where(below == 0.0, others, every - own)
    coefficients = _coefficients(labels, x, axis)
    slope = ((_sum_of_coefficients(labels, axis) - coefficients) * own - coefficients * rest) / every
    return _kept(slope, labels.where, axis)


def _coefficients(labels: Labels, x: Array, axis: int) -> Array:
    """a_c, compared on the fly in whatever loop reads it."""
    dense = jnp.zeros_like(x) if labels.dense is None else labels.dense
    if labels.spike is None:
        return dense
    height, at = labels.spike
    return dense + jnp.where(_classes(x, axis, at.dtype) == at, height, jnp.zeros_like(height))


def _kept(values: Array, where: Array | None, axis: int) -> Array:
    """Values by class, and 0 where the mask leaves an entry out, which keeps its classes from `first` on.

    To compare the index of each class is faster than to broadcast the mask: over ten classes XLA on CPU needs half the
    time.
    """
    if where is None:
        return values
    first = jnp.where(where, 0, values.shape[axis])
    return jnp.where(_classes(values, axis, first.dtype) >= first, values, jnp.zeros_like(values))


def _at(values: Array, index: Array, axis: int) -> Array:
    """The value of one class for each entry. The index is within bounds, and this spares the looking."""
    return jnp.take_along_axis(values, index, axis, mode="promise_in_bounds")


def _classes(x: Array, axis: int, dtype: DTypeLike) -> Array:
    """0, 1, ... along the axis of the classes."""
    return jnp.arange(x.shape[axis], dtype=dtype).reshape([x.shape[a] if a == axis else 1 for a in range(x.ndim)])


@functools.partial(_slope.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Labels], tangents: tuple[Any, Labels]) -> tuple[Array, Array]:
    (x, labels), (x_tangent, change) = primals, tangents
    terms = []
    if _given(x_tangent):
        terms += [_sum_of_coefficients(labels, axis) * _softmax_change(x, labels, x_tangent, axis)]
    dense, spike = change.dense if _given(change.dense) else None, None
    if labels.spike is not None and change.spike is not None and _given(change.spike.height):
        spike = Spike(change.spike.height, labels.spike.at)
    if dense is not None or spike is not None:
        moved = _coefficients(Labels(dense, spike, None), x, axis)
        terms += [_kept(_softmax(x, labels, axis) * _total(moved, axis) - moved, labels.where, axis)]
    return _slope(x, labels, axis), functools.reduce(operator.add, terms)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _softmax(x: Array, labels: Labels, axis: int) -> Array:
    """p_c."""
    greatest, _, others = _rows(x, labels.spike, axis)
    return _kept(jnp.exp(_below(x, greatest, 0.25)) / (1.0 + others), labels.where, axis)


@functools.partial(_softmax.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Labels], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (x, labels), (direction, _) = primals, tangents
    return _softmax(x, labels, axis), _softmax_change(x, labels, direction, axis)


def _softmax_change(x: Array, labels: Labels, direction: Array, axis: int) -> Array:
    """Σ_k ∂p_c/∂x_k·d_k = p_c·(d_c - Σ_k p_k·d_k).

    What is added to every d_k makes no difference, so that d is taken relative to its mean over the maxima, where p_c
    may be next to 1 and d_c - Σ_k p_k·d_k would cancel.
    """
    top = (_below(x, _rows(x, labels.spike, axis).greatest, 0.25) == 0.0).astype(x.dtype)
    p = _softmax(x, labels, axis)
    relative = direction - _total(top * direction, axis) / jnp.maximum(_total(top, axis), 1.0)
    return p * (relative - _total(p * relative, axis))
