"""jaxbce against what PyTorch answered when it was last recorded; needs no PyTorch."""

import json
import pathlib

import numpy as np
import pytest

from tests.parity import literals, ours
from tests.parity.cases import GRID, Case
from tests.parity.comparison import assert_answers, assert_close
from tests.parity.differences import DIFFERENCES, Difference
from tests.parity.literals import LITERALS

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # to whose roundings and subnormals the tolerances belong

PATH = pathlib.Path(__file__).with_name("recorded.json")
RECORDED = json.loads(PATH.read_text(encoding="utf-8"))["cases"]


def recorded(case: Case) -> dict[str, np.ndarray]:
    answers = RECORDED[case.name]
    return {name: np.array(answers[name], case.dtype).reshape(shape) for name, shape in case.shapes.items()}


def test_the_recording_is_of_this_grid():
    assert list(RECORDED) == [case.name for case in GRID]


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_values_and_derivatives_are_those_recorded(case):
    assert_close(case, ours.evaluate(case), recorded(case))


@pytest.mark.parametrize(("function", "predictions", "labels", "quantity", "expected"), LITERALS)
def test_figures_that_pytorch_is_known_by(function, predictions, labels, quantity, expected):
    actual = ours.answer(function, literals.arguments(predictions, labels), quantity)
    np.testing.assert_allclose(actual.ravel(), np.ravel(expected), rtol=3e-7, atol=0)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_deliberate_differences_are_as_listed(difference: Difference):
    assert_answers(ours.answer, difference, difference.jaxbce)


def test_deliberate_differences_have_names_of_their_own():
    assert len({difference.name for difference in DIFFERENCES}) == len(DIFFERENCES)
