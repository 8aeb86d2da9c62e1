"""jaxbce against PyTorch as it is installed. Where PyTorch is missing, CI fails; elsewhere this is skipped."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import extras

if importlib.util.find_spec("torch") is None:
    extras.missing("torch", extra="parity")

import torch

import jaxbce
from tests.parity import literals, ours, reference, tolerances
from tests.parity.cases import COMBINATIONS, GRID
from tests.parity.comparison import assert_answers, assert_close
from tests.parity.differences import DIFFERENCES
from tests.parity.literals import LITERALS
from tests.parity.test_recorded import recorded

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # to whose roundings and subnormals the tolerances belong


@pytest.mark.parametrize("case", GRID + COMBINATIONS, ids=lambda case: case.name)
def test_values_and_derivatives_are_those_of_pytorch(case):
    assert_close(case, ours.evaluate(case), reference.evaluate(case))


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_the_recording_is_what_pytorch_still_answers(case):
    assert_close(case, reference.evaluate(case), recorded(case))


@pytest.mark.parametrize(("function", "predictions", "labels", "quantity", "expected"), LITERALS)
def test_figures_that_pytorch_is_known_by(function, predictions, labels, quantity, expected):
    actual = reference.answer(function, literals.arguments(predictions, labels), quantity)
    np.testing.assert_allclose(actual.ravel(), np.ravel(expected), rtol=3e-7, atol=0)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_pytorch_still_differs_as_listed(difference):
    assert_answers(reference.answer, difference, difference.torch)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_probabilities_are_equal_to_the_last_bit(dtype, reduction, labels, jit, rng):
    # Logits uniform far into both tails, so that every size of p·(1 - p) down to 1e-12 occurs.
    p = 1 / (1 + np.exp(-rng.uniform(-28, 28, 100_000)))
    y = rng.uniform(size=p.shape)
    p, y = p.astype(dtype), (y.round() if labels == "hard" else y).astype(dtype)
    inner = (1 - p) * p > dtype(1e-12)
    p, y = p[inner], y[inner]

    gradient = jax.grad(lambda p: jnp.sum(jaxbce.binary_cross_entropy(p, y, reduction=reduction)))
    leaf = torch.from_numpy(p).requires_grad_()
    reference.FUNCTIONS["probs"](leaf, torch.from_numpy(y), reduction=reduction).sum().backward()
    assert np.array_equal((jax.jit(gradient) if jit else gradient)(p), leaf.grad.numpy())


@pytest.mark.parametrize("labels", [0.0, 0.3, 1.0])
def test_pos_weight_of_probabilities_is_that_of_their_logits(labels):
    # Both forms in float64, so that the way from p to its logit and back costs a few roundings of the logit.
    p = np.linspace(0.001, 0.999, 999)
    y, pos_weight = np.full_like(p, labels), np.linspace(0, 20, 999)
    expected = reference.FUNCTIONS["logits"](
        torch.logit(torch.from_numpy(p)),
        torch.from_numpy(y),
        pos_weight=torch.from_numpy(pos_weight),
        reduction="none",
    )
    actual = jaxbce.binary_cross_entropy(p, y, pos_weight=pos_weight, reduction="none")
    rounding = 8 * np.finfo(np.float64).eps * (1 + pos_weight) * (1 + np.abs(np.log(p) - np.log1p(-p)))
    assert np.all(np.abs(np.asarray(actual) - expected.numpy()) <= rounding)


CRITERIA = (
    ("BCELoss", "probs-shape (3, 4)-soft labels-mean"),
    ("BCELoss", "probs-float32-shape (3, 4)-weight scalar-pos_weight absent-none"),
    ("BCEWithLogitsLoss", "logits-shape (3, 4)-hard labels-sum"),
    ("BCEWithLogitsLoss", "logits-float64-shape (3, 4)-weight class-pos_weight example-none"),
    ("CrossEntropyLoss", "classes-indices-sample (2, 3, 1, 2)-mean"),
    ("CrossEntropyLoss", "classes-probabilities-sample-weight given-mean"),
    ("CrossEntropyLoss", "classes-indices-float32-shape (1, 3, 2, 2)-smoothing 0.1-weight given--100 ignored-mean"),
)


@pytest.mark.parametrize(("criterion", "name"), CRITERIA)
def test_criteria_are_those_of_pytorch(criterion, name):
    case = next(case for case in GRID + COMBINATIONS if case.name == name)
    ours_bound = getattr(jaxbce, criterion)(**case.weights, **case.options)
    objective = jax.value_and_grad(lambda x: jnp.sum(case.cotangent * ours_bound(x, case.labels)))
    actual = jax.jit(objective)(case.predictions)

    weights = {name.removeprefix("class_"): torch.from_numpy(value) for name, value in case.weights.items()}
    # PyTorch's classes are on axis 1; it smooths the labels of classes alone, and reduces all axes.
    shared = ("reduction",) if case.class_axis is None else ("reduction", "ignore_index", "label_smoothing")
    theirs = getattr(torch.nn, criterion)(**weights, **{name: case.options[name] for name in shared})
    leaf = torch.from_numpy(case.predictions).requires_grad_()
    loss = torch.sum(torch.from_numpy(case.cotangent) * theirs(leaf, torch.from_numpy(case.labels)))
    loss.backward()
    gradient = leaf.grad.numpy()

    allowed = tolerances.allowed(case, {"d_predictions": gradient})
    assert np.abs(actual[0] - loss.detach().numpy()) <= np.sum(np.abs(case.cotangent) * allowed["loss"])
    assert np.all(np.abs(actual[1] - gradient) <= allowed["d_predictions"])
