"""The examples that hand a `ZeroShotClassifier` to other attack libraries, and their purpose: independent agreement."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa import ZeroShotClassifier
from hf_mmcoa.attacks import AutoAttack, StrongAttack
from hf_mmcoa.data.digits import CLASS_NAMES, load_digits
from hf_mmcoa.data.images import to_tensor
from hf_mmcoa.losses import zero_shot_logits
from hf_mmcoa.models.encoding import text_embeds
from hf_mmcoa.testbed.digits import vocabulary
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

LIBRARIES = {"foolbox": "foolbox", "ART": "art"}


def example(library: str) -> Callable[[list[str]], dict[str, float]]:
    pytest.importorskip(LIBRARIES[library])
    path = Path(__file__).parents[2] / "examples" / f"attack_with_{library.lower()}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module.main


def digits(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = load_digits(split)[:]
    return torch.stack([to_tensor(image) for image in rows["image"]]), torch.tensor(rows["label"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP fitted to the digits, without a defence: a few seconds."""
    images, labels = digits("train")
    model, processor = build_tiny_clip(vocabulary(), image_size=8, patch_size=2)
    classifier = ZeroShotClassifier(model, processor, CLASS_NAMES)
    input_ids = classifier.encoder.tokenize(classifier.prompts)["input_ids"]
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    for _ in range(200):
        rows = torch.randint(len(images), (128,), generator=draw)
        embeds = classifier.encoder.encode_images(images[rows])
        loss = F.cross_entropy(
            zero_shot_logits(embeds, text_embeds(model, input_ids), classifier.encoder.logit_scale), labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("digits_clip")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("library", LIBRARIES)
def test_example_runs(library: str, tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, tmp_path: Path) -> None:
    main = example(library)
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)

    accuracy = main([str(tmp_path), "--num_images", "4", "--num_steps", "2"])

    assert list(accuracy) == ["clean", library, "hf_mmcoa"]
    assert all(value in (0, 0.25, 0.5, 0.75, 1) for value in accuracy.values())


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "0.04"), ("l2", "0.4")])
@pytest.mark.parametrize("library", LIBRARIES)
def test_our_pgd_agrees_with_theirs_within_a_point(library: str, norm: str, epsilon: str, trained: Path) -> None:
    # ART's l2 start is uniform in volume, ours in radius (METHODS): there both start at the image.
    start = ["--no_random_start"] if (library, norm) == ("ART", "l2") else []
    accuracy = example(library)([str(trained), "--norm", norm, "--epsilon", epsilon, *start])

    assert accuracy["clean"] > 0.9
    assert 0.1 < accuracy["hf_mmcoa"] < 0.8, "an epsilon at which agreement says something"
    assert abs(accuracy["hf_mmcoa"] - accuracy[library]) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.04), ("l2", 0.4)])
def test_strong_leaves_at_most_a_point_more_than_autoattack(norm: str, epsilon: float, trained: Path) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = (part[::6] for part in digits("test"))  # 60: Square alone asks for 5,000 forwards
    classifier = ZeroShotClassifier.from_pretrained(trained, CLASS_NAMES)

    left = {
        type(attack).__name__: (classifier(attack(images, classifier, labels)).argmax(1) == labels)
        .float()
        .mean()
        .item()
        for attack in (StrongAttack(epsilon=epsilon, norm=norm, num_steps=50), AutoAttack(epsilon=epsilon, norm=norm))  # type: ignore[arg-type]
    }

    assert 0.1 < left["AutoAttack"] < 0.8
    assert left["StrongAttack"] <= left["AutoAttack"] + 0.01
