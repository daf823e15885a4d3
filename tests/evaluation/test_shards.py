"""Parts of an evaluation that were computed apart are merged to the file of one run, or refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from squares import KNOWN
from test_evaluator import evaluate

from hf_mmcoa.evaluation import runner
from hf_mmcoa.evaluation.results import partial_folder
from hf_mmcoa.evaluation.shards import Shard


@pytest.fixture
def run(model, processor, dataset):
    """Evaluate 24 rows in batches of five: batches 0 to 4."""

    def call(output, **changes):
        settings = {"candidates": KNOWN, "batch_size": 5, "output": output, "threat_model": {"seed": 0}}
        return evaluate(model, processor, dataset, **{**settings, **changes})

    return call


@pytest.fixture
def parts(run, tmp_path):
    """Three parts, computed one after the other."""
    output = tmp_path / "result.json"
    for number in (2, 3, 1):
        run(output, shard=f"{number}/3")
    return output


def folders(output):
    return sorted(path.name for path in output.parent.glob("result.json.*"))


@pytest.mark.slow
def test_merged_parts_are_the_file_of_one_run(run, tmp_path, parts):
    whole = run(tmp_path / "whole.json", sanity=True)
    assert not parts.exists() and folders(parts) == [f"result.json.shard-{number}-of-3" for number in (1, 2, 3)]
    result = run(parts, shard="merge/3", sanity=True)
    assert result["sanity"] and parts.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert result["outcomes"] == whole["outcomes"] and len(result["outcomes"]["clean"]) == 24
    assert not folders(parts)
    assert run(parts, shard="merge/3") == result  # what is merged already is read
    assert run(parts, shard="2/3") == result


def test_a_part_has_its_batches_and_no_numbers(run, tmp_path):
    output = tmp_path / "result.json"
    part = run(output, shard="2/3")
    assert part == {"shard": "2/3", "batches": [1, 4], "num_batches": 5}
    stored = {path.name for path in Shard(2, 3).partial(output, {}).folder.iterdir()}
    assert stored == {"header.json", "texts.json", "batch-00001.json", "batch-00004.json"}


def test_merging_attacks_nothing_and_a_part_goes_on_where_it_was(run, parts, monkeypatch):
    loaded = []
    load = runner._all_batches

    def watched(task, *rest):
        attack = task.attack
        task.attack = lambda index, batch: loaded.append(index) or attack(index, batch)
        return load(task, *rest)

    monkeypatch.setattr(runner, "_all_batches", watched)
    (Shard(2, 3).partial(parts, {}).folder / "batch-00004.json").unlink()
    run(parts, shard="2/3")
    assert loaded == [4]
    run(parts, shard="merge/3")
    assert loaded == [4]


@pytest.mark.slow
def test_more_parts_than_batches_are_merged_too(run, tmp_path):
    run(tmp_path / "whole.json")
    output = tmp_path / "result.json"
    assert [len(run(output, shard=f"{number}/7")["batches"]) for number in range(1, 8)] == [1] * 5 + [0] * 2
    run(output, shard="merge/7")
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()


def without_batch(folder):
    (folder / "batch-00004.json").unlink()


def with_other_texts(folder):
    texts = json.loads((folder / "texts.json").read_text())
    texts["searches"] = {"other": "search"}
    (folder / "texts.json").write_text(json.dumps(texts))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "2/3 is missing. Give the commands"),
        (without_batch, "2/3 lacks 1 of its 2 batches"),
        (with_other_texts, "2/3 attacked other texts"),
    ],
)
def test_parts_that_are_missing_unfinished_or_different_are_not_merged(run, parts, damage, message):
    damage(Shard(2, 3).partial(parts, {}).folder)
    with pytest.raises(ValueError, match=message):
        run(parts, shard="merge/3")
    assert not parts.exists() and not partial_folder(parts).exists()
    assert len(folders(parts)) >= 2  # nothing is lost


def test_parts_of_another_specification_are_not_merged(run, parts):
    run(parts, shard="2/3", threat_model={"seed": 1}, overwrite=True)
    with pytest.raises(ValueError, match=r"2/3 is of another evaluation \(attack_spec.seed: 1 and 0;"):
        run(parts, shard="merge/3")
    with pytest.raises(ValueError, match=r"1/3 is of another evaluation.*3/3 is of another evaluation"):
        run(parts, shard="merge/3", batch_size=6)


def test_parts_of_another_model_are_not_merged(run, parts, model):
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-6
    run(parts, shard="2/3", overwrite=True)
    with pytest.raises(ValueError, match=r"1/3 is of another evaluation \(fingerprints.model.*, 3/3 is of another"):
        run(parts, shard="merge/3")
    with pytest.raises(ValueError, match=r"holds the unfinished evaluation of something else.*fingerprints.model"):
        run(parts, shard="1/3")


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/3", "1/0", "merge/0", "merge", "-1/3", "1/3/5"])
def test_what_is_no_part_is_said(run, tmp_path, text):
    with pytest.raises(ValueError, match="`shard` is a part and how many there are"):
        run(tmp_path / "result.json", shard=text)


def test_parts_need_a_file_and_export_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="`shard` needs `output`"):
        run(None, shard="1/3")
    with pytest.raises(ValueError, match="cannot be combined with `export`"):
        run(tmp_path / "result.json", shard="1/3", export=tmp_path / "exported")
