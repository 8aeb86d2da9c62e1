"""Binary cross-entropy of a linear head, fused with it: for label spaces whose logits do not fit in memory."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import compute_dtype, guard, spread
from jaxbce._indices import PADDING, is_stray
from jaxbce._linear_head import Arrays, head_losses, head_total
from jaxbce._linear_inputs import AdmittedHead, HeadOptions, admit_head
from jaxbce._manual_axes import alike, devices, sum_over
from jaxbce._numerics import nan_where
from jaxbce._reduction import Average
from jaxbce._typing import ArrayLike, AxisName, Reduction


def linear_binary_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    positives: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    axis_name: AxisName | None = None,
    label_axis_name: AxisName | None = None,
) -> Array:
    r"""Binary cross-entropy of the logits features @ kernel + bias, which never exist beyond one chunk of labels.

    For extreme multi-label classification, tagging and recommendation: with a million labels and a batch of 256 the
    logits alone are a gigabyte, and their loss and gradients several. Here memory beside arguments and gradients is
    that of one chunk, whatever the number of labels. It equals::

        binary_cross_entropy_with_logits(features @ kernel + bias, labels, ...)

    in value and every derivative, to rounding. Value and gradients are computed in one pass over the kernel, in forward
    and reverse mode ("none" computes each chunk again on the way back); those of arguments that are not differentiated
    (a frozen kernel) are not computed.

    Domain:
        As `binary_cross_entropy_with_logits`, for the logits that the product gives: ±inf and NaN in features or kernel
        give what they give there. An index in `positives` that occurs twice counts once. An index that is no label's is
        refused; under a transform, where no value can be read, the loss of its example is NaN, never that of another
        label (see Raises).

    Args:
        features: floating, [B, D].
        kernel: floating, [D, L], as Flax has it.
        labels: [B, L]; bool, integer or floating, in [0, 1]. Either these or `positives`.
        positives: integers, [B, K]: the indices in [0, L) of the labels that are on. Negative numbers are padding.
        bias: floating, [L].
        pos_weight: ≥ 0, a scalar, [L], or whatever broadcasts to [B, L]; multiplies the cost of the positive part.
        weight: ≥ 0, [B, 1] per example, [L] per label, or whatever broadcasts to [B, L]; multiplies the loss.
        label_smoothing: s in [0, 1]; labels become y·(1 - s) + s/2.
        reduction: "mean" (Σ loss / (B·L)), "weighted_mean" (Σ loss / Σ weight), "sum", or "none": the loss of each
            example, summed over its labels.
        chunk_size: how many labels at a time; None chooses it such that a chunk takes a few MB, but at least 512.
        axis_name: inside `shard_map` and the like, the mapped axis (or axes) over which the batch is split: sums and
            means then are those of the whole batch.
        label_axis_name: the mapped axis (or axes) over which the labels are split: `kernel`, `bias`, `labels` and
            weights per label are of this device's labels. `positives` stay indices among all labels. No kernel is
            gathered.

    Returns:
        The loss, in the wider dtype of features and kernel, at least float32: a scalar, or [B] for "none". Gradients
        have the dtypes of what they are taken of, and are accumulated in that of the loss.

    Raises:
        TypeError: features, kernel or bias that are not floating, positives that are not integers, labels or weights
            that are not real.
        ValueError: shapes that do not fit; labels and positives both, or neither; an unknown reduction; labels outside
            [0, 1]; an index of L or more; L > 2 indices that are all 0 or 1, which look like dense labels; negative or
            infinite weights. Under `jit` and other transforms the checks of values need
            `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> features, kernel = jnp.array([[1.0, 0.5], [-0.5, 2.0]]), jnp.array([[2.0, -1.0, 0.5], [0.0, 1.0, -1.0]])
        >>> positives = jnp.array([[0, -1], [2, 1]])  # the first example has one label, the second two
        >>> print(f"{linear_binary_cross_entropy(features, kernel, positives=positives):.4f}")
        0.6728
        >>> def loss(kernel):
        ...     return linear_binary_cross_entropy(features, kernel, positives=positives, reduction="sum")
        >>> print(jax.grad(loss)(kernel).round(3))
        [[-0.254  0.415  0.952]
         [ 0.478  0.037 -1.559]]

    References:
        Wijmans et al., "Cut your losses in large-vocabulary language models", ICLR 2025 (the same idea for softmax).
        Prabhu & Varma, "FastXML: a fast, accurate and stable tree-classifier for extreme multi-label learning", KDD
        2014 (many labels, few of them on).
    """
    given, options = admit_head(
        "linear_binary_cross_entropy",
        features,
        kernel,
        labels,
        positives=positives,
        bias=bias,
        pos_weight=pos_weight,
        weight=weight,
        label_smoothing=label_smoothing,
        reduction=reduction,
        chunk_size=chunk_size,
        axis_name=axis_name,
        label_axis_name=label_axis_name,
    )
    loss: Array = _from_head(given, options=options)
    return loss


@functools.partial(jax.jit, static_argnames="options")
def _from_head(given: AdmittedHead, *, options: HeadOptions) -> Array:
    axes = options.batch_axes + options.label_axes
    given = alike(given, axes)
    (batch, _), labels = given.features.shape, given.kernel.shape[1]
    shared, by_label = _arrange(given, options.label_axes)
    chunk = jax.core.min_dim(options.chunk_size, jax.core.max_dim(labels, 1))
    if options.reduction == "none":
        return sum_over(head_losses(shared, by_label, chunk), options.label_axes)
    weight, number = shared["example_weight"], batch * labels * devices(axes)
    if options.reduction != "sum" and number == 0:
        return jnp.full((), jnp.nan, weight.dtype)  # The mean of an empty array, as in NumPy and PyTorch.
    weights = given.weight if options.reduction == "weighted_mean" else None
    if weights is None and options.reduction != "sum":
        # Inside the sum the quotient costs nothing; outside, one more pass over the gradient of the kernel.
        shared["example_weight"] = weight / jnp.full_like(weight, number)
    sum_ = sum_over(head_total(shared, by_label, chunk), axes)
    if weights is None:
        return sum_
    weights = guard(weights.astype(weight.dtype), "weight")
    return Average(sum_, sum_over(jnp.sum(weights) * (batch * labels / weights.size), axes)).value


def _arrange(given: AdmittedHead, label_axes: tuple[str, ...]) -> tuple[Arrays, Arrays]:
    """What serves every chunk, in the dtype that is computed in, and what a chunk takes a part of, as it is.

    The gradients of the former add up over the chunks in their dtype, those of the latter are written chunk by chunk.
    """
    (batch, _), labels = given.features.shape, given.kernel.shape[1]
    dtype = compute_dtype(given.features, given.kernel)
    shared, by_label = {"features": given.features.astype(dtype)}, {"kernel": given.kernel}
    example_weight = jnp.ones_like(shared["features"], shape=(batch,))
    if given.bias is not None:
        by_label["bias"] = given.bias
    if given.labels is not None:
        by_label["labels"] = given.labels
    for name, value in (("pos_weight", given.pos_weight), ("weight", given.weight)):
        if value is None:
            continue
        if value.shape[-1:] == (labels,):
            by_label[name] = value
        elif name == "weight":
            example_weight = spread(guard(value.reshape(-1).astype(dtype), "weight"), example_weight)
        else:
            shared[name] = value.astype(dtype)
    if given.label_smoothing is not None:
        shared["label_smoothing"] = given.label_smoothing.astype(dtype)
    if given.positives is not None:
        number = labels * devices(label_axes)
        stray = is_stray(given.positives, number, PADDING)
        # An index of no label makes the loss of its example NaN, and its gradient.
        example_weight *= nan_where(jnp.any(stray, 1), jnp.ones_like(example_weight))
        index = jnp.where(stray | (given.positives < 0), -number, given.positives.astype(jnp.int32))
        shared["positives"] = index - labels * (jax.lax.axis_index(label_axes) if label_axes else 0)
    return shared | {"example_weight": example_weight}, by_label
