"""The names that signatures share."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax.typing

ArrayLike: TypeAlias = jax.typing.ArrayLike | Sequence["ArrayLike"]
"""Whatever `jax.numpy.asarray` takes: arrays, Python numbers, nested lists of them."""

Axis: TypeAlias = int | tuple[int, ...] | list[int] | None
"""Which axes to reduce; None is all of them."""

Reduction: TypeAlias = Literal["none", "mean", "weighted_mean", "sum"]

AxisName: TypeAlias = str | tuple[str, ...] | list[str]
"""A mapped axis, or several as one."""
