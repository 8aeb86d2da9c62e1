"""From losses to what is returned: weight, mask, and the one mean of the package, `Average`."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbce import _cpu
from jaxbce._alignment import fit, guard, spread
from jaxbce._inputs import Target, admit_mask, admit_values, admit_weight
from jaxbce._manual_axes import admit_axes, alike, sum_over
from jaxbce._numerics import included, nan_where, weigh
from jaxbce._options import admit_axis
from jaxbce._typing import ArrayLike, Axis, AxisName, Reduction


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
        cls, losses: ArrayLike, *, weight: ArrayLike | None = None, where: ArrayLike | None = None, axis: Axis = None
    ) -> "Average":
        """The average of an array.

        Args:
            losses: numbers of any shape and real dtype; bools and integers count as float32. A weight of 0 leaves no
                trace of inf; 0·(-inf) is NaN.
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
        array = admit_values("Average.of", "losses", losses)
        target = Target("Average.of", "losses", array)
        mask = admit_mask(target, where)
        weights = admit_weight(target, "weight", weight, mask)
        average: Average = _average_of(array, weights, mask, axis=admit_axis(target.function, axis, array.ndim))
        return average

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

    def psum(self, axis_name: AxisName) -> "Average":
        """The average over all devices (or mapped instances) of `axis_name`, inside `shard_map`, `pmap` or `vmap`.

        Raises:
            TypeError: for what is no name.
            ValueError: for an axis that is not mapped where it is called, or named twice.

        Example:
            >>> shards = jnp.array([[1.0, 2.0], [3.0, 10.0]])
            >>> averages = jax.vmap(lambda shard: Average.of(shard).psum("shard"), axis_name="shard")(shards)
            >>> print(averages.value)
            [4. 4.]
        """
        if axis_name is None:
            raise TypeError(
                "Average.psum: axis_name must be the name of a mapped axis or several names, got None. "
                "Where nothing is mapped, leave psum out."
            )
        axes = admit_axes("Average.psum", "axis_name", axis_name)
        return Average(sum_over(self.total, axes), sum_over(self.weight, axes))

    @property
    def value(self) -> Array:
        """Σ wℓ / Σ w; 0, with zero gradient in ℓ, where nothing was included; NaN where Σ w has overflowed."""
        nothing, overflow = self.weight == 0, self.weight == jnp.inf
        quotient = self.total / jnp.where(nothing, 1, self.weight)
        # Label smoothing leaves a total where the weight, which is that of the labels before it, is 0.
        left = nothing & (quotient != 0) & ~jnp.isnan(quotient)
        return nan_where(overflow, jnp.where(left, 0, quotient))


@functools.partial(jax.jit, static_argnames="axis")
def _average_of(losses: Array, weight: Array | None, where: Array | None, *, axis: tuple[int, ...] | None) -> Average:
    """The average of admitted arguments."""
    mask = None if where is None else spread(where, losses)
    values = fit(losses, losses, mask, 0.0)
    if weight is not None:
        weight = guard(fit(weight, losses, mask, 0.0), "weight")
        values = weigh(weight, values)
    return Average(sum_of(values, axis), _weight_of(values, weight, mask, axis))


def reduce(
    weighted: Array, weight: Array | None, where: Array | None, axis: tuple[int, ...] | None, reduction: Reduction
) -> Array:
    """Reduce weighted losses wℓ, which are 0 where masked; weight and mask are of their shape."""
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return sum_of(weighted, axis)
    number = number_reduced(weighted, axis)
    if number == 0:
        return nan_where(jnp.bool_(True), sum_of(weighted, axis))  # The mean of nothing, as in NumPy and PyTorch.
    weight = weight if reduction == "weighted_mean" else None
    if weight is None and where is None:
        return sum_of(weighted, axis) / number
    total = _weight_of(weighted, weight, where, axis)
    nothing = total == 0
    # The reciprocal of a large total would be flushed to 0.
    small = jnp.where(total > 2.0**100, 2.0**-64, jnp.ones_like(total))
    inside, outside = _where_to_divide(
        nan_where(total == jnp.inf, jnp.where(nothing, 0, 1 / jnp.where(nothing, 1, total * small)))
    )
    inside = jnp.expand_dims(inside, range(weighted.ndim) if axis is None else axis)
    # Label smoothing may leave an infinite loss where all weight is 0, which is that of the labels before it.
    return small * weigh(outside, sum_of(weigh(jnp.broadcast_to(inside, weighted.shape), weighted), axis))


def _where_to_divide(scale: Array) -> tuple[Array, Array]:
    """The factors of what is summed and of the sum, of which one is 1.

    The gradient would wait for a quotient of sums, and read all arrays once more: on H100 and TPU v5e a masked step
    moves 3.5 arrays with the scale inside, and 5.75 with it outside. A CPU would store the scale in the size of the
    losses, and take 1.6 times as long.
    """
    one, scale = alike((jnp.ones_like(scale), scale))
    factors: tuple[Array, Array] = jax.lax.platform_dependent(
        one, scale, cpu=lambda one, scale: (one, scale), default=lambda one, scale: (scale, one)
    )
    return factors


def _weight_of(weighted: Array, weight: Array | None, where: Array | None, axis: tuple[int, ...] | None) -> Array:
    """Σ w over the included entries; their number where there is no weight."""
    if weight is not None:
        return sum_of(included(weight, where), axis)
    if where is not None:
        count: Array = jax.lax.platform_dependent(
            where,
            cpu=lambda where: sum_of(_cpu.countable(where), axis, weighted.dtype),
            default=lambda where: sum_of(where, axis, weighted.dtype),
        )
        return count
    return jnp.full_like(sum_of(weighted, axis), number_reduced(weighted, axis))


def sum_of(values: Array, axis: tuple[int, ...] | None, dtype: DTypeLike | None = None) -> Array:
    """The sum over the axes; None is all of them."""
    if values.ndim < 7:
        return jnp.sum(values, axis, dtype)
    # jaxlib 0.10.2 crashes on reductions of rank 7 with an axis of size 1 (jax#40412): without those.
    axes = tuple(range(values.ndim)) if axis is None else axis
    wide = [a for a in range(values.ndim) if values.shape[a] != 1]
    narrow = [a for a in range(values.ndim) if a not in wide]
    total = jnp.sum(jnp.squeeze(values, narrow), tuple(wide.index(a) for a in axes if a in wide), dtype)
    return total.reshape([values.shape[a] for a in range(values.ndim) if a not in axes])


def number_reduced(losses: Array, axis: tuple[int, ...] | None) -> int:
    """How many entries are reduced into one."""
    return math.prod(losses.shape if axis is None else (losses.shape[a] for a in axis))
