"""Indices of classes and labels: which are ignored, which are out of bounds, and the labels that they stand for.

Indices are compared in their own dtype or a wider one, in which no number wraps around.
"""

import functools
import math
from typing import Final, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PADDING: Final = "padding"
"""Ignores negative indices: they pad rows."""

Ignored: TypeAlias = int | Literal["padding"] | None
"""The index that is ignored: one integer, every negative one, or none."""


def integer_range(dtype: jnp.dtype) -> tuple[int, int]:
    """The least and the greatest integer of a dtype."""
    # jax's iinfo knows the integers of 4 bits and fewer.
    info = jnp.iinfo(dtype)  # type: ignore[no-untyped-call]  # jax gives it no annotations
    return int(info.min), int(info.max)


def is_ignored(indices: Array, ignored: Ignored) -> Array:
    if ignored == PADDING:
        return indices < 0
    least, most = integer_range(indices.dtype)
    if ignored is None or not least <= ignored <= most:
        return indices != indices  # False everywhere, in NumPy or JAX as the indices are.
    return indices == ignored


def is_out_of_bounds(indices: Array, number: int, ignored: Ignored = None) -> Array:
    """True for indices outside [0, number) that are not ignored."""
    wide = indices if indices.dtype.itemsize >= 4 else indices.astype(np.int32)  # which holds every `number`
    return ((wide < 0) | (wide >= number)) & ~is_ignored(indices, ignored)


_COMPARED: Final = 12
"""The most indices of an example that are compared with every label. From 16 on XLA for TPU materializes the
comparisons."""


def multi_hot(positives: Array, labels: int) -> Array:
    """Bools [..., labels], True at the indices of [..., K]; indices outside [0, labels) leave no trace."""
    scattered = functools.partial(_scattered, labels=labels)
    if positives.shape[-1] in range(_COMPARED + 1):
        compared = functools.partial(_compared, labels=labels)
        hot: Array = jax.lax.platform_dependent(positives, cpu=scattered, default=compared)
        return hot
    return scattered(positives)


def _compared(positives: Array, labels: int) -> Array:
    wide = positives if positives.dtype.itemsize >= 4 else positives.astype(jnp.int32)
    numbers = jax.lax.broadcasted_iota(wide.dtype, (*[1] * (wide.ndim - 1), labels), wide.ndim - 1)
    each = (wide[..., k : k + 1] == numbers for k in range(wide.shape[-1]))
    return functools.reduce(jnp.logical_or, each, jnp.zeros((*positives.shape[:-1], labels), jnp.bool_))


def _scattered(positives: Array, labels: int) -> Array:
    *examples, k = positives.shape
    number = math.prod(examples)
    # Write False at 0 for an index out of bounds: a negative one would count from the end, and `checkify` would report
    # one beyond the end.
    outside = is_out_of_bounds(positives, labels)
    index = jnp.where(outside, 0, positives.astype(jnp.int32)).reshape(number, k)
    hot = jnp.zeros((number, labels), jnp.bool_)
    hot = hot.at[jnp.arange(number)[:, None], index].max(~outside.reshape(number, k), mode="drop")
    return hot.reshape(*examples, labels)
