"""`hf-mmcoa reproduce` from a Hub: models and data sets are repositories, in a process that knows only its address."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hub_server import HubServer
from squares import CLASS_NAMES, _trained, model, processor, squares  # noqa: F401

from hf_mmcoa.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TABLE = """\
title: squares
read: {numbers: "nowhere"}
models: {ours: user/squares, gone: user/gone}
data:
  - {name: first, dataset: user/wds_first, templates: ["a {}", "This is a photo of a {}"]}
  - {name: second, dataset: user/wds_second}
threat_model: {preset: quick, num_steps: 2, perturb_at: native}
samples: {clean: all, attacked: 9}
numbers:
  - {model: ours, clean: 100.0, 16/255: 40.0}
  - {model: ours, data: first, 16/255: 99.9}
  - {model: gone, clean: 50.0}
"""


def webdataset(seed: int) -> dict[str, bytes]:
    """The files of a repository laid out as `clip-benchmark/wds_*`."""
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for number, row in enumerate(squares(9, seed=seed)):
            picture = io.BytesIO()
            row["image"].save(picture, "PNG")
            for kind, data in {"cls": str(row["label"]).encode(), "png": picture.getvalue()}.items():
                member = tarfile.TarInfo(f"s{number:07}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    names = "\n".join(CLASS_NAMES).encode()
    return {"test/0.tar": shard.getvalue(), "test/nshards.txt": b"1", "classnames.txt": names}


def test_a_planted_wrong_number_is_flagged(online: HubServer, model, processor, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    online.create("models", "user/squares", False, files)
    for seed, name in enumerate(("first", "second")):
        online.create("datasets", f"user/wds_{name}", False, webdataset(seed))
    (tmp_path / "table.yaml").write_text(TABLE)
    output = tmp_path / "out"
    words = ["reproduce", str(tmp_path / "table.yaml"), "--output", str(output), "--cpu", "--quiet"]
    assert main(words) == 3
    numbers = json.loads((output / "reproduction.json").read_text())["numbers"]
    assert [one["verdict"] for one in numbers] == ["holds", "holds", "differs", "not measured"]
    assert numbers[0]["samples"] == 18 and numbers[2]["published"] == 0.999 > numbers[2]["high"]
    assert "user/gone" in numbers[3]["why"] and "user/gone" in capsys.readouterr().err
    kept = {file.name for file in Path(output / "results").iterdir()}
    assert kept == {f"user-squares_user-wds_{name}_eps16-255.json" for name in ("first", "second")}
