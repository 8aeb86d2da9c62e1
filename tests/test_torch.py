"""jaxbce beside PyTorch: both give the same numbers, but for the table of deliberate differences.

PyTorch answers in float64, whatever jaxbce computes in, for PyTorch's float32 loses the tails. The options that PyTorch
lacks (`where`, `axis`, "weighted_mean", gradients by weights) are compared with their definitions in `test_laws` and
`test_categorical`.
"""

import builtins
import importlib.util
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import extras

if importlib.util.find_spec("torch") is None:
    extras.missing("torch", extra="parity")

import torch
from torch.nn import functional as F  # noqa: N812 - as PyTorch's own documentation has it

import jaxbce

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # the bounds count roundings of XLA on CPU

INF, NAN = float("inf"), float("nan")


def torch_cross_entropy(x, y, *, class_weight=None, class_axis=1, **options):
    """Classes are on axis 1 for PyTorch, and on axis 0 of logits that have no other."""
    del class_axis
    return F.cross_entropy(x, y, weight=class_weight, **options)


LOSSES = {
    "logits": (jaxbce.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
    "probs": (jaxbce.binary_cross_entropy, F.binary_cross_entropy),
    "classes": (jaxbce.cross_entropy, torch_cross_entropy),
    "sigmoid": (
        lambda x, y, **options: jaxbce.binary_cross_entropy(jax.nn.sigmoid(x), y, **options),
        lambda x, y, **options: F.binary_cross_entropy(torch.sigmoid(x), y, **options),
    ),
}


# --- Agreement ----------------------------------------------------------------------------------------------------

LOGITS = (0.0, -1e-6, 1e-6, -0.1, 0.3, -1.0, 2.5, -4.0, 8.0, -12.0, 16.0, -17.5, 30.0, -60.0, 88.0, -104.0, 1e4, -1e4)
PROBS = (0.5, 1e-3, 0.3, 0.9, 1e-5, 0.01, 0.75, 0.999, 0.2, 1 - 2.0**-18, 0.6, 0.99)
EXTREME_PROBS = (0.0, 1.0, 1e-13, 1e-30, 1e-45, 1 - 2.0**-24)
LABELS = (1.0, 0.25, 0.0, 0.9, 0.5, 1e-6)
WEIGHTS = (2.0, 0.5, 0.0, 1.25, 3.0, 0.1, 7.0)
POS_WEIGHTS = (3.0, 0.25, 20.0, 1.0, 0.0)
COTANGENTS = (1.0, -0.5, 2.0, 0.75, -3.0)
DIRECTIONS = (1.0, -2.0, 0.5, 3.0)

CLASS_LOGITS = (0.5, -1.0, 2.5, 0.0, -0.1, 1.25, -4.0, 0.3, 8.0, -2.0, 1e-6)
CLASS_INDICES = (1, 0, 2, 1, 0, 2, 1)  # no weight of 0 for the first
# They need not add up to 1.
CLASS_PROBS = ((1.0, 0.0, 0.0), (0.25, 0.5, 0.25), (1e-6, 0.9, 0.1), (0.5, 1.0, 0.3), (0.0, 0.0, 0.0))
# Ties, near-ties, classes that are next to certain, and differences on top of a large number.
TAME_ROWS = (0.0, 0.0, 0.0), (1e-6, -1e-6, 0.0), (2.5, -1.0, 0.3), (-4.0, 8.0, 8.0)
FAR_ROWS = (16.0, -12.0, 0.1), (0.0, 30.0, -17.5), (88.0, -104.0, 87.0), (1e4, -1e4, 9999.0)
# Beyond the largest float32 apart, and impossible classes; the label of each row is a possible class.
INFINITE_ROWS = (3e38, -3e38, 0.0), (0.0, -INF, 1.0), (-INF, -INF, 2.0), (-INF, 1.0, -1.0), (5.0, 5.0, -INF)
INFINITE_INDICES = (2, 0, 2, 1, 1)

DTYPES = (np.float32, np.float64, np.float16, jnp.bfloat16)
REDUCTIONS = ("none", "mean", "sum")
WEIGHT_SHAPES = ("absent", "scalar", "class", "example", "full")
CLASS_SHAPES = ((4, 3), (2, 3, 2), (1, 3, 2, 2), (2, 3, 1, 2, 3), (3, 3, 1))
HIDDEN = {"no class": {}, "-100": {"ignored": True}, "class 1": {"ignore_index": 1}}
KINDS = [("indices", hidden) for hidden in HIDDEN] + [("probabilities", "no class")]


class Case(NamedTuple):
    """A call of both libraries, whose losses are reduced as its options say."""

    loss: str
    x: np.ndarray
    y: np.ndarray
    options: dict[str, Any]

    @property
    def dtype(self):
        """The dtype of the computation."""
        return np.dtype(np.float64 if self.x.dtype == np.float64 else np.float32)

    @property
    def variables(self):
        """The arguments by which PyTorch differentiates."""
        weights = {k: v for k, v in self.options.items() if k == "class_weight"}
        return {"x": self.x} if self.y.dtype.kind in "iu" else {"x": self.x, "y": self.y} | weights

    @property
    def twice(self):
        """Whether second derivatives are compared: a reduction is linear."""
        return self.options["reduction"] == "none"


def fill(numbers, shape, start=0):
    return np.resize(np.roll(np.ravel(numbers), -start), shape)


def weight(numbers, at, shape):
    """A weight of a shape that has a name, or None."""
    shapes = {"scalar": (), "class": shape[-1:], "example": (*shape[:-1], 1), "full": shape}
    return None if at == "absent" else fill(numbers, shapes[at])


def case(loss, x, y, dtype=np.float32, *, reduction="mean", **options):
    """A case whose weights and labels, but for class indices, have the dtype of the computation."""
    wide = np.float64 if dtype == np.float64 else np.float32
    options = {k: v.astype(wide) if isinstance(v, np.ndarray) else v for k, v in options.items() if v is not None}
    x, y = np.asarray(x).astype(dtype), np.asarray(y)
    return Case(loss, x, y if y.dtype.kind in "iu" else y.astype(wide), {"reduction": reduction} | options)


def classes(kind, shape, dtype=np.float32, *, index_dtype=np.int64, ignored=False, weighted=False, **options):
    """A case of classes on PyTorch's axis; `ignored` hides every third label."""
    axis = min(1, len(shape) - 1)
    y = fill(CLASS_PROBS, shape)
    if kind == "indices":
        entries = shape[:axis] + shape[axis + 1 :]
        hidden = np.bool_(ignored) & fill([True, False, False], entries)
        y = np.where(hidden, options.get("ignore_index", -100), fill(CLASS_INDICES, entries) % shape[axis])
        y = y.astype(index_dtype)
    u = fill(WEIGHTS, shape[axis]) if weighted else None
    return case("classes", fill(CLASS_LOGITS, shape), y, dtype, class_axis=axis, class_weight=u, **options)


def binary_cases() -> Iterator[tuple[str, Case]]:
    """Every prediction beside every label; every shape under every reduction; every shape of both weights."""
    for loss, values, extremes in (("logits", LOGITS, ()), ("probs", PROBS, EXTREME_PROBS)):
        x, y = np.broadcast_arrays(np.reshape(values + extremes, (-1, 1)), LABELS)
        shape = x.shape
        weights = {"weight": weight(WEIGHTS, "example", shape)}
        weights |= {"pos_weight": weight(POS_WEIGHTS, "class", shape)} if loss == "logits" else {}
        for dtype in DTYPES if loss == "logits" else DTYPES[:2]:
            for name, given in (("plain", {}), ("weights", weights)):
                yield f"every value-{name}", case(loss, x, y, dtype, reduction="none", **given)
        for shape, reduction in itertools.product(((), (5,), (3, 4), (2, 3, 4), (0,), (0, 3)), REDUCTIONS):
            yield f"shape {shape}", case(loss, fill(values, shape, 2), fill(LABELS, shape), reduction=reduction)
        pairs = itertools.product(WEIGHT_SHAPES, WEIGHT_SHAPES if loss == "logits" else ["absent"])
        for turn, (at, pos_at) in enumerate(pairs):
            scalars = {at, pos_at} <= {"absent", "scalar"}
            for shape in [(3, 4), *([()] if scalars else [])]:
                data = fill(values, shape, turn), fill(LABELS, shape, turn)
                weights = {"weight": weight(WEIGHTS, at, shape), "pos_weight": weight(POS_WEIGHTS, pos_at, shape)}
                given = weights | {"dtype": DTYPES[turn % 2], "reduction": REDUCTIONS[turn % 3]}
                yield f"shape {shape}-weight {at}-pos_weight {pos_at}", case(loss, *data, **given)


def class_cases() -> Iterator[tuple[str, Case]]:
    """Every row beside every label; every combination of options; every other shape; every dtype of indices."""
    rows = TAME_ROWS + FAR_ROWS
    options = {"class_weight": fill(WEIGHTS, 3), "label_smoothing": 0.1}
    indices = np.repeat(rows, 3, axis=0), np.tile(np.arange(3), len(rows))
    probabilities = np.repeat(rows, len(CLASS_PROBS), axis=0), np.tile(CLASS_PROBS, (len(rows), 1))
    for dtype, (name, given) in itertools.product(DTYPES, (("plain", {}), ("options", options))):
        yield f"indices-every value-{name}", case("classes", *indices, dtype, reduction="none", **given)
        yield f"probabilities-every value-{name}", case("classes", *probabilities, dtype, reduction="none", **given)
    for dtype in DTYPES[:2]:
        yield "indices-infinite", case("classes", INFINITE_ROWS, INFINITE_INDICES, dtype, reduction="none")

    every = itertools.product(KINDS, (0.0, 0.1, 0.5, 1.0), (False, True), REDUCTIONS)
    for turn, ((kind, hidden), smoothing, weighted, reduction) in enumerate(every):
        shape, given = CLASS_SHAPES[turn % 5], {"weighted": weighted, "reduction": reduction} | HIDDEN[hidden]
        name = f"{kind}-shape {shape}-smoothing {smoothing}-weighted {weighted}-{hidden} ignored"
        yield name, classes(kind, shape, DTYPES[turn % 2], label_smoothing=smoothing, **given)

    for kind, shape, reduction in itertools.product(
        ("indices", "probabilities"), ((3,), (2, 1), (0, 3), (2, 3, 0)), REDUCTIONS
    ):
        yield f"{kind}-shape {shape}", classes(kind, shape, weighted=shape == (3,), reduction=reduction)
    # The mean of no entry is a difference.
    yield "indices-all ignored", classes("indices", (3,), ignored=True, reduction="sum")
    for dtype in (np.int64, np.uint8, np.int8, np.int16, np.int32, np.uint32):
        most, given = np.iinfo(dtype).max, {"index_dtype": dtype, "weighted": True}
        yield f"{dtype.__name__} indices", classes("indices", (4, 3), **given)
        yield (
            f"{dtype.__name__} indices-{most} ignored",
            classes("indices", (4, 3), ignored=True, ignore_index=most, **given),
        )


def directions(case, shape):
    """The factors of the losses, and of the gradient by x, before they are added up and differentiated.

    Those of a mean make up for its division, so that the bounds need not know of it.
    """
    entries = max(case.x.size, 1) if case.options["reduction"] == "mean" else 1
    return fill(np.multiply(COTANGENTS, entries), shape), fill(DIRECTIONS, case.x.shape)


def named(pairs):
    """The cases by names, which say dtype and reduction too."""
    return [pytest.param(c, id=f"{c.loss}-{c.x.dtype}-{name}-{c.options['reduction']}") for name, c in pairs]


def our_answers(case):
    """The loss and its gradients by the variables; of losses also the derivatives of a directional one by x."""
    static = {k: v for k, v in case.options.items() if not isinstance(v, np.ndarray)}
    arrays = {"y": case.y} | {k: v for k, v in case.options.items() if k not in static}

    @jax.jit
    def answers(variables, arrays):
        def total(variables):
            given = static | arrays | variables
            loss = LOSSES[case.loss][0](given.pop("x"), given.pop("y"), **given)
            return jnp.sum(directions(case, loss.shape)[0].astype(case.dtype) * loss), loss

        def directional(variables):
            first, loss = jax.grad(total, has_aux=True)(variables)
            along = directions(case, loss.shape)[1].astype(case.dtype)
            return jnp.sum(along * first["x"].astype(case.dtype)), (first, loss)

        if case.twice:
            return jax.grad(directional, has_aux=True)(variables)
        return {}, jax.grad(total, has_aux=True)(variables)

    second, (first, loss) = answers(*jax.tree.map(jnp.asarray, (case.variables, arrays)))
    return {("", "loss"): loss} | {("d", k): first[k] for k in first} | {("d x, d", k): second[k] for k in second}


def torch_answers(case):
    """The same from PyTorch, in float64 and with int64 indices."""

    def tensor(value):
        return torch.from_numpy(np.array(value, np.int64 if value.dtype.kind in "iu" else np.float64))

    def gradients(value):
        options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        return dict(zip(variables, torch.autograd.grad(value, [*variables.values()], **options), strict=True))

    variables = {k: tensor(v).requires_grad_() for k, v in case.variables.items()}
    given = {k: tensor(v) if isinstance(v, np.ndarray) else v for k, v in case.options.items()}
    given = {"y": tensor(case.y)} | given | variables
    loss = LOSSES[case.loss][1](given.pop("x"), given.pop("y"), **given)
    along_loss, along_x = map(torch.from_numpy, directions(case, loss.shape))
    first = gradients(torch.sum(along_loss * loss))
    second = gradients(torch.sum(along_x * first["x"])) if case.twice else {}
    answers = {("", "loss"): loss} | {("d", k): first[k] for k in first} | {("d x, d", k): second[k] for k in second}
    return {k: v.detach().numpy() for k, v in answers.items()}


ROUNDINGS = 4
"""How often a term is rounded: two libraries, elementary functions of a few ulp, a few products of weights."""

TORCH_EPSILON = 1e-12
"""PyTorch puts it in the place of a smaller p·(1 - p), and adds it to p and 1 - p in second derivatives."""


def allowed(case, quantity, expected):
    """How far rounding may take an answer: `ROUNDINGS` of its terms.

    A binary loss, and its derivatives by the prediction at a label 0 or 1, are sums of terms of one sign in jaxbce, and
    so good to roundings of themselves. PyTorch's terms cancel, and are rounded in float64.
    """
    order, name = quantity
    x, eps, relative = case.x.astype(np.float64), np.finfo(case.dtype).eps, np.finfo(case.dtype).eps
    weights = {k: v.astype(np.float64) for k, v in case.options.items() if k in ("weight", "pos_weight")}
    class_weight = np.max(case.options.get("class_weight", 1.0))
    scale = weights.get("weight", 1.0) * (1 + weights.get("pos_weight", 0.0)) * class_weight
    terms = scale * np.ones(x.shape)
    if case.loss == "logits" and (name == "loss" or quantity == ("d", "y")):
        terms = terms * (1 + np.abs(x))
    if case.loss == "probs" and order:
        variance = np.maximum(x * (1 - x), TORCH_EPSILON)
        power = 1 + (quantity == ("d x, d", "x"))
        terms = terms * (1 - np.log(variance)) if quantity == ("d", "y") else terms / variance**power
        relative = eps + TORCH_EPSILON / variance * (order == "d x, d")
    if case.loss != "classes" and (name == "loss" or name == "x"):
        eps = np.where(name == "loss" or np.isin(case.y, (0, 1)), np.finfo(np.float64).eps, eps)
    if order:
        along_loss, along_x = directions(case, x.shape if case.twice else ())
        terms = terms * np.abs(along_loss if case.loss != "classes" else np.max(np.abs(along_loss), initial=0))
        terms = terms * (np.max(np.abs(along_x), initial=0) if order == "d x, d" else 1)
    if case.loss == "classes" and name == "loss":  # of sums of exponentials that are at least 1
        terms = class_weight * (np.abs(expected) + (x.size if case.options["reduction"] == "sum" else 1))
    if np.shape(terms) != expected.shape:
        terms, eps = np.sum(terms) + np.abs(expected), np.max(eps, initial=0)
    bound = ROUNDINGS * (relative * np.abs(expected) + eps * terms) + np.finfo(case.dtype).tiny * np.max(scale)
    if name == "x" and case.x.dtype != case.dtype:
        narrow = jnp.finfo(case.x.dtype)
        bound = bound + float(narrow.eps) / 2 * np.maximum(np.abs(expected), float(narrow.tiny))
    return bound


@pytest.mark.parametrize("case", named(itertools.chain(binary_cases(), class_cases())))
def test_values_and_derivatives_agree_with_pytorch(case):
    actual, expected = our_answers(case), torch_answers(case)
    assert actual.keys() == expected.keys()
    for quantity, value in expected.items():
        got = np.asarray(actual[quantity], np.float64)
        assert got.shape == value.shape
        with np.errstate(invalid="ignore", over="ignore"):
            near = (np.abs(got - value) <= allowed(case, quantity, value)) | (got == value) | np.isnan(got + value)
        near = near & (np.isnan(got) == np.isnan(value))
        if case.loss == "probs" and quantity[0]:  # where PyTorch's derivatives are not those of its loss
            p = case.x.astype(np.float64)
            near = near | (p * (1 - p) <= TORCH_EPSILON)
        assert near.all(), f"{quantity}: {got[~near]} and not {value[~near]}"


# --- Deliberate differences ---------------------------------------------------------------------------------------

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "differences.md"
ROWS = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "][1:]


class Call(NamedTuple):
    """A call as it stands on the page, and what is asked of it.

    That is the "loss", its "dtype", or of the summed loss the gradient by an argument ("d x") or the diagonal of the
    Hessian ("d2 x").
    """

    loss: str
    arguments: dict[str, Any]
    quantity: str = "loss"


def caller(loss):
    """Make calls of a loss; its lists become arrays, as the page says."""

    def array(name, value):
        indices = (loss, name) == ("classes", "y") and np.array(value).dtype.kind == "i"
        return np.array(value, np.int64 if indices else np.float32) if isinstance(value, list) else value

    def call(x, y, **options):
        arguments = {"x": x, "y": y, "reduction": "none"} | options
        return Call(loss, {name: array(name, value) for name, value in arguments.items()})

    return call


WORDS = {
    **{loss: caller(loss) for loss in LOSSES},
    "dtype": lambda call: call._replace(quantity="dtype"),
    "grad": lambda call, by="x": call._replace(quantity=f"d {by}"),
    "hessian": lambda call: call._replace(quantity="d2 x"),
    **{name: getattr(np, name) for name in ("array", "inf", "nan", "float16", "float32", "float64")},
    **{name: getattr(np, name) for name in ("int16", "int32", "int64")},
    "bfloat16": jnp.bfloat16,
}


def our_answer(call):
    """One quantity of one call, or an exception."""
    order, _, name = call.quantity.partition(" ")

    def losses(value=None):
        given = call.arguments | ({name: value} if name else {})
        return LOSSES[call.loss][0](given.pop("x"), given.pop("y"), **given)

    if not name:
        return losses().dtype.name if call.quantity == "dtype" else losses()
    value = call.arguments[name]
    if order == "d":
        return jax.jit(jax.grad(lambda value: jnp.sum(losses(value))))(value)
    return np.diagonal(jax.jit(jax.hessian(lambda value: jnp.sum(losses(value))))(value).reshape(value.size, -1))


def torch_answer(call):
    """The same from PyTorch, in the dtypes of the arguments."""
    order, _, name = call.quantity.partition(" ")

    def tensor(value):
        if getattr(value, "dtype", None) == jnp.bfloat16:  # which PyTorch does not read from NumPy
            return tensor(value.astype(np.float32)).to(torch.bfloat16)
        return torch.from_numpy(np.asarray(value)) if hasattr(value, "dtype") else value

    arguments = {k: tensor(v) for k, v in call.arguments.items()}

    def losses(value=None):
        given = arguments | ({name: value} if name else {})
        return LOSSES[call.loss][1](given.pop("x"), given.pop("y"), **given)

    if not name:
        return str(losses().dtype).removeprefix("torch.") if call.quantity == "dtype" else losses()
    value = arguments[name]
    if order == "d":
        return torch.autograd.grad(losses(value.requires_grad_()).sum(), value)[0]
    return (
        torch.autograd.functional.hessian(lambda value: losses(value).sum(), value).reshape(len(value), -1).diagonal()
    )


def assert_answer(answer, call, expected):
    """An answer of the page: numbers, which are good to float32, a dtype or an exception."""
    if expected.endswith("Error"):
        with pytest.raises(getattr(builtins, expected)):
            answer(call)
    elif call.quantity == "dtype":
        assert answer(call) == expected
    else:
        np.testing.assert_allclose(np.ravel(answer(call)), list(map(float, expected.split(", "))), rtol=3e-7, atol=0)


@pytest.mark.parametrize(("call", "theirs", "ours", "why"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_pytorch_and_jaxbce_differ_as_documented(call, theirs, ours, why):
    call = eval(call.strip("`"), WORDS)
    assert_answer(torch_answer, call, theirs)
    assert_answer(our_answer, call, ours)
    assert theirs != ours
    assert why


def test_the_page_of_differences_has_rows_of_its_own():
    assert len({name for name, *_ in ROWS}) == len(ROWS) >= 66


# --- Particular comparisons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_probabilities_are_equal_to_the_last_bit(dtype, reduction, labels, jit, rng):
    # Logits uniform far into both tails, so that every size of p·(1 - p) down to 1e-12 occurs.
    p = 1 / (1 + np.exp(-rng.uniform(-28, 28, 100_000)))
    y = rng.uniform(size=p.shape)
    p, y = p.astype(dtype), (y.round() if labels == "hard" else y).astype(dtype)
    inner = (1 - p) * p > dtype(TORCH_EPSILON)
    p, y = p[inner], y[inner]

    gradient = jax.grad(lambda p: jnp.sum(jaxbce.binary_cross_entropy(p, y, reduction=reduction)))
    leaf = torch.from_numpy(p).requires_grad_()
    F.binary_cross_entropy(leaf, torch.from_numpy(y), reduction=reduction).sum().backward()
    assert np.array_equal((jax.jit(gradient) if jit else gradient)(p), leaf.grad.numpy())


@pytest.mark.parametrize(
    ("criterion", "shape", "options"),
    [
        ("BCELoss", (3, 4), {}),
        ("BCELoss", (3, 4), {"weight": np.float32(0.5), "reduction": "none"}),
        ("BCEWithLogitsLoss", (3, 4), {"reduction": "sum"}),
        ("BCEWithLogitsLoss", (3, 4), {"pos_weight": np.float32([3, 1, 0, 2]), "weight": np.float32([[1], [0], [2]])}),
        ("CrossEntropyLoss", (2, 3, 4), {}),
        ("CrossEntropyLoss", (2, 3), {"weight": np.float32([1, 3, 0.5]), "ignore_index": 1, "label_smoothing": 0.1}),
    ],
)
def test_criteria_agree_with_torch_nn(criterion, shape, options, rng):
    x = rng.uniform(size=shape).astype(np.float32)
    categorical = criterion == "CrossEntropyLoss"
    y = rng.integers(0, 3, np.delete(shape, 1)) if categorical else rng.integers(0, 2, shape).astype(np.float32)
    tensors = {k: torch.from_numpy(np.asarray(v)) if hasattr(v, "dtype") else v for k, v in options.items()}
    expected = getattr(torch.nn, criterion)(**tensors)(torch.from_numpy(x), torch.from_numpy(y))
    if categorical:
        options = {"class_weight" if k == "weight" else k: v for k, v in options.items()} | {"class_axis": 1}
    np.testing.assert_allclose(jax.jit(getattr(jaxbce, criterion)(**options))(x, y), expected, rtol=1e-6, atol=0)
