"""Admitted arguments made ready for the mathematics: one dtype, one shape, nothing harmful under the mask.

It is traced: all of it runs inside the compiled core of a loss, where it costs no pass of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce import _numerics


class Admitted(NamedTuple):
    """The arrays of one call, checked by `admit`; after `align` also of one dtype and one shape."""

    predictions: Array
    labels: Array
    pos_weight: Array | None
    weight: Array | None
    where: Array | None


def compute_dtype(array: Array) -> type[np.floating]:
    """What losses are computed and returned in: at least float32."""
    return np.float64 if array.dtype == np.float64 else np.float32


def spread(value: Array, like: Array) -> Array:
    """`value` in the shape of `like`, and in its sharding: `broadcast_to` would forget an explicit one."""
    if value.shape == like.shape:
        return value
    value = value.reshape((1,) * (like.ndim - value.ndim) + value.shape)
    return value + jnp.zeros_like(like, dtype=value.dtype)


def fit(value: Array, like: Array, where: Array | None, fill: float) -> Array:
    """`value` in the compute dtype and the shape of `like`, with `fill` where the mask hides it.

    To multiply by a mask afterwards would not do: NaN·0 is NaN, and so is its gradient.
    """
    value = spread(jax.lax.convert_element_type(value, compute_dtype(like)), like)
    return value if where is None else jnp.where(where, value, jnp.asarray(fill, value.dtype))


def align(given: Admitted, safe_prediction: float) -> Admitted:
    """The admitted arrays in one dtype and one shape, with harmless values where the mask hides them.

    A label outside [0, 1] and a weight that is negative or infinite, which under a transform no check could refuse, are
    made NaN.
    """
    like = given.predictions
    where = None if given.where is None else spread(given.where, like)
    labels = fit(given.labels, like, where, 0.0)
    return Admitted(
        fit(given.predictions, like, where, safe_prediction),
        labels if given.labels.dtype == jnp.bool_ else unit_or_nan(labels),
        fit_weight(given.pos_weight, like, where),
        fit_weight(given.weight, like, where),
        where,
    )


def fit_weight(weight: Array | None, like: Array, where: Array | None) -> Array | None:
    """`fit` for a weight, NaN where it is negative or infinite."""
    if weight is None:
        return None
    weight = fit(weight, like, where, 0.0)
    return _numerics.nan_where_negative(weight, jnp.minimum(weight, float(np.finfo(weight.dtype).max) - weight))


def unit_or_nan(value: Array) -> Array:
    """`value` within [0, 1], NaN outside, where value·(1 - value) is negative."""
    return _numerics.nan_where_negative(value, value * (1.0 - value))


def smooth(labels: Array, label_smoothing: Array | None) -> Array:
    """y·(1 - s) + s/2."""
    if label_smoothing is None:
        return labels
    s = unit_or_nan(jax.lax.convert_element_type(label_smoothing, labels.dtype))
    return labels * (1.0 - s) + 0.5 * s
