"""The boundary of losses over classes: one axis of the logits holds the classes, and labels may be their indices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import explicit_sharding
from jaxbce._indices import refuse_stray
from jaxbce._inputs import Target, admit_mask, admit_predictions, admit_smoothing, admit_values
from jaxbce._options import admit_reduction, integer
from jaxbce._typing import ArrayLike, Axis, Reduction
from jaxbce._values import within


class AdmittedClasses(NamedTuple):
    """The checked arrays of one call. Labels that are integers without the axis of the classes are indices."""

    logits: Array
    labels: Array
    class_weight: Array | None
    label_smoothing: Array | None
    where: Array | None


class ClassOptions(NamedTuple):
    """The checked options of one call."""

    class_axis: int
    indices: bool
    ignore_index: int | None
    axis: tuple[int, ...] | None
    reduction: Reduction


def admit_classes(
    function: str,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_axis: int,
    class_weight: ArrayLike | None,
    ignore_index: int | None,
    label_smoothing: ArrayLike,
    where: ArrayLike | None,
    axis: Axis,
    reduction: Reduction,
) -> tuple[AdmittedClasses, ClassOptions]:
    """Check the arguments of `function`.

    Raises TypeError for dtypes, ValueError for shapes, options and, where values can be read, for domains.
    """
    array = admit_predictions(function, "logits", logits)
    class_axis = _class_axis(function, class_axis, array.shape)
    classes = array.shape[class_axis]
    losses = entries(array, class_axis)
    mask = admit_mask(Target(function, "logits without class_axis", losses), where)
    values, indices = _labels(function, labels, array.shape, losses.shape, class_axis)
    ignore_index = _ignore_index(function, ignore_index, indices)
    if indices:
        words = f"{function}: labels must be class indices in [0, {classes})"
        remedy = "Hide missing labels with `where` or ignore_index"
        remedy += "." if ignore_index is None else f", which is {ignore_index}."
        values = refuse_stray(values, classes, ignore_index, mask, losses, words, remedy)
    else:
        every = None if mask is None else jnp.expand_dims(jnp.broadcast_to(mask, losses.shape), class_axis)
        remedy = f"Class indices have the shape {losses.shape}; leave entries out with `where`."
        values = within(function, "labels", values, every, array, remedy)
    given = AdmittedClasses(
        array,
        values,
        _class_weight(function, class_weight, classes, array),
        admit_smoothing(Target(function, "logits", array), label_smoothing),
        mask,
    )
    axes = admit_reduction(function, reduction, axis, losses.ndim)
    return given, ClassOptions(class_axis, indices, ignore_index, axes, reduction)


def entries(logits: Array, class_axis: int) -> jax.ShapeDtypeStruct:
    """What the losses are like: the logits without the axis of the classes."""
    sharding = explicit_sharding(logits)
    spec = jax.sharding.PartitionSpec(*_without(sharding.spec, class_axis))
    sharding = jax.sharding.NamedSharding(sharding.mesh, spec)
    return jax.ShapeDtypeStruct(_without(logits.shape, class_axis), logits.dtype, sharding=sharding)


def _without(sizes: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (*sizes[:axis], *sizes[axis + 1 :])


def _class_axis(function: str, class_axis: int, shape: tuple[int, ...]) -> int:
    try:
        index = integer(class_axis)
    except TypeError:
        raise TypeError(f"{function}: class_axis must be an integer, got {class_axis!r}.") from None
    if not -len(shape) <= index < len(shape):
        raise ValueError(f"{function}: class_axis must be an axis of logits, got {index} and logits of shape {shape}.")
    if shape[index] == 0:
        raise ValueError(f"{function}: logits must hold at least one class, got shape {shape}.")
    return index % len(shape)


def _labels(
    function: str, labels: ArrayLike, shape: tuple[int, ...], losses_shape: tuple[int, ...], class_axis: int
) -> tuple[Array, bool]:
    """The labels, and whether they are class indices."""
    array = admit_values(function, "labels", labels)
    if array.shape == shape:
        return array, False
    if array.shape not in (losses_shape, ()):
        raise ValueError(
            f"{function}: labels must be class indices of shape {losses_shape} or a scalar, or class probabilities of "
            f"shape {shape}, got shape {array.shape}. The classes are axis {class_axis} of logits: see class_axis."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: class indices must be integers, got dtype {array.dtype} and shape {array.shape}. Convert "
            f"with labels.astype(jnp.int32); class probabilities have the shape of logits, {shape}."
        )
    return array, True


def _ignore_index(function: str, ignore_index: int | None, indices: bool) -> int | None:
    if ignore_index is None:
        return None
    try:
        index = integer(ignore_index)
    except TypeError:
        raise TypeError(f"{function}: ignore_index must be an integer or None, got {ignore_index!r}.") from None
    if index >= 0 and not indices:
        raise ValueError(
            f"{function}: ignore_index needs labels that are class indices, got ignore_index={index} and class "
            "probabilities. Leave entries out with `where`."
        )
    return index


def _class_weight(function: str, class_weight: ArrayLike | None, classes: int, logits: Array) -> Array | None:
    if class_weight is None:
        return None
    array = admit_values(function, "class_weight", class_weight)
    if array.shape != (classes,):
        raise ValueError(
            f"{function}: class_weight must have shape ({classes},), one per class, got {array.shape}. "
            "class_axis says which axis of logits holds the classes."
        )
    return within(function, "class_weight", array, None, logits)
