"""Labels given by the indices of those that are on: the dense loss in every respect."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxbce import binary_cross_entropy_with_logits, sparse_binary_cross_entropy_with_logits
from tests.settings import DEFAULTS, configured

SHAPE, K = (3, 4, 7), 5


def draw(rng, shape=SHAPE, k=K):
    """Logits, positives with padding and repetitions, and the labels that they stand for."""
    positives = rng.integers(-2, shape[-1], (*shape[:-1], k))
    positives.reshape(-1, k)[0] = -1
    positives.reshape(-1, k)[-1] = 0
    dense = (positives[..., None] == np.arange(shape[-1])).any(-2)
    return jnp.asarray(rng.normal(0, 6, shape)), positives, dense


def options(rng):
    mask = rng.random(SHAPE) < 0.6
    weights = rng.uniform(0.5, 2.0, SHAPE)
    return [
        {"pos_weight": weights[0, 0], "weight": weights[..., :1], "reduction": "weighted_mean", "axis": 1},
        {
            "weight": weights[0, 0],
            "label_smoothing": np.float64(0.1),
            "where": mask,
            "reduction": "sum",
            "axis": (0, 2),
        },
        {"where": mask[..., :1], "reduction": "none"},
    ]


def test_equals_the_dense_loss(rng):
    """With padding and repetitions: in value, in second derivative, and in the gradient by every argument."""
    logits, positives, dense = draw(rng)
    for given in options(rng):
        numbers = {k: jnp.asarray(v) for k, v in given.items() if k in ("pos_weight", "weight", "label_smoothing")}
        rest = {k: v for k, v in given.items() if k not in numbers}

        def derivatives(loss, labels, numbers=numbers, rest=rest):
            gradient = jax.grad(lambda x, numbers: jnp.sum(loss(x, labels, **numbers, **rest)), (0, 1))
            still = jax.tree.map(jnp.zeros_like, numbers)
            return loss(logits, labels, **numbers, **rest), jax.jvp(gradient, (logits, numbers), (logits, still))

        actual = jax.jit(lambda p: derivatives(sparse_binary_cross_entropy_with_logits, p))(positives)
        expected = jax.jit(lambda y: derivatives(binary_cross_entropy_with_logits, y))(dense)
        chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("shape", "k"), [((7,), 3), ((2, 7), 0), ((0, 7), 2), ((2, 0), 1)])
def test_sizes_of_every_kind(shape, k, rng):
    logits = jnp.asarray(rng.normal(size=shape))
    positives = rng.integers(-2, max(shape[-1], 1), (*shape[:-1], k)) if shape[-1] else np.full((*shape[:-1], k), -1)
    dense = (positives[..., None] == np.arange(shape[-1])).any(-2)
    for reduction in ("mean", "sum", "none"):
        actual = sparse_binary_cross_entropy_with_logits(logits, positives, reduction=reduction)
        expected = binary_cross_entropy_with_logits(logits, dense, reduction=reduction)
        np.testing.assert_allclose(actual, expected, rtol=1e-14)


@pytest.mark.cpu
def test_dtypes(rng):
    logits, positives, dense = draw(rng)
    expected = binary_cross_entropy_with_logits(logits, dense)
    for dtype in (np.int8, np.int64):
        np.testing.assert_array_equal(
            sparse_binary_cross_entropy_with_logits(logits, positives.astype(dtype)), expected
        )
    wide = jnp.zeros((1, 300))
    unsigned = sparse_binary_cross_entropy_with_logits(wide, np.uint8([[255, 0]]), reduction="none", pos_weight=2.0)
    assert set(np.flatnonzero(unsigned[0] > 1)) == {0, 255}
    eager = sparse_binary_cross_entropy_with_logits(logits.tolist(), positives.tolist())
    np.testing.assert_allclose(eager, expected, rtol=1e-6)
    with configured(**DEFAULTS), pytest.raises(ValueError, match="must fit int32"):
        sparse_binary_cross_entropy_with_logits([[0.0, 1.0]], np.asarray([[2**32 + 1]]))


def test_indices_beyond_the_labels(rng):
    logits, positives, dense = draw(rng, (4, 7))
    positives[1, 0] = 7
    with pytest.raises(ValueError, match=r"label indices below 7, or negative for padding, got values from 0 to 7\. "):
        sparse_binary_cross_entropy_with_logits(logits, positives)
    traced = jax.jit(functools.partial(sparse_binary_cross_entropy_with_logits, reduction="none"))
    losses = traced(logits, positives)
    stray = np.asarray([False, True, False, False])
    np.testing.assert_array_equal(np.isnan(losses), np.broadcast_to(stray[:, None], (4, 7)))
    expected = binary_cross_entropy_with_logits(logits, dense, reduction="none")
    np.testing.assert_allclose(losses[~stray], expected[~stray], rtol=1e-14)
    by_example = jax.jit(functools.partial(sparse_binary_cross_entropy_with_logits, axis=-1))
    np.testing.assert_array_equal(np.isnan(by_example(logits, positives)), stray)
    gradient = jax.jit(jax.grad(lambda x, p: jnp.nansum(by_example(x, p))))(logits, positives)
    np.testing.assert_array_equal(
        np.isnan(jax.jit(jax.grad(sparse_binary_cross_entropy_with_logits))(logits, positives)), True
    )
    assert np.isfinite(gradient[~stray]).all()
    error, _ = checkify.checkify(traced, errors=checkify.user_checks)(logits, positives)
    assert "positives must be label indices below 7" in error.get()


def test_dense_labels_are_no_indices():
    """Which 0 and 1 would be, of the first two labels."""
    logits = jnp.asarray([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    loss = sparse_binary_cross_entropy_with_logits
    with pytest.raises(ValueError, match="not 0 or 1 for each of 3 labels, got values from 0 to 1"):
        loss(logits, jnp.asarray([[1, 0, 0], [0, 1, 1]]))
    checked = checkify.checkify(jax.jit(loss), errors=checkify.user_checks)
    assert "not 0 or 1 for each of 3 labels" in checked(logits, jnp.asarray([[1, 0, 0], [0, 1, 1]]))[0].get()
    assert checked(logits, jnp.asarray([[1, 0, 0], [0, 1, 2]]))[0].get() is None
    padded = jnp.asarray([[0, -1, -1], [1, 2, -1]])
    dense = jnp.asarray([[1, 0, 0], [0, 1, 1]])
    assert sparse_binary_cross_entropy_with_logits(logits, padded) == binary_cross_entropy_with_logits(logits, dense)
    two = sparse_binary_cross_entropy_with_logits(logits[:, :2], jnp.asarray([[0, 1], [1, 1]]))
    assert two == binary_cross_entropy_with_logits(logits[:, :2], jnp.asarray([[1, 1], [0, 1]]))


def test_a_masked_example_may_hold_any_index(rng):
    logits, positives, dense = draw(rng, (4, 7))
    positives[1, 0] = 1000
    mask = np.asarray([[True], [False], [True], [True]])
    expected = binary_cross_entropy_with_logits(logits, dense, where=mask)
    for run in (lambda f: f, jax.jit):
        loss = run(jax.value_and_grad(functools.partial(sparse_binary_cross_entropy_with_logits, where=mask)))
        value, gradient = loss(logits, positives)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        assert np.isfinite(gradient).all()
    none = sparse_binary_cross_entropy_with_logits(logits, positives, where=mask, reduction="none")
    assert (none[1] == 0).all()
    every = sparse_binary_cross_entropy_with_logits(logits, positives, where=False)
    assert every == 0


def test_padding_is_within_bounds_to_checkify(rng):
    logits, positives, _ = draw(rng)
    loss = jax.jit(sparse_binary_cross_entropy_with_logits)
    error, _ = checkify.checkify(loss, errors=checkify.index_checks)(logits, positives)
    assert error.get() is None


def test_refusals(rng):
    logits, positives, dense = draw(rng, (4, 7))
    refusals = [
        (TypeError, "logits must be floating", (logits.astype(int), positives), {}),
        (TypeError, "positives must be integers.*astype", (logits, positives * 1.0), {}),
        (TypeError, "positives must be integers.*0 and 1", (logits, dense), {}),
        (ValueError, r"positives must have shape \(4, K\).*padded with -1", (logits, positives[0]), {}),
        (ValueError, r"positives must have shape \(4, K\)", (logits, positives[:3]), {}),
        (ValueError, "logits must have an axis of labels", (1.0, positives), {}),
        (ValueError, r"positives must have shape \(K,\), a row", (logits[0], 1), {}),
        (ValueError, "weight must be a scalar or broadcast", (logits, positives), {"weight": np.ones(4)}),
        (TypeError, "where must be a bool mask", (logits, positives), {"where": np.ones(7)}),
    ]
    for error, message, arguments, given in refusals:
        with pytest.raises(error, match=f"^sparse_binary_cross_entropy_with_logits: {message}"):
            sparse_binary_cross_entropy_with_logits(*arguments, **given)
