"""A strict session: float64 on, no implicit promotion of dtypes or ranks, warnings are errors (pyproject.toml)."""

import os

# The workers of pytest-xdist share an accelerator; none may take all of its memory. Read when JAX first looks for one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # so that sharding is real
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
