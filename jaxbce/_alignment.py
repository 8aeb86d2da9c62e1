"""Admitted arguments made ready for the mathematics: one dtype, one shape, nothing harmful under the mask.

It is traced: all of it runs inside the compiled core of a loss, where it costs no pass of its own.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._domains import DOMAINS
from jaxbce._numerics import Whole, nan_unless

# As it was called before jax 0.7.
_RESHARD: Any = getattr(jax.sharding, "reshard", None) or importlib.import_module("jax.experimental.shard").reshard


class Admitted(NamedTuple):
    """The checked arrays of a call of a binary loss.

    `parameters` are those of its own, under their public names: arrays, None, or a whole exponent.
    """

    predictions: Array
    labels: Array
    parameters: dict[str, Any]
    weight: Array | None
    label_smoothing: Array | None
    where: Array | None


class Aligned(NamedTuple):
    """The same in one dtype and one shape, the labels smoothed.

    Labels, parameters and weight are NaN outside their domain. Predictions are left as they are: the mathematics makes
    NaN of those outside theirs.
    """

    predictions: Array
    labels: Array
    parameters: dict[str, Any]
    weight: Array | None
    where: Array | None


def compute_dtype(*arrays: Array | jax.ShapeDtypeStruct) -> type[np.floating]:
    """What the losses of these predictions are computed and returned in: at least float32."""
    return np.float64 if any(array.dtype == np.float64 for array in arrays) else np.float32


def spread(value: Array, like: Array | jax.ShapeDtypeStruct) -> Array:
    """`value` in the shape of `like`, and in its explicit sharding, if it lies on a mesh at all."""
    if value.shape != like.shape:
        value = jnp.broadcast_to(value, like.shape)
    sharding = explicit_sharding(like)
    if sharding is None or sharding.mesh.empty or sharding.spec == explicit_sharding(value).spec:
        return value
    resharded: Array = _RESHARD(value, sharding)
    return resharded


def shape_of(like: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """All of an array that `spread` looks at."""
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=explicit_sharding(like))


def explicit_sharding(array: Array | jax.ShapeDtypeStruct) -> Any:
    """The sharding that is part of the type, which an automatic one is not; None for a shape that has none."""
    return array.sharding if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array).sharding


def fit(value: Array, like: Array, where: Array | None, fill: float) -> Array:
    """`value` in the compute dtype and the shape of `like`, with `fill` where the mask hides it.

    To multiply by a mask afterwards would not do: NaN·0 is NaN, and so is its gradient.
    """
    value = spread(jax.lax.convert_element_type(value, compute_dtype(like)), like)
    return value if where is None else jnp.where(where, value, jnp.asarray(fill, value.dtype))


def guard(value: Array, name: str) -> Array:
    """`value` within the domain of the argument `name`, NaN outside, where under a transform no check can refuse it."""
    high = DOMAINS[name].high
    return nan_unless((value >= 0.0) & (value < high if high == np.inf else value <= high), value)


def align(given: Admitted, safe_prediction: float, guard: Callable[[Array, str], Array] = guard) -> Aligned:
    """The admitted arrays in one dtype and one shape, with harmless values where the mask hides them."""
    like = given.predictions
    where = None if given.where is None else spread(given.where, like)

    def fitted(value: Any, name: str) -> Any:
        return value if value is None or isinstance(value, Whole) else guard(fit(value, like, where, 0.0), name)

    # Bools too: a number times a converted bool is a select to XLA, in which a NaN is lost where the bool is False.
    labels, s = fitted(given.labels, "labels"), given.label_smoothing
    if s is not None:
        labels = smooth(labels, guard(jax.lax.convert_element_type(s, labels.dtype), "label_smoothing"), 2)
    return Aligned(
        fit(given.predictions, like, where, safe_prediction),
        labels,
        {name: fitted(value, name) for name, value in given.parameters.items()},
        fitted(given.weight, "weight"),
        where,
    )


def smooth(labels: Array, s: Array, classes: int) -> Array:
    """y·(1 - s) + s/classes."""
    return labels * (1.0 - s) + s / classes
