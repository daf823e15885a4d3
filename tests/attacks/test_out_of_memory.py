"""An attack that does not fit is halved until it does, says so once, and gives what the whole one gives."""

from __future__ import annotations

import warnings

import pytest
import torch

from hf_mmcoa.attacks.out_of_memory import HalvingOnOutOfMemory
from hf_mmcoa.attacks.pgd import PGD

CPU = "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class Attack:
    """PGD from a random start drawn for all images, in parts of which only so many fit."""

    def __init__(self, fits, error):
        self.fits, self.error, self.sizes = fits, error, []
        self.images = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, size):
        self.sizes.append(size)
        pgd = PGD(epsilon=0.1, step_size=0.05, num_steps=3, random_start=False)
        start = (self.images + pgd.start(self.images, self.generator)).clamp(0, 1)
        if min(size, len(self.images)) > self.fits:
            raise self.error
        return torch.cat([pgd(part, lambda images: images.square().sum((1, 2, 3))) for part in start.split(size)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU)], ids=["cuda", "cpu"]
)
def test_the_halved_attack_gives_what_the_whole_one_gives_and_says_so_once(error):
    whole = Attack(7, error)
    expected = whole(7)
    attack, halving = Attack(2, error), HalvingOnOutOfMemory()
    with pytest.warns(UserWarning, match="`attack_batch_size=4`") as told:
        found = halving(attack, 7, attack.generator)
    assert torch.equal(found, expected)
    assert attack.sizes == [7, 4, 2] and halving.batch_size == 2 and len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.fits = 1  # the memory shrinks further: not said again
        halving(attack, 7, attack.generator)
        halving(attack, 7, attack.generator)
    assert attack.sizes[3:] == [2, 1, 1]


def test_what_fits_is_left_alone():
    attack, halving = Attack(7, RuntimeError(CPU)), HalvingOnOutOfMemory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert halving(attack, 7).shape == (7, 3, 4, 4)
    assert halving.batch_size is None and attack.sizes == [7]


def test_not_even_one_image_is_told_with_the_way_out():
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError, match=r"even with one image.*bf16"):
        HalvingOnOutOfMemory()(Attack(0, torch.OutOfMemoryError("CUDA out of memory.")), 2)


def test_another_error_is_not_retried():
    attack = Attack(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        HalvingOnOutOfMemory()(attack, 7)
    assert attack.sizes == [7]
