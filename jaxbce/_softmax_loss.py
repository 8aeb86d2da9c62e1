"""Cross-entropy of a softmax, over one axis of an array.

    ℓ(x, a) = -Σ_c a_c·log p_c,    p_c = exp(x_c) / Σ_k exp(x_k)
            = A·log1p(S) + Σ_c a_c·(max(x) - x_c)    with A = Σ_c a_c,  S = Σ_{c not the maximum} exp(x_c - max(x)).

For a ≥ 0 every term is non-negative, so nothing cancels, and `_softmax_rows` has S to all digits. 1 - p_c of the
maximum is S/(1 + S) for the same reason.

The coefficients a are those of `Labels`: a dense part and a spike at one class, which no one-hot array need hold.

An infinite maximum is a certain class. Several of them, or -inf in every class, are no distribution: NaN.
"""

import functools
import operator
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._numerics import included, product
from jaxbce._softmax_rows import Spike, at_class, below, exp_label, numbered, rows_of, total


class Labels(NamedTuple):
    """The coefficients a, as the sum of the parts that are there, and which entries are included.

    The mask has the rank of the logits, with one class. Where it is False, loss and derivatives are 0.
    """

    dense: Array | None
    spike: Spike | None
    where: Array | None


def _sum_of_coefficients(labels: Labels, axis: int) -> Array:
    """A."""
    parts = [] if labels.dense is None else [total(labels.dense, axis)]
    parts += [] if labels.spike is None else [labels.spike.height]
    return functools.reduce(operator.add, parts)


def _given(tangent: Any) -> TypeGuard[Array]:
    return tangent is not None and not isinstance(tangent, SymbolicZero)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_loss(x: Array, labels: Labels, axis: int) -> Array:
    """ℓ(x, a), without the axis of the classes."""
    greatest, reach, others = rows_of(x, labels.spike, axis)
    loss = _sum_of_coefficients(labels, axis) * jnp.log1p(others)
    if labels.dense is not None:
        loss += total(product(labels.dense, below(x, greatest, 0.125) * -reach), axis)
    if labels.spike is not None:
        target = at_class(x, labels.spike.at, axis)
        loss += product(labels.spike.height, below(target, greatest, 1.0) * -reach)
    return jnp.squeeze(included(loss, labels.where), axis)


@functools.partial(softmax_loss.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Labels], tangents: tuple[Any, Labels]) -> tuple[Array, Array]:
    (x, labels), (x_tangent, change) = primals, tangents
    terms = []
    if _given(x_tangent):
        terms += [total(_slope(x, labels, axis) * x_tangent, axis)]
    if _given(change.dense):
        terms += [total(_negative_log_softmax(x, labels.where, axis) * change.dense, axis)]
    if labels.spike is not None and change.spike is not None and _given(change.spike.height):
        each = _negative_log_softmax(x, labels.where, axis)
        terms += [at_class(each, labels.spike.at, axis) * change.spike.height]
    return softmax_loss(x, labels, axis), jnp.squeeze(functools.reduce(operator.add, terms), axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _negative_log_softmax(x: Array, where: Array | None, axis: int) -> Array:
    """∂ℓ/∂a_c = -log p_c."""
    greatest, reach, others = rows_of(x, None, axis)
    return _kept(jnp.log1p(others) - below(x, greatest, 1.0) * reach, where, axis)


@functools.partial(_negative_log_softmax.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Array | None], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (x, where), (direction, _) = primals, tangents
    change = total(_softmax(x, Labels(None, None, where), axis) * direction, axis) - direction
    return _negative_log_softmax(x, where, axis), _kept(change, where, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _slope(x: Array, labels: Labels, axis: int) -> Array:
    """∂ℓ/∂x_c = A·p_c - a_c = (A - a_c)·p_c - a_c·(1 - p_c), where no 1 - 1 loses the tail.

    With S + 1 as the common denominator, p_c is what the class itself adds to the sum, 1 - p_c the `rest` of it.
    """
    greatest, _, others = rows_of(x, labels.spike, axis)
    distance = below(x, greatest, 0.25)
    if labels.dense is None and labels.spike is not None:
        height, at = labels.spike
        rest = others - (exp_label(x, greatest, labels.spike, axis) - 1.0)
        at_label = -height * (rest / (1.0 + others))
        slope = jnp.where(_is_label(x, at, axis), at_label, height / (1.0 + others) * jnp.exp(distance))
        return _kept(slope, labels.where, axis)
    every, own = 1.0 + others, jnp.exp(distance)
    rest = jnp.where(distance == 0.0, others, every - own)
    coefficients = _coefficients(labels, x, axis)
    slope = ((_sum_of_coefficients(labels, axis) - coefficients) * own - coefficients * rest) / every
    return _kept(slope, labels.where, axis)


def _coefficients(labels: Labels, x: Array, axis: int) -> Array:
    """a_c, compared on the fly in whatever loop reads it."""
    dense = jnp.zeros_like(x) if labels.dense is None else labels.dense
    if labels.spike is None:
        return dense
    height, at = labels.spike
    return dense + jnp.where(_is_label(x, at, axis), height, jnp.zeros_like(height))


def _is_label(x: Array, at: Array, axis: int) -> Array:
    return numbered(x, axis, at.dtype) == at


def _kept(values: Array, where: Array | None, axis: int) -> Array:
    """Values by class, and 0 for the entries that the mask leaves out.

    An entry keeps its classes from `first` on, which is 0 if it is included, and beyond the last class if not. To
    compare the index of each class is faster than to broadcast the mask: over ten classes XLA on CPU needs half the
    time.
    """
    if where is None:
        return values
    first = jnp.where(where, 0, values.shape[axis])
    return jnp.where(numbered(values, axis, first.dtype) >= first, values, jnp.zeros_like(values))


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
        terms += [_kept(_softmax(x, labels, axis) * total(moved, axis) - moved, labels.where, axis)]
    return _slope(x, labels, axis), functools.reduce(operator.add, terms)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _softmax(x: Array, labels: Labels, axis: int) -> Array:
    """p_c."""
    greatest, _, others = rows_of(x, labels.spike, axis)
    return _kept(jnp.exp(below(x, greatest, 0.25)) / (1.0 + others), labels.where, axis)


@functools.partial(_softmax.defjvp, symbolic_zeros=True)
def _(axis: int, primals: tuple[Array, Labels], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (x, labels), (direction, _) = primals, tangents
    return _softmax(x, labels, axis), _softmax_change(x, labels, direction, axis)


def _softmax_change(x: Array, labels: Labels, direction: Array, axis: int) -> Array:
    """Σ_k ∂p_c/∂x_k·d_k = p_c·(d_c - Σ_k p_k·d_k).

    What is added to every d_k makes no difference, so that d is taken relative to its mean over the maxima, where p_c
    may be next to 1 and d_c - Σ_k p_k·d_k would cancel.
    """
    top = (below(x, rows_of(x, labels.spike, axis).greatest, 0.25) == 0.0).astype(x.dtype)
    p = _softmax(x, labels, axis)
    relative = direction - total(top * direction, axis) / jnp.maximum(total(top, axis), 1.0)
    return p * (relative - total(p * relative, axis))
