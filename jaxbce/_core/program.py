"""One primitive for every formula: a plain definition, a program tuned for CPUs, a derivative rule.

It unites `jax.custom_jvp` with `jax.lax.platform_dependent` and adds two properties. JAX before 0.12 forgets a
`custom_jvp` where reverse mode through a `scan` is differentiated again; it never forgets the rule of a primitive. And
a program for CPUs is not even traced where the computation is lowered for a GPU or TPU.
"""

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
Function = TypeVar("Function", bound=Callable[..., Any])


def jit(*static_argnames: str) -> Callable[[Function], Function]:
    """Wrap `jax.jit` with types."""
    decorator: Any = functools.partial(jax.jit, static_argnames=static_argnames)
    return decorator  # type: ignore[no-any-return]  # the type that `jax.jit` does not tell


class Program(ABC):
    """A function of arrays, static and hashable: equal programs share what was compiled."""

    @abstractmethod
    def plain(self, *arrays: Array) -> list[Array]:
        """The definition, and the program of every platform that has none of its own."""

    @abstractmethod
    def cpu(self, *arrays: Array) -> list[Array]:
        """The same function, tuned for a CPU."""

    @abstractmethod
    def abstract_eval(self, *avals: Any) -> list[Any]:
        """The types of the results."""

    @abstractmethod
    def jvp(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        """The results and their tangents; a position that `tangents` lacks has a tangent of 0."""

    def batch(self, arrays: Sequence[Array], batched: tuple[bool, ...]) -> tuple["Program", Sequence[Array]]:
        """The program and arrays of a batch, whose axis comes first in the results and in the arrays `batched`."""
        return _Batch(self, batched), arrays


@dataclasses.dataclass(frozen=True)
class _Batch(Program):
    """A program mapped over the first axis of the arrays that are batched."""

    program: Program
    batched: tuple[bool, ...]

    def _vmap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(function, in_axes=tuple(0 if batched else None for batched in self.batched))

    def plain(self, *arrays: Array) -> list[Array]:
        return list(self._vmap(self.program.plain)(*arrays))

    def cpu(self, *arrays: Array) -> list[Array]:
        return list(self._vmap(self.program.cpu)(*arrays))

    def abstract_eval(self, *avals: Any) -> list[Any]:
        pairs = list(zip(avals, self.batched, strict=True))
        first = next(aval for aval, batched in pairs if batched)
        one = [retype(aval, aval.shape[1:], aval.sharding.spec[1:]) if batched else aval for aval, batched in pairs]
        size, names, mesh = first.shape[0], first.sharding.spec[0], first.sharding.mesh
        results = self.program.abstract_eval(*one)
        return [retype(aval, (size, *aval.shape), (names, *aval.sharding.spec), mesh) for aval in results]

    def jvp(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        def change(*both: Array) -> list[Array]:
            moving = dict(zip(tangents, both[len(arrays) :], strict=True))
            return self.program.jvp(both[: len(arrays)], moving)[1]

        batched = dataclasses.replace(self, batched=(*self.batched, *(self.batched[i] for i in tangents)))
        return bind(self, *arrays), list(batched._vmap(change)(*arrays, *tangents.values()))


def retype(aval: Any, shape: Sequence[int], spec: Sequence[Any], mesh: Any = None) -> Any:
    """Replace shape and sharding of an abstract value."""
    sharding = NamedSharding(aval.sharding.mesh if mesh is None else mesh, PartitionSpec(*spec))
    return aval.update(shape=tuple(shape), sharding=sharding)


_program_p = Primitive("jaxbce_program")
_program_p.multiple_results = True


def bind(program: Program, *arrays: Array) -> list[Array]:
    """Compute the results of a program."""
    results: list[Array] = _program_p.bind(*match_varying(arrays), program=program)
    return results


def _jvp(arrays: Sequence[Any], tangents: Sequence[Any], *, program: Program) -> tuple[Any, Any]:
    return program.jvp(arrays, {i: t for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)})


def _batch(data: Any, arrays: Sequence[Any], axes: Sequence[int | None], *, program: Program) -> Any:
    batched = tuple(axis is not None for axis in axes)
    if any(batched):
        front = [
            array if axis is None else batching.bdim_at_front(array, axis, data.size, data.explicit_mesh_axis)
            for array, axis in zip(arrays, axes, strict=True)
        ]
        program, arrays = program.batch(front, batched)
    results = bind(program, *arrays)
    return results, [0 if any(batched) else None] * len(results)


def _lowering(platform: str) -> Any:
    def lower(context: Any, *operands: Any, program: Program) -> Any:
        # Drop shardings and varying axes: the types of the operands have settled them.
        bare = [type(aval)(aval.shape, aval.dtype) for aval in context.avals_in]
        lower_formula = mlir.lower_fun(getattr(program, platform), multiple_results=True)
        return lower_formula(context.replace(avals_in=bare), *operands)

    return lower


_program_p.def_impl(lambda *arrays, program: program.plain(*arrays))
_program_p.def_abstract_eval(lambda *avals, program: program.abstract_eval(*avals))
mlir.register_lowering(_program_p, _lowering("plain"))
mlir.register_lowering(_program_p, _lowering("cpu"), platform="cpu")
ad.primitive_jvps[_program_p] = _jvp
batching.fancy_primitive_batchers[_program_p] = _batch


# --- Mapped axes --------------------------------------------------------------------------------------------------
#
# `shard_map` tracks the axes over which a value varies, and differentiates by it: the gradient of a value that is the
# same everywhere is the sum over the devices. Most operations cast their operands by themselves. A primitive of our
# own, and a `scan`, whose carry may not change its type, need them cast before.


def match_varying(tree: Tree, axes: tuple[str, ...] = ()) -> Tree:
    """Cast all arrays to vary over `axes` and over the axes over which any of them varies."""
    leaves, structure = jax.tree.flatten(tree)
    # Ask the index of a device, too: it varies over an axis wherever that is tracked.
    varying = [_varying_axes(value) for value in (*leaves, *map(jax.lax.axis_index, axes))]
    joint: frozenset[str] = frozenset().union(*varying)
    if not joint:
        return tree
    cast = [_cast(leaf, joint - own) for leaf, own in zip(leaves, varying, strict=False)]
    matched: Tree = jax.tree.unflatten(structure, cast)
    return matched


def _varying_axes(value: Array) -> frozenset[str]:
    aval = jax.typeof(value)
    # jax 0.10 moved `vma` into `manual_axis_type`.
    return frozenset(aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying)


def _cast(value: Array, axes: frozenset[str]) -> Array:
    if not axes:
        return value
    lax: Any = jax.lax  # which had `pvary` before `pcast`
    names = tuple(sorted(axes))
    varied: Array = lax.pcast(value, names, to="varying") if hasattr(lax, "pcast") else lax.pvary(value, names)
    return varied
