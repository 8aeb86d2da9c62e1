"""THE table of losses: one row per loss, and every law in test_laws.py holds for every row."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxbce
from tests import oracle


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that `jit` takes it
class Loss:
    """A public loss, what it takes, and its naive definition with first and second derivative.

    Attributes:
        function: the public function.
        draw: predictions inside the domain, away from where float32 could not resolve them.
        extremes: the ends of the domain, where values and derivatives must still be numbers.
        definition: naive loss, slope and curvature of (predictions, labels, pos_weight).
        complement: the prediction for which label 1 - y costs what y costs for this one; None where there is none.
        bound: parameters of its own that the row gives to the function.
        adapter: the function as one of (predictions, labels), where it is not one.
    """

    function: Callable
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    extremes: tuple[float, ...]
    definition: tuple[Callable, Callable, Callable]
    complement: Callable | None = None
    bound: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapter: Callable | None = None

    @property
    def name(self) -> str:
        return "-".join([self.function.__name__, *(f"{k}={v}" for k, v in self.bound.items())])

    def takes(self, option: str) -> bool:
        return option in inspect.signature(self.adapter or self.function).parameters

    def __call__(self, *data, **options):
        """The loss; of the common options those that it has."""
        return (self.adapter or self.function)(*data, **self.bound, **self.known(options))

    def expected(self, x, y, *, pos_weight=None, label_smoothing=0.0, **reduction):
        """The naive definition of a whole call."""
        return oracle.reduce(self.entries(0, x, y, pos_weight, label_smoothing), **self.known(reduction))

    def entries(self, order, x, y, pos_weight=None, label_smoothing=0.0):
        """The naive loss of each entry, or its first or second derivative."""
        y = np.asarray(y, np.float64) * (1 - label_smoothing) + label_smoothing / 2
        w = np.float64(1) if pos_weight is None or not self.takes("pos_weight") else np.asarray(pos_weight, np.float64)
        return self.definition[order](np.asarray(x, np.float64), np.broadcast_to(y, np.shape(x)), w)

    def known(self, options):
        """Those of the options that the loss has."""
        return {k: v for k, v in options.items() if self.takes(k)}


def two_classes(x, y, *, label_smoothing=0.0, where=None, axis=None, reduction="mean"):
    """`cross_entropy` on the logits [0, x] and the class probabilities [1 - y, y]."""
    x = jnp.asarray(x)
    y = jnp.broadcast_to(jnp.asarray(y, jnp.float64 if x.dtype == jnp.float64 else jnp.float32), x.shape)
    return jaxbce.cross_entropy(
        jnp.stack([jnp.zeros_like(x), x], -1),
        jnp.stack([1 - y, y], -1),
        label_smoothing=label_smoothing,
        where=where,
        axis=axis,
        reduction=reduction,
    )


LOGITS = {
    "draw": lambda rng, shape: rng.normal(0, 6, shape),
    "extremes": (-np.inf, -1e38, -1e4, -88.0, -17.0, -1e-30, -0.0, 0.0, 1e-30, 17.0, 88.0, 1e4, 1e38, np.inf),
}
logit_row = functools.partial(Loss, **LOGITS)

LOSSES = [
    logit_row(
        function=jaxbce.binary_cross_entropy_with_logits,
        definition=(oracle.logit_loss, oracle.logit_slope, oracle.logit_curvature),
        complement=lambda x: -x,
    ),
    Loss(
        function=jaxbce.binary_cross_entropy,
        draw=lambda rng, shape: rng.integers(1, 1023, shape) / 1024,  # so that 1 - p is exact too
        extremes=(0.0, 2e-38, 1e-20, 1e-7, 0.5, 1 - 2.0**-24, 1.0),
        definition=(oracle.prob_loss, oracle.prob_slope, oracle.prob_curvature),
        complement=lambda p: 1 - p,
    ),
    logit_row(
        function=jaxbce.cross_entropy,
        definition=(oracle.logit_loss, oracle.logit_slope, oracle.logit_curvature),
        complement=lambda x: -x,
        adapter=two_classes,
    ),
    logit_row(
        function=jaxbce.sigmoid_focal_loss,
        definition=oracle.focal(2.0),
        complement=lambda x: -x,
    ),
    logit_row(
        function=jaxbce.sigmoid_focal_loss,
        definition=oracle.focal(0.5, 0.25),
        bound={"gamma": 0.5, "alpha": 0.25},
    ),
    logit_row(
        function=jaxbce.asymmetric_loss,
        definition=oracle.asymmetric(1.0, 4.0, 0.05),
    ),
    logit_row(
        function=jaxbce.asymmetric_loss,
        definition=oracle.asymmetric(0.0, 1.5, 0.0),
        bound={"gamma_pos": 0.0, "gamma_neg": 1.5, "margin": 0.0},
    ),
]

FAMILIES = [row for row in LOSSES if not row.bound]
"""One row per function: for laws about what the functions share."""

BINARY = [row for row in FAMILIES if row.adapter is None]
"""The functions of (predictions, labels) of one shape."""
