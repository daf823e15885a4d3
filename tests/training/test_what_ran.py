"""The arguments file and the card state what ran, and the file still repeats the run."""

from __future__ import annotations

import yaml
from test_trainer import picture_rows

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.cli.train_arguments import parse
from hf_mmcoa.hub.card import model_card


def saved(model, processor, folder, **settings):
    """Return the content of training_args.yaml, and the card, of a model that was trained so."""
    args = MMCoAConfig(str(folder), report_to="none", use_cpu=True, **settings)
    MMCoATrainer(model, args, picture_rows(), processing_class=processor).save_model(str(folder))
    return yaml.safe_load((folder / "training_args.yaml").read_text()), model_card(folder).text


def test_what_auto_resolved_to_and_its_budget(tiny_clip, tiny_processor, tmp_path):
    settings, card = saved(tiny_clip, tiny_processor, tmp_path, lambda_distill=0.2)
    ran = settings["ran"]
    assert list(ran["text_attacks"]) == ["words"] and "NeighbourCandidates" in ran["candidates"]
    assert "lambda_distill=0.2" in ran["objective"] and "num_steps=10" in ran["image_attack"]
    assert ran["data"] == {"rows": 12}
    assert 'text_attack: "words"' in card and 'text_attack: "auto"' not in card and "\nrho:" not in card
    assert "- Rows trained on: 12" in card and "NeighbourCandidates" in card


def test_the_steps_of_the_fast_schedule_and_the_radius_of_embeddings(tiny_clip, tiny_processor, tmp_path):
    settings, card = saved(
        tiny_clip, tiny_processor, tmp_path, attack_schedule="fast", text_attack="words|embedding", rho=0.3
    )
    assert "num_steps=3" in settings["ran"]["image_attack"]
    assert "rho=0.3" in settings["ran"]["text_attacks"]["embedding"]
    assert "rho: 0.3" in card and "\nnum_steps:" not in card and "num\\_steps=3" in card
    settings, card = saved(tiny_clip, tiny_processor, tmp_path, attack_schedule="shared", epsilon="8/255")
    assert settings["ran"]["image_attack"] == f"SharedStep(epsilon={8 / 255}, norm='linf', noise={4 / 255})"
    assert "SharedStep" in card


def test_what_is_not_read_is_not_claimed(tiny_clip, tiny_processor, tmp_path):
    settings, card = saved(tiny_clip, tiny_processor, tmp_path, objective="tecoa")
    assert not {"text_attacks", "candidates"} & set(settings["ran"])
    assert "text_attack" not in card and "lambda_text" not in card and 'objective: "tecoa"' in card


def test_the_file_repeats_the_run(tiny_clip, tiny_processor, tmp_path):
    for name, given in (("fast", {"attack_schedule": "fast"}), ("leaf", {"objective": "leaf", "max_edits": 2})):
        saved(tiny_clip, tiny_processor, tmp_path / name, **given)
        _, args = parse(["--config", str(tmp_path / name / "training_args.yaml"), "--model_name_or_path", "org/clip"])
        assert {key: getattr(args, key) for key in given} == given


def test_the_run_on_digits_takes_every_objective_and_schedule(tmp_path):
    for given in (["--objective", "clean"], ["--objective", "leaf"], ["--attack_schedule", "fast"]):
        _, args = parse([*given, "--output_dir", str(tmp_path)])
        assert (args.epsilon, args.num_steps) == (0.15, 10)
    _, args = parse(["--objective", "tecoa"])
    assert args.num_steps == 5
