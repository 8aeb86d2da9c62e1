"""Mapped axes, as code inside `jax.shard_map` sees them: how large they are, and which values vary over them.

`shard_map` knows of every value over which axes it varies, and differentiates by it: the gradient of a value that is
the same everywhere is the sum over the devices. Most operations settle this by themselves; a `scan`, whose carry may not
change its type, and a custom derivative, whose tangents must have the types of the arguments, need it settled before.
"""

import jax
from jax import Array

from jaxbce._typing import AxisName


def admit_axis_name(function: str, name: str, value: AxisName) -> int:
    """The number of devices along the mapped axis, or axes, that the argument `name` names."""
    try:
        return int(jax.lax.psum(1, value))
    except (NameError, TypeError):
        raise ValueError(
            f"{function}: {name} must name a mapped axis, got {value!r}, which is none here. "
            f"Call it inside jax.shard_map over a mesh with that axis, or leave {name} out."
        ) from None


def varying(value: Array) -> frozenset[str]:
    """The mapped axes over which `shard_map` knows the value to vary; none where it does not check."""
    kind = jax.typeof(value)
    # jax 0.10 moved them.
    known = getattr(kind, "vma", None) if hasattr(kind, "vma") else kind.manual_axis_type.varying
    return frozenset(known or ())


def vary_alike(*values: Array, axis_name: AxisName | None = None) -> tuple[Array, ...]:
    """The values, each varying over every mapped axis that one of them varies over, and over `axis_name`."""
    # The index of a device varies over the axis wherever that is kept account of, and only there.
    anchors = values if axis_name is None else (*values, jax.lax.axis_index(axis_name))
    joint = frozenset().union(*map(varying, anchors))
    return tuple(_vary(value, tuple(sorted(joint - varying(value)))) for value in values)


def _vary(value: Array, axes: tuple[str, ...]) -> Array:
    if not axes:
        return value
    cast: Array = jax.lax.pcast(value, axes, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(value, axes)
    return cast
