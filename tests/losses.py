"""THE table of losses: one row per loss, and every law in test_laws.py holds for every row that can satisfy it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from tests import oracle


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that `jit` takes it
class Loss:
    """A public loss, the arguments that it takes, and its naive definition with first and second derivative.

    Attributes:
        function: the public function.
        draw: predictions inside the domain, away from where float32 could not resolve them.
        extremes: the ends of the domain, where values and derivatives must still be numbers.
        definition: naive loss, slope and curvature of (predictions, labels, pos_weight).
        bound: parameters of its own that the row gives to the function.
        adapter: the function as one of (predictions, labels), where it is not one.
        form: what tells two rows of one function apart, beside `bound`.
        lacks: options of the function that the adapter cannot pass on.
        labels: "soft"; "hard", 0 or 1 and without a derivative; or "pairs", the identity matrix.
        each: the losses that "none" gives: "entry" or "example", the sum over the last axis.
    """

    function: Callable
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    extremes: tuple[float, ...]
    definition: tuple[Callable, Callable, Callable]
    bound: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapter: Callable | None = None
    form: str = ""
    lacks: tuple[str, ...] = ()
    labels: str = "soft"
    each: str = "entry"

    @property
    def name(self) -> str:
        parts = [self.function.__name__, self.form, *(f"{k}={v}" for k, v in self.bound.items())]
        return "-".join(filter(None, parts))

    @property
    def shape(self) -> tuple[int, int]:
        """A shape of predictions."""
        return (4, 4) if self.labels == "pairs" else (4, 5)

    def draw_labels(self, rng, shape):
        if self.labels == "pairs":
            return np.eye(*shape)
        return rng.choice([0, 1, 0.25, 0.9] if self.labels == "soft" else [0, 1], shape)

    def takes(self, option: str) -> bool:
        parameters = inspect.signature(self.function).parameters
        return option == "labels" or (option in parameters and option not in self.lacks)

    def __call__(self, *data, **options):
        """The loss; of the common options those that it has."""
        return (self.adapter or self.function)(*data, **self.bound, **self.known(options))

    def expected(self, x, y, *, pos_weight=None, label_smoothing=0.0, reduction="mean", **options):
        """The naive definition of a whole call."""
        losses, options = self.entries(0, x, y, pos_weight, label_smoothing), self.known(options)
        if reduction == "none" and self.each == "example":
            return oracle.reduce(losses, **options, axis=-1, reduction="sum")
        return oracle.reduce(losses, **options, reduction=reduction)

    def entries(self, order, x, y, pos_weight=None, label_smoothing=0.0):
        """The naive loss of each entry, or its first or second derivative."""
        s = label_smoothing if self.takes("label_smoothing") else 0.0
        y = np.asarray(y, np.float64) * (1 - s) + s / 2
        w = np.float64(1) if pos_weight is None or not self.takes("pos_weight") else np.asarray(pos_weight, np.float64)
        return self.definition[order](np.asarray(x, np.float64), np.broadcast_to(y, np.shape(x)), w)

    def known(self, options):
        """Those of the options that the loss has."""
        return {k: v for k, v in options.items() if self.takes(k)}


def two_classes(x, labels, **options):
    """`cross_entropy` on the logits [0, x] and the class probabilities [1 - y, y]."""
    x = jnp.asarray(x)
    y = jnp.broadcast_to(jnp.asarray(labels, jnp.float64 if x.dtype == jnp.float64 else jnp.float32), x.shape)
    return jaxbce.cross_entropy(jnp.stack([jnp.zeros_like(x), x], -1), jnp.stack([1 - y, y], -1), **options)


def two_indices(x, labels, **options):
    """The same, of labels as class indices."""
    x = jnp.asarray(x)
    t = jnp.broadcast_to(jnp.asarray(labels), x.shape).astype(jnp.int32)
    return jaxbce.cross_entropy(jnp.stack([jnp.zeros_like(x), x], -1), t, **options)


def on(y, x):
    """Where a hard label is 1, in the shape of x."""
    return jnp.broadcast_to(jnp.asarray(y).astype(jnp.float32) > 0.5, jnp.shape(x))


def indices(x, labels, **options):
    """`sparse_binary_cross_entropy_with_logits` of the indices of the labels that are 1."""
    x = jnp.asarray(x)
    rows = jnp.atleast_1d(x)
    positives = jnp.where(on(labels, rows), jnp.arange(rows.shape[-1]), -1)
    loss = jaxbce.sparse_binary_cross_entropy_with_logits(rows, positives, **options)
    return loss.reshape(x.shape) if options.get("reduction") == "none" else loss


def identity_head(x, labels, **options):
    """`linear_binary_cross_entropy` of the features x and the identity as kernel."""
    x = jnp.atleast_2d(jnp.asarray(x))
    kernel, labels = jnp.eye(x.shape[1], dtype=x.dtype), jnp.broadcast_to(jnp.asarray(labels), x.shape)
    return jaxbce.linear_binary_cross_entropy(x, kernel, labels, chunk_size=2, **options)


def pairs(x, labels, *, reduction="mean"):
    """`sigmoid_contrastive_loss` of the logits x: the features of its columns are the unit vectors."""
    del labels
    x = jnp.atleast_2d(jnp.asarray(x))
    unit = jnp.eye(len(x), dtype=x.dtype)
    options = {"logit_scale": 1.0, "logit_bias": 0.0, "tile_size": 3, "reduction": reduction}
    loss = jaxbce.sigmoid_contrastive_loss(x, unit, **options)
    # Its mean is per example.
    return loss if reduction in ("none", "sum") else loss / len(x)


def against(x, labels):
    """Logits whose label is 1 and logits whose label is 0: in the place of the others, a certain and right one."""
    x = jnp.asarray(x)
    is_real = on(labels, x)
    return jnp.where(is_real, x, jnp.inf), jnp.where(is_real, -jnp.inf, x)


def discriminator(x, labels, **options):
    return jaxbce.gan_discriminator_loss(*against(x, labels), **options)


def generator(x, labels, **options):
    """The non-saturating form where the label is 1, and minus the saturating one where it is 0."""
    real, fake = against(x, labels)
    return jaxbce.gan_generator_loss(real, **options) - jaxbce.gan_generator_loss(fake, saturating=True, **options)


LOGITS = {
    "draw": lambda rng, shape: rng.normal(0, 6, shape),
    "extremes": (-np.inf, -1e38, -1e4, -88.0, -17.0, -1e-30, -0.0, 0.0, 1e-30, 17.0, 88.0, 1e4, 1e38, np.inf),
}
logit_row = functools.partial(Loss, **LOGITS)
bce_row = functools.partial(logit_row, definition=(oracle.logit_loss, oracle.logit_slope, oracle.logit_curvature))
FINITE = {"extremes": tuple(x for x in LOGITS["extremes"] if np.isfinite(x))}
"""Of logits that products make: inf times 0 is NaN in a product."""

LOSSES = [
    bce_row(function=jaxbce.binary_cross_entropy_with_logits),
    Loss(
        function=jaxbce.binary_cross_entropy,
        draw=lambda rng, shape: rng.integers(1, 1023, shape) / 1024,  # so that 1 - p is exact too
        extremes=(0.0, 2e-38, 1e-20, 1e-7, 0.5, 1 - 2.0**-24, 1.0),
        definition=(oracle.prob_loss, oracle.prob_slope, oracle.prob_curvature),
    ),
    bce_row(function=jaxbce.cross_entropy, adapter=two_classes),
    bce_row(function=jaxbce.cross_entropy, adapter=two_indices, form="indices", labels="hard"),
    logit_row(function=jaxbce.sigmoid_focal_loss, definition=oracle.focal(2.0)),
    logit_row(
        function=jaxbce.sigmoid_focal_loss, definition=oracle.focal(0.5, 0.25), bound={"gamma": 0.5, "alpha": 0.25}
    ),
    logit_row(function=jaxbce.asymmetric_loss, definition=oracle.asymmetric(1.0, 4.0, 0.05)),
    logit_row(
        function=jaxbce.asymmetric_loss,
        definition=oracle.asymmetric(0.0, 1.5, 0.0),
        bound={"gamma_pos": 0.0, "gamma_neg": 1.5, "margin": 0.0},
    ),
    bce_row(function=jaxbce.sparse_binary_cross_entropy_with_logits, adapter=indices, labels="hard"),
    bce_row(function=jaxbce.gan_discriminator_loss, adapter=discriminator, labels="hard", lacks=("label_smoothing",)),
    bce_row(function=jaxbce.gan_generator_loss, adapter=generator, labels="hard"),
    bce_row(function=jaxbce.linear_binary_cross_entropy, adapter=identity_head, each="example", **FINITE),
    bce_row(function=jaxbce.sigmoid_contrastive_loss, adapter=pairs, labels="pairs", each="example", **FINITE),
]

FUNCTIONS = [row for row in LOSSES if not row.bound]
"""One row per function and form of labels: for laws about what the functions share."""

ENTRYWISE = [row for row in FUNCTIONS if row.each == "entry"]
"""Those whose "none" is the loss of each entry, in which a NaN stays where it is."""

FAMILIES = [row for row in ENTRYWISE if row.labels == "soft"]
"""Those of any labels."""

BINARY = [row for row in FAMILIES if row.adapter is None]
"""The functions of (predictions, labels) of one shape."""


def each_of(rows):
    """A test for each of these rows; CI runs those that differ from another row in parameters or labels alone."""
    kin = [jaxbce.sparse_binary_cross_entropy_with_logits, jaxbce.gan_discriminator_loss, jaxbce.gan_generator_loss]
    params = [
        pytest.param(row, marks=[pytest.mark.slow] if row.bound or row.function in kin else [], id=row.name)
        for row in rows
    ]
    return pytest.mark.parametrize("row", params)
