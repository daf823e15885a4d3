"""Checkpoints are complete or absent, a run resumes from the last complete one, and disk errors are reported."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from test_trainer import make, picture_rows  # noqa: F401  # a fixture
from transformers import TrainerCallback

from hf_mmcoa.training import checkpoints
from hf_mmcoa.training.checkpoints import (
    FILE_LIST,
    UNFINISHED,
    check_writable,
    checkpoint_to_resume,
    find_flaw,
    last_checkpoint,
)

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


@pytest.fixture
def run(make, tiny_clip, tmp_path):  # noqa: F811
    """A trainer of the same tiny CLIP, from its start; all of them share one `output_dir`."""

    def build(**settings):
        trainer = settings.pop("trainer", None)
        return make(model=copy.deepcopy(tiny_clip), trainer=trainer, **{**SAVING, **settings})

    return build


def same_weights(one, other):
    for (name, a), b in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Going on


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2},  # the last step has one batch of two
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"},
        {"per_device_train_batch_size": 4, "text_attack": "words|embedding"},
        {"per_device_train_batch_size": 4, "lora": "both", "lora_dropout": 0.5},  # draws from torch's generator
    ],
    ids=["epoch's end", "uneven accumulation", "accumulation", "drawn text attack", "dropout"],
)
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(run, tmp_path, settings):
    whole = run(**settings)
    whole.train()
    for step in (4, 2):  # a resumed run writes the later checkpoints anew
        torch.manual_seed(12345)  # nothing may depend on where the generators happen to be
        resumed = run(**settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert resumed.state.global_step == 6
        same_weights(whole, resumed)
        ours, theirs = resumed.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"]
        for index, state in theirs.items():
            for key, value in state.items():
                assert torch.equal(value, ours[index][key]), (step, key)
        assert resumed.lr_scheduler.state_dict() == whole.lr_scheduler.state_dict()


@pytest.mark.few(1)
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_resumed_run_on_a_stream_of_rows_ends_bit_for_bit(run, tmp_path, shuffled):
    """Checkpoint 2 lies in the first pass over six rows, and checkpoint 4 in the second."""
    rows = picture_rows(6).to_iterable_dataset(num_shards=2)
    rows = rows.shuffle(seed=0, buffer_size=4) if shuffled else rows
    settings = {"per_device_train_batch_size": 2, "trainer": {"train_dataset": rows}}
    whole = run(**settings)
    whole.train()
    for step in (4, 2):
        resumed = run(**settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        same_weights(whole, resumed)


def test_a_stream_begins_anew_where_a_resumed_run_shall_not_skip(run, tmp_path):
    rows = picture_rows(6).to_iterable_dataset()
    settings = {"per_device_train_batch_size": 2, "trainer": {"train_dataset": rows}}
    run(**settings).train()
    resumed = run(**settings, ignore_data_skip=True)
    read, seen = resumed._read, []
    resumed._read = lambda inputs: seen.append(inputs["row_ids"].tolist()) or read(inputs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert seen == [[0, 1], [2, 3]]


def broken_by(what, folder):
    if what == "cut off weights":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
    elif what == "still in the making":
        (folder.parent / UNFINISHED).mkdir()
        os.replace(folder, folder.parent / UNFINISHED / folder.name)
    else:
        (folder / what).unlink()


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("cut off weights", r"checkpoint-6 holds \d+ of \d+ bytes of model.safetensors"),
        ("optimizer.pt", "checkpoint-6 holds no optimizer.pt"),
        ("trainer_state.json", "checkpoint-6 holds no trainer_state.json"),
        ("still in the making", f"{UNFINISHED}/checkpoint-6 is unfinished"),
    ],
)
def test_a_broken_checkpoint_is_named_and_the_last_complete_one_is_taken(run, tmp_path, what, told):
    whole = run()
    whole.train()
    broken_by(what, tmp_path / "out" / "checkpoint-6")
    resumed = run()
    with pytest.warns(UserWarning, match=rf"{told}.*goes on from .*checkpoint-4.*deleted"):
        resumed.train(resume_from_checkpoint=True)
    same_weights(whole, resumed)
    assert last_checkpoint(tmp_path / "out").name == "checkpoint-6"  # written anew
    assert not (tmp_path / "out" / UNFINISHED).exists()
    if what != "still in the making":
        broken_by(what, tmp_path / "out" / "checkpoint-6")
        with pytest.raises(ValueError, match=r"checkpoint-6' holds .*The last one in `output_dir` is '.*checkpoint-4'"):
            checkpoint_to_resume(str(tmp_path / "out" / "checkpoint-6"), str(tmp_path / "out"))


def test_checkpoints_of_another_trainer_count_if_their_state_can_be_read(tmp_path):
    for step, state in ((5, "{}"), (10, '{"global'), (15, None), ("old", "{}")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path).name == "checkpoint-5"
    with pytest.warns(UserWarning, match=r"checkpoint-15 holds no trainer_state.json; .*checkpoint-10 holds a cut off"):
        assert checkpoint_to_resume("True", str(tmp_path)) == str(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / FILE_LIST).write_text("{")
    assert find_flaw(tmp_path / "checkpoint-5") == f"holds a cut off {FILE_LIST}"


def test_without_a_complete_checkpoint_the_way_out_is_told(tmp_path):
    assert checkpoint_to_resume(None, str(tmp_path)) is checkpoint_to_resume("false", str(tmp_path)) is None
    with pytest.raises(ValueError, match=r"no complete checkpoint in `output_dir`.*Leave it out"):
        checkpoint_to_resume(True, str(tmp_path / "nowhere"))


# Older ones go after the new one is there


def test_an_older_checkpoint_goes_only_when_the_new_one_is_in_place(run, tmp_path, monkeypatch):
    seen = []
    put = checkpoints._put_in_place

    def watch(written, run_dir):
        assert find_flaw(written) is None  # every file is there, and only its name is not
        seen.append(sorted(each.name for each in run_dir.glob("checkpoint-*")))
        put(written, run_dir)

    monkeypatch.setattr(checkpoints, "_put_in_place", watch)
    run(save_total_limit=1).train()
    assert seen == [[], ["checkpoint-2"], ["checkpoint-4"]]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["checkpoint-6"]


@pytest.mark.slow
def test_broken_checkpoints_go_before_complete_ones_and_the_best_stays(run, tmp_path):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:  # the newest by its time too
                (tmp_path / "out" / "checkpoint-4" / "optimizer.pt").unlink()

    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_total_limit": 2, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "clean_accuracy", "learning_rate": 1e-9}  # nothing beats the first
    trainer = run(**settings, trainer={"callbacks": [Spoil()]})
    trainer.train()
    assert {each.name for each in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-6"}
    best = str(tmp_path / "out" / "checkpoint-2")
    assert trainer.state.best_model_checkpoint == best
    for step in (2, 6):
        state = json.loads((tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == best


def test_a_checkpoint_of_an_earlier_run_is_replaced_whole(run, tmp_path):
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-2" / "stale.txt").write_text("of another run")
    run(max_steps=2).train()
    assert find_flaw(tmp_path / "out" / "checkpoint-2") is None
    assert not (tmp_path / "out" / "checkpoint-2" / "stale.txt").exists()


# A disk that is full or locked


class _FullFrom(TrainerCallback):
    """Let no file grow beyond `limit` bytes from a step on, so that torch and safetensors fail as on a full disk."""

    def __init__(self, step, limit):
        self.step, self.limit = step, limit

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


@pytest.fixture
def unlimited():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.few(1)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_alone(run, tmp_path, unlimited, file):
    settings = {"save_total_limit": 1}
    run(**settings, max_steps=2).train()
    limit = (tmp_path / "out" / "checkpoint-2" / file).stat().st_size - 1
    before = contents(tmp_path / "out" / "checkpoint-2")
    trainer = run(**settings, trainer={"callbacks": [_FullFrom(2, limit)]})
    with pytest.raises(OSError, match=r"checkpoint of step 4 .*out'.*checkpoint-2 is complete.*save_total_limit"):
        trainer.train(resume_from_checkpoint=True)
    assert contents(tmp_path / "out" / "checkpoint-2") == before
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["checkpoint-2"]


def test_an_error_of_another_kind_stays_what_it_is(run, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("CUDA error")

    trainer = run()
    monkeypatch.setattr(trainer, "_save_rng_state", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA error$"):
        trainer.train()
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture
def locked():
    """A folder that this process may not write to.

    Root may write everywhere, so under root the test changes its user for a moment.
    """
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_a_locked_folder_is_told_before_training(run, locked):
    trainer = run(output_dir=str(locked))
    with pytest.raises(PermissionError, match=rf"`output_dir` '{locked}'.*Permission denied.*Choose another"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(PermissionError, match=rf"written to {locked} \(Permission denied"):
        run(output_dir=str(locked / "new"))


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output_dir` '.*file/out'"):
        check_writable(str(tmp_path / "file" / "out"))
    check_writable(str(tmp_path / "new" / "out"))
    assert not (tmp_path / "new").exists()
