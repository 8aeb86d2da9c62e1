"""The core of a loss of single entries: aligned, computed, weighed, masked and reduced in one compiled function."""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
from jax import Array

from jaxbce._alignment import Admitted, Aligned, align, fit, spread
from jaxbce._apart import apart
from jaxbce._numerics import included
from jaxbce._reduction import reduce, weigh
from jaxbce._typing import Reduction


class Core(Protocol):
    """A loss of admitted arguments."""

    def __call__(self, given: Admitted, *, axis: tuple[int, ...] | None, reduction: Reduction) -> Array: ...


def elementwise(safe_prediction: float) -> Callable[[Callable[[Aligned], Array]], Core]:
    """A decorator that makes the core of a loss of its mathematics, the cost of each entry before weight and mask.

    `safe_prediction` is what the mathematics sees where the mask hides an entry.
    """

    def decorate(mathematics: Callable[[Aligned], Array]) -> Core:
        def losses(given: Admitted, *, reduced: bool) -> Array:
            aligned = align(given, safe_prediction, reduced=reduced)
            return included(weigh(mathematics(aligned), aligned.weight), aligned.where)

        losses_to_reduce, losses_to_return = (apart(functools.partial(losses, reduced=r)) for r in (True, False))

        # Compiled, so that a call outside `jit` runs as one kernel; inside another `jit` it is inlined.
        @functools.partial(jax.jit, static_argnames=("axis", "reduction"))
        def core(given: Admitted, *, axis: tuple[int, ...] | None, reduction: Reduction) -> Array:
            like = given.predictions
            where = None if given.where is None else spread(given.where, like)
            weight = None if given.weight is None else fit(given.weight, like, where, 0.0)
            weighed = losses_to_return(given) if reduction == "none" else losses_to_reduce(given)
            return reduce(weighed, weight, where, axis, reduction)

        return core

    return decorate
