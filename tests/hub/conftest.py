"""A Hub on loopback, the client of this process pointed at it, and small folders to publish."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer
from huggingface_hub import constants
from measured import result_of
from result_dicts import make_result

from hf_mmcoa.io import write_json
from hf_mmcoa.models.lora import add_lora

SETTINGS = "dataset: squares\nepsilon: 0.1\nmodel_name_or_path: org/tiny-clip\noutput_dir: out\n"


@pytest.fixture
def checkpoint(tiny_clip, tiny_processor, tmp_path) -> Path:
    """The folder that `hf-mmcoa train` writes, with files that must not be published."""
    folder = tmp_path / "robust-clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    (folder / "training_args.yaml").write_text(SETTINGS)
    write_json(
        {"before": make_result(model="org/tiny-clip"), "after": result_of(tiny_clip)}, folder / "robustness.json"
    )
    for name in ("training_args.bin", "optimizer.pt", "notes.pkl", "trainer_state.json", ".secret", "run.py"):
        (folder / name).write_text("{}")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return folder


@pytest.fixture
def adapter(tiny_clip, tiny_processor, tmp_path) -> Path:
    """An adapter of the model in `tmp_path/base`, with weights that change its output."""
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    tiny_clip.name_or_path = str(tmp_path / "base")
    adapted = add_lora(copy.deepcopy(tiny_clip), rank=2)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.01)
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    write_json(result_of(adapted.eval()), folder / "robustness.json")
    return folder


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A running Hub with two accounts: `user` (hf_owner) and `stranger` (hf_stranger)."""
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture
def online(hub, tmp_path, monkeypatch) -> HubServer:
    """`hub`, with this process's client pointed at it and logged in as `user`; it retries without waiting.

    huggingface_hub reads the environment when it is imported, so what it made of it is replaced.
    """
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # it keeps the address of its first use
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    return hub


@pytest.fixture
def elsewhere(hub, tmp_path) -> Callable[..., str]:
    """Run code in a new process that knows the Hub's address and nothing else, no token either."""

    def run(code: str) -> str:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSF"))}
        environment = {**kept, **settings, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
