"""The rooms: what may import what, what stays private, and how long a file may be (docs/architecture.md)."""

from __future__ import annotations

import ast
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hf_mmcoa"
LONGEST = 500  # lines; a module that needs more says why in its first lines


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in a folder."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def copy_of_package(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "hf_mmcoa", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_rooms_import_downwards_only():
    pytest.importorskip("importlinter")
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("file", "line", "named"),
    [
        ("attacks/pgd.py", "from ..evaluation import results", "hf_mmcoa.attacks is not allowed to import"),
        ("models/freezing.py", "from ..training import trainer", "hf_mmcoa.models is not allowed to import"),
        ("hub/push.py", "from ..training import trainer", "hf_mmcoa.hub is not allowed to import"),
    ],
)
def test_an_import_against_the_direction_is_found(tmp_path, file, line, named):
    pytest.importorskip("importlinter")
    folder = copy_of_package(tmp_path)
    path = folder / "hf_mmcoa" / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint_imports(folder)
    assert done.returncode == 1 and named in done.stdout


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(module: str, path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import inside the package, those inside functions included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            target = ".".join(base + ([node.module] if node.module else []))
            found += [(target, alias.name) for alias in node.names]
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_room_reads_another_rooms_private_names():
    wrong = [
        f"{module}: {target}.{name}"
        for module, path in modules().items()
        for target, name in imports(module, path)
        if name.startswith("_") and not name.startswith("__") and room(target) != room(module)
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    """Also inside a room, and inside functions: a late import hides a circle, it does not end it."""
    known = modules()
    edges = {
        module: {
            hit
            for target, name in imports(module, path)
            if (hit := f"{target}.{name}" if f"{target}.{name}" in known else target) in known and hit != module
        }
        for module, path in known.items()
        if path.name != "__init__.py"
    }

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            here = todo.pop()
            if here not in seen:
                seen.add(here)
                todo += edges.get(here, ())
        return seen

    assert sorted(module for module in edges if module in reached(module)) == []


def test_long_modules_say_why():
    long = []
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(text)) or ""
        if text.count("\n") > LONGEST and "long because" not in doc:
            long.append(name)
    assert not long


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by name alone, so the second would not be collected."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_the_longest_test_files_are_there_and_have_slow_tests():  # a name that is no file's would order nothing
    for name in runpy.run_path(str(ROOT / "tests/conftest.py"))["LONGEST_FILES"]:
        (file,) = ROOT.joinpath("tests").rglob(name)
        assert "mark.slow" in file.read_text(encoding="utf-8"), name
