"""The loss of all pairs of two batches: tile by tile, its gradients in the same pass, over a ring of devices.

With the logits z_ij = scale·⟨x_i, y_j⟩ + bias and u_ij = z_ij, or -z_ij on the diagonal, a pair costs softplus(u_ij), and
its slope is g_ij = ∂/∂z_ij = σ(u_ij), or -σ(u_ij) on the diagonal. The sum over all pairs has the gradients

    ∂/∂x_i = scale·Σ_j g_ij·y_j     ∂/∂y_j = scale·Σ_i g_ij·x_i     ∂/∂scale = Σ_ij g_ij·⟨x_i, y_j⟩     ∂/∂bias = Σ_ij g_ij.

The logits exist one tile at a time. Value and slope share the one matrix product and the one exp of a tile, so the pass
that sums the losses sums the gradients too, for two more products, and nobody has to make the logits again.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._manual_axes import vary_alike
from jaxbce._numerics import Tangent, sigmoid, softplus
from jaxbce._typing import AxisName


class Plan(NamedTuple):
    """How a pass runs, all of it static.

    `tile_size` is the most rows and columns of a tile; `axis_name` the mapped axis, of `devices` devices, along which the
    batches are split; `share` multiplies the sum of the losses.
    """

    tile_size: int
    axis_name: AxisName | None
    devices: int
    share: float


class _Sums(NamedTuple):
    """What a pass adds up, in the dtype that is computed in: the loss of each x_i and, where wanted, the gradients.

    Those by scale and bias stay apart by row until the end: a sum of sums rounds less.
    """

    losses: Array
    x: Array | None
    y: Array | None
    scale: Array | None
    bias: Array | None


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def pairwise_total(x: Array, y: Array, scale: Array, bias: Array, plan: Plan) -> Array:
    """share·Σ of the losses of all pairs, over all devices. The arguments vary alike over mapped axes.

    Its rule takes value and gradients from one pass, and returns the product of the gradients and the tangents. So
    reverse mode costs that one pass, as a `custom_vjp` would, and forward mode, `linearize` and `vmap` work as well.
    Left to autodiff, with `jax.checkpoint` for the memory, the logits were made twice and the step took 1.3 times as long.
    """
    return _over_devices(plan.share * jnp.sum(pairwise_losses(x, y, scale, bias, plan)), plan)


@functools.partial(pairwise_total.defjvp, symbolic_zeros=True)
def _(plan: Plan, primals: tuple[Array, ...], tangents: tuple[Tangent, ...]) -> tuple[Array, Array]:
    wanted = tuple(not isinstance(tangent, SymbolicZero) for tangent in tangents)
    losses, by_x, by_y, by_scale, by_bias = _pass(*primals, plan, wanted)
    # By x and y they carry the share already: an array multiplied here would be there twice.
    gradients = by_x, by_y, *(None if rows is None else plan.share * jnp.sum(rows) for rows in (by_scale, by_bias))
    change = sum(
        jnp.sum(gradient * jax.lax.convert_element_type(tangent, gradient.dtype))
        for gradient, tangent in zip(gradients, tangents, strict=True)
        if gradient is not None
    )
    return _over_devices(plan.share * jnp.sum(losses), plan), _over_devices(change, plan)


def pairwise_losses(x: Array, y: Array, scale: Array, bias: Array, plan: Plan) -> Array:
    """The loss of each x_i: its pairs with every y_j of all devices."""
    return _pass(x, y, scale, bias, plan, (False,) * 4).losses


def _over_devices(value: Array, plan: Plan) -> Array:
    return value if plan.axis_name is None else jax.lax.psum(value, plan.axis_name)


def _pass(x: Array, y: Array, scale: Array, bias: Array, plan: Plan, wanted: tuple[bool, ...]) -> _Sums:
    """All pairs of this device's x, and `wanted` gradients by (x, y, scale, bias), those by y for this device's y.

    The ys travel a ring, and what has been summed for their gradient travels with them: after as many hops as there are
    devices it is home and complete, and nothing has been kept on the way.
    """
    dtype = jnp.float64 if jnp.float64 in (x.dtype, y.dtype) else jnp.float32
    scale, bias = (jax.lax.convert_element_type(value, dtype) for value in (scale, bias))
    shapes = x.shape[:1], x.shape, y.shape, x.shape[:1], x.shape[:1]
    zeros = (vary_alike(jnp.zeros(shape, dtype), x)[0] for shape in shapes)
    sums = _Sums(*(zero if want else None for zero, want in zip(zeros, (True, *wanted), strict=True)))
    if plan.axis_name is None:
        return _block(sums, x, y, scale, bias, jnp.int32(0), plan)
    following = [(device, (device + 1) % plan.devices) for device in range(plan.devices)]

    def hop(carry: tuple[_Sums, Array], number: Array) -> tuple[tuple[_Sums, Array], None]:
        sums, y = carry
        sums = _block(sums, x, y, scale, bias, number, plan)
        by_y, y = jax.lax.ppermute((sums.y, y), plan.axis_name, following)
        return (sums._replace(y=by_y), y), None

    (sums, _), _ = jax.lax.scan(hop, (sums, y), jnp.arange(plan.devices, dtype=jnp.int32))
    return sums


def _block(sums: _Sums, x: Array, y: Array, scale: Array, bias: Array, hop: Array, plan: Plan) -> _Sums:
    """`sums` with the pairs of all x and all y, which have travelled `hop` devices far: at 0 they are at home."""
    batch = len(x)
    tiles = -(-batch // plan.tile_size)
    size = -(-batch // max(tiles, 1))
    slopes = any(gradient is not None for gradient in sums[1:])
    # Where autodiff takes a derivative of a pass, it makes the tiles again and keeps nothing of them.
    tile = jax.checkpoint(functools.partial(_tile, size=size, share=plan.share, slopes=slopes), prevent_cse=False)

    def step(sums: _Sums, number: Array) -> tuple[_Sums, None]:
        # Tiles are of one size. Where it does not divide the batch, the last one begins earlier, within the one before.
        fresh = number // tiles * size, number % tiles * size
        row, column = (jnp.minimum(start, batch - size) for start in fresh)
        added = tile(x, y, scale, bias, (row, column), fresh, hop * batch)
        return _Sums(*map(_add_at, sums, added, (row, row, column, row, row))), None

    return jax.lax.scan(step, sums, jnp.arange(tiles * tiles, dtype=jnp.int32))[0]


def _tile(
    x: Array,
    y: Array,
    scale: Array,
    bias: Array,
    corner: tuple[Array, Array],
    fresh: tuple[Array, Array],
    shift: Array,
    *,
    size: int,
    share: float,
    slopes: bool,
) -> _Sums:
    """The sums over the tile at this corner, of what comes after `fresh`; x_i belongs to the y of number i - shift."""
    overlap = bool(size and len(x) % size)
    x, y = (
        jax.lax.convert_element_type(jax.lax.dynamic_slice_in_dim(batch, start, size), scale.dtype)
        for batch, start in zip((x, y), corner, strict=True)
    )
    row, column = (start + jnp.arange(size, dtype=jnp.int32) for start in corner)
    paired = row[:, None] == (column + shift)[None, :]
    logits = scale * (x @ y.T) + bias
    side = jnp.where(paired, -logits, logits)
    if overlap:
        counted = (row >= fresh[0])[:, None] & (column >= fresh[1])[None, :]
        side = jnp.where(counted, side, -jnp.inf)  # No loss and no slope.
    losses = jnp.sum(softplus(side), 1)
    if not slopes:
        return _Sums(losses, None, None, None, None)
    slope = sigmoid(side)
    slope = jnp.where(paired, -slope, slope)
    along = slope @ y
    return _Sums(
        losses,
        (share * scale) * along,
        (share * scale) * (slope.T @ x),
        jnp.sum(x * along, 1),
        jnp.sum(slope, 1),
    )


def _add_at(sums: Array | None, added: Array | None, start: Array) -> Array | None:
    if sums is None or added is None:
        return None
    before = jax.lax.dynamic_slice_in_dim(sums, start, len(added))
    return jax.lax.dynamic_update_slice_in_dim(sums, before + added, start, 0)
