"""Criteria: the functions with their options bound, and what a pytree is good for."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from jaxbce import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss

CRITERIA = {
    BCEWithLogitsLoss: jaxbce.binary_cross_entropy_with_logits,
    BCELoss: jaxbce.binary_cross_entropy,
    CrossEntropyLoss: jaxbce.cross_entropy,
}
every_criterion = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.__name__)


def options_of(criterion):
    """Every option at once, each away from its default."""
    weights = jnp.float32([2.0, 1.0, 3.0])
    if criterion is CrossEntropyLoss:
        options = {"class_weight": weights, "class_axis": 1, "ignore_index": 1}
    else:
        options = {"pos_weight": weights, "weight": weights[::-1]}
    return options | {"label_smoothing": 0.1, "axis": 0, "reduction": "weighted_mean"}


def batch(criterion, rng):
    predictions = jnp.asarray(rng.random((5, 3)), jnp.float32)
    labels = rng.integers(0, 3, 5) if criterion is CrossEntropyLoss else rng.integers(0, 2, (5, 3))
    where = jnp.asarray(rng.random(labels.shape) < 0.7)
    return predictions, jnp.asarray(labels), where


@every_criterion
def test_fields_are_the_options_of_the_function(criterion):
    parameters = inspect.signature(CRITERIA[criterion]).parameters
    fields = {field.name: field.default for field in dataclasses.fields(criterion)}
    options = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "where"}
    assert fields == options
    assert set(options_of(criterion)) == set(options)


@every_criterion
def test_a_call_is_a_call_of_the_function(criterion, rng):
    x, y, where = batch(criterion, rng)
    options = options_of(criterion)
    function = CRITERIA[criterion]
    np.testing.assert_array_equal(criterion(**options)(x, y), function(x, y, **options))
    np.testing.assert_array_equal(criterion(**options)(x, y, where=where), function(x, y, where=where, **options))
    np.testing.assert_array_equal(criterion()(x, y, where=where), function(x, y, where=where))


@every_criterion
def test_weights_are_leaves_and_options_are_not(criterion):
    options = options_of(criterion)
    weights = [value for value in options.values() if isinstance(value, jax.Array)]
    leaves, structure = jax.tree.flatten(criterion(**options))
    assert len(leaves) == len(weights)
    assert all(a is b for a, b in zip(leaves, weights, strict=True))
    assert jax.tree.leaves(criterion()) == []
    hash(structure)
    again = jax.tree.unflatten(structure, leaves)
    assert {f.name: getattr(again, f.name) for f in dataclasses.fields(criterion)} == options


@every_criterion
def test_as_an_argument_of_jit_and_grad(criterion, rng):
    x, y, where = batch(criterion, rng)
    bound = criterion(**options_of(criterion))

    @jax.jit
    def loss(criterion, x):
        return criterion(x, y, where=where).sum()

    np.testing.assert_allclose(loss(bound, x), bound(x, y, where=where).sum(), rtol=1e-6)
    slope = jax.grad(loss)(bound, x)
    assert type(slope) is criterion
    for direction in jax.tree.leaves(slope):
        assert np.isfinite(direction).all()
    squared = criterion(**{n: v * v if isinstance(v, jax.Array) else v for n, v in options_of(criterion).items()})
    assert loss(jax.tree.map(lambda w: w * w, bound), x) == loss(squared, x) != loss(bound, x)


@every_criterion
def test_vmap_over_weights(criterion, rng):
    x, y, _ = batch(criterion, rng)
    name = "class_weight" if criterion is CrossEntropyLoss else "pos_weight"
    many = jnp.asarray(rng.uniform(0.5, 3, (4, 3)), jnp.float32)
    losses = jax.vmap(lambda c: c(x, y))(criterion(**{name: many}))
    np.testing.assert_allclose(losses, [criterion(**{name: w})(x, y) for w in many], rtol=1e-6)


@every_criterion
def test_frozen_and_by_name_and_equal_to_nothing_else(criterion):
    """Whether two arrays are equal has no one answer."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        criterion().reduction = "sum"
    with pytest.raises(TypeError):
        criterion(jnp.ones(3))
    assert criterion() != criterion()
    assert len({criterion(), criterion()}) == 2


@every_criterion
def test_refusals(criterion, rng):
    """A bad reduction at once, all else by the function."""
    with pytest.raises(ValueError, match=f"{criterion.__name__}: reduction must be one of"):
        criterion(reduction="batchmean")
    with pytest.raises(ValueError, match=f"{criterion.__name__}: reduction='none' reduces no axis"):
        criterion(reduction="none", axis=0)
    x, y, _ = batch(criterion, rng)
    with pytest.raises(ValueError, match=f"{CRITERIA[criterion].__name__}: axis must lie in"):
        criterion(axis=2)(x, y)
