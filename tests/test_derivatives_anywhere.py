"""Every loss has its exact derivatives, to every order, wherever it is called.

JAX before 0.12 forgets custom derivative rules where reverse mode goes through a `scan` and the result is
differentiated again: it then differentiates the formula under the rule. A kink in that formula (|x|, sign, max) gives
wrong derivatives at logits of 0 and at ties of the maximum, and right ones elsewhere. So the law is held at such
logits, in every place where a loop or a transform may stand, under every nesting of forward and reverse mode.

The oracle is the definition of each loss, naive and without a kink, differentiated by JAX outside of any loop: for
logits of moderate size that is exact to about 1e-13 in float64.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jaxbce

EARLIER = jax.__version_info__ < (0, 10)
STEPS = 2
"""Trips of each loop, and devices of the mesh."""
TOLERANCE = 1e-9
"""Of the largest entry of a derivative."""

# --- Predictions ----------------------------------------------------------------------------------------------------

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
        return {"logits": rounding(drawn)}

    return draw


def class_logits(rng, rounding):
    """Draw logits of four classes, the first two of which tie under every rounding, in most rows at the maximum."""
    drawn = rng.normal(size=(STEPS, 3, 4))
    drawn[..., :2] = 2.09375 + 1e-3 * drawn[..., :2]
    return {"logits": rounding(drawn)}


def probs(*shape):
    """Draw probabilities in (0.05, 0.95): eighths for integers, sixteenths for halves, and 1/2 where a logit is 0."""

    def draw(rng, rounding):
        drawn = rng.uniform(-3.6, 3.6, (STEPS, *shape))
        drawn[..., 0] *= 0.03
        return {"probs": 0.5 + rounding(drawn) / 8}

    return draw


def gan_logits(rng, rounding):
    """Draw logits of two batches, of different sizes."""
    return {"real_logits": logits(3)(rng, rounding)["logits"], "fake_logits": logits(4)(rng, rounding)["logits"]}


def features(rng, rounding):
    """Draw the features of each step; "zero" is about the head alone, whose kernel and bias are then zero."""
    drawn = np.clip(rng.normal(size=(STEPS, 3, 2)), -2, 2)
    return {"features": drawn if rounding is np.zeros_like else rounding(drawn)}


def pairs(rng, rounding):
    """Draw two batches of features; for "zero" the one is zero, and so is every logit but for the bias."""
    x, y = np.clip(rng.normal(size=(2, STEPS, 4, 2)), -2, 2)
    return {"x": rounding(x), "y": y if rounding is np.zeros_like else rounding(y)}


def head(rng, rounding):
    return {
        "kernel": rounding(np.clip(rng.normal(size=(2, 5)), -2, 2)),
        "bias": rounding(rng.normal(size=5)),
        "pos_weight": rng.uniform(0.5, 2, 5),
    }


def scale_and_bias(rng, rounding):
    return {"logit_scale": np.asarray(rng.choice([0.5, 1.0, 2.0])), "logit_bias": rounding(rng.normal(size=()))}


def uniform(**shapes):
    """Draw labels, weights and the like, well inside of their domains, and all differentiated too."""
    return lambda rng, _: {name: rng.uniform(0.2, 0.8, shape) for name, shape in shapes.items()}


def nothing(*_):
    return {}


# --- The losses and their naive definitions ---------------------------------------------------------------------------


def softplus(x):
    return jnp.log(1 + jnp.exp(x))


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def as_float(labels):
    return jnp.asarray(labels, jnp.float64)


def smoothed(labels, label_smoothing):
    return labels * (1 - label_smoothing) + label_smoothing / 2


def naive_logit_loss(logits, labels, pos_weight=1.0, weight=1.0, label_smoothing=0.0):
    labels = smoothed(as_float(labels), label_smoothing)
    return weight * (pos_weight * labels * softplus(-logits) + (1 - labels) * softplus(logits))


def naive_prob_loss(probs, labels, weight, label_smoothing):
    labels = smoothed(labels, label_smoothing)
    return -weight * (labels * jnp.log(probs) + (1 - labels) * jnp.log(1 - probs))


def naive_focal_loss(logits, labels, gamma, alpha=None, weight=1.0):
    labels, p = as_float(labels), sigmoid(logits)
    error = labels * (1 - p) + (1 - labels) * p
    share = 1.0 if alpha is None else alpha * labels + (1 - alpha) * (1 - labels)
    return weight * share * error**gamma * naive_logit_loss(logits, labels)


def naive_asymmetric_loss(logits, labels, gamma_pos, gamma_neg, margin, weight=1.0):
    labels, p = as_float(labels), sigmoid(logits)
    above = p > margin  # With the default gamma_neg of 4 all derivatives here are 0 where p = margin.
    u = jnp.where(above, p - margin, 0.5)
    negative = jnp.where(above, -(u**gamma_neg) * jnp.log(1 - u), 0.0)
    return weight * (labels * (1 - p) ** gamma_pos * softplus(-logits) + (1 - labels) * negative)


def naive_cross_entropy(logits, labels, class_weight=None, label_smoothing=0.0):
    classes = logits.shape[-1]
    labels = labels if labels.ndim == 2 else jnp.eye(classes)[labels]
    labels = labels * (1 - label_smoothing) + label_smoothing / classes
    log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))
    return -jnp.sum(labels * log_p * (1.0 if class_weight is None else class_weight[None]), -1)


def multi_hot(positives, labels):
    """The labels that are on; -1 is padding."""
    return jnp.asarray(jnp.any(positives[:, :, None] == jnp.arange(labels)[None, None], 1), jnp.float64)


def naive_sparse_loss(logits, positives, pos_weight, weight):
    return naive_logit_loss(logits, multi_hot(positives, logits.shape[-1]), pos_weight[None], weight)


def naive_linear_loss(features, kernel, bias, pos_weight, positives):
    return naive_logit_loss(features @ kernel + bias[None], multi_hot(positives, 5), pos_weight[None])


def naive_discriminator_loss(real_logits, fake_logits, label_smoothing):
    real = naive_logit_loss(real_logits, 1, label_smoothing=label_smoothing)
    return jnp.mean(real) + jnp.mean(softplus(fake_logits))


def naive_pairwise_losses(x, y, logit_scale, logit_bias):
    return jnp.sum(naive_logit_loss(logit_scale * (x @ y.T) + logit_bias, jnp.eye(4)), 1)


def generator_losses(fake_logits):
    """Both forms."""
    saturating = jaxbce.gan_generator_loss(fake_logits, saturating=True, reduction="none")
    return jnp.stack([saturating, jaxbce.gan_generator_loss(fake_logits, reduction="none")])


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A loss with options, the naive definition of the same, and what they are called with.

    Attributes:
        loss: the public function, called by keyword; its result has any shape.
        naive: the definition of the same.
        of_steps: draws what each step has of its own, from a generator and a rounding of predictions.
        shared: draws what the steps have in common.
        fixed: what each step has of its own and cannot be differentiated.
    """

    name: str
    loss: Callable[..., Any]
    naive: Callable[..., Any]
    of_steps: Callable[..., dict[str, Any]]
    shared: Callable[..., dict[str, Any]] = nothing
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)


def with_labels(draw, *shape):
    """Draw predictions, and labels that are differentiated too; one of them is 1/2 exactly."""

    def both(rng, rounding):
        labels = rng.uniform(0.1, 0.9, (STEPS, *shape))
        labels[0, 0] = 0.5
        return draw(rng, rounding) | {"labels": labels}

    return both


def each(loss, **options):
    return functools.partial(loss, reduction="none", **options)


def mean_of(loss, **options):
    """The "mean" of a naive definition."""
    return lambda **data: jnp.mean(loss(**data, **options))


HARD = {"labels": np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 0]])}
CLASSES = {"labels": np.array([[0, 3, 1], [2, 2, 0]])}
POSITIVES = {"positives": np.array([[[0, 3], [4, -1], [-1, -1]], [[1, 1], [2, 0], [3, 4]]])}
ASYMMETRIC = {"gamma_pos": 1.0, "gamma_neg": 4.0, "margin": 0.05}
FLAT = {"gamma_pos": 0.0, "gamma_neg": 1.5, "margin": 0.0}

CASES = [
    Case(
        "binary_cross_entropy_with_logits",
        jaxbce.binary_cross_entropy_with_logits,
        mean_of(naive_logit_loss),
        logits(5),
        fixed=HARD,
    ),
    Case(
        "binary_cross_entropy_with_logits-soft_labels-weights",
        each(jaxbce.binary_cross_entropy_with_logits),
        naive_logit_loss,
        with_labels(logits(5), 5),
        uniform(pos_weight=5, weight=()),
    ),
    Case(
        "binary_cross_entropy-soft_labels-weight-label_smoothing",
        each(jaxbce.binary_cross_entropy),
        naive_prob_loss,
        with_labels(probs(5), 5),
        uniform(weight=5, label_smoothing=()),
    ),
    Case(
        "sigmoid_focal_loss-gamma=2",
        jaxbce.sigmoid_focal_loss,
        mean_of(naive_focal_loss, gamma=2),
        logits(5),
        fixed=HARD,
    ),
    Case(
        "sigmoid_focal_loss-gamma=0.5-alpha-soft_labels",
        each(jaxbce.sigmoid_focal_loss, gamma=0.5),
        functools.partial(naive_focal_loss, gamma=0.5),
        with_labels(logits(5), 5),
        uniform(alpha=(), weight=5),
    ),
    Case(
        "asymmetric_loss",
        jaxbce.asymmetric_loss,
        mean_of(naive_asymmetric_loss, **ASYMMETRIC),
        logits(5),
        fixed=HARD,
    ),
    Case(
        "asymmetric_loss-gammas=0,1.5-margin=0-soft_labels",
        each(jaxbce.asymmetric_loss, **FLAT),
        functools.partial(naive_asymmetric_loss, **FLAT),
        with_labels(logits(5), 5),
        uniform(weight=5),
    ),
    Case(
        "cross_entropy-indices",
        jaxbce.cross_entropy,
        mean_of(naive_cross_entropy),
        class_logits,
        fixed=CLASSES,
    ),
    Case(
        "cross_entropy-probabilities",
        each(jaxbce.cross_entropy),
        naive_cross_entropy,
        with_labels(class_logits, 3, 4),
    ),
    Case(
        "cross_entropy-class_weight-label_smoothing",
        each(jaxbce.cross_entropy),
        naive_cross_entropy,
        class_logits,
        uniform(class_weight=4, label_smoothing=()),
        fixed=CLASSES,
    ),
    Case(
        "sparse_binary_cross_entropy_with_logits-weights",
        each(jaxbce.sparse_binary_cross_entropy_with_logits),
        naive_sparse_loss,
        logits(3, 5),
        uniform(pos_weight=5, weight=()),
        fixed=POSITIVES,
    ),
    Case(
        "gan_discriminator_loss-label_smoothing",
        jaxbce.gan_discriminator_loss,
        naive_discriminator_loss,
        gan_logits,
        uniform(label_smoothing=()),
    ),
    Case(
        "gan_generator_loss",
        generator_losses,
        lambda fake_logits: jnp.stack([-softplus(fake_logits), softplus(-fake_logits)]),
        lambda *drawn: {"fake_logits": logits(5)(*drawn)["logits"]},
    ),
    Case(
        "linear_binary_cross_entropy-mean",
        functools.partial(jaxbce.linear_binary_cross_entropy, chunk_size=2),
        mean_of(naive_linear_loss),
        features,
        head,
        fixed=POSITIVES,
    ),
    Case(
        "linear_binary_cross_entropy-none",
        each(jaxbce.linear_binary_cross_entropy, chunk_size=2),
        lambda **data: jnp.sum(naive_linear_loss(**data), 1),
        features,
        head,
        fixed=POSITIVES,
    ),
    Case(
        "sigmoid_contrastive_loss-mean",
        functools.partial(jaxbce.sigmoid_contrastive_loss, tile_size=2),
        mean_of(naive_pairwise_losses),
        pairs,
        scale_and_bias,
    ),
    Case(
        "sigmoid_contrastive_loss-none",
        each(jaxbce.sigmoid_contrastive_loss, tile_size=2),
        naive_pairwise_losses,
        pairs,
        scale_and_bias,
    ),
]
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
    arguments = case.shared(rng, rounding), case.of_steps(rng, rounding)
    losses = case.naive(**arguments[0], **take(arguments[1], 0), **take(case.fixed, 0))
    multipliers = rng.uniform(0.5, 2, (STEPS, *losses.shape))
    along, other = (jax.tree.map(lambda a: jnp.asarray(rng.normal(size=np.shape(a))), arguments) for _ in range(2))
    along_multipliers = rng.normal(size=multipliers.shape)
    return jax.tree.map(jnp.asarray, (multipliers, arguments, case.fixed, (along_multipliers, along, other)))


def at_every_kind(derivatives, place, loss, case):
    """One compilation for all kinds of predictions, without LLVM's optimisations, which take a quarter of its time."""
    options = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(functools.partial(derivatives, total_of(place, loss)), compiler_options=options)
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

    return at_every_kind(derivatives, in_vmap, case.naive, case)


def error(actual, exact):
    """The largest error of an array or tree, as a share of its largest entry; NaN is an error without bound."""
    actual, exact = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (actual, exact))
    size = np.max(np.abs(actual - exact)) / np.max(np.abs(exact))
    return float(np.nan_to_num(size, nan=np.inf))


def errors(actual, case):
    """The errors of derivatives by the kind of predictions and the modes."""
    exact = expected(case)
    return {
        (kind, mode): error(derivative, exact[kind][mode])
        for kind, modes in actual.items()
        for mode, derivative in modes.items()
    }


def assert_exact(actual, case):
    wrong = {name: size for name, size in errors(actual, case).items() if size > TOLERANCE}
    assert not wrong, "\n".join(f"{', '.join(name)}: off by {size:.1e}" for name, size in wrong.items())


# --- The laws ---------------------------------------------------------------------------------------------------------


@every_case
def test_hessian_in_a_scan_is_exact_at_zeros_and_ties(case):
    assert_exact(at_every_kind(hessian, in_scan, case.loss, case), case)


@pytest.mark.slow
@pytest.mark.parametrize("place", [in_vmap, in_scan], ids=name_of)
@every_case
def test_second_and_third_derivatives_are_exact_in_every_mode(case, place):
    assert_exact(at_every_kind(every_order, place, case.loss, case), case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", [plain, in_checkpoint_in_scan, pytest.param(in_shard_map, marks=pytest.mark.cpu)], ids=name_of
)
@every_case
def test_second_derivatives_are_exact_in_every_place(case, place):
    # JAX 0.6 fails to transpose `dynamic_update_slice` in `shard_map`, which reverse over reverse mode asks of a head.
    fails = EARLIER and place is in_shard_map and case.name == "linear_binary_cross_entropy-mean"
    assert_exact(at_every_kind(hessian if fails else second_order, place, case.loss, case), case)


@pytest.mark.slow
@pytest.mark.parametrize("place", [in_fori_loop, in_map], ids=name_of)
@every_case
def test_hessian_is_exact_in_every_loop(case, place):
    """To reverse mode these are scans."""
    assert_exact(at_every_kind(hessian, place, case.loss, case), case)


@pytest.mark.parametrize("kind", ["zero", "integers", "halves", "bfloat16"])
def test_classes_tie_at_the_maximum_in_most_rows_of_rounded_logits(kind, rng):
    x = class_logits(rng, ROUNDINGS[kind])["logits"]
    assert np.mean(np.sum(x == x.max(-1, keepdims=True), -1) > 1) > 0.5


@pytest.mark.parametrize("kind", ["zero", "integers", "halves"])
def test_every_row_of_rounded_predictions_has_a_logit_of_zero(kind, rng):
    rounding = ROUNDINGS[kind]
    assert (logits(5)(rng, rounding)["logits"] == 0).any(-1).all()
    assert (probs(5)(rng, rounding)["probs"] == 0.5).any(-1).all()


# --- Seen once --------------------------------------------------------------------------------------------------------


def scanned(losses):
    """The sum of the losses, one row after another."""
    return lambda rows: jax.lax.scan(lambda total, row: (total + jnp.sum(losses(row)), None), jnp.zeros(()), rows)[0]


def hessian_product(f, x, along):
    """Forward over reverse, and reverse over reverse."""
    gradient = jax.grad(f)
    return jax.jit(lambda x: (forward(gradient, along)(x), reverse(gradient, along)(x)))(x)


def test_hessian_of_cross_entropy_at_ties_in_a_scan_is_diag_p_minus_outer_p(rng):
    x, along = np.round(2 * rng.normal(size=(64, 5))) / 2, rng.normal(size=(64, 5))
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    total = scanned(lambda row: jaxbce.cross_entropy(row, 0))
    for product in hessian_product(total, jnp.asarray(x), jnp.asarray(along)):
        np.testing.assert_allclose(product, p * (along - (p * along).sum(-1, keepdims=True)), rtol=1e-10, atol=1e-12)


def test_hutchinson_diagonal_of_a_zero_head_in_a_scan_is_a_quarter():
    """Two classes: p·(1 - p), the mean of s·(H s) over all signs s."""
    signs = jnp.asarray([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    total = scanned(lambda row: jaxbce.cross_entropy(row, 0))
    for product in hessian_product(total, jnp.zeros((4, 2)), signs):
        np.testing.assert_allclose(jnp.mean(signs * product, 0), [0.25, 0.25], rtol=1e-12)


def test_hessian_of_the_contrastive_loss_by_its_bias_at_zero():
    """The loop is its own. With p = σ(1) on the diagonal of four and 1/2 off it: p·(1 - p) + 3/4."""

    def loss(bias):
        return jaxbce.sigmoid_contrastive_loss(jnp.eye(4), jnp.eye(4), logit_scale=1.0, logit_bias=bias)

    expected = 1 / (1 + np.exp(-1)) * (1 - 1 / (1 + np.exp(-1))) + 0.75
    np.testing.assert_allclose(expected, 0.9466, atol=5e-5)
    for second in hessian_product(loss, jnp.float64(0), jnp.float64(1)):
        np.testing.assert_allclose(second, expected, rtol=1e-12)


def mp_sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


@pytest.mark.parametrize(
    ("loss", "label", "definition"),
    [
        (jaxbce.sigmoid_focal_loss, 1, lambda x: -(mp_sigmoid(-x) ** 2) * mpmath.log(mp_sigmoid(x))),
        (jaxbce.sigmoid_focal_loss, 0, lambda x: -(mp_sigmoid(x) ** 2) * mpmath.log(mp_sigmoid(-x))),
        (jaxbce.asymmetric_loss, 1, lambda x: -mp_sigmoid(-x) * mpmath.log(mp_sigmoid(x))),
        (
            jaxbce.asymmetric_loss,
            0,
            lambda x: -((mp_sigmoid(x) - 0.05) ** 4) * mpmath.log(1 - (mp_sigmoid(x) - 0.05)),
        ),
    ],
    ids=["focal-1", "focal-0", "asymmetric-1", "asymmetric-0"],
)
def test_curvature_of_modulated_losses_at_zero_in_a_scan(loss, label, definition):
    total = scanned(lambda row: loss(row, label, reduction="sum"))
    for curvature in hessian_product(total, jnp.zeros((3, 2)), jnp.ones((3, 2))):
        np.testing.assert_allclose(curvature, np.full((3, 2), float(mpmath.diff(definition, 0, 2))), rtol=1e-10)


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
