"""The configuration: parsing, validation, and that no field is dead."""

from __future__ import annotations

import pytest
import yaml
from transformers import HfArgumentParser

from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.families import FAMILIES


def test_pixels_may_be_written_as_a_fraction():
    config = MMCoAConfig(output_dir="out", epsilon="4/255", step_size=0.01)
    assert config.epsilon == pytest.approx(4 / 255) and config.step_size == 0.01


def test_command_line_and_yaml(tmp_path):
    parser = HfArgumentParser(MMCoAConfig)
    (from_line,) = parser.parse_args_into_dataclasses(
        ["--output_dir", "out", "--epsilon", "8/255", "--text_attack", "words+embedding", "--no_random_start"]
    )
    (tmp_path / "c.yaml").write_text(
        "output_dir: out\nepsilon: 8/255\ntext_attack: words+embedding\nrandom_start: false\n"
    )
    (from_yaml,) = parser.parse_yaml_file(str(tmp_path / "c.yaml"))
    assert from_line.epsilon == from_yaml.epsilon == pytest.approx(8 / 255)
    assert from_line.random_start is from_yaml.random_start is False
    assert from_line.text_attack == from_yaml.text_attack == "words+embedding"


def test_what_is_not_default_survives_yaml(tmp_path):
    config = MMCoAConfig(output_dir="out", epsilon=0.15, num_steps=5, learning_rate=3e-3, hub_token="secret")
    text = config.to_yaml()
    assert yaml.safe_load(text) == {"output_dir": "out", "epsilon": 0.15, "num_steps": 5, "learning_rate": 3e-3}
    (tmp_path / "c.yaml").write_text(text)
    (again,) = HfArgumentParser(MMCoAConfig).parse_yaml_file(str(tmp_path / "c.yaml"))
    assert again.to_yaml() == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 8}, r"pixel units, got 8\. Did you mean 8/255\?"),
        ({"epsilon": "eight"}, "`epsilon` must be a number.*'eight'"),
        ({"epsilon": "1/0"}, "`epsilon`"),
        ({"step_size": None}, "`step_size`.*None"),
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
        ({"max_changes": 0}, "`max_changes`"),
        ({"num_candidates": 0}, "`num_candidates`"),
        ({"num_text_steps": 0}, "`num_text_steps`"),
        ({"lambda_text": -1}, "`lambda_text` must not be negative"),
        ({"rho": -1}, "`rho`"),
        ({"text_attack": "none"}, "lambda_text=0"),
        ({"train_image_encoder": False, "train_text_encoder": False}, "nothing would train"),
        ({"remove_unused_columns": True}, "`remove_unused_columns`"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is not supported, got 0.1: .*targets"),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha` is not supported, got 5.0: .*text_attack"),
        ({"train_sampling_strategy": "group_by_length"}, "`train_sampling_strategy` .*'group_by_length'"),
        ({"train_sampling_strategy": "batch_rebalance"}, "`train_sampling_strategy` .*'batch_rebalance'"),
        ({"include_num_input_tokens_seen": True}, "`include_num_input_tokens_seen`"),
        ({"use_liger_kernel": True}, "`use_liger_kernel`"),
        ({"label_names": ["target"]}, "`label_names`"),
        (
            {"objective": "tecoa2"},
            "`objective` must be one of mmcoa, clean, tecoa, fare, pmg-aft, tga-zsr, leaf, fare[+]leaf, .*got 'tecoa2'",
        ),
        ({"text_adversary": "shared"}, "`text_adversary` must be one of blind, own, all, got 'shared'"),
        ({"text_adversary": "all", "text_attack": "words|characters"}, 'needs `text_attack="words"`'),
        ({"text_adversary": "own", "lambda_text": 0}, "`lambda_text` is 0"),
        ({"text_adversary": "own", "objective": "leaf"}, "`text_adversary` belongs to `objective` mmcoa"),
        ({"targets": "clas"}, "`targets` must be one of"),
        ({"text_attack": "word"}, "`text_attack` must be auto, none, or some of words, .* got 'word'"),
        ({"text_attack": "words|words"}, "`text_attack` must be .* each once"),
        (
            {"text_attack": "families", "families": "typos"},
            "`families` must be all, or some of keyboard, .* got 'typos'",
        ),
        (
            {"text_attack": "families", "leave_out_family": "typos"},
            "`leave_out_family` must be one of keyboard, homoglyphs, .* got 'typos'",
        ),
        (
            {"text_attack": "families", "families": "affixes|keyboard", "leave_out_family": "templates"},
            "`leave_out_family` must be one of affixes, keyboard, got 'templates'",
        ),
        ({"text_attack": "families", "num_variants": 0}, "`num_variants` must be at least 1"),
        ({"families": "keyboard"}, "`families` belongs to `text_attack=families`; 'auto' does not read it"),
        ({"text_attack": "words", "leave_out_family": "keyboard"}, "`leave_out_family` belongs to"),
        ({"text_attack": "words|characters", "num_variants": 3}, "`num_variants` belongs to"),
        ({"text_attack": "none", "objective": "leaf"}, "leaves the text term of leaf without an attack: name an"),
        ({"clean_weight": 0.5}, "`clean_weight` belongs to `objective` fare and fare[+]leaf; 'mmcoa' does not"),
        ({"clean_weight": 1.5, "objective": "fare"}, "`clean_weight` must be in"),
        ({"trades": True, "objective": "fare"}, "`trades` with `clean_weight=0`"),
        ({"release_scaling": True, "objective": "fare"}, "`release_scaling` belongs to `objective` pmg-aft"),
        ({"candidates": "neighbors"}, "`candidates` must be one of"),
        ({"norm": "l1"}, "`norm` must be one of"),
        ({"perturb_at": "224"}, "`perturb_at` must be one of"),
        ({"step_size": "nan"}, "`step_size` must not be negative"),
        ({"lambda_image": 0, "lambda_text": 0}, "nothing to minimise"),
        ({"template": "a photo"}, "`template` needs exactly one"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MMCoAConfig(output_dir="out", **settings)


def test_families_are_options_of_the_command_line():
    parser = HfArgumentParser(MMCoAConfig)
    options = ["--text_attack", "words|families", "--families", "keyboard|affixes", "--leave_out_family", "affixes"]
    (config,) = parser.parse_args_into_dataclasses(["--output_dir", "out", *options, "--num_variants", "4"])
    assert (config.families, config.leave_out_family, config.num_variants) == ("keyboard|affixes", "affixes", 4)
    assert ",".join(FAMILIES) in "".join(parser.format_help().split())


def test_an_l2_radius_may_exceed_one():
    assert MMCoAConfig(output_dir="out", norm="l2", epsilon=2).epsilon == 2.0


def test_a_schedule_has_steps_of_its_own(tmp_path):
    args = MMCoAConfig(output_dir=str(tmp_path), epsilon="8/255", step_size="1/255", num_steps=10)
    assert args.attack_steps == (10, 1 / 255)
    args = MMCoAConfig(output_dir=str(tmp_path), epsilon="8/255", num_steps=10, attack_schedule="fast")
    assert args.attack_steps == (3, pytest.approx(20 / 3 / 255))
    args = MMCoAConfig(output_dir=str(tmp_path), epsilon="8/255", num_steps=10, attack_schedule="shared")
    assert args.attack_steps == (1, pytest.approx(20 / 255))
    with pytest.raises(ValueError, match="`attack_schedule` must be one of pgd, fast, shared, got 'quick'"):
        MMCoAConfig(output_dir=str(tmp_path), attack_schedule="quick")
