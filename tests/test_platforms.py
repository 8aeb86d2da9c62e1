"""Every public loss, value and gradient, lowered for every platform with symbolic sizes, and run where there is one."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from tests.calls import CALLS, SHAPES, draw, moved, of_moved
from tests.settings import DEFAULTS, configured
from tests.test_public import PUBLIC

pytestmark = pytest.mark.slow

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def steps(family):
    """Value and gradients of every call of a family, of the first with bfloat16 predictions too, as one function."""
    calls, first = CALLS[family], next(iter(CALLS[family]))

    def run(batch):
        found = {}
        for name, dtype in [*((name, jnp.float32) for name in calls), (first, jnp.bfloat16)]:
            step = jax.value_and_grad(of_moved(calls[name], batch))
            found[f"{name}, {dtype.__name__}"] = step(moved(calls[name], batch, dtype))
        return found

    return jax.jit(run)


def agree(actual, expected, bar):
    """Equal to `bar` of the largest entry of each array; gradients in bfloat16 to one of its roundings."""
    for name in expected:
        for a, e in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(expected[name]), strict=True):
            assert (a.shape, a.dtype) == (e.shape, e.dtype), name
            most = 2.0**-7 if e.dtype == jnp.bfloat16 else bar
            a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
            assert 0 < np.max(np.abs(e)) < np.inf, name  # There is something to compare.
            np.testing.assert_allclose(a, e, rtol=0, atol=most * np.max(np.abs(e)), err_msg=name)


def test_every_public_name_is_called():
    assert {re.match(r"\w+", name)[0] for calls in CALLS.values() for name in calls} == PUBLIC


@pytest.mark.parametrize("family", CALLS)
def test_exported_for_every_platform_with_symbolic_sizes(family):
    with configured(**DEFAULTS):
        small, large = draw(2, 2), draw(8, 5)
        scope = jax.export.SymbolicScope()
        symbolic = {
            name: jax.ShapeDtypeStruct(jax.export.symbolic_shape(SHAPES[name], scope=scope), array.dtype)
            for name, array in small.items()
        }
        exported = jax.export.export(steps(family), platforms=PLATFORMS)(symbolic)
        assert exported.platforms == PLATFORMS
        # Nothing but StableHLO, which the compiler of every platform takes, and no call into a library of one.
        called = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
        assert called <= {"shape_assertion"}
        reloaded = jax.export.deserialize(exported.serialize())
        for batch in (small, large):
            agree(reloaded.call(batch), steps(family)(batch), 1e-6)


def test_exported_with_constants():
    """Masks, labels and indices that can be read, beside predictions whose sizes can not."""
    n, c = jax.export.symbolic_shape("n, c")
    known, classes, positives = np.arange(6) < 3, np.array([0, 2, 1, 3]), np.array([[0, -1], [2, 3], [1, 1], [3, -1]])
    kernel = np.ones((5, 6), np.float32)
    calls = {
        (n, 6): [
            lambda x: jaxbce.binary_cross_entropy_with_logits(x, 1, where=known),
            lambda x: jaxbce.sigmoid_focal_loss(x, True, where=True, weight=[1, 2, 3, 4, 5, 6]),
            lambda x: jaxbce.cross_entropy(x, 0, where=True),
        ],
        (4, c): [
            lambda x: jaxbce.cross_entropy(x, classes),
            lambda x: jaxbce.cross_entropy(x, 2),
            lambda x: jaxbce.sparse_binary_cross_entropy_with_logits(x, positives, where=np.ones((4, 1), bool)),
        ],
        (4, 5): [lambda x: jaxbce.linear_binary_cross_entropy(x, kernel, positives=positives)],
    }
    for shape, losses in calls.items():
        together = jax.jit(lambda x, losses=losses: [loss(x) for loss in losses])
        exported = jax.export.export(together)(jax.ShapeDtypeStruct(shape, jnp.float32))
        x = np.linspace(-3, 3, 30, dtype=np.float32)[: 20 if shape == (4, 5) else 24].reshape(4, -1)
        np.testing.assert_allclose(exported.call(x), together(x), rtol=1e-6)
    # An index that no class has is refused where the number of classes is known, and NaN where it is a symbol.
    exported = jax.export.export(jax.jit(calls[4, c][0]))(jax.ShapeDtypeStruct((4, c), jnp.float32))
    assert np.isnan(exported.call(np.ones((4, 3), np.float32)))


def test_exported_at_high_rank():
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 1, 1, 1, 1, 1, 3), jnp.float32)
    loss = functools.partial(jaxbce.binary_cross_entropy_with_logits, labels=1, axis=-1)
    exported = jax.export.export(jax.jit(loss))(shape)
    assert exported.call(jnp.ones((2, 1, 1, 1, 1, 1, 3), jnp.float32)).shape == (2, 1, 1, 1, 1, 1)


@pytest.mark.accelerator
@pytest.mark.parametrize("family", CALLS)
def test_an_accelerator_computes_what_the_cpu_does(family):
    with configured(**DEFAULTS):
        batch = draw(64, 40)
        expected = steps(family)(jax.device_put(batch, jax.devices("cpu")[0]))
        actual = steps(family)(jax.device_put(batch, jax.devices()[0]))
        agree(actual, expected, 1e-5)
