"""The boundary of the fused linear head: features, a kernel, and labels in either of two forms."""

from typing import NamedTuple

import jax
from jax import Array

from jaxbce._alignment import compute_dtype
from jaxbce._inputs import Target, admit_floating, admit_smoothing, admit_values, admit_weight
from jaxbce._manual_axes import admit_axes, devices
from jaxbce._options import admit_size, check_reduction
from jaxbce._positives import admit_positives
from jaxbce._typing import ArrayLike, AxisName, Reduction
from jaxbce._values import within


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

    chunk_size: int
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
    axis_name: AxisName | None,
    label_axis_name: AxisName | None,
) -> tuple[AdmittedHead, HeadOptions]:
    """Check the arguments of `function`.

    Raises TypeError for dtypes, ValueError for shapes, options and, where values can be read, for domains.
    """
    x, k = admit_floating(function, "features", features), admit_floating(function, "kernel", kernel)
    if x.ndim != 2 or k.ndim != 2 or x.shape[1] != k.shape[0]:
        raise ValueError(
            f"{function}: features must have shape [B, D] and kernel [D, L], got {x.shape} and {k.shape}. A kernel "
            "with a row for each label is transposed with kernel.T; features of more axes are flattened with reshape."
        )
    if (labels is None) == (positives is None):
        raise ValueError(
            f"{function}: give either labels [B, L] or positives [B, K], got {'neither' if labels is None else 'both'}."
        )
    batch_axes = admit_axes(function, "axis_name", axis_name)
    label_axes = admit_axes(function, "label_axis_name", label_axis_name)
    if set(batch_axes) & set(label_axes):
        raise ValueError(
            f"{function}: axis_name and label_axis_name must be different axes, got {axis_name!r} and "
            f"{label_axis_name!r}. One splits the batch, the other the labels."
        )
    shape = x.shape[0], k.shape[1]
    logits = jax.ShapeDtypeStruct(shape, compute_dtype(x, k))
    target = Target(function, "features @ kernel", logits)
    given = AdmittedHead(
        x,
        k,
        None if labels is None else _labels(target, labels),
        None if positives is None else admit_positives(function, positives, shape[:1], shape[1] * devices(label_axes)),
        None if bias is None else _bias(function, bias, shape[1]),
        admit_weight(target, "pos_weight", pos_weight, None),
        admit_weight(target, "weight", weight, None),
        admit_smoothing(target, label_smoothing),
    )
    check_reduction(function, reduction, None)
    size = admit_size(function, "chunk_size", chunk_size, _default_chunk(*x.shape))
    return given, HeadOptions(size, batch_axes, label_axes, reduction)


def _labels(target: Target, value: ArrayLike) -> Array:
    array, shape = admit_values(target.function, "labels", value), target.array.shape
    if array.shape != shape:
        raise ValueError(
            f"{target.function}: labels must have the shape of {target.name}, {shape}, got {array.shape}. "
            "The indices of the labels that are on go into `positives`."
        )
    remedy = "Where a label is missing, write 0, give it a weight of 0 and take reduction='weighted_mean'."
    return within(target.function, "labels", array, None, target.array, remedy)


def _bias(function: str, value: ArrayLike, labels: int) -> Array:
    array = admit_floating(function, "bias", value)
    if array.shape != (labels,):
        raise ValueError(
            f"{function}: bias must have shape ({labels},), one per label (the last axis of kernel), got {array.shape}."
        )
    return array


def _default_chunk(batch: int, width: int) -> int:
    """How many labels at a time: so few that the arrays of a chunk fit a cache, but no products of slivers."""
    known = isinstance(batch, int) and isinstance(width, int)  # and no symbols, while a function is exported
    return max(512, 400_000 // (batch + width + 1) // 128 * 128) if known else 512
