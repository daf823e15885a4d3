from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluate_script import content
from PIL import Image
from safetensors.torch import load_file
from squares import CLASS_NAMES, KNOWN
from test_evaluator import evaluate, pictures
from test_resume import Interrupted

from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.evaluation.attack_names import worst_cases, worst_outcome
from hf_mmcoa.zero_shot import ZeroShotClassifier

ATTACKS = {"text_attacks": ("words", "embedding"), "multimodal_attacks": ("independent", "adaptive", "sga")}


def table(folder: Path) -> dict[str, list]:
    return pq.read_table(folder / "predictions.parquet").to_pydict()


@pytest.fixture(scope="module")
def exported(_trained, dataset, tmp_path_factory):
    """A result under all kinds of attacks with both forms of images; the weights are not changed."""
    folder = tmp_path_factory.mktemp("exports")
    for form in ("png", "safetensors"):
        result = evaluate(
            *_trained, dataset, threat_model=ATTACKS, export=folder / form, export_images=form, model_name="tiny"
        )
    return result, folder


@pytest.mark.slow
def test_the_exact_images_are_what_the_outcomes_were_measured_on(exported, model, processor, dataset):
    result, folder = exported
    parts = [load_file(path) for path in sorted((folder / "safetensors" / "images").glob("*.safetensors"))]
    images, rows = torch.cat([part["images"] for part in parts]), torch.cat([part["row_ids"] for part in parts])
    batch = pictures(dataset)
    assert rows.tolist() == result["row_ids"] and len(parts) == 3
    assert ((images - batch["images"]).abs().amax() <= 0.05 + 1e-6) and (images != batch["images"]).any()
    with torch.no_grad():
        predicted = ZeroShotClassifier(model, processor, CLASS_NAMES)(images).argmax(1)
    outcome = worst_outcome(result, worst_cases(result)["image_accuracy"])
    assert "".join("01"[right] for right in (predicted == batch["labels"]).tolist()) == outcome


@pytest.mark.slow
def test_pictures_are_the_images_in_8_bits_with_what_was_measured_on_them(exported, model, processor, dataset):
    result, folder = exported
    exact = torch.cat([load_file(path)["images"] for path in sorted((folder / "safetensors/images").glob("*"))])
    found = table(folder / "png")
    read = [np.asarray(Image.open(folder / "png" / name)) for name in found["image_file"]]
    pixels = torch.tensor(np.stack(read)).permute(0, 3, 1, 2) / 255
    assert (pixels - exact).abs().amax() <= 0.5 / 255 + 1e-6
    with torch.no_grad():
        predicted = ZeroShotClassifier(model, processor, CLASS_NAMES)(pixels).argmax(1)
    assert found["image_after_rounding"] == (predicted == torch.tensor(result["labels"])).tolist()
    said = json.loads((folder / "png" / "export.json").read_text())
    assert said["complete"] and "8 bits" in said["note"]
    measured = said["after_rounding"]["image"]
    assert measured["correct_before"] == round(24 * result["image_accuracy"])
    assert measured["correct_after"] == sum(found["image_after_rounding"])
    assert measured["correct_after"] - measured["correct_before"] == measured["undone"] - measured["completed"]


@pytest.mark.slow
def test_the_pictures_are_a_data_set_of_their_own(exported, model, processor):
    """What another model is measured on: a folder a class."""
    _, folder = exported
    data = load_benchmark(str(folder / "png" / "images"))
    again = evaluate(model, processor, data, ["clean"])
    found = table(folder / "png")
    assert again["class_names"] == CLASS_NAMES
    assert again["clean_accuracy"] == sum(found["image_after_rounding"]) / 24


def test_the_table_says_of_each_attack_what_became_of_a_sample(exported):
    result, folder = exported
    found = table(folder / "png")
    assert found["row_id"] == result["row_ids"] and found["label"] == result["labels"]
    for attack, outcome in result["outcomes"].items():
        stands = [sign == "1" for sign in outcome]
        assert found[f"{attack}/outcome"] == stands
        for label, right, predicted in zip(result["labels"], stands, found[f"{attack}/prediction"], strict=True):
            assert predicted is None or (predicted == label) == right
    assert found["clean/prediction"] == result["predictions"]
    for attack, witnesses in result["witnesses"].items():
        pairs = zip(found[f"{attack}/text"], found[f"{attack}/rival_text"], strict=True)
        known = [list(pair) if pair[1] else None for pair in pairs]
        assert known == witnesses


def test_the_texts_and_image_of_both_mislead_together(exported, model, processor):
    """A sample that only a multimodal attack misleads, by its exported image and the two exported texts."""
    _, folder = exported
    found = table(folder / "safetensors")
    parts = [load_file(path) for path in sorted((folder / "safetensors/images_multimodal").glob("*"))]
    images = {row: image for part in parts for row, image in zip(part["row_ids"].tolist(), part["images"], strict=True)}
    assert images and len(images) == sum(each is not None for each in found["multimodal_attack"])
    encoder = ZeroShotClassifier(model, processor, CLASS_NAMES).encoder
    for place, attack in enumerate(found["multimodal_attack"]):
        if attack is None:
            assert found["multimodal_file"][place] is None
            continue
        texts = [found[f"{attack}/text"][place], found[f"{attack}/rival_text"][place]]
        with torch.no_grad():
            own, rival = encoder.encode_texts(texts) @ encoder.encode_images(images[found["row_id"][place]][None])[0]
        assert rival >= own - 1e-6


def test_the_lists_of_texts_are_there(exported):
    result, folder = exported
    texts = json.loads((folder / "png" / "texts.json").read_text())
    assert texts["adv_prompts"] == result["adv_prompts"] and texts["prompts"] == result["prompts"]


def test_an_export_changes_no_number(exported, model, processor, dataset):
    plain = evaluate(model, processor, dataset, threat_model=ATTACKS, model_name="tiny")
    assert plain == exported[0]


@pytest.fixture
def run(model, processor, dataset):
    attack = Interrupted(epsilon=0.05, step_size=0.02, num_steps=3)

    def run(folder, name="export", **changes):
        Interrupted.calls, Interrupted.stop = 0, changes.pop("stop", 0)
        settings = {"batch_size": 5, "image_attacks": {"pgd": attack}, "candidates": KNOWN, "export": folder / name}
        return evaluate(model, processor, dataset, output=folder / "result.json", **settings | changes)

    return run


@pytest.mark.few(1)
@pytest.mark.parametrize("form", ["png", "safetensors"])
def test_an_interrupted_export_ends_with_the_same_files(run, tmp_path, form):
    run(tmp_path / "whole", export_images=form)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=3, export_images=form)
    assert not json.loads((tmp_path / "killed/export/export.json").read_text())["complete"]
    written = next(file for file in (tmp_path / "killed/export/images").rglob("*") if file.is_file())
    written.with_name(f"{written.name}.{2**22 + 1}.tmp").write_bytes(b"half")  # of a process that was killed
    run(tmp_path / "killed", export_images=form)
    assert Interrupted.calls == 3  # two of five batches were done
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    run(tmp_path / "killed", export_images=form)
    assert Interrupted.calls == 0


def test_what_an_interrupted_run_without_export_did_is_exported_too(run, tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=3, export=None)
    run(tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_finished_result_is_exported_later(run, tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "later", export=None)
    run(tmp_path / "later")
    assert content(tmp_path / "later") == content(tmp_path / "whole")


def test_a_folder_of_something_else_is_refused(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        run(tmp_path, "mine", overwrite=True)
    run(tmp_path)
    with pytest.raises(ValueError, match="images: 'png' and 'safetensors'"):
        run(tmp_path, export_images="safetensors")
    with pytest.raises(ValueError, match="must be png or safetensors, got 'jpeg'"):
        run(tmp_path, export_images="jpeg")
    run(tmp_path, export_images="safetensors", overwrite=True)
    assert not list((tmp_path / "export").rglob("*.png"))


def test_only_texts_are_attacked(run, tmp_path):
    run(tmp_path, attacks=["text"])
    found = table(tmp_path / "export")
    assert "image_file" not in found and not (tmp_path / "export" / "images").exists()
