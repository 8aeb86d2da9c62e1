"""How far PyTorch and jaxbce may lie apart: a count of roundings, of the terms that they round.

Both add up a few terms, and each term carries a few rounding errors of its own size. Where the terms cancel, as
(1 - y)·x - log σ(x) does in PyTorch for x ≤ -17, the error is eps times the terms and not eps times the result. So
for every quantity this module gives the sum of the sizes of its terms, in the shape of the quantity, and `ROUNDINGS`
says how often each is rounded. There is no tolerance beside it.
"""

import numpy as np

from tests.parity.cases import Case

# Two libraries, each with an elementary function of a few ulp (ours ≤ 4.5 in value) and a few products of weights.
ROUNDINGS = 4

# PyTorch adds 1e-12 to p and to 1 - p in the second derivative of the probability form.
TORCH_EPSILON = 1e-12


def allowed(case: Case, reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The largest difference that rounding accounts for, quantity by quantity."""
    eps, tiny = np.finfo(case.dtype).eps, np.finfo(case.dtype).tiny
    sizes = _sizes(case, eps, tiny)
    bounds = {name: ROUNDINGS * eps * sizes[name] + tiny for name in case.quantities}
    for name in {"d_predictions", "d2_predictions"} & set(reference):
        bounds[name] = bounds[name] + _rounding_to(case.predictions.dtype, reference[name], case.dtype)
    return bounds


def compared(case: Case, name: str) -> np.ndarray:
    """Which entries of a quantity to compare: those with p·(1 - p) > 1e-12, and every loss.

    Elsewhere PyTorch's derivatives with respect to p and y are not those of its loss; `differences` has the figures.
    """
    if case.function == "logits" or name in ("loss", "d_weight", "d_pos_weight"):
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


def _sizes(case: Case, eps: float, tiny: float) -> dict[str, np.ndarray]:
    terms = _logit_terms if case.function == "logits" else _prob_terms
    shape = case.predictions.shape
    included = np.broadcast_to(True if case.where is None else case.where, shape)
    safe = 0.0 if case.function == "logits" else 0.5
    predictions = np.where(included, case.predictions.astype(np.float64), safe)
    labels = np.where(included, case.labels.astype(np.float64), 0.0)
    labels = labels * (1 - case.label_smoothing) + case.label_smoothing / 2
    w = np.broadcast_to(1.0 if case.pos_weight is None else case.pos_weight, shape).astype(np.float64)
    v = np.broadcast_to(1.0 if case.weight is None else case.weight, shape).astype(np.float64) * included
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

    axes = None if case.axis is None else tuple(np.atleast_1d(case.axis) % len(shape))
    if case.reduction == "none":
        divisor = np.ones(shape)
        loss = v * size["loss"]
        cotangent = np.abs(case.cotangent).astype(np.float64)
    else:
        counted = {"sum": np.zeros(shape), "mean": 1.0 * included, "weighted_mean": v}[case.reduction]
        divisor = np.sum(counted, axes, keepdims=True) if case.reduction != "sum" else np.ones((1,) * len(shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = np.sum(v * size["loss"], axes, keepdims=True) / divisor
        cotangent = np.abs(case.cotangent).astype(np.float64).reshape(loss.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.broadcast_to(cotangent / divisor, shape)
    smoothed = 1 - case.label_smoothing
    sizes = {
        "loss": loss.reshape(case.result_shape),
        "d_predictions": each * v * size["d_predictions"],
        "d_labels": _unbroadcast(smoothed * each * v * size["d_labels"], case.labels.shape),
        "d2_predictions": each * v * size["d2_predictions"],
        "d2_predictions_labels": _unbroadcast(smoothed * each * v * size["d2_predictions_labels"], case.labels.shape),
    }
    if case.pos_weight is not None:
        sizes["d_pos_weight"] = _unbroadcast(each * v * labels * size["positive"], case.pos_weight.shape)
    if case.weight is not None:
        # ∂(Σ vℓ / Σ v)/∂v = (ℓ - mean) / Σ v.
        mean = loss if case.reduction == "weighted_mean" else 0.0
        sizes["d_weight"] = _unbroadcast(each * included * (size["loss"] + mean), case.weight.shape)
    return sizes


def _unbroadcast(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The sum over the axes along which an array of `shape` was broadcast: its gradient is summed over them."""
    value = value.sum(axis=tuple(range(value.ndim - len(shape))))
    return value.sum(axis=tuple(a for a, n in enumerate(shape) if n == 1 != value.shape[a]), keepdims=True)


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
