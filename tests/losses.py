"""THE table of losses: one row per loss, and every law in test_laws.py holds for every row."""

import dataclasses
from collections.abc import Callable

import numpy as np

import jaxbce
from tests import oracle


@dataclasses.dataclass(frozen=True)
class Loss:
    """A public loss, what it takes, and its naive definition with first and second derivative.

    Attributes:
        function: the public function.
        draw: predictions inside the domain, away from where float32 could not resolve them.
        extremes: the ends of the domain, where values and derivatives must still be numbers.
        loss, slope, curvature: naive definitions of (predictions, labels, pos_weight).
        complement: the prediction for which label 1 - y costs what y costs for this one.
    """

    function: Callable
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    extremes: tuple[float, ...]
    loss: Callable
    slope: Callable
    curvature: Callable
    complement: Callable

    @property
    def name(self) -> str:
        return self.function.__name__

    def expected(self, x, y, *, pos_weight=None, label_smoothing=0.0, **reduction):
        """The naive definition of a whole call."""
        return oracle.reduce(self.entries(self.loss, x, y, pos_weight, label_smoothing), **reduction)

    def entries(self, definition, x, y, pos_weight=None, label_smoothing=0.0):
        y = np.asarray(y, np.float64) * (1 - label_smoothing) + label_smoothing / 2
        w = np.float64(1) if pos_weight is None else np.asarray(pos_weight, np.float64)
        return definition(np.asarray(x, np.float64), np.broadcast_to(y, np.shape(x)), w)


LOSSES = [
    Loss(
        function=jaxbce.binary_cross_entropy_with_logits,
        draw=lambda rng, shape: rng.normal(0, 6, shape),
        extremes=(-np.inf, -1e38, -1e4, -88.0, -17.0, -1e-30, -0.0, 0.0, 1e-30, 17.0, 88.0, 1e4, 1e38, np.inf),
        loss=oracle.logit_loss,
        slope=oracle.logit_slope,
        curvature=oracle.logit_curvature,
        complement=lambda x: -x,
    ),
    Loss(
        function=jaxbce.binary_cross_entropy,
        draw=lambda rng, shape: rng.integers(1, 1023, shape) / 1024,  # so that 1 - p is exact too
        extremes=(0.0, 2e-38, 1e-20, 1e-7, 0.5, 1 - 2.0**-24, 1.0),
        loss=oracle.prob_loss,
        slope=oracle.prob_slope,
        curvature=oracle.prob_curvature,
        complement=lambda p: 1 - p,
    ),
]
