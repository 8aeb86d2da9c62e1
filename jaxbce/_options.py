"""Options that are plain Python values, such as how to reduce, checked before anything is traced."""

import operator
from typing import get_args

import numpy as np

from jaxbce._typing import Axis, Reduction

_REDUCTIONS = get_args(Reduction)


def admit_reduction(function: str, reduction: Reduction, axis: Axis, ndim: int) -> tuple[int, ...] | None:
    """Check the two options that say how to reduce; returns the axes, of an array of `ndim`."""
    check_reduction(function, reduction, axis)
    return admit_axis(function, axis, ndim)


def check_reduction(function: str, reduction: Reduction, axis: Axis) -> None:
    """What can be said of the two before there is an array."""
    if not isinstance(reduction, str) or reduction not in _REDUCTIONS:
        choices = ", ".join(map(repr, _REDUCTIONS))
        raise ValueError(f"{function}: reduction must be one of {choices}, got {reduction!r}.")
    if reduction == "none" and axis is not None:
        raise ValueError(f"{function}: reduction='none' reduces no axis, got axis={axis}; leave one of the two out.")


def admit_axis(function: str, axis: Axis, ndim: int) -> tuple[int, ...] | None:
    """The axes as a tuple of indices in [0, ndim); None, for all of them, stays None."""
    if axis is None:
        return None
    try:
        axes = tuple(map(integer, axis if isinstance(axis, tuple | list) else [axis]))
    except TypeError:
        raise TypeError(f"{function}: axis must be None, an integer or several, got {axis!r}.") from None
    if axes and ndim == 0:
        raise ValueError(f"{function}: axis must be None for a scalar, which has no axes, got {axis}.")
    if any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"{function}: axis must lie in [{-ndim}, {ndim}) for an array of {ndim} axes, got {axis}.")
    if len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"{function}: axis names an axis twice, got {axis}.")
    return tuple(a % ndim for a in axes)


def admit_flag(function: str, name: str, flag: bool) -> bool:
    if not isinstance(flag, bool | np.bool_):
        raise TypeError(f"{function}: {name} must be True or False, got {flag!r}.")
    return bool(flag)


def admit_size(function: str, name: str, size: int | None, default: int) -> int:
    """How many at a time: an integer from 1 on, or None for the default."""
    if size is None:
        return default
    try:
        number = integer(size)
    except TypeError:
        raise TypeError(f"{function}: {name} must be an integer or None, got {size!r}.") from None
    if number < 1:
        raise ValueError(f"{function}: {name} must be at least 1, got {number}; None is {default}.")
    return number


def integer(value: object) -> int:
    """An integer of any library; TypeError for anything else, bools too."""
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return operator.index(value)  # type: ignore[arg-type]  # to raise TypeError is its part
