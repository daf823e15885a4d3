from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.report.gallery import gallery_path, load_gallery


@pytest.fixture
def command(tiny_clip, tiny_processor, tmp_path):
    """Arguments of a short evaluation of an untrained CLIP on noise."""
    tiny_clip.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "car"])})
    rows = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1, 2] * 2}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data")
    arguments = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--preset", "quick", "--cpu", "--quiet"]
    return list(map(str, [*arguments, "--num_steps", 2, "--no_sanity"]))


@pytest.mark.filterwarnings("ignore:sanity")
def test_a_gallery_lies_beside_the_result(command, tmp_path):
    output = tmp_path / "result.json"
    assert main(["evaluate", *command, "--output", str(output), "--gallery", "2"]) == 0
    gallery = load_gallery(gallery_path(output))
    assert len(gallery.samples) == 2 and gallery.models == ["model"]
    assert gallery.attack_spec["num_steps"] == 2 == load_result(output)["attack_spec"]["num_steps"]


def test_without_the_option_there_is_no_gallery(command, tmp_path):
    output = tmp_path / "result.json"
    assert main(["evaluate", *command, "--output", str(output), "--attacks", "clean"]) == 0
    assert not gallery_path(output).exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["--gallery", "2"], "`--output`"),
        (["--gallery", "0", "--output", "x.json"], "at least 1 sample"),
        (["--gallery", "2", "--output", "x.json", "--task", "retrieval"], "class prompts"),
        (["--task", "retrieval"], "`text_column`"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(command, changes, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *command, *changes]) == 1
    assert text in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "x.json").exists()


def measured(command, tmp_path, *words):
    """The result of the command with further words, which replace its preset."""
    output = tmp_path / "result.json"
    where = command.index("--preset")
    assert main(["evaluate", *command[:where], *command[where + 2 :], *map(str, words), "--output", str(output)]) == 0
    result = load_result(output)
    output.unlink()
    return result


def refused(command, capsys, *words):
    where = command.index("--preset")
    assert main(["evaluate", *command[:where], *command[where + 2 :], *map(str, words)]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_a_threat_model_from_a_file(command, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: quick\nepsilon: 4/255\nrho: 1e-1\nnum_steps: 9\nimage_attacks: fgsm\n")
    spec = measured(command, tmp_path, "--threat_model", file, "--attacks", "image")["attack_spec"]
    assert (spec["epsilon"], spec["rho"], spec["image_attacks"]) == (4 / 255, 0.1, ["fgsm"])
    assert spec["num_steps"] == 2, "an option changes single fields of the file"
    assert spec["text_attacks"] == ["words"], "the preset of the file gives the rest"
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text(json.dumps(spec))  # what a result recorded is a threat model too, and complete
    assert measured(command, tmp_path, "--threat-model", recorded, "--attacks", "image")["attack_spec"] == spec
    assert "`--preset` strong" in refused(command, capsys, "--threat_model", file, "--preset", "strong")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("epsilom: 4/255", "no field 'epsilom'; did you mean epsilon?"),
        ("preset: weak", "unknown preset 'weak'"),
        ("epsilon: 8", "Did you mean 8/255?"),
        ("num_steps: many", "`num_steps` must be a whole number"),
        ("- epsilon", "holds no fields"),
        ("epsilon: [", "is no YAML"),
    ],
)
def test_a_wrong_file_names_the_key_and_shows_an_example(command, tmp_path, capsys, content, text):
    (tmp_path / "mine.yaml").write_text(content)
    assert main(["evaluate", *command, "--threat_model", str(tmp_path / "mine.yaml")]) == 1
    error = capsys.readouterr().err
    assert "mine.yaml" in error and text in error and ("For example: {preset: " in error or "no YAML" in text)


def test_attacks_by_any_name_are_run_alone(command, tmp_path, capsys):
    result = measured(command, tmp_path, "--attack", "MI-FGSM", "pgd", "bert_attack", "--text_adversaries", "blind")
    assert set(result["outcomes"]) == {"clean", "image/mi-fgsm", "image/pgd-ce", "text/words/blind"}
    assert "Did you mean mi-fgsm" in refused(command, capsys, "--attack", "mi-fgms")
    assert "one of the two" in refused(command, capsys, "--attack", "fgsm", "--image_attacks", "pgd-ce")
    assert "one of the two" in refused(command, capsys, "--attack", "fgsm", "--attacks", "image")


def test_a_masked_lm_is_the_source_of_substitutes(command, tmp_path, capsys):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "dog", "car", "red", "small"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "bert/vocab.txt")).save_pretrained(tmp_path / "bert")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "bert")
    given = ["--masked_lm", tmp_path / "bert"]
    spec = measured(command, tmp_path, *given, "--attacks", "text")["attack_spec"]
    assert str(tmp_path / "bert") in spec["candidates"] and "MaskedLM" in spec["candidates"]
    both = measured(command, tmp_path, *given, "--candidates", "a=neighbours", "b=masked-lm", "--attacks", "text")
    assert "text_b_accuracy" in both
    assert "source masked-lm" in refused(command, capsys, *given, "--candidates", "neighbours")
    assert "two sources" in refused(command, capsys, *given, "--wordnet_root", tmp_path)


def test_wordnet_from_a_folder(command, tmp_path, capsys):
    error = refused(command, capsys, "--wordnet_root", tmp_path / "nowhere", "--attacks", "text")
    assert "nowhere" in error and "/usr/share/wordnet" in error


def test_templates_make_an_ensemble(command, tmp_path, capsys):
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}.\nthe small {}.\n")
    result = measured(command, tmp_path, "--templates", file, "--attacks", "clean")
    assert result["attack_spec"]["templates"] == ["a photo of a {}.", "the small {}."]
    direct = measured(command, tmp_path, "--templates", "a photo of a {}.", "the small {}.", "--attacks", "clean")
    assert direct["fingerprints"] == result["fingerprints"]
    single = measured(command, tmp_path, "--template", "a photo of a {}.", "--attacks", "clean")
    assert direct["fingerprints"]["data"] != single["fingerprints"]["data"]
    assert "no prompt ensemble" in refused(command, capsys, "--templates", "openai", "--attacks", "clean")
    assert "embeddings are of one text" in refused(command, capsys, "--templates", file)
    assert "class prompts" in refused(command, capsys, "--templates", file, "--task", "retrieval")
