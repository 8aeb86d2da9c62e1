"""Whether the values of an argument are such as it may hold: an error at once where they can be read.

Under a transform there is nothing to read, and the same question is put to `checkify`.
"""

import functools
from collections.abc import Hashable
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._alignment import compute_dtype, shape_of, spread
from jaxbce._checks import checked
from jaxbce._domains import DOMAINS

Facts: TypeAlias = tuple[Any, Any, Any]
"""Whether an included entry breaks a rule, and the extremes of the included entries."""


class Rule(Hashable, Protocol):
    """A rule for the values of an array. It is hashed by what it says: what was compiled for it is found again."""

    def __call__(self, numpy: ModuleType, value: Any, mask: Any) -> Facts:
        """Read a value and a mask that are arrays of `numpy`, the module of that name or jax's."""


class _Within(NamedTuple):
    """Included values lie in [0, high], where `high` is finite, in the dtype that is computed in."""

    high: float
    dtype: np.dtype

    def __call__(self, numpy: ModuleType, value: Any, mask: Any) -> Facts:
        # NaN is not outside: NaN in gives NaN out.
        if value.dtype != self.dtype:
            with np.errstate(over="ignore"):
                value = value.astype(self.dtype)
        least, most = _extremes(numpy, value, mask)
        return (least < 0.0) | (most > self.high), least, most


@functools.cache
def _rule_of(name: str, dtype: np.dtype) -> _Within:
    return _Within(min(DOMAINS[name].high, float(np.finfo(dtype).max)), dtype)


def _extremes(numpy: ModuleType, value: Any, mask: Any) -> tuple[Any, Any]:
    """The least and the greatest included entry that is not NaN."""
    where = {} if mask is None else {"where": mask}
    if numpy is np:
        # What nanmin and nanmax come down to. Their wrappers take 6 µs, half as long as a small loss.
        least = np.fmin.reduce(value, None, initial=np.inf, **where)
        return least, np.fmax.reduce(value, None, initial=-np.inf, **where)
    return numpy.nanmin(value, initial=np.inf, **where), numpy.nanmax(value, initial=-np.inf, **where)


def within(
    function: str,
    name: str,
    value: Array,
    mask: Array | None,
    like: Array | jax.ShapeDtypeStruct,
    remedy: str | None = None,
) -> Array:
    """`value`, unless an entry that the mask includes leaves the domain of `name`; None is the remedy of the domain.

    The mask says which entries count once value and mask have the shape of `like`, the predictions or what stands for
    them: their dtype says which is computed in.
    """
    if value.dtype == jnp.bool_:
        return value
    domain, rule = DOMAINS[name], _rule_of(name, np.dtype(compute_dtype(like)))
    return refuse(value, mask, like, rule, f"{function}: {name} must {domain.rule}", remedy or domain.remedy)


def refuse(
    value: Array, mask: Array | None, like: Array | jax.ShapeDtypeStruct, rule: Rule, words: str, remedy: str
) -> Array:
    """`value`, unless it breaks the rule that `words` tell: refused at once or, if not readable, by `checkify`."""
    if is_readable(value) and (mask is None or is_readable(mask)):
        outside, low, high = _read(rule, value, mask, like)
        if outside:
            # As NumPy writes them: as Python's floats, float32 numbers have too many digits.
            raise ValueError(f"{words}, got values from {low!s} to {high!s}. {remedy}")
        return value
    outside, low, high = _found(rule, value, mask, like)
    return checked(value, outside, low, high, f"{words}, got values from {{low}} to {{high}}. {remedy}")


def is_readable(leaf: object) -> bool:
    """Whether the value is there, and no tracer in its place."""
    if isinstance(leaf, np.ndarray):
        return bool(leaf.dtype != object)  # Objects may be tracers.
    return isinstance(leaf, int | float | complex | np.generic | Array) and not isinstance(leaf, jax.core.Tracer)


def _read(rule: Rule, value: Array, mask: Array | None, like: Array | jax.ShapeDtypeStruct) -> Facts:
    """What the rule finds in arrays that can be read."""
    # NumPy reads an array in the memory of the host where it lies. To call a compiled function and to wait for its
    # answer takes longer than a small loss.
    if _on_host(value) and (mask is None or _on_host(mask)):
        if mask is None:
            return rule(np, np.asarray(value), None)
        return rule(np, *np.broadcast_arrays(value, mask))
    with jax.ensure_compile_time_eval():
        return _found(rule, value, mask, like)


def _on_host(array: Array) -> bool:
    devices = array.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _found(rule: Rule, value: Array, mask: Array | None, like: Array | jax.ShapeDtypeStruct) -> Facts:
    """What the rule finds, compiled."""
    facts: Facts = _compiled(rule, value, mask, None if mask is None else shape_of(like))
    return facts


@functools.partial(jax.jit, static_argnames=("rule", "like"))
def _compiled(rule: Rule, value: Array, mask: Array | None, like: jax.ShapeDtypeStruct | None) -> Facts:
    if mask is not None and like is not None:
        value, mask = spread(value, like), spread(mask, like)
    return rule(jnp, value, mask)
