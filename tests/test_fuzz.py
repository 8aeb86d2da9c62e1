"""Calls drawn at random are right, or refused. A few here; as many as there is time for by

python -m tests.test_fuzz --minutes 10
"""

import argparse
import secrets
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import tests.conftest  # noqa: F401  # sets JAX up where there is no pytest to do it
from tests.calls import Call, every_call

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


test_calls_are_right_or_refused = settings(
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
