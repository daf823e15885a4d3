"""A gallery shows what the attacks did: inside the ball, in the prompt, in the predictions; and survives its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from squares import CLASS_NAMES, UNSEEN

from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.report.gallery import attack_gallery, gallery_path, load_gallery, save_gallery, word_differences

SPEC = ThreatModel(epsilon=0.2, num_steps=5, image_attacks=("pgd-ce",))


@pytest.fixture
def gallery(model, processor, dataset):
    return attack_gallery({"trained": (model, processor)}, dataset, SPEC, CLASS_NAMES, UNSEEN, num_samples=4)


def test_samples_are_drawn_by_the_seed_one_of_each_class_first(gallery, model, processor, dataset):
    assert {sample.label for sample in gallery.samples[:3]} == {0, 1, 2}
    assert [dataset[sample.row_id]["label"] for sample in gallery.samples] == [one.label for one in gallery.samples]
    again, other = (
        [
            one.row_id
            for one in attack_gallery(
                {"m": (model, processor)}, dataset, SPEC, num_samples=4, seed=seed, candidates=UNSEEN
            ).samples
        ]
        for seed in (0, 1)
    )
    assert again == [sample.row_id for sample in gallery.samples]
    assert other != again


def test_images_stay_in_the_ball_and_the_attack_succeeds(gallery, dataset):
    for sample in gallery.samples:
        view = sample.views["trained"]
        assert 0.1 < np.abs(view.perturbation).max() <= 0.2 + 1e-6
        attacked = sample.image + view.perturbation
        assert attacked.min() >= -1e-6 and attacked.max() <= 1 + 1e-6
        assert view.predictions["image"].label != sample.label
        assert np.allclose(
            sample.image, np.asarray(dataset[sample.row_id]["image"]).transpose(2, 0, 1) / 255, atol=1e-6
        )
    assert gallery.amplification == pytest.approx(0.5 / 0.2, rel=1e-4)


def test_prompts_before_and_after(gallery):
    words = dict(UNSEEN.table)
    for sample in gallery.samples:
        view, name = sample.views["trained"], CLASS_NAMES[sample.label]
        assert view.prompt == f"This is a photo of a {name}"
        assert view.adv_prompt == f"This is a photo of a {words[name][0]}"


def test_predictions_are_the_models_own(gallery, model, processor):
    from hf_mmcoa.zero_shot import ZeroShotClassifier

    classifier = ZeroShotClassifier(model, processor, CLASS_NAMES)
    sample = gallery.samples[0]
    images = torch.stack(
        [torch.from_numpy(sample.image), torch.from_numpy(sample.image + sample.views["trained"].perturbation)]
    )
    with torch.no_grad():
        probabilities = classifier(images.clamp(0, 1)).softmax(-1)
    for row, threat in enumerate(("clean", "image")):
        found = sample.views["trained"].predictions[threat]
        assert found.label == int(probabilities[row].argmax())
        assert found.probability == pytest.approx(float(probabilities[row].max()), abs=1e-3)


def test_models_are_left_as_they_were(model, processor, dataset):
    model.train()
    attack_gallery({"m": (model, processor)}, dataset, SPEC, candidates=UNSEEN, num_samples=1)
    assert model.training and all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.slow
def test_characters_when_there_are_no_words(model, processor, dataset):
    spec = ThreatModel(epsilon=0.1, num_steps=1, text_attacks=("characters",))
    view = attack_gallery({"m": (model, processor)}, dataset, spec, num_samples=1).samples[0].views["m"]
    assert view.adv_prompt != view.prompt and abs(len(view.adv_prompt) - len(view.prompt)) <= 1


def test_bad_input(model, processor, dataset):
    with pytest.raises(ValueError, match="models"):
        attack_gallery({}, dataset, SPEC)
    with pytest.raises(ValueError, match="num_samples"):
        attack_gallery({"m": (model, processor)}, dataset, SPEC, num_samples=0)


def test_a_file_holds_everything(gallery, tmp_path):
    path = gallery_path(tmp_path / "robustness.json")
    assert path.name == "robustness.gallery.json"
    save_gallery(gallery, path)
    found = load_gallery(path)
    assert found.class_names == gallery.class_names and found.attack_spec == gallery.attack_spec and found.seed == 0
    for one, other in zip(gallery.samples, found.samples, strict=True):
        a, b = one.views["trained"], other.views["trained"]
        assert np.allclose(one.image, other.image, atol=0.5 / 255 + 1e-6)
        assert np.allclose(a.perturbation, b.perturbation, atol=0.2 / 127)
        assert (a.prompt, a.adv_prompt, dict(a.predictions)) == (b.prompt, b.adv_prompt, dict(b.predictions))


def test_no_change_is_stored_as_exactly_none(gallery, tmp_path):
    from dataclasses import replace

    sample = gallery.samples[0]
    still = replace(sample.views["trained"], perturbation=np.zeros_like(sample.image))
    save_gallery(replace(gallery, samples=[replace(sample, views={"m": still})]), tmp_path / "g.json")
    found = load_gallery(tmp_path / "g.json")
    assert not found.samples[0].views["m"].perturbation.any()
    assert found.amplification == 1


def test_a_damaged_file_is_refused(gallery, tmp_path):
    path = tmp_path / "g.json"
    save_gallery(gallery, path)
    whole = path.read_text()
    stored = json.loads(whole)

    def broken(change):
        copy = json.loads(whole)
        change(copy["samples"][0])
        return json.dumps(copy)

    for text in (
        whole[: len(whole) // 2],
        "{}",
        json.dumps({**stored, "samples": []}),
        broken(lambda sample: sample.update(label=7)),
        broken(lambda sample: sample.update(image="../../etc/passwd")),
        broken(lambda sample: sample["views"]["trained"]["predictions"].pop("text")),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"g\.json is no gallery"):
            load_gallery(path)


def test_word_differences_of_insertions_and_equal_texts():
    assert word_differences("a dog", "a dog") == [("same", "a dog")]
    assert word_differences("a dog", "a big dog") == [("same", "a "), ("new", "big "), ("same", "dog")]
    assert word_differences("cat", "dog") == [("old", "cat"), ("new", "dog")]
