"""The check of the image attack while training: what it measures, what it changes, and that a resumed run knows."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from test_trainer import batch_of, make, snapshot  # noqa: F401  # a fixture

from hf_mmcoa.attacks import PGD
from hf_mmcoa.training import attack_check

WEAK = {"epsilon": "64/255", "step_size": "1/255", "num_steps": 1, "random_start": False, "attack_check_every": 2}
TOO_WEAK = r"PGD-10 misleads \d+% of the images more than the training's attack"


@pytest.fixture
def sure(make):  # noqa: F811
    """A trainer whose model has learnt its twelve pictures, so that an attack has something to mislead."""

    learnt = make(objective="clean", targets="class", max_steps=40, learning_rate=3e-3, do_eval=False)
    learnt.train()

    def build(trainer=None, **config):
        return make(trainer, model=copy.deepcopy(learnt.model), **config)

    return build


def logged(trainer, name):
    return [(entry["step"], entry[name]) for entry in trainer.state.log_history if name in entry]


def test_an_attack_that_became_too_weak_gets_more_steps_of_the_same_length_in_all(sure):
    trainer = sure(**WEAK, max_steps=5)
    with pytest.warns(UserWarning, match=rf"step 0: {TOO_WEAK}.* It takes 2 steps of half the length"):
        trainer.train()
    attack = trainer.attacker.image_attack
    assert (attack.num_steps, attack.step_size) == (8, pytest.approx(1 / 8 / 255))
    assert [steps for _, steps in logged(trainer, "image_attack_steps")] == [2, 4, 8]
    assert all(gap > attack_check.LARGEST_GAP for _, gap in logged(trainer, "image_attack_gap"))
    trainer.args.max_steps = 1  # a new run begins with its own steps
    with pytest.warns(UserWarning, match="It takes 2 steps"):
        trainer.train()


@pytest.mark.slow
def test_the_gap_is_that_of_the_images_that_only_the_longer_attack_misleads(sure):
    trainer = sure(**WEAK)
    batch = trainer._read(batch_of(trainer))
    victim, rows = trainer.attacker.victim(batch), torch.arange(6)
    with pytest.warns(UserWarning, match=TOO_WEAK):
        more, images = trainer._attack_check(batch, batch.images)["image_attack_gap"].tolist()
    longer = PGD(epsilon=64 / 255, step_size=16 / 255, num_steps=10)
    found = longer(batch.images, lambda images: victim(images, rows)[0], trainer.attacker.generator("check"))
    right = [victim(images, rows)[1].sum().item() for images in (batch.images, found)]
    assert (more, images) == (right[0] - right[1], 6) and more > 0


@pytest.mark.slow
def test_a_working_attack_is_left_alone_and_the_weights_are_those_without_a_check(sure):
    weights = []
    for every in (0, 2):
        trainer = sure(max_steps=4, attack_check_every=every)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            trainer.train()
        weights.append(snapshot(trainer.model))
        assert trainer.attacker.image_attack.num_steps == 2
    assert [step for step, _ in logged(trainer, "image_attack_gap")] == [1, 3]  # logged once the step is done
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_as_many_steps_bit_for_bit(sure, tmp_path):
    settings = WEAK | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 100}
    with pytest.warns(UserWarning, match=TOO_WEAK):
        (whole := sure(**settings)).train()
    resumed = sure(**settings)
    with pytest.warns(UserWarning, match="It takes 4 steps"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    ours, theirs = snapshot(resumed.model), snapshot(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    longer = sure(**settings | {"num_steps": 12, "attack_check_every": 0})  # than what the stopped run had come to
    longer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert longer.attacker.image_attack.num_steps == 12


@pytest.mark.slow
def test_an_attack_of_the_users_own_and_one_as_long_as_the_check_are_only_reported(sure):
    own = PGD(epsilon=64 / 255, step_size=0, num_steps=1, random_start=False)
    for trainer, config in (({"image_attack": own}, {}), (None, {"num_steps": 10, "step_size": "0.01/255"})):
        checked = sure(trainer, **WEAK | config | {"max_steps": 1})
        before = checked.attacker.image_attack
        with pytest.warns(UserWarning, match=f"{TOO_WEAK}.* Give it more or shorter steps"):
            checked.train()
        assert checked.attacker.image_attack == before


@pytest.mark.slow
def test_all_processes_decide_by_the_images_of_all(sure, monkeypatch):
    trainer = sure(**WEAK)
    batch = trainer._read(batch_of(trainer))
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda figure, reduction: figure + torch.tensor([0.0, 594.0]))
    trainer._attack_check(batch, batch.images)  # six of 600 images
    assert trainer.attacker.step_factor == 1


def test_a_negative_interval_is_refused(make):  # noqa: F811
    with pytest.raises(ValueError, match="`attack_check_every` must not be negative, got -1"):
        make(attack_check_every=-1)
