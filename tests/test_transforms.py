"""Losses on a mesh: derivatives inside `shard_map`, axes of type Explicit. Data-parallel steps: test_parallel.py."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbce import Average, cross_entropy, pos_weight_from_labels
from tests.losses import FAMILIES, each_of

pytestmark = pytest.mark.slow

EARLIER = jax.__version_info__ < (0, 10)
every_loss = each_of(FAMILIES)


@pytest.mark.cpu
@every_loss
def test_derivatives_inside_shard_map_by_what_is_the_same_on_every_device(row, rng):
    devices = jax.devices("cpu")
    n, same = 4 * len(devices), {"pos_weight": 2.0, "weight": jnp.array([1.0, 2.0, 3.0]), "label_smoothing": 0.1}
    x, y = jnp.asarray(row.draw(rng, (n, 3))), jnp.asarray(rng.random((n, 3)))

    def loss(same, x, y):
        return row(x, y, reduction="sum", **same)

    def inside(same, x, y):
        gradient = jax.grad(lambda same: jax.lax.psum(loss(same, x, y), "data"))(same)
        return gradient, jax.lax.psum(jax.jvp(lambda same: loss(same, x, y), (same,), (same,))[1], "data")

    over, replicated = PartitionSpec("data"), PartitionSpec()
    mesh = Mesh(np.asarray(devices), ("data",))
    mapped = jax.shard_map(inside, mesh=mesh, in_specs=(replicated, over, over), out_specs=replicated)
    expected = jax.grad(loss)(same, x, y), jax.jvp(lambda same: loss(same, x, y), (same,), (same,))[1]
    chex.assert_trees_all_close(jax.device_get(jax.jit(mapped)(same, x, y)), jax.device_get(expected), rtol=1e-12)


@pytest.mark.cpu
@every_loss
def test_explicit_sharding(row, rng):
    """Axes of type Explicit: no argument that is broadcast may forget how the predictions lie."""
    devices = jax.devices("cpu")
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Explicit,), devices=devices)
    n = 4 * len(devices)
    x, y = jnp.asarray(row.draw(rng, (n, 3)), jnp.float32), jnp.asarray(rng.integers(0, 2, (n, 3)))
    options = {"where": [[True, False, True]], "weight": [1.0, 2.0, 3.0], "pos_weight": 2.0, "label_smoothing": 0.1}
    whole = {"where": np.arange(3 * n).reshape(n, 3) % 4 > 0, "weight": np.ones((n, 3)) / 2}

    @jax.jit
    def losses(x, y):
        step = jax.value_and_grad(row)
        return [step(x, y, **options), step(x, 1), step(x, y, **whole), row(x, y, **whole, reduction="none")]

    replicated_labels, expected = np.asarray(y), losses(x, y)
    expected += expected[2:]

    def average(x):
        return Average.of(x, where=[True, True, False]).value

    def balance(y):
        return pos_weight_from_labels(y, where=options["where"], axis=0)

    expected += [average(x), balance(y)]
    with entered(mesh):
        x, y = (jax.device_put(a, NamedSharding(mesh, PartitionSpec("data", None))) for a in (x, y))
        actual = losses(x, y) + losses(x, replicated_labels)[2:] + [jax.jit(average)(x), jax.jit(balance)(y)]
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), rtol=1e-6)


def entered(mesh):
    """The mesh as the context, as it was called before jax 0.7 and is now."""
    return (getattr(jax, "set_mesh", None) or jax.sharding.use_mesh)(mesh)


def laid_out(mesh, array, names):
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*names)))


@pytest.fixture
def rows_and_columns():
    devices = jax.devices("cpu")
    axes = {"axis_types": (jax.sharding.AxisType.Explicit,) * 2, "devices": devices}
    return jax.make_mesh((len(devices) // 2, 2), ("rows", "columns"), **axes)


@pytest.mark.cpu
@every_loss
def test_predictions_and_labels_of_different_layouts(row, rng, rows_and_columns):
    """Of type Explicit: the labels come to where the predictions lie, and so do weights."""
    x, mask = jnp.asarray(row.draw(rng, (16, 6)), jnp.float32), jnp.asarray(rng.random((16, 6)) < 0.7)
    y, weight = jnp.asarray(rng.integers(0, 2, (16, 6))), jnp.asarray(rng.random(6), jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda x, y, weight: row(x, y, weight=weight)))
    expected = step(x, y, weight)
    for names in ((), ("rows",), ("rows", "columns")):
        for other in ((), (None, "columns"), ("rows", "columns"), (("rows", "columns"),)):
            with entered(rows_and_columns):
                arrays = [laid_out(rows_and_columns, a, n) for a, n in ((x, names), (y, other), (weight, other[1:]))]
                value, gradient = step(*arrays)
                chex.assert_trees_all_close(jax.device_get((value, gradient)), jax.device_get(expected), rtol=1e-5)
                assert gradient.sharding.is_equivalent_to(arrays[0].sharding, 2)
            # Eagerly, also where no mesh is the context.
            np.testing.assert_allclose(row(*arrays[:2]), row(x, y), rtol=1e-5)
    placed = [laid_out(rows_and_columns, a, n) for a, n in ((x, ("rows",)), (y, (None, "columns")), (mask, ()))]
    np.testing.assert_allclose(row(*placed[:2], where=placed[2]), row(x, y, where=mask), rtol=1e-5)
    for where in (mask, mask[0], mask[:, :1], mask[0, 0]):
        np.testing.assert_allclose(row(*placed[:2], where=where), row(x, y, where=where), rtol=1e-5)
    # Predictions that have no sharding of type Explicit.
    np.testing.assert_allclose(row(x, placed[1]), row(x, y), rtol=1e-5)


@pytest.mark.cpu
@pytest.mark.skipif(EARLIER, reason="earlier ones forget the axis of a batch in `vmap`")
def test_vmap_keeps_the_axis_that_splits_a_batch(rows_and_columns):
    """Also where the predictions are the same for all of it."""
    x, y = jnp.zeros(3, jnp.float32), jnp.ones((16, 3), jnp.float32)
    for row in FAMILIES:
        if row.adapter is None:
            losses = jax.jit(jax.vmap(functools.partial(row, reduction="none"), in_axes=(None, 0)))
            slopes = jax.jit(jax.vmap(jax.grad(row), in_axes=(None, 0)))
            with entered(rows_and_columns):
                for result in (f(x + 0.5, laid_out(rows_and_columns, y, ("rows",))) for f in (losses, slopes)):
                    assert result.sharding.spec[0] == "rows", row.name


@pytest.mark.cpu
@pytest.mark.skipif(EARLIER, reason="earlier ones do not gather from sharded arrays")
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": None}])
def test_class_indices_of_different_layouts(options, rng, rows_and_columns):
    """With the classes in one piece, the batch in whatever pieces."""
    x, t = jnp.asarray(rng.normal(0, 3, (16, 6)), jnp.float32), jnp.asarray(rng.integers(0, 6, 16))
    loss = functools.partial(cross_entropy, **options)
    step = jax.jit(jax.value_and_grad(loss))
    expected = step(x, t)
    for names in ((), ("rows",), (("rows", "columns"),)):
        for other in ((), ("rows",), ("columns",), (("rows", "columns"),)):
            arrays = [laid_out(rows_and_columns, a, n) for a, n in ((x, names), (t, other))]
            np.testing.assert_allclose(loss(*arrays), expected[0], rtol=1e-6)
            with entered(rows_and_columns):
                chex.assert_trees_all_close(jax.device_get(step(*arrays)), jax.device_get(expected), rtol=1e-5)
                np.testing.assert_allclose(loss(*arrays), expected[0], rtol=1e-6)
