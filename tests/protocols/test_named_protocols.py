"""The protocols that come with the package, and the lists of substitutes that the paper's attack and ours draw on."""

from __future__ import annotations

import json

import pytest
import yaml

from hf_mmcoa.data import find_benchmark
from hf_mmcoa.data.benchmarks import all_benchmarks
from hf_mmcoa.protocols import read_protocol, run_protocol
from hf_mmcoa.protocols.cell import Method
from hf_mmcoa.protocols.cell_models import substitutes, trained_folder
from hf_mmcoa.protocols.grid_table import protocol_table
from hf_mmcoa.protocols.reading import named_protocols
from hf_mmcoa.substitutes.masked_lm import MaskedLMCandidates

IID, OOD = ("paper-iid", "few-shot"), ("paper-ood", "few-shot-ood")
SMALL = {
    "datasets": ["digits"],
    "tiny": {"image_size": 8, "patch_size": 2, "epochs": 1, "max_samples": 64},
    "training": {"epsilon": 0.15, "num_steps": 1, "max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True},
    "threat_model": {"preset": "quick", "num_steps": 2},
    "candidates": "digits",
    "substitutes": ["known", "unseen", "whole"],
    "max_test_samples": 16,
    "batch_size": 8,
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        file = tmp_path / "protocol.yaml"
        file.write_text(yaml.safe_dump(SMALL | changes))
        return file

    return write


# The named ones


def test_there_is_one_for_each_task_and_number_of_shots():
    assert named_protocols() == sorted(IID + OOD)
    tasks = {name: (read_protocol(name).task, read_protocol(name).shots != (None,)) for name in IID + OOD}
    assert tasks == {
        "paper-iid": ("iid", False),
        "few-shot": ("iid", True),
        "paper-ood": ("ood", False),
        "few-shot-ood": ("ood", True),
    }


@pytest.mark.parametrize("name", IID + OOD)
def test_every_defence_is_a_row_under_its_own_attack(name):
    protocol = read_protocol(name)
    older = {"none", "clean", "tecoa", "fare", "pmg-aft", "tga-zsr", "leaf", "fare+leaf", "mmcoa"}  # than 2405.18770
    assert {method.objective for method in protocol.objectives} == older
    attacks = {method.name: protocol.arguments("unused", method, 0).text_attack for method in protocol.objectives}
    assert attacks["leaf"] == attacks["fare+leaf"] == "characters"  # LEAF's own, arXiv:2506.03355
    assert attacks["mmcoa"] == attacks["mmcoa-whole-list"] == "words"


@pytest.mark.parametrize("name", IID + OOD)
def test_the_papers_text_attack_is_measured_beside_ours(name):
    protocol = read_protocol(name)
    assert protocol.substitutes == ("known", "unseen", "whole")
    assert protocol.candidates == "masked-lm" and protocol.attack_spec(0).num_candidates == 10
    trained = {method.name for method in protocol.objectives if method.substitutes == "whole"}
    assert trained == {"mmcoa-whole-list"}


def test_imagenet_is_trained_on_and_evaluated():
    for name in IID:
        assert "imagenet" in [data.name for data in read_protocol(name).datasets]
    for name in OOD:
        assert "imagenet" in [data.name for data in read_protocol(name).evaluate_on]


def test_few_shot_protocols_differ_from_the_papers_in_draws_alone():
    for full, few in (("paper-iid", "few-shot"), ("paper-ood", "few-shot-ood")):
        one, other = read_protocol(full), read_protocol(few)
        assert [data.name for data in one.all_data] == [data.name for data in other.all_data]
        assert one.objectives == other.objectives and one.attack_spec(0) == other.attack_spec(0)
        assert other.shots == (1, 2, 4, 8, 16) and other.seeds == (0, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", IID + OOD)
def test_every_split_of_a_named_protocol_exists_and_none_is_trained_and_tested_on(name):
    for cell in read_protocol(name).cells():
        row = find_benchmark(cell.data.dataset or cell.data.name)
        (test, *_) = [found for source in row.sources if (found := source.hub_splits(cell.data.test_split))]
        if cell.train_on is cell.data:
            (train, *_) = [found for source in row.sources if (found := source.hub_splits(cell.data.train_split))]
            assert not set(train) & set(test)


def test_sixteen_images_a_class_are_drawn_from_splits_that_may_have_them():
    """Flowers has ten a class in its training split; no other data set of the protocol has that trap."""
    traps = {}
    for data in read_protocol("few-shot").datasets:
        row = find_benchmark(data.dataset or data.name)
        source = next(source for source in row.sources if source.hub_splits(data.train_split))
        for split in ("train", data.train_split):
            rows = [source.counts.get(part) for part in source.hub_splits(split)]
            if None not in rows and sum(rows) < 16 * row.num_classes:
                traps.setdefault(data.name, []).append(split)
    assert traps == {"flowers102": ["train"]}


def test_no_class_is_said_to_have_more_rows_than_fit():
    for row in all_benchmarks():
        for source in row.sources:
            for split, rows in source.smallest_class.items():
                assert rows * row.num_classes <= source.counts[split]


# The whole list


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"substitutes": ["known", "all"]}, "`substitutes`: unknown all; choose from known, unseen and whole"),
        ({"substitutes": []}, "`substitutes` must name at least one value"),
        ({"objectives": ["mmcoa,substitutes=unseen"]}, "training may use known or whole"),
        ({"objectives": ["tecoa,substitutes=whole"]}, "changes nothing: its training attacks no words"),
        ({"objectives": ["leaf,substitutes=whole"]}, "changes nothing: its training attacks no words"),
        ({"objectives": ["mmcoa,substitutes=whole,text_attack=embedding"]}, "its training attacks no words"),
    ],
)
def test_a_wrong_list_is_named(write, changes, message):
    with pytest.raises(ValueError, match=message):
        read_protocol(write(**changes))


def test_the_whole_list_is_the_source_itself(write, monkeypatch, tiny_clip, tiny_processor):
    """Not a half of twice as many candidates: the paper asks the masked language model for its top ten."""
    source = MaskedLMCandidates.__new__(MaskedLMCandidates)
    monkeypatch.setattr("hf_mmcoa.protocols.cell_models.candidate_source", lambda *a: source)
    protocol = read_protocol(write(candidates="masked-lm", objectives=["mmcoa"]))
    lists = substitutes(protocol, protocol.datasets[0], tiny_clip, tiny_processor)
    assert lists["whole"] is source and lists["known"].source is source
    table = read_protocol(write())
    words = {name: dict(found.table) for name, found in substitutes(table, table.datasets[0], None, None).items()}
    assert all(
        sorted(words["known"][key] + words["unseen"][key]) == sorted(words["whole"][key]) for key in words["whole"]
    )


def test_training_on_the_whole_list_is_another_training_and_old_cells_keep_their_settings(write, tmp_path):
    rows = ["mmcoa", {"name": "whole", "objective": "mmcoa", "substitutes": "whole"}]
    plain, whole = read_protocol(write(objectives=rows)).cells()
    assert trained_folder(plain, tmp_path) != trained_folder(whole, tmp_path)
    assert whole.settings["train_substitutes"] == "whole" and "train_substitutes" not in plain.settings
    (old,) = read_protocol(write(objectives=["mmcoa"], substitutes=["known", "unseen"])).cells()
    assert "substitutes" not in old.settings and trained_folder(old, tmp_path) == trained_folder(plain, tmp_path)
    assert Method.read(whole.method.to_json(), tmp_path) == whole.method


@pytest.mark.slow
def test_a_model_that_knows_every_word_has_no_unseen_accuracy_in_the_table(write, tmp_path):
    rows = ["mmcoa", {"name": "everything", "objective": "mmcoa", "substitutes": "whole"}]
    protocol, output = read_protocol(write(objectives=rows)), tmp_path / "out"
    assert not run_protocol(protocol, output, report=lambda line: None)
    results = {
        cell.method.name: json.loads((output / "cells" / cell.name / "result.json").read_text())
        for cell in protocol.cells()
    }
    assert set(results["everything"]["attack_spec"]["candidates"]) == {"known", "unseen", "whole"}
    assert results["mmcoa"]["training"]["text_attack"] != results["everything"]["training"]["text_attack"]
    assert {"text_accuracy", "text_unseen_accuracy", "text_whole_accuracy"} <= set(results["mmcoa"])
    table = protocol_table(protocol, [(cell, results[cell.method.name]) for cell in protocol.cells()], {})
    lines = [line for line in table.splitlines() if " digits " in line or "data set" in line]
    header, plain, whole = ([cell.strip() for cell in line.split("|")] for line in lines)
    shown = {name: (a, b) for name, a, b in zip(header, plain, whole, strict=True)}
    for kind in ("text", "multimodal"):
        (unseen,) = [name for name in header if name.startswith(f"{kind} (unseen)")]
        (all_of_it,) = [name for name in header if name.startswith(f"{kind} (whole)")]
        assert shown[unseen][0] != "\\-" != shown[all_of_it][1] and shown[unseen][1] in ("-", "\\-")
    assert "no substitute is unseen to it" in table
