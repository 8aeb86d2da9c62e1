"""The boundary: what a caller hands over is converted, checked and explained here, and nowhere else.

`admit` runs in Python on the arguments as they come: types, shapes and, where values can be read, domains.
`align` runs inside the compiled core on what was admitted: one dtype, one shape, nothing harmful under the mask.
"""

import contextlib
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce import _numerics
from jaxbce._checks import checked
from jaxbce._typing import ArrayLike


class Admitted(NamedTuple):
    """The arrays of one call, checked by `admit`; after `align` also of one dtype and one shape."""

    predictions: Array
    labels: Array
    pos_weight: Array | None
    weight: Array | None
    where: Array | None


class _Domain(NamedTuple):
    low: float
    high: float
    remedy: str


_PROBS = _Domain(0.0, 1.0, "Unnormalised scores belong in the function that takes logits.")
_LABELS = _Domain(0.0, 1.0, "Hide missing labels with `where`; one-hot encode class indices.")
_WEIGHT = _Domain(0.0, float("inf"), "A weight scales a loss; to leave entries out, use `where` or a weight of 0.")
_SMOOTHING = _Domain(0.0, 1.0, "0 keeps the labels, 1 makes each of them 1/2.")


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
    predictions = _predictions(function, name, predictions)
    shape = predictions.shape
    labels = _labels(function, name, shape, labels)
    mask = admit_mask(function, name, shape, where)
    if name == "probs":
        predictions = _within(function, name, predictions, mask, shape, _PROBS)
    return Admitted(
        predictions,
        _within(function, "labels", labels, mask, shape, _LABELS),
        admit_weight(function, name, shape, "pos_weight", pos_weight, mask),
        admit_weight(function, name, shape, "weight", weight, mask),
        mask,
    )


def admit_values(function: str, name: str, value: ArrayLike) -> Array:
    """Real numbers of any kind, as an array."""
    array = _asarray(function, name, value)
    if not (jnp.issubdtype(array.dtype, jnp.bool_) or jnp.issubdtype(array.dtype, jnp.integer) or _is_float(array)):
        raise TypeError(f"{function}: {name} must be real numbers, got dtype {array.dtype}.")
    return array


def admit_weight(
    function: str, target: str, shape: tuple[int, ...], name: str, value: ArrayLike | None, mask: Array | None
) -> Array | None:
    """A weight ≥ 0 that broadcasts to `shape`, the shape of the argument called `target`."""
    if value is None:
        return None
    array = admit_values(function, name, value)
    _check_broadcast(function, target, shape, name, array)
    return _within(function, name, array, mask, shape, _WEIGHT)


def admit_mask(function: str, target: str, shape: tuple[int, ...], where: ArrayLike | None) -> Array | None:
    """A bool mask that broadcasts to `shape`, the shape of the argument called `target`."""
    if where is None:
        return None
    mask = _asarray(function, "where", where)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"{function}: where must be a bool mask, True for the entries to include, got dtype {mask.dtype}. "
            "Compare first, e.g. where=mask != 0."
        )
    _check_broadcast(function, target, shape, "where", mask)
    return mask


def admit_smoothing(function: str, label_smoothing: ArrayLike) -> Array | None:
    """A scalar in [0, 1]; None for the number 0, which spares its cost."""
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        return None
    array = admit_values(function, "label_smoothing", label_smoothing)
    if array.shape != ():
        raise ValueError(f"{function}: label_smoothing must be a scalar, got shape {array.shape}.")
    return _within(function, "label_smoothing", array, None, (), _SMOOTHING)


def compute_dtype(array: Array) -> type[np.floating]:
    """What losses are computed and returned in: at least float32."""
    return np.float64 if array.dtype == np.float64 else np.float32


def fit(value: Array, like: Array, where: Array | None, fill: float) -> Array:
    """`value` in the compute dtype and the shape of `like`, with `fill` where the mask hides it.

    To multiply by a mask afterwards would not do: NaN·0 is NaN, and so is its gradient.
    """
    value = jnp.broadcast_to(jax.lax.convert_element_type(value, compute_dtype(like)), like.shape)
    return value if where is None else jnp.where(where, value, jnp.asarray(fill, value.dtype))


def align(given: Admitted, safe_prediction: float) -> Admitted:
    """The admitted arrays in one dtype and one shape, with harmless values where the mask hides them.

    A label outside [0, 1] or a negative weight, which under a transform no check could refuse, is made NaN.
    """
    like = given.predictions
    where = None if given.where is None else jnp.broadcast_to(given.where, like.shape)
    labels = fit(given.labels, like, where, 0.0)
    return Admitted(
        fit(given.predictions, like, where, safe_prediction),
        labels if given.labels.dtype == jnp.bool_ else unit_or_nan(labels),
        fit_weight(given.pos_weight, like, where),
        fit_weight(given.weight, like, where),
        where,
    )


def fit_weight(weight: Array | None, like: Array, where: Array | None) -> Array | None:
    """`fit` for a weight, NaN where it is negative."""
    if weight is None:
        return None
    weight = fit(weight, like, where, 0.0)
    return _numerics.nan_where_negative(weight, weight)


def unit_or_nan(value: Array) -> Array:
    """`value` within [0, 1], NaN outside, where value·(1 - value) is negative."""
    return _numerics.nan_where_negative(value, value * (1.0 - value))


def smooth(labels: Array, label_smoothing: Array | None) -> Array:
    """y·(1 - s) + s/2."""
    if label_smoothing is None:
        return labels
    s = unit_or_nan(jax.lax.convert_element_type(label_smoothing, labels.dtype))
    return labels * (1.0 - s) + 0.5 * s


def _asarray(function: str, name: str, value: ArrayLike) -> Array:
    # Numbers written inside a traced function stay readable, and so are checked like any other.
    readable = all(map(_is_readable, jax.tree.leaves(value)))
    try:
        with jax.ensure_compile_time_eval() if readable else contextlib.nullcontext():
            return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}: {name} must be an array or numbers, got {value!r:.40}: {error}") from None


def _is_readable(leaf: object) -> bool:
    concrete = isinstance(leaf, int | float | complex | np.ndarray | np.generic | Array)
    return concrete and not isinstance(leaf, jax.core.Tracer)


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


def _labels(function: str, name: str, shape: tuple[int, ...], value: ArrayLike) -> Array:
    labels = admit_values(function, "labels", value)
    if labels.shape in (shape, ()):
        return labels
    raise ValueError(
        f"{function}: labels must have the shape of {name} or be a scalar, got {name} of shape {shape} and labels of "
        f"shape {labels.shape}. {_shape_remedy(name, shape, labels.shape)}"
    )


def _shape_remedy(name: str, shape: tuple[int, ...], labels: tuple[int, ...]) -> str:
    if shape == (*labels, 1):
        return f"Drop the last axis with {name}.squeeze(-1), or add one with labels[..., None]."
    if labels == (*shape, 1):
        return f"Drop the last axis with labels.squeeze(-1), or add one with {name}[..., None]."
    if shape[:-1] == labels:
        return f"Class indices need one-hot encoding: jax.nn.one_hot(labels, {shape[-1]})."
    return f"Broadcast on purpose with jnp.broadcast_to(labels, {name}.shape)."


def _check_broadcast(function: str, target: str, shape: tuple[int, ...], name: str, array: Array) -> None:
    try:
        fits = jnp.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{function}: {name} must be a scalar or broadcast to the shape of {target}, right-aligned and without "
            f"enlarging it, got {name} of shape {array.shape} and {target} of shape {shape}. "
            f"One value per leading entry needs trailing axes of 1, e.g. {name}[:, None]."
        )


def _within(
    function: str, name: str, value: Array, mask: Array | None, shape: tuple[int, ...], domain: _Domain
) -> Array:
    """`value`, unless it leaves the domain: refused at once where it can be read, else through `checkify`."""
    if value.dtype == jnp.bool_:
        return value
    expected = f"{function}: {name} must lie in [{domain.low:g}, {domain.high:g}], got values from"
    if not (_is_readable(value) and (mask is None or _is_readable(mask))):
        outside, low, high = _extremes(value, mask, shape, domain.low, domain.high)
        return checked(value, outside, low, high, f"{expected} {{low}} to {{high}}. {domain.remedy}")
    with jax.ensure_compile_time_eval():
        outside, low, high = _extremes(value, mask, shape, domain.low, domain.high)
        if outside:
            raise ValueError(f"{expected} {float(low):g} to {float(high):g}. {domain.remedy}")
    return value


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
    return (low < least) | (high > most), low, high
