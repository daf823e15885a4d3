"""A push to a local folder: the same files as on the Hub, without it."""

from __future__ import annotations

import pytest
from test_push import PUBLISHED
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.cli import main
from hf_mmcoa.hub.push import push_to_folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("hf_mmcoa.hub.push.connect", lambda *given: pytest.fail("the Hub was asked"))


@pytest.mark.parametrize("as_option", [True, False])
def test_the_folder_holds_the_whole_model_with_card_and_results(checkpoint, tmp_path, capsys, as_option):
    target = tmp_path / "published"
    assert main(["push", str(checkpoint), *(["--to_folder"] if as_option else []), str(target)]) == 0
    assert names(target) == PUBLISHED
    assert (target / "robustness.json").read_bytes() == (checkpoint / "robustness.json").read_bytes()
    card = (target / "README.md").read_text()
    assert "| accuracy under | before | after |" in card and f'model="{target}"' in card
    assert CLIPModel.from_pretrained(target) and CLIPProcessor.from_pretrained(target)
    shown = capsys.readouterr()
    assert (
        f"nothing was uploaded; the card is {target}/README.md" in shown.out and "left out: optimizer.pt" in shown.err
    )


def test_with_an_id_the_card_loads_the_id(checkpoint, tmp_path):
    assert main(["push", str(checkpoint), "you/robust-clip", "--to-folder", str(tmp_path / "out")]) == 0
    assert 'model="you/robust-clip"' in (tmp_path / "out" / "README.md").read_text()


def test_results_from_elsewhere_go_along(checkpoint, tmp_path):
    (checkpoint / "robustness.json").rename(tmp_path / "mine.json")
    push_to_folder(checkpoint, tmp_path / "out", results=[tmp_path / "mine.json"])
    assert "results/mine.json" in names(tmp_path / "out")


def test_a_second_push_replaces_what_the_first_left(checkpoint, tmp_path):
    target = tmp_path / "out"
    push_to_folder(checkpoint, target)
    (target / "model-00001-of-00002.safetensors").write_text("an old shard")
    (target / "notes.txt").write_text("a reader's")
    push_to_folder(checkpoint, target)
    assert names(target) == {*PUBLISHED, "notes.txt"}


def test_a_folder_of_other_files_is_refused(checkpoint, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "model.safetensors").write_text("another model")
    with pytest.raises(ValueError, match="holds files that hf-mmcoa push did not write"):
        push_to_folder(checkpoint, target)
    assert names(target) == {"model.safetensors"}
    push_to_folder(checkpoint, target, overwrite=True)
    assert names(target) == PUBLISHED


def test_targets_that_are_none(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    wrong = {
        "the folder of the checkpoint itself": ["--to_folder", str(checkpoint)],
        "is a file": [str(tmp_path / "file")],
        "a local folder has neither": ["--to_folder", str(tmp_path / "out"), "--private"],
        "name the repository": [],
    }
    for said, given in wrong.items():
        assert main(["push", str(checkpoint), *given]) == 1
        assert said in capsys.readouterr().err


def test_a_dry_run_writes_no_folder(checkpoint, tmp_path):
    assert main(["push", str(checkpoint), "--to_folder", str(tmp_path / "out"), "--dry_run"]) == 0
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_a_local_base_may_go_to_a_folder(adapter, tmp_path):
    push_to_folder(adapter, tmp_path / "out")
    assert "adapter_model.safetensors" in names(tmp_path / "out")
