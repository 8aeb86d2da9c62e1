"""Weights that balance classes, from the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._alignment import compute_dtype, fit, guard, spread
from jaxbce._inputs import Target, admit_mask, admit_scalar, admit_values
from jaxbce._numerics import Tangent, directional, included, is_python_number, nan_outside
from jaxbce._options import admit_axis
from jaxbce._reduction import sum_of
from jaxbce._typing import ArrayLike, Axis
from jaxbce._values import within


def pos_weight_from_labels(
    labels: ArrayLike,
    *,
    axis: Axis = 0,
    where: ArrayLike | None = None,
    max_weight: ArrayLike | None = None,
) -> Array:
    r"""Negatives per positive of each class: the `pos_weight` that makes both kinds weigh the same in total.

    ::

        Σ (1 - y) / Σ y,    and 1 for a class that has only one kind of labels, or none

    Such a class has nothing to balance; and its weight is finite, so that a first positive can be learnt from.

    Domain:
        Labels in [0, 1]. Soft labels count in part on both sides. Labels outside are refused; under a transform, where
        no value can be read, the weight is NaN. Counts are exact up to 2²⁴ in float32, and right to rounding above.

    Args:
        labels: bool, integer or floating, [N, C] or any shape.
        axis: the axes to count over: 0 for a weight per class of [N, C], (0, 2, 3) for [N, C, H, W], None for one
            weight of all. A weight [C] meets predictions [N, C, H, W] as pos_weight[:, None, None].
        where: bool mask, broadcasts to the shape of `labels`; False leaves a label out, whatever it holds.
        max_weight: ≥ 0, a scalar; no weight exceeds it. None leaves weights as they are.

    Returns:
        The weights in float32, or float64 for float64 labels, of the shape of `labels` without `axis`.

    Raises:
        TypeError: labels that are not real, a mask that is not bool.
        ValueError: labels outside [0, 1], a mask that does not fit, an axis that is not there, a negative or infinite
            `max_weight`. Under `jit` and other transforms the checks of values need
            `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> labels = jnp.array([[1, 0], [0, 0], [0, 0], [0, 0]])
        >>> print(pos_weight_from_labels(labels))
        [3. 1.]

    References:
        King & Zeng, "Logistic regression in rare events data", Political Analysis, 2001.
    """
    function = "pos_weight_from_labels"
    array = admit_values(function, "labels", labels)
    target = Target(function, "labels", array)
    mask = admit_mask(target, where)
    array = within(function, "labels", array, mask, array)
    limit = None if max_weight is None else admit_scalar(target, "max_weight", max_weight)
    weight: Array = _pos_weight(array, mask, limit, axis=admit_axis(function, axis, array.ndim))
    return weight


@functools.partial(jax.jit, static_argnames="axis")
def _pos_weight(labels: Array, where: Array | None, limit: Array | None, *, axis: tuple[int, ...] | None) -> Array:
    where = None if where is None else spread(where, labels)
    y = guard(fit(labels, labels, where, 0.0), "labels")
    positives, negatives = sum_of(y, axis), sum_of(included(1.0 - y, where), axis)
    one_kind = (positives == 0.0) | (negatives == 0.0)
    weight = jnp.where(one_kind, 1.0, negatives / jnp.where(one_kind, 1.0, positives))
    if limit is None:
        return weight
    limit = jax.lax.convert_element_type(limit, weight.dtype)
    # Either may be NaN, and `minimum` keeps the second one alone.
    return nan_outside(jnp.minimum(limit, weight), limit)


def class_weight_from_counts(counts: ArrayLike, *, beta: ArrayLike | None = None) -> Array:
    r"""A weight per class from how often the classes occur: by inverse frequency, or by effective number.

    With n_c = counts, K the number of classes that occur and N = Σ_c n_c::

        N / (K·n_c)                without beta: scikit-learn's "balanced"
        K·(1/E_c) / Σ_k (1/E_k)    with beta: E_c = (1 - β^n_c)/(1 - β), the effective number of examples

    and 1 for a class that does not occur, which has nothing to balance. An average example weighs 1 without beta, an
    average class with it. beta 0 weighs all classes alike; beta → 1 weighs by inverse frequency.

    Domain:
        Counts ≥ 0, whose sum must not overflow; beta in [0, 1]. Other values are refused; under a transform, where no
        value can be read, the weights of the classes that occur are NaN. Differentiable in both arguments; of beta
        the second derivative at 0 is NaN.

    Args:
        counts: the number of examples of each class, real, shape [C].
        beta: β in [0, 1], a scalar; None weighs by inverse frequency.

    Returns:
        The weights in float32, or float64 for float64 counts, shape [C].

    Raises:
        TypeError: counts or beta that are not real.
        ValueError: counts that are not of one axis; values outside their domain. Under `jit` and other transforms the
            checks of values need `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> counts = jnp.array([900, 90, 10])
        >>> print(class_weight_from_counts(counts).round(1))
        [ 0.4  3.7 33.3]
        >>> print(class_weight_from_counts(counts, beta=0.99).round(1))
        [0.2 0.4 2.4]

    References:
        King & Zeng, "Logistic regression in rare events data", Political Analysis, 2001. Cui et al., "Class-balanced
        loss based on effective number of samples", CVPR 2019 (`beta`).
    """
    function = "class_weight_from_counts"
    array = admit_values(function, "counts", counts)
    if array.ndim != 1:
        raise ValueError(f"{function}: counts must have one axis, one count per class, got shape {array.shape}.")
    array = within(function, "counts", array, None, array)
    target = Target(function, "counts", array)
    complement = None if beta is None else _complement(admit_scalar(target, "beta", beta), beta)
    weight: Array = _from_counts(array, complement)
    return weight


def _complement(beta: Array, given: ArrayLike) -> Array | float:
    """1 - β; of a Python number before it is rounded to float32, where 1 - 0.9999 is off by 1e-4."""
    if is_python_number(given):
        return 1.0 - given
    return 1.0 - guard(jax.lax.convert_element_type(beta, compute_dtype(beta)), "beta")


@jax.jit
def _from_counts(counts: Array, complement: Array | float | None) -> Array:
    counts = guard(jax.lax.convert_element_type(counts, compute_dtype(counts)), "counts")
    missing = counts == 0.0
    number, classes = jnp.where(missing, 1.0, counts), jnp.sum(~missing, dtype=counts.dtype)
    if complement is None:
        weight = jnp.sum(counts) / (jnp.maximum(classes, 1.0) * number)
    else:
        complement = jnp.broadcast_to(jax.lax.convert_element_type(complement, counts.dtype), counts.shape)
        share = jnp.where(missing, 0.0, 1.0 / _effective_number(number, complement))
        weight = share * (classes / jnp.maximum(jnp.sum(share), float(np.finfo(counts.dtype).tiny)))
    return jnp.where(missing, 1.0, weight)


@jax.custom_jvp
def _effective_number(n: Array, c: Array) -> Array:
    """E = (1 - β^n)/c = -expm1(n·log β)/c of n and c = 1 - β, so that no β next to 1 cancels; n at β = 1."""
    return jnp.where(c == 0.0, n, -jnp.expm1(n * _log_of_beta(c)) / jnp.where(c == 0.0, 1.0, c))


@functools.partial(_effective_number.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array], tangents: tuple[Tangent, Tangent]) -> tuple[Array, Array]:
    n, c = primals
    effective, log_beta, some = _effective_number(n, c), _log_of_beta(c), jnp.where(c == 0.0, 1.0, c)

    def by_n() -> Array:
        return jnp.where(c == 0.0, 1.0, -log_beta * jnp.exp(n * log_beta) / some)

    def by_c() -> Array:
        closed = (n * jnp.exp((n - 1.0) * log_beta) - effective) / some
        # Next to β = 1 that cancels, and the first terms of Σ_k k·C(n, k + 1)·(-c)^(k - 1), negated, do not.
        series = -n * (n - 1.0) / 2.0 * (1.0 - (n - 2.0) / 1.5 * c * (1.0 - 0.375 * (n - 3.0) * c))
        # Where what the one cancels is what the other leaves out: 1e-5 of the slope in float32, 1e-11 in float64.
        near = n * c < float(100.0 * np.finfo(n.dtype).eps) ** 0.25
        return jnp.where(near, series, closed)

    return effective, directional((by_n, tangents[0]), (by_c, tangents[1]))


def _log_of_beta(c: Array) -> Array:
    """log(1 - c), and a number whose exp is 0 for -inf."""
    return jnp.maximum(jnp.log1p(-c), -1e4)
