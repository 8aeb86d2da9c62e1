"""Labels that are on, named by their indices: a row for each example, padded with negative numbers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._class_inputs import is_stray
from jaxbce._inputs import admit_values, refuse
from jaxbce._typing import ArrayLike


def admit_positives(
    function: str, value: ArrayLike, examples: tuple[int, ...], labels: int, mask: Array | None = None
) -> Array:
    """Indices of shape [*examples, K], below `labels` where the mask, which broadcasts to them, includes them."""
    array = admit_values(function, "positives", value)
    if array.shape[:-1] != examples or array.ndim != len(examples) + 1:
        wanted = f"({', '.join(map(str, (*examples, 'K')))})"
        raise ValueError(
            f"{function}: positives must have shape {wanted}, a row of label indices for each example, got shape "
            f"{array.shape}. Rows of different lengths are padded with -1."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: positives must be integers, the indices of the labels that are on, got dtype {array.dtype}. "
            "Convert indices with positives.astype(jnp.int32); an array of 0 and 1 belongs in `labels`."
        )
    rule = f"{function}: positives must be label indices below {labels}, or negative for padding"
    find = functools.partial(_beyond, labels=labels)
    return refuse(array, mask, array, find, rule, "Is the index that of another set of labels, or counted from 1?")


def is_beyond(positives: Array, labels: int) -> Array:
    """Where an index is neither padding nor that of a label."""
    return is_stray(positives, labels) & ~(positives < 0)


def multi_hot(positives: Array, labels: int) -> Array:
    """Bools [..., labels], True at the indices of [..., K]; what is no index in [0, labels) leaves no trace."""
    *examples, k = positives.shape
    number = math.prod(examples)
    # A negative index would count from the end: all that is no index becomes `labels`, which is dropped.
    index = jnp.where(is_stray(positives, labels), labels, positives.astype(jnp.int32)).reshape(number, k)
    hot = jnp.zeros((number, labels), jnp.bool_).at[jnp.arange(number)[:, None], index].set(True, mode="drop")
    return hot.reshape(*examples, labels)


@functools.partial(jax.jit, static_argnames="labels")
def _beyond(positives: Array, mask: Array | None, labels: int) -> tuple[Array, Array, Array]:
    """Whether an included index is that of no label, and the extremes of the included indices that are no padding."""
    included = ~(positives < 0)
    included = included if mask is None else included & mask
    most = np.asarray(jnp.iinfo(positives.dtype).max, positives.dtype)  # type: ignore[no-untyped-call]  # as in _range
    low = jnp.min(positives, initial=most, where=included)
    high = jnp.max(positives, initial=np.asarray(0, positives.dtype), where=included)
    return jnp.any(included & is_stray(positives, labels)), low, high
