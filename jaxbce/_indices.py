"""Indices of classes and labels: which stand for none, and which name none that is there.

They are compared in a dtype in which no number wraps around: their own, or a wider one.
"""

from types import ModuleType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._values import Facts, refuse

Absent: TypeAlias = int | Literal["padding"] | None
"""What marks the absence of an index: one particular integer, any negative number, which is padding, or nothing."""

PADDING: Final = "padding"
"""Negative numbers, which fill a row."""


def refuse_stray(
    indices: Array,
    number: int,
    absent: Absent,
    mask: Array | None,
    like: Array | jax.ShapeDtypeStruct,
    words: str,
    remedy: str,
) -> Array:
    """`indices`, unless one that the mask includes names none of `number`; see `_values.refuse`.

    While a function is exported, `number` may be a symbol, with which nothing can be compared yet.
    """
    if not isinstance(number, int):
        return indices
    return refuse(indices, mask, like, _Below(number, absent), words, remedy)


def is_absent(indices: Array, absent: Absent) -> Array:
    if absent == PADDING:
        return indices < 0
    least, most = _range(indices.dtype)
    if absent is None or not least <= absent <= most:
        return indices != indices  # nowhere, in an array of the kind that the indices are
    return indices == absent


def is_stray(indices: Array, number: int, absent: Absent = None) -> Array:
    """Where an index lies outside [0, number) and is not absent."""
    wide = indices if indices.dtype.itemsize >= 4 else indices.astype(np.int32)  # which holds every `number`
    return ((wide < 0) | (wide >= number)) & ~is_absent(indices, absent)


class _Below(NamedTuple):
    """Included indices that are not absent lie in [0, number)."""

    number: int
    absent: Absent

    def __call__(self, numpy: ModuleType, value: Any, mask: Any) -> Facts:
        included = ~is_absent(value, self.absent)
        included = included if mask is None else included & mask
        least, most = (np.asarray(end, value.dtype) for end in _range(value.dtype))
        low = numpy.min(value, initial=most, where=included)
        high = numpy.max(value, initial=least, where=included)
        return numpy.any(included & is_stray(value, self.number)), low, high


def _range(dtype: jnp.dtype) -> tuple[int, int]:
    """The least and the greatest integer of a dtype."""
    # jax's iinfo knows the integers of 4 bits and fewer.
    info = jnp.iinfo(dtype)  # type: ignore[no-untyped-call]  # jax gives it no annotations
    return int(info.min), int(info.max)
