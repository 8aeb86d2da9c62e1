"""The two assertions that the recorded and the live comparison share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.parity import tolerances
from tests.parity.cases import Case
from tests.parity.differences import Answer, Difference, Refusal


def assert_close(case: Case, actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every quantity of the case, each within its own tolerance; NaN equals NaN."""
    for answers in (actual, expected):
        assert {name: value.shape for name, value in answers.items()} == case.shapes
    allowed = tolerances.allowed(case, expected)
    for name, value in expected.items():
        same = (actual[name] == value) | (np.isnan(actual[name]) & np.isnan(value))
        with np.errstate(invalid="ignore"):  # inf - inf, where both are the same.
            near = np.abs(actual[name].astype(np.float64) - value) <= allowed[name]
        wrong = tolerances.compared(case, name) & ~same & ~near
        assert not wrong.any(), f"{name}: {actual[name][wrong]} and not {value[wrong]}"


def assert_answers(answer: Callable[..., Any], difference: Difference, expected: Answer) -> None:
    """A library's side of a difference: numbers, a dtype or a refusal."""
    call = (difference.function, difference.arguments, difference.quantity)
    if isinstance(expected, Refusal):
        with pytest.raises(expected.error, match=expected.message):
            answer(*call)
    elif isinstance(expected, str):
        assert answer(*call) == expected
    else:
        # The literals are good to float32.
        np.testing.assert_allclose(np.ravel(answer(*call)), expected, rtol=3e-7, atol=0)
