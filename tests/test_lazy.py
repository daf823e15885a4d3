"""Packages that import their names when they are first used: nothing is lost, and nothing heavy is imported early."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = [f"hf_mmcoa{room}" for room in ("", ".attacks", ".data", ".evaluation", ".protocols")]
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "accelerate", "peft", "sklearn", "scipy")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_imported_for_type_checkers_and_at_run_time(name):
    package = importlib.import_module(name)
    imported = {
        (alias.name, "." * node.level + str(node.module))
        for node in ast.walk(ast.parse(inspect.getsource(package)))
        if isinstance(node, ast.ImportFrom) and node.level and node.module != "_lazy"
        for alias in node.names
    }
    assert {name for name, _ in imported} == set(package.__all__) <= set(dir(package))
    for public, module in imported:
        assert getattr(package, public) is getattr(importlib.import_module(module, name), public)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_lazy_name_is_a_submodules(name):
    package = importlib.import_module(name)
    clashes = {each.name for each in pkgutil.iter_modules(package.__path__)} & set(package.__all__)
    assert clashes <= {"few_shot"}  # which `hf_mmcoa.data` imports at once
    for clash in clashes:
        importlib.import_module(f"{name}.{clash}")
        assert inspect.isfunction(getattr(package, clash))


def test_submodules_are_attributes_and_other_names_are_not():
    code = (
        "import hf_mmcoa; print(hf_mmcoa.evaluation.threat_model.PRESETS.keys())\n"
        "assert not hasattr(hf_mmcoa, 'nothing') and not hasattr(hf_mmcoa, '_private')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, hf_mmcoa, hf_mmcoa.cli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
