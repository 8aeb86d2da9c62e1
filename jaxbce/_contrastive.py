"""The sigmoid loss of all pairs of two batches."""

import functools

import jax
from jax import Array

from jaxbce._inputs import admit_floating, admit_number
from jaxbce._manual_axes import admit_axes, alike
from jaxbce._options import admit_size, check_reduction
from jaxbce._pairwise_loss import Plan, pairwise_losses, pairwise_total
from jaxbce._typing import ArrayLike, AxisName, Reduction

_FUNCTION = "sigmoid_contrastive_loss"

_TILE_SIZE = 512
"""The logits of a tile, 1 MB in float32, stay in the cache of a CPU core."""


def sigmoid_contrastive_loss(
    x: ArrayLike,
    y: ArrayLike,
    *,
    logit_scale: ArrayLike,
    logit_bias: ArrayLike,
    reduction: Reduction = "mean",
    tile_size: int | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    r"""Binary cross-entropy of all pairs of two batches, of which those on the diagonal belong together (SigLIP).

    For models that embed two views of a thing, an image and its caption say, so that the two lie near each other and
    far from all others. With z_ij = logit_scale·⟨x_i, y_j⟩ + logit_bias over a batch of B, the mean is::

        1/B · [Σ_i log(1 + exp(-z_ii)) + Σ_{i≠j} log(1 + exp(z_ij))]

    which is B times `binary_cross_entropy_with_logits(z, jnp.eye(B))`. The B² logits never exist: they are made, used
    and dropped tile by tile, and the gradients are summed in the pass that sums the losses. Everything is
    differentiable in x, y, logit_scale and logit_bias, again and again, forward and reverse.

    With `axis_name`, inside `jax.shard_map`, x and y are this device's part of the batch. Then y travels a ring of
    devices, its gradient with it, and no device ever holds more than two parts: memory does not grow with their number.

    Domain:
        Any finite features, scale and bias; the scale of the paper is exp(t) for a learnt t. NaN in gives NaN out.

    Args:
        x: floating, shape [B, D]: one feature vector per example, normalised to length 1 in the paper.
        y: floating, shape [B, D]: the vectors that belong to those of `x`, in the same order.
        logit_scale: a scalar; 10 at the start of the paper's training.
        logit_bias: a scalar; -10 at the start of the paper's training, when nearly all pairs are negative.
        reduction: "mean" (Σ loss of all pairs / B, where B counts the examples on all devices) or, the same here,
            "weighted_mean"; "sum"; "none": of each x_i the loss with every y_j.
        tile_size: the most rows and columns of a tile, 512 if None, which suits a CPU. What is computed at one time
            takes some 5·tile_size² numbers. An accelerator may like larger tiles; none has been measured.
        axis_name: the mapped axis, or tuple of axes, over which the batch is split; None if x and y are all of it.

    Returns:
        The loss in float32, or float64 if x or y is: a scalar, the same on every device, or for "none" of shape [B], of
        this device's examples. Under "none" and `axis_name`, reverse mode keeps every device's y once.

    Raises:
        TypeError: features that are not floating, a scale or bias that is not real, a tile size that is no integer.
        ValueError: shapes that do not fit; a tile size below 1; an unknown reduction; an axis that is not mapped.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> y = jnp.array([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> print(f"{sigmoid_contrastive_loss(x, y, logit_scale=10.0, logit_bias=-5.0):.4f}")
        4.4675
        >>> by_scale = jax.grad(lambda scale: sigmoid_contrastive_loss(x, y, logit_scale=scale, logit_bias=-5.0))
        >>> print(f"{by_scale(10.0):.4f}")
        1.1002

    References:
        Zhai et al., "Sigmoid loss for language image pre-training", ICCV 2023 (SigLIP).
    """
    x, y = _features("x", x), _features("y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"{_FUNCTION}: x and y must have one shape [B, D], got {x.shape} and {y.shape}. "
            "Row i of both belongs to example i; project both to one number of features."
        )
    scale = admit_number(_FUNCTION, "logit_scale", logit_scale)
    bias = admit_number(_FUNCTION, "logit_bias", logit_bias)
    check_reduction(_FUNCTION, reduction, None)
    axes = admit_axes(_FUNCTION, "axis_name", axis_name)
    mean = reduction not in ("none", "sum")
    plan = Plan(admit_size(_FUNCTION, "tile_size", tile_size, _TILE_SIZE), axes, mean)
    # The gradient of what is the same on every device is a sum over them: it is the cast that makes the sum.
    pairs = alike((x, y, scale, bias), axes)
    loss: Array = _from_pairs(*pairs, plan=plan, each=reduction == "none")
    return loss


@functools.partial(jax.jit, static_argnames=("plan", "each"))
def _from_pairs(x: Array, y: Array, scale: Array, bias: Array, *, plan: Plan, each: bool) -> Array:
    return pairwise_losses(x, y, scale, bias, plan) if each else pairwise_total(x, y, scale, bias, plan)


def _features(name: str, value: ArrayLike) -> Array:
    array = admit_floating(_FUNCTION, name, value)
    if array.ndim != 2:
        raise ValueError(
            f"{_FUNCTION}: {name} must have shape [B, D], got {array.shape}. "
            "Features of more axes need a reshape to (B, -1), other axes before them a jax.vmap."
        )
    return array
