"""The grid of calls on which PyTorch and jaxbce are compared; needs neither of the two.

Every number is a literal: the grid is the same on every machine and under every version of NumPy, so that what was
recorded for a case stays the answer to that case.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

LOGITS = (0.0, -1e-6, 1e-6, -0.1, 0.3, -1.0, 2.5, -4.0, 8.0, -12.0, 16.0, -17.5, 30.0, -60.0, 88.0, -104.0, 1e4, -1e4)
PROBS = (0.5, 1e-3, 0.3, 0.9, 1e-5, 0.01, 0.75, 0.999, 0.2, 1 - 2.0**-18, 0.6, 0.99)
# Where PyTorch's derivatives are not those of the loss: compared in value alone, in derivative in `differences`.
EXTREME_PROBS = (0.0, 1.0, 1e-13, 1e-30, 1 - 2.0**-24)
HARD = (1.0, 0.0, 0.0, 1.0, 1.0)
SOFT = (1.0, 0.25, 0.0, 0.9, 0.5, 1e-6)
WEIGHTS = (2.0, 0.5, 0.0, 1.25, 3.0, 0.1, 7.0)
POS_WEIGHTS = (3.0, 0.25, 20.0, 1.0, 0.0)
COTANGENTS = (1.0, -0.5, 2.0, 0.75, -3.0)
DIRECTIONS = (1.0, -2.0, 0.5, 3.0)

CLASS_LOGITS = (0.5, -1.0, 2.5, 0.0, -0.1, 1.25, -4.0, 0.3, 8.0, -2.0, 1e-6)
# Rows of three classes: ties, near-ties, classes that are next to sure, and differences on top of a large number.
CLASS_ROWS = (
    (0.0, 0.0, 0.0),
    (1e-6, -1e-6, 0.0),
    (2.5, -1.0, 0.3),
    (-4.0, 8.0, 8.0),
    (16.0, -12.0, 0.1),
    (0.0, 30.0, -17.5),
    (88.0, -104.0, 87.0),
    (1e4, -1e4, 9999.0),
)
# Logits beyond the largest float32 apart, and impossible classes; the label of each is a class that is possible.
INFINITE_ROWS = (
    (3e38, -3e38, 0.0),
    (0.0, -np.inf, 1.0),
    (-np.inf, -np.inf, 2.0),
    (-np.inf, 1.0, -1.0),
    (5.0, 5.0, -np.inf),
)
INFINITE_INDICES = (2, 0, 2, 1, 1)
# They need not add up to 1.
CLASS_PROBS = ((1.0, 0.0, 0.0), (0.25, 0.5, 0.25), (1e-6, 0.9, 0.1), (0.5, 1.0, 0.3), (0.0, 0.0, 0.0))
CLASS_INDICES = (2, 0, 1, 1, 0, 2, 1)

# The derivative of the gradient with respect to predictions, by what it is taken with respect to.
SECOND = {"predictions": "d2_predictions", "labels": "d2_predictions_labels"}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One call of one function, all of whose arguments are NumPy arrays or Python values.

    `predictions` may be float16 or bfloat16, labels that are class indices are integers, and every other array is in
    the dtype of the computation. `cotangent` has the shape of the result and multiplies it before it is differentiated,
    so that no upstream gradient is left at 1. `direction` does so to the gradient with respect to predictions before it
    is differentiated again: the plain sum of it is 0 over classes.
    """

    name: str
    function: str
    predictions: np.ndarray
    labels: np.ndarray
    pos_weight: np.ndarray | None = None
    weight: np.ndarray | None = None
    class_weight: np.ndarray | None = None
    label_smoothing: float = 0.0
    where: np.ndarray | None = None
    axis: int | tuple[int, ...] | None = None
    reduction: str = "mean"
    class_axis: int | None = None  # None where predictions are binary.
    ignore_index: int = -100

    @property
    def dtype(self) -> np.dtype:
        """What is computed in."""
        return np.dtype(np.float64 if self.predictions.dtype == np.float64 else np.float32)

    @property
    def indices(self) -> bool:
        """Whether the labels are class indices."""
        return self.labels.dtype.kind in "iu"

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The arguments that are weights, by name; those that were not given are left out."""
        given = {"pos_weight": self.pos_weight, "weight": self.weight, "class_weight": self.class_weight}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def data(self) -> dict[str, np.ndarray]:
        """The other arguments that are differentiable."""
        return {"predictions": self.predictions} | ({} if self.indices else {"labels": self.labels})

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that are not."""
        indices = {"labels": self.labels} if self.indices else {}
        return indices if self.where is None else indices | {"where": self.where}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are Python values."""
        options = {"label_smoothing": self.label_smoothing, "axis": self.axis, "reduction": self.reduction}
        if self.class_axis is None:
            return options
        return options | {"class_axis": self.class_axis, "ignore_index": self.ignore_index}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What is compared, with its shape; second derivatives before reduction alone, for a reduction is linear."""
        data = {name: value.shape for name, value in self.data.items()}
        first = data | {name: value.shape for name, value in self.weights.items()}
        shapes = {"loss": self.result_shape} | {f"d_{name}": shape for name, shape in first.items()}
        if self.reduction == "none":
            shapes |= {SECOND[name]: shape for name, shape in data.items()}
        return shapes

    @property
    def cotangent(self) -> np.ndarray:
        return np.resize(np.array(COTANGENTS, self.dtype), self.result_shape)

    @property
    def direction(self) -> np.ndarray:
        return np.resize(np.array(DIRECTIONS, self.dtype), self.predictions.shape)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """The shape of the losses before they are reduced."""
        shape = self.predictions.shape
        return shape if self.class_axis is None else tuple(np.delete(shape, self.class_axis).tolist())

    @property
    def result_shape(self) -> tuple[int, ...]:
        shape = self.loss_shape
        if self.reduction == "none":
            return shape
        axes = range(len(shape)) if self.axis is None else np.atleast_1d(self.axis) % len(shape)
        return tuple(n for a, n in enumerate(shape) if a not in axes)


# --- Pieces of a case ---------------------------------------------------------------------------------------------

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": jnp.bfloat16}
LABELS = {"hard": HARD, "soft": SOFT}
REDUCTIONS = ("none", "mean", "sum", "weighted_mean")
WEIGHT_SHAPES = ("absent", "scalar", "class", "example", "full")
SHAPES = ((), (5,), (3, 4), (2, 3, 4), (0,), (0, 3))
KINDS = ("indices", "probabilities")
# PyTorch's layout: the classes are axis 1, and axis 0 of logits that have no other.
CLASS_SHAPES = ((4, 3), (2, 3, 2), (1, 3, 2, 2))
OTHER_CLASS_SHAPES = ((3,), (2, 1), (0, 3), (2, 3, 0))
# PyTorch takes the first two; `reference` gives it the others as int64.
INDEX_DTYPES = (np.int64, np.uint8, np.int8, np.int16, np.int32, np.uint32)


def _compute_dtype(dtype: str) -> type[np.floating]:
    return np.float64 if dtype == "float64" else np.float32


def _fill(numbers: tuple[float, ...], shape: tuple[int, ...], dtype: Any, start: int = 0) -> np.ndarray:
    return np.resize(np.roll(np.array(numbers, np.float64), -start), shape).astype(dtype)


def _predictions(function: str, shape: tuple[int, ...], dtype: str, start: int = 0) -> np.ndarray:
    return _fill(LOGITS if function == "logits" else PROBS, shape, DTYPES[dtype], start)


def _weight(numbers: tuple[float, ...], at: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    shapes = {"absent": None, "scalar": (), "class": shape[-1:], "example": (*shape[:-1], 1), "full": shape}
    return None if shapes[at] is None else _fill(numbers, shapes[at], _compute_dtype(dtype))


def _classes(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    dtype: str = "float32",
    *,
    start: int = 0,
    class_axis: int | None = None,
    index_dtype: type[np.integer] = np.int64,
    ignored: bool = False,
    weighted: bool = False,
    **arguments: Any,
) -> Case:
    """A case of classes, in PyTorch's layout if nothing else is said; `ignored` hides every third label."""
    class_axis = min(1, len(shape) - 1) if class_axis is None else class_axis
    entries = tuple(np.delete(shape, class_axis).tolist())
    compute = _compute_dtype(dtype)
    if kind == "indices":
        labels = np.resize(np.roll(CLASS_INDICES, -start) % shape[class_axis], entries).astype(index_dtype)
        if ignored:
            hidden = np.resize([True, False, False], entries)
            labels = np.where(hidden, arguments.get("ignore_index", -100), labels).astype(index_dtype)
    else:
        labels = np.resize(np.roll(np.ravel(CLASS_PROBS), -start), shape).astype(compute)
    given: dict[str, Any] = {
        "predictions": _fill(CLASS_LOGITS, shape, DTYPES[dtype], start),
        "labels": labels,
        "class_weight": _fill(WEIGHTS, shape[class_axis : class_axis + 1], compute) if weighted else None,
    }
    return Case(f"classes-{kind}-{name}", "classes", class_axis=class_axis, **given | arguments)


# --- The grid -----------------------------------------------------------------------------------------------------


def _every_value() -> Iterator[Case]:
    """Every prediction against every label; for the dtypes that are computed in, also with both weights."""
    for function, numbers in (("logits", LOGITS), ("probs", PROBS + EXTREME_PROBS)):
        for dtype in ("float32", "float64"):
            yield _outer(function, numbers, SOFT, dtype, at="absent", pos_at="absent")
            yield _outer(function, numbers, SOFT, dtype, at="example", pos_at="class")
    for dtype in ("float16", "bfloat16"):
        yield _outer("logits", LOGITS, SOFT[:3], dtype, at="absent", pos_at="absent")


def _outer(
    function: str, predictions: tuple[float, ...], labels: tuple[float, ...], dtype: str, at: str, pos_at: str
) -> Case:
    shape = (len(predictions), len(labels))
    return Case(
        f"{function}-{dtype}-every value-weight {at}-pos_weight {pos_at}",
        function,
        np.broadcast_to(np.array(predictions)[:, None], shape).astype(DTYPES[dtype]),
        np.broadcast_to(np.array(labels), shape).astype(_compute_dtype(dtype)),
        weight=_weight(WEIGHTS, at, shape, dtype),
        pos_weight=_weight(POS_WEIGHTS, pos_at, shape, dtype),
        reduction="none",
    )


def _every_shape() -> Iterator[Case]:
    """Every shape, under every reduction, with hard and with soft labels."""
    for function in ("logits", "probs"):
        for shape in SHAPES:
            for reduction in ("none", "mean", "sum"):
                for kind, labels in LABELS.items():
                    yield Case(
                        f"{function}-shape {shape}-{kind} labels-{reduction}",
                        function,
                        _predictions(function, shape, "float32", start=2),
                        _fill(labels, shape, np.float32),
                        reduction=reduction,
                    )


def _every_weight() -> Iterator[Case]:
    """Every shape of `weight` against every shape of `pos_weight`, under reductions taken in turn."""
    every = [(at, pos_at) for at in WEIGHT_SHAPES for pos_at in WEIGHT_SHAPES][1:]  # All but "absent" twice.
    scalars = [("absent", "scalar"), ("scalar", "absent"), ("scalar", "scalar")]
    some = [("class", "example"), ("example", "class"), ("full", "absent"), ("absent", "full")]
    plan = (
        ("float32", (3, 4), every),
        ("float32", (), scalars),
        ("float32", (2, 3, 4), some[:2]),
        ("float64", (3, 4), some),
    )
    for function in ("logits", "probs"):
        for dtype, shape, pairs in plan:
            for turn, (at, pos_at) in enumerate(pairs):
                reduction = REDUCTIONS[turn % 4]
                yield Case(
                    f"{function}-{dtype}-shape {shape}-weight {at}-pos_weight {pos_at}-{reduction}",
                    function,
                    _predictions(function, shape, dtype, start=turn),
                    _fill(SOFT, shape, _compute_dtype(dtype), start=turn),
                    weight=_weight(WEIGHTS, at, shape, dtype),
                    pos_weight=_weight(POS_WEIGHTS, pos_at, shape, dtype),
                    reduction=reduction,
                )


def _every_option() -> Iterator[Case]:
    """What PyTorch has no argument for: `where`, `label_smoothing`, `axis`, "weighted_mean", a scalar label."""
    shape = (3, 4)
    holes = np.array([[1, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1]], bool)
    rows = np.array([[True], [False], [True]])
    columns = np.array([True, False, True, True])
    for function in ("logits", "probs"):
        predictions = _predictions(function, shape, "float32", start=1)
        labels = _fill(SOFT, shape, np.float32)
        weights = {
            "weight": _weight(WEIGHTS, "full", shape, "float32"),
            "pos_weight": _weight(POS_WEIGHTS, "class", shape, "float32"),
        }
        plain = {"predictions": predictions, "labels": labels}
        # What the mask hides is as bad as it gets.
        hidden = {
            "predictions": np.where(holes, predictions, np.float32(np.nan)),
            "labels": np.where(holes, labels, np.float32(-1)),
            "where": holes,
        }
        means = ("mean", "weighted_mean")
        variants = {
            "no option": (plain, ("weighted_mean",)),
            "where": (hidden, REDUCTIONS),
            "where, weights": (hidden | weights, REDUCTIONS),
            "where of rows": (plain | {"where": rows}, ("mean",)),
            "where of columns, weights": (plain | {"where": columns} | weights, means),
            "smoothing": (plain | {"label_smoothing": 0.1}, ("none", "mean")),
            "smoothing to 1/2, weights": (plain | {"label_smoothing": 1.0} | weights, ("none", "sum")),
            "smoothing, where, weights": (hidden | {"label_smoothing": 0.25} | weights, ("none", "weighted_mean")),
            "scalar label": (plain | {"labels": np.float32(1)}, ("none", "mean")),
            "scalar label, weights": (plain | {"labels": np.float32(0.25)} | weights, ("sum", "weighted_mean")),
            "axis -1": (plain | {"axis": -1}, ("mean", "sum")),
            "axis 0, weights": (plain | {"axis": 0} | weights, means),
            "axes 0 and 1, where, weights": (hidden | {"axis": (0, 1)} | weights, ("mean",)),
            "axis 1, where": (hidden | {"axis": 1}, ("mean", "sum")),
        }
        for name, (arguments, reductions) in variants.items():
            for reduction in reductions:
                yield Case(f"{function}-{name}-{reduction}", function, **arguments, reduction=reduction)


def _every_class_value() -> Iterator[Case]:
    """Every row of logits against every class and against every row of probabilities."""
    options = {"plain": {}, "weights, smoothing": {"weighted": True, "label_smoothing": 0.1}}
    rows, indices = np.repeat(CLASS_ROWS, 3, axis=0), np.tile(np.arange(3), len(CLASS_ROWS))
    for dtype in DTYPES:
        for name, given in options.items() if _compute_dtype(dtype) is DTYPES[dtype] else [("plain", {})]:
            yield _values("every value", "indices", rows, indices, dtype, name, **given)
    rows, probs = np.repeat(CLASS_ROWS, len(CLASS_PROBS), axis=0), np.tile(CLASS_PROBS, (len(CLASS_ROWS), 1))
    for dtype, names in (("float32", options), ("float64", ["plain"])):
        for name in names:
            yield _values("every value", "probabilities", rows, probs.astype(dtype), dtype, name, **options[name])
    for dtype in ("float32", "float64"):
        yield _values("infinite", "indices", np.array(INFINITE_ROWS), np.array(INFINITE_INDICES), dtype, "plain")


def _values(
    values: str, kind: str, rows: np.ndarray, labels: np.ndarray, dtype: str, options: str, **given: Any
) -> Case:
    name = f"{dtype}-{values}-{options}"
    predictions = rows.astype(DTYPES[dtype])
    return _classes(name, kind, rows.shape, dtype, predictions=predictions, labels=labels, reduction="none", **given)


def _every_class_sample() -> Iterator[Case]:
    """The calls of PyTorch's own samples (`sample_inputs_cross_entropy`), whose class weights may be negative there."""
    for kind in KINDS:
        for shape in ((2, 3, 1), (2, 3, 1, 2), (2, 3, 1, 2, 3)):
            yield _classes(f"sample {shape}-mean", kind, shape)
        for weighted in (False, True):
            for reduction in ("mean", "sum", "none"):
                name = f"sample-weight {'given' if weighted else 'absent'}-{reduction}"
                yield _classes(name, kind, (2, 3), weighted=weighted, reduction=reduction)
    yield _classes("sample-ignore_index 1-mean", "indices", (2, 3), start=1, ignore_index=1)


def _every_class_option() -> Iterator[Case]:
    """What PyTorch has no argument for: `where`, `class_axis`, `axis`, "weighted_mean", a scalar index."""
    shape = (2, 3, 4)
    holes = np.array([[1, 1, 0, 1], [0, 0, 1, 1]], bool)
    for kind in KINDS:
        plain = _classes("", kind, shape)
        entries = holes if kind == "indices" else holes[:, None]
        # What the mask hides is as bad as it gets.
        hidden = {
            "predictions": np.where(holes[:, None], plain.predictions, np.float32(np.nan)),
            "labels": np.where(entries, plain.labels, plain.labels.dtype.type(-1)),
            "where": holes,
        }
        every = {"weighted": True, "label_smoothing": 0.1}
        variants: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
            "where": (hidden, ("mean",)),
            "where, weights, smoothing": (hidden | every, ("none", "mean", "weighted_mean")),
            "where of columns": ({"where": holes[0]}, ("mean",)),
            "weights": ({"weighted": True}, ("weighted_mean",)),
            "axis -1, weights": ({"axis": -1, "weighted": True}, ("mean", "sum")),
            "axis 0, where": (hidden | {"axis": 0}, ("mean",)),
            "axes 0 and 1, weights, smoothing": ({"axis": (0, 1)} | every, ("weighted_mean",)),
        }
        if kind == "indices":
            variants |= {
                "where, ignored": ({"where": holes, "ignored": True}, ("mean",)),
                "scalar index": ({"labels": np.array(1)}, ("none",)),
            }
        for name, (arguments, reductions) in variants.items():
            for reduction in reductions:
                yield _classes(f"{name}-{reduction}", kind, shape, reduction=reduction, **arguments)
        for class_axis in (0, 2):
            yield _classes(f"class axis {class_axis}", kind, (3, 2, 3), class_axis=class_axis, weighted=True)


def _every_class_combination() -> Iterator[Case]:
    """Every combination of PyTorch's options in both dtypes, over shapes and dtypes of indices taken in turn."""
    ignoring: dict[str, dict[str, Any]] = {
        "none ignored": {},
        "-100 ignored": {"ignored": True},
        "class 1 ignored": {"ignore_index": 1},
    }
    for kind, ignored in (("indices", ignoring), ("probabilities", ["none ignored"])):
        every = itertools.product((0.0, 0.1, 0.5, 1.0), (False, True), ignored, ("none", "mean", "sum"))
        for turn, (smoothing, weighted, hide, reduction) in enumerate(every):
            for dtype in ("float32", "float64"):
                # No option steps together with the shapes.
                shape = CLASS_SHAPES[(turn + turn // 3 + turn // 9 + (dtype == "float64")) % 3]
                weights = "given" if weighted else "absent"
                yield _classes(
                    f"{dtype}-shape {shape}-smoothing {smoothing}-weight {weights}-{hide}-{reduction}",
                    kind,
                    shape,
                    dtype,
                    start=turn % 5,
                    # uint8 and uint32 do not hold -100.
                    index_dtype=INDEX_DTYPES[2 + turn % 3] if dtype == "float64" else np.int64,
                    label_smoothing=smoothing,
                    weighted=weighted,
                    reduction=reduction,
                    **ignoring[hide],
                )


def _every_class_shape() -> Iterator[Case]:
    """Every other shape under every reduction, and every other dtype of logits and of indices."""
    every: dict[str, Any] = {"weighted": True, "label_smoothing": 0.1, "start": 1}
    for kind in KINDS:
        for reduction in ("none", "mean", "sum"):
            for shape in OTHER_CLASS_SHAPES:
                yield _classes(f"shape {shape}-{reduction}", kind, shape, reduction=reduction)
            name = f"float64-shape (3,)-weights, smoothing-{reduction}"
            yield _classes(name, kind, (3,), "float64", reduction=reduction, **every)
        for dtype in ("float16", "bfloat16"):
            yield _classes(f"{dtype}-weights, smoothing-mean", kind, (4, 3), dtype, **every)
    for reduction in ("none", "sum"):  # The mean of no entry is a difference.
        yield _classes(f"shape (3,)-ignored-{reduction}", "indices", (3,), ignored=True, reduction=reduction)
    for dtype in INDEX_DTYPES:
        name = f"indices of {dtype.__name__}"
        yield _classes(name, "indices", (4, 3), index_dtype=dtype, weighted=True)
        most = np.iinfo(dtype).max
        yield _classes(f"{name}-{most} ignored", "indices", (4, 3), index_dtype=dtype, ignored=True, ignore_index=most)


def _cases(*parts: Callable[[], Iterator[Case]]) -> tuple[Case, ...]:
    return tuple(case for part in parts for case in part())


# What is recorded, and compared live as well.
GRID = _cases(
    _every_value,
    _every_shape,
    _every_weight,
    _every_option,
    _every_class_value,
    _every_class_sample,
    _every_class_option,
)
# What is compared live alone: too much to record.
COMBINATIONS = _cases(_every_class_combination, _every_class_shape)
