"""From losses to what is returned: weight, mask, and the one mean of the package, `Average`."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce import _alignment, _inputs, _numerics
from jaxbce._typing import ArrayLike, Axis, Reduction


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Average:
    """A mean that can be added up: the pair (Σ wℓ, Σ w).

    The mean of means is not the mean when batches, masks or devices hold different numbers of entries. Averages
    add: over batches with `+` or `sum`, over gradient accumulation steps, and over devices with `psum`. The
    quotient is taken once, at the end.

    Attributes:
        total: Σ wℓ over the included entries.
        weight: Σ w over the included entries; their number where no weight was given.
    """

    total: Array
    weight: Array

    @classmethod
    def of(
        cls, losses: ArrayLike, weight: ArrayLike | None = None, where: ArrayLike | None = None, axis: Axis = None
    ) -> "Average":
        """The average of an array.

        Args:
            losses: numbers of any shape and real dtype; bools and integers count as float32.
            weight: finite and ≥ 0, broadcasts to the shape of `losses`. None is 1.
            where: bool mask, broadcasts to the shape of `losses`. Masked entries may hold anything. Give it the mask
                that the losses were given: under "none" these read 0 where masked, and would count.
            axis: the axes to average over; None is all of them.

        Returns:
            `Average(Σ wℓ, Σ w)`, in at least float32. An empty array gives (0, 0), which adds nothing.

        Raises:
            TypeError: for a dtype that is not real, or a mask that is not bool.
            ValueError: for a shape that does not broadcast, an axis that is not there, a weight that is negative or
                infinite.

        Example:
            >>> batches = [jnp.array([1.0, 2.0, 3.0]), jnp.array([10.0])]
            >>> float(sum(Average.of(batch) for batch in batches).value)
            4.0
            >>> float(Average.of(batches[0], where=jnp.array([True, True, False])).value)
            1.5
        """
        array = _inputs.admit_values("Average.of", "losses", losses)
        target = _inputs.Target("Average.of", "losses", array)
        mask = _inputs.admit_mask(target, where)
        weights = _inputs.admit_weight(target, "weight", weight, mask)
        axes = admit_axis(target.function, axis, array.ndim)
        if mask is not None:
            mask = _alignment.spread(mask, array)
        values = _alignment.fit(array, array, mask, 0.0)
        return _average(values, _alignment.fit_weight(weights, array, mask), mask, axes)

    def __add__(self, other: "Average") -> "Average":
        if not isinstance(other, Average):
            return NotImplemented
        if jnp.shape(self.total) != jnp.shape(other.total):
            shapes = f"{jnp.shape(self.total)} and {jnp.shape(other.total)}"
            raise ValueError(f"Average: averages add if their shapes are the same, got {shapes}. Did an axis differ?")
        return Average(self.total + other.total, self.weight + other.weight)

    def __radd__(self, other: int) -> "Average":
        # The built-in `sum` starts at 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def psum(self, axis_name: str | Sequence[str]) -> "Average":
        """The average over all devices (or mapped instances) of `axis_name`, inside `shard_map`, `pmap` or `vmap`."""
        return Average(jax.lax.psum(self.total, axis_name), jax.lax.psum(self.weight, axis_name))

    @property
    def value(self) -> Array:
        """Σ wℓ / Σ w; 0, with zero gradient, where nothing was included; NaN where Σ w has overflowed."""
        nothing, overflow = self.weight == 0, self.weight == jnp.inf
        return jnp.where(overflow, jnp.nan, self.total / jnp.where(nothing, 1, self.weight))


def admit_reduction(function: str, reduction: Reduction, axis: Axis, ndim: int) -> tuple[int, ...] | None:
    """Check the two options that say how to reduce; returns the axes."""
    choices = get_args(Reduction)
    if not isinstance(reduction, str) or reduction not in choices:
        raise ValueError(f"{function}: reduction must be one of {', '.join(map(repr, choices))}, got {reduction!r}.")
    if reduction == "none" and axis is not None:
        raise ValueError(f"{function}: reduction='none' reduces no axis, got axis={axis}; leave one of the two out.")
    return admit_axis(function, axis, ndim)


def admit_axis(function: str, axis: Axis, ndim: int) -> tuple[int, ...] | None:
    """The axes as a tuple of indices in [0, ndim); None, for all of them, stays None."""
    if axis is None:
        return None
    try:
        axes = tuple(map(operator.index, axis if isinstance(axis, tuple | list) else [axis]))
    except TypeError:
        raise TypeError(f"{function}: axis must be None, an integer or several, got {axis!r}.") from None
    if any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"{function}: axis must lie in [{-ndim}, {ndim}) for an array of {ndim} axes, got {axis}.")
    if len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"{function}: axis names an axis twice, got {axis}.")
    return tuple(a % ndim for a in axes)


def reduce(
    losses: Array, weight: Array | None, where: Array | None, axis: tuple[int, ...] | None, reduction: Reduction
) -> Array:
    """Weigh, mask and reduce losses whose weight and mask are of their shape and whose masked entries are finite."""
    if reduction == "weighted_mean":
        average = _average(losses, weight, where, axis)
    else:
        losses = losses if weight is None else _numerics.product(weight, losses)
        if reduction == "none":
            return _included(losses, where)
        average = _average(losses, None, where, axis)
    if reduction == "sum":
        return average.total
    if _number(losses, axis) == 0:
        return jnp.full_like(average.total, jnp.nan)  # The mean of an empty array, as in NumPy and PyTorch.
    return average.value


def _average(losses: Array, weight: Array | None, where: Array | None, axis: tuple[int, ...] | None) -> Average:
    if weight is None:
        total = _sum(_included(losses, where), axis)
        if where is None:
            return Average(total, jnp.full_like(total, _number(losses, axis)))
        return Average(total, _sum(where.astype(losses.dtype), axis))
    return Average(
        _sum(_included(_numerics.product(weight, losses), where), axis), _sum(_included(weight, where), axis)
    )


def _sum(values: Array, axis: tuple[int, ...] | None) -> Array:
    if values.ndim < 7:
        return jnp.sum(values, axis)
    # XLA on CPU (jaxlib 0.10.2) crashes on reductions of rank 7 with an axis of size 1 (jax#40412): without those.
    axes = tuple(range(values.ndim)) if axis is None else axis
    wide = [a for a in range(values.ndim) if values.shape[a] != 1]
    narrow = [a for a in range(values.ndim) if a not in wide]
    total = jnp.sum(jnp.squeeze(values, narrow), tuple(wide.index(a) for a in axes if a in wide))
    return total.reshape([values.shape[a] for a in range(values.ndim) if a not in axes])


def _included(values: Array, where: Array | None) -> Array:
    return values if where is None else jnp.where(where, values, jnp.zeros_like(values))


def _number(losses: Array, axis: tuple[int, ...] | None) -> int:
    """How many entries are reduced into one."""
    return math.prod(losses.shape if axis is None else (losses.shape[a] for a in axis))
