"""The face that users see, and the order of the rooms behind it."""

import ast
import importlib.metadata
import inspect
import pathlib

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

# Imports run downward only, and rooms on one floor do not import each other.
FLOORS = {
    "_typing": 0,
    "_manual_axes": 1,
    "_domains": 0,
    "_checks": 0,
    "_program": 2,
    "_options": 1,
    "_numerics": 1,
    "_alignment": 2,
    "_cpu": 3,
    "_pairwise_loss": 3,
    "_values": 3,
    "_indices": 4,
    "_inputs": 4,
    "_softmax_loss": 4,
    "_class_inputs": 5,
    "_reduction": 5,
    "_positives": 5,
    "_balance": 6,
    "_elementwise": 6,
    "_categorical": 6,
    "_contrastive": 6,
    "_binary": 7,
    "_linear_inputs": 7,
    "_focal": 8,
    "_linear_head": 8,
    "_adversarial": 8,
    "_sparse": 8,
    "_linear": 9,
    "_criteria": 9,
    "__init__": 10,
}


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
    sections = ["::", "Domain:", "Args:", "Returns:", "Raises:", "Example:", "References:"]
    places = [text.index(section) for section in sections]
    assert places == sorted(places)
    arguments = text[text.index("Args:") : text.index("Returns:")]
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in arguments


MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """A module, or the folder that it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxbce":
            rooms = {alias.name for alias in node.names} if node.module == "jaxbce" else {node.module.split(".")[1]}
            for other in rooms - {room(path)}:
                assert FLOORS[other] < FLOORS[room(path)], f"{path} imports {other}"


def test_what_is_tuned_for_a_cpu_stands_apart():
    for path in MODULES:
        text = path.read_text(encoding="utf-8").lower()
        assert room(path) == "_cpu" or not ("xla on cpu" in text or "optimization_barrier" in text), path


def test_the_package_never_touches_the_configuration():
    for path in MODULES:
        assert "config.update" not in path.read_text(encoding="utf-8")
