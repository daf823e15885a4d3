"""The embedding attack that sees the image: its ball, its strength, and a curve that cannot rise."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import TextEmbeddingPGD
from hf_mmcoa.attacks.image_text_embedding import ImageTextPGD, nearest_class_distances, radius_shares
from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder

PROMPTS = ["This is a photo of a cat", "This is a photo of a dog", "a picture of a red car"]
LABELS = torch.arange(30) % 3
RADII = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


@pytest.fixture
def encoder(tiny_clip: CLIPModel, tiny_processor: CLIPProcessor) -> DualEncoder:
    return DualEncoder(tiny_clip, tiny_processor)


@pytest.fixture
def images(encoder: DualEncoder) -> torch.Tensor:
    """Unit embeddings near the class prompts', without what all prompts share, (30, 32)."""
    with torch.no_grad():
        clean = encoder.encode_texts(PROMPTS)
    noise = torch.randn(30, clean.shape[1], generator=torch.Generator().manual_seed(0))
    centred = torch.nn.functional.normalize(clean - clean.mean(0), dim=1)
    return torch.nn.functional.normalize(centred[LABELS] + 0.15 * noise, dim=1)


def clean_margins(encoder: DualEncoder, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scores = images @ encoder.encode_texts(PROMPTS).T
    own = scores[torch.arange(30), LABELS]
    return scores.scatter(1, LABELS[:, None], float("-inf")).amax(1) - own


def test_the_curve_starts_clean_and_falls_without_ever_rising(encoder: DualEncoder, images: torch.Tensor) -> None:
    curve = ImageTextPGD(num_steps=5).radius_curve(encoder, PROMPTS, images, LABELS, RADII)
    clean = clean_margins(encoder, images)
    torch.testing.assert_close(curve.margins[0], clean)
    assert curve.accuracies[0] == float((clean < 0).double().mean()) > 0.7
    assert all(low >= high for low, high in zip(curve.accuracies, curve.accuracies[1:], strict=False))
    assert (curve.margins[1:] >= curve.margins[:-1]).all()
    assert not (curve.robust[1:] & ~curve.robust[:-1]).any()
    assert curve.accuracies[0] > curve.accuracies[2] > curve.accuracies[-1] == 0


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"num_steps": 1, "step_size": 3.0, "restarts": 0}])
def test_the_curve_cannot_rise_with_the_weakest_attack_either(
    encoder: DualEncoder, images: torch.Tensor, settings: dict
) -> None:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        attack = ImageTextPGD(batch_size=7, **settings)
        curve = attack.radius_curve(encoder, PROMPTS, images, LABELS, RADII, generator)
        assert (curve.margins[1:] >= curve.margins[:-1]).all()


def test_the_points_lie_in_the_ball_and_only_words_move(
    encoder: DualEncoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, text_embeds = [], encoding.text_embeds

    def spy(model, input_ids, attention_mask=None, inputs_embeds=None):
        if inputs_embeds is not None:
            delta = (inputs_embeds - encoding.token_embeddings(model, input_ids)).detach()
            seen.append((delta.norm(dim=-1), encoding.word_positions(model, input_ids, attention_mask)))
        return text_embeds(model, input_ids, attention_mask, inputs_embeds)

    monkeypatch.setattr(encoding, "text_embeds", spy)
    curve = ImageTextPGD(num_steps=6).radius_curve(encoder, PROMPTS, images, LABELS, [0.1])
    radius = 0.1 * encoding.token_table(encoder.model).norm(dim=-1).mean()
    assert len(seen) == 3 * 7  # three starts of six steps and a last look
    for length, words in seen:
        assert (length[~words] == 0).all() and (length[words] <= radius * (1 + 1e-4)).all()
    assert max(float(length.max()) for length, _ in seen) > 0.99 * radius
    assert curve.lengths.shape == (1, len(LABELS)) and 0.09 < float(curve.lengths.max()) <= 0.1 * (1 + 1e-4)


def test_lengths_are_those_of_the_worst_points(encoder: DualEncoder, images: torch.Tensor) -> None:
    curve = ImageTextPGD(num_steps=3, batch_size=4).radius_curve(encoder, PROMPTS, images, LABELS, [0.0, 0.05, 0.1])
    assert (curve.lengths[0] == 0).all() and (curve.lengths.amax(1) <= torch.tensor([0, 0.05, 0.1]) * (1 + 1e-4)).all()
    assert (curve.lengths[2] > 0.06).any()


def test_margins_are_the_worst_of_all_forwards(
    encoder: DualEncoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, text_embeds = [], encoding.text_embeds

    def spy(model, input_ids, attention_mask=None, inputs_embeds=None):
        texts = text_embeds(model, input_ids, attention_mask, inputs_embeds)
        if inputs_embeds is not None:
            seen.append(texts.detach())
        return texts

    monkeypatch.setattr(encoding, "text_embeds", spy)
    clean = clean_margins(encoder, images)
    rows = (clean < -0.05).nonzero().squeeze(1)  # none falls at this radius, so every forward holds them all
    curve = ImageTextPGD(num_steps=3).radius_curve(encoder, PROMPTS, images[rows], LABELS[rows], [0.001])
    assert curve.robust.all() and len(rows) > 20 and len(seen) == 3 * 4
    images, clean, labels = images[rows], clean[rows], LABELS[rows]
    with torch.no_grad():
        own = (images * encoder.encode_texts(PROMPTS)[labels]).sum(1)
    worst = torch.stack([clean + own - (images * texts).sum(1) for texts in seen]).amax(0)
    torch.testing.assert_close(curve.margins[0], worst, atol=1e-6, rtol=0)
    assert (worst > clean + 1e-5).all()
    assert ((images * seen[1]).sum(1) < (images * seen[0]).sum(1)).all()  # the first step goes the right way


def test_a_smaller_balls_solution_is_a_start_in_the_larger_one(encoder: DualEncoder, images: torch.Tensor) -> None:
    attack = ImageTextPGD(num_steps=1, step_size=0.3, restarts=0)
    walked = attack.radius_curve(encoder, PROMPTS, images, LABELS, [0.002, 0.003, 0.004, 0.005]).margins[-1]
    direct = attack.radius_curve(encoder, PROMPTS, images, LABELS, [0.005]).margins[-1]
    standing = walked < 0
    assert standing.sum() > 20 and (walked > direct + 1e-5)[standing].all()


def test_margins_do_not_depend_on_batches_or_order(encoder: DualEncoder, images: torch.Tensor) -> None:
    attack = ImageTextPGD(num_steps=4, restarts=0)  # nothing random
    whole = attack.radius_curve(encoder, PROMPTS, images, LABELS, [0.1, 0.3])
    parts = ImageTextPGD(num_steps=4, restarts=0, batch_size=4).radius_curve(
        encoder, PROMPTS, images, LABELS, [0.1, 0.3]
    )
    torch.testing.assert_close(whole.margins, parts.margins, atol=1e-5, rtol=0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    permuted = attack.radius_curve(encoder, PROMPTS, images[order], LABELS[order], [0.1, 0.3])
    torch.testing.assert_close(whole.margins[:, order], permuted.margins, atol=1e-5, rtol=0)


def test_it_is_stronger_than_noise_and_than_the_attack_without_images(
    encoder: DualEncoder, images: torch.Tensor
) -> None:
    radius, seed = 0.1, torch.Generator().manual_seed(0)
    (aware,) = ImageTextPGD(num_steps=10).radius_curve(encoder, PROMPTS, images, LABELS, [radius]).robust
    (noise,) = ImageTextPGD(num_steps=0, restarts=20).radius_curve(encoder, PROMPTS, images, LABELS, [radius]).robust
    tokens = encoder.tokenize(PROMPTS)
    with torch.no_grad():
        clean = encoder.encode_texts(PROMPTS)
        moved = TextEmbeddingPGD(rho=radius)(
            encoder.model, **tokens, loss_fn=lambda embeds: -(embeds * clean).sum(-1), generator=seed
        )
        attacked = encoding.text_embeds(encoder.model, **tokens, inputs_embeds=moved)
        own = (images * attacked[LABELS]).sum(-1)
        others = (images @ clean.T).scatter(1, LABELS[:, None], float("-inf")).amax(1)
    blind = own > others
    assert aware.sum() < noise.sum() and aware.sum() < blind.sum()


def test_misclassified_samples_are_left_alone(
    encoder: DualEncoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, text_embeds = [], encoding.text_embeds

    def spy(model, input_ids, attention_mask=None, inputs_embeds=None):
        if inputs_embeds is not None:
            rows.append(len(input_ids))
        return text_embeds(model, input_ids, attention_mask, inputs_embeds)

    monkeypatch.setattr(encoding, "text_embeds", spy)
    labels = (LABELS + (torch.arange(30) < 5)) % 3  # the first five are misclassified from the start
    curve = ImageTextPGD(num_steps=20, restarts=1, step_size=0.125).radius_curve(
        encoder, PROMPTS, images, labels, [0.0, 0.8]
    )
    assert curve.accuracies == (25 / 30, 0.0)
    assert rows == sorted(rows, reverse=True) and rows[0] == 25 > rows[-1] and len(rows) < 20


def test_the_model_is_left_as_it_was_and_seeds_decide(encoder: DualEncoder, images: torch.Tensor) -> None:
    attack, state = ImageTextPGD(num_steps=2), torch.get_rng_state()
    one, two = (attack.radius_curve(encoder, PROMPTS, images, LABELS, [0.05]).margins for _ in range(2))
    with torch.no_grad():
        three = attack.radius_curve(encoder, PROMPTS, images, LABELS, [0.05]).margins
    assert torch.equal(one, two) and torch.equal(one, three) and not one.requires_grad
    assert all(weight.grad is None for weight in encoder.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_broken_image_is_misclassified(encoder: DualEncoder, images: torch.Tensor) -> None:
    images[0] = float("nan")
    curve = ImageTextPGD(num_steps=1).radius_curve(encoder, PROMPTS, images, LABELS, [0.0, 0.01])
    assert curve.robust[:, 0].tolist() == [False, False] and curve.robust[:, 1:].any()


def test_shares_of_the_distance_to_the_nearest_class_word(encoder: DualEncoder) -> None:
    words = ["cat", "dog", "red car"]
    table = encoding.token_table(encoder.model)
    ids = [encoder.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert [len(each) for each in ids] == [1, 1, 2]
    means = [table[each].mean(0) for each in ids]
    expected = [
        min(float((one - other).norm()) for number, other in enumerate(means) if number != index)
        for index, one in enumerate(means)
    ]
    torch.testing.assert_close(nearest_class_distances(encoder, words), torch.tensor(expected))
    radius = 0.5 * float(table.norm(dim=-1).mean())
    torch.testing.assert_close(radius_shares(encoder, words, 0.5), torch.tensor([radius / each for each in expected]))

    # Training that moves all words apart by three leaves the shares a third where the row norms stay.
    assert radius_shares(encoder, ["cat", "Cat", "dog"], 0.5)[:2].isinf().all()
    with torch.no_grad():
        encoding.token_embedding_layer(encoder.model).weight.mul_(3)
    torch.testing.assert_close(nearest_class_distances(encoder, words), 3 * torch.tensor(expected))


def test_wrong_input_is_refused(encoder: DualEncoder, images: torch.Tensor) -> None:
    for radii in ([], [-1.0, 0.0], [0.1, 0.1], [0.2, 0.1]):
        with pytest.raises(ValueError, match="`radii` must rise"):
            ImageTextPGD().radius_curve(encoder, PROMPTS, images, LABELS, radii)
    with pytest.raises(ValueError, match="at least two classes"):
        ImageTextPGD().radius_curve(encoder, PROMPTS[:1], images, LABELS * 0, [0.1])
    with pytest.raises(ValueError, match="`labels` must lie in"):
        ImageTextPGD().radius_curve(encoder, PROMPTS, images, LABELS + 1, [0.1])
    with pytest.raises(ValueError, match="no sample"):
        ImageTextPGD().radius_curve(encoder, PROMPTS, images[:0], LABELS[:0], [0.1])
    for name, value in (("num_steps", -1), ("step_size", -0.1), ("restarts", -1), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be at least"):
            ImageTextPGD(**{name: value})
    with pytest.raises(ValueError, match="`rho`"):
        radius_shares(encoder, ["cat", "dog"], -1)
    with pytest.raises(ValueError, match="at least two classes"):
        nearest_class_distances(encoder, ["cat"])
