"""One primitive for all formulas of the package: a plain definition, a program tuned for CPUs, a derivative rule.

It does what `jax.custom_jvp` and `jax.lax.platform_dependent` do together, and two things that they do not. JAX before
0.12 forgets a `custom_jvp` where reverse mode goes through a `scan` and is differentiated again: the rule of a
primitive it never forgets. And a program for CPUs is not even traced where the computation is lowered for a GPU or TPU.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxbce._manual_axes import alike

ToFront: TypeAlias = Callable[[Array, int | None], Array]
"""Moves the axis of a batch to the front, or makes one."""


class Program(ABC):
    """A function of arrays, static and hashable: what was compiled for one is found again for an equal one."""

    @abstractmethod
    def plain(self, *arrays: Array) -> list[Array]:
        """The definition, and the program of every platform that has none of its own."""

    @abstractmethod
    def cpu(self, *arrays: Array) -> list[Array]:
        """The same, tuned for a CPU."""

    @abstractmethod
    def results(self, *types: Any) -> list[Any]:
        """The types of the results, from those of the arrays."""

    @abstractmethod
    def differentiate(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        """The values and their changes along the tangents, by position; those that are not there are 0."""

    def batch(
        self, arrays: Sequence[Array], axes: Sequence[int | None], to_front: ToFront
    ) -> tuple["Program", Sequence[Array]]:
        """The program of a batch, and its arrays, whose first axis is that of the batch."""
        return _Batch(self, tuple(axis is not None for axis in axes)), [
            array if axis is None else to_front(array, axis) for array, axis in zip(arrays, axes, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class _Batch(Program):
    """A program for each of a batch, which is the first axis of the arrays that are batched."""

    program: Program
    batched: tuple[bool, ...]

    def _each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(function, in_axes=tuple(0 if batched else None for batched in self.batched))

    def plain(self, *arrays: Array) -> list[Array]:
        return list(self._each(self.program.plain)(*arrays))

    def cpu(self, *arrays: Array) -> list[Array]:
        return list(self._each(self.program.cpu)(*arrays))

    def results(self, *types: Any) -> list[Any]:
        size = next(aval.shape[0] for aval, batched in zip(types, self.batched, strict=True) if batched)
        one = [a.update(shape=a.shape[1:]) if batched else a for a, batched in zip(types, self.batched, strict=True)]
        return [aval.update(shape=(size, *aval.shape)) for aval in self.program.results(*one)]

    def differentiate(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        def change(*both: Array) -> list[Array]:
            moving = dict(zip(tangents, both[len(arrays) :], strict=True))
            return self.program.differentiate(both[: len(arrays)], moving)[1]

        batched = dataclasses.replace(self, batched=(*self.batched, *(self.batched[i] for i in tangents)))
        return run(self, *arrays), list(batched._each(change)(*arrays, *tangents.values()))


_program_p = Primitive("jaxbce_program")
_program_p.multiple_results = True


def run(program: Program, *arrays: Array) -> list[Array]:
    """The values of a program."""
    values: list[Array] = _program_p.bind(*alike(arrays), program=program)
    return values


def _differentiate(arrays: Sequence[Any], tangents: Sequence[Any], *, program: Program) -> tuple[Any, Any]:
    moving = {i: tangent for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)}
    return program.differentiate(arrays, moving)


def _batch(data: Any, arrays: Sequence[Any], axes: Sequence[int | None], *, program: Program) -> Any:
    def to_front(array: Array, axis: int | None) -> Array:
        moved: Array = batching.bdim_at_front(array, axis, data.size, data.explicit_mesh_axis)
        return moved

    if all(axis is None for axis in axes):
        values = run(program, *arrays)
        return values, [None] * len(values)
    batched, arrays = program.batch(arrays, axes, to_front)
    values = run(batched, *arrays)
    return values, [0] * len(values)


def _lowering(platform: str) -> Any:
    def lower(context: Any, *operands: Any, program: Program) -> Any:
        # Shardings and varying axes are settled in the types of the operands: the formula need not be told of them.
        bare = [type(aval)(aval.shape, aval.dtype) for aval in context.avals_in]
        lower_formula = mlir.lower_fun(getattr(program, platform), multiple_results=True)
        return lower_formula(context.replace(avals_in=bare), *operands)

    return lower


_program_p.def_impl(lambda *arrays, program: program.plain(*arrays))
_program_p.def_abstract_eval(lambda *types, program: program.results(*types))
mlir.register_lowering(_program_p, _lowering("plain"))
mlir.register_lowering(_program_p, _lowering("cpu"), platform="cpu")
ad.primitive_jvps[_program_p] = _differentiate
batching.fancy_primitive_batchers[_program_p] = _batch
