"""Weights that balance classes, from the data."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._core import arrays
from jaxbce._core.arrays import ArrayLike, Axis
from jaxbce._core.numerics import nan_unless, zero_where_masked
from jaxbce._core.program import jit
from jaxbce._validate.arguments import is_python_number, validate, validate_axis


def pos_weight_from_labels(
    labels: ArrayLike, *, axis: Axis = 0, where: ArrayLike | None = None, max_weight: ArrayLike | None = None
) -> Array:
    r"""Negatives per positive of each class: the `pos_weight` that makes both kinds weigh the same in total.

    ::

        Σ (1 - y) / Σ y,    and 1 for a class that has only one kind of labels, or none

    Such a class has nothing to balance; and its weight is finite, so that a first positive can be learnt from.

    Domain:
        Labels in [0, 1]. Soft labels count in part on both sides. Counts are exact up to 2²⁴ in float32, and right to
        rounding above.

    Args:
        labels: bool, integer or floating, [N, C] or any shape.
        axis: the axes to count over: 0 for a weight per class of [N, C], (0, 2, 3) for [N, C, H, W], None for one
            weight of all. A weight [C] meets predictions [N, C, H, W] as pos_weight[:, None, None].
        where: bool mask, broadcasts to the shape of `labels`; False leaves a label out, whatever it holds.
        max_weight: ≥ 0, a scalar; no weight exceeds it. None leaves weights as they are.

    Returns:
        The weights in float32, or float64 for float64 labels, of the shape of `labels` without `axis`.

    Example:
        >>> labels = jnp.array([[1, 0], [0, 0], [0, 0], [0, 0]])
        >>> print(pos_weight_from_labels(labels))
        [3. 1.]

    References:
        King & Zeng, "Logistic regression in rare events data", Political Analysis, 2001.
    """
    function = "pos_weight_from_labels"
    checked = validate(function, "labels", {"labels": labels, "where": where, "max_weight": max_weight})
    return _pos_weight(**checked, axis=validate_axis(function, axis, checked["labels"].ndim))


@jit("axis")
def _pos_weight(labels: Array, where: Array | None, max_weight: Array | None, *, axis: tuple[int, ...] | None) -> Array:
    where = None if where is None else arrays.broadcast_like(where, labels)
    y = arrays.nan_outside_domain(arrays.cast_and_fill(labels, labels, where, 0.0), "labels")
    positives, negatives = arrays.sum_of(y, axis), arrays.sum_of(zero_where_masked(1.0 - y, where), axis)
    one_kind = (positives == 0.0) | (negatives == 0.0)
    weight = jnp.where(one_kind, 1.0, negatives / jnp.where(one_kind, 1.0, positives))
    if max_weight is None:
        return weight
    limit = jax.lax.convert_element_type(max_weight, weight.dtype)
    return nan_unless(limit >= 0.0, jnp.minimum(limit, weight))


def class_weight_from_counts(counts: ArrayLike, *, beta: ArrayLike | None = None) -> Array:
    r"""A weight per class from how often the classes occur: by inverse frequency, or by effective number.

    With n_c = counts, K the number of classes that occur and N = Σ_c n_c::

        N / (K·n_c)                without beta: scikit-learn's "balanced"
        K·(1/E_c) / Σ_k (1/E_k)    with beta: E_c = (1 - β^n_c)/(1 - β), the effective number of examples

    and 1 for a class that does not occur, which has nothing to balance. An average example weighs 1 without beta, an
    average class with it. beta 0 weighs all classes alike; beta → 1 weighs by inverse frequency.

    Domain:
        Counts ≥ 0, whose sum must not overflow; beta in [0, 1]. Differentiable in the counts, and in beta between 0 and
        1, at which its derivative is NaN.

    Args:
        counts: the number of examples of each class, real, shape [C].
        beta: β in [0, 1], a scalar; None weighs by inverse frequency.

    Returns:
        The weights in float32, or float64 for float64 counts, shape [C].

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
    checked = validate(function, "counts", {"counts": counts, "beta": beta})
    if checked["counts"].ndim != 1:
        shape = checked["counts"].shape
        raise ValueError(f"{function}: counts must have one axis, one count per class, got shape {shape}.")
    # Subtract in Python where that is possible: rounded to float32, 1 - 0.9999 is off by 1e-4.
    complement = 1.0 - beta if is_python_number(beta) else None
    return _from_counts(**checked, complement=complement)


@jit()
def _from_counts(counts: Array, beta: Array | None, complement: float | None) -> Array:
    counts = arrays.nan_outside_domain(jax.lax.convert_element_type(counts, arrays.compute_dtype(counts)), "counts")
    missing = counts == 0.0
    number, classes = jnp.where(missing, 1.0, counts), jnp.sum(~missing, dtype=counts.dtype)
    if beta is None:
        weight = jnp.sum(counts) / jnp.maximum(classes, 1.0) / number
    else:
        beta = arrays.nan_outside_domain(jax.lax.convert_element_type(beta, arrays.compute_dtype(beta)), "beta")
        rest = 1.0 - beta if complement is None else jnp.asarray(complement)
        effective = _effective_number(number, *(b.astype(counts.dtype) for b in (beta, rest)))
        # Multiply by the least, which cancels: a 1/E may overflow, or be flushed to 0.
        least = jax.lax.stop_gradient(jnp.min(jnp.where(missing, jnp.inf, effective), initial=jnp.inf))
        inverse = jnp.where(missing, 0.0, jnp.where(missing, 1.0, least) / effective)
        weight = inverse * (classes / jnp.where(classes == 0.0, 1.0, jnp.sum(inverse)))
    return jnp.where(missing, 1.0, weight)


def _effective_number(n: Array, beta: Array, c: Array) -> Array:
    """E = (1 - β^n)/c of n > 0 with c = 1 - β: 1 at β = 0, n at β = 1."""
    is_end = (beta == 0.0) | (c == 0.0)
    inner_beta, inner_c = (jnp.where(is_end, 0.5, value) for value in (beta, c))
    # Write -log β as log1p(c/β): log1p of a negative argument is off by 128 ulp in float64 (jax#39707).
    inside = -jnp.expm1(-n * jnp.log1p(inner_c / inner_beta)) / inner_c
    # Make the derivative by β NaN at the ends, where the select would give 0: √0 has an infinite slope.
    return jnp.where(is_end, jnp.where(c == 0.0, n, 1.0), inside) + 0.0 * jnp.sqrt(beta * c)
