"""All commands: none imports another, and help and argument errors come before heavy imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from hf_mmcoa import cli
from hf_mmcoa.cli import measurement_arguments
from hf_mmcoa.evaluation import prepare
from hf_mmcoa.evaluation.threat_model import ThreatModel

ROOT = Path(__file__).parents[2]
FOLDER = Path(cli.__file__).parent
COMMANDS = ["train", "evaluate", "report", "protocol", "convert", "push", "compare", "demo", "interpolate"]
COMMANDS += ["reproduce", "verify", "encoder", "universal"]
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "accelerate", "peft", "sklearn", "scipy")


def commands_imported(source: str) -> set[str]:
    """Commands that a module in `hf_mmcoa/cli` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = str(node.module or "").removeprefix("hf_mmcoa.cli").strip(".")
            if node.level == 1 or str(node.module).startswith("hf_mmcoa.cli"):
                found |= {module.partition(".")[0]} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("hf_mmcoa.cli.") for alias in node.names}
    return found & set(COMMANDS)


def test_the_commands_are_those_of_the_parser():
    choices = next(action.choices for action in cli.build_parser()._actions if action.dest == "command")
    assert set(choices) == set(COMMANDS) == {name for name in COMMANDS if (FOLDER / f"{name}.py").is_file()}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_no_command_is_imported_but_by_the_parser(file):
    imported = commands_imported(file.read_text(encoding="utf-8"))
    assert imported == (set(COMMANDS) if file.stem == "__init__" else set())


@pytest.mark.parametrize(
    "line",
    ["from .train import parse", "from . import demo", "import hf_mmcoa.cli.push", "from hf_mmcoa.cli import push"],
)
def test_an_import_of_a_command_is_found(line):
    assert commands_imported(f"def run():\n    {line}")


# Start-up


@pytest.mark.parametrize(("given", "found"), [(None, "false"), ("true", "true")])
def test_commands_tokenize_in_one_thread_unless_they_are_told_otherwise(given, found):
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if given is None else {"TOKENIZERS_PARALLELISM": given})
    code = "import os, hf_mmcoa.cli.train; print(os.environ['TOKENIZERS_PARALLELISM'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == found


def run(*arguments: str) -> tuple[int, str, list[str]]:
    """Exit status, stderr and heavy modules of `hf-mmcoa ARGUMENTS` in a process of its own."""
    code = (
        "import sys\nfrom hf_mmcoa.cli import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as stopped: status = stopped.code\n"
        f"print('HEAVY', *[name for name in {HEAVY} if name in sys.modules])\n"
        "sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr, done.stdout.rpartition("HEAVY")[2].split()


@pytest.mark.few(3)
@pytest.mark.parametrize("command", ["", *COMMANDS[1:]])  # `train` lists every field of TrainingArguments
def test_help_imports_nothing_heavy(command):
    assert run(*command.split(), "--help") == (0, "", [])


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("evaluat", "invalid choice: 'evaluat'"),
        ("evaluate --bogus", "the following arguments are required: --model, --dataset"),
        ("evaluate --model m --dataset d --bogus", "unrecognized arguments: --bogus"),
        ("evaluate --model m --dataset d --preset weak", "invalid choice: 'weak'"),
        ("evaluate --model m --dataset d --image_attacks fgms", "invalid choice: 'fgms'"),
        ("evaluate --model m --dataset d --num_steps ten", "invalid int value: 'ten'"),
        ("interpolate --pretrained m", "required: --output, --dataset"),
        ("compare --output o --preset weak", "invalid choice: 'weak'"),
        ("convert a", "required: OUTPUT"),
        ("train --config", "expected one argument"),
    ],
)
def test_a_wrong_argument_is_reported_before_heavy_imports(arguments, message):
    status, error, heavy = run(*arguments.split())
    assert status == 2 and message in error and heavy == []


def test_a_wrong_file_of_training_options_is_reported_before_heavy_imports(tmp_path):
    (tmp_path / "list.yaml").write_text("- epsilon\n")
    for name, message in (("none.yaml", "there is no such file"), ("list.yaml", "expected `option: value` lines")):
        status, error, heavy = run("train", "--config", str(tmp_path / name))
        assert status == 1 and message in error and heavy == []


def test_help_takes_a_fraction_of_a_second():
    started = time.monotonic()
    run("--help")
    assert time.monotonic() - started < 3  # 0.2 on an idle core; tests share theirs


# Choices


def test_the_kinds_of_attack_are_the_evaluators():
    assert measurement_arguments.THREATS == prepare.ATTACKS


def test_every_choice_is_a_threat_models():
    types = get_type_hints(ThreatModel)
    literal = {name: get_args(kind) for name, kind in types.items() if get_origin(kind) is Literal}
    assert {"norm", "perturb_at"} <= set(literal)
    for name, options in measurement_arguments.OVERRIDES.items():
        assert name in types
        if name in literal:
            assert tuple(options["choices"]) == literal[name]
