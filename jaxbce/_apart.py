"""Derivatives that share no array with the value but the one that they overwrite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

Formula = Callable[..., Array]


def apart(losses: Formula, *, fused: Formula | None = None, stored: bool = False) -> Formula:
    """`losses`, elementwise, with derivatives that are computed from the arguments afresh.

    A training step computes the losses in one loop and their slopes in another. Whatever the two have in common, a
    label that both convert, even the mere broadcast of a 1, XLA on CPU computes once and stores in the size of the
    logits, which costs more than to compute it twice. So the rule sees its arguments through an optimization barrier,
    behind which nothing is recognised as the same.

    `fused` computes the same values, for the loop of a reduction. `stored` values come out of a loop of their own: of a
    long formula XLA would take the end alone into the loop of a reduction, and store what that needs, which is several
    arrays. The slopes wait for them, and take their memory or that of the logits. With both, values are fused where no
    derivative is asked for, and stored beside one.
    """
    # The barrier covers arguments and not constants: XLA would share the broadcast of a 1 all the same. With a leading
    # axis the constants of the rule have another shape. Losses that are stored share none with a reduction, and a loop
    # that changes the shape takes over no memory: without the axis a step of two layers takes 0.5 to 0.8 of the time.
    apart_in_shape = (lambda leaf: leaf) if stored else _lift

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        leaves, structure = jax.tree.flatten(primals)
        # One barrier for each: a common one would give all of them a tangent where one has it, and 0 times a slope that
        # overflows is NaN.
        afresh = [jax.lax.optimization_barrier(apart_in_shape(leaf)) for leaf in leaves]
        moves = enumerate(jax.tree.leaves(tangents))
        changes = {i: apart_in_shape(tangent) for i, tangent in moves if not isinstance(tangent, SymbolicZero)}

        def moved(moving: dict[int, Array]) -> Array:
            return losses(*jax.tree.unflatten(structure, [moving.get(i, leaf) for i, leaf in enumerate(afresh)]))

        value, change = beside_slopes(*primals), jax.jvp(moved, ({i: afresh[i] for i in changes},), (changes,))[1]
        change = change.reshape(value.shape)
        return value, change * _late_one(change) if stored else change

    def ruled(program: Formula) -> Formula:
        with_rule = jax.custom_jvp(program)
        with_rule.defjvp(rule, symbolic_zeros=True)
        return with_rule

    values = _store(losses) if stored else losses
    alone = ruled(fused or values)
    beside_slopes = ruled(values) if stored else alone
    return alone


def _store(losses: Formula) -> Formula:
    """`losses`, ended by a select, which turns NaN into -NaN, the same, and which XLA takes into no reduction."""

    def stored(*args: Any) -> Array:
        values = losses(*args)
        return jnp.where(jnp.isnan(values), -values, values)

    return stored


def _late_one(like: Array) -> Array:
    """1, as the root of 1 behind a barrier, which XLA on CPU computes at run time, and by a kernel of its own.

    So the loop of the slopes waits for a kernel; the one that stores the losses does not, and runs first. Where logits
    are arguments, the losses are reduced by the time that the slopes are written, and the slopes take their memory:
    there is no array beside the gradient, and its pages are fresh only once. At ten million logits 0.8 of the time.
    """
    return jnp.sqrt(jax.lax.optimization_barrier(jnp.ones((), like.dtype)))


def _lift(leaf: Array) -> Array:
    return leaf if leaf.ndim == 0 else jnp.expand_dims(leaf, 0)
