"""`hf-mmcoa verify`: an honest folder holds; a number that was changed in the card or in a result file does not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hub_server import HubServer
from squares import _trained, processor, squares  # noqa: F401
from transformers import CLIPModel

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.evaluation.attack_names import worst_cases, worst_outcome
from hf_mmcoa.evaluation.uncertainty import interval_fields
from hf_mmcoa.io import write_json

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

RESULT = "results/squares.json"


@pytest.fixture(scope="module")
def made(_trained, tmp_path_factory):  # noqa: F811
    """A model folder with a measured result and its card, as `hf-mmcoa push --to_folder` writes it."""
    folder = tmp_path_factory.mktemp("made")
    model, processor = _trained  # noqa: F811
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    squares(30, seed=5).save_to_disk(folder / "squares")
    (folder / "synonyms.json").write_text(json.dumps({"cat": ["feline"], "dog": ["hound"], "car": ["auto"]}))
    (folder / "model/results").mkdir()
    words = ["--model", folder / "model", "--dataset", folder / "squares", "--output", folder / "model" / RESULT]
    options = ["--cpu", "--quiet", "--no_sanity", "--preset", "quick", "--num_steps", "4", "--epsilon", "0.06"]
    options += ["--attacks", "image", "text", "--candidates", folder / "synonyms.json", "--batch_size", "16"]
    assert main(["evaluate", *map(str, [*words, *options])]) == 0
    assert main(["push", str(folder / "model"), "--to_folder", str(folder / "published")]) == 0
    return folder


@pytest.fixture
def published(made, tmp_path):
    shutil.copytree(made / "published", tmp_path / "published")
    return tmp_path / "published"


def verify(folder, *words):
    """Return the exit status and what was written."""
    output = folder.parent / "verification"
    status = main(["verify", str(folder), "--output", str(output), "--cpu", "--quiet", *words])
    return status, json.loads((output / "verification.json").read_text())


def verdicts(found):
    return {one["accuracy"]: one["verdict"] for result in found["results"] for one in result["numbers"]}


def broken(found):
    return [one["detail"] for one in found["rules"] if one["passed"] is False]


def test_an_honest_folder(published, capsys):
    status, found = verify(published)
    expected = {"clean_accuracy": "holds", "image_accuracy": "holds"}
    texts = {name: "not measured" for name in verdicts(found) if name not in expected}
    assert texts and verdicts(found) == expected | texts and broken(found) == []
    assert status == 1 and found["verdict"] == "not measured", "the substitutes came from a file"
    (result,) = found["results"]
    clean, image = result["numbers"][:2]
    assert (clean["lost"], clean["won"], image["lost"], image["won"], image["samples"]) == (0, 0, 0, 0, 30)
    assert image["measured"] == image["reported"] < clean["measured"] == result["clean_acc"]
    assert (result["threat_model"], result["eps"]) == ("Linf", "0.06")
    assert {"torch", "hf_mmcoa"} <= set(found["versions"]) and found["date"] and found["architecture"] == "CLIPModel"
    shown = capsys.readouterr().out
    assert "image_accuracy: reported" in shown and "came from an object or a file" in shown
    rules = {one["check"]: one["passed"] for one in found["rules"]}
    assert rules["non-zero gradients"] and rules["no randomness in the forward pass"]
    assert rules["no optimisation loop in the forward pass"] and rules["the card states what the result files hold"]


def test_a_draw_of_the_samples(published):
    _, found = verify(published, "--max_samples", "12")
    image = found["results"][0]["numbers"][1]
    assert image["samples"] == 12 and image["verdict"] == "holds"
    assert image["reported"] == load_result(published / RESULT)["image_accuracy"]
    # The random starts are others, so single samples may come out differently.
    assert 12 * (image["reported_here"] - image["measured"]) == pytest.approx(image["lost"] - image["won"])


def test_a_number_changed_in_the_card(published):
    card = published / "README.md"
    text = card.read_text()
    stated = load_result(published / RESULT)["image_accuracy"]
    assert text.count(f"value: {stated}\n") >= 1
    card.write_text(text.replace(f"value: {stated}\n", "value: 0.999\n"))
    status, found = verify(published, "--max_samples", "3")
    assert status == 3 and found["verdict"] == "differs"
    assert any("the card states 0.999" in one and str(stated) in one for one in broken(found))


def test_a_number_changed_in_the_card_s_table(published):
    card = published / "README.md"
    (row,) = [line for line in card.read_text().splitlines() if line.startswith("| image | ")]
    card.write_text(card.read_text().replace(row, "| image | 99.9 [99.0, 99.9] |"))
    status, found = verify(published, "--max_samples", "3")
    assert status == 3 and any("which no table of the card shows" in one for one in broken(found))


def test_a_number_changed_in_the_result_file(published):
    result = json.loads((published / RESULT).read_text())
    write_json({**result, "image_accuracy": 0.999}, published / RESULT)
    status, found = verify(published)
    assert status == 3 and any("image_accuracy" in one for one in broken(found))
    assert found["results"] == []


def test_outcomes_changed_in_the_result_file(published):
    """The file agrees with itself, and the card is written from it: only a measurement tells."""
    result = load_result(published / RESULT)
    total, name = result["num_samples"], "image/pgd-ce"
    claimed = result["outcomes"]["clean"]  # no sample was misled
    assert claimed.count("1") - result["outcomes"][name].count("1") > 3
    outcomes = {**result["outcomes"], name: claimed}
    changed = {**result, "outcomes": outcomes, f"attacks/{name}": claimed.count("1") / total}
    for accuracy, attacks in worst_cases(changed).items():
        outcome = worst_outcome(changed, attacks)
        changed[accuracy] = outcome.count("1") / total
        changed |= interval_fields(accuracy, outcome, result["labels"], attacks)
    for key in ("class_accuracies", "confusion", "calibration"):
        changed.pop(key, None)
    write_json(changed, published / RESULT)
    assert main(["push", str(published), "--to_folder", str(published.parent / "again")]) == 0
    status, found = verify(published.parent / "again")
    assert status == 3 and broken(found) == []
    image = found["results"][0]["numbers"][1]
    assert image["verdict"] == "differs" and image["lost"] > 3 and image["won"] == 0
    assert image["measured"] < image["reported"] == result["clean_accuracy"]
    assert verdicts(found)["clean_accuracy"] == "holds"


def test_weights_that_were_changed(published):
    model = CLIPModel.from_pretrained(published)
    with torch.no_grad():
        model.visual_projection.weight += 0.01
    model.save_pretrained(published)
    status, found = verify(published)
    assert status == 3 and any("measured on other weights" in one for one in broken(found))


def test_data_that_are_not_there(published, made, capsys):
    hidden = made / "hidden"
    (made / "squares").rename(hidden)
    try:
        status, found = verify(published)
        assert status == 1 and set(verdicts(found).values()) == {"not measured"}
        assert "squares" in found["results"][0]["numbers"][0]["why"]
        assert verdicts(verify(published, "--data_dir", str(hidden))[1])["image_accuracy"] == "holds"
    finally:
        hidden.rename(made / "squares")


def test_other_rows_are_compared_as_shares(published, made):
    hidden = made / "hidden"
    (made / "squares").rename(hidden)
    squares(21, seed=7).save_to_disk(made / "squares")
    try:
        _, found = verify(published)
        image = found["results"][0]["numbers"][1]
        assert image["samples"] == 21 and image["lost"] is None and "on other samples" in image["why"]
    finally:
        shutil.rmtree(made / "squares")
        hidden.rename(made / "squares")


def test_a_folder_without_results_and_no_folder(published, capsys):
    shutil.rmtree(published / "results")
    (published / "README.md").unlink()
    status, found = verify(published)
    assert status == 1 and found["results"] == [] and found["verdict"] == "not measured"
    assert main(["verify", "nowhere at all", "--cpu"]) == 1
    assert "no folder and no Hub id" in capsys.readouterr().err


def test_a_repository_of_the_hub(online: HubServer, made, tmp_path, capsys):
    assert main(["push", str(made / "model"), "user/squares"]) == 0
    output = tmp_path / "verification"
    words = ["--output", str(output), "--cpu", "--quiet", "--max_samples", "6"]
    assert main(["verify", "user/squares", *words]) == 1
    assert verdicts(json.loads((output / "verification.json").read_text()))["image_accuracy"] == "holds"
    capsys.readouterr()
    assert main(["verify", "user/nothing", *words]) == 1
    assert "was not found on the Hub" in capsys.readouterr().err
