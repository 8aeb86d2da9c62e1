"""Losses of generative adversarial networks: definitions, what saturates and what does not, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbce import gan_discriminator_loss, gan_generator_loss
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


def test_refusals():
    with pytest.raises(TypeError, match="gan_discriminator_loss: fake_logits must be floating"):
        gan_discriminator_loss(jnp.zeros(2), jnp.zeros(2, int))
    with pytest.raises(TypeError, match="gan_generator_loss: fake_logits must be floating"):
        gan_generator_loss([1, 2])
    with pytest.raises(TypeError, match="gan_generator_loss: saturating must be True or False, got 'no'"):
        gan_generator_loss(jnp.zeros(2), saturating="no")
    with pytest.raises(ValueError, match="gan_discriminator_loss: label_smoothing must lie in"):
        gan_discriminator_loss(jnp.zeros(2), jnp.zeros(2), label_smoothing=1.5)
