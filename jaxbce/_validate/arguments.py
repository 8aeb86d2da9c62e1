"""The table of arguments, and the loop that checks a call against it: dtypes, shapes and, if readable, values.

A new argument is a new row of `ARGUMENTS`. Class indices and the linear head have code of their own beside their
losses, made of the same pieces.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeGuard, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbce._core import arrays
from jaxbce._core.arrays import UNIT_INTERVAL, Arguments, ArrayLike, Axis, AxisName, Like, Reduction
from jaxbce._core.indices import PADDING, Ignored, integer_range, is_ignored, is_out_of_bounds
from jaxbce._core.numerics import StaticExponent
from jaxbce._core.program import jit
from jaxbce._validate.checkify import checkify_check

Shape: TypeAlias = tuple[int, ...]

# --- The table ----------------------------------------------------------------------------------------------------


class Argument(NamedTuple):
    """A row of the table.

    Attributes:
        kind: the dtypes it may have. A bool passes for a "real", and is a mistake for a "number". "predictions" are
            floating, and may have been swapped with the labels. An "exponent" is a number, and a `StaticExponent` where
            Python knows it to be whole and small.
        shape: returns a complaint about (name, its shape, name of the reference, its shape), or None; None: no rule.
        remedy: what to do about a value outside the domain, [0, 1] or [0, inf); None: there is no domain.
        optional: whether None leaves it out.
        neutral: the Python number that leaves it out, too, and spares its cost.
    """

    kind: Literal["floating", "predictions", "real", "number", "exponent", "mask"]
    shape: Callable[[str, Shape, str, Shape], str | None] | None = None
    remedy: str | None = None
    optional: bool = False
    neutral: float | None = None


def _broadcasts(shape: Shape, to: Shape) -> bool:
    try:
        fits: bool = jnp.broadcast_shapes(shape, to) == to
    except ValueError:
        return False
    return fits


def _broadcast(name: str, shape: Shape, reference: str, whole: Shape) -> str | None:
    if shape in ((), whole) or _broadcasts(shape, whole):
        return None
    remedy = f"{name} may have {len(whole)} axes at most, each of size 1 or as long as that of {reference}."
    for trailing in range(len(whole) - len(shape), 0, -1):
        padded = (*shape, *[1] * trailing)
        if _broadcasts(padded, whole):
            index = f"{name}[..., {', '.join(['None'] * trailing)}]"
            remedy = f"Trailing axes of 1 make it fit: {index} of shape {padded}."
    return (
        f"{name} must be a scalar or broadcast to the shape of {reference}, right-aligned and without enlarging it, "
        f"got {name} of shape {shape} and {reference} of shape {whole}. {remedy}"
    )


def _scalar(name: str, shape: Shape, *_: Any) -> str | None:
    return f"{name} must be a scalar, got shape {shape}. One number serves the whole call." if shape else None


def _same_or_scalar(name: str, shape: Shape, reference: str, whole: Shape) -> str | None:
    if shape in (whole, ()):
        return None
    if whole == (*shape, 1):
        remedy = f"Drop the last axis with {reference}.squeeze(-1), or add one with {name}[..., None]."
    elif shape == (*whole, 1):
        remedy = f"Drop the last axis with {name}.squeeze(-1), or add one with {reference}[..., None]."
    elif whole[:-1] == shape:
        remedy = f"Class indices need one-hot encoding: jax.nn.one_hot({name}, {whole[-1]})."
    elif _broadcasts(shape, whole):
        remedy = f"Broadcast on purpose with jnp.broadcast_to({name}, {reference}.shape)."
    else:
        remedy = "Labels are never broadcast: give one label for each prediction."
    got = f"got {reference} of shape {whole} and {name} of shape {shape}"
    return f"{name} must have the shape of {reference} or be a scalar, {got}. {remedy}"


_EASY = "0 leaves the cross-entropy as it is; more counts easy examples less."

ARGUMENTS: Mapping[str, Argument] = {
    "logits": Argument("predictions"),
    "probs": Argument("predictions", None, "Unnormalised scores belong in the function that takes logits."),
    **dict.fromkeys(("real_logits", "fake_logits", "features", "kernel", "x", "y"), Argument("floating")),
    "bias": Argument("floating", optional=True),
    **dict.fromkeys(("logit_scale", "logit_bias"), Argument("number", _scalar)),
    **dict.fromkeys(("gamma", "gamma_pos", "gamma_neg"), Argument("exponent", _broadcast, _EASY)),
    "labels": Argument("real", _same_or_scalar, "Hide missing labels with `where`; one-hot encode class indices."),
    "label_smoothing": Argument("number", _scalar, "0 keeps the labels, 1 makes them all the same.", neutral=0.0),
    "where": Argument("mask", _broadcast, optional=True),
    "weight": Argument(
        "real", _broadcast, "At 0 an entry costs nothing, and under 'weighted_mean' it does not count.", optional=True
    ),
    "pos_weight": Argument("number", _broadcast, "Negatives per positive are the usual choice.", optional=True),
    "class_weight": Argument("real", None, "To leave a class out, give it a weight of 0.", optional=True),
    "alpha": Argument(
        "number", _broadcast, "It weighs label 1, and 1 - alpha weighs label 0; None weighs neither.", optional=True
    ),
    "margin": Argument("number", _broadcast, "It is taken off the probability of the negatives; 0 takes nothing off."),
    "losses": Argument("real"),
    "counts": Argument("number", None, "Count the examples of each class, e.g. with jnp.bincount."),
    "max_weight": Argument("number", _scalar, "None leaves the weights as they are.", optional=True),
    "beta": Argument(
        "number", _scalar, "0 weighs all classes alike, 1 by inverse frequency; 0.9 to 0.9999 are usual.", optional=True
    ),
}


# --- The loop -----------------------------------------------------------------------------------------------------

Common: TypeAlias = tuple[ArrayLike | None, ArrayLike, ArrayLike | None, Axis, Reduction]
"""weight, label_smoothing, where, axis, reduction."""


def validate(
    function: str, reference: str, values: Mapping[str, Any], like: Like | None = None, **rows: Argument
) -> dict[str, Any]:
    """Convert the arguments of `function` to arrays and check them by their rows; None is left out.

    The shape and dtype of a call are those of `like`, which messages call `reference`; None: those of the first.
    `rows` replace those of the table.
    """
    checked: dict[str, Any] = {}
    table = {**ARGUMENTS, **rows} if rows else ARGUMENTS
    for name, value in values.items():
        row = table[name]
        if value is None and not row.optional:
            remedy = f" {row.remedy}" if row.remedy else ""
            raise TypeError(f"{function}: {name} must be an array or numbers, got None.{remedy}")
        if value is None or (row.neutral is not None and is_python_number(value) and value == row.neutral):
            checked[name] = None
        elif row.kind == "exponent" and is_python_number(value) and value in range(17):
            checked[name] = StaticExponent(int(value))
        else:
            checked[name] = array = as_array(function, name, value)
            _check_dtype(function, name, array.dtype, row.kind)
            if like is None:
                like = array
            elif row.shape is not None and (complaint := row.shape(name, array.shape, reference, like.shape)):
                raise ValueError(f"{function}: {complaint}")
    for name, value in checked.items():
        row = table[name]
        if isinstance(value, Array) and row.remedy is not None and like is not None:
            mask = None if row.shape is _scalar else checked.get("where")
            checked[name] = check_domain(function, name, value, mask, like, row.remedy)
    return checked


def validate_elementwise(
    function: str, name: str, predictions: ArrayLike, labels: ArrayLike, common: Common, **parameters: ArrayLike | None
) -> tuple[Arguments, tuple[int, ...] | None]:
    """Check the arguments of an elementwise loss whose predictions are called `name`; return the axes with them."""
    weight, label_smoothing, where, axis, reduction = common
    last = {"weight": weight, "label_smoothing": label_smoothing}
    checked = validate(function, name, {name: predictions, "where": where, "labels": labels, **parameters, **last})
    axes = validate_reduction(function, reduction, axis, checked[name].ndim)
    own = {key: checked[key] for key in parameters}
    given = checked[name], checked["labels"], own, checked["weight"], checked["label_smoothing"], checked["where"]
    return Arguments(*given), axes


# --- Arrays and dtypes --------------------------------------------------------------------------------------------


def as_array(function: str, name: str, value: ArrayLike) -> Array:
    if isinstance(value, Array):
        return value
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, np.ma.MaskedArray) for leaf in leaves):
        raise TypeError(
            f"{function}: {name} must be plain numbers, got a masked array. Take its .data, and leave out what its "
            ".mask hides: with `where`, or with a weight of 0."
        )
    try:
        # Keep numbers written inside a traced function readable, so that they are checked like any other.
        readable = all(map(_is_readable, leaves))
        with jax.ensure_compile_time_eval() if readable else contextlib.nullcontext():
            array = jnp.asarray(value)
    except OverflowError as error:
        got = f"got {value!r:.40}: {error}"
        raise ValueError(f"{function}: {name} must fit a dtype, {got}. {_too_large(name)}") from None
    except (TypeError, ValueError) as error:
        if isinstance(value, np.ndarray):
            raise TypeError(
                f"{function}: {name} must have a dtype that JAX has, got {value.dtype}. "
                f"Convert first, e.g. with {name}.astype(numpy.float32)."
            ) from None
        raise TypeError(f"{function}: {name} must be an array or numbers, got {value!r:.40}: {error}") from None
    if array.dtype.kind in "iu":
        for leaf in leaves:
            if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype != array.dtype and leaf.size:
                # Without x64 JAX truncates to 32 bits, and an index out of bounds may become that of a class.
                info, low, high = np.iinfo(array.dtype), leaf.min(), leaf.max()
                if low < info.min or high > info.max:
                    got = f"got {leaf.dtype} from {low} to {high}"
                    raise ValueError(f"{function}: {name} must fit {info.dtype}, {got}. {_too_large(name)}")
    return array


def _is_readable(leaf: object) -> bool:
    """Tell a value from a tracer."""
    if isinstance(leaf, np.ndarray):
        return bool(leaf.dtype != object)  # Objects may be tracers.
    return isinstance(leaf, int | float | complex | np.generic | Array) and not isinstance(leaf, jax.core.Tracer)


def _too_large(name: str) -> str:
    return f"Indices this large need jax_enable_x64; other numbers may be floats: jnp.asarray({name}, jnp.float32)."


@functools.cache
def _check_dtype(function: str, name: str, dtype: np.dtype, kind: str) -> None:
    is_float, is_bool = bool(jnp.issubdtype(dtype, jnp.floating)), dtype == jnp.bool_
    is_real = is_float or is_bool or bool(jnp.issubdtype(dtype, jnp.integer))
    part = f" Is it jnp.real({name})?" if jnp.issubdtype(dtype, jnp.complexfloating) else ""
    if kind == "mask":
        if not is_bool:
            raise TypeError(
                f"{function}: {name} must be a bool mask, True for the entries to include, got dtype {dtype}. "
                f"Compare first, e.g. {name}=mask != 0."
            )
    elif kind in ("floating", "predictions"):
        if not is_float:
            hint = "Predictions come first, labels second. " if kind == "predictions" else ""
            convert = f" {hint}Convert with jnp.asarray({name}, jnp.float32)."
            raise TypeError(f"{function}: {name} must be floating, got dtype {dtype}.{convert if is_real else part}")
    elif not is_real:
        raise TypeError(f"{function}: {name} must be real numbers, got dtype {dtype}.{part}")
    elif is_bool and kind != "real":
        remedy = f"If 0 and 1 are meant, write jnp.asarray({name}, jnp.float32)."
        raise TypeError(f"{function}: {name} must be numbers, got bool. {remedy}")


def as_real(function: str, name: str, value: ArrayLike) -> Array:
    """Convert numbers or bools to an array."""
    array = as_array(function, name, value)
    _check_dtype(function, name, array.dtype, "real")
    return array


def is_python_number(value: object) -> TypeGuard[int | float]:
    """Tell a Python int or float, but no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- Values: an error at once where they can be read, else a check for `checkify` ---------------------------------

Facts: TypeAlias = tuple[Any, Any, Any]
"""A bool, true if an included entry breaks a rule, and the extremes of the included entries."""


Rule: TypeAlias = Callable[[ModuleType, Any, Any], Facts]
"""Looks at a value and a mask that are arrays of a module, NumPy or jax's; hashable, to reuse what was compiled."""


@functools.cache
def _bounds(high: float, dtype: np.dtype) -> Rule:
    """Included values lie in [0, high], where `high` is finite, in the compute dtype."""

    def measure(numpy: ModuleType, value: Any, mask: Any) -> Facts:
        # Let NaN pass: NaN in gives NaN out.
        if value.dtype != dtype:
            with np.errstate(over="ignore"):
                value = value.astype(dtype)
        where = {} if mask is None else {"where": mask}
        if numpy is np:
            # Call `fmin.reduce` itself: the wrapper nanmin takes 6 µs, half as long as a small loss.
            least = np.fmin.reduce(value, None, initial=np.inf, **where)
            most = np.fmax.reduce(value, None, initial=-np.inf, **where)
        else:
            least = numpy.nanmin(value, initial=np.inf, **where)
            most = numpy.nanmax(value, initial=-np.inf, **where)
        return (least < 0.0) | (most > high), least, most

    return measure


@functools.cache
def _index_bounds(number: int, ignored: Ignored) -> Rule:
    """Included indices that are not ignored lie in [0, number)."""

    def measure(numpy: ModuleType, value: Any, mask: Any) -> Facts:
        included = ~is_ignored(value, ignored)
        included = included if mask is None else included & mask
        first, last = (np.asarray(end, value.dtype) for end in integer_range(value.dtype))
        least = numpy.min(value, initial=last, where=included)
        most = numpy.max(value, initial=first, where=included)
        return numpy.any(included & is_out_of_bounds(value, number)), least, most

    return measure


def _looks_dense(numpy: ModuleType, value: Any, mask: Any) -> Facts:
    """Detect dense labels: all are 0 or 1."""
    del mask
    low, high = numpy.min(value), numpy.max(value)
    return (low >= 0) & (high <= 1), low, high


def check_domain(function: str, name: str, value: Array, mask: Array | None, like: Like, remedy: str) -> Array:
    """Return `value`, unless an entry that the mask includes lies outside the domain of the argument `name`."""
    if value.dtype == jnp.bool_:
        return value
    dtype = np.dtype(arrays.compute_dtype(like))
    unit = name in UNIT_INTERVAL
    rule = _bounds(1.0 if unit else float(np.finfo(dtype).max), dtype)
    requirement = f"{function}: {name} must {'lie in [0, 1]' if unit else 'be finite and not negative'}"
    return check_values(value, mask, like, rule, requirement, remedy)


def check_indices(
    indices: Array, number: int, ignored: Ignored, mask: Array | None, like: Like, requirement: str, remedy: str
) -> Array:
    """Return `indices`, unless one that the mask includes is out of bounds."""
    # Skip symbolic sizes (`jax.export`), which compare with nothing yet.
    if not isinstance(number, int):
        return indices
    return check_values(indices, mask, like, _index_bounds(number, ignored), requirement, remedy)


def check_values(value: Array, mask: Array | None, like: Like, rule: Rule, requirement: str, remedy: str) -> Array:
    """Return `value` if it meets the requirement. Raise now, or leave a check for `checkify` if the value is traced.

    Value and mask are broadcast to the shape of `like`.
    """
    like = arrays.struct_of(like)
    if isinstance(value, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        outside, low, high = _compiled(rule, value, mask, like)
        return checkify_check(
            value, outside, low, high, f"{requirement}, got values from {{low}} to {{high}}. {remedy}"
        )
    # Read host memory in place: to call a compiled function and wait for its answer takes longer than a small loss.
    if _is_on_host(value) and (mask is None or _is_on_host(mask)):
        read = (np.asarray(value), None) if mask is None else np.broadcast_arrays(value, mask)
        outside, low, high = rule(np, *read)
    else:
        with jax.ensure_compile_time_eval():
            outside, low, high = _compiled(rule, value, mask, like)
    if outside:
        # Print NumPy scalars: as Python floats, float32 numbers have too many digits.
        raise ValueError(f"{requirement}, got values from {low!s} to {high!s}. {remedy}")
    return value


def _is_on_host(array: Array) -> bool:
    devices = array.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


@jit("rule", "like")
def _compiled(rule: Rule, value: Array, mask: Array | None, like: Any) -> Facts:
    if mask is not None:
        value, mask = arrays.broadcast_like(value, like), arrays.broadcast_like(mask, like)
    return rule(jnp, value, mask)


def validate_positives(
    function: str, value: ArrayLike, examples: tuple[int, ...], labels: int, mask: Array | None = None
) -> Array:
    """Check label indices of shape [*examples, K], below `labels` where the mask, which broadcasts to them, is True."""
    array = as_real(function, "positives", value)
    if array.shape[:-1] != examples or array.ndim != len(examples) + 1:
        wanted = f"({', '.join(map(str, (*examples, 'K')))}{'' if examples else ','})"
        raise ValueError(
            f"{function}: positives must have shape {wanted}, a row of label indices for each example, got shape "
            f"{array.shape}. Rows of different lengths are padded with -1."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: positives must be integers, the indices of the labels that are on, got dtype {array.dtype}. "
            "Convert with positives.astype(jnp.int32); an array of 0 and 1 for all labels is something else."
        )
    # Suspect dense labels: of as many indices as labels, all 0 or 1, some repeat. Skip symbolic sizes (`jax.export`).
    if isinstance(labels, int) and array.shape[-1] == labels > 2 and 0 not in examples:
        requirement = f"{function}: positives must be indices of labels, not 0 or 1 for each of {labels} labels"
        remedy = (
            "If they are dense labels: linear_binary_cross_entropy takes them as `labels`, logits with them go into "
            "binary_cross_entropy_with_logits. If they are indices, drop those that repeat; padding is -1."
        )
        array = check_values(array, None, array, _looks_dense, requirement, remedy)
    requirement = f"{function}: positives must be label indices below {labels}, or negative for padding"
    remedy = "Is the index that of another set of labels, or counted from 1?"
    return check_indices(array, labels, PADDING, mask, array, requirement, remedy)


# --- Options: plain Python values, static under `jit` -------------------------------------------------------------

_REDUCTIONS = get_args(Reduction)


def validate_reduction(function: str, reduction: Reduction, axis: Axis, ndim: int | None) -> tuple[int, ...] | None:
    """Check reduction and axes; return the axes, in [0, ndim). `ndim` is None before there is an array."""
    if not isinstance(reduction, str) or reduction not in _REDUCTIONS:
        choices = ", ".join(map(repr, _REDUCTIONS))
        raise ValueError(f"{function}: reduction must be one of {choices}, got {reduction!r}.")
    if reduction == "none" and axis is not None:
        raise ValueError(f"{function}: reduction='none' reduces no axis, got axis={axis}; leave one of the two out.")
    return None if axis is None or ndim is None else validate_axis(function, axis, ndim)


def validate_axis(function: str, axis: Axis, ndim: int) -> tuple[int, ...] | None:
    """Check axes; return them in [0, ndim). None, for all of them, stays None."""
    if axis is None:
        return None
    several = axis if isinstance(axis, tuple | list) else [axis]
    axes = tuple(as_integer(function, "axis", a, "None, an integer or several") for a in several)
    if axes and ndim == 0:
        raise ValueError(f"{function}: axis must be None for a scalar, which has no axes, got {axis}.")
    if any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"{function}: axis must lie in [{-ndim}, {ndim}) for an array of {ndim} axes, got {axis}.")
    if len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"{function}: axis must not repeat an axis, got {axis}.")
    return tuple(a % ndim for a in axes)


def validate_size(function: str, name: str, size: int | None, default: int) -> int:
    """Check a number of rows or columns computed at one time; None is the default."""
    number = default if size is None else as_integer(function, name, size, "an integer or None")
    if number < 1:
        raise ValueError(f"{function}: {name} must be at least 1, got {number}; None is {default}.")
    return number


def as_integer(function: str, name: str, value: object, expected: str) -> int:
    """Convert an integer of any library, but no bool."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{function}: {name} must be {expected}, got {value!r}.")
    return operator.index(value)


def validate_axis_name(function: str, name: str, value: AxisName | None) -> tuple[str, ...]:
    """Check the names of mapped axes, none or several."""
    several = value if isinstance(value, tuple | list) else [value]
    axes = tuple(axis for axis in several if isinstance(axis, str))
    if value is not None and len(axes) < len(several):
        raise TypeError(f"{function}: {name} must be the name of a mapped axis or several names, got {value!r}.")
    if len(set(axes)) < len(axes):
        raise ValueError(f"{function}: {name} must name an axis once, got {value!r}.")
    try:
        arrays.axis_size(axes)
    except NameError:
        raise ValueError(
            f"{function}: {name} must name a mapped axis, got {value!r}, which is none here. "
            "Call it inside jax.shard_map, over a mesh with that axis."
        ) from None
    return axes
