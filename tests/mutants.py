"""Mutants: the package with one small mistake, such as a hand may slip to."""

import ast
import contextlib
import difflib
import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import parso
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]

# Of cosmic-ray's replacements those that may go unnoticed. `<<` for `+` fails on floats at once, and proves nothing.
OPERATORS = re.compile(
    r"core/(AddNot|NumberReplacer|RemoveDecorator|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr"
    r"|ReplaceOrWithAnd|ExceptionReplacer|ZeroIterationForLoop|ReplaceContinueWithBreak"
    r"|ReplaceUnaryOperator_Delete_(USub|Not|Invert)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is|In_NotIn|NotIn_In"
    r"|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt))"
)

PAIRS = ("minimum maximum", "min max", "fmin fmax", "any all", "zeros_like ones_like", "log1p log", "exp expm1")
TWINS = {a: b for pair in map(str.split, PAIRS) for a, b in (pair, pair[::-1])}


class Twin(Operator):
    """A function for the one that it is easily taken for."""

    def mutation_positions(self, node):
        if isinstance(node, parso.python.tree.Name) and node.value in TWINS:
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        del index
        node.value = TWINS[node.value]
        return node

    @classmethod
    def examples(cls):
        return ()


class Mutant(NamedTuple):
    """An occurrence of an operator in a file, whose contents have the hash `source`, and the line that it changes."""

    path: str
    operator: str
    occurrence: int
    line: int
    source: str

    def code(self) -> str:
        operator = Twin if self.operator == "Twin" else get_operator(self.operator)
        return mutate_code((ROOT / self.path).read_text(), operator(), self.occurrence)

    def diff(self) -> str:
        before, after = ((ROOT / self.path).read_text().splitlines(), self.code().splitlines())
        changes = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
        return "\n".join(line for line in changes if line[:2] != "@@" and line[1:].strip())


def mutants(path: Path) -> Iterator[Mutant]:
    source, tree = path.read_text(), get_ast_from_path(path)
    silent = list(unnoticed(ast.parse(source)))
    name, digest = str(path.relative_to(ROOT)), hashlib.sha256(source.encode()).hexdigest()[:12]
    chosen = {name: get_operator(name) for name in operator_names() if OPERATORS.fullmatch(name)} | {"Twin": Twin}
    for operator, make in chosen.items():
        positions = [(start, node) for node in ast_nodes(tree) for start, _ in make().mutation_positions(node)]
        for occurrence, (start, node) in enumerate(positions):
            # The bare star of a signature is no product.
            star = node.parent is not None and node.parent.type == "parameters"
            if not star and not any(begin <= start < end for begin, end in silent):
                yield Mutant(name, operator, occurrence, start[0], digest)


def drawn(path: Path, number: int, seed: int) -> list[Mutant]:
    """So many of them, or all, in the order of a shuffle; none that is no Python, as `/labels` for `*labels`."""
    every, chosen = list(mutants(path)), []
    random.Random(f"{seed} {path.name}").shuffle(every)
    for mutant in every:
        with contextlib.suppress(SyntaxError):
            ast.parse(mutant.code())
            chosen.append(mutant)
        if len(chosen) == number:
            break
    return chosen


def unnoticed(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types and texts begin and end: no test should notice what they say."""
    for node in ast.walk(tree):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.JoinedStr | ast.Raise):
            parts += [node]
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            parts += [node]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            parts += node.args[1:]
        for part in filter(None, parts):
            yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
