"""Slices of bfloat16 arrays, moved as integers of the same bits.

XLA on CPU computes in bfloat16 by way of float32, and would convert the whole of an array for each slice that is read
from it or written to it: a step of a head of a million labels takes 49 times as long.
"""

import jax
import jax.numpy as jnp
from jax import Array


def to_bits(array: Array) -> Array:
    return jax.lax.bitcast_convert_type(array, jnp.uint16) if array.dtype == jnp.bfloat16 else array


def from_bits(bits: Array, dtype: jnp.dtype) -> Array:
    return jax.lax.bitcast_convert_type(bits, dtype) if dtype == jnp.bfloat16 else bits
