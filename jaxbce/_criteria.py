"""Criteria: a loss with its options bound, as an object that can be passed about, saved and differentiated.

They are pytrees: weights are leaves, options are static. So a criterion is an argument of `jit` like any array, is
saved in a checkpoint with its weights, and is mapped over by `vmap`. The mathematics are those of the functions.
"""

import dataclasses

import jax
from jax import Array

from jaxbce._core.arrays import ArrayLike, Reduction
from jaxbce._losses.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from jaxbce._losses.categorical import cross_entropy
from jaxbce._validate.arguments import validate_reduction

_STATIC = {"static": True}
"""Marks a field that is part of the structure of the pytree and not a leaf."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Options:
    """The options of every loss, as fields that have the names of its arguments."""

    label_smoothing: float = dataclasses.field(default=0.0, metadata=_STATIC)
    axis: int | tuple[int, ...] | None = dataclasses.field(default=None, metadata=_STATIC)
    reduction: Reduction = dataclasses.field(default="mean", metadata=_STATIC)

    def __post_init__(self) -> None:
        """Refuse an unknown reduction, and an axis beside 'none', before the first call."""
        validate_reduction(type(self).__name__, self.reduction, self.axis, None)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _BinaryOptions(_Options):
    """The options of a binary loss."""

    pos_weight: ArrayLike | None = None
    weight: ArrayLike | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BCEWithLogitsLoss(_BinaryOptions):
    """`binary_cross_entropy_with_logits` with its options bound.

    Attributes:
        pos_weight, weight: leaves of the pytree; None is 1.
        label_smoothing, axis, reduction: static: part of the structure.

    Example:
        >>> criterion = BCEWithLogitsLoss(pos_weight=jnp.array([5.0, 1.0]))
        >>> print(f"{criterion(jnp.array([[2.0, -1.0]]), jnp.array([[1, 0]])):.4f}")
        0.4740
    """

    def __call__(self, logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
        """The loss of logits and labels, without the entries that the mask leaves out."""
        return binary_cross_entropy_with_logits(logits, labels, where=where, **vars(self))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BCELoss(_BinaryOptions):
    """`binary_cross_entropy` with its options bound.

    Attributes:
        pos_weight, weight: leaves of the pytree; None is 1.
        label_smoothing, axis, reduction: static: part of the structure.

    Example:
        >>> criterion = BCELoss(reduction="sum")
        >>> print(f"{criterion(jnp.array([0.9, 0.2]), jnp.array([1, 0])):.4f}")
        0.3285
    """

    def __call__(self, probs: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
        """The loss of probabilities and labels, without the entries that the mask leaves out."""
        return binary_cross_entropy(probs, labels, where=where, **vars(self))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CrossEntropyLoss(_Options):
    """`cross_entropy` with its options bound.

    Attributes:
        class_weight: the leaf of the pytree; None is 1 for each class.
        class_axis, ignore_index, label_smoothing, axis, reduction: static: part of the structure.

    Example:
        >>> criterion = CrossEntropyLoss(class_axis=1, ignore_index=0)
        >>> print(f"{criterion(jnp.array([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), jnp.array([0, 2])):.4f}")
        0.1698
    """

    class_weight: ArrayLike | None = None
    class_axis: int = dataclasses.field(default=-1, metadata=_STATIC)
    ignore_index: int | None = dataclasses.field(default=-100, metadata=_STATIC)

    def __call__(self, logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
        """The loss of logits and labels, without the entries that the mask leaves out."""
        return cross_entropy(logits, labels, where=where, **vars(self))
