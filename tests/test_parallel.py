"""Data-parallel training: over devices and over processes, the loss and gradients of one device.

Mask and weight differ in total from device to device, so that a mean of means would be another number.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxbce import Average, cross_entropy
from tests import parallel
from tests.losses import FAMILIES, each_of

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # whose devices are simulated


@functools.cache
def expected():
    """The results on one device, under the names that they have over several."""
    found = {}
    for row in FAMILIES:
        for reduction in parallel.reductions(row):
            loss, gradient = jax.jit(parallel.whole(row, reduction))(parallel.PARAMS, *parallel.batch(row))
            for way in ("sharded", "mapped"):
                found[f"{row.name} {reduction}, {way}"] = [loss, *gradient.values()]
    loss, gradient = parallel.pairwise()(parallel.PARAMS, *parallel.batch(FAMILIES[0])[:3:2])
    found["pairwise, mapped"] = [loss, *gradient.values()]
    found["sparse, eager"] = [parallel.eager(jnp.asarray)]
    return found


def agree(found):
    assert found.keys() == expected().keys()
    for name, numbers in found.items():
        np.testing.assert_allclose(numbers, expected()[name], rtol=1e-12, atol=1e-13, err_msg=name)


def test_devices():
    """Sharded arrays under `jit`, and `shard_map` with `Average.psum`."""
    assert len(jax.devices("cpu")) == parallel.DEVICES
    agree(parallel.over_devices())


def test_processes():
    """Two processes with half of the devices each; the sums go from one to the other."""
    both = parallel.launch(2)
    assert both[0] == both[1]
    agree(both[0])


def test_no_process_outlives_its_time():
    with pytest.raises(RuntimeError, match=r"ended with \[-9, -9\]"):
        parallel.launch(2, seconds=0.1)


@each_of(FAMILIES)
def test_a_mean_of_means_is_another_number(row):
    features, labels, weight, mask = parallel.batch(row)
    x = parallel.predictions(parallel.PARAMS, features)
    parts = [slice(4 * device, 4 * device + 4) for device in range(parallel.DEVICES)]
    for reduction in parallel.reductions(row):
        loss = functools.partial(row, reduction=reduction)
        means = [loss(x[p], labels[p], weight=weight[p], where=jnp.asarray(mask[p])) for p in parts]
        whole = expected()[f"{row.name} {reduction}, mapped"][0]
        assert abs(np.mean(means) / whole - 1) > 0.2
        # Not even the mean over those that have anything to average.
        assert abs(np.mean(means[:-1]) / whole - 1) > 0.2


def test_class_weights_of_many_classes():
    """Class indices: "mean" divides by the weights of the labels, here of all devices."""
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(0, 2, (32, 5)), rng.integers(0, 5, 32)
    labels = np.where(rng.random(32) < np.arange(32) // 4 / 8, -100, labels)
    u = jnp.asarray([0.2, 1.0, 3.0, 0.5, 7.0])
    expected = jax.value_and_grad(functools.partial(cross_entropy, class_weight=u))(jnp.asarray(scores), labels)
    mesh = Mesh(np.asarray(jax.devices("cpu")), ("data",))

    def loss(scores, labels):
        losses = cross_entropy(scores, labels, reduction="none")
        weight = jnp.take(u, jnp.maximum(labels, 0))
        return Average.of(losses, weight=weight, where=labels != -100).psum("data").value

    mapped = jax.shard_map(loss, mesh=mesh, in_specs=parallel.OVER, out_specs=parallel.SAME)
    value, gradient = jax.jit(jax.value_and_grad(mapped))(scores, labels)
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-12, atol=1e-15)
    sharded = jax.device_put((scores, labels), jax.sharding.NamedSharding(mesh, parallel.OVER))
    step = jax.jit(jax.value_and_grad(lambda x, y: cross_entropy(x, y, class_weight=u)))
    np.testing.assert_allclose(step(*sharded)[1], expected[1], rtol=1e-12, atol=1e-15)
