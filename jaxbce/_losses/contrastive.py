"""The sigmoid loss of all pairs of two batches: tile by tile, its gradients in the same pass, over a ring of devices.

With the logits z_ij = scale·⟨x_i, y_j⟩ + bias and u_ij = z_ij, or -z_ij on the diagonal, a pair costs softplus(u_ij),
and its slope is g_ij = ∂/∂z_ij = σ(u_ij), or -σ(u_ij) on the diagonal. The sum over all pairs has the gradients

    by x_i: scale·Σ_j g_ij·y_j    by y_j: scale·Σ_i g_ij·x_i    by scale: Σ_ij g_ij·⟨x_i, y_j⟩    by bias: Σ_ij g_ij.

The logits exist one tile at a time. Value and slope share the matmul and the exponential of a tile, so the pass that
sums the losses sums the gradients too, for two more matmuls, and the backward pass recomputes nothing.
"""

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._core.arrays import ArrayLike, AxisName, Reduction, axis_size, compute_dtype, psum
from jaxbce._core.numerics import sigmoid, softplus
from jaxbce._core.program import jit, match_varying
from jaxbce._validate.arguments import validate, validate_axis_name, validate_reduction, validate_size

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
    differentiable in x, y, logit_scale and logit_bias, to any order, forward and reverse.

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
    function = "sigmoid_contrastive_loss"
    values = {"x": x, "y": y, "logit_scale": logit_scale, "logit_bias": logit_bias}
    pairs = tuple(validate(function, "x", values).values())
    for name, array in zip("xy", pairs, strict=False):
        if array.ndim != 2:
            raise ValueError(
                f"{function}: {name} must have shape [B, D], got {array.shape}. "
                "Features of more axes need a reshape to (B, -1), other axes before them a jax.vmap."
            )
    if pairs[0].shape != pairs[1].shape:
        raise ValueError(
            f"{function}: x and y must have one shape [B, D], got {pairs[0].shape} and {pairs[1].shape}. "
            "Row i of both belongs to example i; project both to one number of features."
        )
    validate_reduction(function, reduction, None, None)
    axes = validate_axis_name(function, "axis_name", axis_name)
    tile_size = validate_size(function, "tile_size", tile_size, _TILE_SIZE)
    config = TileConfig(tile_size, axes, mean=reduction not in ("none", "sum"))
    # Cast before the core: the gradient of a value that is the same on every device is a sum over the devices.
    return _contrastive_core(*match_varying(pairs, axes), config=config, per_example=reduction == "none")


Pairs: TypeAlias = tuple[Array, Array, Array, Array]
"""x and y, both [B, D], scale and bias; they vary alike over mapped axes."""


class TileConfig(NamedTuple):
    """How a pass runs; all of it is static.

    `tile_size` is the most rows and columns of a tile. `axes` are the mapped axes along which the batches are split.
    `mean` says that the total, and so its gradients, are of the mean over the examples of all devices.
    """

    tile_size: int
    axes: tuple[str, ...]
    mean: bool

    def mean_scale(self, sums: Array) -> Array:
        """The factor of the sum over the examples of a device, of which `sums` has one number each."""
        # Leave the mean of no examples 0·inf, which is NaN, as in NumPy and PyTorch.
        count = sums.shape[0] * axis_size(self.axes) if self.mean else 1
        return 1 / jnp.full((), count, sums.dtype)


class _Sums(NamedTuple):
    """The sums of a pass, in the compute dtype: the loss of each x_i and, where needs_grad, the gradients.

    Those by x and y are of mean_scale·Σ loss. Those by scale and bias stay apart by row: a sum of sums rounds less.
    """

    losses: Array
    x: Array | None
    y: Array | None
    scale: Array | None
    bias: Array | None


@jit("config", "per_example")
def _contrastive_core(x: Array, y: Array, scale: Array, bias: Array, *, config: TileConfig, per_example: bool) -> Array:
    return _losses(x, y, scale, bias, config) if per_example else _total(x, y, scale, bias, config)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _total(x: Array, y: Array, scale: Array, bias: Array, config: TileConfig) -> Array:
    """mean_scale·Σ of the losses of all pairs, over all devices.

    Its rule takes value and gradients from one pass and returns ⟨gradient, tangent⟩, so that forward mode works too.
    Autodiff with `jax.checkpoint` computes the logits twice, and a step is 1.25 times slower.
    """
    losses = _losses(x, y, scale, bias, config)
    return psum(config.mean_scale(losses) * jnp.sum(losses), config.axes)


@functools.partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(config: TileConfig, primals: Pairs, tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    sums = _ring(primals, config, tuple(not isinstance(tangent, SymbolicZero) for tangent in tangents))
    mean_scale = config.mean_scale(sums.losses)
    total = mean_scale * jnp.sum(sums.losses)
    change = jnp.zeros_like(total)
    for gradient, tangent in zip(sums[1:], tangents, strict=True):
        if gradient is not None and not isinstance(tangent, SymbolicZero):
            product = gradient * jax.lax.convert_element_type(tangent, gradient.dtype)
            change += jnp.sum(product) if tangent.ndim else mean_scale * jnp.sum(product)
    return psum(total, config.axes), psum(change, config.axes)


def _losses(x: Array, y: Array, scale: Array, bias: Array, config: TileConfig) -> Array:
    """The loss of each x_i, which pairs with every y_j of all devices."""
    return _ring((x, y, scale, bias), config, (False,) * 4).losses


def _ring(pairs: Pairs, config: TileConfig, needs_grad: tuple[bool, ...]) -> _Sums:
    """Sum over all pairs of this device's x; sum the gradients where `needs_grad`, by y those of this device's y.

    The y travel a ring of devices, and their gradients with them: after as many hops as devices each gradient is
    complete on its own device, and no hop leaves residuals.
    """
    x, y, scale, bias = pairs
    dtype = compute_dtype(x, y)
    scale, bias = (jax.lax.convert_element_type(value, dtype) for value in (scale, bias))
    rows, by_x, by_y, _ = match_varying((*(jnp.zeros(shape, dtype) for shape in (x.shape[:1], x.shape, y.shape)), x))
    gradients = zip((by_x, by_y, rows, rows), needs_grad, strict=True)
    sums = _Sums(rows, *(zero if want else None for zero, want in gradients))
    if not config.axes:
        return _all_tiles(sums, (x, y, scale, bias), jnp.int32(0), config)
    hops = axis_size(config.axes)
    following = [(device, (device + 1) % hops) for device in range(hops)]

    def hop(carry: tuple[_Sums, Array], number: Array) -> tuple[tuple[_Sums, Array], None]:
        sums, y = carry
        sums = _all_tiles(sums, (x, y, scale, bias), number, config)
        by_y, y = jax.lax.ppermute((sums.y, y), config.axes, following)
        return (sums._replace(y=by_y), y), None

    (sums, _), _ = jax.lax.scan(hop, (sums, y), jnp.arange(hops, dtype=jnp.int32))
    return sums


def _all_tiles(sums: _Sums, pairs: Pairs, hop: Array, config: TileConfig) -> _Sums:
    """`sums` with the pairs of all x and all y; these have travelled `hop` devices far, and are at home at 0."""
    batch = pairs[0].shape[0]
    tiles = -(-batch // config.tile_size)
    # Cut tiles as even as may be. Use `min_dim` and `max_dim`: under `jax.export` sizes are symbolic.
    size = jax.core.min_dim(-(-batch // jax.core.max_dim(tiles, 1)), batch)
    mean_scale, slopes = config.mean_scale(sums.losses), any(gradient is not None for gradient in sums[1:])
    # Recompute the tiles where autodiff differentiates a pass, so that it stores none.
    tile = jax.checkpoint(functools.partial(_tile, size=size, mean_scale=mean_scale, slopes=slopes), prevent_cse=False)

    def step(sums: _Sums, number: Array) -> tuple[_Sums, None]:
        # Overlap the last tile with its neighbour where the size does not divide the batch, and mask what was counted.
        first_new = number // tiles * size, number % tiles * size
        row, column = (jnp.minimum(start, batch - size) for start in first_new)
        added = tile(pairs, (row, column), first_new, hop * batch)
        losses = _add_at(sums.losses, added.losses, row)
        gradients = zip(sums[1:], added[1:], (row, column, row, row), strict=True)
        return _Sums(losses, *(None if s is None or a is None else _add_at(s, a, at) for s, a, at in gradients)), None

    return jax.lax.scan(step, sums, jnp.arange(tiles * tiles, dtype=jnp.int32))[0]


def _tile(
    pairs: Pairs,
    corner: tuple[Array, Array],
    first_new: tuple[Array, Array],
    shift: Array,
    *,
    size: int,
    mean_scale: Array,
    slopes: bool,
) -> _Sums:
    """Sum over the tile at `corner`, from the row and column `first_new` on; x_i is paired with y_(i - shift)."""
    *batches, scale, bias = pairs
    x, y = (
        jax.lax.convert_element_type(jax.lax.dynamic_slice_in_dim(batch, start, size), scale.dtype)
        for batch, start in zip(batches, corner, strict=True)
    )
    row, column = (start + jnp.arange(size, dtype=jnp.int32) for start in corner)
    paired = row[:, None] == (column + shift)[None, :]
    logits = scale * (x @ y.T) + bias
    signed = jnp.where(paired, -logits, logits)
    if size and batches[0].shape[0] % size:  # A symbol, of which it is not known, is true.
        counted = (row >= first_new[0])[:, None] & (column >= first_new[1])[None, :]
        signed = jnp.where(counted, signed, -jnp.inf)  # It costs nothing, and has no slope.
    losses = jnp.sum(softplus(signed), 1)
    if not slopes:
        return _Sums(losses, None, None, None, None)
    slope = sigmoid(signed)
    slope = jnp.where(paired, -slope, slope)
    along = slope @ y
    by_x, by_y = (mean_scale * scale) * along, (mean_scale * scale) * (slope.T @ x)
    return _Sums(losses, by_x, by_y, jnp.sum(x * along, 1), jnp.sum(slope, 1))


def _add_at(sums: Array, added: Array, start: Array) -> Array:
    # A scatter: in jax 0.6 the transpose of `dynamic_update_slice` forgets over which axes it varies.
    window = jax.lax.ScatterDimensionNumbers(tuple(range(added.ndim)), (), (0,))
    return jax.lax.scatter_add(
        sums, start[None], added, window, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
    )
