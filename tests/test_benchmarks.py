"""The benchmarks run, at a size at which they measure nothing."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # A benchmark needs the device for itself.

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def rows(script, arguments):
    """What a benchmark prints, as the cells of its tables."""
    command = [sys.executable, SCRIPTS / script, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]


def test_speed_benchmark_times_every_quantity(tmp_path):
    chart = tmp_path / "speed.png"
    arguments = f"--size 1e3 --sizes --seconds 0 --losses asymmetric_loss --without torch Keras --chart {chart}"
    _, _, *measured = rows("speed.py", arguments)
    assert [row[1] for row in measured[:4]] == ["mean", "value_and_grad", "none", "HVP"]
    assert all(float(row[3]) > 0 for row in measured)
    assert chart.stat().st_size > 1000


def test_large_benchmark_needs_less_memory_than_dense_logits():
    *_, frozen, beside_whole = rows("large.py", "--sizes 500 1000 --seconds 0 --losses frozen --without torch")
    assert [frozen[0], beside_whole[0]] == ["linear, frozen kernel", "linear, frozen kernel (not theirs)"]
    for row in (frozen, beside_whole):
        assert row[1:4] == ["1,000", "256", "128"]
        assert float(row[4]) > 0
        assert 0 < float(row[7]) < float(row[8])
    assert frozen[7] == beside_whole[7]


def test_contrastive_benchmark_memory_is_constant_in_the_ring():
    printed = rows("contrastive.py", "--sizes 64 --seconds 0 --devices 2 4 --examples 16 --without torch")
    (size, milliseconds, _, torch, *_, memory, _), ring = printed[2], printed[5:]
    assert (size, torch) == ("64", "—")
    assert float(milliseconds) > 0
    assert 0 < float(memory) < 1
    assert [row[:2] for row in ring] == [["2", "32"], ["4", "64"]]
    assert ring[0][2] == ring[1][2]


ON_GPU = [
    ("linear BCE, 256 × 128 × 512, float32", "value and gradients"),
    ("linear BCE, 1,024 × 768 × 512, bfloat16", "value and gradients"),
    ("sigmoid contrastive, 32 × 768, float32", "value and gradients"),
    ("sigmoid contrastive, 32 × 768, bfloat16", "value and gradients"),
    *itertools.product(
        (
            "binary_cross_entropy_with_logits",
            "binary_cross_entropy_with_logits, bfloat16",
            "sigmoid_focal_loss",
            "cross_entropy, 1000 classes",
        ),
        ("mean", "value_and_grad", "none"),
    ),
]
SMALL = "--sizes 1e3 --labels 512 --pairs 32 --each 0"


def test_on_gpu_benchmark_fills_every_cell(tmp_path):
    file = tmp_path / "table.md"
    columns, _, *table = rows("on_gpu.py", f"{SMALL} --without torch.compile --out {file}")
    cells = {name: [row[i] for row in table] for i, name in enumerate(columns)}
    assert [*zip(cells["loss"], cells["quantity"], strict=True)] == ON_GPU
    assert all(float(cell) > 0 for cell in cells["ms"])
    measured = [*cells["× by hand"], *cells["× optax"][4:], *cells["of copy"][4:]]
    assert all(re.match(r"\d+(%|\.\d\d \()", cell) for cell in measured)
    assert all(" | ".join(row) in file.read_text() for row in table)


def test_on_gpu_benchmark_skips_rows_out_of_time():
    _, _, *table = rows("on_gpu.py", f"{SMALL} --seconds 0")
    assert [(row[0], row[1]) for row in table] == ON_GPU
    assert {row[3] for row in table} == {"skipped: no time left"}
