"""Binary cross-entropy of a linear head, fused with it: for label spaces whose logits do not fit in memory.

    Σ_i v_i·Σ_l v_l·ℓ(x_i·W_l + bias_l, y_il)        features x [B, D], kernel W [D, L], weights v

The logits exist for one chunk of labels at a time. Arguments come in two pytrees of arrays by name. Those `by_label`
have the labels as their last axis, and a step of the loop takes a chunk of each; those that are `shared` serve every
chunk.

The derivative rule of the total computes loss and gradients of a chunk in one pass: to recompute the chunk in the
backward pass takes one more matmul and exponential, a quarter of the time. The rule returns ⟨gradient, tangent⟩, so
that forward mode, `linearize`, second derivatives and `vmap` work too. Losses of single examples have as many gradients
as examples, and are recomputed in the backward pass.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._core import arrays
from jaxbce._core.arrays import Arguments, ArrayLike, AxisName, Reduction
from jaxbce._core.indices import PADDING, is_out_of_bounds, multi_hot
from jaxbce._core.numerics import apply_weight, nan_where
from jaxbce._core.program import Program, bind, jit, match_varying
from jaxbce._cpu.bits import from_bits, to_bits
from jaxbce._losses.binary import bce_with_logits_core
from jaxbce._validate import arguments
from jaxbce._validate.arguments import Argument, Shape

Arrays: TypeAlias = dict[str, Array]
Carry = TypeVar("Carry")


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
    and reverse mode ("none" recomputes each chunk in the backward pass); gradients of arguments that are not
    differentiated (a frozen kernel) are not computed.

    Domain:
        As `binary_cross_entropy_with_logits`, for the logits that the product gives: ±inf and NaN in features or kernel
        give what they give there. An index in `positives` that occurs twice counts once. An index that is no label's is
        refused; under a transform the loss of its example is NaN, never that of another label.

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
    function = "linear_binary_cross_entropy"
    given = arguments.validate(function, "features", {"features": features, "kernel": kernel, "bias": bias})
    shape, kernel_shape = given["features"].shape, given["kernel"].shape
    if len(shape) != 2 or len(kernel_shape) != 2 or shape[1] != kernel_shape[0]:
        raise ValueError(
            f"{function}: features must have shape [B, D] and kernel [D, L], got {shape} and {kernel_shape}. A kernel "
            "with a row for each label is transposed with kernel.T; features of more axes are flattened with reshape."
        )
    if given["bias"] is not None and given["bias"].shape != kernel_shape[1:]:
        raise ValueError(
            f"{function}: bias must have shape ({kernel_shape[1]},), one per label (the last axis of kernel), got "
            f"{given['bias'].shape}."
        )
    if (labels is None) == (positives is None):
        raise ValueError(
            f"{function}: give either labels [B, L] or positives [B, K], got {'neither' if labels is None else 'both'}."
        )
    batch_axes = arguments.validate_axis_name(function, "axis_name", axis_name)
    label_axes = arguments.validate_axis_name(function, "label_axis_name", label_axis_name)
    if set(batch_axes) & set(label_axes):
        raise ValueError(
            f"{function}: axis_name and label_axis_name must be different axes, got {axis_name!r} and "
            f"{label_axis_name!r}. One splits the batch, the other the labels."
        )
    logits = jax.ShapeDtypeStruct((shape[0], kernel_shape[1]), arrays.compute_dtype(given["features"], given["kernel"]))
    values = {"labels": labels, "pos_weight": pos_weight, "weight": weight, "label_smoothing": label_smoothing}
    given |= arguments.validate(function, "features @ kernel", values, logits, labels=_LABELS)
    if positives is not None:
        number = kernel_shape[1] * arrays.axis_size(label_axes)
        given["positives"] = arguments.validate_positives(function, positives, shape[:1], number)
    arguments.validate_reduction(function, reduction, None, None)
    chunk = arguments.validate_size(function, "chunk_size", chunk_size, _default_chunk(*shape))
    present = {name: array for name, array in given.items() if array is not None}
    return _linear_core(present, chunk=chunk, batch_axes=batch_axes, label_axes=label_axes, reduction=reduction)


def _same(name: str, shape: Shape, reference: str, whole: Shape) -> str | None:
    remedy = "The indices of the labels that are on go into `positives`."
    return None if shape == whole else f"{name} must have the shape of {reference}, {whole}, got {shape}. {remedy}"


_MISSING = "Where a label is missing, write 0, give it a weight of 0 and take reduction='weighted_mean'."
_LABELS = Argument("real", _same, _MISSING, optional=True)


def _default_chunk(batch: int, width: int) -> int:
    """The number of labels of a chunk: its arrays fit a cache, with at least 512 columns for an efficient matmul."""
    known = isinstance(batch, int) and isinstance(width, int)  # and no symbols, while a function is exported
    return max(512, 400_000 // (batch + width + 1) // 128 * 128) if known else 512


@jit("chunk", "batch_axes", "label_axes", "reduction")
def _linear_core(
    given: Arrays, *, chunk: int, batch_axes: tuple[str, ...], label_axes: tuple[str, ...], reduction: Reduction
) -> Array:
    axes = batch_axes + label_axes
    given = match_varying(given, axes)
    (batch, _), labels = given["features"].shape, given["kernel"].shape[1]
    shared, by_label = _split_by_chunking(given, label_axes)
    chunk = jax.core.min_dim(chunk, jax.core.max_dim(labels, 1))
    if reduction == "none":
        return arrays.psum(_losses(shared, by_label, chunk), label_axes)
    weight, number = shared["example_weight"], batch * labels * arrays.axis_size(axes)
    if reduction != "sum" and number == 0:
        return jnp.full((), jnp.nan, weight.dtype)  # The mean of an empty array, as in NumPy and PyTorch.
    weights = given.get("weight") if reduction == "weighted_mean" else None
    if weights is None and reduction != "sum":
        # Divide inside the sum, where it costs nothing; outside, it is one more pass over the gradient of the kernel.
        shared["example_weight"] = weight / jnp.full_like(weight, number)
    total = arrays.psum(_total(shared, by_label, chunk), axes)
    if weights is None:
        return total
    weights = arrays.nan_outside_domain(weights.astype(weight.dtype), "weight")
    return arrays.divide_by_weight(total, arrays.psum(jnp.sum(weights) * (batch * labels / weights.size), axes))


def _split_by_chunking(given: Arrays, label_axes: tuple[str, ...]) -> tuple[Arrays, Arrays]:
    """Split the arguments into those that serve every chunk, in the compute dtype, and those that a chunk slices.

    The gradients of the former add up over the chunks in their dtype, those of the latter are written chunk by chunk.
    """
    (batch, _), labels = given["features"].shape, given["kernel"].shape[1]
    dtype = arrays.compute_dtype(given["features"], given["kernel"])
    shared: Arrays = {name: given[name].astype(dtype) for name in ("features", "label_smoothing") if name in given}
    by_label: Arrays = {name: given[name] for name in ("kernel", "bias", "labels") if name in given}
    example_weight = jnp.ones_like(shared["features"], shape=(batch,))
    for name in ("pos_weight", "weight"):
        if name not in given:
            continue
        value = given[name]
        if value.shape[-1:] == (labels,):
            by_label[name] = value
        elif name == "weight":
            value = arrays.nan_outside_domain(value.reshape(-1).astype(dtype), "weight")
            example_weight = arrays.broadcast_like(value, example_weight)
        else:
            shared[name] = value.astype(dtype)
    if "positives" in given:
        positives, number = given["positives"], labels * arrays.axis_size(label_axes)
        outside = is_out_of_bounds(positives, number, PADDING)
        # Make the loss of an example with an index out of bounds NaN, and its gradient.
        example_weight *= nan_where(jnp.any(outside, 1), jnp.ones_like(example_weight))
        index = jnp.where(outside | (positives < 0), -number, positives.astype(jnp.int32))
        shared["positives"] = index - labels * (jax.lax.axis_index(label_axes) if label_axes else 0)
    return shared | {"example_weight": example_weight}, by_label


# --- One chunk after the other ------------------------------------------------------------------------------------


def _over_chunks(step: Callable[..., Carry], carry: Carry, by_label: Arrays, chunk: int) -> Carry:
    """Carry `step(carry, start, size)` over the labels; the last, shorter chunk runs outside the scan, unpadded."""
    full_chunks, remainder = divmod(by_label["kernel"].shape[1], chunk)

    def recomputed(carry: Carry, start: Array, size: int) -> Carry:
        # Store no residuals: recompute a chunk in the backward pass.
        result: Carry = jax.checkpoint(functools.partial(step, size=size), prevent_cse=False)(carry, start)
        return result

    if full_chunks:
        # Use `max_dim`: under `jax.export` sizes are symbolic.
        starts = chunk * jnp.arange(jax.core.max_dim(full_chunks, 1), dtype=jnp.int32)
        carry, _ = jax.lax.scan(lambda carry, start: (recomputed(carry, start, chunk), None), carry, starts)
    return recomputed(carry, jnp.int32(full_chunks * chunk), remainder) if remainder else carry


def _chunk_losses(shared: Arrays, part: Arrays, start: Array) -> Array:
    """The loss of each example, summed over the labels of the chunk that begins at `start`."""
    given = {**shared, **part}
    features = given["features"]
    logits = features @ given["kernel"].astype(features.dtype)
    if "bias" in given:
        logits += jnp.broadcast_to(given["bias"].astype(features.dtype), logits.shape)
    hot = multi_hot(given["positives"] - start, logits.shape[1]) if "positives" in given else given["labels"]
    own = {"pos_weight": given.get("pos_weight")}
    entries = Arguments(logits, hot, own, given.get("weight"), given.get("label_smoothing"), None)
    losses = bce_with_logits_core.per_entry(entries, None, in_cache=True)
    return apply_weight(given["example_weight"], jnp.sum(losses, 1))


def _losses(shared: Arrays, by_label: Arrays, chunk: int) -> Array:
    """The loss of each example, [B]."""

    def step(rows: Array, start: Array, size: int) -> Array:
        part = {name: _slice(array, start, size) for name, array in by_label.items()}
        return rows + _chunk_losses(shared, part, start)

    rows = jnp.zeros_like(shared["example_weight"])
    return _over_chunks(step, match_varying((rows, shared, by_label))[0], by_label, chunk)


@dataclasses.dataclass(frozen=True)
class _Total(Program):
    """The sum of the losses of all examples and, in the same pass, its gradients by the leaves at the positions `by`.

    A CPU writes gradients in bfloat16 as bits, which have no derivative.
    """

    structure: Any
    chunk: int
    by: tuple[int, ...] = ()

    def plain(self, *leaves: Array) -> list[Array]:
        return self._one_pass(leaves, lambda array: array, lambda array, _: array)

    def cpu(self, *leaves: Array) -> list[Array]:
        return self._one_pass(leaves, to_bits, from_bits)

    def _one_pass(self, leaves: Sequence[Array], bits: Any, floats: Any) -> list[Array]:
        shared, by_label = jax.tree.unflatten(self.structure, leaves)

        def step(carry: tuple[Array, list[Array]], start: Array, size: int) -> tuple[Array, list[Array]]:
            part = {name: _slice(array, start, size) for name, array in by_label.items()}
            chunk = jax.tree.leaves((shared, part))

            def losses_of(moving: list[Array]) -> Array:
                moved = dict(zip(self.by, moving, strict=True))
                leaves = [moved.get(i, leaf) for i, leaf in enumerate(chunk)]
                shared, part = jax.tree.unflatten(self.structure, leaves)
                return _chunk_losses(shared, part, start)

            def add(i: int, whole: Array, gradient: Array) -> Array:
                if i < len(shared):
                    return whole + gradient
                return jax.lax.dynamic_update_slice_in_dim(whole, bits(gradient), start, whole.ndim - 1)

            losses, pull = jax.vjp(losses_of, [chunk[i] for i in self.by])
            (gradients,) = pull(match_varying((jnp.ones_like(losses), losses))[0])
            return carry[0] + losses, list(map(add, self.by, carry[1], gradients))

        zeros = [jnp.zeros_like(leaves[i]) for i in self.by]
        zeros = [zero if i < len(shared) else bits(zero) for i, zero in zip(self.by, zeros, strict=True)]
        carry = match_varying(((jnp.zeros_like(shared["example_weight"]), zeros), leaves))[0]
        losses, gradients = _over_chunks(step, carry, by_label, self.chunk)
        return [jnp.sum(losses), *(floats(g, leaves[i].dtype) for i, g in zip(self.by, gradients, strict=True))]

    def abstract_eval(self, *avals: Any) -> list[Any]:
        shared, _ = jax.tree.unflatten(self.structure, avals)
        return [shared["example_weight"].update(shape=()), *(avals[i] for i in self.by)]

    def jvp(self, leaves: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        if not self.by:
            total, *gradients = bind(dataclasses.replace(self, by=tuple(tangents)), *leaves)
            pairs = zip(gradients, tangents.values(), strict=True)
            along = (jnp.sum(g.astype(total.dtype) * t.astype(total.dtype)) for g, t in pairs)
            return [total], [functools.reduce(operator.add, along)]

        def moved(moving: dict[int, Array]) -> list[Array]:
            return self.plain(*(moving.get(i, leaf) for i, leaf in enumerate(leaves)))

        return bind(self, *leaves), jax.jvp(moved, ({i: leaves[i] for i in tangents},), (tangents,))[1]


def _total(shared: Arrays, by_label: Arrays, chunk: int) -> Array:
    """The sum of the losses of all examples."""
    leaves, structure = jax.tree.flatten((shared, by_label))
    return bind(_Total(structure, chunk), *leaves)[0]


def _slice(array: Array, start: Array, size: int) -> Array:
    """Slice `size` labels from `start`."""
    if array.dtype == jnp.bfloat16:
        return bind(_Slice(size), array, start)[0]
    return jax.lax.dynamic_slice_in_dim(array, start, size, array.ndim - 1)


@dataclasses.dataclass(frozen=True)
class _Slice(Program):
    """A slice, which a CPU moves as bits."""

    size: int

    def plain(self, *arrays: Array) -> list[Array]:
        array, start = arrays
        return [jax.lax.dynamic_slice_in_dim(array, start, self.size, array.ndim - 1)]

    def cpu(self, *arrays: Array) -> list[Array]:
        array, start = arrays
        return [from_bits(self.plain(to_bits(array), start)[0], array.dtype)]

    def abstract_eval(self, array: Any, _: Any) -> list[Any]:
        return [array.update(shape=(*array.shape[:-1], self.size))]

    def jvp(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        return bind(self, *arrays), self.plain(tangents[0], arrays[1])
