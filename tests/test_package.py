"""The shape of the package: what it exports, which way imports point, and what never appears in it."""

import ast
from pathlib import Path

import pytest

import trimtab

ROOT = Path(trimtab.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ORDER = ["errors", "assets", "policies", "vectors", "rewards", "values", "decoding", "engines", "training"]
ORDER += ["evaluation", "tasks", "benchmarks", "serving", "cli"]
# Policy.generate is the public face of decoding, Vector.between that of vectors; they import it when they are called.
# Absorption compares two policies in one reward, with the interval that every comparison has.
POINTS_BACK = {("policies/base.py", "decoding"), ("policies/vector.py", "vectors")}
POINTS_BACK |= {("training/absorb.py", "evaluation")}
MAX_LINES, MAX_FUNCTION = 400, 60


def name(path):
    return str(path.relative_to(ROOT))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_public_name_is_there_and_listed_in_order():
    assert sorted(trimtab.__all__) == sorted({*trimtab._HOMES, *trimtab._ROOMS, "__version__"})
    for each in trimtab.__all__:
        assert getattr(trimtab, each) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        trimtab.nonsense  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room not in ORDER:  # the public face and the laws may use everything
        return
    for module in imported(path):
        parts = module.split(".")
        if parts[0] == "trimtab" and len(parts) > 1 and parts[1] in ORDER:
            allowed = ORDER.index(parts[1]) <= ORDER.index(room) or (name(path), parts[1]) in POINTS_BACK
            assert allowed, f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_unpickles_or_runs_text(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "hasattr"}, f"{name(path)}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, (
                f"{name(path)}:{node.lineno}"
            )
    assert not {"pickle", "joblib", "dill"} & set(imported(path))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_modules_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= MAX_FUNCTION, f"{name(path)}: {node.name} has {lines} lines"
