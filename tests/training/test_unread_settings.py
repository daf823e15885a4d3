"""No setting is dead: one that is accepted changes the training, and one that changes nothing is refused."""

from __future__ import annotations

import copy
import dataclasses
import logging

import pytest
import torch
import yaml
from test_trainer import picture_rows
from transformers import TrainingArguments

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.config import MeasuredConfig
from hf_mmcoa.objectives import LEAF, TeCoA

OBJECTIVES = (
    *("mmcoa", "clean", "tecoa", "fare", "pmg-aft", "tga-zsr", "leaf", "fare+leaf"),
    *("mat", "mat+", "advflyp", "saft", "sim-clip", "qt-aft", "agft"),
)
CHANGED = {
    "lambda_image": 0.9,
    "lambda_text": 0.9,
    "lambda_clean": 0.9,
    "lambda_class": 0.9,
    "lambda_distill": 0.9,
    "text_adversary": "all",
    "targets": "class",
    "accumulate_attack_gradients": True,
    "clean_weight": 0.5,
    "trades": True,
    "release_scaling": True,
    "captions_per_image": 2,
    "train_image_encoder": False,
    "train_text_encoder": False,
    "train_logit_scale": False,
    "attack_schedule": "fast",
    "attack_check_every": 2,
    "attack_early_stop": True,
    "attack_batch_size": 2,
    "compile_attack": True,
    "text_attack": "embedding",
    "families": "affixes",
    "leave_out_family": "affixes",
    "num_variants": 3,
    "masked_lm": "other-bert",
    "align_to_cls": False,
    "norm": "l2",
    "epsilon": 0.1,
    "step_size": 0.02,
    "num_steps": 3,
    "restarts": 2,
    "random_start": False,
    "temperature": 2.0,
    "perturb_at": "native",
    "template": "{}",
    "candidates": "hotflip",
    "num_candidates": 2,
    "max_changes": 2,
    "protect_template": False,
    "forbid_class_names": False,
    "max_edits": 2,
    "rho": 0.2,
    "num_text_steps": 2,
}
# Ways to compute the same numbers, pictures of what is done, and adapters, which every objective trains.
SAME_NUMBERS = ("attack_check_every", "attack_batch_size", "compile_attack", "encode_batch_size", "log_images_every")
FREE = ("objective", "encode_batch_size", "log_images_every", "last_blocks", "lora")
WITHOUT_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save")

IMAGE = {
    "norm",
    "epsilon",
    "step_size",
    "num_steps",
    "restarts",
    "random_start",
    "attack_schedule",
    "attack_batch_size",
}
ON_CLASSES = IMAGE | {"attack_check_every", "attack_early_stop", "compile_attack", "temperature", "template"}
WORDS = {"candidates", "num_candidates", "max_changes", "protect_template", "forbid_class_names", "align_to_cls"}
LOSS = {f"lambda_{name}" for name in ("image", "text", "clean", "class", "distill")} | {
    "accumulate_attack_gradients",
    "text_adversary",
}
PARTS = {"train_image_encoder", "train_text_encoder", "train_logit_scale"}
FARE = IMAGE | {"clean_weight", "perturb_at", "train_image_encoder"}
TYPOS = {"text_attack", "max_edits", "forbid_class_names", "template", "train_text_encoder"}
MAT = ON_CLASSES | WORDS | PARTS | {"targets", "perturb_at", "text_attack"}
READ = {
    "mmcoa": LOSS | ON_CLASSES | WORDS | PARTS | {"targets", "perturb_at", "text_attack"},
    "clean": PARTS | {"targets", "perturb_at", "template"},
    "tecoa": ON_CLASSES | {"perturb_at", "train_image_encoder"},
    "fare": FARE,
    "pmg-aft": ON_CLASSES | {"perturb_at", "train_image_encoder", "release_scaling"},
    "tga-zsr": ON_CLASSES | {"perturb_at", "train_image_encoder"},
    "leaf": TYPOS,
    "fare+leaf": FARE | TYPOS,
    "mat": MAT,
    "mat+": MAT | {"captions_per_image"},
    "advflyp": ON_CLASSES | {"targets", "perturb_at", "train_image_encoder"},
    "saft": ON_CLASSES | {"perturb_at", "train_image_encoder", "captions_per_image"},
    "sim-clip": FARE - {"clean_weight"},
    "qt-aft": IMAGE | {"temperature", "template", "perturb_at", "train_image_encoder", "train_logit_scale"},
    "agft": ON_CLASSES | {"perturb_at", "train_image_encoder"},
}


def refused(objective, changed, **base):
    """Return the message that refuses settings; "" if none does."""
    try:
        MMCoAConfig("out", objective=objective, **base | changed)
    except ValueError as error:
        return str(error)
    return ""


def test_every_setting_is_listed_here():
    own = {each.name for each in dataclasses.fields(MMCoAConfig)} - {
        each.name for each in dataclasses.fields(TrainingArguments)
    }
    assert own == {*CHANGED, *FREE, *WITHOUT_LORA}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_that_an_objective_does_not_read_is_refused(objective, name):
    said = refused(objective, {name: CHANGED[name]})
    if name in ("trades", "train_image_encoder", "train_text_encoder") and name in READ[objective]:
        return  # `trades` alone is refused for what it does
    if name == "trades" and "fare" in objective:
        assert "clean_weight" in said
    elif name in READ[objective]:
        assert said == ""
    else:
        assert f"`{name}`" in said and (objective in said or name in ("families", "leave_out_family", "num_variants"))
        assert "leave" in said or "add" in said  # the way out


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"lambda_text": 0}, ["text_attack", "num_candidates", "candidates", "align_to_cls"]),
        ({"lambda_image": 0}, ["epsilon", "norm", "num_steps", "attack_schedule", "attack_early_stop", "temperature"]),
        ({"lambda_image": 0, "lambda_text": 0, "lambda_class": 1}, ["targets"]),
        ({"attack_schedule": "fast"}, ["num_steps", "step_size"]),
        ({"text_attack": "words"}, ["rho", "num_text_steps", "max_edits", "masked_lm"]),
        ({"text_attack": "embedding"}, [*sorted(WORDS), "max_edits"]),
        ({"text_attack": "characters"}, ["rho", "num_candidates", "max_changes", "candidates"]),
        ({"text_attack": "families"}, ["rho", "max_edits"]),
        ({"text_attack": "families", "families": "keyboard"}, ["candidates", "max_changes"]),
        ({"objective": "pmg-aft", "release_scaling": True}, ["temperature"]),
        ({"objective": "fare+leaf", "text_attack": "words"}, ["max_edits", "temperature"]),
    ],
    ids=str,
)
def test_settings_of_other_settings(settings, names):
    settings = {"objective": "mmcoa"} | settings
    for name in names:
        assert f"`{name}` has no effect under `objective={settings['objective']}`" in refused(
            changed={name: CHANGED[name]}, **settings
        )


def test_what_reads_a_setting_accepts_it():
    for settings in (
        {"text_attack": "words|embedding", "rho": 0.3, "lambda_distill": 0.1, "max_changes": 2},
        {"objective": "leaf", "text_attack": "words+embedding", "rho": 0.3, "temperature": 2.0},
        {"candidates": "masked-lm", "masked_lm": "other-bert"},
        {"objective": "tecoa", "text_attack": "none"},
        {"text_attack": "families", "families": "synonyms|keyboard", "candidates": "wordnet"},
    ):
        assert refused(settings.pop("objective", "mmcoa"), settings) == ""


def test_what_the_evaluation_alone_reads_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        MMCoAConfig("out", objective="tecoa", text_attack="characters", eval_strategy="epoch")
    assert "`text_attack` is read by the evaluation alone: under `objective=tecoa` no text is attacked" in caplog.text
    assert "`rho`" in refused("tecoa", {"rho": 0.3, "eval_strategy": "epoch"})  # words are evaluated


def test_a_measured_budget_is_read_under_every_objective():
    for objective in OBJECTIVES:
        args = MeasuredConfig("out", objective=objective, epsilon=0.1, rho=0.3, norm="l2", candidates="hotflip")
        assert (args.epsilon, args.rho) == (0.1, 0.3)
        with pytest.raises(ValueError, match="`num_text_steps`"):
            MeasuredConfig("out", objective=objective, num_text_steps=3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_settings_for_all_lose_what_one_does_not_read(objective, tmp_path):
    common = {
        name: value
        for name, value in CHANGED.items()
        if name not in (*PARTS, "trades", "random_start", "text_adversary")
    }
    common |= {"attack_schedule": "fast", "text_attack": "families", "learning_rate": 0.1, "leave_out_family": None}
    kept = MMCoAConfig.without_unread(common, {"objective": objective})
    args = MMCoAConfig(str(tmp_path), objective=objective, **kept)
    assert args.learning_rate == 0.1 and not {"num_steps", "step_size", "rho"} & set(kept)
    assert MMCoAConfig.without_unread(common, {"objective": "unknown"}) == common
    assert args.to_yaml() == MMCoAConfig(**yaml.safe_load(args.to_yaml())).to_yaml()


def test_an_objective_of_the_users_own_reads_what_it_declares(tiny_clip, tiny_processor, tmp_path):
    given = {"train_dataset": picture_rows(), "processing_class": tiny_processor}
    for objective, changed in ((TeCoA(), {"text_attack": "characters"}), (LEAF(), {"epsilon": 0.1})):
        name = next(iter(changed))
        with pytest.raises(ValueError, match=f"`{name}` has no effect under the objective {type(objective).__name__}"):
            MMCoATrainer(tiny_clip, MMCoAConfig(str(tmp_path), **changed), objective=objective, **given)
    with pytest.raises(ValueError, match=r"`lambda_text` has no effect.*Give it there"):
        MMCoATrainer(tiny_clip, MMCoAConfig(str(tmp_path), lambda_text=0.9), objective=TeCoA(), **given)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_refused_would_change_nothing_and_what_is_accepted_does(
    objective, tiny_clip, tiny_processor, tmp_path, monkeypatch
):
    steps = 2 if objective in ("fare", "agft") else 1  # in the first, the model is still its own teacher

    def trained(**changed):
        args = MMCoAConfig(
            str(tmp_path),
            objective=objective,
            **{"epsilon": "8/255", "step_size": "4/255", "num_steps": 2, "max_changes": 1} | changed,
            max_steps=steps,
            per_device_train_batch_size=6,
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        rows = picture_rows(size=48)
        trainer = MMCoATrainer(copy.deepcopy(tiny_clip), args, rows, processing_class=tiny_processor)
        trainer.train()
        return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])

    refusing = {name for name in CHANGED if refused(objective, {name: CHANGED[name]})}
    monkeypatch.setattr(MMCoAConfig, "check_read", lambda *args, **kwargs: None)
    monkeypatch.setattr(MMCoAConfig, "_check_families", lambda self: None)
    plain, dead, alive = trained(), [], []
    assert torch.equal(plain, trained())
    by_chance = {"forbid_class_names"} if "leaf" in objective else set()  # no drawn edit spells a class's name
    refused_anyway = {"trades", "train_image_encoder", "train_text_encoder", "masked_lm"}
    for name in CHANGED.keys() - {*SAME_NUMBERS, *by_chance, *refused_anyway}:
        same = torch.equal(plain, trained(**{name: CHANGED[name]}))
        if same and name not in refusing:
            dead.append(name)
        if not same and name in refusing:
            alive.append(name)
    assert (dead, alive) == ([], [])
