"""The notebooks run from top to bottom offline and show what their text says; they are stored without outputs.

The cells are executed as one script, in the order of a kernel: so no notebook may use IPython's magic, and the tests
need no kernel.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NAMES = ["quickstart", "own_objective"]


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def run(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """Every code cell in one namespace; what it holds in the end."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = type(sys)("notebook")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "notebook", module)
    for cell in cells(name):
        if cell["cell_type"] == "code":
            code = compile("".join(cell["source"]), f"{name}.ipynb {cell['id']}", "exec", dont_inherit=True)
            exec(code, module.__dict__)
    return module.__dict__


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_stored_without_outputs(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_quick_start_falls_and_stands(monkeypatch, tmp_path, capsys):
    found = run("quickstart", monkeypatch, tmp_path)
    before, after = found["before"], found["after"]
    assert before["clean_accuracy"] > 0.8 and before["multimodal_accuracy"] < 0.1
    assert after["image_accuracy"] > before["image_accuracy"] + 0.1
    assert after["text_accuracy"] > before["text_accuracy"] + 0.1
    assert Path(found["output"], "after.png").stat().st_size > 10_000
    assert "multimodal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_own_objective_trains_and_its_own_attack_flatters(monkeypatch, tmp_path, capsys):
    found = run("own_objective", monkeypatch, tmp_path)
    before, after, own = found["before"], found["after"], found["own"]
    assert after["image_accuracy"] > before["image_accuracy"] + 0.15
    assert own["image_accuracy"] > after["image_accuracy"]  # as the text says
    assert "OneStep(epsilon=0.15)" in str(own["attack_spec"]["image_attacks"])
