"""Attacks and encoders that work in chunks need less memory and give the same step."""

from __future__ import annotations

import functools

import pytest
import torch
from test_trainer import SUBSTITUTES, picture_rows

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip
from hf_mmcoa.training.live_encoder import LiveEncoder

TEXTS = ["This is a photo of a cat dog red car feline hound scarlet"]
FORMS = {
    "words": {},
    "embeddings": {"text_attack": "words+embedding"},
    "iterates": {"accumulate_attack_gradients": True},
    "patches": {"objective": "tga-zsr"},
    "teacher": {"objective": "fare"},
    "adapters": {"lora": "both"},
}


def trained(folder, seen=None, **settings):
    """Weights after two steps; `seen` collects how many images each forward of the vision tower got."""
    model, processor = build_tiny_clip(TEXTS, image_size=32, patch_size=8, width=32)
    if seen is not None:
        model.vision_model.embeddings.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    args = MMCoAConfig(
        output_dir=str(folder),
        per_device_train_batch_size=6,
        max_steps=2,
        num_steps=2,
        epsilon="8/255",
        step_size="4/255",
        learning_rate=1e-2,
        optim="sgd",  # adaptive steps would blow up rounding where a gradient is 0
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    attack = BertAttack(candidates=SUBSTITUTES)
    trainer = MMCoATrainer(model, args, train_dataset=picture_rows(), processing_class=processor, text_attack=attack)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    return torch.cat([(after[name].detach() - before[name]).flatten() for name in before])


@pytest.fixture(scope="module")
def whole_steps(tmp_path_factory):
    """What a form trains in one piece; each form is trained once."""
    return functools.cache(lambda form: trained(tmp_path_factory.mktemp("whole"), **FORMS[form]))


@pytest.mark.few(2)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("setting", [{"attack_batch_size": 4}, {"encode_batch_size": 4}])
def test_a_step_in_pieces_is_the_step(tmp_path, whole_steps, form, setting):
    whole = whole_steps(form)
    seen: list[int] = []
    pieces = trained(tmp_path, seen, **FORMS[form], **setting)
    assert whole.norm() > 1e-4
    assert (pieces - whole).norm() < 1e-4 * whole.norm()
    # Six images are attacked, twelve or more encoded; the other of the two still takes all of its images.
    assert set(seen) >= ({4, 2} if "attack_batch_size" in setting else {4, 6})


@pytest.fixture
def encoder():
    model, processor = build_tiny_clip(TEXTS, image_size=32, patch_size=8)
    return DualEncoder(model, processor)


def saved_bytes(encoder, images, batch_size):
    """Return the bytes of activations that wait for the backward, without the inputs themselves; and the gradient."""
    pixels = encoder.pixel_values(images)
    ids = encoder.tokenize(["a cat", "a red car", "a dog"] * (len(images) // 3))["input_ids"]
    kept: dict[int, int] = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.data_ptr() != pixels.data_ptr():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoding.joint_forward(encoder.model, pixels, ids, batch_size=batch_size)
    return sum(kept.values())


def test_activations_do_not_grow_with_the_layers_in_pieces(encoder):
    images = torch.rand(24, 3, 32, 32)
    assert saved_bytes(encoder, images, 3) < 0.2 * saved_bytes(encoder, images, 0)


def test_the_towers_are_left_as_they_were(encoder):
    own = vars(encoder.model.vision_model).get("forward")
    with pytest.raises(ValueError):
        encoding.joint_forward(encoder.model, torch.rand(2, 5, 5), torch.ones(1, 4, dtype=torch.long), batch_size=1)
    assert vars(encoder.model.vision_model).get("forward") is own is None
    assert "forward" not in vars(encoder.model.text_model)


@pytest.mark.few(1)
@pytest.mark.parametrize("form", ["words", "iterates"])
def test_an_attack_without_memory_is_halved_to_the_same_step(tmp_path, whole_steps, form, monkeypatch):
    whole = whole_steps(form)
    encode, sizes = LiveEncoder.encode_images, []

    def short_of_memory(encoder, images):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(encoder, images)

    monkeypatch.setattr(LiveEncoder, "encode_images", short_of_memory)
    with pytest.warns(UserWarning, match="`attack_batch_size=3` does so from the start") as warned:
        halved = trained(tmp_path, **FORMS[form])
    assert (halved - whole).norm() < 1e-4 * whole.norm()
    assert sizes[:3] == [6, 3, 2] and max(sizes[3:]) == 2  # it remembers what memory allowed
    assert sum("does not fit into memory" in str(one.message) for one in warned) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["words", "adapters"])
def test_a_compiled_attack_is_one_graph_and_the_same_step(tmp_path, form, monkeypatch):
    """`aot_eager` traces forwards and backwards as inductor does and runs the operators as they are: no minutes."""
    asked, compile_ = [], torch.compile

    def traced(encode, **settings):
        asked.append(settings)
        return compile_(encode, **settings, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    whole = trained(tmp_path, **FORMS[form])
    assert not asked
    compiled = trained(tmp_path, **FORMS[form], compile_attack=True)
    assert asked == [{"fullgraph": True}]  # a graph break is an error
    assert (compiled - whole).norm() < 1e-4 * whole.norm()


def test_negative_sizes_are_refused(tmp_path):
    for name in ("attack_batch_size", "encode_batch_size"):
        with pytest.raises(ValueError, match=f"`{name}` must not be negative"):
            MMCoAConfig(output_dir=str(tmp_path), **{name: -1})
