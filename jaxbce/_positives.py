"""Labels that are on, named by their indices: a row for each example, padded with negative numbers."""

import functools
import math
from types import ModuleType
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._indices import PADDING, is_stray, refuse_stray
from jaxbce._inputs import admit_values
from jaxbce._typing import ArrayLike
from jaxbce._values import Facts, refuse


def admit_positives(
    function: str, value: ArrayLike, examples: tuple[int, ...], labels: int, mask: Array | None = None
) -> Array:
    """Indices of shape [*examples, K], below `labels` where the mask, which broadcasts to them, includes them."""
    array = admit_values(function, "positives", value)
    if array.shape[:-1] != examples or array.ndim != len(examples) + 1:
        wanted = f"({', '.join(map(str, (*examples, 'K')))}{'' if examples else ','})"
        raise ValueError(
            f"{function}: positives must have shape {wanted}, a row of label indices for each example, got shape "
            f"{array.shape}. Rows of different lengths are padded with -1."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: positives must be integers, the indices of the labels that are on, got dtype {array.dtype}. "
            "Convert with positives.astype(jnp.int32); an array of 0 and 1 for all labels is something else."
        )
    # Of so many indices, all 0 or 1, some repeat. While a function is exported, their number may be a symbol.
    if isinstance(labels, int) and array.shape[-1] == labels > 2 and 0 not in examples:
        words = f"{function}: positives must be indices of labels, not 0 or 1 for each of {labels} labels"
        remedy = (
            "If they are dense labels: linear_binary_cross_entropy takes them as `labels`, logits with them go into "
            "binary_cross_entropy_with_logits. If they are indices, drop those that repeat; padding is -1."
        )
        array = refuse(array, None, array, _look_dense, words, remedy)
    words = f"{function}: positives must be label indices below {labels}, or negative for padding"
    remedy = "Is the index that of another set of labels, or counted from 1?"
    return refuse_stray(array, labels, PADDING, mask, array, words, remedy)


def _look_dense(numpy: ModuleType, value: Any, mask: Any) -> Facts:
    """A rule: not all may be 0 or 1."""
    del mask
    low, high = numpy.min(value), numpy.max(value)
    return (low >= 0) & (high <= 1), low, high


_COMPARED: Final = 12
"""Indices of an example that are compared with every label, where nothing is stored: with 16 and more the compiler for
TPU stores the comparisons."""


def multi_hot(positives: Array, labels: int) -> Array:
    """Bools [..., labels], True at the indices of [..., K]; what is no index in [0, labels) leaves no trace."""
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
    # What is no index sets nothing, at 0: a negative one would count from the end, and one beyond the end would be an
    # error to `checkify`.
    stray = is_stray(positives, labels)
    index = jnp.where(stray, 0, positives.astype(jnp.int32)).reshape(number, k)
    hot = jnp.zeros((number, labels), jnp.bool_)
    hot = hot.at[jnp.arange(number)[:, None], index].max(~stray.reshape(number, k), mode="drop")
    return hot.reshape(*examples, labels)
