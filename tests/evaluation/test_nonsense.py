"""Nonsense words in prompts: which they are, how wins are counted, and that an evaluation counts and shows them."""

from __future__ import annotations

import pytest
import torch
from result_dicts import make_result

from hf_mmcoa import ZeroShotClassifier, evaluate_robustness
from hf_mmcoa.evaluation.nonsense import NUM_WORDS, beaten, nonsense_words
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.report.table import markdown_table, notes, robustness_table
from hf_mmcoa.substitutes.english import is_english
from hf_mmcoa.substitutes.synonyms import SynonymTable


def test_nonsense_words_are_distinct_no_english_and_always_the_same():
    words = nonsense_words()
    assert len(words) == len(set(words)) == NUM_WORDS and words == nonsense_words()
    assert words[:2] == nonsense_words(2) == ["wiap", "phbuol"]
    assert all(word.isalpha() and 4 <= len(word) <= 8 and not is_english(word) for word in words)


def test_a_text_that_every_image_is_near_to_wins_and_one_that_none_is_near_to_does_not():
    images = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0]])  # nearest to their classes by 0.8
    classes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    joker = torch.tensor([0.7071, 0.7071, 0.0])  # 0.99 to both
    stranger, skewed = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.98, 0.199, 0.0])  # 0.90 and 0.75
    assert beaten(images, classes, stranger[None]) == (0, 0)
    assert beaten(images, classes, torch.stack([joker, stranger])) == (2, 2)
    assert beaten(images, classes, torch.stack([joker, skewed, stranger])) == (3, 2)


def test_an_evaluation_counts_them_over_all_images_in_any_batches(model, processor, dataset):
    spec = ThreatModel.preset("quick", text_adversaries=("own",), template="a photo of a {}")
    table = SynonymTable({"cat": ["feline"], "dog": ["hound"], "car": ["wagon"]})

    def measure(**options):
        return evaluate_robustness(
            model, processor, dataset, options.pop("attacks", ["text"]), threat_model=spec, candidates=table,
            sanity=False, progress=False, **options,
        )  # fmt: skip

    result = measure(batch_size=5)
    classifier = ZeroShotClassifier(model, processor, ("cat", "dog", "car"), "a photo of a {}")
    with torch.no_grad():
        batch = [processor(images=image, return_tensors="pt")["pixel_values"] for image in dataset["image"]]
        output = model.get_image_features(pixel_values=torch.cat(batch))
        images = torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)
        nonsense = classifier.encoder.encode_texts([f"a photo of a {word}" for word in nonsense_words()])
        wins = images @ nonsense.T > (images @ classifier.prompt_embeds.T).max(1, keepdim=True).values
    assert result["nonsense_pairs"] == pytest.approx(wins.float().mean().item(), abs=1e-3)
    assert result["nonsense_images"] == pytest.approx(wins.any(1).float().mean().item(), abs=1e-6)
    assert measure(batch_size=24)["nonsense_images"] == result["nonsense_images"]
    assert "nonsense_images" not in measure(attacks=["image"])


def test_tables_say_it_of_every_column_that_counted_it():
    before, after = make_result(nonsense_images=0.0375), make_result(model="after", nonsense_images=0.603)
    shown = robustness_table({"before": before, "after": after})
    assert "beats every class on 3.8% (before), 60.3% (after) of the images" in shown
    assert "(b\\*d)" in markdown_table({"b*d": before, "after": [after, after]})
    assert not any("nonsense" in note for note in notes({"one": make_result()}))
    assert notes({"one": before})[-1].endswith("beats every class on 3.8% of the images")
