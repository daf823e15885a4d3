"""The pictograms: sheets that hold what the list says, splits that share no designer, notices for every designer."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from hf_mmcoa.data import describe, load_benchmark, pictograms
from hf_mmcoa.data.pictograms import SPLITS, concept_file, load_pictograms

CONCEPTS = concept_file()["concepts"]
DESIGNS = [design for own in SPLITS.values() for design in own]
FOLDER = files("hf_mmcoa.data") / "pictograms"


@pytest.mark.parametrize("design", DESIGNS)
def test_a_sheet_holds_the_pictures_that_the_list_gives_it_and_no_others(design):
    size = concept_file()["size"]
    sheet = pictograms._sheet(design)
    assert sheet.size == (20 * size, -(-len(CONCEPTS) // 20) * size)
    for number, concept in enumerate(CONCEPTS):
        opacity = np.asarray(pictograms._cut(design, number))[..., 3]
        drawn = (opacity > 128).mean()
        assert drawn > 0.02 if design in concept["designs"] else opacity.max() == 0, concept["name"]


def test_no_two_concepts_of_a_design_and_no_two_designs_of_a_concept_have_the_same_picture():
    pictures = [pictograms._cut(d, n).tobytes() for n, each in enumerate(CONCEPTS) for d in each["designs"]]
    assert len(set(pictures)) == len(pictures)


def test_splits_share_no_design_and_every_design_is_in_the_list():
    assert len(DESIGNS) == len(set(DESIGNS)) == 7
    assert {name: each["split"] for name, each in concept_file()["designs"].items()} == {
        design: split for split, own in SPLITS.items() for design in own
    }
    for split, own in SPLITS.items():
        assert set(load_pictograms(split)["design"]) == set(own)


def test_held_out_concepts_are_absent_from_every_split_of_the_others():
    held_out = set(load_pictograms("test", concepts="held-out")["concept"])
    assert len(held_out) == 50
    for split in SPLITS:
        for concepts in ("all", "common"):
            assert not held_out & set(load_pictograms(split, concepts=concepts)["concept"])
    with pytest.raises(ValueError, match=r'`split="train"` has no held-out concepts: use "validation"'):
        load_pictograms("train", concepts="held-out")


def test_training_has_every_concept_in_every_design_and_labels_mean_the_same_in_every_split():
    for concepts, classes in (("all", 253), ("common", 100)):
        train, test = (load_pictograms(split, concepts=concepts) for split in ("train", "test"))
        assert len(train) == 4 * classes and train.features == test.features
        assert np.bincount(train["label"]).tolist() == [4] * classes
        names = train.features["label"].names
        for dataset in (train, test):
            assert [names[each] for each in dataset["label"]] == [CONCEPTS[each]["name"] for each in dataset["concept"]]


def test_labels_and_rows_never_change():
    names = json.dumps(
        [load_pictograms("test", each).features["label"].names for each in ("all", "common", "held-out")]
    )
    rows = [[row["label"], row["design"]] for row in load_pictograms("test").remove_columns("image")]
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (names, json.dumps(rows))]
    assert digests == ["8f1afe34edf7d757", "9a5de3a0f3a53b98"]


def test_a_row_is_a_picture_with_a_transparent_ground_and_captions_that_name_it():
    row = load_pictograms("fluent-emoji-flat", concepts="common")[0]
    assert row["image"].mode == "RGBA" and row["image"].size == (48, 48)
    assert row["text"][0] == "a pictogram of a dog" and row["design"] == "fluent-emoji-flat"
    for concept in CONCEPTS:
        assert len(set(concept["captions"])) == 3 and all(concept["name"] in each for each in concept["captions"])


def test_names_are_one_or_two_words_and_none_holds_another():
    names = [each["name"] for each in CONCEPTS]
    assert len(names) == len(set(names)) == 303 and {len(name.split()) for name in names} == {1, 2}
    assert not {word for name in names if " " in name for word in name.split()} & set(names)


def test_the_notice_names_every_design_its_author_and_licence():
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    for name, design in concept_file()["designs"].items():
        part = next(each for each in notice.split("\n\n") if each.startswith(f"{name}.png: "))
        assert f"licence: {design['licence']}, https://" in part and design["from"] in part and ", by " in part
        assert design["licence"] in ("Apache-2.0", "CC-BY-4.0", "MIT")  # none asks for share-alike
    assert "They were changed" in notice and "Permission is hereby granted" in notice
    assert {each.name for each in FOLDER.iterdir() if each.name.endswith(".png")} == {f"{each}.png" for each in DESIGNS}


def test_the_builder_names_the_designs_that_the_list_has(monkeypatch):
    pytest.importorskip("resvg_py", reason="pip install resvg_py")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "pictograms"))
    import designs

    assert {each.name: (each.split, each.licence, each.package) for each in designs.DESIGNS} == {
        name: (each["split"], each["licence"], each["from"]) for name, each in concept_file()["designs"].items()
    }
    sys.modules.pop("designs")


def test_they_are_benchmarks_with_a_split_for_every_design():
    dataset = load_benchmark("pictograms-ood", split="test", text_column="text")
    assert dataset.features["label"].num_classes == 50 and len(dataset) == 81 and len(dataset[0]["text"]) == 3
    assert describe(dataset).perturb_at == "native" and describe(dataset).template == "A pictogram of a {}"
    assert len(load_benchmark("pictograms", split="fluent-emoji-flat")) == 253
    assert len(load_benchmark("pictograms-common", split="train", shots=1)) == 100
    with pytest.raises(ValueError, match="pictograms-ood has no split 'train'; it has test, validation"):
        load_benchmark("pictograms-ood", split="train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"split": "dev"}, "must be one of train, validation, test, "), ({"concepts": "rare"}, "all, common or held-out")],
)
def test_unknown_splits_and_subsets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_pictograms(**arguments)
