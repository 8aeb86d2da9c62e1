"""The boundary: what a caller hands over is converted, checked and explained here, and nowhere else.

It runs in Python on the arguments as they come: types, shapes and, where values can be read, domains.
"""

import contextlib
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._alignment import Admitted, compute_dtype, spread
from jaxbce._checks import checked
from jaxbce._typing import ArrayLike


class Target(NamedTuple):
    """The array that the other arguments of a call are held against, and what the caller calls the two."""

    function: str
    name: str
    array: Array


class _Domain(NamedTuple):
    low: float
    high: float
    rule: str
    remedy: str


_PROBS = _Domain(0.0, 1.0, "lie in [0, 1]", "Unnormalised scores belong in the function that takes logits.")
_LABELS = _Domain(0.0, 1.0, "lie in [0, 1]", "Hide missing labels with `where`; one-hot encode class indices.")
_WEIGHT = _Domain(
    0.0,
    float(np.finfo(np.float64).max),
    "be finite and not negative",
    "To leave entries out, use `where` or a weight of 0.",
)
_SMOOTHING = _Domain(0.0, 1.0, "lie in [0, 1]", "0 keeps the labels, 1 makes each of them 1/2.")


def admit(
    function: str,
    name: Literal["logits", "probs"],
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Admitted:
    """Check the arguments of the public `function`, whose predictions are called `name`.

    Raises TypeError for dtypes, ValueError for shapes and, where values can be read, for domains.
    """
    target = Target(function, name, _predictions(function, name, predictions))
    mask = admit_mask(target, where)
    if name == "probs":
        target = target._replace(array=_within(function, name, target.array, mask, target.array, _PROBS))
    labels = _within(function, "labels", _labels(target, labels), mask, target.array, _LABELS)
    return Admitted(
        target.array,
        labels,
        admit_weight(target, "pos_weight", pos_weight, mask),
        admit_weight(target, "weight", weight, mask),
        mask,
    )


def admit_values(function: str, name: str, value: ArrayLike) -> Array:
    """Real numbers of any kind, as an array."""
    array = _asarray(function, name, value)
    if not (jnp.issubdtype(array.dtype, jnp.bool_) or jnp.issubdtype(array.dtype, jnp.integer) or _is_float(array)):
        raise TypeError(f"{function}: {name} must be real numbers, got dtype {array.dtype}.")
    return array


def admit_weight(target: Target, name: str, value: ArrayLike | None, mask: Array | None) -> Array | None:
    """A weight ≥ 0 that broadcasts to the shape of the target."""
    if value is None:
        return None
    array = admit_values(target.function, name, value)
    _check_broadcast(target, name, array)
    return _within(target.function, name, array, mask, target.array, _WEIGHT)


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


def admit_smoothing(function: str, label_smoothing: ArrayLike) -> Array | None:
    """A scalar in [0, 1]; None for the number 0, which spares its cost."""
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        return None
    array = admit_values(function, "label_smoothing", label_smoothing)
    if array.shape != ():
        raise ValueError(f"{function}: label_smoothing must be a scalar, got shape {array.shape}.")
    return _within(function, "label_smoothing", array, None, array, _SMOOTHING)


def _asarray(function: str, name: str, value: ArrayLike) -> Array:
    try:
        # Numbers written inside a traced function stay readable, and so are checked like any other.
        readable = all(map(_is_readable, jax.tree.leaves(value)))
        with jax.ensure_compile_time_eval() if readable else contextlib.nullcontext():
            return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{function}: {name} must be an array or numbers, got {value!r:.40}: {error}") from None


def _is_readable(leaf: object) -> bool:
    if isinstance(leaf, np.ndarray):
        return bool(leaf.dtype != object)  # Objects may be tracers.
    return isinstance(leaf, int | float | complex | np.generic | Array) and not isinstance(leaf, jax.core.Tracer)


def _is_float(array: Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _predictions(function: str, name: str, value: ArrayLike) -> Array:
    array = _asarray(function, name, value)
    if not _is_float(array):
        raise TypeError(
            f"{function}: {name} must be floating, got dtype {array.dtype}. "
            f"The order is ({name}, labels); convert {name} with .astype(jnp.float32) if they are numbers."
        )
    return array


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
            f"One value per leading entry needs trailing axes of 1, e.g. {name}[:, None]."
        )


def _within(function: str, name: str, value: Array, mask: Array | None, like: Array, domain: _Domain) -> Array:
    """`value`, unless it leaves the domain: refused at once where it can be read, else through `checkify`.

    The mask says which entries count once value and mask have the shape of `like`.
    """
    if value.dtype == jnp.bool_:
        return value
    expected = f"{function}: {name} must {domain.rule}, got values from"
    if _is_readable(value) and (mask is None or _is_readable(mask)):
        with jax.ensure_compile_time_eval():
            outside, low, high = _extremes(value, mask, like.shape, domain.low, domain.high)
            if outside:
                raise ValueError(f"{expected} {low} to {high}. {domain.remedy}")
        return value
    counted, included = (value, None) if mask is None else (spread(value, like), spread(mask, like))
    outside, low, high = _extremes(counted, included, like.shape, domain.low, domain.high)
    return checked(value, outside, low, high, f"{expected} {{low}} to {{high}}. {domain.remedy}")


@functools.partial(jax.jit, static_argnames=("shape", "least", "most"))
def _extremes(
    value: Array, mask: Array | None, shape: tuple[int, ...], least: float, most: float
) -> tuple[Array, Array, Array]:
    """Whether any included value lies outside [least, most], and the extremes of the included values."""
    if mask is not None:
        value, mask = jnp.broadcast_to(value, shape), jnp.broadcast_to(mask, shape)
    # NaN is not outside: NaN in gives NaN out.
    value = jax.lax.convert_element_type(value, compute_dtype(value))
    low = jnp.nanmin(value, initial=jnp.inf, where=mask)
    high = jnp.nanmax(value, initial=-jnp.inf, where=mask)
    # What is finite in a wider dtype may not be so in the one that is computed in.
    most = min(most, float(np.finfo(value.dtype).max))
    return (low < least) | (high > most), low, high
