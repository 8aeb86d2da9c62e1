"""Every public name under every setting of JAX that changes how it is traced, compiled, checked or run.

A setting that can only refuse leaves the program as it is: what XLA is given must then be the same to the letter, and
so are the numbers. Under the others the numbers are compared.
"""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from tests import oracle
from tests.losses import BINARY, FAMILIES, each_of
from tests.settings import DEFAULTS, configured
from tests.test_public import PUBLIC

pytestmark = pytest.mark.slow

# The third row is masked.
LOGITS = np.array([[2.0, -1.0, 0.5], [0.5, 3.0, -4.0], [np.nan] * 3, [-4.0, 0.0, 1.0]])
PROBS = 1 / (1 + np.exp(-LOGITS))
LABELS = np.array([[1, 0, 0], [0, 1, 0], [-7, 7, 1], [0, 1, 1]])
CLASSES = np.array([2, 0, 77, -100])
ROWS = np.array([True, True, False, True])
MASK = ROWS[:, None]
FINITE = np.where(MASK, LOGITS, 0.25)
WEIGHTS = (0.5, 1.0, 2.0)
OPTIONS = {"pos_weight": 3.0, "weight": WEIGHTS, "label_smoothing": 0.1, "where": MASK}


def logit_criteria(x):
    bound = jaxbce.BCEWithLogitsLoss(pos_weight=jnp.ones(3, x.dtype), label_smoothing=0.1)(x, LABELS, where=MASK)
    return bound + jaxbce.CrossEntropyLoss(class_weight=WEIGHTS)(x, CLASSES, where=ROWS)


def probability_criterion(x):
    return jaxbce.BCELoss(weight=WEIGHTS)(x, LABELS, where=MASK)


def balanced(x):
    """Weights from data, under two losses."""
    pos_weight = jaxbce.pos_weight_from_labels(LABELS, where=MASK, max_weight=10)
    class_weight = jaxbce.class_weight_from_counts([5, 1, 0], beta=0.9)
    loss = jaxbce.binary_cross_entropy_with_logits(x, LABELS, pos_weight=pos_weight, where=MASK)
    return loss + jaxbce.cross_entropy(x, CLASSES, class_weight=class_weight, where=ROWS)


def average(x):
    losses = jaxbce.binary_cross_entropy_with_logits(x, LABELS, where=MASK, reduction="none")
    first = jaxbce.Average.of(x[:1], where=[[True, False, True]])
    return (jaxbce.Average.of(losses, weight=WEIGHTS, where=MASK) + first).value


def linear(x):
    """A head of four labels, in chunks of which the last is shorter."""
    kernel, bias = jnp.asarray(FINITE.T, x.dtype), np.arange(4, dtype=np.float32)
    positives = np.array([[0, 3], [1, 1], [2, -1], [-1, -1]])
    return jaxbce.linear_binary_cross_entropy(x, kernel, positives=positives, bias=bias, weight=2, chunk_size=3)


def contrastive(x):
    scale, bias = jnp.asarray(2, x.dtype), -1.0
    return jaxbce.sigmoid_contrastive_loss(x, 2 * x[::-1], logit_scale=scale, logit_bias=bias, tile_size=2)


def class_indices(x):
    return jaxbce.cross_entropy(x, CLASSES, class_weight=WEIGHTS, label_smoothing=0.1, where=ROWS)


def class_probabilities(x):
    return jaxbce.cross_entropy(x, LABELS, class_weight=WEIGHTS, label_smoothing=0.1, where=ROWS)


def sparse(x):
    positives = np.array([[0, -1], [1, 1], [77, 5], [2, 1]])
    return jaxbce.sparse_binary_cross_entropy_with_logits(x, positives, **OPTIONS)


def adversarial(x):
    discriminator = jaxbce.gan_discriminator_loss(x, -x, label_smoothing=0.1)
    return discriminator + jaxbce.gan_generator_loss(x) + jaxbce.gan_generator_loss(2 * x, saturating=True)


def binary(row):
    def loss(x):
        return row(x, LABELS, **OPTIONS)

    loss.__name__ = row.name
    return loss


# Functions of predictions, and what these are.
LOSSES = {
    logit_criteria: LOGITS,
    probability_criterion: PROBS,
    balanced: LOGITS,
    average: LOGITS,
    class_indices: LOGITS,
    sparse: LOGITS,
    linear: FINITE,
    contrastive: FINITE,
    adversarial: FINITE,
}
# Those that are differentiated twice.
TWICE = {binary(row): PROBS if row.function is jaxbce.binary_cross_entropy else LOGITS for row in BINARY}
TWICE[class_probabilities] = LOGITS


def first(predictions):
    """The value and gradient of every function."""
    return [jax.value_and_grad(loss)(x) for loss, x in zip((*LOSSES, *TWICE), predictions, strict=True)]


@jax.jit
def derivatives(predictions):
    """The same, compiled, and of some a product with the Hessian."""

    def hvp(loss, x):
        return jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1]

    twice = zip(TWICE, predictions[len(LOSSES) :], strict=True)
    return first(predictions), [hvp(loss, x) for loss, x in twice]


def predictions(dtype):
    return [jnp.asarray(x, dtype) for x in (LOSSES | TWICE).values()]


# What may refuse, and what is about other things: what is computed is the same under all of it.
SETTINGS = {
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_explicit_x64_dtypes": "error",
    "jax_check_static_indices": True,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_legacy_prng_key": "error",
    "jax_enable_custom_prng": True,
    "jax_threefry_partitionable": not jax.config.jax_threefry_partitionable,
    "jax_softmax_custom_jvp": not jax.config.jax_softmax_custom_jvp,
    "jax_use_direct_linearize": False,  # as in the oldest jax
}


@functools.cache
def lowered(dtype, x64):
    """Everything as a user has it who has set nothing else, and what it is of."""
    with configured(**DEFAULTS | {"jax_enable_x64": x64}):
        given = predictions(dtype)
        return derivatives.lower(given), given


@functools.cache
def numbers(dtype, x64):
    program, given = lowered(dtype, x64)
    with configured(**DEFAULTS | {"jax_enable_x64": x64}):
        return program.compile()(given)


def close(actual, expected, tolerance):
    assert all(np.isfinite(e).all() for e in jax.tree.leaves(expected))
    oracle.assert_close(actual, expected, tolerance)


def test_every_public_name_is_here():
    names = {name for function in LOSSES for name in function.__code__.co_names}
    assert names | {row.function.__name__ for row in BINARY} >= PUBLIC


def test_numbers_without_x64_and_with_it():
    close(numbers("float32", True), numbers("float32", False), 5e-7)
    close(numbers("float32", False), numbers("float64", True), 1e-6)


def test_compiled_calls_leave_nothing_to_debug():
    """Neither NaN, which a mask hides in places, nor infinities."""
    _, given = lowered("float32", False)
    with configured(**DEFAULTS | {"jax_debug_nans": True, "jax_debug_infs": True}):
        close(derivatives(given), numbers("float32", False), 0)


def test_eager_calls_leave_no_nan_to_debug():
    _, given = lowered("float32", False)
    with configured(**DEFAULTS | {"jax_debug_nans": True}):
        close(first(given), numbers("float32", False)[0], 2e-6)


def test_an_eager_average_leaves_no_infinity_to_debug():
    with configured(**DEFAULTS | {"jax_debug_infs": True}):
        assert jaxbce.Average.of([3.0, 1.0], weight=[1.0, 0.0]).value == 3.0


@each_of(FAMILIES)
def test_infinite_values_leave_no_nan_to_debug(row):
    x, y = jnp.float32([*row.extremes[:1], *row.extremes[-1:]] * 2), jnp.array([0, 0, 1, 1])
    with configured(jax_debug_nans=True):
        value, slope = jax.value_and_grad(functools.partial(row, reduction="sum"))(x, y)
        curvature = jax.jit(jax.hessian(functools.partial(row, pos_weight=2.0)))(x, y)
    assert value > 0
    assert not any(np.isnan(a).any() for a in (slope, curvature))


HIDDEN = pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="such a JAX reports a NaN that a mask hides")


@pytest.mark.parametrize("debug", [False, pytest.param(True, marks=HIDDEN)])
def test_calls_without_jit(debug):
    """The numbers are the same, and no operation has a NaN to debug."""
    _, given = lowered("float32", False)
    with configured(**DEFAULTS | {"jax_disable_jit": True, "jax_debug_nans": debug}):
        close(first(given), numbers("float32", False)[0], 2e-6)


@pytest.mark.parametrize(("dtype", "x64"), [("float32", False), ("bfloat16", False), ("float64", True)])
def test_the_program_is_the_same_under_other_settings(dtype, x64):
    _, given = lowered(dtype, x64)
    known = {name: value for name, value in SETTINGS.items() if hasattr(jax.config, name)}
    programs = []
    for settings in ({}, known):
        # What is traced already would not be traced again, and would have another number in its name.
        jax.clear_caches()
        with configured(**DEFAULTS | settings | {"jax_enable_x64": x64}):
            programs.append(derivatives.lower(given).as_text())
    assert programs[0] == programs[1]


@pytest.mark.parametrize("loss", [*LOSSES, *TWICE], ids=lambda loss: loss.__name__)
def test_no_tracer_leaks(loss):
    """Not from a second derivative either. One function at a time: the search takes the square of what is traced."""
    x = jnp.asarray((LOSSES | TWICE)[loss], jnp.float32)

    def both(x):
        step = jax.value_and_grad(loss)
        return jax.jvp(step, (x,), (jnp.ones_like(x),))[0] if loss in TWICE else step(x)

    # What was there before is no leak, and there is much of it to look through.
    gc.collect()
    gc.freeze()
    with jax.checking_leaks():
        value, gradient = jax.eval_shape(both, x)
    gc.unfreeze()
    assert (value.shape, gradient.shape) == ((), x.shape)


def test_leaks_are_found():
    kept = []
    with jax.checking_leaks(), pytest.raises(Exception, match="Leaked"):
        jax.eval_shape(lambda x: kept.append(x) or x, jnp.float32(1))
