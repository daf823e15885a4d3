"""Two steps of training in every case, saved from rank 0: started by test_distributed.py with one process and two."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from test_trainer import SUBSTITUTES, picture_rows
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.attacks import BertAttack, LevenshteinAttack
from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.testbed.tiny_clip import tiny_clip

FSDP = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["CLIPEncoderLayer"]},
}
WRAPPERS: dict[str, dict[str, Any]] = {"ddp": {}, "fsdp": FSDP}
PLAIN = "class prompts, diagonal"
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    PLAIN: (False, {"targets": "diagonal"}),
    "class prompts, class": (False, {"targets": "class"}),
    "captions, class": (True, {"targets": "class"}),
    "captions, iterates": (True, {"accumulate_attack_gradients": True}),
    "captions, embeddings": (True, {"targets": "diagonal", "text_attack": "words+embedding"}),
    "frozen text encoder": (False, {"train_text_encoder": False}),
    "accumulated": (True, {"targets": "class", "gradient_accumulation_steps": 2}),
    "lora": (False, {"lora": "both", "lora_rank": 4}),
    "lora, accumulated": (True, {"lora": "image", "lora_rank": 4, "gradient_accumulation_steps": 2}),
    "in pieces": (True, {"attack_batch_size": 2, "encode_batch_size": 4, "text_attack": "words+embedding"}),
    "adamw": (False, {"optim": "adamw_torch", "learning_rate": 1e-3}),
    "shuffled": (False, {"train_sampling_strategy": "random"}),
    "tecoa": (False, {"objective": "tecoa"}),
    "fare": (False, {"objective": "fare", "clean_weight": 0.5}),
    "pmg-aft": (False, {"objective": "pmg-aft"}),
    "tga-zsr": (False, {"objective": "tga-zsr"}),
    "leaf": (True, {"objective": "leaf", "learning_rate": 1e-3}),
    "mat+": (False, {"objective": "mat+", "captions_per_image": 2}),
    "mat+, captions": (True, {"objective": "mat+", "captions_per_image": 2}),
    "advflyp": (True, {"objective": "advflyp"}),
    "saft": (True, {"objective": "saft", "captions_per_image": 2}),
    "qt-aft": (True, {"objective": "qt-aft"}),
    "agft": (False, {"objective": "agft"}),
    "shared step": (False, {"attack_schedule": "shared"}),
    "shared step, captions": (True, {"attack_schedule": "shared", "encode_batch_size": 4}),
}
WITH_WHOLE_WEIGHTS = ("shared step", "shared step, captions")
RESUMED: dict[str, dict[str, Any]] = {
    "resumed": {},
    "resumed lora": {"lora": "image", "lora_rank": 4},
    "resumed stream": {"per_device_train_batch_size": 5},  # of shards of six rows
}
ROWS = 24
THREAT = ThreatModel(image_attacks=("pgd-ce",), text_attacks=("words",), num_steps=2, candidates="neighbours")


class _SaveGradients(TrainerCallback):
    """What the optimizer is given in the first step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step:
            return
        weights = [(name, weight) for name, weight in model.named_parameters() if weight.grad is not None]
        gradients = {name: whole(weight.grad).flatten() for name, weight in weights}
        if state.is_world_process_zero:
            save_file(gradients, f"{args.output_dir}/gradients.safetensors")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def processes() -> int:
    """How many share the work."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer_of(
    output_dir: str,
    wrapper: str,
    captions: bool = False,
    rows: Any = None,
    eval_dataset: Any = None,
    reset: bool = True,
    **settings: Any,
) -> MMCoATrainer:
    """A trainer of a tiny CLIP whose two steps are the same however many processes share a batch of twelve."""
    if reset:  # unless the launcher has said what is to be used
        AcceleratorState._reset_state()
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # accelerate sets it, and would shard the next model too
    texts = ["This is a photo of a cat dog red car feline hound scarlet"]
    model, processor = tiny_clip(texts, image_size=32, patch_size=8, width=32)
    teacher, _ = tiny_clip(texts, image_size=32, patch_size=8, width=32, seed=1)  # unlike it: nothing is 0 at the start
    defaults = {
        "per_device_train_batch_size": 12 // processes(),
        "max_steps": 2,
        "num_steps": 2,
        "random_start": False,  # each process draws its own; without one an attack is the same wherever it runs
        "epsilon": "8/255",
        "step_size": "4/255",
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    defaults = MMCoAConfig.without_unread(defaults, settings)
    args = MMCoAConfig(
        output_dir=output_dir, **{**defaults, **(WRAPPERS[wrapper] if processes() > 1 else {}), **settings}
    )
    if args.fsdp:  # accelerate shards on GPUs alone, and takes DDP on a CPU without a word
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    words, characters = BertAttack(candidates=SUBSTITUTES), LevenshteinAttack(num_samples=None, alphabet="x")
    return MMCoATrainer(
        model,
        args,
        train_dataset=picture_rows(ROWS, text=captions) if rows is None else rows,
        eval_dataset=eval_dataset,
        processing_class=processor,
        teacher=teacher,
        text_attack=characters if args.objective == "leaf" else words,
        callbacks=[_SaveGradients()],
    )


def train_all(output_dir: str, wrapper: str) -> None:
    """Two steps of every case: its gradients, its losses, and the folder that `save_model` writes."""
    torch.set_num_threads(1)
    for name, (captions, settings) in CASES.items():
        if name in WITH_WHOLE_WEIGHTS and wrapper != "ddp":
            try:
                trainer_of(f"{output_dir}/{wrapper}/refused", wrapper, captions, **settings)
            except ValueError as refused:
                assert "weights that are spread over processes" in str(refused)
                continue
            raise AssertionError(name)
        folder = f"{output_dir}/{wrapper}/{name}"
        trainer = trainer_of(folder, wrapper, captions, **settings)
        trainer.train()
        save(trainer, f"{folder}/model")


def train_uneven(output_dir: str, wrapper: str) -> None:
    """Thirteen rows in batches of twelve; two processes complete the second batch with the first rows."""
    rows = picture_rows(13)
    if processes() == 1:
        rows = datasets.concatenate_datasets([rows, rows.select(range(11))])
    trainer = trainer_of(f"{output_dir}/{wrapper}/uneven", wrapper, rows=rows)
    trainer.train()
    save(trainer, f"{output_dir}/{wrapper}/uneven/model")
    last = trainer_of(f"{output_dir}/{wrapper}/dropped", wrapper, rows=picture_rows(13), dataloader_drop_last=True)
    last.train()
    save(last, f"{output_dir}/{wrapper}/dropped/model")


def resume(output_dir: str, wrapper: str) -> None:
    """Four steps at a stretch, and the last of them again from the checkpoint before."""
    for name, settings in RESUMED.items():
        folder = f"{output_dir}/{wrapper}/{name}"
        settings = settings | {"optim": "adamw_torch", "learning_rate": 1e-3, "random_start": True, "max_steps": 4}
        if name == "resumed stream":
            settings["rows"] = picture_rows(ROWS).to_iterable_dataset(num_shards=4).shuffle(seed=0, buffer_size=8)
        for restart in (None, f"{folder}/checkpoint-3"):
            trainer = trainer_of(folder, wrapper, save_strategy="steps", save_steps=3, **settings)
            if name == "resumed stream":
                note_rows(trainer, Path(folder, f"{'resumed' if restart else 'whole'}-{trainer.args.process_index}"))
            trainer.train(resume_from_checkpoint=restart)
            save(trainer, f"{folder}/{'resumed' if restart else 'model'}")


def note_rows(trainer: MMCoATrainer, file: Path) -> None:
    """Write down what a process reads of a stream, a line a batch: the sums of its pictures tell rows apart."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    read = trainer._read

    def noted(inputs: Any) -> Any:
        with file.open("a") as lines:
            lines.write(json.dumps([image.double().sum().item() for image in inputs["images"]]) + "\n")
        return read(inputs)

    trainer._read = noted  # type: ignore[method-assign]


def evaluate(output_dir: str, wrapper: str) -> None:
    """Every threat's accuracy before and after a step: of the trainer, and of `evaluate_robustness`.

    In batches of four the last rows of thirteen and nine leave one process with few of its own, or none.
    """
    found = {}
    few = picture_rows(9, text=True)
    for name, rows, settings in (
        ("classes", {"thirteen": picture_rows(13), "nine": few}, {}),
        ("captions", {"nine": few.remove_columns("label")}, {"text_attack": "words|characters"}),
    ):
        train = few.remove_columns("label") if name == "captions" else None
        trainer = trainer_of(
            f"{output_dir}/{wrapper}/evaluated {name}", wrapper, rows=train, eval_dataset=rows, max_steps=1,
            per_device_eval_batch_size=4, random_start=True, **settings,
        )  # fmt: skip
        trainer.compute_metrics = lambda found: {
            "predicted_accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())
        }
        found[f"{name}, before"] = trainer.evaluate()

        def robustness(trainer: MMCoATrainer = trainer, rows: Any = None) -> dict[str, str]:
            model = trainer.whole_model()
            return evaluate_robustness(
                model, trainer.processing_class, rows, threat_model=THREAT, batch_size=4, progress=False
            )["outcomes"]

        if name == "classes":
            found["robustness, before"] = robustness(rows=rows["thirteen"])
            trainer.args.random_start = False  # so that the step is the same
            trainer.train()
            found["after"] = trainer.evaluate()
            found["robustness, after"] = robustness(rows=rows["thirteen"])
    if trainer.is_world_process_zero():
        Path(output_dir, wrapper, "evaluations.json").write_text(json.dumps(found))


def save(trainer: MMCoATrainer, folder: str) -> None:
    """The model, and what was logged."""
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        Path(folder, "log.json").write_text(json.dumps(trainer.state.log_history))


def run(output_dir: str, wrapper: str) -> None:
    """Everything, below `output_dir` in a folder of the wrapper's name."""
    torch.set_num_threads(1)
    for part in (train_all, train_uneven, evaluate, *([resume] if processes() > 1 else [])):
        part(output_dir, wrapper)


if __name__ == "__main__":
    for each in WRAPPERS:
        run(sys.argv[1], each)
    torch.distributed.destroy_process_group()
