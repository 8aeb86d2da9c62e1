"""A strict session: float64 on, no implicit promotion of dtypes or ranks, warnings are errors (pyproject.toml)."""

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

# Tracing allocates much and leaves little garbage, and a worker that has traced for minutes holds much to look through.
gc.set_threshold(100_000, 50, 20)


@pytest.fixture(autouse=True, scope="module")
def nothing_kept() -> Iterator[None]:
    """What a module has compiled serves no other; what is left is not looked through again."""
    yield
    jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
