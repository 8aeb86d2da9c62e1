"""The benchmarks run, at a size at which they measure nothing."""

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


def test_speed(tmp_path):
    chart = tmp_path / "speed.png"
    arguments = f"--size 1e3 --sizes --seconds 0 --losses asymmetric_loss --without torch Keras --chart {chart}"
    _, _, *measured = rows("speed.py", arguments)
    assert [row[1] for row in measured[:4]] == ["mean", "value_and_grad", "none", "HVP"]
    assert all(float(row[3]) > 0 for row in measured)
    assert chart.stat().st_size > 1000


def test_many_labels():
    *_, frozen, beside_whole = rows("large.py", "--sizes 500 1000 --seconds 0 --losses frozen --without torch")
    assert [frozen[0], beside_whole[0]] == ["linear, frozen kernel", "linear, frozen kernel (not theirs)"]
    for row in (frozen, beside_whole):
        assert row[1:4] == ["1,000", "256", "128"]
        assert float(row[4]) > 0
        assert 0 < float(row[7]) < float(row[8])
    assert frozen[7] == beside_whole[7]


def test_all_pairs():
    printed = rows("contrastive.py", "--sizes 64 --seconds 0 --devices 2 4 --examples 16 --without torch")
    (size, milliseconds, _, torch, *_, memory, _), ring = printed[2], printed[5:]
    assert (size, torch) == ("64", "—")
    assert float(milliseconds) > 0
    assert 0 < float(memory) < 1
    assert [row[:2] for row in ring] == [["2", "32"], ["4", "64"]]
    assert ring[0][2] == ring[1][2]
