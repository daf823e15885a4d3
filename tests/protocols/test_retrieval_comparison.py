"""Comparisons on captions: columns and statistics by hand, what is refused, and one from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import yaml

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation.recalls import recalls
from hf_mmcoa.evaluation.uncertainty import Repetition
from hf_mmcoa.protocols.cell import Method
from hf_mmcoa.protocols.cell_models import _check_captions, load_rows
from hf_mmcoa.protocols.columns import first_columns, plotted_columns, samples_of
from hf_mmcoa.protocols.comparison import Row, compare_rows, comparison_chart, run_comparison, specification
from hf_mmcoa.protocols.grid import run_protocol
from hf_mmcoa.protocols.grid_table import accuracy_table
from hf_mmcoa.protocols.reading import read_protocol

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS_OF = [[0, 1], [2, 3], [4, 5], [6, 7]]  # two captions an image
SMALL = {
    "task": "retrieval",
    "base": "pictograms-common",
    "datasets": [{"name": "pictograms-common", "text_column": "text"}],
    "objectives": ["none", "mmcoa", "mat+"],
    "training": {"max_steps": 1, "num_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": 8}
    | {"captions_per_image": 2, "use_cpu": True},
    "threat_model": {"preset": "quick", "num_steps": 1, "restarts": 1},
    "max_test_samples": 8,
}


def write(folder, **changes):
    file = folder / "captions.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}))
    return file


def result(image_ranks, caption_ranks=(1,) * 8, attacked=None):
    """A result of retrieval with one image attack."""
    ranks = {"clean/image_to_text": list(image_ranks), "clean/text_to_image": list(caption_ranks)}
    ranks |= {
        "image/pgd-ce/image_to_text": list(attacked or image_ranks),
        "image/pgd-ce/text_to_image": list(caption_ranks),
    }
    return {
        **recalls(ranks, CAPTIONS_OF),
        "task": "retrieval",
        "ranks": ranks,
        "captions": [f"caption {number}" for number in range(8)],
        "captions_of": CAPTIONS_OF,
        "attack_spec": {},
        "seed": 0,
        "versions": {},
    }


def row(name, one):
    return Row(
        name=name, results={Repetition(0): one}, files={Repetition(0): name}, method=Method(name=name, objective="mat")
    )


def test_recalls_their_intervals_and_tests_by_hand():
    better = row("better", result([1, 1, 1, 6], attacked=[1, 2, 1, 6]))
    worse = row("worse", result([1, 9, 9, 9], caption_ranks=[1, 1, 2, 2, 2, 2, 2, 2]))
    numbers = compare_rows([better, worse], "worse")
    found = numbers["methods"]["better"]["accuracies"]
    assert [found[f"clean_image_to_text_recall_at_{k}"]["value"] for k in (1, 5, 10)] == [0.75, 0.75, 1]
    assert found["image_image_to_text_recall_at_1"]["value"] == 0.5  # the worst rank of a query counts
    clean = found["clean_image_to_text_recall_at_1"]
    assert [clean["low"], clean["high"]] == better.results[Repetition(0)]["clean_image_to_text_recall_at_1_interval"]
    test = numbers["tests"]["better"]["clean_image_to_text_recall_at_1"]
    assert (test["difference"], test["only_method"], test["only_reference"], test["p_value"]) == (0.5, 2, 0, 0.5)
    assert test["test"] == "McNemar"  # each image is alone in its group
    texts = numbers["tests"]["better"]["clean_text_to_image_recall_at_1"]
    assert (texts["pairs"], texts["over"]) == (8, "captioned images")  # captions of one image change sides together
    assert texts["p_value"] == 0.25  # of three images, not of six captions, which would be 2 / 2^6


def test_captions_of_one_image_are_one_group():
    one = samples_of(result([1, 1, 2, 2], [1, 2, 6, 1, 1, 1, 1, 1]), "clean_text_to_image_recall_at_5")
    assert one.outcome == "11011111" and one.over == "captioned images"
    assert len(set(one.clusters)) == 4 and one.clusters[0] == one.clusters[1]
    assert samples_of(result([1, 1, 2, 2]), "clean_image_to_text_recall_at_1").over == "images"


def test_the_first_table_and_the_plot_show_recalls_at_one():
    numbers = compare_rows([row("mat", result([1, 2, 3, 4]))])
    first = first_columns(numbers["columns"])
    assert list(first.values())[:2] == ["clean, image to text R@1", "clean, text to image R@1"]
    assert len(numbers["columns"]) == 3 * len(first)
    assert list(plotted_columns(numbers["columns"]).values()) == [
        "clean_accuracy",
        "image_accuracy",
        "worst_case_accuracy",
    ]
    assert comparison_chart(numbers).startswith(b"\x89PNG")


def test_a_column_of_labels_is_unknown_to_retrieval():
    with pytest.raises(ValueError, match=r"`columns`: there is no 'text \(known\), own'; there are clean, image to"):
        accuracy_table(compare_rows([row("mat", result([1, 2, 3, 4]))]), ["text (known), own"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ["tecoa"]}, "'tecoa' needs labels"),
        ({"objectives": ["mmcoa,text_adversary=own"]}, "'mmcoa,text_adversary=own' needs labels"),
        ({"threat_model": {"text_adversaries": ["own"]}}, "text_adversaries speaks of classes"),
        ({"threat_model": {"template": "a {}"}}, "template speaks of classes"),
        ({"shots": [4]}, "`shots` are images a class"),
        ({"tiny": {"image_size": 48, "patch_size": 16, "epochs": 1}}, "name a `model`"),
        ({"datasets": [{"name": "pictograms-common", "label_column": "label"}]}, "names a `label_column`"),
    ],
)
def test_what_needs_labels_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_protocol(write(tmp_path, **changes))


def test_the_template_of_a_base_is_no_part_of_the_threat_model(tmp_path):
    protocol = read_protocol(write(tmp_path))
    assert "template" in protocol.training and protocol.attack_spec(0).template is None
    assert specification(protocol)["task"] == "retrieval"


def test_pairs_are_loaded_without_labels_and_data_without_captions_are_refused(tmp_path):
    protocol = read_protocol(write(tmp_path))
    rows = load_rows(protocol, protocol.datasets[0], "validation")
    assert rows.column_names == ["image", "text"]
    bare = read_protocol(write(tmp_path, datasets=["pictograms-common"]))
    with pytest.raises(ValueError, match=r"pictograms-common has no captions in split 'test'.*text_column"):
        load_rows(bare, bare.datasets[0], "test")


def test_more_captions_than_any_image_has_are_refused(tmp_path):
    protocol = read_protocol(write(tmp_path))
    data = datasets.Dataset.from_dict({"text": [["a", "b"], ["c"]]})
    for objective, asked in (("mat+", 3), ("saft", 3)):
        method = Method(name="mine", objective=objective)
        args = protocol.arguments("unused", method, 0, captions_per_image=asked)
        with pytest.raises(ValueError, match="`captions_per_image` is 3 for 'mine', and no image of d has more than 2"):
            _check_captions(data, SimpleNamespace(method=method, data=SimpleNamespace(name="d")), args)
    cell = SimpleNamespace(method=Method(name="mine", objective="mat+"), data=SimpleNamespace(name="d"))
    _check_captions(data, cell, protocol.arguments("unused", cell.method, 0, captions_per_image=2))


def test_a_grid_of_retrieval_and_results_on_labels_are_refused(tmp_path):
    protocol = read_protocol(write(tmp_path))
    with pytest.raises(ValueError, match="hf-mmcoa compare"):
        run_protocol(protocol, tmp_path / "out")
    labels = next((ROOT / "docs/results/comparisons/digits/cells").glob("*_none_seed0")) / "result.json"
    with pytest.raises(ValueError, match=r"`results`: .* was measured on labels, this comparison on captions"):
        run_comparison(protocol, tmp_path / "out", results=[f"theirs={labels}"])


def test_the_example_is_a_comparison_on_captions():
    protocol = read_protocol(ROOT / "examples/comparisons/pictograms-captions.yaml")
    then = json.loads((ROOT / "docs/results/comparisons/pictograms-captions/specification.json").read_text())
    assert specification(protocol) == then and protocol.training["captions_per_image"] == 3


@pytest.mark.slow
def test_a_comparison_on_captions_from_end_to_end(tmp_path, capsys):
    file, out = write(tmp_path), tmp_path / "out"
    options = ["compare", str(file), "--output", str(out)]
    assert main([*options, "--objectives", "none", "mmcoa"]) == 0
    first = (out / "cells/pictograms-common_none_seed0/result.json").read_bytes()
    assert main([*options, "--dry_run"]) == 0
    assert "3 cells, 2 finished" in capsys.readouterr().out
    assert main(options) == 0  # a further row, and nothing anew
    assert (out / "cells/pictograms-common_none_seed0/result.json").read_bytes() == first
    numbers = json.loads((out / "comparison.json").read_text())
    assert list(numbers["methods"]) == SMALL["objectives"] and numbers["reference"] == "mmcoa"
    assert set(numbers["tests"]["mat+"]) == set(numbers["columns"])
    page = (out / "comparison.md").read_text()
    assert "Recall in percent" in page and "24 captions" in page and (out / "comparison.png").is_file()
    theirs = [f"theirs={out}/cells/pictograms-common_none_seed0/result.json"]
    again = ["compare", str(file), "--output", str(tmp_path / "again"), "--objectives", "none", "--results", *theirs]
    assert main(again) == 0
    both = json.loads((tmp_path / "again/comparison.json").read_text())["methods"]
    assert both["none"]["accuracies"] == both["theirs"]["accuracies"]
    chosen = ["compare", str(file), "--output", str(tmp_path / "chosen"), "--objectives", "none", "--choose"]
    assert main(chosen) == 0
    shared = json.loads((tmp_path / "chosen/choice/specification.json").read_text())
    assert shared["data"]["test_split"] == "validation"
