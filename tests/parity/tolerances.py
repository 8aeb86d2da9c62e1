"""How far PyTorch and jaxbce may lie apart: a count of roundings, of the terms that they round.

Both add up a few terms, and each term carries a few rounding errors of its own size. Where the terms cancel, as
(1 - y)·x - log σ(x) does in PyTorch for x ≤ -17, the error is eps times the terms and not eps times the result. So
for every quantity this module gives the sum of the sizes of its terms, in the shape of the quantity, and `ROUNDINGS`
says how often each is rounded. There is no tolerance beside it.

For classes, PyTorch takes the log of a sum of exponentials that is at least 1. To round that sum is an error of eps in
log p_c, however small log p_c is: the 1 is one of its terms.
"""

from typing import NamedTuple

import numpy as np

from tests.parity.cases import Case

# Two libraries, each with elementary functions of a few ulp (ours ≤ 4.5 in value) and a few products of weights.
ROUNDINGS = 4

# PyTorch adds 1e-12 to p and to 1 - p in the second derivative of the probability form.
TORCH_EPSILON = 1e-12


def allowed(case: Case, reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The largest difference that rounding accounts for, quantity by quantity."""
    eps, tiny = np.finfo(case.dtype).eps, np.finfo(case.dtype).tiny
    bounds = {name: ROUNDINGS * eps * size + tiny for name, size in _sizes(case, eps, tiny).items()}
    for name in {"d_predictions", "d2_predictions"} & set(reference):
        bounds[name] = bounds[name] + _rounding_to(case.predictions.dtype, reference[name], case.dtype)
    return bounds


def compared(case: Case, name: str) -> np.ndarray:
    """Which entries of a quantity to compare: of probabilities those with p·(1 - p) > 1e-12, and every loss.

    Elsewhere PyTorch's derivatives with respect to p and y are not those of its loss; `differences` has the figures.
    """
    if case.function != "probs" or name in ("loss", "d_weight", "d_pos_weight"):
        return np.True_
    probs = case.predictions.astype(np.float64)
    inner = ~(probs * (1 - probs) <= TORCH_EPSILON)
    return inner if case.labels.shape == probs.shape else inner.all()


def _rounding_to(dtype: np.dtype, reference: np.ndarray, compute: np.dtype) -> np.ndarray | float:
    """Half a unit in the last place of what a gradient of 16-bit predictions is returned in."""
    if dtype == compute:
        return 0.0
    # bfloat16 has 8 bits of precision and the exponents of float32; float16 has 11 bits and rounds absolutely below.
    precision, smallest = (2.0**-8, 2.0**-126) if dtype.name == "bfloat16" else (2.0**-11, 2.0**-24)
    return np.maximum(precision * np.abs(reference), smallest / 2)


class _Terms(NamedTuple):
    """What is reduced: of every entry, its loss and what it counts in a mean.

    Each comes with its derivatives, by the name of the quantity and in the shape of the predictions.
    """

    loss: np.ndarray
    losses: dict[str, np.ndarray]
    count: np.ndarray
    counts: dict[str, np.ndarray]


def _sizes(case: Case, eps: float, tiny: float) -> dict[str, np.ndarray]:
    """The sum of the sizes of the terms of every quantity."""
    shape = case.loss_shape
    included = np.broadcast_to(True if case.where is None else case.where, shape)
    terms = (_binary_terms if case.class_axis is None else _class_terms)(case, included, eps, tiny)
    mean, divisor = terms.loss * included, np.ones(shape)
    if case.reduction != "none":
        axes = None if case.axis is None else tuple(np.atleast_1d(case.axis) % len(shape))
        divisor = np.sum(terms.count * included, axes, keepdims=True)
        divisor = np.ones_like(divisor) if case.reduction == "sum" else divisor
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.sum(mean, axes, keepdims=True) / divisor
    sizes = {"loss": mean.reshape(case.result_shape)}
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.abs(case.cotangent).astype(np.float64).reshape(mean.shape) / divisor * included
    if case.class_axis is not None:
        each, mean = np.expand_dims(each, case.class_axis), np.expand_dims(mean, case.class_axis)
    for name in terms.losses.keys() & case.shapes.keys():
        size = each * terms.losses[name]
        if name in terms.counts:
            # ∂(Σ ℓ / Σ n)/∂v = (∂ℓ/∂v - mean·∂n/∂v) / Σ n.
            size = size + each * mean * terms.counts[name]
        size = np.moveaxis(size, case.class_axis, -1) if name == "d_class_weight" else size
        sizes[name] = _unbroadcast(size, case.shapes[name])
    return sizes


def _unbroadcast(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The sum over the axes along which an array of `shape` was broadcast: its gradient is summed over them."""
    value = value.sum(axis=tuple(range(value.ndim - len(shape))))
    return value.sum(axis=tuple(a for a, n in enumerate(shape) if n == 1 != value.shape[a]), keepdims=True)


# --- Binary -------------------------------------------------------------------------------------------------------


def _binary_terms(case: Case, included: np.ndarray, eps: float, tiny: float) -> _Terms:
    terms = _logit_terms if case.function == "logits" else _prob_terms
    shape = case.predictions.shape
    predictions = np.where(included, case.predictions.astype(np.float64), 0.0 if case.function == "logits" else 0.5)
    labels = np.where(included, case.labels.astype(np.float64), 0.0)
    labels = labels * (1 - case.label_smoothing) + case.label_smoothing / 2
    w = np.broadcast_to(1.0 if case.pos_weight is None else case.pos_weight, shape).astype(np.float64)
    v = np.broadcast_to(1.0 if case.weight is None else case.weight, shape).astype(np.float64)
    # XLA flushes subnormals to 0, and the weights then multiply what was lost.
    flushed = (1 + w) * tiny / eps
    size = {
        name: each + flushed
        for name, each in terms(predictions, labels, w, eps, weighted=case.pos_weight is not None).items()
    }
    if case.label_smoothing:
        # The smoothed label is itself rounded, and that moves whatever depends on it.
        size["loss"] = size["loss"] + labels * size["d_labels"]
        size["d_predictions"] = size["d_predictions"] + labels * size["d2_predictions_labels"]
        size["d2_predictions"] = size["d2_predictions"] + labels * size["d2_predictions_labels"]
    smoothed, d = 1 - case.label_smoothing, np.abs(case.direction).astype(np.float64)
    losses = {
        "d_predictions": v * size["d_predictions"],
        "d_labels": smoothed * v * size["d_labels"],
        "d_pos_weight": v * labels * size["positive"],
        "d_weight": size["loss"],
        "d2_predictions": d * v * size["d2_predictions"],
        "d2_predictions_labels": d * smoothed * v * size["d2_predictions_labels"],
    }
    if case.reduction == "weighted_mean":
        return _Terms(v * size["loss"], losses, v, {"d_weight": np.ones_like(v)})
    return _Terms(v * size["loss"], losses, np.ones_like(v), {})


def _logit_terms(x: np.ndarray, y: np.ndarray, w: np.ndarray, eps: float, *, weighted: bool) -> dict[str, np.ndarray]:
    del eps
    a, b = w * y, 1 - y
    sigmoid = np.exp(-np.logaddexp(0, -x))
    positive, negative = np.logaddexp(0, -x), np.logaddexp(0, x)  # -log σ(x), -log σ(-x)
    return {
        "positive": positive,
        "loss": b * np.abs(x) + (a + b) * positive,
        "d_predictions": (a + b) * sigmoid + a,
        "d_labels": w * positive + negative if weighted else np.abs(x),
        "d2_predictions": (a + b) * sigmoid,  # σ·(1 - σ), whose second factor cancels.
        "d2_predictions_labels": (w + 1) * sigmoid + w if weighted else np.ones_like(x),
    }


def _prob_terms(p: np.ndarray, y: np.ndarray, w: np.ndarray, eps: float, *, weighted: bool) -> dict[str, np.ndarray]:
    del weighted
    a, b = w * y, 1 - y
    with np.errstate(divide="ignore"):
        positive, negative = -np.maximum(np.log(p), -100), -np.maximum(np.log1p(-p), -100)
    # Derivatives are not compared at 0 and 1.
    inverse, complement = 1 / np.where(p == 0, 1, p), 1 / np.where(p == 1, 1, 1 - p)
    second = b * complement**2 + a * inverse**2
    return {
        "positive": positive,
        "loss": b * negative + a * positive,
        "d_predictions": b * complement + a * inverse,
        "d_labels": negative + w * positive,
        # The terms of (p² - 2py + y) / (p·(1 - p))², which cancel near p = y, and the effect of PyTorch's 1e-12.
        "d2_predictions": (a * (p * p + 2 * p + 1) + b * p * p) * (inverse * complement) ** 2
        + second * TORCH_EPSILON * (inverse + complement) / eps,
        "d2_predictions_labels": (complement + w * inverse) * (1 + TORCH_EPSILON * (inverse + complement) / eps),
    }


# --- Classes ------------------------------------------------------------------------------------------------------


def _class_terms(case: Case, included: np.ndarray, eps: float, tiny: float) -> _Terms:
    axis, shape = case.class_axis, case.predictions.shape
    x = np.where(np.expand_dims(included, axis), case.predictions.astype(np.float64), 0.0)
    labels, classes = case.labels, np.arange(shape[axis])
    if case.indices:
        labels = np.broadcast_to(labels, included.shape)
        included = included & (labels != case.ignore_index)
        labels = np.moveaxis(labels[..., None] == classes, -1, axis)
    included = np.expand_dims(included, axis)
    y = np.where(included, labels, 0.0).astype(np.float64)
    smoothed = np.where(included, y * (1 - case.label_smoothing) + case.label_smoothing / len(classes), 0.0)
    u = np.ones(len(classes)) if case.class_weight is None else case.class_weight.astype(np.float64)
    u = u.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    d = np.abs(case.direction).astype(np.float64)

    def total(value: np.ndarray) -> np.ndarray:
        return value.sum(axis, keepdims=True)

    # The terms of -log p_c: max(x) - x_c, the log of the sum of exponentials, and the 1 in that sum.
    below = x - x.max(axis, keepdims=True)
    log_total = np.log(total(np.exp(below)))
    p, terms = np.exp(below - log_total), 1 + log_total - below
    # An error of log p_c is one of p_c, relative to it. XLA flushes subnormals to 0.
    inexact = _times(p, terms) + tiny / eps
    a = u * smoothed
    losses = {
        "d_predictions": total(a) * inexact + a,
        "d_labels": (1 - case.label_smoothing) * u * terms,
        "d_class_weight": _times(smoothed, terms),
        "d2_predictions": total(a) * (inexact * (d + total(p * d)) + p * total(inexact * d)),
        "d2_predictions_labels": (1 - case.label_smoothing) * u * (total(inexact * d) + d),
    }
    loss = _times(a, terms).sum(axis)
    if case.reduction == "weighted_mean" or case.indices:
        return _Terms(loss, losses, (u * y).sum(axis), {"d_labels": u, "d_class_weight": y})
    return _Terms(loss, losses, np.ones_like(loss), {})


def _times(factor: np.ndarray, value: np.ndarray) -> np.ndarray:
    """factor·value with 0·inf = 0."""
    return np.multiply(factor, value, where=factor != 0, out=np.zeros(np.broadcast_shapes(factor.shape, value.shape)))
