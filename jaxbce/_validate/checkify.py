"""A check that `checkify` sees and nothing else does.

`checkify.debug_check` would be the obvious tool. But its effect stays with every function that holds it, checkified
or not: `jit` then leaves its fast path (72 µs a call against 5, measured), and `jax.export` can not serialise. This
primitive is the identity on the value it guards, without an effect, until `checkify` finds it and makes it a check.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import checkify
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The one private name of JAX in this package: the table of what `checkify` does with each primitive. Under a JAX that
# has moved it, a value outside its domain is NaN and no error.
try:
    from jax._src.checkify import error_checks
except ImportError:
    error_checks = {}

_check_p = Primitive("jaxbce_check")


def checkify_check(value: Array, outside: Array, low: Array, high: Array, message: str) -> Array:
    """Return `value`; under `checkify` with `user_checks`, fail where the scalar `outside` is true.

    `message` is a format string over `low` and `high`.
    """
    result: Array = _check_p.bind(value, outside, low, high, message=message)
    return result


def _identity(value: Any, *_: Any, message: str) -> Any:
    del message
    return value


def _lower(_: Any, value: Any, *__: Any, message: str) -> Sequence[Any]:
    del message
    return [value]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, message: str) -> tuple[Any, Any]:
    return _check_p.bind(*primals, message=message), tangents[0]


def _batch(arguments: Sequence[Any], axes: Sequence[int | None], *, message: str) -> tuple[Any, int | None]:
    """Check the whole batch at once."""
    value, *facts = arguments
    reducers = (jnp.any, jnp.min, jnp.max)
    facts = [f if axis is None else r(f, axis) for r, f, axis in zip(reducers, facts, axes[1:], strict=True)]
    return _check_p.bind(value, *facts, message=message), axes[0]


def _checkify(*arguments: Any, message: str) -> tuple[Any, Any]:
    # Pass what precedes the operands (the error so far, the enabled errors, in newer versions of JAX a context) on to
    # the rule of an inner `jit`, which finds the public `check` inside.
    *context, value, outside, low, high = arguments

    @jax.jit
    def check(outside: Array, low: Array, high: Array) -> None:
        checkify.check(~outside, message, low=low, high=high)

    with jax.disable_jit(False):
        (inner,) = jax.make_jaxpr(check)(outside, low, high).eqns
    error, _ = error_checks[inner.primitive](*context, outside, low, high, **inner.params)
    return error, value


_check_p.def_impl(_identity)
_check_p.def_abstract_eval(_identity)
mlir.register_lowering(_check_p, _lower)
ad.primitive_jvps[_check_p] = _jvp
batching.primitive_batchers[_check_p] = _batch
error_checks[_check_p] = _checkify
