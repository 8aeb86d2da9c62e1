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

import functools
import operator
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxbce._alignment import Admitted, align
from jaxbce._logit_loss import hard_logit_loss, logit_loss
from jaxbce._manual_axes import alike
from jaxbce._numerics import nan_outside, product
from jaxbce._positives import multi_hot
from jaxbce._reduction import weigh

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
    aligned = align(admitted, 0.0)
    pos_weight = aligned.parameters["pos_weight"]
    if hot.dtype == jnp.bool_ and "label_smoothing" not in given:
        losses = hard_logit_loss(logits, hot)
        if pos_weight is not None:
            # `pos_weight` multiplies the positives alone. The loss of a negative stays out of the product: it would be
            # the derivative with respect to pos_weight, which is 0 there. NaN stays in, and a pos_weight outside its
            # domain makes NaN of every entry.
            weighable = hot | jnp.isnan(losses)
            positive = product(pos_weight, jnp.where(weighable, losses, jnp.zeros_like(losses)))
            losses = jnp.where(weighable, positive, nan_outside(losses, pos_weight))
    else:
        losses = logit_loss(logits, aligned.labels, pos_weight)
    rows = jnp.sum(weigh(losses, aligned.weight), 1)
    return weigh(rows, given["example_weight"])


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
    value, *gradients = _in_one_pass(*primals, chunk, *map(frozenset, moving))
    dtype = value.dtype

    def along(gradient: Array, tangent: Array) -> Array:
        return jnp.sum(gradient.astype(dtype) * tangent.astype(dtype))

    change = sum(jax.tree.leaves(jax.tree.map(along, gradients, moving)), jnp.zeros_like(value))
    return value, change


def _value_and_gradients(
    shared: Arrays, by_label: Arrays, chunk: int, by_shared: frozenset[str], by_part: frozenset[str], as_bits: bool
) -> tuple[Array, Arrays, Arrays]:
    """The total and its gradients with respect to the arguments of these names; `as_bits` see `_bits`."""
    bits, floats = (_bits, _floats) if as_bits else (lambda array: array, lambda array, _: array)

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


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _in_one_pass(
    shared: Arrays, by_label: Arrays, chunk: int, by_shared: frozenset[str], by_part: frozenset[str]
) -> tuple[Array, Arrays, Arrays]:
    return _value_and_gradients(shared, by_label, chunk, by_shared, by_part, as_bits=True)


@_in_one_pass.defjvp
def _(chunk: int, by_shared: frozenset[str], by_part: frozenset[str], primals: Any, tangents: Any) -> Any:
    # Bits have no derivative.
    floats = functools.partial(_value_and_gradients, chunk=chunk, by_shared=by_shared, by_part=by_part, as_bits=False)
    return jax.jvp(floats, primals, tangents)


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


def _only(arrays: Arrays, names: frozenset[str]) -> Arrays:
    return {name: arrays[name] for name in sorted(names)}


# --- Chunks of arrays ---------------------------------------------------------------------------------------------

# XLA on CPU computes in bfloat16 by way of float32, and would convert the whole of an array for each chunk that is
# taken of it or put into it. As integers of the same bits they are moved as they are.


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _take(array: Array, start: Array, size: int) -> Array:
    part = jax.lax.dynamic_slice_in_dim(_bits(array), start, size, array.ndim - 1)
    return _floats(part, array.dtype)


@_take.defjvp
def _(size: int, primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    # Taking is linear, but by way of bits its derivative would be 0.
    (array, start), (change, _) = primals, tangents
    return _take(array, start, size), jax.lax.dynamic_slice_in_dim(change, start, size, array.ndim - 1)


def _bits(array: Array) -> Array:
    return jax.lax.bitcast_convert_type(array, jnp.uint16) if array.dtype == jnp.bfloat16 else array


def _floats(bits: Array, dtype: jnp.dtype) -> Array:
    return jax.lax.bitcast_convert_type(bits, dtype) if dtype == jnp.bfloat16 else bits
