"""`Average`, and the one reduction that every loss ends in."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import Average, binary_cross_entropy_with_logits, cross_entropy

WHERE = jnp.asarray([True, False, True])


def test_an_average_is_a_total_and_a_weight():
    losses = jnp.asarray([1.0, jnp.nan, 4.0], jnp.float32)
    chex.assert_trees_all_equal(Average.of(losses, where=WHERE), Average(jnp.float32(5), jnp.float32(2)))
    weighted = Average.of(losses, weight=jnp.asarray([3.0, jnp.inf, 1.0]), where=WHERE)
    chex.assert_trees_all_equal(weighted, Average(jnp.float32(7), jnp.float32(4)))
    assert weighted.value == 1.75


def test_averages_add_over_unequal_batches(rng):
    losses, weight = rng.random(100), rng.random(100)
    cuts = [0, 3, 40, 40, 99, 100]
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    total = sum(Average.of(losses[part], weight=weight[part]) for part in parts)
    np.testing.assert_allclose(total.value, np.average(losses, weights=weight), rtol=1e-14)
    mean_of_means = np.mean([losses[part].mean() for part in parts if losses[part].size])
    assert abs(mean_of_means - losses.mean()) > 1e-3
    np.testing.assert_allclose(sum(Average.of(losses[part]) for part in parts).value, losses.mean(), rtol=1e-14)


def test_the_mean_of_a_loss_is_its_average(rng):
    x, y, v, mask = rng.normal(0, 3, 50), rng.random(50) < 0.5, rng.random(50), rng.random(50) < 0.5
    losses = binary_cross_entropy_with_logits(x, y, reduction="none")
    for reduction, average in {
        "mean": Average.of(losses * v, where=mask).value,
        "weighted_mean": Average.of(losses, weight=v, where=mask).value,
        "sum": Average.of(losses, weight=v, where=mask).total,
    }.items():
        loss = binary_cross_entropy_with_logits(x, y, weight=v, where=mask, reduction=reduction)
        np.testing.assert_allclose(loss, average, rtol=1e-14)


def test_nothing_included_is_zero_with_zero_gradient():
    def value(losses):
        return Average.of(losses, where=jnp.asarray(False)).value

    chex.assert_trees_all_equal(jax.value_and_grad(value)(jnp.full(3, jnp.nan)), (jnp.float64(0), jnp.zeros(3)))
    chex.assert_trees_all_equal(Average.of(jnp.zeros(0)), Average(jnp.float64(0), jnp.float64(0)))


def test_the_gradient_by_weights_of_zero_is_that_of_the_sum():
    losses = jnp.asarray([1.0, 3.0, 0.5], jnp.float32)
    gradient = jax.grad(lambda weight: Average.of(losses, weight=weight).value)(jnp.zeros(3, jnp.float32))
    np.testing.assert_array_equal(gradient, losses)


def test_an_axis_leaves_the_others(rng):
    losses = rng.random((4, 5))
    average = Average.of(losses, axis=-1)
    chex.assert_shape([average.total, average.weight], (4,))
    np.testing.assert_allclose(average.value, losses.mean(-1), rtol=1e-14)


def test_bools_and_integers_count():
    correct = jnp.asarray([True, False, True, True])
    assert Average.of(correct).value == 0.75
    chex.assert_type(Average.of(correct).total, jnp.float32)
    chex.assert_type(Average.of(jnp.asarray([1, 2], jnp.bfloat16)).total, jnp.float32)
    chex.assert_type(Average.of(jnp.asarray([1.0, 2.0], jnp.float64)).total, jnp.float64)


def test_a_count_is_exact_beyond_the_integers_of_float32():
    """2²⁴ + 1 is not a float32: a count kept by adding ones one at a time would stop at 2²⁴."""
    n = 2**24 + 2
    assert Average.of(jnp.ones(n, jnp.float32), where=jnp.ones(n, bool)).weight == n


def test_an_average_is_a_pytree(rng):
    losses = jnp.asarray(rng.random((6, 4)), jnp.float32)
    zero = Average(jnp.float32(0), jnp.float32(0))
    carried, _ = jax.lax.scan(lambda average, batch: (average + Average.of(batch), None), zero, losses)
    np.testing.assert_allclose(carried.value, losses.mean(), rtol=1e-6)
    stacked = jax.vmap(Average.of)(losses)
    np.testing.assert_allclose(jax.tree.map(jnp.sum, stacked).value, losses.mean(), rtol=1e-6)
    assert jax.jit(lambda average: average.value)(carried) == carried.value
    assert len({zero, Average(zero.total, zero.weight)}) == 2  # whether arrays are equal has no one answer


def test_gradients_accumulate_through_the_totals(rng):
    """Gradients of the totals add, and the weight divides once at the end."""
    x, y = jnp.asarray(rng.normal(0, 2, 20)), jnp.asarray(rng.integers(0, 2, 20))

    def total(shift, x, y):
        average = Average.of(binary_cross_entropy_with_logits(x + shift, y, reduction="none"))
        return average.total, average

    gradient, average = 0.0, 0
    for part in (slice(0, 3), slice(3, 20)):
        (_, batch), g = jax.value_and_grad(total, has_aux=True)(jnp.float64(0), x[part], y[part])
        gradient, average = gradient + g, average + batch
    expected = jax.value_and_grad(lambda shift: binary_cross_entropy_with_logits(x + shift, y))(jnp.float64(0))
    np.testing.assert_allclose((average.value, gradient / average.weight), expected, rtol=1e-12)


def test_psum_over_a_mapped_axis(rng):
    losses, mask = rng.random((4, 8)), rng.random((4, 8)) < np.asarray([[0.1], [0.9], [0.5], [0.0]])

    def mean(losses, mask):
        return Average.of(losses, where=mask).psum("devices").value

    everywhere = jax.vmap(mean, axis_name="devices")(losses, mask)
    np.testing.assert_allclose(everywhere, losses[mask].mean(), rtol=1e-14)
    assert (
        abs(np.nan_to_num(np.where(mask, losses, 0).sum(1) / mask.sum(1).clip(1)).mean() - losses[mask].mean()) > 1e-3
    )


def test_psum_over_an_axis_that_is_not_mapped():
    with pytest.raises(ValueError, match=r"Average.psum: axis_name must name a mapped axis, got 'devices'"):
        Average.of([1.0, 2.0]).psum("devices")
    with pytest.raises(TypeError, match=r"Average.psum: axis_name must be the name of a mapped axis .* got None"):
        jax.vmap(lambda losses: Average.of(losses).psum(None), axis_name="devices")(jnp.ones((2, 3)))


def test_an_overflowing_weight_is_no_plausible_mean():
    """Σ w is inf and Σ wℓ is not: the quotient would read 0."""
    weight = jnp.full(3, 2e38, jnp.float32)
    assert np.isnan(
        binary_cross_entropy_with_logits(jnp.ones(3, jnp.float32), 1, weight=weight, reduction="weighted_mean")
    )


def test_sums_of_averages_refuse_what_is_not_one():
    average = Average.of(jnp.ones(2))
    with pytest.raises(TypeError):
        average + 1.0
    with pytest.raises(TypeError):
        1 + average


def test_sums_of_many_axes(rng):
    """They are taken without the axes of size 1."""
    shape = (3, 1, 2, 2, 8, 1, 4)
    x, y, v = jnp.asarray(rng.normal(size=shape), jnp.float32), rng.random(shape) < 0.5, rng.random(shape)
    losses = np.asarray(binary_cross_entropy_with_logits(x, y, weight=v, reduction="none"))
    for axis in (None, 3, (1, 3), (0, -1), ()):
        for run in (lambda f: f, jax.jit):
            loss = run(lambda x, axis=axis: binary_cross_entropy_with_logits(x, y, weight=v, axis=axis))(x)
            np.testing.assert_allclose(loss, losses.mean(axis), rtol=2e-5)


def test_a_sum_of_weights_whose_reciprocal_is_flushed_to_zero():
    x, y = jnp.float32([1, 2]), jnp.float32([1, 0])
    expected = jnp.mean(binary_cross_entropy_with_logits(x, y, reduction="none"))
    weighted = binary_cross_entropy_with_logits(x, y, weight=jnp.float32([1e38, 1e38]), reduction="weighted_mean")
    np.testing.assert_allclose(weighted, expected, rtol=1e-6)
    weight = jnp.full(3, 6e37, jnp.float32)
    classes = cross_entropy(jnp.ones((2, 3), jnp.float32), jnp.array([1, 2]), class_weight=weight)
    np.testing.assert_allclose(classes, np.log(3), rtol=1e-6)
