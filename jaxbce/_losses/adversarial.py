"""Losses of generative adversarial networks."""

import numpy as np
from jax import Array

from jaxbce._core.arrays import ArrayLike, Reduction
from jaxbce._losses.binary import bce_with_logits_core
from jaxbce._validate.arguments import validate_elementwise


def gan_discriminator_loss(
    real_logits: ArrayLike, fake_logits: ArrayLike, *, label_smoothing: ArrayLike = 0.0, reduction: Reduction = "mean"
) -> Array:
    r"""The loss of a discriminator, which tells real data from generated data.

    With D = σ(logits) and s = label_smoothing::

        -log D(real)·(1 - s/2) - log(1 - D(real))·s/2    -    log(1 - D(fake))

    each half reduced by itself: the two batches may differ in size, and "mean" is the sum of their two means. The
    smoothing is one-sided: the label of the real becomes 1 - s/2, that of the fake stays 0 (Salimans et al.'s 0.9 is
    s = 0.2).

    Domain:
        Any logit, exact in both tails as `binary_cross_entropy_with_logits` is. NaN in gives NaN out.

    Args:
        real_logits: floating, any shape: what the discriminator says of real data.
        fake_logits: floating, any shape: what it says of generated data.
        label_smoothing: s in [0, 1], for the real alone.
        reduction: "mean" or, the same here, "weighted_mean"; "sum"; "none", for which the two shapes must agree.

    Returns:
        The sum of the two halves, in at least float32: a scalar, or for "none" of the shape of the logits.

    Example:
        >>> real, fake = jnp.array([2.0, 0.5, 1.0]), jnp.array([1.2, -0.5])
        >>> print(f"{gan_discriminator_loss(real, fake):.4f}")
        1.2734

    References:
        Goodfellow et al., "Generative adversarial nets", NeurIPS 2014. Salimans et al., "Improved techniques for
        training GANs", NeurIPS 2016 (`label_smoothing`).
    """
    function = "gan_discriminator_loss"
    real = _bce_constant_label(function, "real_logits", real_logits, 1, label_smoothing, reduction)
    fake = _bce_constant_label(function, "fake_logits", fake_logits, 0, 0.0, reduction)
    if real.shape != fake.shape:
        raise ValueError(
            f"{function}: under reduction='none' real_logits and fake_logits must have one shape, got "
            f"{real.shape} and {fake.shape}. Other reductions take batches of different sizes."
        )
    return real + fake


def gan_generator_loss(fake_logits: ArrayLike, *, saturating: bool = False, reduction: Reduction = "mean") -> Array:
    r"""The loss of a generator, whose data the discriminator is to call real.

    With D = σ(fake_logits)::

        -log D                 the non-saturating form, which learns most from fakes that are recognised
        log(1 - D)             saturating=True, the minimax game: no gradient is left where a fake is recognised

    The derivatives with respect to the logit are -(1 - D) and -D.

    Domain:
        Any logit, exact in both tails as `binary_cross_entropy_with_logits` is. NaN in gives NaN out.

    Args:
        fake_logits: floating, any shape: what the discriminator says of generated data.
        saturating: which of the two forms.
        reduction: "mean" or, the same here, "weighted_mean"; "sum"; "none".

    Returns:
        The loss in at least float32: a scalar, or for "none" of the shape of the logits. The saturating form is ≤ 0.

    Example:
        >>> fake = jnp.array([1.2, -0.5])
        >>> print(f"{gan_generator_loss(fake):.4f}, {gan_generator_loss(fake, saturating=True):.4f}")
        0.6187, -0.9687

    References:
        Goodfellow et al., "Generative adversarial nets", NeurIPS 2014.
    """
    function = "gan_generator_loss"
    if not isinstance(saturating, bool | np.bool_):
        raise TypeError(f"{function}: saturating must be True or False, got {saturating!r}.")
    loss = _bce_constant_label(function, "fake_logits", fake_logits, 0 if saturating else 1, 0.0, reduction)
    return -loss if saturating else loss


def _bce_constant_label(
    function: str, name: str, logits: ArrayLike, label: int, label_smoothing: ArrayLike, reduction: Reduction
) -> Array:
    """Binary cross-entropy of logits whose labels are all the same."""
    common = None, label_smoothing, None, None, reduction
    given, axes = validate_elementwise(function, name, logits, label, common, pos_weight=None)
    return bce_with_logits_core(given, axes, reduction)
