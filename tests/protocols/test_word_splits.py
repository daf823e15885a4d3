"""Word splits in protocols: which cells and models they make, what is measured, and what the table says of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from result_dicts import make_result

from hf_mmcoa.cli import main
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.evaluation.uncertainty import Repetition
from hf_mmcoa.protocols import read_protocol
from hf_mmcoa.protocols.cell_models import base_folder, start_model, substitutes, trained_folder, training_rows
from hf_mmcoa.protocols.choosing import to_choose_by
from hf_mmcoa.protocols.comparison import Row, compare_rows, read_rows, specification
from hf_mmcoa.protocols.grid_table import accuracy_table, protocol_table
from hf_mmcoa.protocols.plan import plan_protocol
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.testbed.pretraining import pretrain_on_digits

ROOT = Path(__file__).parents[2]
MMCOA = {"name": "mmcoa", "objective": "mmcoa", "text_attack": "words"}
SMALL = {
    "base": "digits",
    "objectives": ["none", "tecoa", MMCOA],
    "word_splits": [0, 3],
    "unseen_words": "test",
    "measure": ["clean", "text"],
    "tiny": {"epochs": 1, "max_samples": 64},
    "training": {"num_steps": 1, "max_steps": 1, "per_device_train_batch_size": 16, "use_cpu": True, "warmup_steps": 0},
    "threat_model": {"text_attacks": ["words"]},
    "max_test_samples": 12,
    "batch_size": 12,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        file = tmp_path / "comparison.yaml"
        file.write_text(yaml.safe_dump({key: value for key, value in (SMALL | changes).items() if value is not None}))
        return file

    return write


def cells_of(protocol):
    return {(cell.method.name, cell.seed, cell.word_split): cell for cell in protocol.cells()}


# Cells and models


def test_every_method_seed_and_split_is_a_cell_and_the_first_split_is_as_before(write):
    cells = cells_of(read_protocol(write(seeds=[0, 1], word_splits=[0, 3])))
    assert len(cells) == 12 and cells["mmcoa", 1, 3].name == "digits_full_mmcoa_seed1_words3"
    plain = {"word_splits": None, "unseen_words": None, "measure": None}
    before = cells_of(read_protocol(write(**plain)))
    again = cells_of(read_protocol(write(**plain | {"word_splits": [0, 3]})))
    for name in ("none", "tecoa", "mmcoa"):
        assert before[name, 0, 0] == again[name, 0, 0]
        assert "word_split" not in before[name, 0, 0].settings and before[name, 0, 0].name.endswith("_seed0")


def test_only_trainings_that_read_words_are_repeated_for_a_split(write):
    rows = ["tecoa", "fare", "leaf", "fare+leaf", MMCOA, MMCOA | {"name": "whole", "substitutes": "whole"}]
    rows += ["e=mmcoa,text_attack=embedding", "m=mmcoa,text_attack=words|embedding"]
    protocol = read_protocol(write(objectives=rows))
    folders = {}
    for (name, _, _), cell in cells_of(protocol).items():
        folders.setdefault(name, set()).add(trained_folder(cell, Path("out")))
    assert {name for name, each in folders.items() if len(each) == 2} == {"mmcoa", "m"}
    selecting = read_protocol(write(objectives=["tecoa"], training=SMALL["training"] | {"eval_strategy": "steps"}))
    assert len({trained_folder(cell, Path("out")) for cell in selecting.cells()}) == 2  # words decide which is best


def test_the_split_moves_words_and_neither_rows_nor_the_start(write):
    protocol = read_protocol(write(unseen_words="all"))
    cells = cells_of(protocol)
    lists = [substitutes(protocol, cells["mmcoa", 0, 0].data, None, None, word_split=split) for split in (0, 3)]
    one, other = ({part: dict(found[part].table) for part in ("known", "unseen", "whole")} for found in lists)
    assert one["known"] != other["known"] and one["whole"] == other["whole"]
    assert one["whole"] == dict(synonym_table("digits-wordnet").table)
    digits = cells["mmcoa", 0, 0].data.load("train")
    assert training_rows(digits, cells["mmcoa", 0, 0], True) == training_rows(digits, cells["mmcoa", 0, 3], True)
    assert base_folder(protocol, cells["none", 0, 0], Path()) == base_folder(protocol, cells["mmcoa", 0, 3], Path())


def test_training_never_reads_a_measured_word(write):
    for part in ("all", "validation", "test"):
        protocol = read_protocol(write(unseen_words=part))
        for cell in protocol.cells():
            if cell.method.name == "mmcoa":
                taught = substitutes(protocol, cell.data, None, None, cell.method, cell.word_split)
                measured = substitutes(protocol, cell.data, None, None, word_split=cell.word_split)
                assert taught["known"] == measured["known"]
                for (_, known), (_, unseen) in zip(taught["known"].table, measured["unseen"].table, strict=True):
                    assert unseen and not set(known) & set(unseen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unseen_words": "some"}, "`unseen_words` must be one of all, validation, test"),
        ({"measure": ["words"]}, "`measure`: unknown words; choose from clean, image"),
        ({"word_splits": [1, 1]}, "`word_splits` must name at least one value, each once"),
        ({"word_splits": ["a"]}, "word_splits"),
        ({"tiny": {"text_tower": "german"}}, "`text_tower` must be one of captions, english, got 'german'"),
        ({"tiny": {"word_vectors": "minilm"}}, "`word_vectors` need `text_tower: captions`"),
    ],
)
def test_a_mistake_is_named(write, changes, message):
    with pytest.raises(ValueError, match=message):
        read_protocol(write(**changes))


# The start


@pytest.mark.slow
def test_the_base_of_digits_is_the_start_of_the_training_command(tmp_path, write):
    protocol = read_protocol(write(tiny={"epochs": 1}, training={"use_cpu": True}))
    assert (protocol.candidates, protocol.training["num_candidates"]) == ("digits-wordnet", 20)
    cell = protocol.cells()[0]
    model, _ = start_model(protocol, cell, tmp_path)
    args = MMCoAConfig(output_dir=str(tmp_path / "x"), seed=0, use_cpu=True, disable_tqdm=True, report_to="none")
    expected, _ = pretrain_on_digits(args, 1)
    weights = expected.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in model.state_dict().items())


def test_the_number_of_candidates_belongs_to_the_bases_list(write):
    assert "num_candidates" not in read_protocol(write(candidates="digits")).training
    own = read_protocol(write(candidates="digits", training=SMALL["training"] | {"num_candidates": 7}))
    assert own.training["num_candidates"] == 7


@pytest.mark.parametrize("name", ["digits-faults", "digits-lab", "fashion-mnist-captions"])
def test_the_finished_comparisons_keep_their_specification(name):
    """What `docs/results` were measured under, but for settings that are new since."""
    then = json.loads((ROOT / f"docs/results/comparisons/{name}/specification.json").read_text())
    now = specification(read_protocol(ROOT / f"examples/comparisons/{name}.yaml"))
    for key in ("model", "candidates", "data", "train_on"):
        assert now[key] == then[key]
    assert not {"word_split", "unseen_words", "measure"} & set(now)
    assert now["training"].get("num_candidates") == then["training"].get("num_candidates")


# Choosing


def test_choosing_measures_other_images_and_other_words(write):
    protocol = read_protocol(write())
    chosen = to_choose_by(protocol)
    assert (chosen.unseen_words, chosen.datasets[0].test_split) == ("validation", "validation")
    assert (chosen.objectives, chosen.seeds, chosen.word_splits) == (
        protocol.objectives, protocol.seeds, protocol.word_splits
    )  # fmt: skip
    data = protocol.datasets[0]
    assert dataclasses.replace(data, test_split="validation") == chosen.datasets[0]
    for split in (0, 3):
        ours, test = (substitutes(each, data, None, None, word_split=split)["unseen"] for each in (chosen, protocol))
        for (_, own), (_, others) in zip(ours.table, test.table, strict=True):
            assert own and others and not set(own) & set(others)


# Numbers


def results_of(word_split, words, clean="1111111110"):
    spec = {"candidates": {"known": f"half {word_split}", "unseen": f"rest {word_split}"}}
    outcomes = {"clean": clean, "text/words/all": words}
    return make_result(outcomes, predictions=[], cell={"method": "a", "word_split": word_split}, **spec)


def test_a_row_averages_seeds_and_splits_and_says_how_many(tmp_path):
    def row(name, *texts):
        results = {Repetition(0, split): results_of(split, text) for split, text in enumerate(texts)}
        return Row(name=name, results=results, files={each: f"{name} {each}" for each in results})

    numbers = compare_rows([row("a", "1111100000", "1111111110"), row("b", "0000000000", "1000000000")])
    text = numbers["methods"]["a"]["accuracies"]["text_accuracy"]
    assert text["by_word_split"] == {"0": 0.5, "1": 0.9} and text["by_seed"] == {"0": 0.7}
    assert text["value"] == pytest.approx(0.7)
    assert (text["count"], text["over"]) == (2, "word splits and classes")
    clean = numbers["methods"]["a"]["accuracies"]["clean_accuracy"]
    assert (clean["value"], clean["count"], clean["over"]) == (0.9, 1, "images")
    assert numbers["methods"]["a"]["word_splits"] == [0, 1]
    assert numbers["methods"]["a"]["files"] == {"0": "a 0", "0, word split 1": "a 0, word split 1"}
    tests = numbers["tests"]["b"]
    assert tests["text_accuracy"]["over"] == "word splits and classes" and tests["text_accuracy"]["pairs"] == 20
    assert tests["clean_accuracy"]["test"] == "McNemar" and tests["clean_accuracy"]["pairs"] == 10
    assert "| method | seeds | word splits | clean |" in accuracy_table(numbers) and "| a | 1 | 2 |" in accuracy_table(
        numbers
    )


def test_results_of_one_split_with_other_words_are_refused():
    other = results_of(0, "1" * 10)
    other["attack_spec"] = other["attack_spec"] | {"candidates": {"known": "another half", "unseen": "rest 0"}}
    rows = [
        Row(name=name, results={Repetition(0): result}, files={Repetition(0): name})
        for name, result in (("a", results_of(0, "1" * 10)), ("b", other))
    ]
    with pytest.raises(ValueError, match="different conditions"):
        compare_rows(rows)


# The command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of three methods over two word splits, and the choice before it."""
    folder = tmp_path_factory.mktemp("words")
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    assert main(["compare", str(file), "--output", str(folder / "out")]) == 0
    return folder


@pytest.mark.slow
def test_a_comparison_over_word_splits_ends_in_one_table(finished):
    output = finished / "out"
    assert len(list(output.glob("models/digits_full_tecoa_*"))) == 1
    assert len(list(output.glob("models/digits_full_mmcoa_*"))) == 2
    numbers = json.loads((output / "comparison.json").read_text())
    assert numbers["specification"]["unseen_words"] == "test" and numbers["specification"]["measure"] == [
        "clean",
        "text",
    ]
    page = (output / "comparison.md").read_text()
    assert "| method | seeds | word splits | clean | text (known), all | text (unseen), all | text, worst |" in page
    assert "image |" not in page and "- word splits 0, 3: each draws anew" in page
    assert "tecoa: trained once for all of them" in page and "- unseen words: the test part" in page
    results = [load_result(file) for file in sorted(output.glob("cells/digits_full_tecoa_seed0*/result.json"))]
    assert len(results) == 2 and results[0]["outcomes"]["clean"] == results[1]["outcomes"]["clean"]
    assert results[0]["attack_spec"]["candidates"] != results[1]["attack_spec"]["candidates"]
    again = {row.name: [(each.seed, each.word_split) for each in row.results] for row in read_rows([str(output)], [])}
    assert again == {name: [(0, 0), (0, 3)] for name in ("mmcoa", "tecoa", "none")}
    assert (output / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_one_split_of_it_is_that_split_alone(finished, capsys):
    output = finished / "out"
    page = (output / "comparison.md").read_text()
    options = [str(finished / "comparison.yaml"), "--output", str(output)]
    assert main(["compare", *options, "--word_splits", "3"]) == 0
    assert "3 cells, 3 finished already" in capsys.readouterr().err
    alone = (output / "comparison.md").read_text()
    assert "word splits" not in alone and "| method | seeds | clean |" in alone
    assert main(["compare", *options]) == 0 and (output / "comparison.md").read_text() == page


@pytest.mark.slow
def test_a_protocols_table_averages_over_splits_too(finished):
    protocol, output = read_protocol(finished / "comparison.yaml"), finished / "out"
    done = [(cell, load_result(output / "cells" / cell.name / "result.json")) for cell in protocol.cells()]
    assert "| data set | shots | defence | seeds | word splits | clean |" in protocol_table(protocol, done, {})
    assert "| digits | full | mmcoa | 1 | 2 |" in protocol_table(protocol, done, {})


@pytest.mark.slow
def test_the_option_chooses_in_a_folder_of_its_own(finished, capsys):
    options = [str(finished / "comparison.yaml"), "--output", str(finished / "out"), "--choose"]
    assert main(["compare", *options, "--word_splits", "0", "--objectives", "none", "mmcoa"]) == 0
    numbers = json.loads((finished / "out/choice/comparison.json").read_text())
    assert numbers["specification"]["unseen_words"] == "validation"
    result = load_result(finished / "out/choice/cells/digits_full_mmcoa_seed0/result.json")
    assert result["dataset"] == "digits/validation"
    assert "out/choice/comparison.md" in capsys.readouterr().out


def test_the_example_has_ten_splits_and_five_seeds_and_trains_once_what_reads_no_words(tmp_path):
    protocol = read_protocol(ROOT / "examples/comparisons/digits-words.yaml")
    cells = protocol.cells()
    trained = {trained_folder(cell, tmp_path) for cell in cells} - {None}
    assert len(cells) == 300 and len(trained) == 5 + 5 + 3 * 50
    assert len(protocol.seeds) >= 5 and len(protocol.word_splits) >= 10 and protocol.unseen_words == "test"
    assert "image" not in protocol.measure


def test_a_plan_counts_no_attacks_that_are_not_measured(write, tmp_path):
    shown = plan_protocol(read_protocol(write(objectives=["none"])), tmp_path)
    assert "2 cells" in shown and "0 s evaluation" in shown
