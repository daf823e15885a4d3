"""Two real processes with half the batch each, under DDP and FSDP, give the result of one with the whole batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from processes import run_script
from safetensors.torch import load_file
from test_trainer import make  # noqa: F401  # a fixture
from training_steps import CASES, PLAIN, RESUMED, WITH_WHOLE_WEIGHTS, WRAPPERS, run
from transformers import CLIPModel

from hf_mmcoa.models.sharding import is_sharded
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip
from hf_mmcoa.training.distributed import (
    WholeCopy,
    check_sharding,
    deepspeed_sends_scalars,
    gather_rows,
    own_rows,
    pad_rows,
)

SCRIPT = Path(__file__).with_name("training_steps.py")
LOGGED = ("loss", "loss_image", "loss_text", "eval_loss", "image_attack_success", "text_attack_success")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process saves of every case, and what two do."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    run(str(one), "ddp")
    status, _, error = run_script(SCRIPT, two, processes=2)
    assert status == 0, error[-3000:]
    return {"one": one / "ddp"} | {wrapper: two / wrapper for wrapper in WRAPPERS}


def weights(folder):
    files = [folder / name for name in ("model.safetensors", "adapter_model.safetensors") if (folder / name).exists()]
    return load_file(files[0])


def distance(one, two, start=None):
    """The length of the difference of two sets of weights, relative to the first or to its distance from the start."""
    assert one.keys() == two.keys() and {n: w.shape for n, w in one.items()} == {n: w.shape for n, w in two.items()}
    moved = [(one[name] - (0 if start is None else start[name])).flatten() for name in one]
    length = torch.cat(moved).norm()
    assert length > 0
    return (torch.cat([(one[name] - two[name]).flatten() for name in one]).norm() / length).item()


def start_of(folder):
    """The weights that training started from; B of an adapter started at 0, and nothing is known of A."""
    model, _ = build_tiny_clip(
        ["This is a photo of a cat dog red car feline hound scarlet"], image_size=32, patch_size=8, width=32
    )
    return model.state_dict() if (folder / "model.safetensors").exists() else None


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", [*CASES, "uneven", "dropped"])
def test_two_processes_take_the_steps_of_one(folders, case, wrapper):
    if case in WITH_WHOLE_WEIGHTS and wrapper != "ddp":
        assert (folders[wrapper] / PLAIN).exists() and not (folders[wrapper] / case).exists()  # it was refused
        return
    one, two = folders["one"] / case, folders[wrapper] / case
    gradients = load_file(one / "gradients.safetensors"), load_file(two / "gradients.safetensors")
    assert len(gradients[0]) >= 9 and distance(*gradients) < 1e-4
    if "logit_scale" in gradients[0]:
        assert torch.allclose(gradients[0]["logit_scale"], gradients[1]["logit_scale"], rtol=1e-4)
    logs = [json.loads((folder / "model" / "log.json").read_text()) for folder in (one, two)]
    assert len(logs[0]) == len(logs[1])
    for entries in zip(*logs, strict=True):
        shown = [{name: entry[name] for name in LOGGED if name in entry} for entry in entries]
        assert shown[0] == pytest.approx(shown[1], rel=1e-4)
    # Of how far they went, not of how large they are: two steps are short. AdamW divides by tiny gradients' noise.
    limit = 1e-3 if case == "adamw" else 1e-4
    found = weights(one / "model"), weights(two / "model")
    assert distance(*found, start_of(one / "model")) < limit
    assert all(torch.allclose(found[0][name], found[1][name], rtol=0, atol=1e-4) for name in found[0])


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_ends_in_the_same_weights(folders, case, wrapper):
    whole, resumed = (weights(folders[wrapper] / case / name) for name in ("model", "resumed"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    checkpoint = weights(folders[wrapper] / case / "checkpoint-3")
    assert distance(checkpoint, whole) > 1e-5  # there was something to resume


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_processes_read_a_stream_once_a_pass_and_go_on_within_a_shard(folders, wrapper):
    folder = folders[wrapper] / "resumed stream"

    def read(name):
        parts = [(folder / f"{name}-{process}").read_text().splitlines() for process in range(2)]
        return [[json.loads(line) for line in lines] for lines in parts]

    whole, resumed = read("whole"), read("resumed")
    assert [lines[3:] for lines in whole] == resumed  # of four batches the last, from checkpoint 3 on
    one, two = ([row for batch in lines for row in batch] for lines in whole)  # four batches of five
    assert len({*one[:12], *two[:12]}) == 24  # a pass, of which each has a half
    assert len({*one[12:], *two[12:]}) == 16 and {*one[12:], *two[12:]} <= {*one[:12], *two[:12]}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_processes_evaluate_as_one(folders, wrapper):
    one, two = (json.loads((folders[name] / "evaluations.json").read_text()) for name in ("one", wrapper))
    assert one["robustness, before"] == two["robustness, before"]
    # After a step the weights differ by rounding, and which of two nearly equal words is the worse one may, too.
    for threat in ("clean", "image/pgd-ce"):
        assert one["robustness, after"][threat] == two["robustness, after"][threat]
    for name in ("classes, before", "captions, before", "after"):
        numbers = [
            {key: value for key, value in each[name].items() if key.endswith(("_accuracy", "_loss"))}
            for each in (one, two)
        ]
        assert len(numbers[0]) >= 5 and numbers[0] == pytest.approx(numbers[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_saved_folder_is_a_plain_model(folders, wrapper):
    folder = folders[wrapper] / "adamw" / "model"
    loaded, told = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()) and loaded.logit_scale.shape == ()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["CLIPModel"]
    assert not list(folder.glob("*.bin"))


def test_one_process_gathers_nothing():
    rows = torch.rand(2, 3)
    assert gather_rows(rows) is rows


# What accelerate is asked


def accelerator(kind=DistributedType.FSDP, **plugin):
    defaults = {
        "fsdp_version": 2,
        "state_dict_type": SimpleNamespace(name="FULL_STATE_DICT"),
        "cpu_ram_efficient_loading": False,
        "zero_stage": 3,
    }
    plugins = SimpleNamespace(**defaults | plugin)
    return SimpleNamespace(
        distributed_type=kind,
        num_processes=2,
        state=SimpleNamespace(fsdp_plugin=plugins, deepspeed_plugin=plugins),
    )


def test_fsdp_and_zero_3_shard(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert check_sharding(accelerator())
    assert check_sharding(accelerator(DistributedType.DEEPSPEED))
    assert not check_sharding(accelerator(DistributedType.DEEPSPEED, zero_stage=2))
    assert not check_sharding(accelerator(DistributedType.MULTI_GPU))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ({"fsdp_version": 1}, "set `fsdp_version: 2`"),
        (
            {"state_dict_type": SimpleNamespace(name="SHARDED_STATE_DICT")},
            "set `fsdp_state_dict_type: FULL_STATE_DICT`",
        ),
        ({"cpu_ram_efficient_loading": True}, "set `fsdp_cpu_ram_efficient_loading: false`"),
    ],
)
def test_settings_under_which_attacks_would_lack_weights_are_refused(plugin, message):
    with pytest.raises(ValueError, match=message):
        check_sharding(accelerator(**plugin))


def test_fsdp_that_turns_into_ddp_is_said(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.warns(UserWarning, match="accelerate does not shard on a CPU"):
        assert not check_sharding(accelerator(DistributedType.MULTI_CPU))


def test_deepspeed_is_given_scalars_as_vectors_and_is_as_before_afterwards(tiny_clip, monkeypatch):
    class Engine:
        """Sends weights as DeepSpeed 0.19 does."""

        module = tiny_clip

        def _broadcast_model(self):
            for weight in self.module.parameters():
                weight.data.view(torch.uint8)

    send = Engine._broadcast_model
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.engine", SimpleNamespace(DeepSpeedEngine=Engine))
    with pytest.raises(RuntimeError, match="cannot be 0"):
        Engine()._broadcast_model()
    with deepspeed_sends_scalars(accelerator(DistributedType.MULTI_GPU)):
        assert Engine._broadcast_model is send
    with deepspeed_sends_scalars(accelerator(DistributedType.DEEPSPEED)):
        Engine()._broadcast_model()
    assert Engine._broadcast_model is send and tiny_clip.logit_scale.shape == ()


# What accelerate is not told


def test_a_model_that_was_evaluated_is_still_wrapped_for_training(make):  # noqa: F811
    trainer = make()
    trainer.evaluate()
    assert not trainer.accelerator._models and not hasattr(trainer.model, "_is_accelerate_prepared")
    trainer.train()
    assert trainer.accelerator._models == [trainer.model]
    assert trainer.evaluate()["eval_clean_accuracy"] >= 0  # what trains stays as it is
    assert trainer.accelerator._models == [trainer.model]


# The plain copy


def test_the_copy_follows_the_weights_and_the_mode(tiny_clip):
    whole = WholeCopy(tiny_clip, torch.device("cpu"))
    assert not is_sharded(tiny_clip)
    assert tiny_clip.logit_scale.shape == (1,) and whole.copy.logit_scale.shape == ()
    tiny_clip.text_model.requires_grad_(False)
    with torch.no_grad():
        for weight in tiny_clip.parameters():
            weight.add_(1)
    copied = whole.updated(tiny_clip.train())
    assert copied.training and copied is whole.copy
    for mine, theirs in zip(copied.parameters(), tiny_clip.parameters(), strict=True):
        assert torch.equal(mine.flatten(), theirs.flatten())
    other, _ = build_tiny_clip(["a cat"], image_size=32, patch_size=8, width=32)
    assert whole.updated(other) is other  # a merged model, say, that somebody put in its place


# Rows that fill up the last batch


def batch(process, remainder, end=True, processes=2):
    gradient_state = SimpleNamespace(end_of_dataloader=end, remainder=remainder)
    state = SimpleNamespace(num_processes=processes, process_index=process, gradient_state=gradient_state)
    return own_rows(state, {"row_ids": torch.arange(4), "texts": list("abcd")})


@pytest.mark.parametrize(
    ("process", "remainder", "kept"), [(0, 5, 4), (1, 5, 1), (0, 3, 3), (1, 3, 4), (0, 0, 4), (1, -1, 4)]
)
def test_rows_that_fill_up_a_batch_are_left_out(process, remainder, kept):
    rows = batch(process, remainder)
    assert rows["row_ids"].tolist() == list(range(kept)) and len(rows["texts"]) == kept
    assert len(batch(process, remainder, end=False)["texts"]) == 4
    assert len(batch(process, remainder, processes=1)["texts"]) == 4


def test_outcomes_are_handed_in_for_every_row():
    assert pad_rows(torch.tensor([[1.0], [2.0]]), 4).flatten().tolist() == [1, 2, 2, 2]
    assert pad_rows(torch.ones(2), 2).shape == (2,)
