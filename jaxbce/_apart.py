"""Derivatives that share nothing with the value, so that neither is stored on the way to the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

Losses = Callable[..., Array]


def apart(losses: Losses, *, stored: bool = False, alone: Losses | None = None) -> Losses:
    """`losses`, elementwise, with derivatives that are computed from the arguments afresh.

    A training step reduces the losses in one loop and writes their slopes in another. Whatever the two have in common,
    a label that both convert, if only the broadcast of a 1, XLA on CPU computes once and stores in the size of the
    logits, which costs more than to compute it twice. So the rule sees its arguments through an optimization barrier,
    behind which nothing is recognised as the same, and with a leading axis of 1, so that constants differ in shape.

    `stored` values come out of a loop of their own: of a long formula XLA would take the end alone into the loop of a
    reduction, and store what that needs, which is several arrays. `alone` is what computes them where no derivative is
    asked for.
    """
    values = _store(losses) if stored else losses
    beside_derivative, without = jax.custom_jvp(values), jax.custom_jvp(alone or values)

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        leaves, structure = jax.tree.flatten(primals)
        # One barrier for each: a common one would give all of them a tangent where one has it, and 0 times a slope that
        # overflows is NaN.
        afresh = [jax.lax.optimization_barrier(_lift(leaf)) for leaf in leaves]
        changes = {i: _lift(t) for i, t in enumerate(jax.tree.leaves(tangents)) if not isinstance(t, SymbolicZero)}

        def moved(moving: dict[int, Array]) -> Array:
            return losses(*jax.tree.unflatten(structure, [moving.get(i, leaf) for i, leaf in enumerate(afresh)]))

        value, change = beside_derivative(*primals), jax.jvp(moved, ({i: afresh[i] for i in changes},), (changes,))[1]
        change = change.reshape(value.shape)
        return value, change * _late_one(change) if stored else change

    beside_derivative.defjvp(rule, symbolic_zeros=True)
    without.defjvp(rule, symbolic_zeros=True)
    return without


def _store(losses: Losses) -> Losses:
    """`losses`, ended by a select, which changes nothing and which XLA takes into no reduction."""

    def stored(*args: Any) -> Array:
        values = losses(*args)
        return jnp.where(jnp.isnan(values), jnp.nan, values)

    return stored


def _late_one(like: Array) -> Array:
    """1, which XLA on CPU computes by a kernel of its own, since it looks into no barrier.

    So the loop of the slopes waits for a kernel; the one that stores the losses does not, and runs first. By the time
    that the slopes are written the losses are reduced, and the slopes take their memory: there is no array beside the
    gradient, and its pages are fresh only once. Value and gradient of ten million logits take 0.8 of the time.
    """
    return jnp.sqrt(jax.lax.optimization_barrier(jnp.ones((), like.dtype)))


def _lift(leaf: Array) -> Array:
    return leaf if leaf.ndim == 0 else jnp.expand_dims(leaf, 0)
