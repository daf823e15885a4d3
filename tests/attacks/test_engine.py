from __future__ import annotations

import pytest
import torch

from hf_mmcoa.attacks.class_prompts import FixedPrompts, correct
from hf_mmcoa.attacks.engine import LogitsAttack, LossAttack, TargetedAttack, attack_images
from hf_mmcoa.attacks.image_losses import class_loss
from hf_mmcoa.attacks.pgd import PGD

# One grey value decides: above 0.5 is class 1.
PROMPTS = FixedPrompts(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor(10.0))


class Encoder:
    """Images to (1 - mean, mean), and how many images each call saw."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(images))
        mean = images.mean((1, 2, 3))
        return torch.stack([1 - mean, mean], 1)


def attacked(values, num_steps=4, skip_fallen=True, judged=None, attack=None):
    encoder = Encoder()
    images = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    pgd = PGD(epsilon=0.2, step_size=0.05, num_steps=num_steps, random_start=False)
    result = attack_images(
        LossAttack(attack=attack or pgd, loss=class_loss),
        images,
        torch.zeros(len(values), dtype=torch.long),
        encode=encoder,
        attacked=PROMPTS,
        judged=judged or PROMPTS,
        generator=torch.Generator(),
        skip_fallen=skip_fallen,
    )
    return result, encoder


def test_a_fallen_sample_is_not_computed_again_and_stays_where_it_fell():
    # Steps of 0.05: 0.47 falls at 0.52, seen by the second call, 0.41 at 0.51 by the third; 0.2 reaches 0.4 and stands.
    result, encoder = attacked([0.47, 0.2, 0.41])
    assert encoder.calls == [3, 3, 2, 1, 3]
    assert result.stands.tolist() == [False, True, False]
    means = result.images.mean((1, 2, 3))
    assert torch.allclose(means, torch.tensor([0.52, 0.4, 0.51]), atol=1e-6)
    assert torch.allclose(result.embeds[:, 1], means, atol=1e-6)


def test_without_skipping_every_sample_goes_to_the_end():
    result, encoder = attacked([0.47, 0.2, 0.41], skip_fallen=False)
    assert encoder.calls == [3, 3, 3, 3, 3]
    assert torch.allclose(result.images.mean((1, 2, 3)), torch.tensor([0.67, 0.4, 0.61]), atol=1e-6)
    assert result.stands.tolist() == [False, True, False]


def test_when_all_have_fallen_the_encoder_rests():
    _, encoder = attacked([0.48, 0.49], num_steps=6)
    assert encoder.calls == [2, 2, 2]  # clean, first step, and the last look


def test_an_iterate_that_fools_the_model_counts_although_the_last_one_does_not():
    def there_and_back(images, loss_fn, generator=None):
        loss_fn(images + 0.2)
        return images

    result, _ = attacked([0.4], attack=there_and_back)
    assert not result.stands.item() and torch.allclose(result.images, torch.tensor(0.6))
    result, _ = attacked([0.4], attack=there_and_back, skip_fallen=False)
    assert result.stands.item()


def test_an_attacker_who_does_not_see_the_prompts_that_judge_goes_to_the_end():
    judged = FixedPrompts(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor(10.0))  # class 1 needs a mean above 2/3
    result, _ = attacked([0.48, 0.45], judged=judged)
    assert torch.allclose(result.images.mean((1, 2, 3)), torch.tensor([0.68, 0.65]), atol=1e-6)
    assert result.stands.tolist() == [False, True]


def test_logits_that_are_not_finite_classify_nothing():
    nan = float("nan")
    logits = torch.tensor([[1.0, 0.0], [nan, nan], [0.0, 1.0], [float("inf"), 0.0]])
    assert correct(logits, torch.tensor([0, 0, 0, 0])).tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", [LossAttack, LogitsAttack])
def test_an_attack_without_memory_is_halved_and_remembers_how_many_fit(kind):
    """Evaluation goes the way of training: the same result, and one warning."""
    encoder, limit = Encoder(), 4

    def encode(images):
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encoder(images)

    pgd = PGD(epsilon=0.2, step_size=0.05, num_steps=4, random_start=False)
    if kind is LossAttack:
        attack = LossAttack(attack=pgd, loss=class_loss)
    else:
        attack = LogitsAttack(attack=lambda images, logits_fn, labels, generator: pgd(
            images, lambda points: class_loss(logits_fn(points), labels), generator
        ))  # fmt: skip
    images = torch.linspace(0.2, 0.45, 6).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    labels = torch.zeros(6, dtype=torch.long)

    def find():
        def logits_fn(points, rows):
            return PROMPTS.logits(encode(points), labels[rows])

        return attack.find(images, labels, logits_fn, torch.Generator().manual_seed(0), False)[0]

    with pytest.warns(UserWarning, match="in evaluation a smaller `batch_size`") as warned:
        halved = find()
        again = find()
    limit = 6
    assert len(warned) == 1 and torch.equal(halved, again)
    encoder.calls.clear()
    assert torch.equal(find(), halved) and max(encoder.calls) == 3  # what memory allowed
    assert (halved - images).abs().amax() == pytest.approx(0.2, abs=1e-6)


# Three classes: at grey 0.5 class 0 is right; class 1 is the runner-up but falls back whichever way the grey goes;
# class 2 is far behind, and the way to it is open.


def two_ways(images, rows):
    x = images.mean((1, 2, 3))
    return torch.stack([0 * x, -0.5 - 10 * (x - 0.5).abs() - 1e-3 * (x - 0.5), 20 * (0.55 - x) - 3], 1)


def targeted(num_targets, stop=True, values=(0.5, 0.5), logits_fn=two_ways):
    images = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    pgd = PGD(epsilon=0.2, step_size=0.05, num_steps=4, random_start=False)
    attack = TargetedAttack(attack=pgd, num_targets=num_targets)
    labels = torch.zeros(len(values), dtype=torch.long)
    return attack.find(images, labels, logits_fn, torch.Generator().manual_seed(0), stop)


@pytest.mark.parametrize("stop", [True, False])
def test_targets_are_tried_in_turn_until_one_can_be_reached(stop):
    missed, _ = targeted(num_targets=1, stop=stop)
    found, active = targeted(num_targets=2, stop=stop)
    assert two_ways(missed, None).argmax(1).tolist() == [0, 0]
    assert two_ways(found, None).argmax(1).tolist() == [2, 2]
    assert active.tolist() == [not stop, not stop]


def test_a_sample_that_fell_to_one_target_is_not_attacked_on_the_next():
    seen = []

    def logits_fn(images, rows):
        seen.append(rows.tolist())
        x = images.mean((1, 2, 3))
        first = torch.where(rows == 0, 10 * (x - 0.55), -1 - 0 * x)  # only row 0 can be moved to its runner-up
        return torch.stack([0 * x, first, -2 + 0 * x], 1)

    adv_images, active = targeted(num_targets=9, logits_fn=logits_fn)  # more than there are wrong classes
    assert active.tolist() == [False, True]
    assert logits_fn(adv_images, torch.arange(2)).argmax(1).tolist() == [1, 0]
    assert [0, 1] in seen and seen[-2] == [1], "row 1 alone meets the second target"
