"""A mean that stays right over unequal batches, masks, gradient accumulation and devices."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._core import arrays
from jaxbce._core.arrays import ArrayLike, Axis, AxisName
from jaxbce._core.numerics import apply_weight
from jaxbce._core.program import jit
from jaxbce._validate.arguments import validate, validate_axis, validate_axis_name


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

        Example:
            >>> batches = [jnp.array([1.0, 2.0, 3.0]), jnp.array([10.0])]
            >>> float(sum(Average.of(batch) for batch in batches).value)
            4.0
            >>> float(Average.of(batches[0], where=jnp.array([True, True, False])).value)
            1.5
        """
        checked = validate("Average.of", "losses", {"losses": losses, "where": where, "weight": weight})
        axes = validate_axis("Average.of", axis, checked["losses"].ndim)
        return cls(*_total_and_weight(**checked, axis=axes))

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
        axes = validate_axis_name("Average.psum", "axis_name", axis_name)
        return Average(arrays.psum(self.total, axes), arrays.psum(self.weight, axes))

    @property
    def value(self) -> Array:
        """Σ wℓ / Σ w; 0, with zero gradient in ℓ, where nothing was included; NaN where Σ w has overflowed."""
        return arrays.divide_by_weight(self.total, self.weight)


@jit("axis")
def _total_and_weight(
    losses: Array, weight: Array | None, where: Array | None, *, axis: tuple[int, ...] | None
) -> tuple[Array, Array]:
    mask = None if where is None else arrays.broadcast_like(where, losses)
    values = arrays.cast_and_fill(losses, losses, mask, 0.0)
    if weight is not None:
        weight = arrays.nan_outside_domain(arrays.cast_and_fill(weight, losses, mask, 0.0), "weight")
        values = apply_weight(weight, values)
    return arrays.sum_of(values, axis), arrays.total_weight(values, weight, mask, axis)
