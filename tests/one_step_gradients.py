"""One MMCoA step's gradients, saved from rank 0: started by test_distributed.py with one process and with two."""

from __future__ import annotations

import sys
from typing import Any

import torch
from safetensors.torch import save_file
from test_trainer import SUBSTITUTES, picture_rows

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.attacks import BertAttack, LevenshteinAttack
from hf_mmcoa.tiny_clip import tiny_clip


class _SaveGradients(MMCoATrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_world_process_zero():
            weights = self.accelerator.unwrap_model(model).named_parameters()
            gradients = {name: weight.grad for name, weight in weights if weight.grad is not None}
            save_file(gradients, f"{self.args.output_dir}/gradients.safetensors")
        return loss


CASES = {
    "class prompts, diagonal": (False, {"targets": "diagonal"}),
    "class prompts, class": (False, {"targets": "class"}),
    "captions, class": (True, {"targets": "class"}),
    "captions, iterates": (True, {"accumulate_attack_gradients": True}),
    "captions, embeddings": (True, {"targets": "diagonal", "text_attack": "words+embedding"}),
    "frozen text encoder": (False, {"train_text_encoder": False}),
    "tecoa": (False, {"objective": "tecoa"}),
    "fare": (False, {"objective": "fare", "clean_weight": 0.5}),
    "pmg-aft": (False, {"objective": "pmg-aft"}),
    "tga-zsr": (False, {"objective": "tga-zsr"}),
    "leaf": (True, {"objective": "leaf"}),
}


def save_gradients(output_dir: str, batch_size: int) -> None:
    """Train one step of every case and save the gradients below `output_dir`, in a folder of the case's name."""
    torch.set_num_threads(1)
    for name, (captions, settings) in CASES.items():
        _one_step(f"{output_dir}/{name}", batch_size, captions, settings)


def _one_step(output_dir: str, batch_size: int, captions: bool, settings: dict[str, Any]) -> None:
    rows = picture_rows(text=captions)
    texts = ["This is a photo of a cat dog red car feline hound scarlet"]
    model, processor = tiny_clip(texts, image_size=32, patch_size=8, width=32)
    teacher, _ = tiny_clip(texts, image_size=32, patch_size=8, width=32, seed=1)  # unlike it: nothing is 0 at the start
    args = MMCoAConfig(
        output_dir=output_dir,
        per_device_train_batch_size=batch_size,
        max_steps=1,
        num_steps=2,
        random_start=False,  # each process draws its own; without one an attack is the same wherever it runs
        epsilon="8/255",
        step_size="4/255",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    words, characters = BertAttack(candidates=SUBSTITUTES), LevenshteinAttack(num_samples=None, alphabet="x")
    given = {"teacher": teacher, "text_attack": characters if args.objective == "leaf" else words}
    _SaveGradients(model, args, train_dataset=rows, processing_class=processor, **given).train()


if __name__ == "__main__":
    save_gradients(sys.argv[1], int(sys.argv[2]))
