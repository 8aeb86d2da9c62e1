"""The core of a loss of single entries: aligned, computed, weighted, masked and reduced in one compiled function."""

import functools
from collections.abc import Callable
from typing import Protocol, TypeAlias

import jax
from jax import Array

from jaxbce._alignment import Admitted, Aligned, align, compute_dtype, fit, spread
from jaxbce._apart import apart
from jaxbce._loops import in_one_loop, shared_out
from jaxbce._manual_axes import alike
from jaxbce._numerics import included
from jaxbce._reduction import number_reduced, reduce, weigh
from jaxbce._typing import Reduction

Mathematics: TypeAlias = Callable[[Aligned], Array]


class Core(Protocol):
    """A loss of admitted arguments."""

    def __call__(self, given: Admitted, *, axis: tuple[int, ...] | None, reduction: Reduction) -> Array: ...


def elementwise(
    safe_prediction: float, *, weighted: Callable[..., Array] | None = None
) -> Callable[[Mathematics], Core]:
    """A decorator that makes the core of a loss of its mathematics, the cost of each entry before weight and mask.

    `safe_prediction` is what the mathematics sees where the mask hides an entry. `weighted` is the mathematics once
    more, with the weight in it, of few operations and of those alone that XLA on CPU takes into the loop of a
    reduction: no select and no comparison. It has no derivatives; None if there is no such form.
    """

    def decorate(mathematics: Mathematics) -> Core:
        def losses(given: Admitted) -> Array:
            aligned = align(given, safe_prediction)
            return included(weigh(mathematics(aligned), aligned.weight), aligned.where)

        fused = None if weighted is None else functools.partial(_fused, weighted, safe_prediction)
        unreduced = apart(losses)
        stored = apart(losses, stored=True)
        always_fused = apart(losses, fused=fused)
        fused_unless_differentiated = apart(losses, fused=fused, stored=True)

        def program(like: Array, where: Array | None, axis: tuple[int, ...] | None) -> Callable[[Admitted], Array]:
            """The fastest of equal programs for losses that are reduced."""
            # A mask is a select, which XLA on CPU takes into no reduction.
            if fused is None or where is not None or not in_one_loop(like.size, number_reduced(like, axis)):
                return stored
            # Beside a gradient, which takes the memory of the losses, storing them is faster: not if it is narrower
            # than they are, nor where a loop of their own is slow.
            store_beside_gradient = like.dtype == compute_dtype(like) and shared_out(like.size)
            return fused_unless_differentiated if store_beside_gradient else always_fused

        # Compiled, as every core is: a call outside `jit` runs as one program, and inside another `jit` is inlined.
        @functools.partial(jax.jit, static_argnames=("axis", "reduction"))
        def core(given: Admitted, *, axis: tuple[int, ...] | None, reduction: Reduction) -> Array:
            given = alike(given)
            if reduction == "none":
                return unreduced(given)
            like = given.predictions
            where = None if given.where is None else spread(given.where, like)
            weight = None if given.weight is None else fit(given.weight, like, where, 0.0)
            return reduce(program(like, where, axis)(given), weight, where, axis, reduction)

        return core

    return decorate


def _fused(weighted: Callable[..., Array], safe_prediction: float, given: Admitted) -> Array:
    aligned = align(given, safe_prediction)
    return weighted(aligned.predictions, aligned.labels, weight=aligned.weight, **aligned.parameters)
