"""`attack_schedule="shared"`: the step is N-FGSM's, the loss is the objective's, and nothing is encoded twice."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from test_trainer import batch_of, make, snapshot  # noqa: F401  # a fixture

from hf_mmcoa.attacks import PGD
from hf_mmcoa.losses import contrastive_loss
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.training.shared_step import NOISE

SHARED = {"attack_schedule": "shared", "epsilon": "8/255"}
EPSILON = 8 / 255


def gradients(trainer, inputs=None):
    """What a step leaves on the weights, by name, and its loss."""
    loss = trainer.compute_loss(trainer.model, batch_of(trainer) if inputs is None else inputs)
    loss.backward()
    found = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    return found, loss.item()


def close(one, other, tolerance=1e-4):
    assert one.keys() == other.keys()
    largest = max(gradient.norm() for gradient in one.values())
    for name in one:  # a key's bias cancels in the softmax: its gradient is rounding
        assert (one[name] - other[name]).norm() <= tolerance * one[name].norm() + 1e-7 * largest, name


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_the_step_and_the_loss_are_those_of_separate_forwards(make, norm, random_start):  # noqa: F811
    """The equation: start = x + noise, adversarial = start + epsilon sign grad CE(start), each encoded anew."""
    trainer = make(**SHARED, norm=norm, random_start=random_start)
    twin = copy.deepcopy(trainer.model)
    inputs = batch_of(trainer)
    found, loss = gradients(trainer, inputs)

    encoder, images, labels = DualEncoder(twin, trainer.processing_class), inputs["images"], inputs["labels"]
    noise = PGD(epsilon=NOISE * EPSILON, step_size=0, num_steps=0, norm=norm)
    start = noise(images, lambda x: x.sum((1, 2, 3)), trainer.attacker.generator("images")) if random_start else images
    assert torch.equal(start, images) != random_start
    prompts = encoder.encode_texts(trainer.prompts).detach()
    point = start.clone().requires_grad_()
    cross_entropy = F.cross_entropy(encoder.logit_scale * encoder.encode_images(point) @ prompts.T, labels)
    (grad,) = torch.autograd.grad(cross_entropy, point)
    change = grad.sign() if norm == "linf" else grad / grad.norm(dim=(1, 2, 3), p=2, keepdim=True)
    adv_images = (start + EPSILON * change).clamp(0, 1)
    texts = [trainer.prompts[label] for label in labels.tolist()]
    adv_texts = trainer.attacker.word_attack(texts, encoder.encode_texts)
    scale = encoder.logit_scale
    expected = 0.5 * contrastive_loss(encoder.encode_images(adv_images), encoder.encode_texts(texts), scale, None)
    expected = expected + 0.5 * contrastive_loss(
        encoder.encode_images(start), encoder.encode_texts(adv_texts), scale, None
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    close({name: weight.grad for name, weight in twin.named_parameters()}, found)


@pytest.mark.parametrize(("schedule", "rows"), [("shared", [6, 6]), ("fast", [6, 6, 6, 12])])
def test_images_are_encoded_twice_and_the_attack_encodes_none(make, schedule, rows):  # noqa: F811
    trainer, seen = make(attack_schedule=schedule, epsilon="8/255"), []
    trainer.model.vision_model.embeddings.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    gradients(trainer)
    assert seen == rows


def test_the_images_stay_within_the_ball_with_its_noise(make):  # noqa: F811
    trainer = make(**SHARED, lambda_image=1.0)
    batch = trainer._read(batch_of(trainer))
    adversarial = trainer.attacker.attack(batch)
    assert adversarial.finished().images is adversarial.step.start
    gradients(trainer)
    trainer.log({"loss": 0.0})
    largest = trainer.state.log_history[-1]["image_perturbation"]
    assert EPSILON < largest <= (1 + NOISE) * EPSILON + 1e-6


def test_the_noise_is_a_function_of_the_step_alone(make):  # noqa: F811
    one, other = make(**SHARED), make(**SHARED, model=None)
    batch = one._read(batch_of(one))
    first = one.attacker.shared_step(batch).start
    other._read(batch_of(other))
    assert torch.equal(first, other.attacker.shared_step(batch).start)
    one.attacker.step += 1
    assert not torch.equal(first, one.attacker.shared_step(batch).start)
    assert (first - batch.images).abs().max() <= NOISE * EPSILON + 1e-6


def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(make, tiny_clip, tmp_path):  # noqa: F811
    start = copy.deepcopy(tiny_clip)
    settings = {**SHARED, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    (whole := make(**settings)).train()
    resumed = make(**settings, model=start)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    expected = snapshot(whole.model)
    assert all(torch.equal(expected[name], weight) for name, weight in snapshot(resumed.model).items())


def test_in_pieces_it_is_the_same_step(make):  # noqa: F811
    whole = make(**SHARED)
    pieces = make(**SHARED, model=copy.deepcopy(whole.model), encode_batch_size=4)
    (one, loss), (other, again) = gradients(whole), gradients(pieces)
    assert loss == pytest.approx(again, rel=1e-5)
    close(one, other)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "settings",
    [
        {"lora": "both", "lora_rank": 2},
        {"train_text_encoder": False},
        {"train_image_encoder": False},
        {"targets": "class", "text_adversary": "all", "text_attack": "words"},
        {"lambda_clean": 0.3, "lambda_class": 0.3, "text_attack": "words+embedding"},
        {"gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"objective": "tga-zsr"},
        {"objective": "pmg-aft"},
        {"objective": "saft", "captions_per_image": 2},
        {"objective": "advflyp"},
    ],
    ids=str,
)
def test_it_trains_whatever_encodes_clean_images(make, settings):  # noqa: F811
    trainer = make(**SHARED, **settings)
    before = snapshot(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], weight) for name, weight in snapshot(trainer.model).items())
    assert trainer.state.log_history[0]["image_perturbation"] > EPSILON
    assert "image_attack_success" in trainer.state.log_history[0]


def test_a_siglip_takes_it(make, tiny_siglip, tiny_siglip_processor):  # noqa: F811
    trainer = make(
        {"processing_class": tiny_siglip_processor, "text_attack": None, "candidates": None},
        model=tiny_siglip,
        **SHARED,
        candidates="hotflip",
    )
    trainer.train()
    assert trainer.state.log_history[0]["image_perturbation"] > EPSILON


def test_nothing_is_left_on_the_model(make):  # noqa: F811
    trainer = make(**SHARED)
    gradients(trainer)
    assert "forward" not in vars(trainer.model.vision_model)


def test_a_step_that_became_too_weak_becomes_pgd(make):  # noqa: F811
    trainer = make(**SHARED, attack_check_every=1, max_steps=1)
    trainer.attacker.step_factor = 2
    trainer.attacker.start()
    attack = trainer.attacker.image_attack
    assert not trainer.attacker.shares_forward
    assert (attack.num_steps, attack.step_size) == (2, pytest.approx(1.25 * EPSILON))
    images = trainer.attacker.attack(trainer._read(batch_of(trainer))).images
    assert images is not None


@pytest.mark.parametrize(
    ("settings", "trainer", "said"),
    [
        ({"objective": "tecoa"}, {}, "`objective=tecoa`, whose loss encodes no clean images"),
        ({"objective": "mat+", "captions_per_image": 2}, {}, "`objective=mat.`, whose loss encodes no clean images"),
        ({"objective": "fare", "clean_weight": 0.5}, {}, "`objective=fare`, whose image attack is not on the image's"),
        ({"accumulate_attack_gradients": True}, {}, "whose loss reads the points at which"),
        ({"torch_compile": True}, {}, "`torch_compile`: a compiled model"),
        ({}, {"image_attack": PGD(epsilon=0.1, step_size=0.1, num_steps=1)}, "`image_attack=PGD`, which takes steps"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused_with_the_way_out(make, settings, trainer, said):  # noqa: F811
    with pytest.raises(ValueError, match=f"`attack_schedule=shared` does not go with .*{said}.*fast"):
        make(trainer, **SHARED, **settings)


def test_a_schedule_changed_after_construction_is_checked_and_followed(make):  # noqa: F811
    trainer = make(objective="tecoa", epsilon="8/255")
    trainer.args.attack_schedule = "shared"
    with pytest.raises(ValueError, match="the objective TeCoA, whose loss encodes no clean images"):
        trainer.train()
    trainer = make(epsilon="8/255")
    trainer.args.attack_schedule = "shared"
    trainer.train()
    assert trainer.state.log_history[0]["image_perturbation"] > EPSILON
