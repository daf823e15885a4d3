"""Train a tiny CLIP on digits in processes that are killed at random moments; test_resume_training.py starts this.

Every training is a fork, so that the seconds of imports are paid once; this process itself never runs a backward.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.data.digits import IMAGE_SIZE, load_digits
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.testbed.digits import vocabulary
from hf_mmcoa.testbed.tiny_clip import tiny_clip
from hf_mmcoa.training.checkpoints import UNFINISHED, find_flaw, last_checkpoint

STEPS, SAVE_STEPS, LIMIT = 12, 2, 2
PATIENCE = 300.0  # seconds that a training may take on a busy machine


def train(output: Path) -> None:
    """One training from what is there, to the end: its weights lie in `output/final` then."""
    args = MMCoAConfig(
        output_dir=str(output),
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=LIMIT,
        per_device_train_batch_size=8,  # 40 rows: an epoch ends at step 5, and at step 10 beside a checkpoint
        epsilon=0.15,
        step_size=0.075,
        num_steps=2,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = MMCoATrainer(MODEL, args, ROWS, processing_class=PROCESSOR, candidates=synonym_table("digits"))
    unfinished = list(output.glob(f"{UNFINISHED}/checkpoint-*"))
    last = last_checkpoint(output)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.train(resume_from_checkpoint=last is not None)
    for folder in unfinished if last else ():
        assert any(str(folder) in str(warning.message) for warning in told), f"nothing is said of {folder}"
    trainer.save_model(str(output / "final"))


def kill(folder: Path, times: int) -> None:
    """Kill `times` trainings, every other one while it writes a checkpoint, resume each, and compare the weights with
    those of a training that was left alone.
    """
    run(folder / "warm-up")  # the first one pays for caches
    started = time.perf_counter()
    run(folder / "whole")
    length = time.perf_counter() - started
    expected = weights(folder / "whole")
    draws, inside = random.Random(0), 0
    for number in range(times):
        output = folder / f"killed-{number}"
        while not _killed(output, draws, length, writing=number % 2 == 1):
            shutil.rmtree(output)  # it was done before the signal came
        for checkpoint in output.glob("checkpoint-*"):
            assert find_flaw(checkpoint) is None, f"{checkpoint} looks complete and {find_flaw(checkpoint)}"
        left = list(output.glob(f"{UNFINISHED}/checkpoint-*"))
        inside += bool(left)
        last = last_checkpoint(output)
        run(output)
        assert weights(output) == expected, f"training {number}, gone on from {last}, ends elsewhere"
        print(f"killed with {[each.name for each in left]} unfinished, gone on from {last and last.name}", flush=True)
        shutil.rmtree(output)
    print(f"{times} of {times}, {inside} of them while a checkpoint was written")
    assert inside >= times // 4, "too few were killed while they wrote"


def weights(output: Path) -> bytes:
    return (output / "final" / "model.safetensors").read_bytes()


def run(output: Path) -> None:
    _, status = os.waitpid(_fork(output), 0)
    assert status == 0, output.with_suffix(".log").read_text()[-3000:]


def _killed(output: Path, draws: random.Random, length: float, writing: bool) -> bool:
    """Whether a training could be killed: at any moment, or soon after it began to write a checkpoint."""
    moment, step = draws.uniform(0.02, 1.0) * length, draws.randrange(SAVE_STEPS, STEPS + 1, SAVE_STEPS)
    pause = draws.uniform(0, 0.03)
    child, started = _fork(output), time.perf_counter()
    if writing:
        while not (output / UNFINISHED / f"checkpoint-{step}").exists():
            assert time.perf_counter() - started < PATIENCE
            if os.waitpid(child, os.WNOHANG)[0]:
                return False
            time.sleep(0.0005)
        time.sleep(pause)
    else:
        time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), output.with_suffix(".log").read_text()[-3000:]
    return status == signal.SIGKILL


def _fork(output: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            train(output)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    ROWS = load_digits("train").select(range(40))
    MODEL, PROCESSOR = tiny_clip(vocabulary(), image_size=IMAGE_SIZE, patch_size=2)
    kill(Path(sys.argv[1]), int(sys.argv[2]))
