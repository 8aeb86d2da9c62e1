"""The examples, run as a user runs them: their numbers and their plots."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.cpu]  # whose figures they are held to

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(example, folder, *options):
    """What an example prints, run in a folder of its own."""
    done = subprocess.run([sys.executable, EXAMPLES / example, *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def module(example):
    """An example as a module, for its parts."""
    specification = importlib.util.spec_from_file_location("example", EXAMPLES / example)
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


def numbers(output, line):
    """The numbers of the one line that matches."""
    (found,) = re.findall(rf"^{line}(.*)$", output, re.MULTILINE)
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", found)]


def pixels(path):
    """A plot as an array of [height, width, RGB]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def assert_curves(plot, number):
    """The plot shows lines in so many of the first colours of Matplotlib."""
    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44))[:number]:
        assert (plot == colour).all(axis=-1).sum() > 500


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
    assert_curves(pixels(tmp_path / "out" / "train.png"), 3)


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


def test_published_numbers_are_those_of_the_tutorials(tmp_path):
    output = run("published_numbers.py", tmp_path)
    assert output.endswith("all the same\n")
    verdicts = re.findall(r"  (yes|NO)$", output, re.MULTILINE)
    assert verdicts == ["yes"] * 20
    in_print = re.findall(r"(\d\.\d{4}) +(\d\.\d{4})  yes$", output.partition("\n\n")[0], re.MULTILINE)
    expected = ["0.9833", "0.5649", "0.6378", "0.9687", "0.8196", "0.8196", "0.8830", "0.8830"]
    assert in_print == [(number, number) for number in expected]
    for line, values in {
        "logit 40, label 0: loss": ["inf", "40", "40"],
        "logit 40, label 1: gradient": ["nan", "-4.248e-18", "-4.248e-18"],
        "logit -100, label 1: loss": ["inf", "100", "100"],
    }.items():
        assert re.findall(rf"^{line} +(\S+) +(\S+) +(\S+)  yes$", output, re.MULTILINE) == [tuple(values)]


def test_published_numbers_fails_where_a_digit_differs(monkeypatch, capsys):
    example = module("published_numbers.py")
    monkeypatch.setattr(example, "published", lambda: [("right", "0.9687", 0.96868), ("wrong", "0.9688", 0.96868)])
    monkeypatch.setattr(example, "two_classes", lambda: [("one way", 0.7427), ("another way", 0.7429)])
    monkeypatch.setattr(example, "far_logits", lambda: [("loss", "inf", "40", "41")])
    with pytest.raises(SystemExit, match=r"^3 of the numbers differ$"):
        example.main()
    verdicts = re.findall(r"^(\w+).*  (yes|NO)$", capsys.readouterr().out, re.MULTILINE)
    assert verdicts == [
        ("right", "yes"),
        ("wrong", "NO"),
        ("one", "yes"),
        ("another", "NO"),
        ("four", "yes"),
        ("loss", "NO"),
    ]


def test_gan_learns_to_draw(tmp_path):
    output = run("gan.py", tmp_path, "--steps", "400", "--seed", "1")
    discriminator_loss, generator_loss = numbers(output, "losses at the end:")
    assert 0.5 < discriminator_loss < 1.5
    assert 0.5 < generator_loss < 3
    rows = {name: numbers(output, name) for name in ("real, held out", "generated", "before training")}
    recognised = {name: row[1] for name, row in rows.items()}
    nearest = {name: row[3] for name, row in rows.items()}
    assert recognised["real, held out"] > 80
    assert recognised["before training"] < 1
    # Few steps, but much nearer to real digits than noise, and no copies of them.
    assert 0.5 < nearest["generated"] < nearest["before training"] - 0.8
    # σ(10) and σ(-10): the derivatives of the two forms at a logit of -10.
    assert re.findall(
        r"^gradient of a fake at logit -10: (\S+), with saturating=True (\S+)$", output, re.MULTILINE
    ) == [("1.00e+00", "4.54e-05")]
    plot = pixels(tmp_path / "out" / "gan.png")
    assert_curves(plot, 2)
    sheet = plot[:, : plot.shape[1] // 2]
    assert 0.05 < (sheet < 128).mean() < 0.5  # the ink of the digits


def test_gan_can_play_the_minimax_game():
    example = module("gan.py")
    losses = [example.generator_loss(np.abs, np.negative, np.array([1.2, -0.5]), form) for form in (False, True)]
    # Fakes |noise|, whose logits are -|noise|: log(1 + exp(|noise|)), and -log(1 + exp(-|noise|)).
    expected = np.log1p(np.exp([1.2, 0.5])).mean(), -np.log1p(np.exp([-1.2, -0.5])).mean()
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_siglip_finds_the_other_half(tmp_path):
    output = run("siglip.py", tmp_path, "--steps", "300", "--seed", "1")
    rows = {name: numbers(output, f"{name} ") for name in ("chance", "before", "after")}
    assert max(rows["before"][:2]) < 5
    first, best, place = rows["after"]
    assert first > 8
    assert best > 35
    assert place < 30 < rows["before"][2]
    assert_curves(pixels(tmp_path / "out" / "siglip.png"), 2)


def test_data_parallel_is_one_device_and_a_mean_of_means_is_not(tmp_path):
    output = run("data_parallel.py", tmp_path, "--steps", "50", "--seed", "1")
    counts = numbers(output, "known labels by device:")
    assert len(counts) == 8
    assert max(counts) > 50 * min(counts)
    for name in ("NamedSharding and jit", "shard_map and Average.psum"):
        assert max(numbers(output, name)[2:]) < 1e-4
    *_, off, apart = numbers(output, r"mean of means \(wrong\)")
    assert min(off, apart) > 0.01


def test_multi_process_is_one_process(tmp_path):
    output = run("multi_process.py", tmp_path, "--steps", "20")
    (known, first, last, off), (other_known, *same, other_off) = (numbers(output, f"process {i}:") for i in (0, 1))
    assert known > 2 * other_known
    assert [first, last] == same
    assert last < first - 0.2
    assert max(off, other_off) < 1e-5


def test_multi_process_ends_what_it_started():
    with pytest.raises(SystemExit, match=r"^the processes ended with \[-9, -9\]"):
        module("multi_process.py").launch(2, 1, seconds=0.1)


def test_multilabel_ranks_the_losses(tmp_path):
    output = run("multilabel.py", tmp_path, "--steps", "300", "--seeds", "1")
    every, rare, _, _ = numbers(output, "chance ")
    assert rare < 0.06 < every < 0.25
    names = ("BCE  ", "BCE with pos_weight", "focal", "asymmetric", "BCE, unknown = negative")
    rows = {name: numbers(output, name) for name in names}
    assert all(row[0] > 0.6 for row in rows.values())  # far above chance
    _, _, recall, precision = rows["BCE  "]
    # With pos_weight more is found, and of the finds fewer are right; counting unknown labels as negative does the
    # opposite, and ranks worse.
    *_, weighted_recall, weighted_precision = rows["BCE with pos_weight"]
    assert weighted_recall > recall + 0.1
    assert weighted_precision < precision - 0.1
    *_, blind_recall, _ = rows["BCE, unknown = negative"]
    assert blind_recall < recall - 0.1
    for name in names[1:]:
        assert abs(rows[name][1] - (rows[name][0] - rows["BCE  "][0])) < 0.002


def test_extreme_labels_learns_in_little_memory(tmp_path):
    small = "--labels 20000 --steps 60 --width 32 --batch 128 --tested 1000 --packages"
    output = run("extreme_labels.py", tmp_path, *small.split())
    assert numbers(output, r"\d+ words of \d+ files; ") == [20000]
    (first, fifth), (start, start_fifth) = (numbers(output, name) for name in ("trained", "most frequent words"))
    assert first > start + 0.05
    assert fifth > start_fifth
    before, after = (float(n) for n in re.findall(r"([\d.]+) at (?:first|the end)", output))
    assert after < before - 1
    assert numbers(output, "naive")[0] > 5 * numbers(output, "fused")[0]


def test_extreme_labels_ranks_chunk_by_chunk(rng, monkeypatch):
    example = module("extreme_labels.py")
    monkeypatch.setattr(example, "CHUNK", 8)
    features, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 3), (3, 21), (21,)))
    logits = features @ kernel + bias
    np.testing.assert_array_equal(example.top(features, kernel, bias[None], 5), np.argsort(-logits, 1)[:, :5])


def test_extreme_labels_measures_precision():
    example = module("extreme_labels.py")
    found, positives = np.array([[1, 2, 3, 4, 5], [9, 1, 0, 3, 7]]), np.array([[1, 5, -1], [7, 7, 1]])
    assert example.precision(found, positives) == (0.5, 0.4)
