"""JAX under other settings than those of the session (conftest.py)."""

import contextlib
from collections.abc import Iterator

import jax

# What a user has who has set nothing.
DEFAULTS = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
}


@contextlib.contextmanager
def configured(**options: object) -> Iterator[None]:
    """These options of JAX for a while."""
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
