"""Cross-entropy over mutually exclusive classes."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxbce._alignment import compute_dtype, fit, guard, smooth, spread
from jaxbce._class_inputs import AdmittedClasses, ClassOptions, admit_classes, is_ignored, is_stray
from jaxbce._reduction import reduce
from jaxbce._softmax_loss import softmax_loss
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
            (Σ loss / Σ A: for indices the same as "mean"), "sum" or "none". Where nothing is included, or all weight is
            0, a mean is 0 with zero gradient.

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
    logits, coefficients, weight, where = _align(given, options)
    losses = softmax_loss(logits, coefficients, options.class_axis)
    by_weight = options.indices and options.reduction == "mean"
    return reduce(losses, weight, where, options.axis, "weighted_mean" if by_weight else options.reduction)


def _align(given: AdmittedClasses, options: ClassOptions) -> tuple[Array, Array, Array | None, Array | None]:
    """Logits, coefficients u_c·y_c, weight Σ_c u_c·y_c of each entry before smoothing, and mask: all free of harm."""
    class_axis, dtype = options.class_axis, compute_dtype(given.logits)
    classes = given.logits.shape[class_axis]
    losses = jax.lax.index_in_dim(given.logits, 0, class_axis, keepdims=False)
    where = None if given.where is None else spread(given.where, losses)
    labels = spread(given.labels, losses) if options.indices else given.labels
    if options.indices and options.ignore_index is not None:
        included = ~is_ignored(labels, options.ignore_index)
        where = included if where is None else where & included
    every = None if where is None else jnp.expand_dims(where, class_axis)
    logits = fit(given.logits, given.logits, every, 0.0)

    by_class = [classes if a == class_axis else 1 for a in range(logits.ndim)]
    class_weight = given.class_weight
    if class_weight is not None:
        class_weight = guard(jax.lax.convert_element_type(class_weight, dtype), "class_weight").reshape(by_class)

    if options.indices:
        stray = is_stray(labels, classes)
        index = jnp.where(stray, 0, labels).astype(jnp.int32)
        # Compared on the fly, in whatever loop reads it: no one-hot array is stored.
        is_label = jnp.arange(classes, dtype=jnp.int32).reshape(by_class) == jnp.expand_dims(index, class_axis)
        number = jnp.where(stray, jnp.nan, jnp.ones_like(losses, dtype=dtype))
        probs = jnp.where(is_label, jnp.expand_dims(number, class_axis), jnp.zeros_like(logits))
    else:
        probs = fit(labels, logits, every, 0.0)
        probs = probs if labels.dtype == jnp.bool_ else guard(probs, "labels")

    def weighed(values: Array) -> Array:
        values = values if class_weight is None else class_weight * values
        return values if every is None else jnp.where(every, values, jnp.zeros_like(values))

    weight = None if options.indices and class_weight is None else jnp.sum(weighed(probs), class_axis)
    return logits, weighed(smooth(probs, given.label_smoothing, classes)), weight, where
