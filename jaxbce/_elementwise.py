"""Losses of single entries: a formula, and all that a call needs around it, as one compiled function."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import Admitted, align, compute_dtype, fit, spread
from jaxbce._numerics import included, multiply_no_nan
from jaxbce._program import Program, ToFront, run
from jaxbce._reduction import number_reduced, reduce
from jaxbce._typing import Reduction

Formula: TypeAlias = Callable[..., Array]
"""The loss of a prediction and a label, in their dtype and shape; the parameters of its own come by name."""


class Tuned(Protocol):
    """A program of entries for CPUs (`jaxbce._cpu`)."""

    def __call__(self, entries: "_Entries", given: Admitted) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of entries: its formula, and its program for CPUs.

    `safe_prediction` stands in where the mask hides one. Slopes of predictions beyond ±`far` are those at ±`far`: a
    formula whose slope needs the loss again reads it at another argument then, and nothing that the two would share is
    stored (on an H100 a step of the focal loss moves 3.0 arrays, and 7.0 without).
    """

    formula: Formula
    safe_prediction: float
    tuned: Tuned
    far: float | None

    def entries(self, given: Admitted, reduced: int | None, *, in_cache: bool = False) -> Array:
        """Each entry of the loss, weighted and masked.

        `reduced` is the number of entries summed into one, None for "none"; `in_cache` says that they are few: hints to
        a program for CPUs.
        """
        leaves, structure = jax.tree.flatten(given)
        (losses,) = run(_Entries(self, structure, reduced, in_cache), *leaves)
        return losses

    def __call__(self, given: Admitted, axis: tuple[int, ...] | None, reduction: Reduction) -> Array:
        """The loss of admitted arguments."""
        loss: Array = _reduced(given, loss=self, axis=axis, reduction=reduction)
        return loss


# Compiled, as every core is: a call outside `jit` runs as one program, and inside another `jit` is inlined.
@functools.partial(jax.jit, static_argnames=("loss", "axis", "reduction"))
def _reduced(given: Admitted, *, loss: Loss, axis: tuple[int, ...] | None, reduction: Reduction) -> Array:
    like = given.predictions
    losses = loss.entries(given, None if reduction == "none" else number_reduced(like, axis))
    where = None if given.where is None else spread(given.where, like)
    weight = None if given.weight is None else fit(given.weight, like, where, 0.0)
    return reduce(losses, weight, where, axis, reduction)


def elementwise(safe_prediction: float, cpu: Tuned, far: float | None = None) -> Callable[[Formula], Loss]:
    """A decorator that makes a loss of its formula."""
    return lambda formula: Loss(formula, safe_prediction, cpu, far)


@dataclasses.dataclass(frozen=True)
class _Entries(Program):
    """The entries of a loss, or of a derivative of any order, as a program of the leaves of `Admitted`.

    An entry rests on one number of each array, so that a derivative is one number an entry, too: the derivative of the
    formula along a 1. `by` are the positions of the leaves that it is taken by, in order.
    """

    loss: Loss
    structure: Any
    reduced: int | None
    in_cache: bool
    by: tuple[int, ...] = ()
    beside_derivative: bool = False

    def __repr__(self) -> str:
        return f"{self.loss.formula.__name__.strip('_')}; by={self.by}"

    def plain(self, *leaves: Array) -> list[Array]:
        if 0 in self.by and self.loss.far is not None:
            leaves = jnp.clip(leaves[0], -self.loss.far, self.loss.far), *leaves[1:]
        return [differentiate_entries(self._entries, self.by)(*leaves)]

    def _entries(self, *leaves: Array) -> Array:
        given = align(jax.tree.unflatten(self.structure, leaves), self.loss.safe_prediction)
        losses = self.loss.formula(given.predictions, given.labels, **given.parameters)
        if given.weight is not None:
            losses = multiply_no_nan(given.weight, losses)
        return included(losses, given.where)

    def cpu(self, *leaves: Array) -> list[Array]:
        return [self.loss.tuned(self, jax.tree.unflatten(self.structure, leaves))]

    def results(self, predictions: Any, *_: Any) -> list[Any]:
        return [predictions.update(dtype=jnp.dtype(compute_dtype(predictions)), weak_type=False)]

    def differentiate(self, leaves: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        beside = dataclasses.replace(self, beside_derivative=True)
        where = jax.tree.unflatten(self.structure, leaves).where
        where = None if where is None else spread(where, leaves[0])

        def change(i: int, tangent: Array) -> Array:
            (slopes,) = run(dataclasses.replace(beside, by=tuple(sorted((*self.by, i)))), *leaves)
            return slopes * fit(tangent, leaves[0], where, 0.0)

        return run(beside, *leaves), [functools.reduce(jnp.add, map(change, *zip(*tangents.items(), strict=True)))]

    def batch(self, leaves: Sequence[Array], axes: Sequence[int | None], to_front: ToFront) -> Any:
        predictions = to_front(leaves[0], axes[0])

        def batched(leaf: Array, axis: int | None) -> Array:
            """With the axis of the batch first, and as many axes as the predictions."""
            if axis is None:
                return leaf
            leaf = to_front(leaf, axis)
            return jnp.expand_dims(leaf, range(1, 1 + predictions.ndim - leaf.ndim))

        return self, [predictions, *map(batched, leaves[1:], axes[1:])]


def differentiate_entries(function: Callable[..., Array], by: tuple[int, ...]) -> Callable[..., Array]:
    """The derivative of a function of entries by the arguments at these positions, one after the other."""
    if not by:
        return function
    lower, last = differentiate_entries(function, by[:-1]), by[-1]

    def derivative(*leaves: Array) -> Array:
        def moved(leaf: Array) -> Array:
            return lower(*leaves[:last], leaf, *leaves[last + 1 :])

        change: Array = jax.jvp(moved, (leaves[last],), (jnp.ones_like(leaves[last]),))[1]
        return change

    return derivative
