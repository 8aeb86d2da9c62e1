"""The definitions, written naively in high precision: what the package is measured against.

`mp_*` are scalar and exact (mpmath); `naive_*` are differentiated by JAX; the others are NumPy in float64 or better,
for whole arrays.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

mpmath.mp.prec = 200


def times(factor, value):
    """factor·value with 0·inf = 0."""
    factor, value = np.broadcast_arrays(np.asarray(factor, np.float64), value)
    with np.errstate(invalid="ignore"):
        return np.where((factor == 0) & ~np.isnan(value), 0, factor * value)


def softplus(x):
    return np.logaddexp(0, np.asarray(x, np.longdouble))


def sigmoid(x):
    return np.exp(-softplus(-np.asarray(x, np.longdouble)))


def logit_loss(x, y, w=1.0):
    return times(w * y, softplus(-x)) + times(1 - y, softplus(x))


def logit_slope(x, y, w=1.0):
    return (1 - y) * sigmoid(x) - w * y * sigmoid(-x)


def logit_curvature(x, y, w=1.0):
    return (w * y + 1 - y) * sigmoid(x) * sigmoid(-x)


def prob_loss(p, y, w=1.0):
    p = np.asarray(p, np.longdouble)
    with np.errstate(divide="ignore"):
        return -(w * y * np.maximum(np.log(p), -100) + (1 - y) * np.maximum(np.log1p(-p), -100))


def prob_slope(p, y, w=1.0):
    p = np.asarray(p, np.longdouble)
    return (1 - y) * _reciprocal(1 - p) - w * y * _reciprocal(p)


def prob_curvature(p, y, w=1.0):
    p = np.asarray(p, np.longdouble)
    return (1 - y) * _reciprocal(1 - p) ** 2 + w * y * _reciprocal(p) ** 2


def _modulated(error, loss, gamma):
    """u^γ·ℓ, its slope and its curvature, from u and ℓ with theirs."""
    (u, du, ddu), (value, dl, ddl) = error, loss
    with np.errstate(divide="ignore", invalid="ignore"):
        power = u**gamma
        slope = np.where(u == 0, 0, gamma * u ** (gamma - 1) * du)
        curvature = np.where(u == 0, 0, gamma * (gamma - 1) * u ** (gamma - 2) * du**2 + gamma * u ** (gamma - 1) * ddu)
    return (
        times(power, value),
        times(1, slope * np.minimum(value, 1e6)) + power * dl,
        curvature * np.minimum(value, 1e6) + 2 * slope * dl + power * ddl,
    )


def _three(derivatives):
    """Loss, slope and curvature as three functions, from one that gives all three."""
    return tuple(lambda x, y, _=1.0, order=order: derivatives(x, y)[order] for order in range(3))


def focal(gamma, alpha=None):
    def derivatives(x, y):
        p, q = sigmoid(x), sigmoid(-x)
        error = y * q + (1 - y) * p, (1 - 2 * y) * p * q, (1 - 2 * y) * p * q * (q - p)
        loss = logit_loss(x, y), logit_slope(x, y), logit_curvature(x, y)
        share = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
        return [times(share, value) for value in _modulated(error, loss, gamma)]

    return _three(derivatives)


def asymmetric(gamma_pos, gamma_neg, margin):
    def derivatives(x, y):
        p, q = sigmoid(x), sigmoid(-x)
        positive = _modulated((q, -p * q, p * q * (p - q)), (softplus(-x), -q, p * q), gamma_pos)
        u = np.maximum(p - margin, 0)
        over, rest = u > 0, q + margin
        share = np.where(rest == 0, 1, q / np.where(rest == 0, 1, rest))  # at x = inf too
        first, second = p * share, p * share * (q - p) + (p * share) ** 2
        negative = _modulated(
            (u, over * p * q, over * p * q * (q - p)),
            (softplus(x) if margin == 0 else -np.log1p(-u), over * first, over * second),
            gamma_neg,
        )
        return [times(y, a) + times(1 - y, b) for a, b in zip(positive, negative, strict=True)]

    return _three(derivatives)


def _reciprocal(x):
    with np.errstate(divide="ignore"):
        return np.where(x == 0, 1e12, 1 / x)


def reduce(losses, weight=None, where=None, axis=None, reduction="mean"):
    """The reductions as the README defines them, entry by entry."""
    weights = np.broadcast_to(np.float64(1) if weight is None else np.asarray(weight, np.float64), losses.shape)
    mask = np.broadcast_to(True if where is None else where, losses.shape)
    weighted = np.where(mask, times(weights, losses), 0)
    if reduction == "none":
        return weighted
    total = weighted.sum(axis)
    if reduction == "sum":
        return total
    number = np.where(mask, weights if reduction == "weighted_mean" else 1, 0).sum(axis)
    return np.where(number == 0, 0, total / np.where(number == 0, 1, number))


# --- Differentiated by JAX: without a kink, in float64 exact to about 1e-13 at logits of moderate size ----------------


def naive_logit_loss(x, y, pos_weight=1.0):
    return pos_weight * y * jnp.log(1 + jnp.exp(-x)) + (1 - y) * jnp.log(1 + jnp.exp(x))


def naive_prob_loss(p, y, pos_weight=1.0):
    return -pos_weight * y * jnp.log(p) - (1 - y) * jnp.log(1 - p)


def naive_focal_loss(x, y, gamma=2.0, alpha=None):
    p = 1 / (1 + jnp.exp(-x))
    share = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return share * (y * (1 - p) + (1 - y) * p) ** gamma * naive_logit_loss(x, y)


def naive_asymmetric_loss(x, y, gamma_pos=1.0, gamma_neg=4.0, margin=0.05):
    p = 1 / (1 + jnp.exp(-x))
    above = p > margin
    u = jnp.where(above, p - margin, 0.5)
    negative = jnp.where(above, -(u**gamma_neg) * jnp.log(1 - u), 0.0)
    return y * (1 - p) ** gamma_pos * jnp.log(1 + jnp.exp(-x)) + (1 - y) * negative


def naive_call(entries):
    """A whole call of the naive loss of an entry."""

    def call(x, y, *, weight=1.0, label_smoothing=0.0, axis=None, reduction="mean", **own):
        weight, y = (jnp.broadcast_to(jnp.asarray(a, jnp.float64), x.shape) for a in (weight, y))
        own = {name: jnp.broadcast_to(jnp.asarray(value, jnp.float64), x.shape) for name, value in own.items()}
        losses = weight * entries(x, y * (1 - label_smoothing) + label_smoothing / 2, **own)
        total = losses if reduction == "none" else losses.sum(axis)
        number = {"mean": jnp.ones_like(weight), "weighted_mean": weight}.get(reduction)
        return total if number is None else total / number.sum(axis)

    return call


def multi_hot(positives, labels):
    """The labels of which indices are given; -1 is padding."""
    numbers = jnp.arange(labels).reshape((1,) * np.ndim(positives) + (labels,))
    return (jnp.asarray(positives).astype(jnp.int64)[..., None] == numbers).any(-2).astype(jnp.float64)


def naive_head(features, kernel, labels=None, *, positives=None, bias=0.0, reduction="mean", **options):
    """Binary cross-entropy of all logits of a linear head, in float64."""
    features, kernel, bias = (jnp.asarray(a, jnp.float64) for a in (features, kernel, bias))
    labels = multi_hot(positives, kernel.shape[1]) if labels is None else labels
    options |= {"axis": -1, "reduction": "sum"} if reduction == "none" else {"reduction": reduction}
    logits = features @ kernel
    return naive_call(naive_logit_loss)(logits + jnp.broadcast_to(bias, logits.shape), labels, **options)


def naive_pairs(x, y, *, logit_scale, logit_bias, reduction="mean"):
    """Binary cross-entropy of the logits of all pairs, of which those on the diagonal belong together."""
    losses = naive_logit_loss(logit_scale * (x @ y.T) + logit_bias, jnp.eye(len(x))).sum(-1)
    return losses if reduction == "none" else losses.sum() / (1 if reduction == "sum" else len(x))


def naive_cross_entropy(x, labels, *, class_weight=None, label_smoothing=0.0, reduction="mean"):
    """Over the last axis, of class indices, negative where they are ignored, or of class probabilities."""
    x, labels, classes = jnp.asarray(x, jnp.float64), jnp.asarray(labels), jnp.shape(x)[-1]
    indices = labels.ndim < x.ndim
    probs = multi_hot(labels[..., None], classes) if indices else labels.astype(jnp.float64)
    u = jnp.asarray(1.0 if class_weight is None else class_weight, jnp.float64)
    u = jnp.broadcast_to(u, x.shape)
    log_p = x - jnp.log(jnp.exp(x).sum(-1, keepdims=True))
    included = probs.sum(-1) > 0
    losses = -jnp.where(included, (u * (probs * (1 - label_smoothing) + label_smoothing / classes) * log_p).sum(-1), 0)
    if reduction in ("none", "sum"):
        return losses if reduction == "none" else losses.sum()
    weights = (u * probs).sum(-1) if indices or reduction == "weighted_mean" else jnp.ones(losses.shape)
    return losses.sum() / weights.sum()


# --- Exact ------------------------------------------------------------------------------------------------------------


def mp_softplus(x):
    """log(1 + exp(x)), without a cancellation at any x."""
    return max(x, 0) + mpmath.log1p(mpmath.exp(-abs(x)))


def mp_sigmoid(x):
    return mpmath.exp(-mp_softplus(-x))


def mp_logit_loss(x, y, w):
    return w * y * mp_softplus(-x) + (1 - y) * mp_softplus(x)


def mp_logit_slope_terms(x, y, w):
    """∂ℓ/∂x as a difference of two non-negative terms."""
    return (1 - y) * mp_sigmoid(x), w * y * mp_sigmoid(-x)


def mp_logit_curvature(x, y, w):
    return (w * y + 1 - y) * mp_sigmoid(x) * mp_sigmoid(-x)


def mp_prob_loss(p, y, w):
    positive = mpmath.mpf(-100) if p == 0 else max(mpmath.log(p), -100)
    negative = mpmath.mpf(-100) if p == 1 else max(mpmath.log1p(-p), -100)
    return -(w * y * positive + (1 - y) * negative)


def assert_close(actual, expected, tolerance):
    """Equal, of whatever dtypes, to `tolerance` of the largest finite entry of each array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = (np.asarray(array, np.float64) for array in (a, e))
        assert a.shape == e.shape
        scale = np.max(np.abs(e), where=np.isfinite(e), initial=0)
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * scale)


def ulps(got, exact, dtype, scale=None, tiny=1.0):
    """Errors of `got` in units in the last place of `scale` (the exact value itself by default).

    Up to `tiny` times the smallest normal number counts as zero: XLA flushes subnormal intermediates, which the
    caller's weights may have multiplied. What overflows the dtype must have come out as inf.
    """
    info = np.finfo(dtype)
    escape = mpmath.mpf(float(info.tiny)) * max(1, tiny)
    scale = exact if scale is None else scale
    errors = []
    for g, e, s in zip(np.ravel(got), exact, scale, strict=True):
        if abs(e) > mpmath.mpf(float(info.max)):
            errors.append(0.0 if np.isinf(g) and g * mpmath.sign(e) > 0 else np.inf)
            continue
        _, exponent = mpmath.frexp(max(abs(s), mpmath.mpf(float(info.tiny))))
        error = max(abs(mpmath.mpf(float(g)) - e) - escape, 0)
        errors.append(float(error / mpmath.ldexp(1, exponent - 1 - info.nmant)))
    return np.asarray(errors)
