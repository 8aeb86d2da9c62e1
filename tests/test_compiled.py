"""What stands for speed and can be counted: memory beside inputs and results, passes over them, traces."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce
from tests.losses import BINARY, FAMILIES, each_of

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # Other compilers fuse what they see fit.

LARGE = 2**21
"""Entries from which on a loss and its reduction are one loop, where no derivative is asked for."""

EARLIER = jax.__version_info__ < (0, 10)
since_0_10 = pytest.mark.skipif(EARLIER, reason="earlier compilers store more")
every_loss = each_of(FAMILIES)
every_binary_loss = each_of(BINARY)

OPTIONS = [(), ("pos_weight",), ("weight",), ("where",)]


def compiled(row, names, transform, size, dtype):
    """A loss and its options, each of the size of the predictions, compiled."""
    array, mask = jax.ShapeDtypeStruct((size,), dtype), jax.ShapeDtypeStruct((size,), jnp.bool_)
    arrays = [array, array, *(mask if name == "where" else array for name in names)]

    def loss(x, y, *values):
        return row(x, y, **dict(zip(names, values, strict=True)))

    return jax.jit(transform(loss)).lower(*arrays).compile()


def stored(row, names, transform, size=LARGE, dtype=jnp.float32):
    """The memory that it needs beside arguments and results, in arrays of the size of the predictions."""
    memory = compiled(row, names, transform, size, dtype).memory_analysis()
    return memory.temp_size_in_bytes / (jnp.dtype(dtype).itemsize * size)


@every_binary_loss
def test_memory_beside_arguments_and_results(row):
    """A value or a gradient alone is computed on the fly; a step stores both, one after the other, in one array.

    A mask is counted as bytes, in a quarter of an array. Earlier compilers keep the losses in an array of their own.
    """
    step, plain = jax.value_and_grad, row.name.startswith("binary")
    known = [names for names in OPTIONS if all(map(row.takes, names))]
    for names, size in [*((names, LARGE) for names in known), ((), LARGE - 16)]:
        most = 1.1 if EARLIER else 0.26 if names == ("where",) else 0.01
        assert stored(row, names, step, size) < most, names
    if EARLIER:
        return
    for names in known[:-1]:
        # The others' formulas are long: in a loop of their own they are faster.
        assert stored(row, names, lambda loss: loss) < (0.01 if plain else 1.1), names
        assert stored(row, names, jax.grad) < 0.01, names
    if plain:
        assert stored(row, ("where",), lambda loss: loss) < 1.26
        # Losses are float32, and so computed in the loop that reduces them.
        assert stored(row, (), step, dtype=jnp.bfloat16) < 0.01


@since_0_10
@every_binary_loss
@pytest.mark.parametrize("bias", [False, True])
def test_a_step_of_a_model_stores_two_arrays(row, bias):
    """The logits and the losses: the gradient takes the memory of either."""
    rows, labels = 2**11, 2**10
    features, kernel = jnp.ones((rows, 8), jnp.float32), jax.ShapeDtypeStruct((8, labels), jnp.float32)
    each, mask = (jax.ShapeDtypeStruct((rows, labels), dtype) for dtype in (jnp.float32, jnp.bool_))

    def loss(parameters, y, options):
        kernel, shift = parameters
        x = features @ kernel + shift if bias else features @ kernel
        x = jax.nn.sigmoid(x) if row.function is jaxbce.binary_cross_entropy else x
        return row(x, y, **options)

    parameters = kernel, jax.ShapeDtypeStruct((1, labels), jnp.float32)
    for names in OPTIONS:
        if all(map(row.takes, names)):
            options = {name: mask if name == "where" else each for name in names}
            memory = jax.jit(jax.value_and_grad(loss)).lower(parameters, each, options).compile().memory_analysis()
            assert memory.temp_size_in_bytes / (4 * rows * labels) < 2.02, names


@since_0_10
@each_of(BINARY[:2])
def test_losses_have_a_loop_of_their_own_where_it_is_faster(row):
    """It stores them; not where they are few, where their number is odd, and from `LARGE` on."""
    for size, most in ((2**12, 0), (2**14, 0), (2**14 + 16, 1), (LARGE - 16, 1), (LARGE - 1, 0), (LARGE, 0)):
        assert abs(stored(row, (), lambda loss: loss, size) - most) < 0.01, size


@since_0_10
@each_of(BINARY[:2])
def test_losses_of_odd_number_are_stored_beside_no_gradient(row):
    """Where a loop of their own is slow, that of the gradient alone makes an array."""
    for size, made in ((LARGE, 2), (LARGE - 1, 1)):
        program = compiled(row, (), jax.value_and_grad, size, jnp.float32).as_text()
        arrays = re.findall(rf"= f32\[(?:1,)?{size}\]\S* fusion\(", program[program.index("ENTRY") :])
        assert len(arrays) == made, size


@since_0_10
def test_few_classes_are_taken_one_by_one():
    """Of an entry little is stored, and no exponential: in arrays of the size of the logits."""
    x, t = jax.ShapeDtypeStruct((16_000, 10), jnp.float32), jax.ShapeDtypeStruct((16_000,), jnp.int32)
    for transform, most in ((lambda loss: loss, 0.2), (jax.value_and_grad, 0.45)):
        memory = jax.jit(transform(jaxbce.cross_entropy)).lower(x, t).compile().memory_analysis()
        assert memory.temp_size_in_bytes / (4 * x.size) < most


@since_0_10
def test_no_one_hot_array_for_indices():
    """Memory beside inputs and outputs: nothing of the size of the logits, with smoothing and weights either."""
    x, t = jnp.zeros((512, 1024), jnp.float32), jnp.zeros(512, jnp.int32)
    for options in (
        {},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.1, "class_weight": jnp.ones(1024, jnp.float32)},
    ):
        f = functools.partial(jaxbce.cross_entropy, **options)
        for g in (f, jax.grad(f), jax.value_and_grad(f)):
            memory = jax.jit(g).lower(x, t).compile().memory_analysis()
            assert memory.temp_size_in_bytes < 0.05 * x.nbytes, options


CALLS = {
    "binary": lambda x: jaxbce.binary_cross_entropy_with_logits(x, 1),
    "classes": lambda x: jaxbce.cross_entropy(x, jnp.zeros(3, jnp.int32)),
    "sparse": lambda x: jaxbce.sparse_binary_cross_entropy_with_logits(x, jnp.zeros((3, 1), jnp.int32)),
    "linear": lambda x: jaxbce.linear_binary_cross_entropy(x, x.T, positives=jnp.zeros((3, 1), jnp.int32)),
    "pairs": lambda x: jaxbce.sigmoid_contrastive_loss(x, x, logit_scale=1.0, logit_bias=0.0),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_ends_in_one_program(call):
    """Outside `jit` too: the last thing that is traced is a compiled function, and its result is returned."""
    jaxpr = jax.make_jaxpr(CALLS[call])(jnp.ones((3, 2), jnp.float32)).jaxpr
    assert jaxpr.eqns[-1].primitive.name in ("jit", "pjit")
    assert jaxpr.eqns[-1].outvars == jaxpr.outvars


@every_loss
def test_no_call_is_traced_twice(row):
    traces = []

    def listen(event, _, **kwargs):
        del kwargs
        if event.endswith("jaxpr_trace_duration"):
            traces.append(event)

    def call(seed):
        x = jnp.asarray(row.draw(np.random.default_rng(seed), (8,)), jnp.float32)
        y = jnp.ones(8, jnp.float32)
        row(x, y, weight=jnp.float32(seed), pos_weight=jnp.float32(seed), where=y > 0).block_until_ready()

    call(1)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call(2)
        assert traces == []
        jax.jit(lambda x: x + len(traces))(jnp.float32(1))
        assert traces != []  # The listener hears what there is to hear.
    finally:
        jax.monitoring.clear_event_listeners()


def test_small_terms_are_within_three_ulp_at_many_points(rng):
    """log(1 + exp(-|x|)), the whole loss of a right prediction, where XLA's own log1p is off by more."""
    x = np.concatenate([-(10.0 ** rng.uniform(-7, 1.9, 200_000)), np.linspace(-87, 0, 100_000)]).astype(np.float32)
    exact = np.log1p(np.exp(x.astype(np.float64)))
    unit = np.spacing(exact.astype(np.float32)).astype(np.float64)
    losses = jax.jit(functools.partial(jaxbce.binary_cross_entropy_with_logits, reduction="none"))(x, 0)
    assert np.max(np.abs(np.asarray(losses, np.float64) - exact) / unit) < 3
