"""The boundary of the fused linear head: features, a kernel, and labels in either of two forms."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._inputs import Target, admit_smoothing, admit_values, admit_weight
from jaxbce._options import admit_reduction
from jaxbce._positives import admit_positives
from jaxbce._typing import ArrayLike, Reduction
from jaxbce._values import within

AxisName: TypeAlias = str | Sequence[str] | None


class AdmittedHead(NamedTuple):
    """The checked arrays of one call; one of `labels` and `positives` is there."""

    features: Array
    kernel: Array
    labels: Array | None
    positives: Array | None
    bias: Array | None
    pos_weight: Array | None
    weight: Array | None
    label_smoothing: Array | None


class HeadOptions(NamedTuple):
    """The checked options of one call; names of mapped axes, none or several."""

    chunk_size: int | None
    batch_axes: tuple[str, ...]
    label_axes: tuple[str, ...]
    reduction: Reduction


def admit_head(
    function: str,
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike | None,
    *,
    positives: ArrayLike | None,
    bias: ArrayLike | None,
    pos_weight: ArrayLike | None,
    weight: ArrayLike | None,
    label_smoothing: ArrayLike,
    reduction: Reduction,
    chunk_size: int | None,
    axis_name: AxisName,
    label_axis_name: AxisName,
) -> tuple[AdmittedHead, HeadOptions]:
    """Check the arguments of `function`.

    Raises TypeError for dtypes, ValueError for shapes, options and, where values can be read, for domains.
    """
    x, k = _floating(function, "features", features), _floating(function, "kernel", kernel)
    if x.ndim != 2 or k.ndim != 2 or x.shape[1] != k.shape[0]:
        raise ValueError(
            f"{function}: features must have shape [B, D] and kernel [D, L], got {x.shape} and {k.shape}. A kernel "
            "with a row for each label is transposed with kernel.T; features of more axes are flattened with reshape."
        )
    if (labels is None) == (positives is None):
        raise ValueError(
            f"{function}: give either labels [B, L] or positives [B, K], got {'neither' if labels is None else 'both'}."
        )
    shape, label_axes = (x.shape[0], k.shape[1]), _names(label_axis_name)
    logits = jax.ShapeDtypeStruct(shape, x.dtype)
    target = Target(function, "features @ kernel", logits)
    given = AdmittedHead(
        x,
        k,
        None if labels is None else _labels(target, labels),
        None if positives is None else admit_positives(function, positives, shape[:1], shape[1] * devices(label_axes)),
        None if bias is None else _bias(function, bias, shape[1]),
        admit_weight(target, "pos_weight", pos_weight, None),
        admit_weight(target, "weight", weight, None),
        admit_smoothing(function, label_smoothing),
    )
    admit_reduction(function, reduction, None, 1)
    return given, HeadOptions(_chunk_size(function, chunk_size), _names(axis_name), label_axes, reduction)


def devices(names: tuple[str, ...]) -> int:
    """Over how many devices, or mapped instances, axes of these names go."""
    return math.prod(map(jax.lax.axis_size, names))


def _names(name: AxisName) -> tuple[str, ...]:
    if name is None:
        return ()
    return (name,) if isinstance(name, str) else tuple(name)


def _floating(function: str, name: str, value: ArrayLike) -> Array:
    array = admit_values(function, name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{function}: {name} must be floating, got dtype {array.dtype}. Convert with .astype(jnp.float32)."
        )
    return array


def _labels(target: Target, value: ArrayLike) -> Array:
    array, shape = admit_values(target.function, "labels", value), target.array.shape
    if array.shape != shape:
        raise ValueError(
            f"{target.function}: labels must have the shape of {target.name}, {shape}, got {array.shape}. "
            "The indices of the labels that are on go into `positives`."
        )
    return within(target.function, "labels", array, None, array)


def _bias(function: str, value: ArrayLike, labels: int) -> Array:
    array = _floating(function, "bias", value)
    if array.shape != (labels,):
        raise ValueError(f"{function}: bias must have shape ({labels},), one number per label, got {array.shape}.")
    return array


def _chunk_size(function: str, value: int | None) -> int | None:
    if value is None:
        return None
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{function}: chunk_size must be an integer or None, got {value!r}.") from None
    if size < 1:
        raise ValueError(f"{function}: chunk_size must be at least 1, got {size}; None chooses it.")
    return size
