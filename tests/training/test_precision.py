"""Checkpoints in 16 bits are trained, saved and measured in 32; one process trains on one device."""

from __future__ import annotations

import copy

import pytest
import torch
from test_trainer import NAMES, make, picture_rows  # noqa: F401  (a fixture)
from transformers import CLIPModel

from hf_mmcoa import MMCoAConfig, ZeroShotClassifier
from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.evaluation.provenance import model_fingerprint
from hf_mmcoa.hub.model_folder import read_checkpoint
from hf_mmcoa.models.encoder import load_clip

HALVES = [torch.bfloat16, torch.float16]


def moved(before, after):
    """Share of the weights of the blocks that a training moved."""
    pairs = [
        (before[name].float(), after[name].float()) for name in before if "layers" in name and "k_proj.b" not in name
    ]
    return sum((a != b).sum().item() for a, b in pairs) / sum(a.numel() for a, _ in pairs)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_16_bit_weights_are_trained_and_saved_in_32(make, tiny_clip, tmp_path, caplog, dtype):  # noqa: F811
    model = tiny_clip.to(dtype)
    before = copy.deepcopy(model.state_dict())
    trainer = make(model=model, learning_rate=1e-6)
    trainer.train()
    assert "are trained, attacked and saved as float32" in caplog.text
    assert moved(before, trainer.model.state_dict()) > 0.99
    trainer.save_model(str(tmp_path / "saved"))
    saved = CLIPModel.from_pretrained(tmp_path / "saved")
    assert saved.dtype == torch.float32 and saved.config.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), trainer.model.parameters(), strict=True))


def test_32_bit_weights_are_left_alone(make, tiny_clip, caplog):  # noqa: F811
    make(model=tiny_clip.double())
    assert tiny_clip.dtype == torch.float64 and not caplog.text


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "settings",
    [
        {"lora": "image", "lora_rank": 4},
        {"train_text_encoder": False},
        {"objective": "fare", "trainer": {"text_attack": None}},
        {"last_blocks": 1},
        {"bf16": True},
    ],
    ids=str,
)
def test_every_way_of_training_moves_small_steps(make, tiny_clip, settings):  # noqa: F811
    trainer = make(model=tiny_clip.bfloat16(), learning_rate=1e-6, **settings)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
    # The first half of an adapter has no gradient while the second is zero.
    still = [
        name for name in trained if "lora_A" not in name and torch.equal(before[name], trainer.model.state_dict()[name])
    ]
    assert [name for name in still if "k_proj.bias" not in name and "position" not in name] == []


def test_a_16_bit_model_of_model_init_and_a_16_bit_teacher(make, tiny_clip, tiny_processor, tmp_path):  # noqa: F811
    teacher = copy.deepcopy(tiny_clip).half()
    trainer = make(
        trainer={"teacher": teacher, "text_attack": None}, model=copy.deepcopy(tiny_clip).bfloat16(), objective="fare"
    )
    assert {weight.dtype for weight in trainer.teacher.encoder.model.parameters()} == {torch.float32}
    assert teacher.dtype == torch.float16  # the user's own is not changed
    from hf_mmcoa import MMCoATrainer

    trainer = MMCoATrainer(
        args=trainer.args,
        train_dataset=picture_rows(),
        processing_class=tiny_processor,
        model_init=lambda: copy.deepcopy(tiny_clip).bfloat16(),
    )
    trainer.train()
    assert trainer.model.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_16_bit_folder_is_loaded_in_32(tiny_clip, tiny_processor, tmp_path, caplog, dtype):
    tiny_clip.to(dtype).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    model, _ = load_clip(tmp_path)
    assert model.dtype == torch.float32 and f"is stored as {dtype}" in caplog.text
    # What was measured is recognised as the checkpoint's own by its card.
    assert model_fingerprint(model) in read_checkpoint(tmp_path).fingerprints()
    assert ZeroShotClassifier.from_pretrained(tmp_path, NAMES).model.dtype == torch.float32


def test_a_16_bit_model_is_measured_as_its_float32_copy(tiny_clip, tiny_processor, caplog):
    threat = ThreatModel(image_attacks=("pgd-ce",), text_attacks=("characters",), num_steps=2, epsilon="4/255")
    half = copy.deepcopy(tiny_clip).bfloat16()
    given = {"dataset": picture_rows(6), "threat_model": threat, "attacks": ("image",), "sanity": False}
    results = [evaluate_robustness(model, tiny_processor, **given) for model in (half, copy.deepcopy(half).float())]
    assert results[0]["outcomes"] == results[1]["outcomes"] and results[0]["fingerprints"] == results[1]["fingerprints"]
    assert "a float32 copy of it is attacked" in caplog.text and half.dtype == torch.bfloat16


def test_a_classifier_keeps_the_gradient_of_a_16_bit_model(tiny_clip, tiny_processor, images, caplog):
    half = tiny_clip.bfloat16()
    classifier = ZeroShotClassifier(half, tiny_processor, NAMES)
    assert "a float32 copy" in caplog.text and half.dtype == torch.bfloat16
    exact = ZeroShotClassifier(copy.deepcopy(half).float(), tiny_processor, NAMES)
    images.requires_grad_()
    (one,) = torch.autograd.grad(classifier(images)[:, 0].sum(), images)
    (other,) = torch.autograd.grad(exact(images)[:, 0].sum(), images)
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["bf16_full_eval", "fp16_full_eval"])
def test_an_evaluation_in_16_bits_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` is not supported.*16 bits.*`{name[:4]}=True`"):
        MMCoAConfig(output_dir="out", **{name: True})


def test_one_process_trains_on_one_of_several_devices(make, monkeypatch):  # noqa: F811
    monkeypatch.setattr(MMCoAConfig, "n_gpu", property(lambda self: self.__dict__.get("_n_gpu", 0)))
    monkeypatch.setattr(MMCoAConfig, "__post_init__", _seeing_two_devices(MMCoAConfig.__post_init__))
    with pytest.warns(UserWarning, match=r"2 devices are visible.*accelerate launch --num_processes 2"):
        trainer = make()
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 6
    assert not isinstance(trainer._wrap_model(trainer.model), torch.nn.DataParallel)
    trainer.train()


def _seeing_two_devices(post_init):
    def wrapped(self):
        post_init(self)
        self._n_gpu = 2

    return wrapped
