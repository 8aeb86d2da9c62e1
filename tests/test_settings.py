"""Every public name under every setting of JAX that changes how it is traced, compiled, checked or run.

A setting that can only refuse leaves the program as it is: what XLA is given must then be the same to the letter, and
so are the numbers. Under the others the numbers are compared.
"""

import functools
import gc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from tests import oracle
from tests.calls import CALLS, draw, moved, of_moved
from tests.losses import BINARY, FAMILIES, each_of
from tests.settings import DEFAULTS, configured

pytestmark = pytest.mark.slow

# Four examples of three labels that can be read, next to numbers of Python.
BATCH = draw(4, 3)
BATCH["per_label"] = tuple(BATCH["per_label"].tolist())
EVERY = {name: call for calls in CALLS.values() for name, call in calls.items() if not re.search("each|=", name)}
"""One call of each name and kind of labels."""
TWICE = [row.name for row in BINARY] + ["cross_entropy, probabilities"]
"""Those that are differentiated twice."""


def predictions(dtype):
    return {name: moved(call, BATCH, dtype) for name, call in EVERY.items()}


def first(predictions):
    """The value and gradients of every call."""
    return {name: jax.value_and_grad(of_moved(EVERY[name], BATCH))(by) for name, by in predictions.items()}


def hvp(name, by):
    """A product with the Hessian."""
    return jax.jvp(jax.grad(of_moved(EVERY[name], BATCH)), (by,), (jax.tree.map(jnp.nan_to_num, by),))[1]


@jax.jit
def derivatives(predictions):
    """The same, compiled, and of some a product with the Hessian."""
    return first(predictions), {name: hvp(name, predictions[name]) for name in TWICE}


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


@pytest.mark.parametrize("name", EVERY)
def test_no_tracer_leaks(name):
    """Not from a second derivative either. One call at a time: the search takes the square of what is traced."""
    by = moved(EVERY[name], BATCH, jnp.float32)

    def both(by):
        step = jax.value_and_grad(of_moved(EVERY[name], BATCH))
        return jax.jvp(step, (by,), (jax.tree.map(jnp.ones_like, by),))[0] if name in TWICE else step(by)

    # What was there before is no leak, and there is much of it to look through.
    gc.collect()
    gc.freeze()
    with jax.checking_leaks():
        value, gradients = jax.eval_shape(both, by)
    gc.unfreeze()
    assert value.shape == ()
    assert {name: gradient.shape for name, gradient in gradients.items()} == {name: by[name].shape for name in by}


def test_leaks_are_found():
    kept = []
    with jax.checking_leaks(), pytest.raises(Exception, match="Leaked"):
        jax.eval_shape(lambda x: kept.append(x) or x, jnp.float32(1))
