"""The softmax over an axis in two passes, the maximum first, with no select in what is reduced over the classes.

XLA on CPU then stores nothing of the size of the logits; the one pass of other platforms it runs entry by entry.
"""

import functools
import math
import operator
from collections.abc import Iterable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._core.numerics import nan_where
from jaxbce._core.softmax import Labels, OneHot, Softmax, class_iota, sum_classes
from jaxbce._cpu.elementwise import multiply_no_nan, splits_evenly

_FEW: Final = 24
"""Classes that are faster one by one than together: ten in a third of the time, sixty-four in the same."""


class TwoPasses(Softmax):
    """The statistics of a softmax, the maximum first.

    The loops over the classes that a loss and its slope run side by side have a scale each, a power of two: where two
    of them share a subexpression, even the mere broadcast of max(x), XLA stores it in the size of the logits, and is
    several times slower.
    """

    def __init__(self, x: Array, labels: Labels, axis: int) -> None:
        """Compute the maximum and S; the rest is lazy."""
        self.x, self.labels, self.axis = x, labels, axis
        self._max, self._overflow, self.sum_exp_rest = _softmax_stats(x, labels.one_hot, axis)

    def dense_sum(self) -> Array:
        assert self.labels.dense is not None
        return sum_classes(self.labels.dense, self.axis)

    def dense_cost(self) -> Array:
        assert self.labels.dense is not None
        return sum_classes(self._cost(self.labels.dense, self.x, 0.125), self.axis)

    def shifted(self, values: Array) -> Array:
        return _shift(values, self._max, 1.0) * self._overflow

    def all_shifted(self) -> Array:
        # Let no distance overflow: its exponential is 0 at a finite one, too.
        return _shift(self.x, self._max, 0.25)

    def cost(self, coefs: Array, values: Array) -> Array:
        return self._cost(coefs, values, 1.0)

    def _cost(self, coefs: Array, values: Array, scale: float) -> Array:
        return multiply_no_nan(coefs, _shift(values, self._max, scale) * -self._overflow)

    def zero_where_masked(self, values: Array) -> Array:
        """Keep the values of all classes where the mask is True, and 0 elsewhere.

        An entry keeps its classes from `first` on, which is 0 if it is included, and beyond the last class if not. To
        compare the index of each class takes half the time of a broadcast mask over ten classes.
        """
        if self.labels.where is None:
            return values
        first = jnp.where(self.labels.where, 0, values.shape[self.axis])
        return jnp.where(class_iota(values, self.axis, first.dtype) >= first, values, jnp.zeros_like(values))


def _parts(x: Array, axis: int) -> list[tuple[Array, Array | float]]:
    """Split the logits into single classes if they are few, each part with its class numbers."""
    classes, entries = x.shape[axis], x.size // jax.core.max_dim(x.shape[axis], 1)
    if isinstance(classes, int) and isinstance(entries, int) and classes <= _FEW and splits_evenly(entries):
        return [(jax.lax.index_in_dim(x, c, axis), float(c)) for c in range(classes)]
    return [(x, class_iota(x, axis, x.dtype))]


def _sum(terms: Iterable[Array], axis: int) -> Array:
    """The sum over the classes of all parts."""
    return functools.reduce(operator.add, (sum_classes(term, axis) for term in terms))


def _shift(x: Array, maximum: Array, scale: float) -> Array:
    """The distance x - max(x) ≤ 0, exact for a scale that is a power of two."""
    maximum = scale * maximum
    return (jnp.minimum(maximum, scale * x) - maximum) / scale


def _softmax_stats(x: Array, one_hot: OneHot | None, axis: int) -> tuple[Array, Array, Array]:
    """The maximum, or the largest finite number of its sign; the factor of distances to it; and S.

    The factor makes distances to an infinite maximum overflow to inf. With a class index S takes one exponential of
    each class.
    """
    parts, largest = _parts(x, axis), float(np.finfo(x.dtype).max)
    maximum = functools.reduce(jnp.maximum, (jnp.max(part, axis, keepdims=True) for part, _ in parts))
    finite_max = jnp.clip(maximum, -largest, largest)
    known = isinstance(x.shape[axis], int)  # and no symbol, while a function is exported
    if one_hot is not None and known and x.shape[axis] <= 1 / np.finfo(x.dtype).eps:
        at = one_hot.label.astype(x.dtype)
        # The distance of a class to the label is 0 or at least 1, and no exponential is more than 1.
        rest = _sum(
            (jnp.minimum(jnp.minimum(jnp.abs(at - number), 1.0), jnp.exp(part - finite_max)) for part, number in parts),
            axis,
        )
        # Take all of S from the rest where the label is the maximum; elsewhere the rest is at least 1.
        target = jnp.take_along_axis(x, one_hot.label, axis, mode="promise_in_bounds")
        label = jnp.exp(_shift(target, finite_max, 1.0))
        sum_exp_rest = jnp.where(label == 1.0, rest, rest + label - 1.0)
    else:
        # S + 1 with the k maxima in it, and S without any. Below 2 there is one maximum; above, S + 1 has all digits.
        every = _sum((jnp.exp(_shift(part, finite_max, 1.0)) for part, _ in parts), axis)
        distances = (_shift(part, finite_max, 0.5) for part, _ in parts)
        sum_exp_rest = jnp.where(every < 2.0, _sum((-jnp.sign(d) * jnp.exp(d) for d in distances), axis), every - 1.0)
    undefined = (maximum == -jnp.inf) | ((maximum == jnp.inf) & (sum_exp_rest != 0.0))
    # The least distance below the largest number, times its root, overflows; what a compiler makes of the root and the
    # other factors of a distance does not.
    overflow = jnp.where(maximum == jnp.inf, math.sqrt(largest), jnp.ones_like(maximum))
    # Divide by 1, or by the root where S is 0 or NaN, to block fusion: XLA would otherwise store the exponentials and
    # sum them once for each use of S.
    return finite_max, overflow, nan_where(undefined, sum_exp_rest) / overflow
