"""What a softmax needs to know of each entry, over one axis of an array that holds its classes.

    S = Σ_{c not the maximum} exp(x_c - max(x))

The 1 that the maximum contributes to the sum of exponentials stays out, so that a sure prediction keeps its small loss:
log(1 + S) would be 0 from S = 6e-8 on. Of k equal maxima, k - 1 count in S. What is reduced over the classes is made
without a select or a comparison: XLA on CPU then stores none of it.
"""

import functools
import math
import operator
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxbce._loops import class_by_class
from jaxbce._numerics import nan_where


class Spike(NamedTuple):
    """What one class of each entry has on top of the others. Arrays of the rank of the logits, with one class."""

    height: Array
    at: Array


class Rows(NamedTuple):
    """What a softmax needs to know of each entry. Arrays with one class."""

    greatest: Array  # max(x), or the largest finite number of its sign
    reach: Array  # multiplies max(x) - x, which overflows to inf where max(x) is infinite; else 1
    others: Array  # S


def total(values: Array, axis: int) -> Array:
    """The sum over the classes, as an array with one class."""
    return jnp.sum(values, axis, keepdims=True)


def _parts(x: Array, axis: int) -> list[tuple[Array, Array | float]]:
    """The logits as they are computed, class by class or all at once, each part with the numbers of its classes."""
    classes = x.shape[axis]
    if class_by_class(classes, x.size // jax.core.max_dim(classes, 1)):
        return [(jax.lax.index_in_dim(x, c, axis), float(c)) for c in range(classes)]
    return [(x, numbered(x, axis, x.dtype))]


def _sum(terms: Iterable[Array], axis: int) -> Array:
    """The sum over the classes of all parts."""
    return functools.reduce(operator.add, (total(term, axis) for term in terms))


def below(x: Array, greatest: Array, scale: float) -> Array:
    """The distance x - max(x) ≤ 0, exact for a scale that is a power of two.

    The loops over the classes that a loss and its slope run side by side have a scale each: where two of them share a
    subexpression, even the mere broadcast of max(x), XLA on CPU stores it in the size of the logits, and is several
    times slower.
    """
    greatest = scale * greatest
    return (jnp.minimum(greatest, scale * x) - greatest) / scale


def rows_of(x: Array, spike: Spike | None, axis: int) -> Rows:
    """The rows of x; with the label, where there is a spike, S takes one exponential of each class."""
    parts, largest = _parts(x, axis), float(np.finfo(x.dtype).max)
    maximum = functools.reduce(jnp.maximum, (jnp.max(part, axis, keepdims=True) for part, _ in parts))
    greatest = jnp.clip(maximum, -largest, largest)
    known = isinstance(x.shape[axis], int)  # and no symbol, while a function is exported
    if spike is not None and known and x.shape[axis] <= 1 / np.finfo(x.dtype).eps:
        at = spike.at.astype(x.dtype)
        # The distance of a class to the label is 0 or at least 1, and no exponential is more than 1.
        rest = _sum(
            (jnp.minimum(jnp.minimum(jnp.abs(at - number), 1.0), jnp.exp(part - greatest)) for part, number in parts),
            axis,
        )
        # Where the label is the maximum, the rest is all of S; where it is not, the rest is at least 1.
        label = exp_label(x, greatest, spike, axis)
        others = jnp.where(label == 1.0, rest, rest + label - 1.0)
    else:
        # S + 1 with the k maxima in it, and S without any. Below 2 there is one maximum; above, S + 1 has all digits.
        every = _sum((jnp.exp(below(part, greatest, 1.0)) for part, _ in parts), axis)
        distances = (below(part, greatest, 0.5) for part, _ in parts)
        others = jnp.where(every < 2.0, _sum((-jnp.sign(d) * jnp.exp(d) for d in distances), axis), every - 1.0)
    undefined = (maximum == -jnp.inf) | ((maximum == jnp.inf) & (others != 0.0))
    # The least distance below the largest number, times its root, overflows; what a compiler makes of the root and the
    # other factors of a distance does not.
    reach = jnp.where(maximum == jnp.inf, math.sqrt(largest), jnp.ones_like(maximum))
    # S is 0 or NaN where it is not divided by 1. XLA on CPU computes a division once for all that need it, and
    # otherwise would store the exponentials that S is made of, and add them up for each.
    return Rows(greatest, reach, nan_where(undefined, others) / reach)


def exp_label(x: Array, greatest: Array, spike: Spike, axis: int) -> Array:
    """exp(x_t - max(x)) for the label t."""
    return jnp.exp(below(at_class(x, spike.at, axis), greatest, 1.0))


def at_class(values: Array, index: Array, axis: int) -> Array:
    """The value of one class for each entry. The index is within bounds, and this spares the looking."""
    return jnp.take_along_axis(values, index, axis, mode="promise_in_bounds")


def numbered(x: Array, axis: int, dtype: DTypeLike) -> Array:
    """0, 1, ... along the axis of the classes."""
    return along(jnp.arange(x.shape[axis], dtype=dtype), x, axis)


def along(by_class: Array, x: Array, axis: int) -> Array:
    """A value for each class, as an array of the rank of x, with one entry."""
    return by_class.reshape([x.shape[a] if a == axis else 1 for a in range(x.ndim)])
