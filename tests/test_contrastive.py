"""`sigmoid_contrastive_loss`: the loss on the full logits under every transform, its memory, its ring, its refusals."""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbce import sigmoid_contrastive_loss
from tests import oracle
from tests.settings import DEFAULTS, configured

EVERY = (0, 1, 2, 3)  # x, y, scale and bias
OVER, SAME = PartitionSpec("data"), PartitionSpec()


def fused(x, y, scale, bias, **options):
    return sigmoid_contrastive_loss(x, y, logit_scale=scale, logit_bias=bias, **options)


def unfused(x, y, scale, bias, **options):
    return oracle.naive_pairs(x, y, logit_scale=scale, logit_bias=bias, **options)


def batch(rng, size, features, dtype=jnp.float64):
    x, y = (jnp.asarray(rng.normal(size=(size, features)), dtype) for _ in range(2))
    return x, y, jnp.asarray(1.5, dtype), jnp.asarray(-0.5, dtype)


def close(actual, expected, tolerance=1e-12):
    oracle.assert_close(actual, expected, tolerance)


@pytest.mark.parametrize(
    ("size", "features", "tile_size"),
    [
        (1, 1, None),
        (7, 2, 3),
        (12, 3, 4),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(1, 3, 1), (2, 1, 1), (9, 4, 4), (11, 3, 10), (13, 3, 2), (5, 2, 1000)]
        ),
    ],
)
def test_value_and_gradients_are_those_of_the_full_logits(rng, size, features, tile_size):
    pairs = batch(rng, size, features)
    weight = jnp.asarray(rng.uniform(-1, 1, size))

    def derivatives(loss, *pairs):
        """By reduction, the loss (without a derivative another pass) with its gradients."""
        each = functools.partial(loss, reduction="none")
        found = {"none": (each(*pairs), jax.grad(lambda *a: jnp.vdot(weight, each(*a)), EVERY)(*pairs))}
        for reduction in ("mean", "weighted_mean", "sum"):
            reduced = functools.partial(loss, reduction=reduction)
            found[reduction] = reduced(*pairs), jax.value_and_grad(reduced, EVERY)(*pairs)
        return found

    ours = functools.partial(fused, tile_size=tile_size)
    close(*(jax.jit(functools.partial(derivatives, loss))(*pairs) for loss in (ours, unfused)))


@pytest.mark.parametrize("argnums", EVERY)
def test_a_gradient_by_one_argument_alone(rng, argnums):
    """A frozen tower: what is not differentiated is not computed, and what is, is the same."""
    pairs = batch(rng, 7, 3)
    ours = functools.partial(fused, tile_size=3)
    close(*(jax.jit(jax.grad(loss, argnums))(*pairs) for loss in (ours, unfused)))


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_features(rng, dtype):
    """They are computed in float32, the loss is one, and a gradient is rounded once, into the dtype of its argument."""
    *features, scale, bias = batch(rng, 40, 8, jnp.float32)
    features = [a.astype(dtype) for a in features]
    wide = [a.astype(jnp.float32) for a in features]
    run = jax.value_and_grad(functools.partial(fused, tile_size=16), EVERY)
    value, gradients = run(*features, scale, bias)
    expected, expected_gradients = run(*wide, scale, bias)
    chex.assert_type([value, *gradients], [jnp.float32, dtype, dtype, jnp.float32, jnp.float32])
    close(value, expected, 1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        chex.assert_trees_all_equal(gradient, reference.astype(gradient.dtype))


def test_the_wider_features_decide_the_dtype(rng):
    x, y, scale, bias = batch(rng, 3, 2)
    for a, b, dtype in [(jnp.float32, jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float64, jnp.float64)]:
        for s in (2, jnp.bfloat16(2), scale):
            for reduction in ("mean", "none"):
                loss = fused(x.astype(a), y.astype(b), s, bias, reduction=reduction)
                assert (loss.dtype, loss.weak_type) == (dtype, False)


def test_float32_accuracy(rng):
    """Errors against float64, relative to the largest entry."""
    *features, scale, bias = batch(rng, 300, 16, jnp.float32)
    features = [a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in features]
    scale, bias = 30 * scale, 20 * bias
    exact = jax.value_and_grad(unfused, EVERY)(*(a.astype(jnp.float64) for a in (*features, scale, bias)))
    value, gradients = jax.jit(jax.value_and_grad(functools.partial(fused, tile_size=128), EVERY))(
        *features, scale, bias
    )
    close(jnp.float64(value), exact[0], 5e-7)
    close([g.astype(jnp.float64) for g in gradients], list(exact[1]), 2e-6)


def test_tails():
    """A pair that is surely right costs what it costs, and not 0; its slope too."""
    one, two = jnp.ones((1, 1), jnp.float32), jnp.ones((2, 1), jnp.float32)
    for z in (-200.0, -20.0, 0.0, 20.0, 80.0):
        value, slope = jax.value_and_grad(fused, 3)(one, one, jnp.float32(0), jnp.float32(z))
        np.testing.assert_allclose(value, float(oracle.logit_loss(z, 1)), rtol=1e-6)
        np.testing.assert_allclose(slope, float(oracle.logit_slope(z, 1)), rtol=1e-6, atol=1e-37)
    each = fused(two, two, jnp.float32(0), jnp.float32(-20), reduction="none")
    np.testing.assert_allclose(each, float(oracle.logit_loss(-20, 1) + oracle.logit_loss(-20, 0)), rtol=1e-6)


def test_no_pairs_and_no_features():
    empty = jnp.zeros((0, 3), jnp.float32)
    assert np.isnan(fused(empty, empty, 1.0, 0.0))
    assert fused(empty, empty, 1.0, 0.0, reduction="sum") == 0
    assert fused(empty, empty, 1.0, 0.0, reduction="none").shape == (0,)
    chex.assert_shape(jax.grad(fused)(empty, empty, 1.0, 0.0), (0, 3))
    bare = jnp.zeros((3, 0), jnp.float32)
    np.testing.assert_allclose(fused(bare, bare, 1.0, 0.0), 3 * np.log(2), rtol=1e-6)


def test_nan_in_gives_nan_out(rng):
    pairs = batch(rng, 7, 3)
    for i in EVERY:
        spoilt = [*pairs]
        spoilt[i] = pairs[i].at[(0,) * pairs[i].ndim].set(jnp.nan)
        assert np.isnan(fused(*spoilt, tile_size=3))
    rows = np.isnan(fused(pairs[0].at[2].set(jnp.nan), *pairs[1:], tile_size=3, reduction="none"))
    assert rows.tolist() == [i == 2 for i in range(7)]


# --- Memory and work ----------------------------------------------------------------------------------------------


def compiled(size, features=256, dtype=jnp.float32, **options):
    shapes = [jax.ShapeDtypeStruct((size, features), dtype)] * 2 + [jax.ShapeDtypeStruct((), jnp.float32)] * 2
    return jax.jit(jax.value_and_grad(functools.partial(fused, **options), EVERY)).lower(*shapes).compile()


@pytest.mark.cpu
def test_memory_is_bounded_by_the_tile():
    """Beside arguments and results; the logits of the largest alone would be 1,074 MB."""
    temporary = {size: compiled(size).memory_analysis().temp_size_in_bytes for size in (4_096, 16_384, 16_381)}
    assert max(temporary.values()) <= 12e6
    small = compiled(16_384, tile_size=128).memory_analysis().temp_size_in_bytes
    assert small < 2e6


@pytest.mark.cpu
def test_a_tile_has_one_exp_and_one_logarithm():
    program = compiled(2_048).as_text()
    assert program.count(" exponential(") == 1
    assert sum(program.count(f" {name}(") for name in ("log", "log-plus-one")) == 1
    assert program.count("while(") == 1


# --- The ring -----------------------------------------------------------------------------------------------------


def over_devices(mesh, function, axis="data", **options):
    """A function of (x, y, scale, bias) in `shard_map`, x and y split over an axis, the result the same everywhere."""
    specs = (PartitionSpec(axis), PartitionSpec(axis), SAME, SAME)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, **{"out_specs": SAME, **options})


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.asarray(jax.devices("cpu")), ("data",))


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize(("check_vma", "tile_size"), [(True, 2), (False, None)])
def test_the_ring_is_one_device(rng, mesh, check_vma, tile_size):
    pairs, along = batch(rng, 3 * len(mesh.devices), 5), batch(rng, 3 * len(mesh.devices), 5)
    local = functools.partial(fused, tile_size=tile_size, axis_name="data")
    expected = jax.value_and_grad(fused, EVERY)(*pairs)
    loss = over_devices(mesh, local, check_vma=check_vma)
    close(jax.jit(jax.value_and_grad(loss, EVERY))(*pairs), expected)
    close(loss(*pairs), expected[0])

    def hvp(loss):
        return jax.jit(lambda *a: jax.jvp(jax.grad(loss, EVERY), a, along)[1])(*pairs)

    close(hvp(loss), hvp(fused))
    total = over_devices(mesh, functools.partial(local, reduction="sum"), check_vma=check_vma)
    close(total(*pairs), len(pairs[0]) * expected[0])

    each = over_devices(mesh, functools.partial(local, reduction="none"), check_vma=check_vma, out_specs=OVER)
    weight = jnp.asarray(rng.uniform(-1, 1, len(pairs[0])))

    def weighted(losses):
        return jax.value_and_grad(lambda *a: jnp.vdot(weight, losses(*a)), EVERY)

    close(jax.jit(weighted(each))(*pairs), weighted(functools.partial(fused, reduction="none"))(*pairs))


@pytest.mark.cpu
def test_gradients_inside_of_the_ring(rng, mesh):
    """A step inside `shard_map`: those by x and y are this device's, those by scale and bias are of all devices."""
    pairs = batch(rng, 2 * len(mesh.devices), 3)
    step = jax.value_and_grad(functools.partial(fused, axis_name="data"), EVERY)
    mapped = over_devices(mesh, step, out_specs=(SAME, (OVER, OVER, SAME, SAME)))
    close(jax.jit(mapped)(*pairs), jax.value_and_grad(fused, EVERY)(*pairs))


@pytest.mark.cpu
def test_a_ring_over_two_axes(rng, mesh):
    plane = Mesh(mesh.devices.reshape(2, -1), ("a", "b"))
    pairs, axes = batch(rng, 2 * plane.size, 3), ("a", "b")
    loss = over_devices(plane, functools.partial(fused, axis_name=axes), axes)
    expected = jax.value_and_grad(fused, EVERY)(*pairs)
    close(jax.jit(jax.value_and_grad(loss, EVERY))(*pairs), expected)
    # Split along one axis, the same along the other.
    loss = over_devices(plane, functools.partial(fused, axis_name="b"), "b")
    close(jax.jit(jax.value_and_grad(loss, EVERY))(*pairs), expected)


@pytest.mark.cpu
def test_a_ring_under_vmap_and_a_batch_that_is_sharded_without_one(rng, mesh):
    pairs = batch(rng, 2 * len(mesh.devices), 3)
    expected = jax.value_and_grad(fused, EVERY)(*pairs)
    parts = [a.reshape(-1, 2, 3) for a in pairs[:2]]
    everywhere = jax.vmap(functools.partial(fused, axis_name="data"), (0, 0, None, None), axis_name="data")
    close(everywhere(*parts, *pairs[2:]), jnp.broadcast_to(expected[0], len(parts[0])))
    placed = [jax.device_put(a, NamedSharding(mesh, OVER)) for a in pairs[:2]]
    close(jax.jit(jax.value_and_grad(fused, EVERY))(*placed, *pairs[2:]), expected)


@pytest.mark.cpu
def test_a_ring_under_the_defaults_of_jax(rng, mesh):
    with configured(**DEFAULTS):
        pairs = batch(rng, 2 * len(mesh.devices), 3, jnp.bfloat16)
        loss = over_devices(mesh, functools.partial(fused, axis_name="data"))
        value, gradients = jax.jit(jax.value_and_grad(loss, EVERY))(*pairs)
        expected = jax.value_and_grad(fused, EVERY)(*pairs)
        close(value, expected[0], 1e-6)
        close(jax.tree.map(jnp.float32, gradients), jax.tree.map(jnp.float32, expected[1]), 1e-2)


RING_MEMORY = """
import functools, sys
import jax, numpy as np
from jax.sharding import Mesh, PartitionSpec
jax.config.update("jax_num_cpu_devices", 32)
from tests.test_contrastive import EVERY, fused, over_devices
for devices in (2, 32):
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    shapes = [jax.ShapeDtypeStruct((512 * devices, 64), "float32")] * 2 + [jax.ShapeDtypeStruct((), "float32")] * 2
    loss = over_devices(mesh, functools.partial(fused, tile_size=128, axis_name="data"))
    step = jax.jit(jax.value_and_grad(loss, EVERY)).lower(*shapes).compile()
    print(step.memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
@pytest.mark.cpu
def test_memory_of_a_ring_does_not_grow_with_it():
    """Per device, at the same number of examples per device. 32 devices need a process of their own."""
    done = subprocess.run([sys.executable, "-c", RING_MEMORY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    two, many = map(int, done.stdout.split())
    assert two > 1e5
    assert many <= 1.05 * two


# --- Refusals -----------------------------------------------------------------------------------------------------

X = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X[0], X[0], {}, ValueError, r"x must have shape \[B, D\], got \(3,\)"),
        (X, X[None], {}, ValueError, r"y must have shape \[B, D\], got \(1, 4, 3\)"),
        (X, X[:2], {}, ValueError, r"one shape \[B, D\], got \(4, 3\) and \(2, 3\)"),
        (X, X[:1], {}, ValueError, r"one shape \[B, D\], got \(4, 3\) and \(1, 3\)"),
        (X, X[:, :2], {}, ValueError, r"one shape \[B, D\], got \(4, 3\) and \(4, 2\)"),
        (X.astype(int), X, {}, TypeError, r"x must be floating, got dtype int64. .*jnp.asarray\(x, jnp.float32\)"),
        (X, X > 0, {}, TypeError, "y must be floating, got dtype bool"),
        (X, X * 1j, {}, TypeError, "y must be floating, got dtype complex"),
        (X, "y", {}, TypeError, "y must be an array or numbers, got 'y'"),
        (X, X, {"logit_scale": [1.0]}, ValueError, r"logit_scale must be a scalar, got shape \(1,\)"),
        (X, X, {"logit_bias": X}, ValueError, r"logit_bias must be a scalar, got shape \(4, 3\)"),
        (X, X, {"logit_bias": None}, TypeError, "logit_bias must be an array or numbers, got None"),
        (X, X, {"tile_size": 0}, ValueError, "tile_size must be at least 1, got 0"),
        (X, X, {"tile_size": -512}, ValueError, "tile_size must be at least 1, got -512"),
        (X, X, {"tile_size": 2.0}, TypeError, r"tile_size must be an integer or None, got 2\.0"),
        (X, X, {"tile_size": True}, TypeError, "tile_size must be an integer or None, got True"),
        (X, X, {"axis_name": "data"}, ValueError, "axis_name must name a mapped axis, got 'data'.*shard_map"),
        (X, X, {"axis_name": ["a", "b"]}, ValueError, r"axis_name must name a mapped axis, got \['a', 'b'\]"),
        (X, X, {"axis_name": ("a", "b")}, ValueError, r"axis_name must name a mapped axis, got \('a', 'b'\)"),
    ],
)
def test_refusals(x, y, options, error, message):
    with pytest.raises(error, match=f"^sigmoid_contrastive_loss: .*{message}"):
        sigmoid_contrastive_loss(x, y, **{"logit_scale": 1.0, "logit_bias": 0.0, **options})


@pytest.mark.cpu
def test_an_axis_that_the_mesh_does_not_have(rng, mesh):
    loss = over_devices(mesh, functools.partial(fused, axis_name="model"))
    with pytest.raises(ValueError, match="axis_name must name a mapped axis, got 'model'"):
        loss(*batch(rng, len(mesh.devices), 2))


def test_scale_and_bias_have_no_default():
    with pytest.raises(TypeError, match="logit_scale"):
        sigmoid_contrastive_loss(X, X, logit_bias=0.0)
