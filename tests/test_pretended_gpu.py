"""Training and evaluation on a pretended GPU: no operation mixes two devices, and the numbers are the CPU's.

What it cannot find is what only a real one does: kernels, memory, autocast to bf16, graphs (benchmarks/gpu.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, get_args, get_type_hints
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from pretend_gpu import CUDA, OnPretendedGPU, pretended, put_there
from test_trainer import SUBSTITUTES, picture_rows

from hf_mmcoa import MMCoAConfig, MMCoATrainer, evaluate_robustness
from hf_mmcoa.evaluation import ThreatModel

BUDGET = {"epsilon": "8/255", "step_size": "4/255", "num_steps": 2}
OBJECTIVES = [name for name in get_args(get_type_hints(MMCoAConfig)["objective"]) if name != "mmcoa"]
FORMS: dict[str, dict[str, Any]] = {
    "mmcoa": {"text_attack": "words+embedding", "num_text_steps": 2, "targets": "class"},
    "pieces": {"attack_batch_size": 4, "encode_batch_size": 4},
    "early stop": {"attack_early_stop": True},
    "all texts": {"text_adversary": "all"},
    "adapters": {"lora": "both"},
    "characters": {"text_attack": "characters"},
    "families": {"text_attack": "families"},
    **{name: {"objective": name} for name in OBJECTIVES},
}


@contextmanager
def on_the_gpu() -> Iterator[None]:
    """The trainer's and accelerate's device is the pretended one while the block runs."""
    with ExitStack() as stack:
        stack.enter_context(pretended())
        for owner in (MMCoAConfig, Accelerator):
            stack.enter_context(mock.patch.object(owner, "device", CUDA))
        yield


def trained(model: Any, processor: Any, folder: Any, settings: dict[str, Any]) -> dict[str, float]:
    """The logged losses of two steps, and an evaluation."""
    args = MMCoAConfig(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=6,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        do_eval=True,
        **{**BUDGET, **settings},
    )
    given = {"train_dataset": picture_rows(), "eval_dataset": picture_rows(6), "processing_class": processor}
    trainer = MMCoATrainer(model, args, candidates=SUBSTITUTES, **given)
    trainer.train()
    metrics = trainer.evaluate()
    losses = {f"loss {row['step']}": row["loss"] for row in trainer.state.log_history if "loss" in row}
    return losses | {name: metrics[name] for name in metrics if "accuracy" in name or "loss" in name}


@pytest.mark.few(1)
@pytest.mark.parametrize("form", FORMS)
def test_a_training_mixes_no_devices(form: str, tiny_clip: Any, tiny_processor: Any, tmp_path: Any) -> None:
    expected = trained(copy.deepcopy(tiny_clip), tiny_processor, tmp_path, FORMS[form])
    with on_the_gpu():
        found = trained(tiny_clip, tiny_processor, tmp_path, FORMS[form])
        assert all(isinstance(weight, OnPretendedGPU) for weight in tiny_clip.parameters())
    assert len(expected) >= 3
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["quick", "standard", "strong"])
def test_an_evaluation_mixes_no_devices(preset: str, tiny_clip: Any, tiny_processor: Any) -> None:
    spec = ThreatModel.preset(preset, restarts=1, **BUDGET)
    given = (tiny_processor, picture_rows(6))
    settings: dict[str, Any] = {"threat_model": spec, "candidates": SUBSTITUTES, "progress": False}
    expected = evaluate_robustness(copy.deepcopy(tiny_clip), *given, **settings)["outcomes"]
    with on_the_gpu():
        found = evaluate_robustness(put_there(tiny_clip), *given, **settings)["outcomes"]
    assert len(expected) > 5 and found == expected


def test_two_devices_are_refused_as_a_gpu_refuses_them() -> None:
    with pretended():
        there, here = torch.rand(2, 3, device="cuda"), torch.rand(2, 3)
        assert (there.device, (there * 2).device, torch.zeros_like(there).device) == (CUDA, CUDA, CUDA)
        assert torch.tensor([1], device="cuda").device == there.new_tensor([1]).device == here.to("cuda").device == CUDA
        assert there.cpu().device == there.to("cpu").device == here.device
        assert torch.equal((there.cpu() * here), (there * here.to("cuda")).cpu())
        for mixed in (lambda: there + here, lambda: there @ here.T, lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="can't convert cuda"):
            there.numpy()
        (there + torch.tensor(1.0)).sum()  # a number of the host may be used
        assert there[torch.tensor([1])].device == CUDA  # and an index


def test_gradients_are_where_the_weights_are() -> None:
    with pretended():
        weight = torch.rand(3, device="cuda", requires_grad=True)
        weight.square().clamp_min(0.1).split([1, 2])[1].sum().backward()
        assert weight.grad.device == CUDA
        assert torch.equal(weight.grad.cpu()[:1], torch.zeros(1))
