"""Inside the steps of the attacks of training, the host never waits for a value: on a GPU it would in every step."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import make, picture_rows  # noqa: F401  (a fixture)

from hf_mmcoa.models.encoding import pixel_values

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEW, MANY = 2, 7
STEPS = {
    "images": "num_steps",
    "images, l2": "num_steps",
    "token embeddings": "num_text_steps",
}
SETTINGS = {"images": {}, "images, l2": {"norm": "l2", "epsilon": "0.5", "step_size": "0.2"}, "token embeddings": {}}


@pytest.fixture
def host_reads(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("host_reads").host_reads


def batch_of(trainer: Any) -> Any:
    return trainer._read(next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize("attacked", STEPS)
def test_more_steps_of_an_attack_read_nothing_more(make: Any, host_reads: Any, attacked: str) -> None:  # noqa: F811
    found = {}
    for steps in (FEW, MANY):
        trainer = make(**{STEPS[attacked]: steps}, **SETTINGS[attacked], text_attack="embedding")
        batch = batch_of(trainer)
        with host_reads(torch.device("cpu")) as found[steps]:
            if attacked == "token embeddings":
                trainer.attacker.attack_drawn_texts(batch)
            else:
                trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))
    assert found[FEW] == found[MANY]
    if attacked != "token embeddings":
        assert not found[MANY]


def test_an_attack_that_stops_early_does_read(make: Any, host_reads: Any) -> None:  # noqa: F811
    trainer = make(attack_early_stop=True, num_steps=FEW)
    batch = batch_of(trainer)
    with host_reads(torch.device("cpu")) as found:
        trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))
    assert any(place.startswith("index at engine.py") for place in found)  # rows by mask


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.any()),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values.unique(),
        lambda values: values.tolist(),
        lambda values: values.cpu(),
        lambda values: values + torch.tensor([1.0, 2.0, 3.0]),
    ],
)
def test_whatever_waits_is_counted(host_reads: Any, wait: Any) -> None:
    values = torch.tensor([0.0, 1.0, 2.0])
    with host_reads(torch.device("cpu")) as found:
        wait(values)
    assert found.total() == 1


def test_arithmetic_alone_is_not(host_reads: Any) -> None:
    values, rows = torch.rand(3, 4), torch.tensor([2, 0])
    with host_reads(torch.device("cpu")) as found:
        ((values[rows] @ values.T).softmax(1).clamp(0, 1) - torch.zeros_like(values[:2, :3])).sum()
    assert not found


def test_mean_and_std_are_the_processor_s_bit_for_bit(tiny_processor: Any, images: torch.Tensor) -> None:
    processor = tiny_processor.image_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    assert torch.equal(pixel_values(images, processor), (images - mean) / std)
