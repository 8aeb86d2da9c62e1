"""Derivatives that share nothing with the value, so that neither is stored on the way to the other."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


def apart(losses: Callable[..., Array], *, stored: bool = False) -> Callable[..., Array]:
    """`losses`, elementwise, with derivatives that are computed from the arguments afresh.

    A training step reduces the losses in one loop and writes their slopes in another. Whatever the two have in common,
    a label that both convert, if only the broadcast of a 1, XLA on CPU computes once and stores in the size of the
    logits, which costs more than to compute it twice. So the rule sees its arguments through an optimization barrier,
    behind which nothing is recognised as the same, and with a leading axis of 1, so that constants differ in shape.

    `stored` values come out of a loop of their own: of a long formula XLA would take the end alone into the loop of a
    reduction, and store what that needs, which is several arrays.
    """
    apart_losses = jax.custom_jvp(_store(losses) if stored else losses)

    @functools.partial(apart_losses.defjvp, symbolic_zeros=True)
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        leaves, structure = jax.tree.flatten(primals)
        # One barrier for each: a common one would give all of them a tangent where one has it, and 0 times a slope that
        # overflows is NaN.
        afresh = [jax.lax.optimization_barrier(_lift(leaf)) for leaf in leaves]
        changes = {i: _lift(t) for i, t in enumerate(jax.tree.leaves(tangents)) if not isinstance(t, SymbolicZero)}

        def moved(moving: dict[int, Array]) -> Array:
            return losses(*jax.tree.unflatten(structure, [moving.get(i, leaf) for i, leaf in enumerate(afresh)]))

        value, change = apart_losses(*primals), jax.jvp(moved, ({i: afresh[i] for i in changes},), (changes,))[1]
        return value, change.reshape(value.shape)

    return apart_losses


def _store(losses: Callable[..., Array]) -> Callable[..., Array]:
    """`losses`, ended by a select, which changes nothing and which XLA takes into no reduction."""

    def stored(*args: Any) -> Array:
        values = losses(*args)
        return jnp.where(jnp.isnan(values), jnp.nan, values)

    return stored


def _lift(leaf: Array) -> Array:
    return leaf if leaf.ndim == 0 else jnp.expand_dims(leaf, 0)
