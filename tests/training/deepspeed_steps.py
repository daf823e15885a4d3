"""Steps of training under DeepSpeed, or in one process: started by test_deepspeed.py.

    python deepspeed_steps.py FOLDER NAME ...

After a training with ZeRO-3, DeepSpeed spreads the weights of every further model of the process: one name a start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from training_steps import CASES, PLAIN, save, trainer_of

NAMES = (PLAIN, "captions, class", "lora", "adamw")
WHOLE, RESTARTED = "whole", "restarted"
RESUMED: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 4, "random_start": True}


def main(folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names:
        if name in CASES:
            captions, settings = CASES[name]
            trainer = trainer_of(f"{folder}/{name}", "ddp", captions, reset=False, **settings)
            trainer.train()
        else:
            saving = {"save_strategy": "steps", "save_steps": 3}
            trainer = trainer_of(f"{folder}/{WHOLE}", "ddp", reset=False, **saving, **RESUMED)
            trainer.train(resume_from_checkpoint=f"{folder}/{WHOLE}/checkpoint-3" if name == RESTARTED else None)
        save(trainer, f"{folder}/{name}/model")
    if trainer.is_world_process_zero():
        kind = str(trainer.accelerator.distributed_type)
        Path(folder, "ran.json").write_text(json.dumps({"type": kind, "processes": trainer.args.world_size}))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
