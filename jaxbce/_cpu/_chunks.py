"""Chunks of bfloat16 arrays.

XLA on CPU computes in bfloat16 by way of float32, and would convert the whole of an array for each chunk that is taken
of it or put into it: a step of a head of a million labels takes 49 times as long. As integers of the same bits they are
moved as they are.
"""

import jax
import jax.numpy as jnp
from jax import Array


def bits(array: Array) -> Array:
    return jax.lax.bitcast_convert_type(array, jnp.uint16) if array.dtype == jnp.bfloat16 else array


def floats(bits: Array, dtype: jnp.dtype) -> Array:
    return jax.lax.bitcast_convert_type(bits, dtype) if dtype == jnp.bfloat16 else bits


def take_as_bits(array: Array, start: Array, size: int) -> Array:
    """Slice `size` entries of the last axis from `start`."""
    return floats(jax.lax.dynamic_slice_in_dim(bits(array), start, size, array.ndim - 1), array.dtype)
