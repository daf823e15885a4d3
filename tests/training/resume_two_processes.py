"""Two processes train, go on, are stopped by a signal to one of them, and lose one (test_resume_training.py)."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from test_trainer import SUBSTITUTES, picture_rows
from transformers import TrainerCallback

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.testbed.tiny_clip import tiny_clip
from hf_mmcoa.training.interruption import TrainingInterrupted


class _Kill(TrainerCallback):
    """A signal to the second process alone, in its third step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def trainer(output_dir: str, *callbacks: TrainerCallback, **settings: Any) -> MMCoATrainer:
    model, processor = tiny_clip(
        ["This is a photo of a cat dog red car feline hound scarlet"], image_size=32, patch_size=8, width=32
    )
    for module in model.modules():  # each process draws from a generator of its own
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.3
    defaults = {
        "per_device_train_batch_size": 2,  # 12 rows: an epoch is 3 batches of each process, 2 steps
        "gradient_accumulation_steps": 2,
        "max_steps": 5,
        "num_steps": 2,
        "epsilon": "8/255",
        "step_size": "4/255",
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 3,  # in the middle of the second epoch
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = MMCoAConfig(output_dir, **defaults | settings)
    attack = BertAttack(candidates=SUBSTITUTES)
    given = {"processing_class": processor, "text_attack": attack, "callbacks": list(callbacks)}
    return MMCoATrainer(model, args, picture_rows(), **given)


def main(folder: str) -> None:
    torch.set_num_threads(1)
    whole = trainer(f"{folder}/whole")
    whole.train()
    whole.save_model(f"{folder}/whole/final")

    torch.manual_seed(12345 + whole.args.process_index)  # nothing may depend on where the generators happen to be
    resumed = trainer(f"{folder}/resumed")
    resumed.train(resume_from_checkpoint=f"{folder}/whole/checkpoint-3")
    resumed.save_model(f"{folder}/resumed/final")

    try:
        trainer(f"{folder}/stopped", _Kill(), save_steps=100).train()
    except TrainingInterrupted as stopped:
        print(f"process {whole.args.process_index} stopped after step {stopped.step}", flush=True)
    stopped = trainer(f"{folder}/stopped", save_steps=100)
    stopped.train(resume_from_checkpoint=True)
    stopped.save_model(f"{folder}/stopped/final")
    whole.accelerator.wait_for_everyone()

    lost = trainer(f"{folder}/lost")
    if lost.args.process_index == 1:
        lost._save_rng_state = lambda folder: os._exit(9)  # dies while it writes its part
    lost.train()


if __name__ == "__main__":
    main(sys.argv[1])
