"""The loss of all pairs of two batches: tile by tile, its gradients in the same pass, over a ring of devices.

With the logits z_ij = scale·⟨x_i, y_j⟩ + bias and u_ij = z_ij, or -z_ij on the diagonal, a pair costs softplus(u_ij),
and its slope is g_ij = ∂/∂z_ij = σ(u_ij), or -σ(u_ij) on the diagonal. The sum over all pairs has the gradients

    by x_i: scale·Σ_j g_ij·y_j    by y_j: scale·Σ_i g_ij·x_i    by scale: Σ_ij g_ij·⟨x_i, y_j⟩    by bias: Σ_ij g_ij.

The logits exist one tile at a time. Value and slope share the one matrix product and the one exp of a tile, so the pass
that sums the losses sums the gradients too, for two more products, and nobody has to make the logits again.
"""

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._alignment import compute_dtype
from jaxbce._manual_axes import alike, devices, sum_over
from jaxbce._numerics import sigmoid, softplus

Pairs: TypeAlias = tuple[Array, Array, Array, Array]
"""x and y, both [B, D], scale and bias; they vary alike over mapped axes."""


class Plan(NamedTuple):
    """How a pass runs; all of it is static.

    `tile_size` is the most rows and columns of a tile. `axes` are the mapped axes along which the batches are split.
    `mean` says that the total, and so its gradients, are of the mean over the examples of all devices.
    """

    tile_size: int
    axes: tuple[str, ...]
    mean: bool

    def share(self, sums: Array) -> Array:
        """What multiplies the sum over the examples of a device, of which `sums` has one number each."""
        # The mean of no examples is 0·inf: NaN, as in NumPy and PyTorch.
        count = sums.shape[0] * devices(self.axes) if self.mean else 1
        return 1 / jnp.full((), count, sums.dtype)


class _Sums(NamedTuple):
    """What a pass adds up, in the dtype that is computed in: the loss of each x_i and, where wanted, the gradients.

    Those by x and y are of share·Σ loss. Those by scale and bias stay apart by row: a sum of sums rounds less.
    """

    losses: Array
    x: Array | None
    y: Array | None
    scale: Array | None
    bias: Array | None


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def pairwise_total(x: Array, y: Array, scale: Array, bias: Array, plan: Plan) -> Array:
    """share·Σ of the losses of all pairs, over all devices.

    Its rule takes value and gradients from one pass, and gives the product of gradients and tangents. So reverse mode
    costs that one pass, as with a `custom_vjp`, and forward mode and all that is built of it work too. Left to
    autodiff, with `jax.checkpoint` for the memory, the logits are made twice, and a step takes 1.25 times as long.
    """
    losses = pairwise_losses(x, y, scale, bias, plan)
    return sum_over(plan.share(losses) * jnp.sum(losses), plan.axes)


@functools.partial(pairwise_total.defjvp, symbolic_zeros=True)
def _(plan: Plan, primals: Pairs, tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    sums = _pass(primals, plan, tuple(not isinstance(tangent, SymbolicZero) for tangent in tangents))
    share = plan.share(sums.losses)
    total = share * jnp.sum(sums.losses)
    change = jnp.zeros_like(total)
    for gradient, tangent in zip(sums[1:], tangents, strict=True):
        if gradient is not None and not isinstance(tangent, SymbolicZero):
            product = gradient * jax.lax.convert_element_type(tangent, gradient.dtype)
            change += jnp.sum(product) if tangent.ndim else share * jnp.sum(product)
    return sum_over(total, plan.axes), sum_over(change, plan.axes)


def pairwise_losses(x: Array, y: Array, scale: Array, bias: Array, plan: Plan) -> Array:
    """The loss of each x_i, which pairs with every y_j of all devices."""
    return _pass((x, y, scale, bias), plan, (False,) * 4).losses


def _pass(pairs: Pairs, plan: Plan, wanted: tuple[bool, ...]) -> _Sums:
    """The sums over all pairs of this device's x, with the gradients that are `wanted`, by y those of this device's y.

    The y travel a ring, and what has been summed up for their gradient travels with them: after as many hops as there
    are devices it is home and complete, and nothing was kept on the way.
    """
    x, y, scale, bias = pairs
    dtype = compute_dtype(x, y)
    scale, bias = (jax.lax.convert_element_type(value, dtype) for value in (scale, bias))
    rows, by_x, by_y, _ = alike((*(jnp.zeros(shape, dtype) for shape in (x.shape[:1], x.shape, y.shape)), x))
    gradients = zip((by_x, by_y, rows, rows), wanted, strict=True)
    sums = _Sums(rows, *(zero if want else None for zero, want in gradients))
    if not plan.axes:
        return _block(sums, (x, y, scale, bias), jnp.int32(0), plan)
    hops = devices(plan.axes)
    following = [(device, (device + 1) % hops) for device in range(hops)]

    def hop(carry: tuple[_Sums, Array], number: Array) -> tuple[tuple[_Sums, Array], None]:
        sums, y = carry
        sums = _block(sums, (x, y, scale, bias), number, plan)
        by_y, y = jax.lax.ppermute((sums.y, y), plan.axes, following)
        return (sums._replace(y=by_y), y), None

    (sums, _), _ = jax.lax.scan(hop, (sums, y), jnp.arange(hops, dtype=jnp.int32))
    return sums


def _block(sums: _Sums, pairs: Pairs, hop: Array, plan: Plan) -> _Sums:
    """`sums` with the pairs of all x and all y; these have travelled `hop` devices far, and are at home at 0."""
    batch = pairs[0].shape[0]
    tiles = -(-batch // plan.tile_size)
    # Tiles as even as may be. Of a symbol, while a function is exported, JAX has to be told that it holds one.
    size = jax.core.min_dim(-(-batch // jax.core.max_dim(tiles, 1)), batch)
    share, slopes = plan.share(sums.losses), any(gradient is not None for gradient in sums[1:])
    # Where autodiff takes a derivative of a pass, it makes the tiles again and keeps nothing of them.
    tile = jax.checkpoint(functools.partial(_tile, size=size, share=share, slopes=slopes), prevent_cse=False)

    def step(sums: _Sums, number: Array) -> tuple[_Sums, None]:
        # Tiles are of one size. Where it does not divide the batch, the last begins earlier, within the one before.
        fresh = number // tiles * size, number % tiles * size
        row, column = (jnp.minimum(start, batch - size) for start in fresh)
        added = tile(pairs, (row, column), fresh, hop * batch)
        losses = _add_at(sums.losses, added.losses, row)
        gradients = zip(sums[1:], added[1:], (row, column, row, row), strict=True)
        return _Sums(losses, *(None if s is None or a is None else _add_at(s, a, at) for s, a, at in gradients)), None

    return jax.lax.scan(step, sums, jnp.arange(tiles * tiles, dtype=jnp.int32))[0]


def _tile(
    pairs: Pairs,
    corner: tuple[Array, Array],
    fresh: tuple[Array, Array],
    shift: Array,
    *,
    size: int,
    share: Array,
    slopes: bool,
) -> _Sums:
    """The sums over the tile at `corner`, of its rows and columns from `fresh` on; x_i is paired with y_(i - shift)."""
    *batches, scale, bias = pairs
    x, y = (
        jax.lax.convert_element_type(jax.lax.dynamic_slice_in_dim(batch, start, size), scale.dtype)
        for batch, start in zip(batches, corner, strict=True)
    )
    row, column = (start + jnp.arange(size, dtype=jnp.int32) for start in corner)
    paired = row[:, None] == (column + shift)[None, :]
    logits = scale * (x @ y.T) + bias
    side = jnp.where(paired, -logits, logits)
    if size and batches[0].shape[0] % size:  # A symbol, of which it is not known, is true.
        counted = (row >= fresh[0])[:, None] & (column >= fresh[1])[None, :]
        side = jnp.where(counted, side, -jnp.inf)  # It costs nothing, and has no slope.
    losses = jnp.sum(softplus(side), 1)
    if not slopes:
        return _Sums(losses, None, None, None, None)
    slope = sigmoid(side)
    slope = jnp.where(paired, -slope, slope)
    along = slope @ y
    by_x, by_y = (share * scale) * along, (share * scale) * (slope.T @ x)
    return _Sums(losses, by_x, by_y, jnp.sum(x * along, 1), jnp.sum(slope, 1))


def _add_at(sums: Array, added: Array, start: Array) -> Array:
    # A scatter: in jax 0.6 the transpose of `dynamic_update_slice` forgets over which axes it varies.
    window = jax.lax.ScatterDimensionNumbers(tuple(range(added.ndim)), (), (0,))
    return jax.lax.scatter_add(
        sums, start[None], added, window, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
    )
