"""Weights that balance classes, from the data."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._alignment import compute_dtype, fit, guard, spread
from jaxbce._inputs import Target, admit_mask, admit_scalar, admit_values
from jaxbce._numerics import define_partials, included, is_python_number, nan_unless
from jaxbce._options import admit_axis
from jaxbce._reduction import sum_of
from jaxbce._typing import ArrayLike, Axis
from jaxbce._values import within

_GAUSS_LEGENDRE = [
    (float(1.0 + x) / 2.0, float(w) / 2.0) for x, w in zip(*np.polynomial.legendre.leggauss(10), strict=True)
]
"""Points in [0, 1] and their weights, which add up to 1."""


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
    return nan_unless(limit >= 0.0, jnp.minimum(limit, weight))


def class_weight_from_counts(counts: ArrayLike, *, beta: ArrayLike | None = None) -> Array:
    r"""A weight per class from how often the classes occur: by inverse frequency, or by effective number.

    With n_c = counts, K the number of classes that occur and N = Σ_c n_c::

        N / (K·n_c)                without beta: scikit-learn's "balanced"
        K·(1/E_c) / Σ_k (1/E_k)    with beta: E_c = (1 - β^n_c)/(1 - β), the effective number of examples

    and 1 for a class that does not occur, which has nothing to balance. An average example weighs 1 without beta, an
    average class with it. beta 0 weighs all classes alike; beta → 1 weighs by inverse frequency.

    Domain:
        Counts ≥ 0, whose sum must not overflow; beta in [0, 1]. Other values are refused; under a transform, where no
        value can be read, the weights of the classes that occur are NaN. Differentiable in both arguments, but at
        beta 0 not in that of a count below 1, where the slope has no bound. In float32, third derivatives in beta have
        few digits, and derivatives need counts from 1e-18 to 1e18.

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
    weight: Array = _from_counts(array, None if beta is None else _Beta.of(admit_scalar(target, "beta", beta), beta))
    return weight


class _Beta(NamedTuple):
    """β and 1 - β, of which a small one is exact where the other is rounded."""

    value: Array | float
    complement: Array | float

    @classmethod
    def of(cls, beta: Array, given: ArrayLike) -> "_Beta":
        """Of a Python number before it is rounded to float32, in which 1 - 0.9999 is off by 1e-4."""
        if is_python_number(given):
            return cls(given, 1.0 - given)
        beta = guard(jax.lax.convert_element_type(beta, compute_dtype(beta)), "beta")
        return cls(beta, 1.0 - beta)


@jax.jit
def _from_counts(counts: Array, beta: _Beta | None) -> Array:
    counts = guard(jax.lax.convert_element_type(counts, compute_dtype(counts)), "counts")
    missing = counts == 0.0
    number, classes = jnp.where(missing, 1.0, counts), jnp.sum(~missing, dtype=counts.dtype)
    if beta is None:
        weight = jnp.sum(counts) / jnp.maximum(classes, 1.0) / number
    else:
        effective = _effective_number(number, *(jnp.asarray(b, counts.dtype) for b in beta))
        # Times the least of them, which cancels: a 1/E may overflow, or be flushed to 0.
        least = jax.lax.stop_gradient(jnp.min(jnp.where(missing, jnp.inf, effective), initial=jnp.inf))
        share = jnp.where(missing, 0.0, jnp.where(missing, 1.0, least) / effective)
        weight = share * (classes / jnp.where(classes == 0.0, 1.0, jnp.sum(share)))
    return jnp.where(missing, 1.0, weight)


def _effective_number(n: Array, beta: Array, c: Array) -> Array:
    """E = (1 - β^n)/c of n > 0, β and c = 1 - β, with every derivative.

    Towards β = 1, where that is 0/0, as E = n·∫₀¹ (1 - c·s)^(n - 1) ds: while c and n·c are small, ten points of Gauss
    and Legendre have all digits of it.
    """
    near, small = jnp.maximum(n, 1.0) * c < 0.5, beta < 0.5
    # No form sees what would overflow in it: in a derivative 0·inf would be NaN.
    exponent, c_near = jnp.where(near, n - 1.0, 0.0), jnp.where(near, c, 0.0)
    mean = sum(weight * jnp.exp(exponent * jnp.log1p(-point * c_near)) for point, weight in _GAUSS_LEGENDRE)
    n_far = jnp.where(near, 1.0, n)
    by_beta = _rest(jnp.where(small, beta, 0.5), n_far)
    c_far = jnp.where(small, 0.5, c)
    # XLA's log1p of what is negative is off by 128 ulp in float64 (jax#39707).
    by_complement = -jnp.expm1(-n_far * jnp.log1p(c_far / (1.0 - c_far)))
    return jnp.where(near, n * mean, jnp.where(small, by_beta, by_complement) / jnp.where(near, 1.0, c))


@jax.custom_jvp
def _rest(beta: Array, n: Array) -> Array:
    """1 - β^n = -expm1(n·log β)."""
    return -jnp.expm1(n * jnp.log(beta))


@jax.custom_jvp
def _power(beta: Array, n: Array) -> Array:
    """β^n. The derivatives of jax's are NaN at 0^0 = 1, those of the formula of `_rest` at β = 0."""
    return jnp.power(beta, n)


def _by_beta(beta: Array, n: Array) -> Array:
    # Where the powers of 1/β overflow, soon or at once, 0/β is 0, and not differentiated by n.
    constant = (n == 0.0) & (beta < 1e-6)
    return n * _power(beta, jnp.where(constant, 1.0, n - 1.0))


def _by_n(beta: Array, n: Array) -> Array:
    return jnp.log(jnp.where(beta == 0.0, 1.0, beta)) * _power(beta, n)


define_partials(_power, lambda t, _, beta, n: _by_beta(beta, n) * t, lambda t, _, beta, n: _by_n(beta, n) * t)
define_partials(_rest, lambda t, _, beta, n: -_by_beta(beta, n) * t, lambda t, _, beta, n: -_by_n(beta, n) * t)
