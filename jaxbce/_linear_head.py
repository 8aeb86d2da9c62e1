"""The mathematics of a linear head with many labels, whose logits exist for one chunk of labels at a time.

    Σ_b v_b·Σ_l v_l·ℓ(x_b·k_l + c_l, y_bl)        features x [B, D], kernel k [D, L], bias c [L]

Arguments come in two pytrees of arrays by name. Those `by_label` have the labels as their last axis, and a step of the
loop takes a chunk of each; those that are `shared` serve every chunk.

A training step needs value and gradients. To compute each chunk again on the way back costs a product of matrices and
an exponential more, a quarter of the time. So the derivative rule of the total computes both in one pass: a chunk's
loss, then at once its part of the gradients. As a custom_jvp rule, which returns ⟨gradient, tangent⟩, it costs in
reverse mode what storing the gradients would, and keeps forward mode, `linearize`, second derivatives and `vmap`.
Losses of single examples have as many gradients as examples, and go back by recomputation.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce import _cpu
from jaxbce._alignment import Admitted
from jaxbce._binary import from_logits
from jaxbce._manual_axes import alike
from jaxbce._numerics import weigh
from jaxbce._positives import multi_hot
from jaxbce._program import Program, run

Arrays: TypeAlias = dict[str, Array]
Carry = TypeVar("Carry")


class Step(Protocol[Carry]):
    """What one chunk does, which begins at a label and has so many."""

    def __call__(self, carry: Carry, start: Array, /, size: int) -> Carry: ...


def _chunk_losses(shared: Arrays, part: Arrays, start: Array) -> Array:
    """The loss of each example, summed over the labels of the chunk that begins at `start`."""
    given = {**shared, **part}
    features = given["features"]
    logits = features @ given["kernel"].astype(features.dtype)
    if "bias" in given:
        logits += jnp.broadcast_to(given["bias"].astype(features.dtype), logits.shape)
    hot = multi_hot(given["positives"] - start, logits.shape[1]) if "positives" in given else given["labels"]
    parameters = {"pos_weight": given.get("pos_weight")}
    admitted = Admitted(logits, hot, parameters, given.get("weight"), given.get("label_smoothing"), None)
    return weigh(given["example_weight"], jnp.sum(from_logits.entries(admitted, None, in_cache=True), 1))


def head_losses(shared: Arrays, by_label: Arrays, chunk: int) -> Array:
    """The loss of each example, [B]."""

    def step(rows: Array, start: Array, size: int) -> Array:
        return rows + _chunk_losses(shared, _part(by_label, start, size), start)

    rows = jnp.zeros_like(shared["features"], shape=shared["features"].shape[:1])
    return _over_chunks(step, alike((rows, shared, by_label))[0], by_label, chunk)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def head_total(shared: Arrays, by_label: Arrays, chunk: int) -> Array:
    """The sum of the losses of all examples."""
    return jnp.sum(head_losses(shared, by_label, chunk))


@functools.partial(head_total.defjvp, symbolic_zeros=True)
def _(chunk: int, primals: tuple[Arrays, Arrays], tangents: tuple[dict[str, Any], dict[str, Any]]) -> Any:
    moving = [{n: t for n, t in tree.items() if not isinstance(t, SymbolicZero)} for tree in tangents]
    value, *gradients = _in_one_pass(*primals, chunk, *moving)
    dtype = value.dtype

    def along(gradient: Array, tangent: Array) -> Array:
        return jnp.sum(gradient.astype(dtype) * tangent.astype(dtype))

    change = sum(jax.tree.leaves(jax.tree.map(along, gradients, moving)), jnp.zeros_like(value))
    return value, change


def _value_and_gradients(
    shared: Arrays, by_label: Arrays, chunk: int, by_shared: frozenset[str], by_part: frozenset[str], as_bits: bool
) -> tuple[Array, Arrays, Arrays]:
    """The total and its gradients with respect to the arguments of these names; `as_bits` see `_cpu.bits`."""
    bits, floats = (_cpu.bits, _cpu.floats) if as_bits else (lambda array: array, lambda array, _: array)

    def step(carry: tuple[Array, Arrays, Arrays], start: Array, size: int) -> tuple[Array, Arrays, Arrays]:
        rows, summed, written = carry
        part = _part(by_label, start, size)

        def of(moving: Arrays, moving_part: Arrays) -> Array:
            return _chunk_losses({**shared, **moving}, {**part, **moving_part}, start)

        losses, pull = jax.vjp(of, _only(shared, by_shared), _only(part, by_part))
        gradient, gradient_part = pull(alike((jnp.ones_like(losses), losses))[0])
        summed = jax.tree.map(operator.add, summed, gradient)

        def put(whole: Array, part: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, bits(part), start, whole.ndim - 1)

        return rows + losses, summed, jax.tree.map(put, written, gradient_part)

    rows = jnp.zeros_like(shared["features"], shape=shared["features"].shape[:1])
    zeros = jax.tree.map(jnp.zeros_like, (_only(shared, by_shared), _only(by_label, by_part)))
    carry = alike(((rows, zeros[0], jax.tree.map(bits, zeros[1])), shared, by_label))[0]
    rows, summed, written = _over_chunks(step, carry, by_label, chunk)
    return jnp.sum(rows), summed, {name: floats(array, by_label[name].dtype) for name, array in written.items()}


def _in_one_pass(
    shared: Arrays, by_label: Arrays, chunk: int, by_shared: Iterable[str], by_part: Iterable[str]
) -> tuple[Array, Arrays, Arrays]:
    """The total and its gradients with respect to the arguments of these names."""
    leaves, structure = jax.tree.flatten((shared, by_label))
    total, *gradients = run(_OnePass(structure, chunk, frozenset(by_shared), frozenset(by_part)), *leaves)
    like = _only(shared, by_shared), _only(by_label, by_part)
    summed, written = jax.tree.unflatten(jax.tree.structure(like), gradients)
    return total, summed, written


@dataclasses.dataclass(frozen=True)
class _OnePass(Program):
    """The total and its gradients, of which a CPU writes those in bfloat16 as bits, which have no derivative."""

    structure: Any
    chunk: int
    by_shared: frozenset[str]
    by_part: frozenset[str]

    def _leaves(self, *leaves: Array, as_bits: bool) -> list[Array]:
        shared, by_label = jax.tree.unflatten(self.structure, leaves)
        found = _value_and_gradients(shared, by_label, self.chunk, self.by_shared, self.by_part, as_bits)
        return jax.tree.leaves(found)

    def plain(self, *leaves: Array) -> list[Array]:
        return self._leaves(*leaves, as_bits=False)

    def cpu(self, *leaves: Array) -> list[Array]:
        return self._leaves(*leaves, as_bits=True)

    def results(self, *leaves: Any) -> list[Any]:
        shared, by_label = jax.tree.unflatten(self.structure, leaves)
        gradients = _only(shared, self.by_shared), _only(by_label, self.by_part)
        return [shared["features"].update(shape=()), *jax.tree.leaves(gradients)]

    def differentiate(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        def moved(moving: dict[int, Array]) -> list[Array]:
            return self.plain(*(moving.get(i, array) for i, array in enumerate(arrays)))

        return run(self, *arrays), jax.jvp(moved, ({i: arrays[i] for i in tangents},), (tangents,))[1]


def _over_chunks(step: Step[Carry], carry: Carry, by_label: Arrays, chunk: int) -> Carry:
    """What `step` carries from chunk to chunk. The rest is a step of its own, so that no array is padded or copied."""
    whole, rest = divmod(by_label["kernel"].shape[1], chunk)

    def body(carry: Carry, index: Array) -> tuple[Carry, None]:
        return _recomputed(step, chunk)(carry, index * chunk), None

    if whole:
        # A symbol, while a function is exported, is true, and JAX has to be told that there is a chunk at least.
        indices = jnp.arange(jax.core.max_dim(whole, 1), dtype=jnp.int32)
        carry, _ = jax.lax.scan(body, carry, indices)
    return _recomputed(step, rest)(carry, jnp.int32(whole * chunk)) if rest else carry


def _recomputed(step: Step[Carry], size: int) -> Callable[[Carry, Array], Carry]:
    """A step that keeps nothing for the way back: what is differentiated again is computed again."""
    return jax.checkpoint(functools.partial(step, size=size), prevent_cse=False)


def _part(by_label: Arrays, start: Array, size: int) -> Arrays:
    return {name: _take(array, start, size) for name, array in by_label.items()}


def _only(arrays: Arrays, names: Iterable[str]) -> Arrays:
    return {name: arrays[name] for name in sorted(names)}


def _take(array: Array, start: Array, size: int) -> Array:
    """Slice `size` labels from `start`."""
    if array.dtype != jnp.bfloat16:
        return _slice(array, start, size)
    (part,) = run(_Take(size), array, start)
    return part


def _slice(array: Array, start: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, size, array.ndim - 1)


@dataclasses.dataclass(frozen=True)
class _Take(Program):
    """A slice, which a CPU takes as bits."""

    size: int

    def plain(self, *arrays: Array) -> list[Array]:
        array, start = arrays
        return [_slice(array, start, self.size)]

    def cpu(self, *arrays: Array) -> list[Array]:
        array, start = arrays
        return [_cpu.take_as_bits(array, start, self.size)]

    def results(self, array: Any, _: Any) -> list[Any]:
        return [array.update(shape=(*array.shape[:-1], self.size))]

    def differentiate(self, arrays: Sequence[Array], tangents: dict[int, Array]) -> tuple[list[Array], list[Array]]:
        return run(self, *arrays), [_slice(tangents[0], arrays[1], self.size)]
