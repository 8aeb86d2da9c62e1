"""Cross-entropy over mutually exclusive classes."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce import _cpu
from jaxbce._alignment import compute_dtype, fit, guard, smooth, spread
from jaxbce._class_inputs import AdmittedClasses, ClassOptions, admit_classes, entries
from jaxbce._indices import is_absent, is_stray
from jaxbce._numerics import included, nan_unless, nan_where
from jaxbce._reduction import reduce, sum_of
from jaxbce._softmax_loss import Labels, Spike, along, softmax_loss
from jaxbce._typing import ArrayLike, Axis, Reduction


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_axis: int = -1,
    class_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Cross-entropy between labels and the softmax of logits, over classes of which exactly one holds.

    PyTorch's `F.cross_entropy` with every option of it. With x = logits, log p_c = x_c - log Σ_k exp(x_k) and
    u = class_weight, an entry costs, for the class index t and for class probabilities y::

        -u_t·log p_t        and        -Σ_c u_c·y_c·log p_c

    An index is a probability of 1. Label smoothing s replaces y_c by y_c·(1 - s) + s/C, of indices too. No one-hot
    array is kept in memory for indices. The derivative with respect to x_c is A·p_c - u_c·y_c with A = Σ_k u_k·y_k. Of
    two classes, `cross_entropy([0, x], y)` is `binary_cross_entropy_with_logits(x, y)`, in both tails.

    Domain:
        Any logit. A class with logit -inf is impossible: it costs nothing where it is not the label, and inf where it
        is. One logit of +inf is certain. Several, or -inf in every class, are no distribution: NaN. Indices outside
        [0, C), probabilities outside [0, 1] and negative or infinite weights are refused; under a transform, where no
        value can be read, they give NaN, never the loss of another class (see Raises). Probabilities need not sum to 1.

    Args:
        logits: floating, C classes along `class_axis`, any other axes: unnormalised log-probabilities.
        labels: class indices, of an integer dtype and the shape of `logits` without `class_axis`, or a scalar; or class
            probabilities, of the shape of `logits` and any real dtype.
        class_axis: the axis of `logits` that holds the classes. PyTorch's layout [N, C, …] is class_axis=1.
        class_weight: ≥ 0, shape [C]; multiplies the cost of its class.
        ignore_index: an index that leaves its entry out; None leaves none out. Class probabilities have no index.
        label_smoothing: s in [0, 1]; labels become y·(1 - s) + s/C.
        where: bool mask, broadcasts to the shape of `logits` without `class_axis`; False leaves an entry out, whatever
            it holds.
        axis: the axes of the losses, which are without `class_axis`, to reduce; None is all of them.
        reduction: "mean" (for indices Σ loss / Σ u_t over the included entries, which is their number without weights;
            for probabilities Σ loss / number of included entries: PyTorch's two denominators), "weighted_mean"
            (Σ loss / Σ A with the A of labels before smoothing: for indices the same as "mean"), "sum" or "none". Where
            nothing is included, or all weight is 0, a mean is 0, and so is its gradient with respect to the logits.

    Returns:
        The loss in float32, or float64 for float64 logits: of the shape of `logits` without `class_axis` for "none",
        else also without the reduced axes.

    Raises:
        TypeError: logits that are not floating, class indices that are not integers, a mask that is not bool.
        ValueError: shapes that do not fit; an unknown reduction; an axis that is not there; indices, probabilities or
            weights outside their domain; an `ignore_index` ≥ 0 with class probabilities. Under `jit` and other
            transforms the checks of values need `checkify.checkify(jit(f), errors=checkify.user_checks)`.

    Example:
        >>> logits = jnp.array([[0.7, -0.1, 0.2], [-1.587, -0.5907, 0.3]])
        >>> print(f"{cross_entropy(logits, jnp.array([1, 2])):.4f}")
        0.9833
        >>> print(cross_entropy(logits, jnp.array([1, -100]), reduction="none").round(4))
        [1.5207 0.    ]

    References:
        Bridle, "Probabilistic interpretation of feedforward classification network outputs", Neurocomputing, 1990.
        Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016 (`label_smoothing`).
    """
    given, options = admit_classes(
        "cross_entropy",
        logits,
        labels,
        class_axis=class_axis,
        class_weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        where=where,
        axis=axis,
        reduction=reduction,
    )
    loss: Array = _from_classes(given, options=options)
    return loss


@functools.partial(jax.jit, static_argnames="options")
def _from_classes(given: AdmittedClasses, *, options: ClassOptions) -> Array:
    aligned = (_align_indices if options.indices else _align_probs)(given, options)
    losses = _losses(aligned.logits, aligned.labels, options.class_axis)
    by_weight = options.indices and options.reduction == "mean"
    reduction = "weighted_mean" if by_weight else options.reduction
    return reduce(losses, aligned.weight, aligned.where, options.axis, reduction)


def _losses(logits: Array, labels: Labels, class_axis: int) -> Array:
    if logits.ndim < 7:
        return softmax_loss(logits, labels, class_axis)

    # jaxlib 0.10.2 crashes on sums over classes at rank 7 and above (jax#40412), but not of three axes.
    def three(array: Array) -> Array:
        before, classes, after = array.shape[:class_axis], array.shape[class_axis], array.shape[class_axis + 1 :]
        return array.reshape(math.prod(before), classes, math.prod(after))

    losses = softmax_loss(three(logits), jax.tree.map(three, labels), 1)
    return losses.reshape(logits.shape[:class_axis] + logits.shape[class_axis + 1 :])


class _Aligned(NamedTuple):
    """What a loss is computed of, in one dtype. Weights, which are those before smoothing, and mask are by entry."""

    logits: Array
    labels: Labels
    weight: Array | None
    where: Array | None


def _align_indices(given: AdmittedClasses, options: ClassOptions) -> _Aligned:
    class_axis, classes = options.class_axis, given.logits.shape[options.class_axis]
    logits, where, u = _align_logits(given, class_axis)
    index = jnp.expand_dims(spread(given.labels, entries(given.logits, class_axis)), class_axis)
    if options.ignore_index is not None:
        counted = ~is_absent(index, options.ignore_index)
        where = counted if where is None else where & counted
    outside = is_stray(index, classes)
    # What is masked is nobody's business: NaN in its value would be NaN in the gradient of the weights.
    stray = outside if where is None else outside & where
    index = jnp.where(outside, 0, index).astype(jnp.int32)
    nan_if_stray = nan_where(stray, jnp.ones_like(index, dtype=logits.dtype))
    weight = None if u is None else jnp.take(u.ravel(), index)
    spike, dense = (nan_if_stray if weight is None else weight * nan_if_stray), None
    if given.label_smoothing is not None:
        # y·(1 - s) + s/C, once for the label and once for every class.
        s = _smoothing(given.label_smoothing, logits)
        spike, dense = spike * (1.0 - s), along(jnp.broadcast_to(s / classes, (classes,)), logits, class_axis)
        dense = dense if u is None else u * dense
    weight = None if weight is None else included(weight, where)
    labels = Labels(dense, Spike(included(spike, where), index), where)
    return _Aligned(logits, labels, _drop(weight, class_axis), _drop(where, class_axis))


def _align_probs(given: AdmittedClasses, options: ClassOptions) -> _Aligned:
    class_axis, classes = options.class_axis, given.logits.shape[options.class_axis]
    logits, where, u = _align_logits(given, class_axis)
    # Bools too, for the reason that `align` has.
    probs = fit(given.labels, logits, None if where is None else spread(where, logits), 0.0)
    probs = jax.lax.platform_dependent(
        probs,
        cpu=functools.partial(_cpu.differentiable_guard, name="labels"),
        default=functools.partial(guard, name="labels"),
    )

    def weighted(probs: Array) -> Array:
        return probs if u is None else spread(u, probs) * probs

    s = given.label_smoothing
    dense = weighted(probs if s is None else smooth(probs, _smoothing(s, logits), classes))
    weight = sum_of(weighted(probs), (class_axis,))
    return _Aligned(logits, Labels(dense, None, where), weight, _drop(where, class_axis))


def _align_logits(given: AdmittedClasses, class_axis: int) -> tuple[Array, Array | None, Array | None]:
    """Logits in the dtype that is computed in, the mask and the class weights with an axis where the classes are."""
    logits = jax.lax.convert_element_type(given.logits, compute_dtype(given.logits))
    where, u = given.where, given.class_weight
    if where is not None:
        where = jnp.expand_dims(spread(where, entries(given.logits, class_axis)), class_axis)
    if u is not None:
        u = guard(jax.lax.convert_element_type(u, logits.dtype), "class_weight")
        u = nan_unless(jnp.all(jnp.isfinite(u)), u)  # Also where the label is of a class whose weight is in order.
        u = along(u, logits, class_axis)
    return logits, where, u


def _smoothing(label_smoothing: Array, logits: Array) -> Array:
    return guard(jax.lax.convert_element_type(label_smoothing, logits.dtype), "label_smoothing")


def _drop(values: Array | None, class_axis: int) -> Array | None:
    return None if values is None else jnp.squeeze(values, class_axis)
