"""Every public loss, value and gradient, lowered for every platform with symbolic sizes, and run where there is one."""

import functools
import inspect
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from tests.settings import DEFAULTS, configured

pytestmark = pytest.mark.slow

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# What a batch holds, in which n is the number of examples and c that of labels or classes.
SHAPES = {
    "logits": "n, c",
    "probs": "n, c",
    "labels": "n, c",
    "mask": "n, 1",
    "per_label": "c",
    "positives": "n, 2",
    "classes": "n",
    "scores": "n, 5",
    "kernel": "4, c",
    "x": "n, 4",
    "y": "n, 4",
    "scale": "",
}


def draw(n, c):
    """A batch in float32, int32 and bool, as users have it who have set nothing."""
    rng = np.random.default_rng(7)
    sizes = {name: eval(f"({shape},)" if shape else "()", {"n": n, "c": c}) for name, shape in SHAPES.items()}
    arrays = {name: rng.normal(0, 2, size).astype(np.float32) for name, size in sizes.items()}
    return arrays | {
        "probs": rng.uniform(0.01, 0.99, (n, c)).astype(np.float32),
        "labels": rng.integers(0, 2, (n, c), np.int32),
        "mask": np.arange(n)[:, None] != 1,
        "per_label": rng.uniform(0.5, 2.0, c).astype(np.float32),
        "positives": rng.integers(-1, c, (n, 2), np.int32),
        "classes": rng.integers(0, c, n, np.int32),
    }


def of_entries(function, predictions="logits", **options):
    """A loss of (predictions, labels) under a mask."""
    return (predictions,), lambda b: function(b[predictions], b["labels"], where=b["mask"], **options)


def criterion(kind, predictions="logits", labels="labels", weight="pos_weight"):
    return (predictions,), lambda b: kind(**{weight: b["per_label"]})(b[predictions], b[labels])


def contrastive(b, **options):
    return jaxbce.sigmoid_contrastive_loss(b["x"], b["y"], logit_scale=b["scale"], logit_bias=-1.0, **options)


def weighted(losses):
    """A number of the losses of examples, to which each contributes otherwise."""
    return jnp.vdot(losses, 1.0 + jnp.arange(losses.shape[0], dtype=losses.dtype))


# By family and name: the arrays that are differentiated, and the loss of a batch.
CALLS = {
    "entries": {
        "binary_cross_entropy_with_logits": (
            ("logits", "per_label"),
            lambda b: jaxbce.binary_cross_entropy_with_logits(
                b["logits"], b["labels"], pos_weight=b["per_label"], weight=b["mask"] + 1.0, label_smoothing=0.1
            ),
        ),
        "binary_cross_entropy": of_entries(jaxbce.binary_cross_entropy, "probs", pos_weight=2.0),
        "sigmoid_focal_loss": of_entries(jaxbce.sigmoid_focal_loss, gamma=1.5, alpha=0.25),
        "asymmetric_loss": of_entries(jaxbce.asymmetric_loss, reduction="weighted_mean"),
        "BCEWithLogitsLoss": criterion(jaxbce.BCEWithLogitsLoss),
        "BCELoss": criterion(jaxbce.BCELoss, "probs"),
        "gan_discriminator_loss": (
            ("logits", "x"),
            lambda b: jaxbce.gan_discriminator_loss(b["logits"], b["x"], label_smoothing=0.1),
        ),
        "gan_generator_loss": (("logits",), lambda b: jaxbce.gan_generator_loss(b["logits"])),
        "gan_generator_loss, saturating": (
            ("logits",),
            lambda b: jaxbce.gan_generator_loss(b["logits"], saturating=True),
        ),
    },
    "classes": {
        "cross_entropy": (("logits",), lambda b: jaxbce.cross_entropy(b["logits"], b["classes"], label_smoothing=0.1)),
        "cross_entropy, a fixed number of classes": (
            ("scores",),
            lambda b: jaxbce.cross_entropy(b["scores"], b["classes"] % 5, where=b["mask"][:, 0]),
        ),
        "cross_entropy, probabilities": (
            ("logits", "probs"),
            lambda b: jaxbce.cross_entropy(b["logits"], b["probs"], class_weight=b["per_label"]),
        ),
        "CrossEntropyLoss": criterion(jaxbce.CrossEntropyLoss, labels="classes", weight="class_weight"),
    },
    "many labels": {
        "sparse_binary_cross_entropy_with_logits": (
            ("logits",),
            lambda b: jaxbce.sparse_binary_cross_entropy_with_logits(
                b["logits"], b["positives"], pos_weight=b["per_label"]
            ),
        ),
        "linear_binary_cross_entropy": (
            ("x", "kernel"),
            lambda b: jaxbce.linear_binary_cross_entropy(
                b["x"], b["kernel"], positives=b["positives"], bias=b["per_label"], chunk_size=2
            ),
        ),
        "linear_binary_cross_entropy, each": (
            ("x", "kernel"),
            lambda b: weighted(jaxbce.linear_binary_cross_entropy(b["x"], b["kernel"], b["labels"], reduction="none")),
        ),
    },
    "pairs": {
        "sigmoid_contrastive_loss": (("x", "y", "scale"), functools.partial(contrastive, tile_size=3)),
        "sigmoid_contrastive_loss, each": (("x", "y"), lambda b: weighted(contrastive(b, reduction="none"))),
    },
}


def steps(family):
    """Value and gradients of every call of a family, of the first with bfloat16 predictions too, as one function."""
    calls, first = CALLS[family], next(iter(CALLS[family]))

    def run(batch):
        found = {}
        for name, dtype in [*((name, jnp.float32) for name in calls), (first, jnp.bfloat16)]:
            moved, loss = calls[name]
            by = {array: batch[array].astype(dtype) for array in moved}
            step = jax.value_and_grad(lambda by, loss=loss: loss({**batch, **by}))
            found[f"{name}, {dtype.__name__}"] = step(by)
        return found

    return jax.jit(run)


def agree(actual, expected, bar):
    """Equal to `bar` of the largest entry of each array; gradients in bfloat16 to one of its roundings."""
    for name in expected:
        for a, e in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(expected[name]), strict=True):
            assert (a.shape, a.dtype) == (e.shape, e.dtype), name
            most = 2.0**-7 if e.dtype == jnp.bfloat16 else bar
            a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
            assert 0 < np.max(np.abs(e)) < np.inf, name  # There is something to compare.
            np.testing.assert_allclose(a, e, rtol=0, atol=most * np.max(np.abs(e)), err_msg=name)


def test_no_public_loss_is_left_out():
    public = {name: value for name, value in vars(jaxbce).items() if not name.startswith("_")}
    losses = {name for name, value in public.items() if "reduction" in inspect.signature(value).parameters}
    assert losses == {name.split(",")[0] for calls in CALLS.values() for name in calls}
    assert len(losses) == 13


@pytest.mark.parametrize("family", CALLS)
def test_exported_for_every_platform_with_symbolic_sizes(family):
    with configured(**DEFAULTS):
        small, large = draw(2, 2), draw(8, 5)
        scope = jax.export.SymbolicScope()
        symbolic = {
            name: jax.ShapeDtypeStruct(jax.export.symbolic_shape(SHAPES[name], scope=scope), array.dtype)
            for name, array in small.items()
        }
        exported = jax.export.export(steps(family), platforms=PLATFORMS)(symbolic)
        assert exported.platforms == PLATFORMS
        # Nothing but StableHLO, which the compiler of every platform takes, and no call into a library of one.
        called = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
        assert called <= {"shape_assertion"}
        reloaded = jax.export.deserialize(exported.serialize())
        for batch in (small, large):
            agree(reloaded.call(batch), steps(family)(batch), 1e-6)


def test_exported_with_constants():
    """Masks, labels and indices that can be read, beside predictions whose sizes can not."""
    n, c = jax.export.symbolic_shape("n, c")
    known, classes, positives = np.arange(6) < 3, np.array([0, 2, 1, 3]), np.array([[0, -1], [2, 3], [1, 1], [3, -1]])
    kernel = np.ones((5, 6), np.float32)
    calls = {
        (n, 6): [
            lambda x: jaxbce.binary_cross_entropy_with_logits(x, 1, where=known),
            lambda x: jaxbce.sigmoid_focal_loss(x, True, where=True, weight=[1, 2, 3, 4, 5, 6]),
            lambda x: jaxbce.cross_entropy(x, 0, where=True),
        ],
        (4, c): [
            lambda x: jaxbce.cross_entropy(x, classes),
            lambda x: jaxbce.cross_entropy(x, 2),
            lambda x: jaxbce.sparse_binary_cross_entropy_with_logits(x, positives, where=np.ones((4, 1), bool)),
        ],
        (4, 5): [lambda x: jaxbce.linear_binary_cross_entropy(x, kernel, positives=positives)],
    }
    for shape, losses in calls.items():
        together = jax.jit(lambda x, losses=losses: [loss(x) for loss in losses])
        exported = jax.export.export(together)(jax.ShapeDtypeStruct(shape, jnp.float32))
        x = np.linspace(-3, 3, 30, dtype=np.float32)[: 20 if shape == (4, 5) else 24].reshape(4, -1)
        np.testing.assert_allclose(exported.call(x), together(x), rtol=1e-6)
    # An index that no class has is refused where the number of classes is known, and NaN where it is a symbol.
    exported = jax.export.export(jax.jit(calls[4, c][0]))(jax.ShapeDtypeStruct((4, c), jnp.float32))
    assert np.isnan(exported.call(np.ones((4, 3), np.float32)))


def test_exported_at_high_rank():
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 1, 1, 1, 1, 1, 3), jnp.float32)
    loss = functools.partial(jaxbce.binary_cross_entropy_with_logits, labels=1, axis=-1)
    exported = jax.export.export(jax.jit(loss))(shape)
    assert exported.call(jnp.ones((2, 1, 1, 1, 1, 1, 3), jnp.float32)).shape == (2, 1, 1, 1, 1, 1)


@pytest.mark.accelerator
@pytest.mark.parametrize("family", CALLS)
def test_an_accelerator_computes_what_the_cpu_does(family):
    with configured(**DEFAULTS):
        batch = draw(64, 40)
        expected = steps(family)(jax.device_put(batch, jax.devices("cpu")[0]))
        actual = steps(family)(jax.device_put(batch, jax.devices()[0]))
        agree(actual, expected, 1e-5)
