"""Calls drawn at random, of every loss, are right, or refused where they are wrong. A few here; for longer

python -m tests.test_fuzz --minutes 10
"""

import argparse
import dataclasses
import secrets
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

import jaxbce
import tests.conftest  # noqa: F401  # sets JAX up where there is no pytest to do it
from tests import oracle
from tests.losses import FAMILIES

FLOATS = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
REDUCTIONS = ["none", "mean", "weighted_mean", "sum"]


@dataclasses.dataclass
class Call:
    """A call that is right, and others that are not.

    Attributes:
        name: of the function, as its errors say it.
        loss: the call as a function of two arrays, the rest bound; options that are given replace those.
        total: options that make it a sum.
        draw: two arrays, tame or from the ends of their dtypes.
        expected: the value, from what `draw` gave.
        slope: the gradient of the sum by the first array, and the size of the terms that it is a difference of.
        size: what a number that was flushed to zero may have been multiplied by.
        wrong: what must be refused: the error, and arguments in the place of the two, `x` and `y`, or beside them.
    """

    name: str
    loss: Callable
    total: dict
    draw: Callable
    expected: Callable
    slope: Callable
    size: float
    wrong: list


# --- Arrays and options -------------------------------------------------------------------------------------------

# Arrays of thousands run in other loops, and odd sizes in others again.
large = st.sampled_from([(5_000,), (8_192,), (410, 10), (70, 128), (3, 4_099)])
shapes = st.integers(0, 4).flatmap(lambda n: st.lists(st.integers(0, 3), max_size=5).map(tuple) if n else large)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
SUM = {"reduction": "sum", "axis": None}


def ends(dtype):
    """Numbers ≥ 0 at which something may break."""
    info = jnp.finfo(dtype)
    return [0, info.smallest_subnormal, info.tiny, info.eps, 1 - info.epsneg, 1, 17, 88, 1e4, info.max, np.inf, np.nan]


def logits(rng, shape, dtype, tame):
    if tame:
        return np.asarray(rng.normal(0, 6, shape)).astype(dtype)
    values = np.asarray(ends(dtype), np.float64)
    return np.asarray(rng.choice([*values, *-values], shape)).astype(dtype)


def fractions(rng, shape, dtype, tame):
    """Probabilities, or soft labels."""
    if tame:
        return np.asarray(rng.integers(1, 1023, shape) / 1024).astype(dtype)
    return np.asarray(rng.choice([v for v in ends(dtype) if not v > 1], shape)).astype(dtype)


def factors(rng, shape, far=False):
    return np.asarray(rng.choice([0, 1, 0.5, 3, *([1e30] if far else [])], shape)).astype(np.float32)


def rounded(value, dtype):
    """The value as a loss of predictions of this dtype sees it, in float64: subnormal numbers are 0 to XLA on CPU."""
    dtype = np.float64 if dtype == jnp.float64 else np.float32
    with np.errstate(over="ignore"):
        value = np.asarray(value).astype(dtype)
    return np.where(np.abs(value) < np.finfo(dtype).tiny, 0, value).astype(np.float64)


@st.composite
def smaller(draw, shape):
    """A shape that broadcasts to the shape."""
    kept = [n if draw(st.booleans()) else 1 for n in shape]
    return tuple(kept[draw(st.integers(0, len(kept))) :])


@st.composite
def masks(draw, rng, shape):
    """None or a mask that broadcasts to the shape."""
    return rng.random(draw(smaller(shape))) < 0.6 if draw(st.booleans()) else None


@st.composite
def reductions(draw, ndim):
    """Axis and reduction."""
    reduction = draw(st.sampled_from(REDUCTIONS))
    one = st.sampled_from([None, (), *range(-ndim, ndim)])
    several = st.lists(st.integers(0, max(ndim - 1, 0)), unique=True, max_size=ndim)
    return {"reduction": reduction, "axis": None if reduction == "none" else draw(one | several | several.map(tuple))}


def reduced(losses, dtype, *, where=None, weight=None, number=None, axis=None, reduction="mean"):
    """`oracle.reduce`, but the mean of an empty array is NaN, and a sum beyond the largest number of the dtype is inf.

    Where `number` is given a mean divides by its sum.
    """
    axis = axis if axis is None else tuple(np.atleast_1d(axis).astype(int))
    if reduction == "none":
        return oracle.reduce(losses, weight, where, axis, "none")
    total = oracle.reduce(losses, weight, where, axis, "sum")
    if reduction == "sum":
        return total
    entries = [losses.shape[a] for a in (range(losses.ndim) if axis is None else axis)]
    if np.prod(entries) == 0:
        return np.full(total.shape, np.nan)
    weight = weight if reduction == "weighted_mean" else None
    number = oracle.reduce(np.ones(losses.shape) if number is None else number, weight, where, axis, "sum")
    most = np.finfo(np.float64 if dtype == jnp.float64 else np.float32).max
    total = np.where(total > most, np.inf, total)
    # Label smoothing leaves a total where the labels weigh nothing: their mean is 0.
    return np.where((number == 0) & ~np.isnan(total), 0, total) / np.where(number == 0, 1, number)


def other_shapes(shape):
    """Shapes of labels that belong to no predictions of the shape."""
    found = {(*shape, 1), (1, *shape), shape[:-1], shape[1:], shape[::-1], (1,) * len(shape), (*shape[:-1], 7)}
    return sorted(found - {shape, ()})


def bound(function, **options):
    """The call with these options, in the place of which others may come."""
    return lambda *data, **changes: function(*data, **options | changes)


NO_REDUCTION = (ValueError, {"reduction": "max"})
COMPLEX = (TypeError, {"x": np.ones(2, np.complex64)})
WRONG = [
    NO_REDUCTION,
    (ValueError, {"axis": 7, "reduction": "sum"}),
    (ValueError, {"axis": 0, "reduction": "none"}),
    (TypeError, {"axis": 0.5, "reduction": "sum"}),
    COMPLEX,
]

# --- Losses -------------------------------------------------------------------------------------------------------


@st.composite
def rows(draw):
    """A loss of single entries, with parameters of its own, and how steep they make it."""
    row = draw(st.sampled_from(FAMILIES))
    gammas = [draw(st.sampled_from([0, 0.0, 0.5, 1, 2.0, 3.7])) for _ in range(2)]
    if row.function is jaxbce.sigmoid_focal_loss:
        alpha = draw(st.sampled_from([None, 0, 0.25, 1.0]))
        bound = {"gamma": gammas[0], "alpha": alpha}
        row = dataclasses.replace(row, bound=bound, definition=oracle.focal(gammas[0], alpha))
    if row.function is jaxbce.asymmetric_loss:
        margin = draw(st.sampled_from([0, 0.0625, 0.25, 1.0]))
        bound = {"gamma_pos": gammas[0], "gamma_neg": gammas[1], "margin": margin}
        row = dataclasses.replace(row, bound=bound, definition=oracle.asymmetric(*gammas, margin))
    return row, 1 + max(gammas) if row.bound else 1


@st.composite
def entries(draw):
    """A loss of predictions and labels of one shape."""
    (row, steep), shape, dtype, rng = draw(rows()), draw(shapes), draw(st.sampled_from(FLOATS)), draw(generators)
    predictions = fractions if row.function is jaxbce.binary_cross_entropy else logits
    kind = np.dtype(draw(st.sampled_from([*FLOATS, bool, np.int8, np.uint8, np.int64])))
    hard, scalar, far = kind.kind in "biu", draw(st.booleans()), draw(st.booleans())
    where = draw(masks(rng, shape))
    mask, poison = np.broadcast_to(True if where is None else where, shape), draw(st.sampled_from([-1, np.nan, np.inf]))
    makers = {
        # Times the slope of a probability it would overflow, and a weight of 0 make NaN of that: docs/limits.md.
        "pos_weight": lambda: factors(rng, draw(smaller(shape)), far and predictions is not fractions),
        "weight": lambda: factors(rng, draw(smaller(shape)), far),
        "label_smoothing": lambda: draw(st.sampled_from([0, 0.25, 1.0])),
    }
    own = {name: make() for name, make in makers.items() if row.takes(name) and draw(st.booleans())}
    options = own | {"where": where} | draw(reductions(len(shape)))
    entry = {name: own[name] for name in own if name != "weight"}
    v, w = (np.broadcast_to(own.get(name, 1.0), shape).astype(np.float64) for name in ("weight", "pos_weight"))

    def data(tame):
        x = predictions(rng, shape, dtype, tame)
        if 0 < row.bound.get("margin", 0) < 1:
            # Next to p = margin the loss has the rounding of p - margin: docs/limits.md.
            x = np.where(np.abs(oracle.sigmoid(x.astype(float)) - row.bound["margin"]) < 0.02, 0, x).astype(dtype)
        y = fractions(rng, () if scalar else shape, jnp.float32, tame)
        # A fraction, or the power u^γ, of a smaller label underflows, whatever it is multiplied by.
        y = np.where(y < 1e-9, 0, y) if entry or steep > 1 else y
        y = (y > 0.5).astype(kind) if hard else y.astype(kind)
        hidden = y if scalar or hard else np.where(mask, y, np.asarray(poison, kind))
        return np.where(mask, x, np.asarray(poison, dtype)), hidden

    def seen(x, y):
        return np.where(mask, rounded(x, dtype), 0.5), np.where(mask, rounded(y, dtype), 0)

    def expected(x, y):
        by = {"axis": options["axis"], "reduction": options["reduction"], "where": where, "weight": own.get("weight")}
        return reduced(row.entries(0, *seen(x, y), **entry), dtype, **by)

    def slope(x, y):
        x, y = seen(x, y)
        terms = 1 + w
        if predictions is fractions:
            terms = row.entries(1, x, np.zeros_like(x)) - row.entries(1, x, np.ones_like(x), w)
        return np.where(mask, oracle.times(v, row.entries(1, x, y, **entry)), 0), v * terms * 4 * steep

    wrong = [
        *((ValueError, {"y": np.ones(other)}) for other in other_shapes(shape)),
        (TypeError, {"x": np.ones(shape, np.int32)}),
        (TypeError, {"where": np.ones(shape, np.int32)}),
        (ValueError, {"where": np.ones((2, *shape), bool)}),
        *((ValueError, {name: np.ones((2, *shape))}) for name in ("weight", "pos_weight") if row.takes(name)),
        *([(ValueError, {"y": np.full(shape, 2), "where": None})] if np.prod(shape) else []),
        *WRONG,
    ]
    # What adapts a loss to the table is not its boundary.
    wrong = [(error, changes) for error, changes in wrong if not row.adapter or not {"x", "y", "where"} & set(changes)]
    size = float(np.prod([np.max(own.get(name, 1.0), initial=1.0) for name in ("pos_weight", "weight")]))

    return Call(row.function.__name__, bound(row, **options), SUM, data, expected, slope, size, wrong)


def log_softmax(x):
    """Over the last axis, exact where a class is next to certain; NaN where none is possible."""
    x = np.asarray(x, np.longdouble)
    with np.errstate(invalid="ignore"):
        below = x - x.max(-1, keepdims=True)
    return below - np.log1p(np.exp(np.sort(below, -1)[..., :-1]).sum(-1, keepdims=True))


@st.composite
def classes(draw):
    """`cross_entropy` of class indices or class probabilities, over any axis."""
    shape, dtype, rng = draw(shapes.filter(len)), draw(st.sampled_from(FLOATS)), draw(generators)
    axis = draw(st.integers(0, len(shape) - 1))
    number, rest = shape[axis], shape[:axis] + shape[axis + 1 :]
    assume(number > 0)
    indices, kind = draw(st.booleans()), draw(st.sampled_from([np.int8, np.uint8, np.int32, np.int64]))
    ignored, s = draw(st.sampled_from([None, -100, 0]) if indices else st.just(-100)), draw(st.sampled_from([0, 0.25]))
    u, where = factors(rng, number) if draw(st.booleans()) else None, draw(masks(rng, rest))
    options = {"class_axis": draw(st.sampled_from([axis, axis - len(shape)])), "class_weight": u, "where": where}
    options |= {"ignore_index": ignored, "label_smoothing": s} | draw(reductions(len(rest)))

    def data(tame):
        x = logits(rng, shape, dtype, tame)
        x = np.where(np.isnan(x) | (x == np.inf), np.asarray(-np.inf, dtype), x)
        if indices:
            return x, np.asarray(rng.integers(0, min(number, np.iinfo(kind).max), rest)).astype(kind)
        return x, np.moveaxis(rng.dirichlet(np.ones(number), rest), -1, axis).astype(np.float32)

    def parts(x, y):
        """Logits and coefficients with the classes last, the weight of each entry, and the mask."""
        probs = np.eye(number)[y.astype(int)] if indices else np.moveaxis(y.astype(np.float64), axis, -1)
        weights = np.ones(number) if u is None else u.astype(np.float64)
        mask = np.broadcast_to(True if where is None else where, rest)
        mask = mask & (y != ignored) if indices and ignored is not None else mask
        x = np.moveaxis(rounded(x, dtype), axis, -1)
        return x, weights * (probs * (1 - s) + s / number), (weights * probs).sum(-1), mask

    def expected(x, y):
        x, a, weight, mask = parts(x, y)
        by = {"axis": options["axis"], "reduction": options["reduction"], "where": mask}
        weighted = options["reduction"] == "weighted_mean" or indices
        losses = -log_softmax(x)
        losses = np.where(losses > np.finfo(np.float64 if dtype == jnp.float64 else np.float32).max, np.inf, losses)
        return reduced(oracle.times(a, losses).sum(-1), dtype, number=weight if weighted else None, **by)

    def slope(x, y):
        x, a, _, mask = parts(x, y)
        slopes = a.sum(-1, keepdims=True) * np.exp(log_softmax(x)) - a
        return np.moveaxis(np.where(mask[..., None], slopes, 0), -1, axis), 32.0

    wrong = [
        *((ValueError, {"y": np.zeros(other, int)}) for other in other_shapes(shape) if other != rest),
        (TypeError, {"x": np.ones(shape, np.int32)}),
        (TypeError, {"y": np.zeros(rest, bool)}),
        (TypeError, {"where": np.ones(rest)}),
        (ValueError, {"class_axis": len(shape)}),
        (ValueError, {"class_weight": np.ones(number + 1)}),
        *([(ValueError, {"y": np.full(rest, number), "where": None})] if np.prod(rest) else []),
        *WRONG,
    ]
    return Call("cross_entropy", bound(jaxbce.cross_entropy, **options), SUM, data, expected, slope, 3.0, wrong)


@st.composite
def positives(draw):
    """Labels as indices: of logits, or of a head."""
    shape, rng, head = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple)), draw(generators), draw(st.booleans())
    head, dtype = head and len(shape) == 1, draw(st.sampled_from(FLOATS))
    labels, k, width = (draw(st.integers(least, 5)) for least in (1, 0, 1))
    s, w, v = (draw(st.sampled_from(pair)) for pair in ([0, 0.25], [None, 3.0], [None, 0.5]))
    options = {"label_smoothing": s, "pos_weight": w, "weight": v} | draw(reductions(len(shape) + 1))
    kernel, bias = (np.asarray(rng.normal(size=size)).astype(dtype) for size in ((width, labels), labels))
    if head:
        del options["axis"]
        options["chunk_size"] = draw(st.sampled_from([None, 1, 2, 5]))

    def data(tame):
        x = logits(rng, (*shape, width), dtype, True) / 4 if head else logits(rng, (*shape, labels), dtype, tame)
        y = rng.integers(-2, labels, (*shape, k))
        y.reshape(-1)[:1] = -1  # so that they cannot be taken for dense labels
        return x.astype(dtype), y

    def parts(x, y):
        x = rounded(x, dtype)
        x = x @ kernel.astype(np.float64) + bias.astype(np.float64) if head else x
        hot = (y[..., None] == np.arange(labels)).any(-2)
        return x, hot * (1 - s) + s / 2, 1.0 if w is None else w

    def expected(x, y):
        losses, by = oracle.logit_loss(*parts(x, y)), {"axis": options.get("axis"), "reduction": options["reduction"]}
        if head and by["reduction"] == "none":
            by = {"axis": -1, "reduction": "sum"}
        return reduced(losses, dtype, weight=v, **by)

    def slope(x, y):
        slopes = (1.0 if v is None else v) * oracle.logit_slope(*parts(x, y))
        return (slopes @ kernel.astype(np.float64).T, 100.0) if head else (slopes, 16.0)

    def of_head(x, y, **options):
        return jaxbce.linear_binary_cross_entropy(x, kernel, positives=y, bias=bias, **options)

    wrong = [
        (ValueError, {"y": np.zeros((*shape, 2, 1), int)}),
        (TypeError, {"y": np.zeros((*shape, 2))}),
        (TypeError, {"x": np.ones((*shape, labels), int)}),
        *([(ValueError, {"y": np.full((*shape, 1), labels)})] if np.prod(shape) else []),
        *([NO_REDUCTION, (ValueError, {"chunk_size": 0})] if head else WRONG),
    ]
    name, total = "sparse_binary_cross_entropy_with_logits", SUM
    if head:
        name, total = "linear_binary_cross_entropy", {"reduction": "sum"}
    loss = bound(of_head if head else jaxbce.sparse_binary_cross_entropy_with_logits, **options)
    return Call(name, loss, total, data, expected, slope, 3.0, wrong)


@st.composite
def pairs(draw):
    """All pairs of two batches."""
    rng, batch, width = draw(generators), draw(st.integers(0, 6)), draw(st.integers(1, 3))
    dtype, tile = draw(st.sampled_from([jnp.float32, jnp.float64])), draw(st.sampled_from([None, 1, 2, 4]))
    scale, bias = draw(st.sampled_from([1.0, 10.0])), draw(st.sampled_from([0, -10.0]))
    options = {"tile_size": tile, "reduction": draw(st.sampled_from(REDUCTIONS))}

    def parts(x, y):
        return scale * (x.astype(np.float64) @ y.astype(np.float64).T) + bias, np.eye(batch)

    def expected(x, y):
        return reduced(oracle.logit_loss(*parts(x, y)).sum(-1), dtype, reduction=options["reduction"])

    def slope(x, y):
        return scale * oracle.logit_slope(*parts(x, y)) @ y.astype(np.float64), 1000.0

    def data(_):
        return tuple(rng.normal(size=(batch, width)).astype(dtype) for _ in range(2))

    wrong = [
        (ValueError, {"y": np.ones((batch + 1, width))}),
        (ValueError, {"y": np.ones((batch, width, 1))}),
        (TypeError, {"x": np.ones((batch, width), int)}),
        (ValueError, {"tile_size": 0}),
        NO_REDUCTION,
    ]
    loss = bound(jaxbce.sigmoid_contrastive_loss, logit_scale=scale, logit_bias=bias, **options)
    return Call("sigmoid_contrastive_loss", loss, {"reduction": "sum"}, data, expected, slope, 1.0, wrong)


@st.composite
def adversaries(draw):
    """The losses of a discriminator, and so of a generator."""
    rng, shape, dtype = draw(generators), draw(shapes), draw(st.sampled_from(FLOATS))
    options = {"reduction": draw(st.sampled_from(REDUCTIONS)), "label_smoothing": draw(st.sampled_from([0, 0.25, 1.0]))}
    label = 1 - options["label_smoothing"] / 2

    def data(tame):
        return logits(rng, shape, dtype, tame), logits(rng, shape, dtype, tame)

    def expected(x, y):
        losses = oracle.logit_loss(rounded(x, dtype), label), oracle.logit_loss(rounded(y, dtype), 0.0)
        return sum(reduced(half, dtype, reduction=options["reduction"]) for half in losses)

    def slope(x, _):
        return oracle.logit_slope(rounded(x, dtype), label), 4.0

    wrong = [
        (TypeError, {"x": np.ones(shape, int)}),
        (ValueError, {"y": np.ones((*shape, 2), np.float32), "reduction": "none"}),
        (ValueError, {"label_smoothing": 1.5}),
        NO_REDUCTION,
    ]
    loss = bound(jaxbce.gan_discriminator_loss, **options)
    return Call("gan_discriminator_loss", loss, {"reduction": "sum"}, data, expected, slope, 1.0, wrong)


@st.composite
def averages(draw):
    """`Average.of` losses and weights."""
    rng, shape, dtype = draw(generators), draw(shapes), draw(st.sampled_from(FLOATS))
    where, axis, smaller_shape = draw(masks(rng, shape)), draw(reductions(len(shape)))["axis"], draw(smaller(shape))
    mask = np.broadcast_to(True if where is None else where, shape)

    def expected(x, v):
        average = reduced(rounded(x, dtype), dtype, where=where, weight=v, axis=axis, reduction="weighted_mean")
        return np.nan_to_num(average, nan=0.0) if not np.prod(shape) else average  # nothing is included, and no mistake

    def slope(_, v):
        v = np.where(mask, v, 0).astype(np.float64)
        number = v.sum(axis if axis is None else tuple(np.atleast_1d(axis).astype(int)), keepdims=True)
        return np.where(number == 0, 0, v / np.where(number == 0, 1, number)), 1.0

    def data(tame):
        return np.abs(logits(rng, shape, dtype, tame)), factors(rng, smaller_shape)

    def value(x, v, **options):
        return jaxbce.Average.of(x, weight=v, **options).value

    wrong = [
        (ValueError, {"y": np.ones((2, *shape))}),
        (TypeError, {"where": np.ones(shape)}),
        (ValueError, {"axis": 7}),
        COMPLEX,
    ]
    return Call("Average.of", bound(value, where=where, axis=axis), {}, data, expected, slope, 3.0, wrong)


every_call = st.one_of(entries(), entries(), entries(), classes(), positives(), pairs(), adversaries(), averages())

# --- What holds for every call ------------------------------------------------------------------------------------

TOLERANCE = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 2e-5, "float64": 1e-11}

TRANSFORMS = {
    "eager": lambda call: call.loss,
    "jit": lambda call: jax.jit(call.loss),
    "vmap": lambda call: jax.jit(jax.vmap(call.loss)),
    "grad": lambda call: jax.jit(jax.grad(lambda x, y: jnp.sum(call.loss(x, y, **call.total)))),
}


def agree(actual, expected, size, scale=0.0):
    """Equal to rounding: relative to the number itself, or to the `scale` of the terms that it is a difference of."""
    info, tolerance = jnp.finfo(actual.dtype), TOLERANCE[str(actual.dtype)]
    actual, expected = np.asarray(actual).astype(np.float64), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    with np.errstate(invalid="ignore", over="ignore"):
        # Next to the largest number of a dtype, rounding decides whether there is one.
        large = np.abs(expected) > 0.99 * float(info.max)
        far = (np.abs(actual) > 0.9 * float(info.max)) & (np.sign(actual) == np.sign(expected))
        near = (
            np.abs(actual - expected) <= tolerance * np.maximum(np.abs(expected), scale) + 8 * float(info.tiny) * size
        )
    wrong = ~np.where(large, far, near) & ~np.isnan(expected)
    assert not wrong.any(), (actual[wrong], expected[wrong])


def is_right(call: Call, transform: str) -> None:
    """Equal to the definition, at tame numbers and at the ends of the dtype."""
    transformed = TRANSFORMS[transform](call)
    for tame in (True, False, False):
        x, y = call.draw(tame)
        if transform == "grad":
            gradient = transformed(jnp.asarray(x), y)
            slope, scale = call.slope(x, y)
            assert gradient.dtype == x.dtype
            agree(gradient, slope, call.size, scale)
            continue
        values = transformed(*(np.stack([a, a]) for a in (x, y))) if transform == "vmap" else [transformed(x, y)]
        for value in values:
            assert value.dtype == (jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
            agree(value, call.expected(x, y), call.size)
        if transform == "eager" and x.dtype == np.float64 and x.size:
            agree(call.loss(x.tolist(), y), call.expected(x, y), call.size)


def is_refused(call: Call, error: type[Exception], changes: dict) -> None:
    """Eagerly in words that name the function, and under `jit` too; there a value that no one can read gives NaN."""
    x, y = call.draw(True)
    x, y = jnp.asarray(changes.get("x", x)), jnp.asarray(changes.get("y", y))
    options = {name: value for name, value in changes.items() if name not in ("x", "y")}
    with pytest.raises(error, match=call.name):
        call.loss(x, y, **options)
    refusal, value = "", None
    try:
        value = jax.jit(lambda x, y: call.loss(x, y, **options))(x, y)
    except error as raised:
        refusal = str(raised)
    assert call.name in refusal if refusal else np.isnan(value).all()


@np.errstate(all="ignore")  # what the definitions meet at the ends of a dtype
def hold(data: st.DataObject) -> None:
    call = data.draw(every_call)
    if data.draw(st.integers(0, 3)):
        is_right(call, data.draw(st.sampled_from(list(TRANSFORMS))))
    else:
        is_refused(call, *data.draw(st.sampled_from(call.wrong)))


test_random_calls_agree_with_the_definition_or_are_refused = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)(given(st.data())(hold))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    end, number, many = time.monotonic() + 60 * parser.parse_args().minutes, 0, 200
    while time.monotonic() < end:
        run = settings(max_examples=many, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(secrets.randbits(64))(run(given(st.data())(hold)))()
        jax.clear_caches()
        number += many
    print(f"{number} calls were right or refused")


if __name__ == "__main__":
    main()
