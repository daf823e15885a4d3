"""Ctrl-C and SIGTERM: the step is finished, a checkpoint is complete, and the run resumes bit for bit."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from test_checkpoints import run, same_weights  # noqa: F401  # a fixture
from test_trainer import make  # noqa: F401  # a fixture
from transformers import TrainerCallback

from hf_mmcoa.cli import main
from hf_mmcoa.training.checkpoints import UNFINISHED, find_flaw
from hf_mmcoa.training.interruption import TrainingInterrupted
from hf_mmcoa.training.trainer import MMCoATrainer


@pytest.fixture(autouse=True)
def _heard():
    """Make these tests receive SIGINT, which a shell ignores for the processes that it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Kill(TrainerCallback):
    """Sends this process signals in the middle of a step."""

    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.few(2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (2, {"save_strategy": "no"}),  # in the middle of an epoch of three steps
        (2, {"eval_strategy": "epoch", "save_strategy": "epoch"}),
        (3, {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "loss"}),  # at its end
        (3, {"eval_strategy": "epoch", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
        (6, {}),  # after the last step
    ],
)
def test_a_signal_stops_after_the_step_and_the_run_goes_on_bit_for_bit(run, tmp_path, number, step, settings):  # noqa: F811
    if number == signal.SIGTERM and step == 3:
        pytest.skip("once is enough")
    settings = {"per_device_train_batch_size": 4, "save_steps": 100, **settings}
    whole = run(output_dir=str(tmp_path / "whole"), **settings)
    whole.train()

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stopped = run(**settings, trainer={"callbacks": [Kill(step - 1, number)]})
    with pytest.raises(TrainingInterrupted, match=r"after step \d.*resume_from_checkpoint=") as raised:
        stopped.train()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    after = 4 if settings.get("save_strategy") == "best" else step  # where the evaluation decides about saving
    assert raised.value.signal_number == number and raised.value.step == stopped.state.global_step == after
    assert raised.value.checkpoint == str(tmp_path / "out" / f"checkpoint-{after}")
    assert find_flaw(tmp_path / "out" / f"checkpoint-{after}") is None

    resumed = run(**settings)
    resumed.train(resume_from_checkpoint=True)
    same_weights(whole, resumed)
    ours, theirs = (
        [entry["eval_loss"] for entry in each.state.log_history if "eval_loss" in entry] for each in (resumed, whole)
    )
    assert ours == theirs  # none is left out, and none is done twice


def test_the_second_signal_stops_at_once(run, tmp_path):  # noqa: F811
    before = signal.getsignal(signal.SIGINT)
    trainer = run(save_strategy="no", trainer={"callbacks": [Kill(1, signal.SIGINT, signal.SIGINT)]})
    with pytest.raises(KeyboardInterrupt) as raised:
        trainer.train()
    assert not isinstance(raised.value, TrainingInterrupted) and trainer.state.global_step == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert not list((tmp_path / "out").iterdir())


def test_stopped_at_once_while_saving_nothing_half_written_is_left(run, tmp_path, monkeypatch):  # noqa: F811
    trainer = run()
    save = trainer._save_rng_state
    kill = Kill(0, signal.SIGINT, signal.SIGINT)
    monkeypatch.setattr(
        trainer,
        "_save_rng_state",
        lambda folder: save(folder) if trainer.state.global_step == 2 else kill_now(kill.numbers),
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["checkpoint-2"]


def kill_now(numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_what_is_ignored_stays_ignored_and_a_thread_sets_no_handler(run):  # noqa: F811
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        trainer = run(save_strategy="no", trainer={"callbacks": [Kill(1, signal.SIGINT)]})
        trainer.train()
        assert trainer.state.global_step == 6
    finally:
        signal.signal(signal.SIGINT, before)
    trainer = run(save_strategy="no")
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 6


def test_a_forked_worker_ignores_ctrl_c_and_dies_of_sigterm(run):  # noqa: F811
    trainer = run(save_strategy="no")
    with trainer._stop_on_signal.listening():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
    assert not trainer._stop_on_signal._received


SMALL = ["--pretrain_epochs", "1", "--max_steps", "4", "--preset", "quick", "--max_test_samples", "20", "--use_cpu"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_with_the_signals_status_and_goes_on(tmp_path, capsys, monkeypatch, number, status):
    assert main(["train", "--output_dir", str(tmp_path / "whole"), *SMALL]) == 0
    step = MMCoATrainer.training_step

    def kill_in_step(self, *args, **kwargs):
        if self.stops_on_signals and self.state.global_step == 1:
            os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(MMCoATrainer, "training_step", kill_in_step)
    command = ["train", "--output_dir", str(tmp_path / "out"), *SMALL]
    assert main(command) == status
    shown = capsys.readouterr().err
    assert "after step 2" in shown and f"{tmp_path}/out/checkpoint-2" in shown and "Traceback" not in shown
    assert not (tmp_path / "out" / UNFINISHED).exists()
    assert main([*command, "--resume_from_checkpoint", "True"]) == 0
    one, other = (tmp_path / each / "model.safetensors" for each in ("whole", "out"))
    assert one.read_bytes() == other.read_bytes()
