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


def admit_axes(function: str, name: str, value: AxisName | None) -> tuple[str, ...]:
    """The mapped axes, none or several, that the argument `name` names."""
    several = value if isinstance(value, tuple | list) else [value]
    axes = tuple(axis for axis in several if isinstance(axis, str))
    if value is not None and len(axes) < len(several):
        raise TypeError(f"{function}: {name} must be the name of a mapped axis or several names, got {value!r}.")
    if len(set(axes)) < len(axes):
        raise ValueError(f"{function}: {name} must name an axis once, got {value!r}.")
    try:
        devices(axes)
    except NameError:
        raise ValueError(
            f"{function}: {name} must name a mapped axis, got {value!r}, which is none here. "
            "Call it inside jax.shard_map, over a mesh with that axis."
        ) from None
    return axes


def devices(axes: tuple[str, ...]) -> int:
    """Over how many devices, or mapped instances, the axes go."""
    return int(jax.lax.psum(1, axes)) if axes else 1


def sum_over(value: Array, axes: tuple[str, ...]) -> Array:
    """The sum of the values of all devices along the axes."""
    total: Array = jax.lax.psum(value, axes) if axes else value
    return total


def alike(tree: Tree, axes: tuple[str, ...] = ()) -> Tree:
    """The arrays of `tree`, each varying over every mapped axis that one of them varies over, and over `axes`."""
    leaves, structure = jax.tree.flatten(tree)
    # The index of a device varies over an axis wherever that is kept account of, and only there.
    anchors = [*leaves, *map(jax.lax.axis_index, axes)]
    joint: frozenset[str] = frozenset().union(*map(_varying, anchors))
    varied: Tree = jax.tree.unflatten(structure, [_vary(leaf, joint - _varying(leaf)) for leaf in leaves])
    return varied


def _varying(value: Array) -> frozenset[str]:
    """The mapped axes over which `shard_map` knows the value to vary; none where it does not check."""
    kind = jax.typeof(value)
    # Under the first name until it moved, in jax 0.10 at the latest.
    return frozenset(kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying)


def _vary(value: Array, axes: frozenset[str]) -> Array:
    if not axes:
        return value
    # `pcast` is what newer versions have in the place of `pvary`.
    new, names = hasattr(_LAX, "pcast"), tuple(sorted(axes))
    varied: Array = _LAX.pcast(value, names, to="varying") if new else _LAX.pvary(value, names)
    return varied
