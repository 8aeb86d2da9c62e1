"""The boundary: what a caller hands over is converted, checked and explained here, and nowhere else.

It runs in Python on the arguments as they come: types, shapes and, through `_values`, domains.
"""

import contextlib
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._alignment import Admitted
from jaxbce._domains import DOMAINS
from jaxbce._numerics import Whole, is_python_number
from jaxbce._options import admit_reduction
from jaxbce._typing import ArrayLike, Axis, Reduction
from jaxbce._values import is_readable, within

_FLAGS = {"labels", "weight", "class_weight", "losses", "positives"}
"""Arguments of which a bool is no error, or one that is told elsewhere. In any other True would pass for a 1."""


class Target(NamedTuple):
    """The array that the other arguments of a call are held against, and what the caller calls the two."""

    function: str
    name: str
    array: Array | jax.ShapeDtypeStruct


def admit(
    function: str,
    name: str,
    predictions: ArrayLike,
    labels: ArrayLike,
    parameters: Mapping[str, ArrayLike | Whole | None],
    *,
    weight: ArrayLike | None,
    label_smoothing: ArrayLike,
    where: ArrayLike | None,
    axis: Axis,
    reduction: Reduction,
) -> tuple[Admitted, tuple[int, ...] | None]:
    """Check the arguments of the binary loss `function`, whose predictions are called `name`; returns also the axes.

    `parameters` are those that the function has of its own: weights and the like, which broadcast to the predictions.
    Raises TypeError for dtypes, ValueError for shapes, options and, where values can be read, for domains.
    """
    array = admit_predictions(function, name, predictions)
    target = Target(function, name, array)
    mask = admit_mask(target, where)
    if name in DOMAINS:
        array = within(function, name, array, mask, array)
    given = Admitted(
        array,
        within(function, "labels", _labels(target, labels), mask, array),
        {own: _parameter(target, own, value, mask) for own, value in parameters.items()},
        admit_weight(target, "weight", weight, mask),
        admit_smoothing(target, label_smoothing),
        mask,
    )
    return given, admit_reduction(function, reduction, axis, array.ndim)


def admit_predictions(function: str, name: str, value: ArrayLike) -> Array:
    return admit_floating(function, name, value, "Predictions come first, labels second. ")


def admit_floating(function: str, name: str, value: ArrayLike, hint: str = "") -> Array:
    array = _asarray(function, name, value)
    if not _is_float(array.dtype):
        convert = f" {hint}Convert with jnp.asarray({name}, jnp.float32)."
        remedy = convert if _is_real(array.dtype) else _real_part(name, array.dtype)
        raise TypeError(f"{function}: {name} must be floating, got dtype {array.dtype}.{remedy}")
    return array


def admit_values(function: str, name: str, value: ArrayLike) -> Array:
    """Real numbers of any kind, as an array."""
    array = _asarray(function, name, value)
    if not _is_real(array.dtype):
        remedy = _real_part(name, array.dtype)
        raise TypeError(f"{function}: {name} must be real numbers, got dtype {array.dtype}.{remedy}")
    if array.dtype == jnp.bool_ and name not in _FLAGS:
        remedy = f"If 0 and 1 are meant, write jnp.asarray({name}, jnp.float32)."
        raise TypeError(f"{function}: {name} must be numbers, got bool. {remedy}")
    return array


def _real_part(name: str, dtype: np.dtype) -> str:
    """The remedy against numbers that are not real, if it is numbers."""
    return f" Is it jnp.real({name})?" if jnp.issubdtype(dtype, jnp.complexfloating) else ""


def admit_weight(target: Target, name: str, value: ArrayLike | None, mask: Array | None) -> Array | None:
    """A weight or the like: numbers in the domain of `name` that broadcast to the shape of the target."""
    if value is None:
        return None
    array = admit_values(target.function, name, value)
    _check_broadcast(target, name, array)
    return within(target.function, name, array, mask, target.array)


def _parameter(target: Target, name: str, value: ArrayLike | Whole | None, mask: Array | None) -> Array | Whole | None:
    if isinstance(value, Whole):
        return value
    if value is None and not DOMAINS[name].optional:
        raise TypeError(f"{target.function}: {name} must be an array or numbers, got None. {DOMAINS[name].remedy}")
    return admit_weight(target, name, value, mask)


def admit_mask(target: Target, where: ArrayLike | None) -> Array | None:
    """A bool mask that broadcasts to the shape of the target."""
    if where is None:
        return None
    mask = _asarray(target.function, "where", where)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"{target.function}: where must be a bool mask, True for the entries to include, got dtype {mask.dtype}. "
            "Compare first, e.g. where=mask != 0."
        )
    _check_broadcast(target, "where", mask)
    return mask


def admit_smoothing(target: Target, label_smoothing: ArrayLike) -> Array | None:
    """A scalar in [0, 1]; None for the number 0, which spares its cost."""
    if is_python_number(label_smoothing) and label_smoothing == 0:
        return None
    return admit_scalar(target, "label_smoothing", label_smoothing)


def admit_scalar(target: Target, name: str, value: ArrayLike) -> Array:
    """One number in the domain of `name`."""
    return within(target.function, name, admit_number(target.function, name, value), None, target.array)


def admit_number(function: str, name: str, value: ArrayLike) -> Array:
    array = admit_values(function, name, value)
    if array.shape != ():
        raise ValueError(
            f"{function}: {name} must be a scalar, got shape {array.shape}. One number serves the whole call."
        )
    return array


def _asarray(function: str, name: str, value: ArrayLike) -> Array:
    if isinstance(value, Array):
        return value
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, np.ma.MaskedArray) for leaf in leaves):
        raise TypeError(
            f"{function}: {name} must be plain numbers, got a masked array. Take its .data, and leave out what its "
            ".mask hides: with `where`, or with a weight of 0."
        )
    try:
        # Numbers written inside a traced function stay readable, and so are checked like any other.
        readable = all(map(is_readable, leaves))
        with jax.ensure_compile_time_eval() if readable else contextlib.nullcontext():
            array = jnp.asarray(value)
    except OverflowError as error:
        got = f"got {value!r:.40}: {error}"
        raise ValueError(f"{function}: {name} must fit a dtype, {got}. {_too_large(name)}") from None
    except (TypeError, ValueError) as error:
        if isinstance(value, np.ndarray):
            raise TypeError(
                f"{function}: {name} must have a dtype that JAX has, got {value.dtype}. "
                f"Convert first, e.g. with {name}.astype(numpy.float32)."
            ) from None
        raise TypeError(f"{function}: {name} must be an array or numbers, got {value!r:.40}: {error}") from None
    if array.dtype.kind in "iu":
        for leaf in leaves:
            if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype != array.dtype:
                _refuse_cut(function, name, leaf, np.iinfo(array.dtype))
    return array


def _refuse_cut(function: str, name: str, value: np.ndarray | np.generic, info: np.iinfo) -> None:
    """Without x64, 64-bit integers are cut off to 32 bits, and an index that names no class may come to name one."""
    if value.size and (value.min() < info.min or value.max() > info.max):
        extremes = f"got {value.dtype} from {value.min()} to {value.max()}"
        raise ValueError(f"{function}: {name} must fit {info.dtype}, {extremes}. {_too_large(name)}")


def _too_large(name: str) -> str:
    return f"Indices this large need jax_enable_x64; other numbers may be floats: jnp.asarray({name}, jnp.float32)."


@functools.cache
def _is_float(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


@functools.cache
def _is_real(dtype: np.dtype) -> bool:
    return _is_float(dtype) or dtype == jnp.bool_ or bool(jnp.issubdtype(dtype, jnp.integer))


def _labels(target: Target, value: ArrayLike) -> Array:
    labels, shape = admit_values(target.function, "labels", value), target.array.shape
    if labels.shape in (shape, ()):
        return labels
    raise ValueError(
        f"{target.function}: labels must have the shape of {target.name} or be a scalar, got {target.name} of shape "
        f"{shape} and labels of shape {labels.shape}. {_shape_remedy(target.name, shape, labels.shape)}"
    )


def _shape_remedy(name: str, shape: tuple[int, ...], labels: tuple[int, ...]) -> str:
    if shape == (*labels, 1):
        return f"Drop the last axis with {name}.squeeze(-1), or add one with labels[..., None]."
    if labels == (*shape, 1):
        return f"Drop the last axis with labels.squeeze(-1), or add one with {name}[..., None]."
    if shape[:-1] == labels:
        return f"Class indices need one-hot encoding: jax.nn.one_hot(labels, {shape[-1]})."
    if _broadcasts(labels, shape):
        return f"Broadcast on purpose with jnp.broadcast_to(labels, {name}.shape)."
    return "Nothing is broadcast: see which of the two is not what you meant."


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        fits: bool = jnp.broadcast_shapes(shape, to) == to
    except ValueError:
        return False
    return fits


def _check_broadcast(target: Target, name: str, array: Array) -> None:
    if not _broadcasts(array.shape, target.array.shape):
        raise ValueError(
            f"{target.function}: {name} must be a scalar or broadcast to the shape of {target.name}, right-aligned and "
            f"without enlarging it, got {name} of shape {array.shape} and {target.name} of shape {target.array.shape}. "
            f"{_broadcast_remedy(name, array.shape, target)}"
        )


def _broadcast_remedy(name: str, shape: tuple[int, ...], target: Target) -> str:
    """Trailing axes of 1, where the shape fits axes that are not the last."""
    whole = target.array.shape
    for trailing in range(1, len(whole) - len(shape) + 1):
        padded = (*shape, *[1] * trailing)
        if _broadcasts(padded, whole):
            return f"Trailing axes of 1 make it fit: {name}[..., {', '.join(['None'] * trailing)}] of shape {padded}."
    return f"{name} may have {len(whole)} axes at most, each of size 1 or as long as that of {target.name}."
