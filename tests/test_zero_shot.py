"""The classifier that other libraries attack."""

from __future__ import annotations

import pytest
import torch

from hf_mmcoa.zero_shot import ZeroShotClassifier


@pytest.fixture
def classifier(tiny_clip, tiny_processor):
    return ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog", "red_car"])


def test_logits_equal_transformers_own(classifier, tiny_processor, images):
    tokens = tiny_processor.tokenizer(classifier.prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = classifier.model(pixel_values=classifier.encoder.pixel_values(images), **tokens)
        assert torch.allclose(classifier(images), output.logits_per_image, atol=1e-4)
    assert classifier.prompts[2] == "This is a photo of a red car"


def test_prompts_are_encoded_once_until_a_weight_changes(classifier, images):
    calls = []
    handle = classifier.model.text_model.register_forward_hook(lambda *_: calls.append(1))
    classifier(images), classifier(images)
    assert len(calls) == 1
    before = classifier.prompt_embeds
    optimizer = torch.optim.SGD(classifier.model.parameters(), lr=0.1)
    logits = classifier.model(
        pixel_values=classifier.encoder.pixel_values(images), **classifier.encoder.tokenize(classifier.prompts)
    ).logits_per_image
    logits.square().sum().backward()
    optimizer.step()
    assert not torch.allclose(classifier.prompt_embeds, before)
    handle.remove()


def test_a_first_call_in_inference_mode_or_autocast_leaves_nothing_behind(classifier, images):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        classifier(images)
    classifier(images.requires_grad_()).sum().backward()
    assert images.grad.abs().sum() > 0 and classifier.prompt_embeds.dtype == torch.float32
    fresh = ZeroShotClassifier(classifier.model, classifier.encoder.processor, classifier.class_names)
    assert torch.equal(classifier.prompt_embeds, fresh.prompt_embeds)


def test_several_templates_are_averaged_in_embedding_space(tiny_clip, tiny_processor):
    templates = ["This is a photo of a {}", "a picture of the {}"]
    both = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"], templates)
    single = [ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"], one).prompt_embeds for one in templates]
    assert torch.allclose(both.prompt_embeds, torch.nn.functional.normalize(sum(single), dim=-1), atol=1e-6)


def test_images_of_any_size(classifier):
    assert classifier(torch.rand(2, 3, 50, 40)).shape == (2, 3)


def test_one_class_is_refused(tiny_clip, tiny_processor):
    with pytest.raises(ValueError, match="at least two classes"):
        ZeroShotClassifier(tiny_clip, tiny_processor, ["cat"])


def test_pixels_outside_the_range_are_refused(classifier):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        classifier(torch.rand(1, 3, 32, 32) * 255)


def test_from_pretrained(tiny_clip, tiny_processor, tmp_path, images):
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    loaded = ZeroShotClassifier.from_pretrained(tmp_path, ["cat", "dog"])
    own = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"])
    with torch.no_grad():
        assert torch.allclose(loaded(images), own(images), atol=1e-4)
