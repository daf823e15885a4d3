"""The token-embedding attack: where it may move, how far, and that it works."""

from __future__ import annotations

import pytest
import torch

from hf_mmcoa.attacks.text_embedding import TextEmbeddingPGD, word_positions
from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder

TEXTS = ["This is a photo of a cat", "a dog"]


@pytest.fixture
def encoder(tiny_clip, tiny_processor):
    return DualEncoder(tiny_clip, tiny_processor)


def away_from(clean):
    return lambda embeds: -(embeds * clean).sum(-1)


def attacked(encoder, generator=None, **settings):
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        clean = encoder.encode_texts(TEXTS)
        own = encoding.token_embeddings(encoder.model, tokens["input_ids"])
    moved = TextEmbeddingPGD(**settings)(encoder.model, **tokens, loss_fn=away_from(clean), generator=generator)
    with torch.no_grad():
        similarity = (encoding.text_embeds(encoder.model, **tokens, inputs_embeds=moved) * clean).sum(-1)
    return tokens, moved - own, similarity


def test_only_words_move_and_stay_in_their_ball(encoder):
    tokens, delta, _ = attacked(encoder, rho=0.5, num_steps=8)
    unit = encoding.token_table(encoder.model).norm(dim=-1).mean()
    length = delta.norm(dim=-1)
    words = word_positions(encoder.model, **tokens)
    lengths = tokens["attention_mask"].sum(1)
    assert words.sum(1).tolist() == (lengths - 2).tolist() and not words[:, 0].any()
    assert not words[torch.arange(2), lengths - 1].any()
    assert (length[~words] == 0).all()
    assert (length[words] > 0).all() and (length <= 0.5 * unit * (1 + 1e-5)).all()
    assert length.max() > 0.49 * unit


def test_more_budget_takes_the_text_further(encoder):
    similarity = [attacked(encoder, rho=rho, num_steps=10)[2] for rho in (0.1, 0.5, 1.0)]
    assert (similarity[0] > similarity[1]).all() and (similarity[1] > similarity[2]).all()
    assert (similarity[2] < 0.5).all()


def test_a_larger_ball_holds_all_of_a_smaller_ones_loss_from_any_start(encoder):
    """The default start is random: at the clean text the loss is stationary and its gradient is rounding alone."""
    for seed in range(5):
        loss = []
        for rho in (0.1, 0.3, 1.0):
            generator = torch.Generator().manual_seed(seed)
            loss.append(1 - attacked(encoder, rho=rho, num_steps=10, generator=generator)[2])
        assert (loss[0] > 1e-4).all() and (loss[1] > 1.1 * loss[0]).all() and (loss[2] > 1.1 * loss[1]).all()


def test_steps_do_not_depend_on_the_scale_of_the_loss(encoder):
    """A saturated softmax has gradients of 1e-20 and less; the step must be as long as any other."""
    tokens = encoder.tokenize(TEXTS)
    attack = TextEmbeddingPGD(rho=0.5, num_steps=3)
    small, large = (
        attack(encoder.model, **tokens, loss_fn=lambda embeds, scale=scale: scale * embeds[:, 0])
        for scale in (1e-30, 1.0)
    )
    with torch.no_grad():
        clean = encoding.token_embeddings(encoder.model, tokens["input_ids"])
    unit = encoding.token_table(encoder.model).norm(dim=-1).mean()
    assert ((small - clean).norm(dim=-1)[word_positions(encoder.model, **tokens)] > 0.45 * unit).all()
    assert torch.allclose(small, large, atol=1e-4)


def test_restarts_never_lose_what_one_start_had(encoder):
    tokens = encoder.tokenize(TEXTS)
    one, four = (
        encoding.text_embeds(
            encoder.model,
            **tokens,
            inputs_embeds=TextEmbeddingPGD(rho=0.5, num_steps=2, restarts=restarts)(
                encoder.model, **tokens, loss_fn=lambda embeds: embeds[:, 0]
            ),
        )[:, 0]
        for restarts in (1, 4)
    )
    assert (four >= one - 1e-6).all() and (four > one + 1e-5).any()


def test_one_step_of_a_given_size(encoder):
    tokens = encoder.tokenize(TEXTS)
    attack = TextEmbeddingPGD(rho=1.0, step_size=0.25, num_steps=1, random_start=False)
    moved = attack(encoder.model, **tokens, loss_fn=lambda embeds: embeds[:, 0])
    unit = encoding.token_table(encoder.model).norm(dim=-1).mean()
    with torch.no_grad():
        delta = moved - encoding.token_embeddings(encoder.model, tokens["input_ids"])
    words = word_positions(encoder.model, **tokens)
    assert torch.allclose(delta.norm(dim=-1)[words], 0.25 * unit, rtol=1e-4)


def test_repeating_the_same_start_is_refused():
    with pytest.raises(ValueError, match="`restarts=2` without `random_start`"):
        TextEmbeddingPGD(restarts=2, random_start=False)


@pytest.mark.parametrize("name", ["rho", "step_size", "num_steps"])
def test_negative_settings_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must not be negative, got -1"):
        TextEmbeddingPGD(**{name: -1})
