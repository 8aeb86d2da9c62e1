"""Axes of a mesh that code inside `shard_map` handles by hand, and over which a value varies or does not."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def alike(tree: Tree) -> Tree:
    """The arrays of `tree`, each varying over all manual axes over which one of them varies.

    What a `scan` carries must vary over the same axes before and after a step. And a gradient with respect to what did
    not vary is then summed over the axes where it is cast, which is outside whatever custom rule computes it.
    """
    leaves, structure = jax.tree.flatten(tree)
    axes = [_varying(leaf) for leaf in leaves]
    joint: frozenset[str] = frozenset().union(*axes)
    cast = [_vary(leaf, tuple(sorted(joint - own, key=str))) for leaf, own in zip(leaves, axes, strict=True)]
    result: Tree = jax.tree.unflatten(structure, cast)
    return result


def _varying(leaf: jax.Array) -> frozenset[str]:
    aval = jax.typeof(leaf)
    # In newer versions of jax a part of the type of a value, in older ones a set of its own.
    return frozenset(aval.manual_axis_type.varying if hasattr(aval, "manual_axis_type") else aval.vma)


def _vary(leaf: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    if not axes:
        return leaf
    if hasattr(jax.lax, "pcast"):
        varying: jax.Array = jax.lax.pcast(leaf, axes, to="varying")
    else:
        varying = jax.lax.pvary(leaf, axes)  # type: ignore[attr-defined]  # as it is called in older versions of jax
    return varying
