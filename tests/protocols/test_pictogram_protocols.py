"""The bed of the pictograms: runs that name no model start from the shipped CLIP, and captions are retrieved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from hf_mmcoa.cli import main
from hf_mmcoa.cli.train_arguments import parse
from hf_mmcoa.protocols.before_and_after import train_and_measure
from hf_mmcoa.protocols.cell_models import load_model
from hf_mmcoa.protocols.comparison import check_is_comparison
from hf_mmcoa.protocols.plan import plan_protocol
from hf_mmcoa.protocols.reading import read_protocol
from hf_mmcoa.testbed.pictogram_clip import pictogram_clip

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--max_steps", "1", "--num_steps", "1", "--max_test_samples", "8", "--preset", "quick", "--warmup_steps", "0"]


@pytest.mark.slow
def test_a_run_on_pictograms_without_a_model_starts_from_the_shipped_one(tmp_path):
    run, args = parse(["--dataset", "pictograms-common", "--output_dir", str(tmp_path), *SMALL])
    assert run.synonyms == "pictograms-common" and args.targets == "class"
    results = train_and_measure(run, args)
    assert "training_seed" not in results["before"] and results["after"]["training_seed"] == args.seed
    assert results["after"]["num_samples"] == 8 and (tmp_path / "attacks.png").is_file()
    from transformers import CLIPModel

    given = CLIPModel.from_pretrained(tmp_path / "pretrained").state_dict()
    trained = CLIPModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(given[name], weight) for name, weight in pictogram_clip()[0].state_dict().items())
    assert any(not torch.equal(given[name], weight) for name, weight in trained.items())


def test_the_help_shows_the_defaults_of_that_run(capsys):
    with pytest.raises(SystemExit):
        parse(["--dataset", "pictograms-common", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "those of the CLIP that comes with the package, on pictograms-common" in shown
    assert "(default: A pictogram of a {})" in shown


def test_a_tiny_clip_may_still_be_built_for_pictograms():
    run, args = parse(["--dataset", "pictograms", "--tiny"])
    assert not run.starts_from_shipped and str(args.output_dir) == "output/tiny"


@pytest.mark.slow  # it measures how long a step takes
def test_a_protocol_on_pictograms_names_the_shipped_model(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"base": "pictograms-common", "objectives": ["none", "tecoa"]}))
    protocol = read_protocol(file)
    assert (protocol.model, protocol.tiny, protocol.candidates) == ("pictograms", None, "pictograms-common")
    cell = protocol.cells()[0]
    assert json.loads(json.dumps(cell.settings))["model"] == "pictograms"
    model, _ = load_model(protocol, str(protocol.model))
    assert torch.equal(model.visual_projection.weight, pictogram_clip()[0].visual_projection.weight)
    plan = plan_protocol(protocol, tmp_path / "out")
    assert "the shipped CLIP of the pictograms" in plan and "unknown size" not in plan


def test_a_tiny_clip_of_ones_own_replaces_the_shipped_one(tmp_path):
    file = tmp_path / "grid.yaml"
    tiny = {"image_size": 48, "patch_size": 16, "epochs": 1}
    file.write_text(yaml.safe_dump({"base": "pictograms", "tiny": tiny}))
    assert read_protocol(file).model is None and read_protocol(file).tiny == tiny


def test_the_examples_start_from_the_shipped_model_and_train_alike():
    iid, ood = (read_protocol(ROOT / f"examples/protocols/{name}.yaml") for name in ("pictograms", "pictograms-ood"))
    comparison = read_protocol(ROOT / "examples/comparisons/pictograms.yaml")
    check_is_comparison(comparison)
    assert iid.training == ood.training == comparison.training and iid.shots == ood.shots == (1, None)
    assert {each.model for each in (iid, ood, comparison)} == {"pictograms"}
    assert [cell.data.candidates for cell in ood.cells()] == ["pictograms-ood"] * 3


@pytest.mark.slow
def test_captions_of_pictograms_are_retrieved_by_the_command(tmp_path):
    for part in pictogram_clip():
        part.save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--dataset", "pictograms-common", "--split", "validation"]
    few = ["--text_column", "text", "--attacks", "clean", "image", "--num_steps", "2", "--max_samples", "40"]
    output = tmp_path / "retrieval.json"
    quick = ["--task", "retrieval", "--preset", "quick", "--epsilon", "8/255", "--output", str(output)]
    assert main(["evaluate", *options, *few, *quick]) == 0
    result = json.loads(output.read_text())
    assert result["num_samples"] == 40 and result["num_captions"] == 120
    clean, attacked = (result[f"{kind}_image_to_text_recall_at_1"] for kind in ("clean", "image"))
    assert clean > 5 / 40 and attacked < clean  # chance is 1 / 40
