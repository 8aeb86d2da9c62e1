"""The examples in the docstrings do what they say."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbce

NAMES = {"jax": jax, "jnp": jnp, "np": np} | {k: v for k, v in vars(jaxbce).items() if not k.startswith("_")}
MODULES = [importlib.import_module(module.name) for module in pkgutil.walk_packages(jaxbce.__path__, prefix="jaxbce.")]
EXAMPLES = [
    example
    for module in MODULES
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=NAMES)
    if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_docstring_example_prints_what_it_says(example):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_every_public_name_has_a_docstring_example():
    shown = " ".join(example.name for example in EXAMPLES)
    assert all(name in shown for name in NAMES if name in vars(jaxbce))
