"""The face that users see, and the order of the rooms behind it."""

import ast
import graphlib
import importlib.metadata
import inspect
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxbce
from tests.losses import LOSSES

PACKAGE = pathlib.Path(jaxbce.__file__).parent

CRITERIA = {"BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss"}
HELPERS = {"pos_weight_from_labels", "class_weight_from_counts"}
LARGE = {"linear_binary_cross_entropy", "sparse_binary_cross_entropy_with_logits", "sigmoid_contrastive_loss"}
ADVERSARIAL = {"gan_discriminator_loss", "gan_generator_loss"}
PUBLIC = {row.function.__name__ for row in LOSSES} | ADVERSARIAL | LARGE | HELPERS | CRITERIA | {"Average"}
FUNCTIONS = [getattr(jaxbce, name) for name in sorted(PUBLIC - CRITERIA - {"Average"})]

every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)

COMMON_OPTIONS = ["pos_weight", "weight", "label_smoothing", "where", "axis", "reduction"]
PLACE = ["chunk_size", "tile_size", "axis_name", "label_axis_name"]
"""What says where and in what pieces a loss is computed, and nothing about its value; comes after all else."""

# Options by name that have no default: the model learns them.
REQUIRED = {"sigmoid_contrastive_loss": {"logit_scale", "logit_bias"}}

# From the bottom up: a folder imports those before it, and `_validate` and `_cpu` not each other.
FLOORS = {"_core": 0, "_validate": 1, "_cpu": 1, "_losses": 2, "top": 3}


def test_exports():
    assert {name for name in vars(jaxbce) if not name.startswith("_")} == PUBLIC
    assert len(PUBLIC) == 16


def test_the_typed_consumer_names_everything():
    """tests/consumer.py, which a type checker reads against the wheel, has every name with every option."""
    tree = ast.parse((pathlib.Path(__file__).parent / "consumer.py").read_text(encoding="utf-8"))
    options: dict[str, set[str | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).removeprefix("jaxbce.")
            options.setdefault(called, set()).update(keyword.arg for keyword in node.keywords)
    for name in PUBLIC - {"Average"}:
        parameters = inspect.signature(getattr(jaxbce, name)).parameters.values()
        assert options[name] >= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}, name
    assert options["Average.of"] >= {"weight", "where", "axis"}
    assert "average.psum" in options


def test_the_version_stands_in_one_place():
    assert importlib.metadata.version("jaxbce") == jaxbce.__version__
    heading = "Unreleased" if jaxbce.__version__.endswith(".dev0") else jaxbce.__version__
    assert f"## [{heading}]" in (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\nversion:" not in (PACKAGE.parent / "CITATION.cff").read_text(encoding="utf-8")


def test_jax_is_all_that_it_needs():
    requirements = importlib.metadata.requires("jaxbce") or []
    assert [r for r in requirements if "extra ==" not in r] == ["jax>=0.6.2"]


@every_function
def test_signatures(function):
    """Data come by position, options by name alone, the common ones last and in one order."""
    parameters = inspect.signature(function).parameters.values()
    data = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert len(data) + len(options) == len(parameters)
    # Where labels come in either of two forms, one of them is None.
    either = {"labels"} if {"labels", "positives"} <= {p.name for p in (*data, *options)} else set()
    assert all((p.default is p.empty) == (p.name not in either) for p in data)
    assert {p.name for p in options if p.default is p.empty} == REQUIRED.get(function.__name__, set())
    if function.__name__ not in HELPERS:
        names = [p.name for p in options]
        place = [name for name in PLACE if name in names]
        assert names[len(names) - len(place) :] == place
        names = names[: len(names) - len(place)]
        common = [name for name in names if name in COMMON_OPTIONS]
        assert names[-len(common) :] == common == [name for name in COMMON_OPTIONS if name in common]


@every_function
def test_docstrings(function):
    text = inspect.getdoc(function)
    sections = ["::", "Domain:", "Args:", "Returns:", "Example:", "References:"]
    places = [text.index(section) for section in sections]
    assert places == sorted(places)
    arguments = text[text.index("Args:") : text.index("Returns:")]
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in arguments


MODULES = sorted(PACKAGE.rglob("*.py"))


def folder(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "top"


def imports(path):
    """The modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxbce":
            for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                file = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
                if file.exists():
                    yield file


def test_imports_run_from_upper_floors_to_lower_ones():
    for path in MODULES:
        for other in imports(path):
            upper, lower = folder(path), folder(other)
            assert upper == lower or FLOORS[lower] < FLOORS[upper], f"{path} imports {other}"


def test_imports_form_no_circle():
    graphlib.TopologicalSorter({path: set(imports(path)) for path in MODULES}).prepare()


def entered(call):
    """The functions of the package that a call enters, and their modules."""
    found = set()

    def note(frame, event, _):
        code = frame.f_code
        # Comprehensions and lambdas are frames of the function around them.
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith("<"):
            found.add((code.co_filename, code.co_qualname))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found, {file for file, _ in found}


@pytest.mark.cpu
def test_an_eager_call_enters_few_functions():
    """A reader who follows one call with a debugger meets few functions, also where it is traced and compiled."""
    jax.clear_caches()
    x, y = jnp.zeros(1000), jnp.ones(1000)
    for most in (40, 25):  # the first call, which compiles, and the second
        functions, modules = entered(lambda: jaxbce.binary_cross_entropy_with_logits(x, y))
        assert 5 < len(functions) <= most, sorted(functions)
        assert len(modules) <= 6, modules


def test_what_is_tuned_for_a_cpu_stands_apart():
    for path in MODULES:
        text = path.read_text(encoding="utf-8").lower()
        assert folder(path) == "_cpu" or not ("xla on cpu" in text or "optimization_barrier" in text), path


def test_the_package_never_touches_the_configuration():
    for path in MODULES:
        assert "config.update" not in path.read_text(encoding="utf-8")
