"""Writes `recorded.json`: what PyTorch answers to the grid. Run as `python -m tests.parity.record`.

Numbers are the shortest decimals that read back as the same float, so the file is exact and the same on every run.
"""

import json
import pathlib
from typing import Any

import numpy as np
import torch

from tests.parity import cases, reference

PATH = pathlib.Path(__file__).with_name("recorded.json")


def _shortest(value: np.ndarray) -> Any:
    """Nested lists of the shortest decimals; `float` alone would spell a float32 with the digits of a float64."""
    return [_shortest(part) for part in value] if value.ndim else float(str(value))


def main() -> None:
    answers = {
        case.name: {name: _shortest(value) for name, value in reference.evaluate(case).items()} for case in cases.GRID
    }
    # One case a line, so that a difference reads as the case it is in.
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(answer, separators=(',', ':'))}" for name, answer in answers.items()
    )
    PATH.write_text(f'{{"torch": {json.dumps(torch.__version__)}, "cases": {{\n{lines}\n}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
