"""Every loss has its exact derivatives, to every order, wherever it is called.

JAX before 0.12 forgets custom derivative rules where reverse mode goes through a `scan` and the result is
differentiated again: it then differentiates the formula under the rule. A kink in that formula (|x|, sign, max) gives
wrong derivatives at logits of 0 and at ties of the maximum, and right ones elsewhere. So the law is held at such
logits, in every place where a loop or a transform may stand, under every nesting of forward and reverse mode.

The oracle is the definition of each loss, naive and without a kink, differentiated by JAX outside of any loop.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jaxbce
from tests import oracle
from tests.losses import FAMILIES, LOSSES

EARLIER = jax.__version_info__ < (0, 10)
STEPS = 2
"""Trips of each loop, and devices of the mesh."""
TOLERANCE = 1e-9
"""Of the largest entry of a derivative."""

# --- Arguments --------------------------------------------------------------------------------------------------------

ROUNDINGS = {
    "zero": np.zeros_like,
    "integers": np.round,
    "halves": lambda x: np.round(2 * x) / 2,
    "bfloat16": lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64),
    "random": lambda x: x,
}
"""Every prediction is rounded by one of these: "zero" is a zero-initialised head, integers and halves are often 0."""


def logits(*shape):
    """Draw logits of moderate size, the first of each row so small that integers and halves have a 0 there."""

    def draw(rng, rounding):
        drawn = np.clip(rng.normal(0, 2, (STEPS, *shape)), -6, 6)
        drawn[..., 0] *= 0.03
        return rounding(drawn)

    return draw


def probs(*shape):
    """Draw probabilities in (0.05, 0.95): eighths for integers, sixteenths for halves, and 1/2 where a logit is 0."""

    def draw(rng, rounding):
        drawn = rng.uniform(-3.6, 3.6, (STEPS, *shape))
        drawn[..., 0] *= 0.03
        return 0.5 + rounding(drawn) / 8

    return draw


def class_logits(rng, rounding):
    """Draw logits of four classes, the first two of which tie under every rounding, in most rows at the maximum."""
    drawn = rng.normal(size=(STEPS, 3, 4))
    drawn[..., :2] = 2.09375 + 1e-3 * drawn[..., :2]
    return rounding(drawn)


def features(*shape, zero=True):
    """Draw features; where the logits of "zero" are made otherwise, they are not rounded to zero themselves."""

    def draw(rng, rounding):
        drawn = np.clip(rng.normal(size=shape), -2, 2)
        return drawn if rounding is np.zeros_like and not zero else rounding(drawn)

    return draw


def uniform(*shape, low=0.2, high=0.8):
    """Draw labels, weights and the like, well inside of their domains, and all differentiated too."""
    return lambda rng, _: rng.uniform(low, high, shape)


def soft_labels(*shape):
    """Draw labels, one of which is 1/2 exactly."""

    def draw(rng, _):
        labels = rng.uniform(0.1, 0.9, (STEPS, *shape))
        labels[0, 0] = 0.5
        return labels

    return draw


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Calls of a loss, and of the naive definition of the same.

    Attributes:
        calls: makes of a loss a function, by keyword, of what is drawn; its result has any shape.
        losses: the public function and the naive definition.
        of_steps: by name, what each step draws of its own, from a generator and a rounding of predictions.
        shared: what the steps have in common.
        fixed: what each step has of its own and cannot be differentiated.
    """

    name: str
    calls: Callable[[Callable[..., Any]], Callable[..., Any]]
    losses: tuple[Callable[..., Any], Callable[..., Any]]
    of_steps: dict[str, Callable[..., Any]]
    shared: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)


def joined(*losses):
    return jnp.concatenate([jnp.ravel(a) for a in losses])


# --- The losses -------------------------------------------------------------------------------------------------------

NAIVE = {
    jaxbce.binary_cross_entropy_with_logits: oracle.naive_logit_loss,
    jaxbce.binary_cross_entropy: oracle.naive_prob_loss,
    jaxbce.sigmoid_focal_loss: oracle.naive_focal_loss,
    jaxbce.asymmetric_loss: oracle.naive_asymmetric_loss,
}
POS_WEIGHT = {"pos_weight": uniform(5)}
PARAMETERS = {
    "gamma": uniform(low=1.2, high=2.8),
    "alpha": uniform(),
    "gamma_pos": uniform(low=0.5, high=2),
    "gamma_neg": uniform(5, low=1.2, high=2.8),
    "margin": uniform(low=0.02, high=0.1),
}
HARD = np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 0]])


def entrywise(row, parameters):
    """A row of the table, with hard labels and with soft ones, weights and those of the parameters that it takes."""
    free = {name: draw for name, draw in parameters.items() if row.takes(name)}
    smoothed = {"label_smoothing": uniform()} if row.takes("pos_weight") else {}

    def calls(loss):
        def losses(x, y, hard, weight, label_smoothing=None, **free):
            call = functools.partial(loss, **row.bound)
            found = [call(x, hard), call(x, y, weight=weight, reduction="none", **free)]
            if smoothed:
                options = {"label_smoothing": label_smoothing, "reduction": "weighted_mean"}
                found.append(call(x, y, weight=weight, **options))
            return joined(*found)

        return losses

    return Case(
        row.name,
        calls,
        (row.function, oracle.naive_call(NAIVE[row.function])),
        {"x": (probs if row.function is jaxbce.binary_cross_entropy else logits)(5), "y": soft_labels(5)},
        {"weight": uniform(5), **smoothed, **free},
        {"hard": HARD},
    )


def of_classes(loss):
    def losses(x, y, classes, class_weight, label_smoothing):
        options = {"class_weight": class_weight, "label_smoothing": label_smoothing}
        return joined(
            loss(x, classes),
            loss(x, y, reduction="none"),
            loss(x, classes, **options, reduction="none"),
            loss(x, y, **options, reduction="weighted_mean"),
        )

    return losses


def of_positives(loss):
    def losses(pos_weight, weight, **data):
        return joined(loss(**data), loss(**data, pos_weight=pos_weight, weight=weight, reduction="none"))

    return losses


def naive_positives(logits, positives, **options):
    labels = oracle.multi_hot(positives, logits.shape[-1])
    return oracle.naive_call(oracle.naive_logit_loss)(logits, labels, **options)


def in_both(loss):
    return lambda **data: joined(loss(**data), loss(**data, reduction="none"))


def adversarial(losses):
    """Of two batches of different sizes."""
    discriminator, generator = losses
    return lambda real, fake, s: joined(
        discriminator(real, fake, label_smoothing=s), generator(fake), generator(fake, saturating=True)
    )


naive_bce = oracle.naive_call(oracle.naive_logit_loss)
NAIVE_ADVERSARIES = (
    lambda real, fake, label_smoothing: naive_bce(real, 1 - label_smoothing / 2) + naive_bce(fake, 0),
    lambda fake, saturating=False: -naive_bce(fake, 0) if saturating else naive_bce(fake, 1),
)

POSITIVES = {"positives": np.array([[[0, 3], [4, -1], [-1, -1]], [[1, 1], [2, 0], [3, 4]]])}
CASES = [
    *(entrywise(row, POS_WEIGHT) for row in LOSSES if row.function in NAIVE),
    Case(
        "cross_entropy",
        of_classes,
        (jaxbce.cross_entropy, oracle.naive_cross_entropy),
        {"x": class_logits, "y": soft_labels(3, 4)},
        {"class_weight": uniform(4), "label_smoothing": uniform()},
        {"classes": np.array([[0, 3, 1], [2, 2, 0]])},
    ),
    Case(
        "sparse_binary_cross_entropy_with_logits",
        of_positives,
        (jaxbce.sparse_binary_cross_entropy_with_logits, naive_positives),
        {"logits": logits(3, 5)},
        {"pos_weight": uniform(5), "weight": uniform()},
        POSITIVES,
    ),
    Case(
        "gan_discriminator_loss and gan_generator_loss",
        adversarial,
        ((jaxbce.gan_discriminator_loss, jaxbce.gan_generator_loss), NAIVE_ADVERSARIES),
        {"real": logits(3), "fake": logits(4)},
        {"s": uniform()},
    ),
    Case(
        "linear_binary_cross_entropy",
        in_both,
        (functools.partial(jaxbce.linear_binary_cross_entropy, chunk_size=2), oracle.naive_head),
        {"features": features(STEPS, 3, 2, zero=False)},
        {"kernel": features(2, 5), "bias": features(5), "pos_weight": uniform(5), "weight": uniform(3, 1)},
        POSITIVES,
    ),
    Case(
        "sigmoid_contrastive_loss",
        in_both,
        (functools.partial(jaxbce.sigmoid_contrastive_loss, tile_size=2), oracle.naive_pairs),
        {"x": features(STEPS, 4, 2), "y": features(STEPS, 4, 2, zero=False)},
        {"logit_scale": lambda rng, _: rng.choice([0.5, 1.0, 2.0]), "logit_bias": features()},
    ),
]
OF_PARAMETERS = [entrywise(row, PARAMETERS) for row in FAMILIES if any(map(row.takes, PARAMETERS))]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

# --- The places -------------------------------------------------------------------------------------------------------
# Each is the sum of step(shared, one) over the steps, of which every array of `steps` has one along its first axis.


def name_of(place):
    return place.__name__


def take(steps, i):
    return jax.tree.map(lambda a: a[i], steps)


def plain(step, shared, steps):
    return sum(step(shared, take(steps, i)) for i in range(STEPS))


def in_vmap(step, shared, steps):
    return jnp.sum(jax.vmap(lambda one: step(shared, one))(steps))


def in_scan(step, shared, steps):
    return jax.lax.scan(lambda total, one: (total + step(shared, one), None), jnp.zeros(()), steps)[0]


def in_fori_loop(step, shared, steps):
    return jax.lax.fori_loop(0, STEPS, lambda i, total: total + step(shared, take(steps, i)), jnp.zeros(()))


def in_map(step, shared, steps):
    return jnp.sum(jax.lax.map(lambda one: step(shared, one), steps))


def in_checkpoint_in_scan(step, shared, steps):
    return in_scan(jax.checkpoint(step), shared, steps)


def in_shard_map(step, shared, steps):
    mesh = Mesh(np.asarray(jax.devices("cpu")[:STEPS]), ("data",))

    def of_device(shared, part):
        return jax.lax.psum(step(shared, take(part, 0)), "data")

    specs = PartitionSpec(), PartitionSpec("data")
    return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(shared, steps)


# --- The derivatives --------------------------------------------------------------------------------------------------


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def forward(f, along):
    """The derivative of f along a direction."""
    return lambda x: jax.jvp(f, (x,), (along,))[1]


def reverse(f, along):
    """The gradient of <f, along>: for a gradient f, what `forward` gives too."""
    return jax.grad(lambda x: dot(f(x), along))


def total_of(place, loss):
    """A function of (multipliers, arguments, fixed), in which the loss is used linearly and not.

    The multipliers stand in the step but outside of the loss: by them the loss itself is not differentiated.
    """

    def total(multipliers, arguments, fixed):
        def step(shared, one):
            multiplier, of_step, fixed = one
            losses = loss(**shared, **of_step, **fixed)
            return jnp.sum(multiplier * (losses + losses**2))

        shared, of_steps = arguments
        return place(step, shared, (multipliers, of_steps, fixed))

    return total


def hessian(total, multipliers, arguments, fixed, directions):
    gradient = jax.grad(lambda arguments: total(multipliers, arguments, fixed))
    return {"fwd-rev": forward(gradient, directions[1])(arguments)}


def second_order(total, multipliers, arguments, fixed, directions):
    """Derivatives by the name of their modes, the outermost first.

    By the multipliers first: what is then differentiated again is the formula of the value, and no derivative rule.
    """
    along_multipliers, u, v = directions

    def by_multipliers(arguments):
        return dot(jax.grad(total)(multipliers, arguments, fixed), along_multipliers)

    gradient = jax.grad(lambda arguments: total(multipliers, arguments, fixed))
    derivatives = {
        "fwd-rev": forward(gradient, u),
        "rev-rev": lambda arguments: dot(reverse(gradient, u)(arguments), v),
        "fwd-rev, by multipliers": forward(jax.grad(by_multipliers), u),
    }
    return {name: derivative(arguments) for name, derivative in derivatives.items()}


def every_order(total, multipliers, arguments, fixed, directions):
    """The same and further modes, and third derivatives; the second come along with the third."""
    along_multipliers, u, v = directions

    def value(arguments):
        return total(multipliers, arguments, fixed)

    def by_multipliers(arguments):
        return dot(jax.grad(total)(multipliers, arguments, fixed), along_multipliers)

    gradient, along = jax.grad(value), forward(value, u)
    found = {"rev-fwd": jax.grad(along)(arguments)}
    found["fwd-rev"], found["fwd-fwd-rev"] = jax.jvp(forward(gradient, u), (arguments,), (v,))
    found["rev-rev"], found["rev-rev-rev"] = jax.value_and_grad(lambda x: dot(reverse(gradient, u)(x), v))(arguments)
    found["fwd-fwd"], found["rev-fwd-fwd"] = jax.value_and_grad(forward(along, v))(arguments)
    found["fwd-rev, by multipliers"] = forward(jax.grad(by_multipliers), u)(arguments)
    return found


def drawn(case, kind):
    """The multipliers, arguments, fixed inputs and directions of a case, from the same randomness for every kind."""
    rng, rounding = np.random.default_rng(20260101), ROUNDINGS[kind]
    draws = case.shared, case.of_steps
    arguments = tuple({name: np.asarray(draw(rng, rounding)) for name, draw in by.items()} for by in draws)
    losses = case.calls(case.losses[1])(**arguments[0], **take(arguments[1], 0), **take(case.fixed, 0))
    multipliers = rng.uniform(0.5, 2, (STEPS, *losses.shape))
    along, other = (jax.tree.map(lambda a: rng.normal(size=np.shape(a)), arguments) for _ in range(2))
    return jax.tree.map(
        jnp.asarray, (multipliers, arguments, case.fixed, (rng.normal(size=multipliers.shape), along, other))
    )


def at_every_kind(derivatives, place, case, which=0):
    """Of the public loss, or of the naive one: one compilation for all kinds of predictions.

    It goes without LLVM's optimisations, which take a quarter of its time.
    """
    total = total_of(place, case.calls(case.losses[which]))
    compiled = jax.jit(functools.partial(derivatives, total), compiler_options={"xla_backend_optimization_level": 0})
    return {kind: jax.device_get(compiled(*drawn(case, kind))) for kind in ROUNDINGS}


@functools.cache
def expected(case):
    """The same derivatives of the naive definition, under `vmap` in the place of a loop."""

    def derivatives(total, multipliers, arguments, fixed, directions):
        along_multipliers, u, v = directions
        gradient = jax.grad(lambda arguments: total(multipliers, arguments, fixed))
        second, third = jax.jvp(forward(gradient, u), (arguments,), (v,))
        # The total is linear in the multipliers.
        mixed = forward(jax.grad(lambda arguments: total(along_multipliers, arguments, fixed)), u)(arguments)
        return {
            **dict.fromkeys(["fwd-rev", "rev-fwd"], second),
            **dict.fromkeys(["rev-rev", "fwd-fwd"], dot(second, v)),
            **dict.fromkeys(["fwd-fwd-rev", "rev-rev-rev", "rev-fwd-fwd"], third),
            "fwd-rev, by multipliers": mixed,
        }

    return at_every_kind(derivatives, in_vmap, case, which=1)


def error(actual, exact):
    """The largest error of an array or tree, as a share of its largest entry; NaN is an error without bound."""
    actual, exact = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (actual, exact))
    size = np.max(np.abs(actual - exact)) / np.max(np.abs(exact))
    return float(np.nan_to_num(size, nan=np.inf))


def assert_exact(case, derivatives, place):
    exact = expected(case)
    errors = {
        (kind, mode): error(derivative, exact[kind][mode])
        for kind, modes in at_every_kind(derivatives, place, case).items()
        for mode, derivative in modes.items()
    }
    wrong = {name: size for name, size in errors.items() if size > TOLERANCE}
    assert not wrong, "\n".join(f"{', '.join(name)}: off by {size:.1e}" for name, size in wrong.items())


# --- The laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    # CI runs the cases that differ from another one in parameters or labels alone.
    [pytest.param(c, marks=[pytest.mark.slow] if re.search("=|gan|sparse", c.name) else [], id=c.name) for c in CASES],
)
def test_hessian_in_a_scan_is_exact_at_zeros_and_ties(case):
    assert_exact(case, hessian, in_scan)


@pytest.mark.slow
@pytest.mark.parametrize("place", [in_vmap, in_scan], ids=name_of)
@every_case
def test_second_and_third_derivatives_are_exact_in_every_mode(case, place):
    assert_exact(case, every_order, place)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", [plain, in_checkpoint_in_scan, pytest.param(in_shard_map, marks=pytest.mark.cpu)], ids=name_of
)
@every_case
def test_second_derivatives_are_exact_in_every_place(case, place):
    # JAX 0.6 fails to transpose `dynamic_update_slice` in `shard_map`, which reverse over reverse mode asks of a head.
    fails = EARLIER and place is in_shard_map and case.name == "linear_binary_cross_entropy"
    assert_exact(case, hessian if fails else second_order, place)


@pytest.mark.slow
@pytest.mark.parametrize("place", [in_fori_loop, in_map], ids=name_of)
@every_case
def test_hessian_is_exact_in_every_loop(case, place):
    """To reverse mode these are scans."""
    assert_exact(case, hessian, place)


@pytest.mark.slow
@pytest.mark.parametrize("place", [plain, in_scan], ids=name_of)
@pytest.mark.parametrize("case", OF_PARAMETERS, ids=lambda case: case.name)
def test_second_derivatives_by_parameters_are_exact(case, place):
    assert_exact(case, second_order, place)


@pytest.mark.parametrize("kind", ["zero", "integers", "halves", "bfloat16"])
def test_rounded_predictions_have_ties_at_the_maximum_and_zeros(kind, rng):
    rounding = ROUNDINGS[kind]
    x = class_logits(rng, rounding)
    assert np.mean(np.sum(x == x.max(-1, keepdims=True), -1) > 1) > 0.5
    if kind != "bfloat16":
        assert (logits(5)(rng, rounding) == 0).any(-1).all()
        assert (probs(5)(rng, rounding) == 0.5).any(-1).all()


# --- Beside the table -------------------------------------------------------------------------------------------------


def test_hessian_of_cross_entropy_at_ties_in_a_scan_is_diag_p_minus_outer_p(rng):
    """In closed form, forward over reverse and reverse over reverse."""
    x, along = np.round(2 * rng.normal(size=(64, 5))) / 2, rng.normal(size=(64, 5))
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    def total(rows):
        return jax.lax.scan(lambda sum_, row: (sum_ + jaxbce.cross_entropy(row, 0), None), jnp.zeros(()), rows)[0]

    gradient = jax.grad(total)
    for product in jax.jit(lambda x: (forward(gradient, along)(x), reverse(gradient, along)(x)))(x):
        np.testing.assert_allclose(product, p * (along - (p * along).sum(-1, keepdims=True)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_hessian_by_a_bfloat16_kernel_in_a_scan(reduction):
    """A CPU moves its chunks as bits, which have no derivative."""
    features = jnp.float32([[1.0, -2.0], [0.5, 1.5]])
    kernel, along = (jnp.asarray(value, jnp.bfloat16) for value in ([[1, 0, -1], [0, 2, 1]], [[1, 1, 0], [-1, 0, 2]]))
    positives = jnp.array([[0], [2]])

    def step(kernel, scale):
        return scale * jnp.sum(
            jaxbce.linear_binary_cross_entropy(features, kernel, positives=positives, reduction=reduction, chunk_size=1)
        )

    def in_loop(kernel, scale):
        return jax.lax.scan(lambda total, _: (total + step(kernel, scale), None), jnp.float32(0), None, 2)[0] / 2

    def mixed(loss, order):
        first = {"kernel first": jax.grad(loss), "scale first": lambda k, s: jax.grad(jax.grad(loss, 1))(k, s)}[order]
        return jax.jit(lambda k: jax.jvp(lambda k: first(k, jnp.float32(1)), (k,), (along,))[1])(kernel)

    for order in ("kernel first", "scale first"):
        expected = mixed(step, order)
        assert np.abs(np.asarray(expected, np.float32)).max() > 0.01
        np.testing.assert_allclose(
            np.asarray(mixed(in_loop, order), np.float32), np.asarray(expected, np.float32), rtol=0.02, atol=1e-3
        )
