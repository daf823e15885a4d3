"""Evaluate the saved model of test_resume.py in processes of its own: once, or killed again and again."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import datasets
import torch
from squares import KNOWN

from hf_mmcoa.evaluation import ThreatModel, evaluator
from hf_mmcoa.evaluation.results import partial_folder
from hf_mmcoa.models.encoder import load_clip


def evaluate(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    computed: list[int] = []
    evaluate_batch = evaluator.evaluate_batch
    evaluator.evaluate_batch = lambda *given: computed.append(given[1]) or evaluate_batch(*given)
    evaluator.evaluate_robustness(
        *load_clip(folder / "model"),
        datasets.load_from_disk(str(folder / "data")),
        threat_model=ThreatModel.preset(
            "standard", epsilon=0.03, image_attacks=("apgd-ce",), num_steps=3, num_text_steps=3
        ),
        candidates=KNOWN,
        batch_size=4,
        output=folder / name,
        model_name="tiny",
        export=folder / Path(name).stem,
    )
    process, processes = os.environ.get("RANK", 0), os.environ.get("WORLD_SIZE", 1)
    # One write: an unbuffered `print` writes the line's end apart from the line.
    sys.stdout.write(f"process {process} of {processes}, batches {', '.join(map(str, computed))}\n")
    if torch.distributed.is_initialized():  # else the first process to exit may pull the rug from under the other
        torch.distributed.destroy_process_group()


def kill(folder: Path, times: int) -> None:
    """Kill `times` evaluations at random moments, resume each, and compare with one that was left alone.

    Every evaluation is a fork, so that the second of imports is paid once; this process itself never runs a backward.
    """
    _fork(folder, "warm-up.json", None)  # the first one pays for caches
    started = time.perf_counter()
    _fork(folder, "whole.json", None)
    length = time.perf_counter() - started
    draws = random.Random(0)
    for number in range(times):
        output = folder / f"killed-{number}.json"
        while True:
            _fork(folder, output.name, draws.uniform(0.05, 1.0) * length)
            if not output.exists():
                break
            output.unlink()  # it was done before the signal came
        print("killed", len(list(partial_folder(output).glob("batch-*.json"))), flush=True)
        _fork(folder, output.name, None)
        assert output.read_bytes() == (folder / "whole.json").read_bytes(), output
        assert not partial_folder(output).exists(), output
        assert content(output.with_suffix("")) == content(folder / "whole"), output


def content(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _fork(folder: Path, name: str, kill_after: float | None) -> None:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        status = 1
        try:
            evaluate(folder, name)
            status = 0
        except Exception:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert kill_after is not None or status == 0, (folder / f"{name}.log").read_text()[-3000:]


if __name__ == "__main__":
    folder, action, argument = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if action == "kill":
        kill(folder, int(argument))
    else:
        evaluate(folder, argument)
