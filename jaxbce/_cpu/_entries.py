"""Which program computes the entries of a loss: a loop of their own, or the loop that reduces them."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import Admitted, Aligned, align, compute_dtype, spread
from jaxbce._cpu._numerics import guard, multiply_no_nan
from jaxbce._numerics import included

_LARGE: Final = 2**21
"""Entries from which on storing the losses takes longer than to compute them in the loop of the reduction."""
_SMALL: Final = range(2**12, 2**14 + 1)
"""Entries so few that waking the threads of a second loop takes longer than the losses do: one loop takes 0.7 to 0.9 of
the time. Below that XLA never joins the two loops."""
_LONG: Final = 128
"""Entries of a row from which on that loop is not held up by the ends of rows: over rows of ten it takes 2 to 4 times
as long, over rows of a thousand it is the faster."""
_SHARES: Final = 16
"""What a size should be a multiple of. On two cores a loop of odd size takes 2 to 10 times as long, because of how XLA
shares it out. Sixteen allows for more cores."""


@dataclasses.dataclass(frozen=True)
class TunedEntries:
    """The entries of a loss and their slopes by the predictions, from arrays of one dtype and one shape.

    Where `slopes` are None, those of the plain formula are as fast: a step of the focal loss takes 2.8 times as long
    with them, one of the asymmetric loss 1.4. `fused` is the loss with its weight once more, for the loop of a
    reduction, and without a select or a comparison, which XLA takes into none: that halves the time of a mean. `hard`
    is for bool labels in a cache, which it spares the conversion: a linear head of 8 features takes 1.8 times as long
    without.
    """

    losses: Callable[..., Array]
    slopes: Callable[..., Array] | None = None
    fused: Callable[..., Array] | None = None
    hard: "TunedEntries | None" = None

    def __call__(self, entries: Any, given: Admitted) -> Array:
        like, reduced = given.predictions, entries.reduced
        # A mask is a select.
        fused = self.fused if given.where is None and _in_one_loop(like.size, reduced) else None
        # Beside a gradient, which takes the memory of the losses, storing them is faster: not if it is narrower than
        # they are, nor where a loop of their own is slow.
        beside = fused is None or (like.dtype == compute_dtype(like) and shared_out(like.size))
        stored = reduced is not None and beside
        if entries.by:
            return self._derivative(entries, given, stored)
        aligned = align(given, entries.loss.safe_prediction, guard)
        if fused is not None and not (entries.beside_derivative and stored):
            return fused(aligned.predictions, aligned.labels, weight=aligned.weight, **aligned.parameters)
        form, labels = self._form(entries, given, aligned)
        losses = form.losses(aligned.predictions, labels, **aligned.parameters)
        if aligned.weight is not None:
            losses = multiply_no_nan(aligned.weight, losses)
        losses = included(losses, aligned.where)
        return _store(losses) if stored else losses

    def _form(self, entries: Any, given: Admitted, aligned: Aligned) -> tuple["TunedEntries", Array]:
        """Choose the form that suits the labels, and the labels as it takes them."""
        hard = entries.in_cache and given.labels.dtype == jnp.bool_ and given.label_smoothing is None
        if hard and self.hard is not None:
            return self.hard, spread(given.labels, aligned.predictions)
        return self, aligned.labels

    def _derivative(self, entries: Any, given: Admitted, stored: bool) -> Array:
        """Compute a derivative from the arguments afresh.

        Whatever it had in common with the losses, a label that both convert, even the mere broadcast of a 1, XLA would
        compute once and store in the size of the logits, which costs more than to compute it twice.
        """
        # The barrier covers arguments and not constants: XLA would share the broadcast of a 1 all the same. With a
        # leading axis the constants have another shape. Losses that are stored share none with a reduction, and a loop
        # that changes the shape takes over no memory: without the axis a step of two layers takes 0.5 to 0.8 of the
        # time.
        shape = given.predictions.shape
        leaves, structure = jax.tree.flatten(given)
        afresh = leaves
        if not entries.in_cache:
            afresh = [jax.lax.optimization_barrier(leaf if stored else _lift(leaf)) for leaf in leaves]
        given = jax.tree.unflatten(structure, afresh)
        aligned = align(given, entries.loss.safe_prediction, guard)
        form, labels = self._form(entries, given, aligned)
        if entries.by != (0,) or form.slopes is None:
            (derivative,) = entries.plain(*afresh)
        else:
            slopes = form.slopes(aligned.predictions, labels, **aligned.parameters)
            slopes = slopes if aligned.weight is None else aligned.weight * slopes
            derivative = included(slopes, aligned.where)
        derivative = jnp.reshape(derivative, shape)
        return derivative * _late_one(derivative) if stored and entries.by == (0,) else derivative


def _in_one_loop(size: int, reduced: int | None) -> bool:
    """Whether entries should be computed in the loop that reduces each `reduced` of them into one, if any does.

    At a million entries a loop of their own, which has to store them, takes 0.6 of the time, at ten million 1.6 times
    as long. A size may be a symbol, while a function is exported: of it nothing is known.
    """
    if reduced is None:
        return False
    if not (isinstance(size, int) and isinstance(reduced, int)):
        return True
    return reduced >= _LONG and (size >= _LARGE or size in _SMALL or not shared_out(size))


def shared_out(size: int) -> bool:
    """Whether a loop over so many entries is shared out to the cores in the fast way; a symbol is taken for yes."""
    return not isinstance(size, int) or size % _SHARES == 0


def _store(losses: Array) -> Array:
    """End the losses by a select, which turns NaN into -NaN, the same, and which XLA takes into no reduction.

    Of a long formula it would take the end alone, and store what that needs, which is several arrays.
    """
    return jnp.where(jnp.isnan(losses), -losses, losses)


def _late_one(like: Array) -> Array:
    """1, as the root of 1 behind a barrier, which XLA computes at run time, and by a kernel of its own.

    So the loop of the slopes waits for a kernel; the one that stores the losses does not, and runs first. Where logits
    are arguments, the losses are reduced by the time that the slopes are written, and the slopes take their memory:
    there is no array beside the gradient, and its pages are fresh only once. At ten million logits 0.8 of the time.
    """
    return jnp.sqrt(jax.lax.optimization_barrier(jnp.ones((), like.dtype)))


def _lift(leaf: Array) -> Array:
    return leaf if leaf.ndim == 0 else jnp.expand_dims(leaf, 0)


def countable(mask: Array) -> Array:
    """A mask as bytes, which XLA counts in a fifth of the time that bools take."""
    return mask.astype(jnp.int8)
