"""Losses of generative adversarial networks: definitions, what saturates and what does not, refusals."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import binary_cross_entropy_with_logits, gan_discriminator_loss, gan_generator_loss
from tests import oracle

INF = float("inf")


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
def test_the_discriminator_is_the_definition(rng, reduction, s):
    """Each half by itself: batches of different sizes weigh the same under "mean". The smoothing is one-sided."""
    real, fake = rng.normal(0, 4, (7, 3)), rng.normal(0, 4, 5)
    reduce = np.sum if reduction == "sum" else np.mean
    expected = reduce(oracle.logit_loss(real, 1 - s / 2)) + reduce(oracle.logit_loss(fake, 0.0))
    f = functools.partial(gan_discriminator_loss, label_smoothing=s, reduction=reduction)
    np.testing.assert_allclose(f(real, fake), float(expected), rtol=1e-14)
    np.testing.assert_allclose(jax.jit(f)(real, fake), float(expected), rtol=1e-14)


def test_none_pairs_the_two_batches(rng):
    real, fake = rng.normal(0, 4, (2, 5))
    losses = gan_discriminator_loss(real, fake, reduction="none")
    np.testing.assert_allclose(losses, (oracle.logit_loss(real, 1.0) + oracle.logit_loss(fake, 0.0)).astype(float))
    with pytest.raises(ValueError, match=r"gan_discriminator_loss: .* one shape, got \(5,\) and \(4,\)"):
        gan_discriminator_loss(real, fake[:4], reduction="none")


@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean", "sum"])
def test_the_generator_is_the_definition(rng, reduction):
    fake = rng.normal(0, 4, (7, 3))
    reduce = {"none": np.asarray, "sum": np.sum}.get(reduction, np.mean)
    plain = gan_generator_loss(fake, reduction=reduction)
    np.testing.assert_allclose(plain, reduce(oracle.softplus(-fake)).astype(float), rtol=1e-14)
    saturating = gan_generator_loss(fake, saturating=True, reduction=reduction)
    np.testing.assert_allclose(saturating, reduce(-oracle.softplus(fake)).astype(float), rtol=1e-14)


def test_gradients_saturate_where_they_should():
    """Where a fake is recognised (x → -∞) the minimax gradient -σ(x) vanishes and the other, -σ(-x), does not."""
    x = jnp.float32([-INF, -200, -80, -10, 0, 10, 80, 200, INF])
    plain = jax.grad(lambda x: gan_generator_loss(x, reduction="sum"))(x)
    saturating = jax.grad(lambda x: gan_generator_loss(x, saturating=True, reduction="sum"))(x)
    p = np.exp(-np.logaddexp(0, -np.asarray(x, np.float64)))
    tiny = np.finfo(np.float32).tiny
    np.testing.assert_allclose(saturating, -p, rtol=1e-6, atol=tiny)
    np.testing.assert_allclose(plain, -p[::-1], rtol=1e-6, atol=tiny)
    assert plain[1] == -1
    assert saturating[1] == 0
    np.testing.assert_allclose(saturating[2], -np.exp(-80.0), rtol=1e-6)  # small, and not lost


def test_dtypes(rng):
    for dtype, result in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)):
        real, fake = jnp.asarray(rng.normal(size=(2, 4)), dtype)
        for f, arguments in ((gan_discriminator_loss, (real, fake)), (gan_generator_loss, (fake,))):
            value, gradient = jax.value_and_grad(f)(*arguments)
            chex.assert_type(value, result)
            chex.assert_type(gradient, dtype)
            assert not value.weak_type


def test_they_are_binary_cross_entropies(rng):
    real, fake = jnp.asarray(rng.normal(0, 30, (2, 50)), jnp.float32)
    halves = binary_cross_entropy_with_logits(real, 1) + binary_cross_entropy_with_logits(fake, 0)
    assert gan_discriminator_loss(real, fake) == halves
    assert gan_generator_loss(fake) == binary_cross_entropy_with_logits(fake, 1)


def test_refusals():
    with pytest.raises(TypeError, match="gan_discriminator_loss: fake_logits must be floating"):
        gan_discriminator_loss(jnp.zeros(2), jnp.zeros(2, int))
    with pytest.raises(TypeError, match="gan_generator_loss: fake_logits must be floating"):
        gan_generator_loss([1, 2])
    with pytest.raises(TypeError, match="gan_generator_loss: saturating must be True or False, got 'no'"):
        gan_generator_loss(jnp.zeros(2), saturating="no")
    with pytest.raises(ValueError, match="gan_generator_loss: reduction must be one of"):
        gan_generator_loss(jnp.zeros(2), reduction="batch")
    with pytest.raises(ValueError, match="gan_discriminator_loss: label_smoothing must lie in"):
        gan_discriminator_loss(jnp.zeros(2), jnp.zeros(2), label_smoothing=1.5)
