"""jaxbce against PyTorch as it is installed. Where PyTorch is missing, CI fails; elsewhere this is skipped."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    remedy = 'PyTorch is not installed: pip install -e ".[parity]"'
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI compares with PyTorch, and {remedy}", pytrace=False)
    pytest.skip(remedy, allow_module_level=True)

import torch

import jaxbce
from tests.parity import ours, reference
from tests.parity.cases import GRID
from tests.parity.comparison import assert_answers, assert_close
from tests.parity.differences import DIFFERENCES
from tests.parity.literals import LITERALS
from tests.parity.test_recorded import recorded


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_values_and_derivatives_are_those_of_pytorch(case):
    assert_close(case, ours.evaluate(case), reference.evaluate(case))


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_the_recording_is_what_pytorch_still_answers(case):
    assert_close(case, reference.evaluate(case), recorded(case))


@pytest.mark.parametrize(("function", "prediction", "label", "quantity", "expected"), LITERALS)
def test_figures_that_pytorch_is_known_by(function, prediction, label, quantity, expected):
    arguments = {"predictions": np.array(prediction, np.float32), "labels": np.array(label, np.float32)}
    np.testing.assert_allclose(reference.answer(function, arguments, quantity), expected, rtol=3e-7, atol=0)


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
