"""The fused linear head: what it is next to the unfused loss, what it stores, and how it lies on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import Mesh, PartitionSpec

from jaxbce import linear_binary_cross_entropy
from tests import oracle
from tests.settings import configured

B, D, L, K = 4, 3, 11, 5


def draw(rng, batch=B, width=D, labels=L, dtype=np.float64):
    """Features, kernel and bias."""
    shapes = (batch, width), (width, labels), (labels,)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def indices(rng, batch=B, labels=L, k=K):
    """Positives with padding and repetitions, and the labels that they stand for."""
    positives = rng.integers(-2, labels, (batch, k))
    if k > 1 and batch:
        positives[0, :2] = 0
        positives[-1] = -1
    return positives, np.asarray(oracle.multi_hot(positives, labels), bool)


def unfused(features, kernel, bias, labels, **options):
    return oracle.naive_head(features, kernel, labels, bias=bias, **options)


def fused(features, kernel, bias, labels=None, **options):
    return linear_binary_cross_entropy(features, kernel, labels, bias=bias, **options)


def close(actual, expected, tolerance=1e-12):
    oracle.assert_close(actual, expected, tolerance)


def positive(*shape):
    return np.random.default_rng(1).uniform(0.5, 2.0, shape)


CASES = [
    pytest.param("positives", {"pos_weight": positive(L), "weight": positive(B, 1)}, id="positives"),
    pytest.param(
        "soft", {"pos_weight": positive(B, 1), "weight": positive(L), "label_smoothing": np.float64(0.2)}, id="labels"
    ),
    pytest.param("soft", {"weight": positive(1, L), "reduction": "none"}, id="none", marks=pytest.mark.slow),
    # Positives without a reduction: tests/test_derivatives_anywhere.py.
]


@pytest.mark.parametrize(("form", "options"), CASES)
def test_equals_the_unfused_loss(form, options, rng):
    """In value, gradient and second derivative of a square, in every argument that is a number."""
    positives, dense = indices(rng)
    labels = jnp.asarray(dense, jnp.float64) if form == "positives" else jnp.asarray(rng.random((B, L)))
    reduction = {k: v for k, v in options.items() if k == "reduction"}
    numbers = {k: jnp.asarray(v) for k, v in options.items() if k != "reduction"}
    arguments = (*draw(rng), numbers, labels)
    along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), arguments)
    mixed = jnp.arange(1.0, B + 1) if options.get("reduction") == "none" else 1.0

    def ours(features, kernel, bias, numbers, labels):
        given = {"positives": positives} if form == "positives" else {"labels": labels}
        return fused(features, kernel, bias, chunk_size=4, **given, **numbers, **reduction)

    def theirs(features, kernel, bias, numbers, labels):
        return unfused(features, kernel, bias, labels, **numbers, **reduction)

    def derivatives(loss):
        argnums = (0, 1, 2, 3) if form == "positives" else (0, 1, 2, 3, 4)
        gradient = jax.grad(lambda *a: jnp.sum(mixed * loss(*a) ** 2), argnums)
        moved = tuple(along[i] if i in argnums else jnp.zeros_like(labels) for i in range(5))
        return loss(*arguments), *jax.jvp(gradient, arguments, moved)

    close(*(jax.jit(functools.partial(derivatives, loss))() for loss in (ours, theirs)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "width", "labels", "chunk_size", "k"),
    [(3, 2, 7, 3, 1), (3, 2, 7, 100, 0), (3, 2, 6, 3, 3), (1, 1, 1, None, 1), (2, 0, 5, 2, 2)],
)
def test_sizes_of_every_kind(batch, width, labels, chunk_size, k, rng):
    arguments = draw(rng, batch, width, labels)
    positives, dense = indices(rng, batch, labels, k)
    ours = functools.partial(fused, positives=positives, chunk_size=chunk_size)
    theirs = functools.partial(unfused, labels=dense)
    close(*(jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arguments) for loss in (ours, theirs)))


def test_weights_of_every_shape(rng):
    arguments = draw(rng)
    positives, dense = indices(rng)
    for options in (
        {"weight": positive(B, 1), "pos_weight": [2.0], "reduction": "weighted_mean"},
        {"weight": positive(1, L), "label_smoothing": 1, "reduction": "weighted_mean"},
        {"weight": 2, "pos_weight": positive(B, L), "reduction": "sum"},
        {"reduction": "weighted_mean"},
    ):
        close(fused(*arguments, positives=positives, chunk_size=4, **options), unfused(*arguments, dense, **options))


def test_labels_of_every_kind(rng):
    features, kernel, bias = draw(rng)
    positives, dense = indices(rng)
    expected = unfused(features, kernel, bias, dense)
    for dtype in (bool, np.uint8, jnp.bfloat16):
        close(fused(features, kernel, bias, dense.astype(dtype)), expected)
    for dtype in (np.int8, np.int64):
        close(fused(features, kernel, bias, positives=positives.astype(dtype)), expected)
    unsigned = np.abs(positives).astype(np.uint8)
    close(
        fused(features, kernel, bias, positives=unsigned),
        unfused(features, kernel, bias, oracle.multi_hot(unsigned, L)),
    )
    close(fused(*draw(rng, B, D, 300), positives=unsigned) > 0, True)  # 300 does not fit uint8
    close(linear_binary_cross_entropy(features, kernel, dense), unfused(features, kernel, 0 * bias, dense))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "value_bar", "gradient_bar"),
    [(jnp.float32, 5e-7, 2e-6), (jnp.float16, 1e-6, 5e-3), (jnp.bfloat16, 1e-6, 5e-3)],
)
def test_accuracy(dtype, value_bar, gradient_bar, rng):
    """Against float64, for the arguments as the dtype has rounded them."""
    batch, width, labels = 32, 64, 5000
    features, kernel, bias = draw(rng, batch, width, labels, dtype)
    kernel = kernel / 8
    positives, dense = indices(rng, batch, labels)
    ours = functools.partial(fused, positives=positives, reduction="sum", chunk_size=512)
    value, gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(features, kernel, bias)
    assert value.dtype == jnp.float32
    assert all(gradient.dtype == dtype for gradient in gradients)
    exact = [np.asarray(a, np.float64) for a in (features, kernel, bias)]
    logits = exact[0] @ exact[1] + exact[2]
    close(value, oracle.logit_loss(logits, dense).sum(), value_bar)
    slope = np.asarray(oracle.logit_slope(logits, dense), np.float64)
    close(gradients, (slope @ exact[1].T, exact[0].T @ slope, slope.sum(0)), gradient_bar)


@pytest.mark.slow
def test_second_derivatives_in_low_precision(rng):
    arguments = draw(rng, dtype=jnp.bfloat16)
    positives, dense = indices(rng)

    def second(loss, arguments):
        return jax.jvp(jax.grad(lambda *a: loss(*a), (0, 1, 2)), arguments, arguments)[1]

    ours = functools.partial(fused, positives=positives, reduction="sum", chunk_size=4)
    theirs = functools.partial(unfused, labels=dense, reduction="sum")
    exact = tuple(a.astype(jnp.float64) for a in arguments)
    close(second(ours, arguments), second(theirs, exact), 2e-2)


def test_infinite_and_nan_features(rng):
    """An infinite logit costs 0 or inf; a NaN stays in its row."""
    kernel = jnp.asarray([[1.0, -1.0]])
    features = jnp.asarray([[jnp.inf], [-jnp.inf], [jnp.nan], [0.0]])
    positives = np.asarray([[0], [0], [0], [0]])
    losses = linear_binary_cross_entropy(features, kernel, positives=positives, reduction="none")
    np.testing.assert_allclose(losses, [0, np.inf, np.nan, 2 * np.log(2)])
    bias = jnp.asarray([jnp.inf, -jnp.inf, 0.0])
    certain = functools.partial(fused, positives=np.zeros((B, 1), int), reduction="sum")
    with configured(jax_debug_nans=True):
        value, gradients = jax.value_and_grad(certain, (0, 1, 2))(*draw(rng, labels=3)[:2], bias)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[2][:2] == 0).all()
    assert linear_binary_cross_entropy(features[:2], kernel, positives=positives[:2], weight=[[1.0], [0.0]]) == 0


def test_gradients_of_each_example(rng):
    features, kernel, bias = draw(rng)
    positives, dense = indices(rng)

    def ours(x, row, kernel):
        return fused(x[None], kernel, bias, positives=row[None], chunk_size=4)

    def theirs(x, row, kernel):
        return unfused(x[None], kernel, bias, row[None])

    def gradients(loss, labels):
        return jax.jit(jax.vmap(jax.grad(loss, (0, 2)), (0, 0, None)))(features, labels, kernel)

    close(gradients(ours, jnp.asarray(positives)), gradients(theirs, jnp.asarray(dense)))


def test_positives_beyond_the_labels(rng):
    arguments = draw(rng)
    positives = np.asarray([[0, L], [1, -1], [2, 2], [L - 1, 0]])
    with pytest.raises(ValueError, match=rf"below {L}, or negative for padding, got values from 0 to {L}"):
        fused(*arguments, positives=positives)

    def rows(positives, features):
        return fused(features, *arguments[1:], positives=positives, reduction="none", chunk_size=4)

    losses = jax.jit(rows)(positives, arguments[0])
    close(losses[1:], unfused(*arguments, oracle.multi_hot(positives, L), reduction="none")[1:])
    assert np.isnan(losses[0])
    slope = jax.jit(
        jax.grad(lambda x: fused(x, *arguments[1:], positives=jnp.asarray(positives) + 0 * jnp.int64(x.sum())))
    )
    np.testing.assert_array_equal(np.isnan(slope(arguments[0])).all(1), [True, False, False, False])
    error, _ = checkify.checkify(jax.jit(rows), errors=checkify.user_checks)(positives, arguments[0])
    assert f"positives must be label indices below {L}" in error.get()


def test_refusals(rng):
    x, k, c = draw(rng)
    positives, dense = indices(rng)
    refusals = [
        (TypeError, "features must be floating, got dtype int", (x.astype(int), k), {"positives": positives}),
        (TypeError, "kernel must be floating", (x, k > 0), {"positives": positives}),
        (ValueError, r"features must have shape \[B, D\].*kernel.T", (x, k.T), {"positives": positives}),
        (ValueError, r"features must have shape \[B, D\]", (x[0], k), {"positives": positives}),
        (ValueError, "either labels.*got neither", (x, k), {}),
        (ValueError, "either labels.*got both", (x, k, dense), {"positives": positives}),
        (ValueError, r"\(4, 11\), got \(4, 5\).*positives", (x, k, positives), {}),
        (ValueError, r"labels must lie in .* to 2.0. Where a label is missing, write 0", (x, k, dense * 2), {}),
        (TypeError, "positives must be integers", (x, k), {"positives": positives * 1.0}),
        (TypeError, "positives must be integers.*0 and 1", (x, k), {"positives": positives > 0}),
        (ValueError, r"positives must have shape \(4, K\)", (x, k), {"positives": positives[0]}),
        (ValueError, r"positives must have shape \(4, K\)", (x, k), {"positives": positives[:2]}),
        (ValueError, r"bias must have shape \(11,\)", (x, k, dense), {"bias": c[:1]}),
        (
            ValueError,
            r"weight must be a scalar or broadcast to the shape of features @ kernel",
            (x, k, dense),
            {"weight": np.ones(B)},
        ),
        (ValueError, "chunk_size must be at least 1, got 0", (x, k, dense), {"chunk_size": 0}),
        (TypeError, "chunk_size must be an integer or None, got 2.5", (x, k, dense), {"chunk_size": 2.5}),
        (TypeError, "chunk_size must be an integer or None, got True", (x, k, dense), {"chunk_size": True}),
        (ValueError, "axis_name must name a mapped axis, got 'i'", (x, k, dense), {"axis_name": "i"}),
        (TypeError, "label_axis_name must be the name of a mapped axis", (x, k, dense), {"label_axis_name": 3}),
    ]
    for error, message, arguments, options in refusals:
        with pytest.raises(error, match=f"^linear_binary_cross_entropy: .*{message}"):
            linear_binary_cross_entropy(*arguments, **options)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"axis_name": ("i", "i")}, "axis_name must name an axis once"),
        ({"axis_name": "i", "label_axis_name": "i"}, "must be different axes"),
    ],
)
def test_an_axis_splits_one_thing(rng, axes, message):
    x, k, _ = draw(rng)

    def loss(x):
        return linear_binary_cross_entropy(x, k, jnp.zeros((B, L)), **axes)

    with pytest.raises(ValueError, match=f"^linear_binary_cross_entropy: .*{message}"):
        jax.vmap(loss, axis_name="i")(x[None])


def test_an_axis_in_a_list(rng):
    x, k, _ = draw(rng)
    labels = jnp.zeros((B, L))
    several = jax.vmap(lambda x: linear_binary_cross_entropy(x, k, labels, axis_name=["i"]), axis_name="i")(x[None])
    close(several[0], linear_binary_cross_entropy(x, k, labels))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_an_infinite_negative_stays_out_of_the_derivative_by_pos_weight(reduction):
    features, kernel = jnp.asarray([[1e200]]), jnp.asarray([[1e200, 1.0]])
    for labels in ({"positives": jnp.asarray([[1]])}, {"labels": jnp.asarray([[False, True]])}):

        def loss(w, labels=labels):
            return linear_binary_cross_entropy(features, kernel, **labels, pos_weight=w, reduction=reduction).sum()

        assert jax.value_and_grad(loss)(2.0) == (np.inf, 0.0)
        assert jax.jvp(loss, (2.0,), (1.0,)) == (np.inf, 0.0)


@pytest.mark.parametrize("labels", [{"positives": jnp.asarray([[0]])}, {"labels": jnp.asarray([[True, False]])}])
def test_a_nan_negative_makes_nan_of_the_derivative_by_pos_weight(labels):
    bias = jnp.asarray([0.0, jnp.nan])
    loss = functools.partial(linear_binary_cross_entropy, jnp.ones((1, 1)), jnp.ones((1, 2)), bias=bias, **labels)
    assert np.isnan(jax.grad(lambda w: loss(pos_weight=w))(2.0))


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_gradients_of_narrow_options_add_up_in_the_dtype_of_the_loss(reduction, rng):
    """A thousand chunks, of which bfloat16 would add up 256."""
    x, k, c = draw(rng, labels=1000, dtype=np.float32)
    positives = rng.integers(0, 1000, (B, 500))

    def loss(w, s):
        options = {"pos_weight": w, "label_smoothing": s, "reduction": reduction, "chunk_size": 1}
        return linear_binary_cross_entropy(x, k, bias=c, positives=positives, **options).sum()

    narrow = jax.grad(loss, (0, 1))(jnp.bfloat16(2), jnp.bfloat16(0.125))
    wide = jax.grad(loss, (0, 1))(jnp.float32(2), jnp.float32(0.125))
    assert all(gradient.dtype == jnp.bfloat16 for gradient in narrow)
    close([gradient.astype(jnp.float32) for gradient in narrow], wide, 4e-3)


def test_the_domain_is_that_of_the_dtype_that_is_computed_in(rng):
    """The wider one of features and kernel."""
    (x, k, c), dense = draw(rng, dtype=np.float32), np.ones((B, L))
    assert fused(x, k, c, dense * (1 + 1e-12)) == fused(x, k, c, dense)
    with pytest.raises(ValueError, match="weight must be finite"):
        fused(x, k, c, dense, weight=np.float64(1e39))
    wide = k.astype(np.float64)
    assert np.isfinite(fused(x, wide, c, dense, weight=np.float64(1e39)))
    assert np.isnan(jax.jit(fused)(x, k, c, 2 * dense))
    for options in ({"pos_weight": np.float64(-1e-50)}, {"label_smoothing": np.float64(1 + 1e-12)}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
            fused(x, wide, c, dense, **options)


# --- What it stores -----------------------------------------------------------------------------------------------


def compiled(labels, argnums=(0, 1, 2), dtype=jnp.float32, **options):
    """A step at B=256, D=128, K=10."""
    shapes = ((256, 128), dtype), ((128, labels), dtype), ((labels,), dtype), ((256, 10), jnp.int32)
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def loss(features, kernel, bias, positives):
        return jnp.sum(fused(features, kernel, bias, positives=positives, **options))

    return jax.jit(jax.value_and_grad(loss, argnums)).lower(*arguments).compile()


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_is_that_of_a_chunk(reduction):
    small, large = (
        # The rest that is left after whole chunks, which is a step of its own, is the same for both.
        compiled(labels, reduction=reduction).memory_analysis().temp_size_in_bytes
        for labels in (102_912, 1_024_000)
    )
    assert large <= 16e6
    assert large <= 1.01 * small


@pytest.mark.cpu
def test_a_frozen_kernel_has_no_gradient():
    labels, update = 102_400, "f32[128,102400]{1,0} dynamic-update-slice"
    assert update in compiled(labels).as_text()
    assert update not in compiled(labels, argnums=0).as_text()


# --- On a mesh ----------------------------------------------------------------------------------------------------

SPLIT = PartitionSpec
CASES_ON_A_MESH = [
    ({"positives": SPLIT("batch"), "weight": SPLIT("label"), "pos_weight": SPLIT("label")}, "mean"),
    ({"labels": SPLIT("batch", "label"), "weight": SPLIT("batch")}, "weighted_mean"),
]


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize(("specs", "reduction"), CASES_ON_A_MESH, ids=[reduction for _, reduction in CASES_ON_A_MESH])
def test_batch_and_labels_split_over_devices(specs, reduction, rng):
    """Two by four devices give what one gives, in value, gradient and second derivative, and gather no kernel."""
    mesh = Mesh(np.asarray(jax.devices("cpu")).reshape(2, 4), ("batch", "label"))
    labels = 4 * L
    x, k, c = draw(rng, labels=labels)
    shapes = {"batch": (B, 1), "label": (labels,)}
    options = {name: positive(*(shapes[spec[0]] if spec else ())) for name, spec in specs.items() if "weight" in name}
    if "labels" in specs:
        options["labels"] = rng.random((B, labels))
    else:
        options["positives"] = indices(rng, B, labels)[0]
    numbers = [jnp.asarray(options[name]) for name in specs]

    def loss(x, k, c, *numbers, **axes):
        given = dict(zip(specs, numbers, strict=True))
        return fused(x, k, c, reduction=reduction, chunk_size=4, **given, **axes)

    local = functools.partial(loss, axis_name="batch", label_axis_name="label")
    in_specs = (SPLIT("batch"), SPLIT(None, "label"), SPLIT("label"), *specs.values())
    mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=SPLIT())

    def derivatives(f):
        every = tuple(i for i, a in enumerate((x, k, c, *numbers)) if jnp.issubdtype(a.dtype, jnp.floating))
        value = jax.value_and_grad(f, every)
        return lambda x, *a: jax.jvp(lambda x: value(x, *a), (x,), (x,))

    step = jax.jit(derivatives(mapped))
    close(step(x, k, c, *numbers), jax.jit(derivatives(loss))(x, k, c, *numbers))
    assert "all-gather" not in step.lower(x, k, c, *numbers).compile().as_text()


@pytest.mark.cpu
def test_losses_of_examples_on_a_mesh(rng):
    """They stay where their examples are; several axes of a mesh may share the labels."""
    mesh = Mesh(np.asarray(jax.devices("cpu")).reshape(2, 2, 2), ("batch", "label", "more"))
    x, k, c = draw(rng, labels=4 * L)
    positives, _ = indices(rng, B, 4 * L)

    def losses(x, k, c, positives, **axes):
        return fused(x, k, c, positives=positives, reduction="none", **axes)

    split = "label", "more"
    in_specs = SPLIT("batch"), SPLIT(None, split), SPLIT(split), SPLIT("batch")
    local = functools.partial(losses, label_axis_name=split)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=SPLIT("batch"))
    close(jax.jit(mapped)(x, k, c, positives), losses(x, k, c, positives))
