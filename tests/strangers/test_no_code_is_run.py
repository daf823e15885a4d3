"""No file of the package or the examples runs what it reads: looked up in the syntax tree of each."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.file_names import FILE_LIST

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "hf_mmcoa").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "pty"}
ATTRIBUTES = {
    "os.system", "os.popen", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "np.fromregex", "pd.read_pickle",
    "subprocess.getoutput", "subprocess.getstatusoutput", "importlib.import_module", "tarfile.extractall",
    "zipfile.extractall", "shutil.unpack_archive",
}  # fmt: skip
METHODS = {"extractall"}
# Keyword -> the value that it must not have; a value that is no literal is refused too.
FLAGS = {"trust_remote_code": True, "shell": True, "allow_pickle": True, "weights_only": False}


def dangers(source: str) -> Iterator[str]:
    """What a program does that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called in BUILTINS | ATTRIBUTES or method in METHODS:
            yield f"{called}()"
        given = {each.arg: each.value for each in node.keywords}
        for flag, forbidden in FLAGS.items():
            value = given.get(flag)
            if value is not None and (not isinstance(value, ast.Constant) or bool(value.value) == forbidden):
                yield f"{called}({flag}={ast.unparse(value)})"
        if called == "torch.load" and "weights_only" not in given:
            yield "torch.load() without weights_only"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(file: Path) -> None:
    assert list(dangers(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_no_notebook_runs_what_it_reads(file: Path) -> None:
    cells = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines() if not line.startswith(("!", "%"))]
    assert list(dangers("\n".join(lines))) == []


@pytest.mark.parametrize(
    "program",
    [
        "eval(x)",
        "exec(x)",
        "import pickle",
        "from pickle import loads",
        "import joblib as j",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=w)",
        "M.from_pretrained(n, trust_remote_code=True)",
        "load_dataset(n, trust_remote_code=t)",
        "yaml.load(t, Loader=yaml.Loader)",
        "subprocess.run(c, shell=True)",
        "np.load(f, allow_pickle=True)",
        "os.system(c)",
        "t.extractall(d)",
    ],
)
def test_the_test_can_fail(program: str) -> None:
    assert len(list(dangers(program))) == 1


def test_the_test_lets_pass_what_is_safe() -> None:
    safe = "model.eval(); torch.load(f, weights_only=True); yaml.safe_load(t); subprocess.call(c); re.compile(p)"
    assert len(FILES) > 100 and len(NOTEBOOKS) == 2 and list(dangers(safe)) == []


class Owned:
    """Pickled, it writes a file when somebody loads it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.file),))


def test_resuming_from_a_hostile_checkpoint_runs_nothing(tiny_clip, tiny_processor, tmp_path: Path) -> None:
    """The Trainer's own state is in torch's format, which can hold a pickle: it is read with `weights_only=True`."""
    data = datasets.Dataset.from_dict({"image": [[[[0] * 3] * 32] * 32] * 2, "label": [0, 1]}).cast_column(
        "label", datasets.ClassLabel(names=["cat", "dog"])
    )
    output = {"output_dir": str(tmp_path / "out"), "save_steps": 1, "report_to": "none", "use_cpu": True}
    options = {"num_steps": 1, "text_attack": "none", "lambda_text": 0, "disable_tqdm": True, **output}

    def trainer(max_steps: int) -> MMCoATrainer:
        return MMCoATrainer(
            tiny_clip, MMCoAConfig(max_steps=max_steps, **options), data, processing_class=tiny_processor
        )

    trainer(1).train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    (checkpoint / FILE_LIST).unlink()  # whoever swaps a file can write its list of sizes, or leave it out
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        whole = (checkpoint / name).read_bytes()
        torch.save(Owned(tmp_path / "owned"), checkpoint / name)
        with pytest.raises(Exception, match=r"(?i)weights.only"):
            trainer(2).train(resume_from_checkpoint=str(checkpoint))
        assert not (tmp_path / "owned").exists()
        (checkpoint / name).write_bytes(whole)
