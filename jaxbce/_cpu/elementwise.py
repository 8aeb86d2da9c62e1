"""Elementwise losses for XLA on CPU: the loop that computes the entries, arithmetic that fits it, and each loss."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._core.arrays import UNIT_INTERVAL, Arguments, broadcast_like, compute_dtype, prepare
from jaxbce._core.elementwise import ElementwiseProgram
from jaxbce._core.numerics import (
    SATURATION,
    Exponent,
    StaticExponent,
    divide_no_nan,
    label_coefs,
    power,
    zero_or_nan,
    zero_where_masked,
)

_LARGE: Final = 2**21
"""Entries from which on storing the losses takes longer than computing them in the loop of the reduction."""
_SMALL: Final = range(2**12, 2**14 + 1)
"""Entries so few that waking the threads of a second loop takes longer than the losses do: one loop takes 0.7 to 0.9 of
the time. Below that XLA never fuses the two loops."""
_LONG: Final = 128
"""Entries of a row from which on the ends of rows do not hold up the fused loop: over rows of ten it takes 2 to 4 times
as long, over rows of a thousand it is the faster."""
_SHARES: Final = 16
"""The divisor of a size that XLA splits evenly. On two cores a loop of odd size takes 2 to 10 times as long. Sixteen
allows for more cores."""


@dataclasses.dataclass(frozen=True)
class CpuProgram:
    """The entries of a loss and their slopes by the predictions, from arrays of one dtype and one shape.

    `slopes` are None where those of the plain formula are as fast: a step of the focal loss takes 2.8 times as long
    with the plain ones, one of the asymmetric loss 1.4. `fused` is the loss with its weight once more, without a select
    or a comparison, which XLA fuses into no reduction: that halves the time of a mean. `hard` is for bool labels in a
    cache, without their conversion: a step of a linear head takes 13 MB without it and 6 with it, and at 8 features 1.7
    times as long.
    """

    losses: Callable[..., Array]
    slopes: Callable[..., Array] | None = None
    fused: Callable[..., Array] | None = None
    hard: "CpuProgram | None" = None

    def __call__(self, program: ElementwiseProgram, given: Arguments) -> Array:
        like, reduced = given.predictions, program.reduction_size
        # A mask is a select.
        fused = self.fused if given.where is None and _fuse_into_reduction(like.size, reduced) else None
        # Materialize the losses beside a gradient, which reuses their buffer: not if it is narrower than they are, nor
        # where a loop of their own is slow.
        beside = fused is None or (like.dtype == compute_dtype(like) and splits_evenly(like.size))
        materialized = reduced is not None and beside
        if program.argnums:
            return self._derivative(program, given, materialized)
        form, given = self._prepare(program, given)
        if fused is not None and not (program.beside_derivative and materialized):
            return fused(given.predictions, given.labels, weight=given.weight, **given.parameters)
        losses = form.losses(given.predictions, given.labels, **given.parameters)
        if given.weight is not None:
            losses = multiply_no_nan(given.weight, losses)
        losses = zero_where_masked(losses, given.where)
        return _materialize(losses) if materialized else losses

    def _prepare(self, program: ElementwiseProgram, given: Arguments) -> tuple["CpuProgram", Arguments]:
        """Prepare the arguments; choose the form that suits the labels."""
        prepared = prepare(given, program.loss.safe_prediction, nan_outside_domain)
        if self.hard and program.in_cache and given.labels.dtype == jnp.bool_ and given.label_smoothing is None:
            return self.hard, prepared._replace(labels=broadcast_like(given.labels, given.predictions))
        return self, prepared

    def _derivative(self, program: ElementwiseProgram, given: Arguments, materialized: bool) -> Array:
        """Compute a derivative behind a barrier, from arguments that it shares with nothing.

        XLA would compute once what it has in common with the losses, a label that both convert, even the broadcast of a
        1, and store it in the size of the logits, which costs more than to compute it twice.
        """
        # Add a leading axis: the barrier does not cover constants, and XLA would CSE the broadcast of a 1. Add none to
        # materialized losses, whose buffer a loop of another shape cannot reuse: a step of two layers takes 0.5 to 0.8
        # of the time.
        shape = given.predictions.shape
        leaves, structure = jax.tree.flatten(given)
        if not program.in_cache:
            leaves = [jax.lax.optimization_barrier(leaf if materialized else _lift(leaf)) for leaf in leaves]
        if program.argnums != (0,) or self.slopes is None:
            (derivative,) = program.plain(*leaves)
        else:
            form, given = self._prepare(program, jax.tree.unflatten(structure, leaves))
            slopes = (form.slopes or self.slopes)(given.predictions, given.labels, **given.parameters)
            slopes = slopes if given.weight is None else given.weight * slopes
            derivative = zero_where_masked(slopes, given.where)
        derivative = jnp.reshape(derivative, shape)
        return derivative * _opaque_one(derivative) if materialized and program.argnums == (0,) else derivative


def _fuse_into_reduction(size: int, reduced: int | None) -> bool:
    """Decide to compute the entries in the loop that reduces each `reduced` of them into one.

    At a million entries a loop of their own, which has to store them, takes 0.6 of the time, at ten million 1.6 times
    as long. A size may be a symbol, while a function is exported: fuse.
    """
    if reduced is None:
        return False
    if not (isinstance(size, int) and isinstance(reduced, int)):
        return True
    return reduced >= _LONG and (size >= _LARGE or size in _SMALL or not splits_evenly(size))


def splits_evenly(size: int) -> bool:
    """Tell a size whose loop XLA splits evenly over the cores; a symbol counts as one."""
    return not isinstance(size, int) or size % _SHARES == 0


def _materialize(losses: Array) -> Array:
    """Force the losses into a buffer of their own: a select, of NaN into -NaN, fuses into no reduction.

    XLA would fuse the end of a long formula, and store the several arrays that the end needs.
    """
    return jnp.where(jnp.isnan(losses), -losses, losses)


def _opaque_one(like: Array) -> Array:
    """Compute 1 at run time, in a kernel of its own, as the root of 1 behind a barrier.

    The loop of the slopes waits for that kernel; the loop that stores the losses does not, and runs first. Where logits
    are arguments, the losses are reduced by the time that the slopes are written, and the slopes take over their
    buffer: there is no array beside the gradient. At ten million logits a step takes 0.8 of the time.
    """
    return jnp.sqrt(jax.lax.optimization_barrier(jnp.ones((), like.dtype)))


def _lift(leaf: Array) -> Array:
    return leaf if leaf.ndim == 0 else jnp.expand_dims(leaf, 0)


# --- Arithmetic without a select or a comparison, which XLA fuses into a reduction --------------------------------
#
# Put what may be NaN second in `minimum` and `maximum`, or into the result on another way too: the loops that reduce
# arrays answer with the second operand where one is NaN (jaxlib 0.10 to 0.12).


def nan_outside_domain(value: Array, name: str) -> Array:
    """Replace `value` by NaN outside the domain of the argument `name`."""
    return _nan_if_negative(value, _distance_to_bounds(value, name))


def nan_outside_domain_with_derivative(value: Array, name: str) -> Array:
    """Replace `value` and its derivative, which autodiff takes, by NaN outside the domain of the argument `name`."""
    return value * _nan_if_negative(jnp.ones_like(value), jax.lax.stop_gradient(_distance_to_bounds(value, name)))


def _distance_to_bounds(value: Array, name: str) -> Array:
    return jnp.minimum(value, 1.0 - value) if name in UNIT_INTERVAL else value


def _nan_if_negative(value: Array, distance: Array) -> Array:
    """Replace `value` by NaN where the distance is negative or infinite: √d - √d is 0 or NaN."""
    root = jnp.sqrt(distance)
    return value + (root - root)


def multiply_no_nan(factor: Array, value: Array) -> Array:
    """factor·value with 0·inf = 0, for factor ≥ 0 and value > -inf; NaN where one of them is.

    The cap |factor·max|·max, with the largest finite number, is 0 at factor 0 and inf above; of a subnormal factor,
    which XLA takes for 0, it may be finite. The absolute value changes nothing, but keeps the compiler from
    multiplying max·max out to inf, and 0·inf is NaN. `sign(factor)` would serve, and is twice as slow.
    """
    largest = float(np.finfo(factor.dtype).max)
    return factor * jnp.minimum(jnp.abs(factor * largest) * largest, value)


def _lesser_sigmoid(x: Array) -> Array:
    """σ(-|x|) = e / (1 + e) with e = exp(-|x|), the smaller of σ(x) and σ(-x).

    e/(1 + e) rounds twice at full weight, and is off by up to 2.2 ulp; e - e·t with t = e/(1 + e) ≤ 1/2 rounds mostly
    in a term that is small, and is off by up to 1.9. Doubled throughout, which is exact.
    """
    e = 2.0 * jnp.exp(-jnp.abs(x))
    return 0.5 * (e - e * (e / (e + 2.0)))


def _sigmoids(x: Array) -> tuple[Array, Array]:
    """σ(x) and σ(-x): the lesser of the two and its complement, which loses nothing."""
    above, lesser = jnp.maximum(jnp.sign(x), 0.0), _lesser_sigmoid(x)
    return jnp.abs(above - lesser), jnp.abs(1.0 - above - lesser)


# Chebyshev interpolation of log1p(e)/e on [0, 1] at degree 9, off by 5e-9 of itself; highest power first.
_LOG1P = (
    *(-0.003176057, 0.019542528, -0.056373615, 0.105436236, -0.15269667),
    *(0.19663274, -0.24951616, 0.3332971, -0.49999893, 1.0),
)


def _log1p_exp(x: Array, *, fused: bool = False) -> Array:
    """log(1 + exp(-|x|)), in (0, log 2].

    In float32 a polynomial is nearer than XLA's log1p (1.5 ulp against 2.5), and faster in a loop of its own. In one
    that is `fused` with a reduction every operation costs a pass over a tile, and log1p is one operation.
    """
    e = jnp.exp(-jnp.abs(x))
    if fused or e.dtype != jnp.float32:
        return jnp.log1p(e)
    return e * functools.reduce(lambda total, c: total * e + c, _LOG1P[1:], jnp.full_like(e, _LOG1P[0]))


def _softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0.0) + _log1p_exp(x)


# --- Binary cross-entropy of logits -------------------------------------------------------------------------------


def _bce_with_logits(
    x: Array, y: Array, pos_weight: Array | None = None, weight: Array | None = None, *, fused: bool = False
) -> Array:
    """v·[(b if x > 0 else a)·|x| + (a + b)·log1p(exp(-|x|))], in the fewest operations.

    A weight of the loss multiplies the two parts: to keep 0·inf out of one of them is enough.
    """
    log_term, sign = _log1p_exp(x, fused=fused), jnp.sign(x)
    # The coefficient of |x| is b where x > 0 and a where x < 0.
    if pos_weight is None:
        abs_coef = jnp.abs(jnp.maximum(sign, 0.0) - y)
    else:
        # Compute -a, and not a: one operation less, for a weight is mostly one number, and cheaply negated.
        minus_a, b = -pos_weight * y, 1.0 - y
        log_term *= b - minus_a
        abs_coef = jnp.maximum(b * sign, minus_a * sign)
    if weight is not None:
        log_term, abs_coef = weight * log_term, weight * abs_coef
    return log_term + multiply_no_nan(abs_coef, jnp.abs(x))


def _bce_with_logits_slope(x: Array, y: Array, pos_weight: Array | None = None) -> Array:
    """b·σ(x) - a·σ(-x), from q = σ(-|x|) alone: 1 - q would lose the tail."""
    a, b = label_coefs(y, pos_weight)
    q = _lesser_sigmoid(x) if pos_weight is None else (a + b) * _lesser_sigmoid(x)
    return jnp.where(x >= 0.0, b - q, q - a)


def _hard_bce(x: Array, y: Array, pos_weight: Array | None = None) -> Array:
    """Softplus of x, or of -x where the label is on."""
    wrong = jnp.where(y, -x, x)
    loss = jnp.maximum(wrong, 0.0) + _log1p_exp(wrong, fused=True)
    return loss if pos_weight is None else multiply_no_nan(_hard_weight(y, pos_weight), loss)


def _hard_bce_slope(x: Array, y: Array, pos_weight: Array | None = None) -> Array:
    p = _sigmoids(jnp.where(y, -x, x))[0]
    slope = jnp.where(y, -p, p)
    return slope if pos_weight is None else _hard_weight(y, pos_weight) * slope


def _hard_weight(y: Array, pos_weight: Array) -> Array:
    """The weight of the positives, and 1 of the negatives, or NaN if it is."""
    return jnp.where(y, pos_weight, 1.0 + 0.0 * pos_weight)


bce_with_logits = CpuProgram(
    _bce_with_logits,
    _bce_with_logits_slope,
    functools.partial(_bce_with_logits, fused=True),
    CpuProgram(_hard_bce, _hard_bce_slope),
)


# --- Binary cross-entropy of probabilities ------------------------------------------------------------------------


def _clamp(log: Array, p: Array) -> Array:
    """max(log, -100) for the logarithm of p; what may be NaN comes second.

    p - 100 stands for -100, a constant, which XLA would put second: it rounds to -100 where p is small, and lies below
    the logarithm elsewhere.
    """
    return jnp.maximum(p - 100.0, log)


def _log_complement(p: Array) -> Array:
    if p.dtype != jnp.float64:
        return _clamp(jnp.log1p(-p), 1.0 - p)
    complement = 1.0 - p
    odds = p / jnp.maximum(complement, float(np.finfo(p.dtype).tiny))
    return _clamp(_nan_if_negative(-jnp.log1p(odds), complement), complement)


def _bce(p: Array, y: Array, pos_weight: Array | None = None, weight: Array | None = None) -> Array:
    """v·ℓ(p, y, w), in the fewest operations.

    The loss is finite except where 100·w overflows: no 0·inf has to be kept out of the product with the weight.
    """
    # Use PyTorch's form, one operation shorter than with 1 - y: a confident and right positive costs -0, as there.
    loss = (y - 1.0) * _log_complement(p) - label_coefs(y, pos_weight)[0] * _clamp(jnp.log(p), p)
    return loss if weight is None else weight * loss


bce = CpuProgram(_bce, fused=_bce)


# --- Focal loss, and its slope u^γ·(γ·r·ℓ + ℓ') with the relative slope r = u'/u -----------------------------------


def _modulated(x: Array, y: Array, gamma: Exponent) -> Array:
    p, q = _sigmoids(x)
    return multiply_no_nan(power(y * q + (1.0 - y) * p, gamma), _bce_with_logits(x, y))


def _modulated_slope(x: Array, y: Array, gamma: Exponent) -> Array:
    x = jnp.clip(x, -SATURATION, SATURATION)
    p, q = _sigmoids(x)
    u = y * q + (1.0 - y) * p
    relative = (1.0 - 2.0 * y) * divide_no_nan(p * q, u)
    return power(u, gamma) * (_as_factor(gamma) * relative * _bce_with_logits(x, y) + _bce_with_logits_slope(x, y))


def _focal(x: Array, y: Array, gamma: Exponent, alpha: Array | None) -> Array:
    loss = _modulated(x, y, gamma)
    return loss if alpha is None else multiply_no_nan(alpha * y + (1.0 - alpha) * (1.0 - y), loss)


def _focal_slope(x: Array, y: Array, gamma: Exponent, alpha: Array | None) -> Array:
    slope = _modulated_slope(x, y, gamma)
    return slope if alpha is None else (alpha * y + (1.0 - alpha) * (1.0 - y)) * slope


def _as_factor(exponent: Exponent) -> Array | float:
    return float(exponent.number) if isinstance(exponent, StaticExponent) else exponent


focal = CpuProgram(_focal, _focal_slope)


# --- Asymmetric loss, whose negative half lies behind a margin ----------------------------------------------------
#
# ℓ = -log(1 - u) with u = max(p - m, 0) and 1 - u = min(q + m, 1)
#   = log1p(u / (1 - u))                     for small u
#   = min(A, B) - log1p(exp(-|A - B|))       for large u, where q alone would underflow: A = -log q, B = -log m


def _shifted_softplus(x: Array, p: Array, margin: Array) -> Array:
    u, from_m = jnp.maximum(p - margin, 0.0), -jnp.log(margin)
    small = jnp.minimum(u, 0.5)
    large = jnp.minimum(_softplus(x), from_m) - _log1p_exp(_softplus(jnp.clip(x, -SATURATION, SATURATION)) - from_m)
    return jnp.where(u < 0.5, jnp.log1p(small / (1.0 - small)), large)


def _asymmetric(x: Array, y: Array, gamma_pos: Exponent, gamma_neg: Exponent, margin: Array) -> Array:
    p, _ = _sigmoids(x)
    positive = _modulated(x, jnp.ones_like(y), gamma_pos)
    negative = multiply_no_nan(power(jnp.maximum(p - margin, 0.0), gamma_neg), _shifted_softplus(x, p, margin))
    halves = multiply_no_nan(y, positive) + multiply_no_nan(1.0 - y, negative)
    return halves + zero_or_nan(gamma_pos, gamma_neg, margin)


def _asymmetric_slope(x: Array, y: Array, gamma_pos: Exponent, gamma_neg: Exponent, margin: Array) -> Array:
    positive = _modulated_slope(x, jnp.ones_like(y), gamma_pos)
    x = jnp.clip(x, -SATURATION, SATURATION)
    p, q = _sigmoids(x)
    u, remaining = jnp.maximum(p - margin, 0.0), q + margin
    share = jnp.where(remaining == 0.0, 1.0, q / jnp.where(remaining == 0.0, 1.0, remaining))
    own = (p > margin).astype(x.dtype) * p * share
    change = _as_factor(gamma_neg) * divide_no_nan(p * q, u) * _shifted_softplus(x, p, margin)
    negative = power(u, gamma_neg) * (change + own)
    return y * positive + (1.0 - y) * negative + zero_or_nan(gamma_pos, gamma_neg, margin)


asymmetric = CpuProgram(_asymmetric, _asymmetric_slope)
