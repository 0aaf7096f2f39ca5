"""The cases keep their own rules: at most 40 lines each, and no escape hatch."""

import ast
from pathlib import Path

import pytest

CASES = sorted(p for p in Path(__file__).parent.glob("test_*.py") if p.name != "test_rules.py")
HATCHES = {"isinstance", "issubclass", "type", "hasattr", "getattr", "setattr", "monkeypatch"}


def code_lines(source: str, tree: ast.Module) -> int:
    """Lines that are neither blank, comment, import nor docstring."""
    skip: set[int] = set()
    for node in ast.walk(tree):
        documented = ast.get_docstring(node) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) else None
        for part in [node.body[0]] if documented else [node] if isinstance(node, ast.Import | ast.ImportFrom) else []:
            skip.update(range(part.lineno, part.end_lineno + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for i, line in lines if i not in skip and line.strip() and not line.strip().startswith("#"))


def test_there_are_ten():
    assert len(CASES) == 10


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.stem)
def test_short_and_without_escape_hatch(case):
    source = case.read_text()
    tree = ast.parse(source)
    assert code_lines(source, tree) <= 40
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    private = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("_")}
    assert not names & HATCHES
    assert not private
