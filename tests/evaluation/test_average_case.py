"""The accuracy under one legal text of the true class, drawn at random: by hand, in an evaluation, and in tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from result_dicts import make_result

from hf_mmcoa import ZeroShotClassifier, evaluate_robustness
from hf_mmcoa.attacks.prompt_pools import PromptPools
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.report.table import notes
from hf_mmcoa.substitutes.synonyms import SynonymTable

EMBEDS = {"one": [1.0, 0.0], "uno": [0.8, 0.6], "ace": [-0.6, 0.8], "two": [0.0, 1.0]}


def encode(texts: list[str]) -> torch.Tensor:
    return torch.tensor([EMBEDS[text] for text in texts])


def test_each_sample_has_the_share_of_its_class_s_substitutes_that_beat_the_clean_rivals():
    pools = PromptPools([["one", "uno", "ace"], ["two"]], encode)
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # "uno" 0.8 > 0 and "ace" -0.6 < 0; "uno" 0.96 > 0.8 and "ace" 0.28 < 0.8; a class without substitutes: its prompt
    assert pools.average_correct(images, labels).tolist() == [0.5, 0.5, 1.0, 0.0]


def test_an_evaluation_averages_over_images_and_words_whatever_the_batches(model, processor, dataset):
    spec = ThreatModel.preset("quick", text_adversaries=("own",), template="a photo of a {}")
    words = {"cat": ["feline", "kitty"], "dog": ["hound"], "car": ["wagon", "auto", "bus"]}

    def measure(adversaries=("own",), **options):
        return evaluate_robustness(
            model, processor, dataset, ["text"], threat_model=replace(spec, text_adversaries=adversaries),
            candidates=SynonymTable(words), sanity=False, progress=False, **options,
        )  # fmt: skip

    result = measure(batch_size=5)
    names = ("cat", "dog", "car")
    classifier = ZeroShotClassifier(model, processor, names, "a photo of a {}")
    right = []
    with torch.no_grad():
        images = torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in dataset["image"]])
        output = model.get_image_features(pixel_values=images)
        images = torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)
        for image, label in zip(images, dataset["label"], strict=True):
            told = []
            for word in words[names[label]]:
                prompts = [f"a photo of a {word if name == names[label] else name}" for name in names]
                told.append((classifier.encoder.encode_texts(prompts) @ image).argmax().item() == label)
            right.append(sum(told) / len(told))
    assert result["average_case"] == {"text/words": pytest.approx(sum(right) / len(right), abs=1e-6)}
    assert 0 < result["average_case"]["text/words"] < 1
    assert measure(batch_size=24)["average_case"] == {"text/words": pytest.approx(sum(right) / len(right), abs=1e-6)}
    assert "average_case" not in measure(("blind",))


def test_tables_say_it_of_every_attack_and_of_the_columns_that_have_it():
    before = make_result(text_unseen_accuracy=0.4, average_case={"text/words": 0.25, "text/words:unseen": 0.5})
    after = make_result(model="after", average_case={"text/words": 0.75, "text/words:unseen": 0.5})
    said = next(note for note in notes({"before": before, "after": [after, after]}) if "random" in note)
    assert "words (known) 25.0% (before), 75.0% (after)" in said
    assert not any("drawn at random" in note for note in notes({"one": make_result()}))
