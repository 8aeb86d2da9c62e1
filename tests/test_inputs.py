"""The boundary: what is refused, when, and in which words."""

import contextlib
import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxbce import Average, binary_cross_entropy, binary_cross_entropy_with_logits
from tests.losses import BINARY, FUNCTIONS, each_of

every_loss = each_of(BINARY)

X = jnp.full((3, 2), 0.5, jnp.float32)
Y = jnp.ones((3, 2), jnp.float32)
PARAMETERS = ("pos_weight", "gamma", "alpha", "gamma_pos", "gamma_neg", "margin")


def refuses(error, *words):
    """The error, with every one of these words in its message."""
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{word})" for word in words))


@contextlib.contextmanager
def compilations():
    """What is compiled meanwhile."""
    found = []

    def listen(event, _, **kwargs):
        del kwargs
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.clear_event_listeners()


@every_loss
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X, Y[:, 0], [r"\(3, 2\)", r"\(3,\)", r"one_hot\(labels, 2\)"]),
        (X[:, 0], Y[:, :1], [r"\(3,\)", r"\(3, 1\)", r"labels\.squeeze\(-1\)"]),
        (X[:, :1], Y[:, 0], [r"\(3, 1\)", r"\(3,\)", r"\.squeeze\(-1\)"]),
        (X, Y[:1], [r"\(3, 2\)", r"\(1, 2\)", "broadcast_to"]),
        (X[0, 0], Y[0], [r"\(\)", r"\(2,\)"]),
    ],
)
def test_labels_of_another_shape(row, x, y, words):
    for call in (row, jax.jit(row), jax.grad(row)):
        with refuses(ValueError, row.name, "labels", *words):
            call(x, y)


@every_loss
@pytest.mark.parametrize("name", ["pos_weight", "weight", "where"])
def test_weights_and_masks_never_enlarge(row, name):
    if not row.takes(name):
        name = "gamma" if row.takes("gamma") else "margin"
    for shape in [(3,), (2, 3, 2), (4, 3, 2), (1, 1, 1), (3, 3)]:
        with refuses(ValueError, row.name, name, str(shape).replace("(", r"\(").replace(")", r"\)"), r"\(3, 2\)"):
            row(X, Y, **{name: jnp.ones(shape, bool if name == "where" else None)})


@pytest.mark.parametrize(
    ("logits", "given", "remedy"),
    [((3, 2), (3,), ("None",)), ((2, 3, 4, 5), (2, 3), ("None", "None")), ((2, 3, 4, 5), (3,), ("None", "None"))],
)
def test_the_remedy_against_a_weight_that_does_not_fit(logits, given, remedy):
    x, weight = jnp.zeros(logits), jnp.ones(given)
    with refuses(ValueError, rf"weight\[\.\.\., {', '.join(remedy)}\]"):
        binary_cross_entropy_with_logits(x, 1, weight=weight)
    weight = weight[(..., *[None] * len(remedy))]
    assert binary_cross_entropy_with_logits(x, 1, weight=weight) == binary_cross_entropy_with_logits(x, 1)


@pytest.mark.parametrize(("logits", "given"), [((), (2,)), ((3,), (2, 3)), ((3, 2), (4,))])
def test_no_axes_of_1_where_they_are_no_remedy(logits, given):
    with refuses(ValueError, f"weight may have {len(logits)} axes at most, each of size 1 or as long as"):
        binary_cross_entropy_with_logits(jnp.zeros(logits), 1, weight=jnp.ones(given))


@every_loss
def test_dtypes(row):
    for x in (X.astype(jnp.int32), X > 0, X.astype(jnp.complex64), 1, [1, 2]):
        with refuses(TypeError, row.name, "floating"):
            row(x, 1)
    for name in filter(row.takes, ("labels", "pos_weight", "weight", "label_smoothing", "gamma", "alpha", "margin")):
        with refuses(TypeError, row.name, name, "complex64"):
            row(X, **{"labels": Y} | {name: jnp.complex64(1)})
    for name in filter(row.takes, ("pos_weight", "label_smoothing", "gamma", "alpha", "margin")):
        for flag in (True, False, np.True_, jnp.ones((), bool)):
            with refuses(TypeError, row.name, name, "must be numbers, got bool"):
                row(X, Y, **{name: flag})
    for mask in (jnp.ones((3, 2), jnp.int32), 1, Y):
        with refuses(TypeError, row.name, "where", "bool"):
            row(X, Y, where=mask)
    for y in (None, "1", object()):
        with refuses(TypeError, row.name, "labels"):
            row(X, y)
    for y in (np.zeros(X.shape, object), np.zeros(X.shape, ">f4")):
        with refuses(TypeError, row.name, "labels must have a dtype that JAX has", str(y.dtype), "Convert first"):
            row(X, y)
    masked = np.ma.masked_array(np.asarray(X), np.asarray(X) > 0)
    for x in (masked, list(masked)):
        with refuses(TypeError, row.name, "must be plain numbers, got a masked array. Take its .data"):
            row(x, Y)


@each_of(FUNCTIONS)
def test_options(row):
    name, x, y = row.function.__name__, X[:2], Y[:2]
    for reduction in ("batchmean", "Mean", None, 1, X, ["mean"]):
        with refuses(ValueError, name, "'none', 'mean', 'weighted_mean', 'sum'"):
            row(x, y, reduction=reduction)
    if row.takes("axis"):
        for axis in (2, -3, (0, 0), (0, -2)):
            with refuses(ValueError, name, "axis"):
                row(x, y, axis=axis)
        for axis in (0.5, True, ""):
            with refuses(TypeError, name, "axis"):
                row(x, y, axis=axis)
        with refuses(ValueError, name, "axis", "none"):
            row(x, y, axis=0, reduction="none")
    if row.takes("label_smoothing"):
        with refuses(ValueError, name, "label_smoothing", "scalar"):
            row(x, y, label_smoothing=[0.1, 0.2])
        with refuses(ValueError, name, r"label_smoothing must lie in \[0, 1\], got values from 1.5 to 1.5"):
            row(x, y, label_smoothing=1.5)
    if row.adapter is None:
        with refuses(TypeError, "positional"):
            row(x, y, 2.0)


OUTSIDERS = [
    ("labels", {"labels": jnp.asarray([0.0, 1.5, -2.0])}, "from -2.0 to 1.5"),
    ("labels", {"labels": jnp.asarray([0, 1, 2])}, "from 0.0 to 2.0"),
    ("labels", {"labels": -1}, "from -1.0 to -1.0"),
    ("pos_weight", {"pos_weight": jnp.asarray([1.0, -0.5, 2.0])}, "from -0.5 to 2.0"),
    ("weight", {"weight": -3}, "from -3.0 to -3.0"),
    ("pos_weight", {"pos_weight": jnp.asarray([1.0, jnp.inf, 2.0])}, "from 1.0 to inf"),
    ("weight", {"weight": jnp.inf}, "from inf to inf"),
    ("labels", {"labels": jnp.asarray([jnp.nan, 0.0, 2.0])}, "from 0.0 to 2.0"),
    ("labels", {"labels": jnp.asarray([0.0, 1.0, np.nextafter(np.float32(1), np.float32(2))])}, "to 1.0000001"),
    ("label_smoothing", {"label_smoothing": 1.5}, "from 1.5 to 1.5"),
    ("label_smoothing", {"label_smoothing": -0.1}, "from -0.1 to -0.1"),
]


WEIGHTED = [row for row in FUNCTIONS if row.adapter is None or row.takes("weight")]


def outsiders(row):
    """All of them for the two cross-entropies; one of each argument for the losses that share their boundary."""
    known = [case for case in OUTSIDERS if row.takes(case[0]) and (case[0] != "labels" or row.adapter is None)]
    return known if row.takes("pos_weight") else list({case[0]: case for case in known}.values())


@functools.cache
def compiled(row, transform):
    """A function of predictions and the other arguments, compiled once for all arguments of the same shapes."""
    return jax.jit(transform(lambda x, arguments: row(x, **arguments)))


@functools.cache
def compiled_and_checked(row, transform):
    """The same under checkify, which traces anew in every call that is not compiled."""
    return jax.jit(checkify.checkify(compiled(row, transform), errors=checkify.user_checks))


def itself(function):
    return function


def mapped(function):
    return jax.vmap(function, (0, None))


def by_arguments(function):
    return jax.grad(function, argnums=1)


@pytest.mark.parametrize(
    ("row", "name", "arguments", "extremes"),
    [(row, *case) for row in WEIGHTED for case in outsiders(row)],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", ""),
)
class TestOutsideTheDomain:
    def arguments(self, arguments):
        return {"labels": jnp.asarray([0.0, 1.0, 1.0], jnp.float32), **arguments}

    def every(self, row, arguments):
        """The arguments beside all others that the loss has, of few shapes and dtypes, so that little is compiled."""
        given = self.arguments(arguments)
        labels = jnp.broadcast_to(jnp.asarray(given["labels"]), 3)
        found = {"labels": labels if labels.dtype == jnp.int64 else labels.astype(jnp.float32)}
        for name, plain in row.known(
            {"pos_weight": jnp.ones(3), "weight": jnp.ones(3), "label_smoothing": 0.0}
        ).items():
            found[name] = jnp.broadcast_to(jnp.asarray(given.get(name, plain), jnp.float32), jnp.shape(plain))
        return found

    def test_eagerly_it_is_an_error(self, row, name, arguments, extremes):
        with refuses(ValueError, row.name, name, extremes):
            row(X[:, 0], **self.arguments(arguments))
        with refuses(ValueError, row.name, name, extremes):  # what is written inside a traced function, too
            jax.jit(jax.grad(lambda x: row(x, **{"labels": 1, **arguments})))(X[:, 0])

    def test_traced_it_is_nan_in_value_and_gradient(self, row, name, arguments, extremes):
        del name, extremes
        value, gradient = compiled(row, jax.value_and_grad)(X[:, 0], self.every(row, arguments))
        assert np.isnan(value)
        assert np.isnan(gradient).any()

    @pytest.mark.slow
    def test_checkify_names_it(self, row, name, arguments, extremes):
        for transform, x in [(itself, X[:, 0]), (jax.grad, X[:, 0]), (mapped, X.T)]:
            with refuses(checkify.JaxRuntimeError, row.name, name, extremes.split(" ")[1]):
                compiled_and_checked(row, transform)(x, self.every(row, arguments))[0].throw()

    def test_traced_it_is_nan_in_its_own_gradient(self, row, name, arguments, extremes):
        del extremes
        arguments = self.every(row, arguments)
        arguments["labels"] = arguments["labels"].astype(jnp.float32)
        gradients = compiled(row, by_arguments)(X[:, 0], arguments)
        assert np.isnan(gradients[name]).any()


def test_probabilities_outside_the_unit_interval():
    p = jnp.asarray([0.5, 2.5, -1.0, 1.5], jnp.float32)
    y = jnp.asarray([1, 1, 0, 1])
    with refuses(ValueError, "binary_cross_entropy", "probs", "from -1.0 to 2.5", "logits"):
        binary_cross_entropy(p, y)
    losses = jax.jit(lambda p: binary_cross_entropy(p, y, reduction="none"))(p)
    gradient = jax.jit(jax.grad(lambda p: binary_cross_entropy(p, y, reduction="sum")))(p)
    hessian = jax.jit(jax.hessian(lambda p: binary_cross_entropy(p, y, reduction="sum")))(p)
    for result in (losses, gradient, jnp.diagonal(hessian)):
        np.testing.assert_array_equal(np.isnan(result), [False, True, True, True])
    checked = checkify.checkify(jax.jit(lambda p: binary_cross_entropy(p, y)), errors=checkify.user_checks)
    with refuses(checkify.JaxRuntimeError, "probs", "-1.0", "2.5"):
        checked(p)[0].throw()
    checked(jnp.asarray([0.0, 1.0, 0.5, 0.5]))[0].throw()


@every_loss
def test_a_masked_value_outside_the_domain_is_ignored(row):
    y = jnp.asarray([1.0, 0.0, -1.0])
    mask = jnp.asarray([True, True, False])
    x, v = X[:, 0].at[2].set(7.0), jnp.asarray([1.0, 1.0, -1.0])
    expected = row(x[:2], y[:2])

    def loss(x, y):
        return row(x, y, weight=v, pos_weight=v, where=mask)

    np.testing.assert_allclose(loss(x, y), expected, rtol=1e-6)
    error, value = checkify.checkify(jax.jit(loss), errors=checkify.user_checks)(x, y)
    error.throw()
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: lambda x, y: jax.lax.scan(lambda c, z: (c + f(*z), None), jnp.float32(0), (x[None], y[None]))[0],
        jax.checkpoint,
        jax.hessian,
        lambda f: jax.grad(jax.checkpoint(f)),
        lambda f: lambda x, y: jax.lax.cond(x.sum() > -1, f, lambda *_: jnp.float32(0), x, y),
    ],
    ids=["scan", "checkpoint", "hessian", "grad of checkpoint", "cond"],
)
def test_checks_go_with_every_transform(transform):
    checked = checkify.checkify(jax.jit(transform(binary_cross_entropy_with_logits)), errors=checkify.user_checks)
    y = jnp.asarray([1.0, 0.0, 2.0], jnp.float32)
    with refuses(checkify.JaxRuntimeError, "labels", "2.0"):
        checked(X[:, 0], y)[0].throw()
    checked(X[:, 0], y * 0.5)[0].throw()


@pytest.mark.cpu
@every_loss
def test_checks_leave_no_trace_without_checkify(row):
    """No effect, which would cost `jit` its fast path and `jax.export` its serialisation; and nothing to compute."""
    loss = jax.jit(row)
    assert not jax.make_jaxpr(loss)(X, Y).effects
    assert loss.lower(X, Y).compile().as_text().count(" reduce(") <= 1


@every_loss
def test_checks_under_a_batched_mask(row):
    """Values that are not batched, under a mask that is: one example's mask must not speak for the others."""
    x, y = X[:, 0], jnp.asarray([1.0, 0.0, 2.0])
    masks = jnp.asarray([[True, True, False], [True, True, True]])
    mapped = jax.jit(jax.vmap(lambda y, mask: row(x, y, where=mask), (None, 0)))
    checked = checkify.checkify(mapped, errors=checkify.user_checks)
    with refuses(checkify.JaxRuntimeError, row.name, "labels", "2.0"):
        checked(y, masks)[0].throw()
    checked(y, masks[:1])[0].throw()
    np.testing.assert_array_equal(np.isnan(mapped(y, masks)), [False, True])


def test_arrays_of_the_host_are_read_without_a_compiler():
    with jax.default_device(jax.devices("cpu")[0]):
        x, y, mask = jnp.zeros(37), jnp.full(37, 2.0), jnp.ones(37, bool)  # a shape that nothing else has
        with compilations() as found:
            with refuses(ValueError, "labels", "to 2.0"):
                binary_cross_entropy_with_logits(x, y)
            with refuses(ValueError, "labels", "to 2.0"):
                binary_cross_entropy_with_logits(x, y, where=mask)
            assert found == []
            binary_cross_entropy_with_logits(x, y, where=~mask)
            assert found != []  # The listener hears what there is to hear.


def test_checks_of_a_batch_tell_its_extremes():
    checked = checkify.checkify(jax.jit(jax.vmap(binary_cross_entropy_with_logits)), errors=checkify.user_checks)
    labels = jnp.asarray([[0.0, 0.5], [-1.0, 1.0], [0.5, 3.0]], jnp.float32)
    with refuses(checkify.JaxRuntimeError, "labels", "from -1.0 to 3.0"):
        checked(X, labels)[0].throw()


@pytest.mark.slow
@every_loss
def test_the_checks_of_checkify_find_nothing(row):
    """No NaN and no division by zero arises on the way, even at the ends of the domain, nor under a mask."""
    x = jnp.asarray([*row.extremes, 7.0], jnp.float32)
    where = jnp.asarray([True] * len(row.extremes) + [False])

    def loss(x, y):
        return row(x, y, pos_weight=2.0, weight=3.0, where=where)

    checked = jax.jit(checkify.checkify(jax.jit(jax.value_and_grad(loss)), errors=checkify.all_checks))
    for y in (0.0, 0.5, 1.0):
        checked(x, jnp.full_like(x, y))[0].throw()


def test_checkify_without_jit():
    with jax.disable_jit():
        checked = checkify.checkify(jax.vmap(binary_cross_entropy_with_logits), errors=checkify.user_checks)
        with refuses(checkify.JaxRuntimeError, "labels", "2.0"):
            checked(X, Y * 2)[0].throw()


def test_without_the_table_of_checkify_a_value_outside_is_nan_and_no_error(monkeypatch):
    """Under a JAX that has moved this private module, the one that the package reads."""
    for name in [name for name in sys.modules if name.split(".")[0] == "jaxbce"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jax._src.checkify", None)
    loss = importlib.import_module("jaxbce").binary_cross_entropy_with_logits
    error, value = checkify.checkify(jax.jit(loss), errors=checkify.user_checks)(jnp.zeros(2), jnp.full(2, 2.0))
    error.throw()
    assert np.isnan(value)


def test_numbers_too_large_for_an_integer():
    with refuses(ValueError, "binary_cross_entropy_with_logits", "labels", "too large", "floats"):
        binary_cross_entropy_with_logits(X, 2**70)


@pytest.mark.parametrize("row", {row.function: row for row in BINARY}.values(), ids=lambda row: row.function.__name__)
def test_parameters_outside_their_domain_are_nan_whatever_the_labels(row):
    """XLA makes a select of a bool times a number: NaN would be lost where no label is on, or none is off."""
    names = [name for name in PARAMETERS if row.takes(name)]

    @jax.jit
    def losses(own, hard):
        labels = [hard.astype(dtype) for dtype in (jnp.bool_, jnp.int32, jnp.float32)]
        found = [row.function(X, y, **{name: own}) for y in labels for name in names]
        if "pos_weight" in names:
            found += [row.function(X, labels[0], label_smoothing=0.1, pos_weight=own)]
        return jnp.stack(found)

    assert names
    for hard in (np.zeros(X.shape, bool), np.ones(X.shape, bool)):
        for own in (-1.0, np.inf, np.nan):
            assert np.isnan(losses(jnp.float32(own), hard)).all()
        assert np.isfinite(losses(jnp.float32(1.0), hard)).all()


@pytest.mark.parametrize("name", ["gamma", "gamma_pos", "gamma_neg", "margin"])
def test_parameters_that_a_loss_cannot_do_without(name):
    (row,) = {row.function: row for row in BINARY if row.takes(name)}.values()
    with refuses(TypeError, row.function.__name__, name, "None"):
        row.function(X, Y, **{name: None})


def test_the_domain_is_that_of_the_dtype_that_is_computed_in():
    """With x64, float64 beside float32 predictions: 1 + 1e-12 is the label 1, and 1e39 is no finite weight."""
    labels = np.where(Y > 0, 1 + 1e-12, 0)
    assert binary_cross_entropy_with_logits(X, labels) == binary_cross_entropy_with_logits(X, Y)
    for name in ("weight", "pos_weight"):
        with refuses(ValueError, name, "finite"):
            binary_cross_entropy_with_logits(X, Y, **{name: np.float64(1e39)})
    with refuses(ValueError, "labels", "lie in"):
        binary_cross_entropy_with_logits(X.astype(np.float64), labels)
    smoothing = np.float64(1 + 1e-12)
    smoothed = binary_cross_entropy_with_logits(X, Y, label_smoothing=smoothing)
    assert smoothed == binary_cross_entropy_with_logits(X, Y, label_smoothing=1)
    with refuses(ValueError, "label_smoothing", "lie in"):
        binary_cross_entropy_with_logits(X.astype(np.float64), Y, label_smoothing=smoothing)


def test_average_refuses_in_the_same_words():
    with refuses(ValueError, r"Average\.of", "weight", "from -1.0 to 2.0"):
        Average.of(X[:, 0], weight=jnp.asarray([-1.0, 1.0, 2.0]))
    with refuses(ValueError, r"Average\.of", "weight", r"\(3,\)", r"\(3, 2\)"):
        Average.of(X, weight=jnp.ones(3))
    with refuses(TypeError, r"Average\.of", "where", "bool"):
        Average.of(X, where=jnp.ones(2))
    with refuses(TypeError, r"Average\.of", "losses"):
        Average.of(X.astype(jnp.complex64))
    with refuses(ValueError, r"Average\.of", r"axis must lie in \[-2, 2\)"):
        Average.of(X, axis=2)
    with refuses(ValueError, r"Average\.of", "axis must be None for a scalar"):
        Average.of(X[0, 0], axis=0)
    with refuses(ValueError, "Average", r"\(2,\)", r"\(\)"):
        Average.of(X, axis=0) + Average.of(X)
    assert np.isnan(jax.jit(lambda v: Average.of(X[:, 0], weight=v).value)(jnp.asarray([-1.0, 1.0, 2.0])))
