"""The examples, run as a user runs them: their numbers and their plots."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(example, folder, *options):
    """What an example prints, run in a folder of its own."""
    done = subprocess.run([sys.executable, EXAMPLES / example, *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(output, line):
    """The numbers of the one line that matches."""
    (found,) = re.findall(rf"^{line}(.*)$", output, re.MULTILINE)
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", found)]


def pixels(path):
    """A plot as an array of [height, width, RGB]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_train_shows_what_pos_weight_buys_and_costs(tmp_path):
    output = run("train.py", tmp_path, "--epochs", "20", "--seed", "1")
    positives, negatives, pos_weight = numbers(output, "training data:")
    assert abs(pos_weight - negatives / positives) < 0.05
    plain_loss, plain_average, plain_precision, plain_recall = numbers(output, r" +1\.0 ")
    loss, average, precision, recall = numbers(output, rf" +{pos_weight:.1f} ")
    assert recall > plain_recall + 0.1
    assert precision < plain_precision - 0.1
    # Both models have learnt: guessing has an average precision of 0.1, guessing the frequency a loss of 0.32.
    assert min(average, plain_average) > 0.8
    assert max(loss, plain_loss) < 0.25
    plot = pixels(tmp_path / "out" / "train.png")
    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):  # Matplotlib's first three: the curves.
        assert (plot == colour).all(axis=-1).sum() > 500


def test_per_sample_finds_the_wrong_labels(tmp_path):
    output = run("per_sample.py", tmp_path, "--out", "plots")
    ranked = re.findall(r"^ +(\d+) +\d+ +([\d.]+) +[\d.]+ +(\d) +(\d) +(yes|no)$", output, re.MULTILINE)
    assert [int(rank) for rank, *_ in ranked] == list(range(1, 11))
    losses = [float(loss) for _, loss, *_ in ranked]
    assert losses == sorted(losses, reverse=True)
    assert all((label != digit) == (made_wrong == "yes") for *_, label, digit, made_wrong in ranked)
    assert sum(made_wrong == "yes" for *_, made_wrong in ranked) >= 9
    (by_loss,), (by_norm,), (by_chance,) = (
        numbers(output, f"  {name}") for name in ("by loss", "by gradient norm", "by chance")
    )
    assert by_chance < 6
    assert min(by_loss, by_norm) > 75
    assert 0.05 < (pixels(tmp_path / "plots" / "per_sample.png") < 128).mean() < 0.5  # the ink of twenty digits


def test_evaluate_equals_the_one_shot_mean(tmp_path):
    output = run("evaluate.py", tmp_path)
    size, *batches = numbers(output, "(?=\\d+ examples)")
    assert sum(batches) == size
    assert len(set(batches)) > 1
    (expected,) = numbers(output, "one-shot mean ")
    for name in ("Average, summed over batches", "Average, inside lax.scan"):
        value, difference = numbers(output, f"{name} ")
        assert abs(value - expected) <= 1e-6 * expected
        assert difference <= 1e-6
    value, difference = numbers(output, r"mean of the batch means \(wrong\) ")
    assert difference > 0.01
    assert abs(abs(value / expected - 1) - difference) < 0.01
