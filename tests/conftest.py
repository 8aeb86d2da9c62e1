"""A strict session: float64 on, no implicit promotion of dtypes or ranks, warnings are errors (pyproject.toml).

The suite runs on the device that JAX takes by default, but for the tests marked `cpu`.
"""

import gc
import os
from collections.abc import Iterator

# The workers of pytest-xdist share an accelerator; none may take all of its memory. Read when JAX first looks for one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # so that sharding is real
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Products in all digits of their dtype, which accelerators give only when asked for.
jax.config.update("jax_default_matmul_precision", "highest")
# An accelerator is compared with the CPU, also where a user named it alone.
if jax.config.jax_platforms and "cpu" not in jax.config.jax_platforms.split(","):
    jax.config.update("jax_platforms", f"{jax.config.jax_platforms},cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `slow` too, as CI does")


def pytest_configure(config: pytest.Config) -> None:
    """Leave out what is `slow`, where nothing is said of which tests to run; workers are told with the options."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.markexpr or config.option.keyword
    if not (named or config.option.all):
        config.option.markexpr = "not slow"


def pytest_report_header(config: pytest.Config) -> str | None:
    return "tests marked `slow` are left out; --all runs them" if config.option.markexpr == "not slow" else None


# Tracing allocates much and leaves little garbage, and a worker that has traced for minutes holds much to look through.
gc.set_threshold(100_000, 50, 20)


@pytest.fixture(autouse=True, scope="module")
def nothing_kept() -> Iterator[None]:
    """What a module has compiled serves no other; what is left is not looked through again."""
    yield
    jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test, and the processes that it starts, on the device that it is about."""
    backend = jax.default_backend()
    if request.node.get_closest_marker("accelerator"):
        if backend == "cpu":
            pytest.skip("needs a GPU or TPU, and JAX has none here")
    # A TPU emulates float64, in fewer digits than the bars of most tests ask for.
    elif backend == "tpu" or request.node.get_closest_marker("cpu"):
        monkeypatch.setenv("JAX_PLATFORMS", "cpu")
        if backend != "cpu":
            with jax.default_device(jax.devices("cpu")[0]):
                yield
                return
    yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
