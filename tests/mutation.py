"""Would the tests notice? Mutants of the package, each under the tests that reach its line.

    python -m pytest --all --cov --cov-context=test            # which test reaches which line: into .coverage
    python -m tests.mutation --each 8 --seed 0 --workers 2     # so many mutants of each module, drawn at random
    python -m tests.mutation --only _numerics                  # every mutant of one module

cosmic-ray makes the mutants (tests/mutants.py). Its own command knows one list of tests for all of them, and no sample;
here every mutant meets the tests that reach its line, in a copy of the tree, and first those that killed others of its
module. mutmut leaves out functions with a decorator, and here these are the mathematics.

Outcomes go to out/mutation.jsonl as they come. Another run asks again about the mutants that survived, and about none
that were killed.
"""

import argparse
import ast
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import coverage
import pytest

from tests.mutants import ROOT, Mutant, drawn

OUTCOMES = ROOT / "out" / "mutation.jsonl"
SECONDS = 600  # at most, for one mutant
PASSED, FAILED = 0, 10  # exit codes of a process that runs tests; 1 is a mistake of our own


class Reach:
    """Which tests reach the line of a mutant, the most promising first."""

    def __init__(self, data: Path):
        recorded = coverage.CoverageData(str(data))
        recorded.read()
        self.by_line = {
            file.replace(os.sep, "/"): {
                line: {test.removesuffix("|run") for test in tests if test.endswith("|run")}
                for line, tests in recorded.contexts_by_lineno(file).items()
            }
            for file in recorded.measured_files()
        }
        counts = {file: Counter(t for tests in by.values() for t in tests) for file, by in self.by_line.items()}
        self.lines = counts
        self.extent = sum(counts.values(), Counter())
        self.kills = defaultdict(Counter)

    def __call__(self, mutant: Mutant) -> list[str]:
        by_line, here, killed = self.by_line[mutant.path], self.lines[mutant.path], self.kills[mutant.path]
        tests = by_line.get(max((line for line in by_line if line <= body(mutant)), default=0))
        if not tests:
            # It runs at import, and any test may notice, whether it calls anything or not.
            files = Counter(test.split("::")[0] for test in here or self.extent)
            return [test for test, _ in [*killed.most_common(5), *files.most_common()]]
        # One case of each test function before the second of any; and first those that are about this module.
        cases = defaultdict(list)
        for test in sorted(tests, key=lambda test: (-here[test] / self.extent[test], test)):
            cases[test.split("[")[0]].append(test)
        ranked = [
            (-killed[test], rank, place, test)
            for place, group in enumerate(cases.values())
            for rank, test in enumerate(group)
        ]
        return [test for *_, test in sorted(ranked)]


def body(mutant: Mutant) -> int:
    """The line that a test reaches where the mutant works: that of a decorator is run by the import."""
    for node in ast.walk(ast.parse((ROOT / mutant.path).read_text())):
        decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
        if decorators and decorators[0].lineno <= mutant.line <= node.lineno:
            return node.body[-1].lineno
    return mutant.line


class Copies:
    """Copies of the tree, one for each thread, in which mutants take the place of modules.

    A mutant's tests run in a process that a fork server makes: it has imported what the tests need but jaxbce, which
    would take longer than most of the tests.
    """

    PRELOADED = ("chex", "hypothesis", "jax.experimental.checkify", "mpmath", "optax", "pytest")

    def __init__(self, number: int):
        # What a mutant leaves as it was need not be compiled again.
        compiled = {"COMPILATION_CACHE_DIR": str(OUTCOMES.parent / "compiled")}
        compiled |= {"PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        os.environ.update({f"JAX_{name}": value for name, value in compiled.items()})
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(list(self.PRELOADED))
        self.free, self.ages = queue.Queue(), itertools.count(1)
        self.home = tempfile.TemporaryDirectory()
        for thread in range(number):
            copy = Path(self.home.name) / str(thread)
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "out", "_made", "__pycache__"))
            self.free.put(copy)

    def outcome(self, path: str, code: str, tests: list[str]) -> tuple[str, str]:
        """Whether `code` in the place of a module is killed or survives, or what kept us from seeing; and by what."""
        copy = self.free.get()
        try:
            for text, test in ((code, True), ((ROOT / path).read_text(), False)):
                (copy / path).write_text(text)
                age = next(self.ages)
                os.utime(copy / path, (age, age))  # or Python might take what it compiled before for what is there
                if test:
                    process = self.server.Process(target=run, args=(copy, tests))
                    process.start()
                    process.join(SECONDS)
                    process.kill()
                    process.join()
            outcome = {PASSED: "survived", FAILED: "killed", -signal.SIGKILL: "timeout"}.get(process.exitcode, "error")
            return outcome, (copy / "killer").read_text() if outcome == "killed" else ""
        finally:
            self.free.put(copy)


class Notice:
    """The first test that fails: what the tests say, and not what pytest says of how it was called."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


def run(copy: Path, tests: list[str]) -> None:
    """The tests, in a process of their own."""
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # of the tree that this is a copy of
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.dont_write_bytecode = False  # whatever it is here: all but the mutant is the same the next time
    notice = Notice()
    # pytest would warn that it cannot explain the assertions of what was imported beforehand.
    options = ["-n0", "--dist=no", "-xq", "-pno:cacheprovider", "-Wignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*options, *tests], plugins=[notice])
    Path("killer").write_text(notice.failed)
    sys.exit(FAILED if notice.failed else PASSED if code == pytest.ExitCode.OK else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10**6, help="how many mutants of a module, at most; default: all")
    parser.add_argument("--only", nargs="+", default=[""], help="modules, by a part of their names")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with its own copy of the tree")
    parser.add_argument("--tests", type=int, default=100, help="how many tests a mutant meets, at most")
    given = parser.parse_args()

    reach = Reach(ROOT / ".coverage")
    paths = [p for p in sorted((ROOT / "jaxbce").glob("*.py")) if any(part in p.stem for part in given.only)]
    sample = [mutant for path in paths for mutant in drawn(path, given.each, given.seed)]
    OUTCOMES.parent.mkdir(exist_ok=True)
    known = {}
    for line in OUTCOMES.read_text().splitlines() if OUTCOMES.exists() else ():
        item = json.loads(line)
        known[Mutant(*item["mutant"])] = item["outcome"]
        if item["outcome"] == "killed":
            reach.kills[item["mutant"][0]][item["by"]] += 1
    asked = [mutant for mutant in sample if known.get(mutant) != "killed"]
    print(f"{len(sample)} mutants, of which {len(sample) - len(asked)} were killed before", flush=True)

    copies = Copies(given.workers)
    for mutant in asked[:1]:
        if copies.outcome(mutant.path, (ROOT / mutant.path).read_text(), reach(mutant)[:3]) != ("survived", ""):
            sys.exit("the tests fail without a mutant")

    def ask(mutant: Mutant) -> tuple[str, str]:
        tests = reach(mutant)[: given.tests]
        return copies.outcome(mutant.path, mutant.code(), tests) if tests else ("unreached", "")

    with concurrent.futures.ThreadPoolExecutor(given.workers) as pool, OUTCOMES.open("a") as file:
        answers = {pool.submit(ask, mutant): mutant for mutant in asked}
        for answer in concurrent.futures.as_completed(answers):
            mutant, (outcome, by) = answers[answer], answer.result()
            known[mutant] = outcome
            if outcome == "killed":
                reach.kills[mutant.path][by] += 1
            print(json.dumps({"mutant": mutant, "outcome": outcome, "by": by}), file=file, flush=True)
            if outcome != "killed":
                print(f"\n{outcome}: {mutant.path}:{mutant.line}\n{mutant.diff()}", flush=True)

    print()
    for path in dict.fromkeys(mutant.path for mutant in sample):
        print(path, dict(Counter(known[mutant] for mutant in sample if mutant.path == path)))
    print("all", dict(Counter(known[mutant] for mutant in sample)))


if __name__ == "__main__":
    main()
