"""What the package shows, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.cluster import ROOT
from support.crash import python_path

PACKAGE = ROOT / "python_driver/hotmesh"
LIGHT = {"hotmesh", "psycopg", "psycopg_binary", "typing_extensions"}
LIGHT_TOO = ("_sysconfigdata", "_cython", "cython_runtime")  # of the platform, of psycopg's binary
MODULES = sorted(PACKAGE.glob("*.py"))
MAX_LINES = 600


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    return None


def order(name: str) -> tuple[int, str]:
    """As ruff sorts: constants, classes, the rest."""
    rank = 0 if name.isupper() else 1 if name.lstrip("_")[:1].isupper() else 2
    return (rank, name)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_all_is_sorted(module: Path) -> None:
    tree = ast.parse(module.read_text())
    names = exported(tree)
    if names is None:
        assert module.name.startswith("_"), "a public module has __all__"
        assert module.name != "__init__.py"
        return
    assert names == sorted(set(names), key=order)


def test_the_package_shows_exactly_what_it_says() -> None:
    import hotmesh

    public = {
        name
        for name, value in vars(hotmesh).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }
    modules = {name for name in hotmesh.__all__ if isinstance(vars(hotmesh)[name], ModuleType)}
    assert set(hotmesh.__all__) == public | modules | {"__version__"} & set(hotmesh.__all__)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_can_be_read_in_one_sitting(module: Path) -> None:
    assert module.read_text().count("\n") <= MAX_LINES


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_says_what_it_is(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree)
    assert "annotations" in {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    }


def loaded(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_psycopg_and_the_standard_library_only() -> None:
    found = loaded("import hotmesh") - loaded("") - set(sys.stdlib_module_names)
    assert {name for name in found - LIGHT if not name.startswith(LIGHT_TOO)} == set()
    assert "hotmesh" in found


def test_the_modules_that_the_contract_names_come_with_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import hotmesh; hotmesh.embedded.dsn, hotmesh.testing.replay"],
        env={"PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
