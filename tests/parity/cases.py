"""The grid of calls on which PyTorch and jaxbce are compared; needs neither of the two.

Every number is a literal: the grid is the same on every machine and under every version of NumPy, so that what was
recorded for a case stays the answer to that case.
"""

import dataclasses
from collections.abc import Iterator
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


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One call of one function, all of whose arguments are NumPy arrays or Python values.

    `predictions` may be float16 or bfloat16; every other array is in the dtype of the computation. `cotangent` has the
    shape of the result and multiplies it before it is differentiated, so that no upstream gradient is left at 1.
    """

    name: str
    function: str
    predictions: np.ndarray
    labels: np.ndarray
    pos_weight: np.ndarray | None = None
    weight: np.ndarray | None = None
    label_smoothing: float = 0.0
    where: np.ndarray | None = None
    axis: int | tuple[int, ...] | None = None
    reduction: str = "mean"

    @property
    def dtype(self) -> np.dtype:
        """What is computed in."""
        return self.labels.dtype

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are Python values."""
        return {"label_smoothing": self.label_smoothing, "axis": self.axis, "reduction": self.reduction}

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is compared; the second derivatives before reduction alone, for a reduction is linear."""
        first = ("loss", "d_predictions", "d_labels", *(f"d_{name}" for name in self.weights))
        return (*first, "d2_predictions", "d2_predictions_labels") if self.reduction == "none" else first

    @property
    def cotangent(self) -> np.ndarray:
        return np.resize(np.array(COTANGENTS, self.dtype), self.result_shape)

    @property
    def result_shape(self) -> tuple[int, ...]:
        shape = self.predictions.shape
        if self.reduction == "none":
            return shape
        axes = range(len(shape)) if self.axis is None else np.atleast_1d(self.axis) % len(shape)
        return tuple(n for a, n in enumerate(shape) if a not in axes)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The arguments that are weights, by name; those that were not given are left out."""
        given = {"pos_weight": self.pos_weight, "weight": self.weight}
        return {name: value for name, value in given.items() if value is not None}


# --- Pieces of a case ---------------------------------------------------------------------------------------------

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": jnp.bfloat16}
LABELS = {"hard": HARD, "soft": SOFT}
REDUCTIONS = ("none", "mean", "sum", "weighted_mean")
WEIGHT_SHAPES = ("absent", "scalar", "class", "example", "full")
SHAPES = ((), (5,), (3, 4), (2, 3, 4), (0,), (0, 3))


def _compute_dtype(dtype: str) -> type[np.floating]:
    return np.float64 if dtype == "float64" else np.float32


def _fill(numbers: tuple[float, ...], shape: tuple[int, ...], dtype: Any, start: int = 0) -> np.ndarray:
    return np.resize(np.roll(np.array(numbers, np.float64), -start), shape).astype(dtype)


def _predictions(function: str, shape: tuple[int, ...], dtype: str, start: int = 0) -> np.ndarray:
    return _fill(LOGITS if function == "logits" else PROBS, shape, DTYPES[dtype], start)


def _weight(numbers: tuple[float, ...], at: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    shapes = {"absent": None, "scalar": (), "class": shape[-1:], "example": (*shape[:-1], 1), "full": shape}
    return None if shapes[at] is None else _fill(numbers, shapes[at], _compute_dtype(dtype))


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


GRID = tuple(case for part in (_every_value, _every_shape, _every_weight, _every_option) for case in part())
