"""The card: it has the numbers of the result files, its metadata parses, and names cannot become markup or code."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import metadata_errors
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from measured import result_of
from result_dicts import PASSED, make_result

from hf_mmcoa.cli import build_parser
from hf_mmcoa.cli.measurement_arguments import threat_model
from hf_mmcoa.cli.train_arguments import parse
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.evaluation.recalls import DIRECTIONS, recalls
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.hub.card import model_card
from hf_mmcoa.hub.evaluate_command import evaluate_command
from hf_mmcoa.hub.limitations import limits
from hf_mmcoa.hub.model_folder import read_checkpoint
from hf_mmcoa.io import read_json, write_json
from hf_mmcoa.protocols.before_and_after import run_settings
from hf_mmcoa.report.table import markdown_table

KINDS = ("clean", "image", "text", "multimodal", "worst_case")
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def fenced(text, language):
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


def stored(checkpoint):
    return json.loads((checkpoint / "robustness.json").read_text())


def rewrite(checkpoint, **changes):
    """Put changes into both results of the folder."""
    results = stored(checkpoint)
    write_json({name: result | changes for name, result in results.items()}, checkpoint / "robustness.json")


# Numbers


def test_every_number_is_the_result_file_s(checkpoint):
    card = model_card(checkpoint, repo_id="user/robust-clip")
    results = stored(checkpoint)
    assert markdown_table(results) in card.text
    name, parsed = model_index_to_eval_results(yaml.safe_load(card.data.to_yaml())["model-index"])
    assert name == "robust-clip"
    accuracies = [f"{kind}_accuracy" for kind in KINDS]
    assert [one.metric_value for one in parsed] == [results["after"][key] for key in accuracies]
    assert [one.metric_args["interval_95"] for one in parsed] == [
        results["after"][f"{key}_interval"] for key in accuracies
    ]
    assert parsed[0].metric_name == "clean accuracy" and parsed[1].metric_name.endswith("image (Linf 0.1)")
    assert {(one.dataset_name, one.dataset_split) for one in parsed} == {("squares", "test")}


def test_the_card_survives_the_hub_s_own_readers(checkpoint, tmp_path):
    card = model_card(checkpoint, repo_id="user/robust-clip", license="mit", language="en", tags=["mine"])
    card.save(tmp_path / "README.md")
    data = metadata_load(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert again.data.to_dict() == card.data.to_dict() == data
    assert len(again.data.eval_results) == len(card.data.eval_results) == 5
    assert metadata_errors(str(card)) == []
    assert (data["license"], data["language"], data["base_model"]) == ("mit", "en", "org/tiny-clip")
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "zero-shot-image-classification")
    assert {"hf_mmcoa", "mine"} <= set(data["tags"]) and data["base_model_relation"] == "finetune"


def test_everything_that_a_card_must_say(checkpoint):
    text = model_card(checkpoint, repo_id="user/robust-clip", license="mit").text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "Use it",
        "How robust it is",
        "What it is not robust to",
        "Training",
        "Attack specification",
        "Reproduce",
        "Licence",
        "Citation",
    ]
    (usage,) = fenced(text, "python")
    assert len(usage.splitlines()) == 3 and 'model="user/robust-clip"' in usage
    assert json.loads(fenced(text, "json")[0]) == stored(checkpoint)["after"]["attack_spec"]
    settings = yaml.safe_load(fenced(text, "yaml")[0])
    inherited = {field.name for field in dataclasses.fields(MMCoAConfig.__base__)}
    own = (
        {field.name for field in dataclasses.fields(MMCoAConfig)} - inherited - {"log_images_every"}
    )  # shows, trains not
    assert (
        {"objective", "lambda_distill", "text_attack", "num_steps", "lora"} <= set(settings) <= own | inherited
        and not {"rho", "trades", "max_edits", "families"} & set(settings)  # nothing reads them
        and "log_images_every" not in settings
        and settings["epsilon"] == 0.1
        and settings["learning_rate"] == 5e-5
    )
    assert "output_dir" not in settings
    train, _ = fenced(text, "bash")[0], fenced(text, "bash")
    assert train == "hf-mmcoa train --config training_args.yaml --output_dir reproduced"
    assert "2404.19287" in fenced(text, "bibtex")[0] and "[org/tiny-clip](https://huggingface.co/org/tiny-clip)" in text
    assert "- Weights: mit" in text and "10 samples of squares/test" in text


def test_a_checkpoint_without_results_says_so(checkpoint):
    (checkpoint / "robustness.json").unlink()
    card = model_card(checkpoint)
    assert "**No robustness was measured for this checkpoint, so none is claimed.**" in card.text
    assert "Unknown: nothing was measured" in card.text and "| accuracy under" not in card.text
    assert "model-index" not in card.data.to_dict() and metadata_errors(str(card)) == []


def test_a_checkpoint_without_arguments_says_so(checkpoint):
    (checkpoint / "training_args.yaml").unlink()
    text = model_card(checkpoint).text
    assert "Not recorded: the folder has no training_args.yaml" in text and "no command repeats it" in text


def test_numbers_of_other_weights_are_left_out_or_refused(checkpoint, tmp_path):
    results = stored(checkpoint)
    other = {**results["after"], "fingerprints": {**results["after"]["fingerprints"], "model": "stale"}}
    write_json({"before": results["before"], "after": other}, checkpoint / "robustness.json")
    assert "No robustness was measured" in model_card(checkpoint).text
    with pytest.raises(ValueError, match=r"was measured on other weights than those in .*hf-mmcoa evaluate --model"):
        model_card(checkpoint, [checkpoint / "robustness.json"])


def test_a_damaged_file_is_refused_where_it_was_asked_for(checkpoint):
    (checkpoint / "robustness.json").write_text("{")
    assert "No robustness was measured" in model_card(checkpoint).text
    with pytest.raises(ValueError, match="cut off or damaged"):
        model_card(checkpoint, [checkpoint / "robustness.json"])


def test_a_comparison_is_a_column_and_only_the_own_numbers_are_metadata(checkpoint, tmp_path):
    write_json(stored(checkpoint)["after"], tmp_path / "mine.json")
    write_json(make_result(model="org/other"), tmp_path / "other.json")
    card = model_card(checkpoint, [f"ours={tmp_path / 'mine.json'}", f"theirs={tmp_path / 'other.json'}"])
    assert "| accuracy under | ours | theirs |" in card.text and "Measured on this checkpoint: ours." in card.text
    own = stored(checkpoint)["after"]
    assert [one.metric_value for one in card.data.eval_results] == [own[f"{kind}_accuracy"] for kind in KINDS]


def test_other_threat_models_are_sections_of_their_own(checkpoint, tiny_clip):
    (checkpoint / "results").mkdir()
    write_json(result_of(tiny_clip, epsilon=0.2), checkpoint / "results" / "large.json")
    write_json(stored(checkpoint)["after"], checkpoint / "results" / "after.json")  # of robustness.json: said once
    card = model_card(checkpoint)
    assert "| accuracy under | before | after |\n" in card.text
    assert card.text.count("| accuracy under") == 2 and "| accuracy under | this checkpoint |" in card.text
    assert len(fenced(card.text, "json")) == 2 and len(card.data.eval_results) == 10
    assert "### squares/test, L∞ ε = 0.1\n" in card.text and "### squares/test, L∞ ε = 0.2\n" in card.text
    assert "image (Linf 0.2)" in str([one.metric_name for one in card.data.eval_results])


def test_sections_of_one_data_set_and_radius_say_what_else_differs(checkpoint, tiny_clip):
    (checkpoint / "results").mkdir()
    for name, changes in {"long": {"num_steps": 99}, "l2": {"norm": "l2"}}.items():
        write_json(result_of(tiny_clip, **changes), checkpoint / "results" / f"{name}.json")
    card = model_card(checkpoint)
    headings = re.findall(r"^### (.*)$", card.text, re.MULTILINE)
    assert headings[0].startswith("squares/test, L∞ ε = 0.1, num\\_steps ") and "99" not in headings[0]
    assert set(headings[1:]) == {"squares/test, L2 ε = 0.1", "squares/test, L∞ ε = 0.1, num\\_steps 99"}
    summaries = re.findall("<summary>(.*)</summary>", card.text)
    assert len(set(summaries)) == 3
    names = [one.metric_name for one in card.data.eval_results if "image" in one.metric_name]
    assert "accuracy under attack: image (Linf 0.1, num_steps 99)" in names and len(set(names)) == 3


def test_a_siglip_is_called_one(tiny_siglip, tiny_siglip_processor, tmp_path):
    tiny_siglip.save_pretrained(tmp_path / "sig")
    tiny_siglip_processor.save_pretrained(tmp_path / "sig")
    write_json(result_of(tiny_siglip), tmp_path / "sig" / "result.json")
    card = model_card(tmp_path / "sig", [tmp_path / "sig" / "result.json"])
    assert card.text.lstrip().startswith("# sig\n\nA SigLIP,") and "`SiglipModel`" in card.text
    assert "siglip" in card.data.tags and len(card.data.eval_results) == 5


# Names from elsewhere

HOSTILE = 'x"]\n```\n---\n<script>alert(1)</script>![i](http://e.vil)|`*{{ 7 * 7 }}'


def test_no_name_becomes_markup_code_or_metadata(checkpoint):
    rewrite(checkpoint, dataset=f"{HOSTILE}/test", class_names=[HOSTILE, "dog"], model=HOSTILE)
    finding = {**PASSED, "passed": False, "detail": HOSTILE, "check": HOSTILE}
    rewrite(checkpoint, sanity=[finding])
    (checkpoint / "training_args.yaml").write_text(
        yaml.safe_dump({"dataset": HOSTILE, "model_name_or_path": HOSTILE, "template": HOSTILE, "run_name": HOSTILE})
    )
    card = model_card(checkpoint, repo_id="user/robust-clip")
    text = re.sub(r"^```(\w+)\n.*?\n```$", "", card.text, flags=re.MULTILINE | re.DOTALL)
    assert "```" not in text and not re.search(r"^---", text, re.MULTILINE)
    assert "script" in text and r"{{ 7 \* 7 }}" in text
    for markup in ("<script", "[i", "`*", "*{{"):
        assert not re.search(rf"(?<!\\){re.escape(markup)}", text)
    assert all(
        "\n" not in line and line.count("|") - line.count("\\|") == 4 for line in text.split("\n") if "| clean" in line
    )
    (usage,) = fenced(card.text, "python")
    assert len(ast.parse(usage).body) == 3 and len(usage.splitlines()) == 3
    assert len(fenced(card.text, "json")) == len(fenced(card.text, "yaml")) == 1
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict() and metadata_errors(str(card)) == []
    assert "base_model" not in card.data.to_dict()
    assert yaml.safe_load(fenced(card.text, "yaml")[0])["template"] == HOSTILE


def test_every_bash_line_is_one_command(checkpoint):
    spec = stored(checkpoint)["after"]["attack_spec"] | {"candidates": "NeighbourCandidates()"}
    rewrite(checkpoint, dataset="a'; rm -rf / #\nx/test", attack_spec=spec)
    blocks = fenced(model_card(checkpoint, repo_id="user/robust-clip").text, "bash")
    assert len(blocks) == 2 and all(len(block.splitlines()) == 1 for block in blocks)
    words = shlex.split(blocks[1])
    assert words[:2] == ["hf-mmcoa", "evaluate"] and words[words.index("--dataset") + 1] == "a'; rm -rf / # x"


# Limits


def test_what_felled_the_model_is_said(tiny_clip):
    said = "\n".join(limits(make_result()))
    assert (
        "**Not robust to image attacks** at L∞ ε = 0.1: they reduce accuracy from 90.0% to 40.0% on squares/test."
        in said
    )
    assert "prompt changes, to the worst text for the image)** at L∞ ε = 0.1 and one word: they reduce" in said
    assert "Not robust to text" not in said
    assert "**Not robust to multimodal attacks by adversary all (every prompt changes, to the worst text for" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Typing errors and other changes of characters were not tried."),
        ({"text_attacks": ("words", "characters")}, "The attack on token embeddings was not run."),
        ({"norm": "l2", "epsilon": 2.0}, "L2 of at most 2"),
        ({"norm": "l2"}, "the L∞ norm, patches"),
        ({"perturb_at": "native"}, "at the images' own resolution"),
        ({"max_changes": 2}, "2 words of a prompt replaced by one of these substitutes: SynonymTable(3 words)"),
        ({}, "Neither AutoAttack nor the ensemble"),
        ({"sanity": []}, "The sanity checks of the measurement were not run."),
        ({"sanity": [{**PASSED, "passed": False}]}, "**A sanity check of the measurement failed** (inside the ball"),
        ({"text_adversaries": ("blind",)}, "Attacked texts were found without looking at the images"),
        ({"text_adversaries": ("own",)}, "`all`, the worst adversary, was not run"),
        ({"searches": {"text/words": "beam of 50 texts"}}, "Not every legal text of text/words was tried"),
        ({"num_candidates": 0}, "The budget of the attack text/words is zero (num\\_candidates=0)."),
    ],
)
def test_what_was_not_tried_is_said(changes, sentence):
    assert sentence in "\n".join(limits(make_result(**changes)))


def test_what_was_tried_is_not_said_to_be_missing():
    said = "\n".join(
        limits(make_result(image_attacks=("pgd-ce", "strong"), text_attacks=("words", "characters", "embedding")))
    )
    for absent in ("AutoAttack", "Typing errors", "token embeddings was not run", "sanity"):
        assert absent not in said


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (["clean", "image/pgd-ce"], "Word and character attacks were not run"),
        (["clean", "text/words/all"], "Image attacks were not run"),
        (["clean", "image/pgd-ce", "text/words/all"], "Image and text were not attacked together."),
    ],
)
def test_kinds_that_were_not_run_are_said(kept, sentence):
    outcomes = dict.fromkeys(kept, "1111111110")
    assert sentence in "\n".join(limits(make_result(outcomes)))


# Reproduction


@pytest.mark.parametrize("changes", [{}, {"seed": 3, "row_ids": [*range(359), 999], "batch_size": 64}])
def test_the_evaluation_s_command_says_the_same_threat_model(changes):
    result = json.loads((RESULTS / "digits" / "seed-0.json").read_text())["after"]
    result["attack_spec"] |= {name: value for name, value in changes.items() if name == "seed"}
    args = build_parser().parse_args(shlex.split(evaluate_command(result | changes, "user/robust"))[1:])
    spec, wanted = threat_model(args).to_dict(), result["attack_spec"]
    assert {name for name in wanted if spec[name] != wanted[name]} == {"candidates"}
    assert (args.model, args.dataset, args.candidates) == (["user/robust"], ["digits"], ["digits-wordnet"])
    assert args.split == "test"
    assert (args.max_samples, args.batch_size) == ((360, 64) if changes else (None, 128))


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": "SynonymTable(3 words)"},
        {"candidates": {"known": "SynonymTable(1 words)", "unseen": "SynonymTable(1 words)"}},
        {"image_attacks": ("mine: MyAttack()",)},
        {"skip_fallen": False, "protect_template": True},
    ],
)
def test_a_threat_model_that_options_cannot_say_has_no_command(changes):
    result = make_result(**{"candidates": "NeighbourCandidates()", **changes})
    assert evaluate_command(result | {"attacks": ["clean", "image"]}, "user/robust") is None


def test_sources_by_name_and_fractions_are_written_as_people_do():
    result = make_result(candidates="HotFlipCandidates()", epsilon=4 / 255, step_size=1 / 255)
    command = evaluate_command(result, "m")
    assert "--candidates hotflip" in command and "--epsilon 4/255" in command and "--step_size 1/255" in command
    assert (
        threat_model(build_parser().parse_args(shlex.split(command)[1:])).epsilon
        == ThreatModel(epsilon=4 / 255).epsilon
    )


@pytest.mark.parametrize(
    "given",
    [
        ["--num_steps", "10", "--preset", "quick", "--pretrain_epochs", "3"],
        ["--model_name_or_path", "org/clip", "--dataset", "cifar10", "--shots", "4", "--epsilon", "2/255"],
    ],
)
def test_the_arguments_file_repeats_the_run(tmp_path, given):
    """10 steps are the config's default and not digits.yaml's, which --config would fall back to."""
    run, args = parse([*given, "--output_dir", str(tmp_path)])
    settings = yaml.safe_load(args.to_yaml()) | run_settings(run, args)
    (tmp_path / "training_args.yaml").write_text(yaml.safe_dump(settings))
    again, again_args = parse(["--config", str(tmp_path / "training_args.yaml")])
    assert again == run and again_args.to_dict() == args.to_dict()


def test_the_excerpt_in_the_documentation_is_made_from_the_results(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "docs" / "make_card_excerpt.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code == 0, capsys.readouterr().out


def test_a_retrieval_result_on_these_weights_is_in_the_card(checkpoint, tmp_path):
    own = read_checkpoint(checkpoint).fingerprints().pop()
    ranks = {f"{attack}/{d}": [1, 7, 12] for attack in ("clean", "image/pgd-ce") for d in DIRECTIONS}
    result = {
        **recalls(ranks, [[0], [1], [2]]),
        **{"format": 1, "task": "retrieval", "model": "mine", "dataset": "captions", "ranks": ranks, "sanity": []},
        **{"attack_spec": ThreatModel().to_dict(), "num_samples": 3, "num_captions": 3, "captions_of": [[0], [1], [2]]},
    }
    write_json(result | {"fingerprints": {"model": own}}, tmp_path / "retrieval.json")
    text = str(model_card(checkpoint, [tmp_path / "retrieval.json"]))
    assert "### Retrieval: mine on captions" in text and "| image | 33.3 " in text
    assert "No robustness was measured" not in text
    write_json(result | {"fingerprints": {"model": "others"}}, tmp_path / "retrieval.json")
    with pytest.raises(ValueError, match=r"retrieval\.json was measured on other weights"):
        model_card(checkpoint, [tmp_path / "retrieval.json"])


def test_a_defence_on_these_weights_is_in_the_card_with_both_columns_and_its_failed_checks(checkpoint, tmp_path):
    own = read_checkpoint(checkpoint).fingerprints().pop()
    stored = read_json(Path(__file__).parents[2] / "docs/results/test-time/mmcoa-quantise.json")
    checks = [{"check": "as strong as static", "passed": False, "detail": "83 and 81%"}]
    write_json(stored | {"fingerprints": {"model": own}, "sanity": checks}, tmp_path / "defended.json")
    text = str(model_card(checkpoint, [tmp_path / "defended.json"]))
    assert "### Test-time defence: mmcoa on" in text and "Quantise(levels=4)" in text
    assert "| undefended: clean | undefended: attacked | clean | static | adaptive | worst |" in text
    for name in ("undefended_static_accuracy", "static_accuracy", "adaptive_accuracy", "robust_accuracy"):
        assert f"| {100 * stored[name]:.1f} [" in text
    assert (
        "adaptive ones through it" in text
        and "A sanity check of the measurement failed" in text
        and "83 and 81%" in text
    )
    write_json(stored, tmp_path / "others.json")
    with pytest.raises(ValueError, match=r"others\.json was measured on other weights"):
        model_card(checkpoint, [tmp_path / "others.json"])
