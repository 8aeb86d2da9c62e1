"""Mapped axes, as code inside `jax.shard_map` sees them: how large they are, and which values vary over them.

`shard_map` keeps account of the axes that a value varies over, and differentiates by it: the gradient of a value that
is the same everywhere is the sum over the devices. Most operations see to that by themselves. A `scan`, whose carry may
not change its type, and a custom derivative, whose tangents have the types of its arguments, need it settled before.
"""

from typing import Any, TypeVar

import jax
from jax import Array

from jaxbce._typing import AxisName

Tree = TypeVar("Tree")

_LAX: Any = jax.lax  # whose names differ from version to version


def admit_axis_name(function: str, name: str, value: AxisName) -> int:
    """The number of devices along the mapped axis, or axes, that the argument `name` names."""
    try:
        hash(value)  # A list of axes is none to JAX.
        return int(jax.lax.psum(1, value))
    except (NameError, TypeError):
        raise ValueError(
            f"{function}: {name} must name a mapped axis, got {value!r}, which is none here. "
            f"Call it inside jax.shard_map over a mesh with that axis, or leave {name} out."
        ) from None


def varying(value: Array) -> frozenset[str]:
    """The mapped axes over which `shard_map` knows the value to vary; none where it does not check."""
    kind = jax.typeof(value)
    # Under the first name until it moved, in jax 0.10 at the latest.
    return frozenset(kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying)


def vary_alike(*values: Array, axis_name: AxisName | None = None) -> tuple[Array, ...]:
    """The values, each varying over every mapped axis that one of them varies over, and over `axis_name`."""
    # The index of a device varies over the axis wherever that is kept account of, and only there.
    anchors = values if axis_name is None else (*values, jax.lax.axis_index(axis_name))
    joint = frozenset().union(*map(varying, anchors))
    return tuple(_vary(value, tuple(sorted(joint - varying(value)))) for value in values)


def _vary(value: Array, axes: tuple[str, ...]) -> Array:
    if not axes:
        return value
    # The first is what newer versions call the second.
    new = hasattr(_LAX, "pcast")
    varied: Array = _LAX.pcast(value, axes, to="varying") if new else _LAX.pvary(value, axes)
    return varied


def alike(tree: Tree) -> Tree:
    leaves, structure = jax.tree.flatten(tree)
    result: Tree = jax.tree.unflatten(structure, vary_alike(*leaves))
    return result
