"""Whether a GPU computes what a CPU does: embeddings, losses and gradients, attacks, evaluation, resumed training."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.state import AcceleratorState
from epoch import pictures
from gpu_bench import Bench, Finding, attempt, check, found
from safetensors.torch import load_file
from subject import Subject
from torch import Tensor
from training_step import Sides
from transformers import TrainerCallback

from hf_mmcoa import MMCoAConfig, MMCoATrainer, evaluate_robustness
from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.evaluation import ThreatModel
from hf_mmcoa.models.encoder import DualEncoder

# Rounding differs between devices: unit embeddings by 1e-6 in a ViT-B/32; a sign of the gradient near 0 may turn.
EMBEDDINGS, LOSS, COSINE, PIXELS, TEXTS, OUTCOMES = 1e-4, 1e-3, 0.999, 0.98, 0.9, 0.95


def correctness(bench: Bench) -> Iterator[Finding]:
    """Run every check, whatever becomes of the others."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for each in CHECKS:
        yield from attempt(each.__name__, lambda each=each: each(bench))  # type: ignore[misc]
        AcceleratorState._reset_state(reset_partial_state=True)
        bench.free()


def on_cpu(measured: Subject) -> Subject:
    """The same model on the CPU."""
    return replace(measured, model=copy.deepcopy(measured.model).cpu())


def embeddings(bench: Bench) -> Iterator[Finding]:
    """Unit embeddings of images and texts."""
    measured = bench.subject("vit-b-32")
    images = torch.rand(8, 3, *[measured.model.config.vision_config.image_size] * 2)
    texts = [f"This is a photo of a {name}" for name in measured.class_names]
    sides = []
    for side, device in ((measured, bench.device), (on_cpu(measured), "cpu")):
        encoder = DualEncoder(side.model, side.processor)
        with torch.no_grad():
            sides.append((encoder.encode_images(images.to(device)).cpu(), encoder.encode_texts(texts).cpu()))
    for name, one, other in zip(("images", "texts"), *sides, strict=True):
        largest = float((one - other).abs().max())
        yield check(f"largest difference of unit embeddings of {name}", largest, largest < EMBEDDINGS)


def step(bench: Bench) -> Iterator[Finding]:
    """A training step in float32: the attacked pixels and texts, the loss, and the gradient of every weight."""
    measured, results = bench.subject("vit-b-32"), []
    cpu = on_cpu(measured)
    for side, device in ((measured, bench.device), (cpu, "cpu")):
        AcceleratorState._reset_state(reset_partial_state=True)
        sides = Sides(side, 8, 3, device=device)
        delta = sides.our_attack(3)
        loss = float(sides.ours()["loss"])
        grads = [weight.grad for weight in side.model.parameters() if weight.grad is not None]
        results.append((delta.cpu(), sides.adv_texts, loss, torch.cat([grad.flatten().cpu() for grad in grads])))
    (delta, texts, loss, grad), (cpu_delta, cpu_texts, cpu_loss, cpu_grad) = results
    alike = float(((delta - cpu_delta).abs() < 1e-6).float().mean())
    yield check("attacked pixels alike", alike, alike >= PIXELS)
    same = sum(one == other for one, other in zip(texts, cpu_texts, strict=True)) / len(texts)
    yield check("attacked texts alike", same, same >= TEXTS)
    yield check("difference of the losses", abs(loss - cpu_loss), abs(loss - cpu_loss) < LOSS * abs(cpu_loss))
    cosine = float(torch.cosine_similarity(grad.double(), cpu_grad.double(), dim=0))
    yield check("cosine of the gradients of all weights", cosine, cosine > COSINE)


def precision(bench: Bench) -> Iterator[Finding]:
    """In bf16 autocast the encoder computes in bf16; pixels, perturbation, loss, gradient and weights stay float32."""
    measured = bench.subject("vit-b-32")
    sides = Sides(measured, 4, 2, device=bench.device, bf16=True)
    attack, seen = sides.trainer.attacker.image_attack, {}
    layer = measured.model.vision_model.encoder.layers[0].mlp.fc1
    handle = layer.register_forward_hook(lambda _, inputs, output: seen.update(encoder=output.dtype))

    def watched(images: Tensor, loss_fn: Callable[[Tensor], Tensor], generator: Any = None) -> Tensor:
        def loss(points: Tensor) -> Tensor:
            value = loss_fn(points)
            seen.update(images=points.dtype, loss=value.dtype)
            return value

        def direction(points: Tensor) -> Tensor:
            with torch.enable_grad():
                points = points.detach().requires_grad_()
                (grad,) = torch.autograd.grad(loss(points).sum(), points)
            seen.update(gradient=grad.dtype)
            return grad

        return attack.climb(images, direction, generator)

    sides.trainer.attacker.image_attack = watched
    batch = sides.trainer._read(dict(sides.batch))
    adv_images, _ = sides.trainer.attacker.attack_images(batch, torch.Generator(bench.device))
    handle.remove()
    sides.trainer.attacker.image_attack = attack
    for name in ("images", "loss", "gradient"):
        yield check(f"dtype of the attack's {name}", str(seen[name]), seen[name] == torch.float32)
    yield check("dtype of the encoder inside the attack", str(seen["encoder"]), seen["encoder"] == torch.bfloat16)
    weights = {weight.dtype for weight in measured.model.parameters()}
    yield check("dtype of the weights", ", ".join(map(str, weights)), weights == {torch.float32})
    largest = float((adv_images - sides.images).abs().max())
    yield check("largest perturbation in 1/255", 255 * largest, 0.99 < 255 * largest < 1 + 1e-4)


def twice(bench: Bench) -> Iterator[Finding]:
    """The same attack twice, with its random start."""
    sides = Sides(bench.subject("vit-b-32"), 8, 3, device=bench.device)
    attacker = sides.trainer.attacker
    attacker.image_attack = replace(attacker.image_attack, random_start=True)
    batch = sides.trainer._read(dict(sides.batch))
    one, two = (attacker.attack_images(batch, attacker.generator("images"))[0] for _ in range(2))
    yield found("pixels of the same attack, run twice, that are equal bit for bit", float((one == two).float().mean()))
    alike = float(((one - two).abs() < 1e-6).float().mean())
    yield check("pixels of the same attack, run twice, that are alike", alike, alike >= PIXELS)


def resumed(bench: Bench) -> Iterator[Finding]:
    """A training that stops after a checkpoint and goes on, against one that does not; with torch's determinism."""
    for deterministic in (False, True):
        whole, resumed = (_trained(bench, deterministic, stops) for stops in (False, True))
        same = all(torch.equal(whole[name], resumed[name]) for name in whole)
        change = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
        what = "resumed weights equal bit for bit" + (", full_determinism" if deterministic else "")
        details = {"largest_difference": change}
        yield check(what, same, same, **details) if deterministic else found(what, same, **details)


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def _trained(bench: Bench, deterministic: bool, stops: bool) -> dict[str, Tensor]:
    """Weights after four steps of a tiny model; with `stops` in two trainers, the second from a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:

        def trainer(*callbacks: TrainerCallback) -> MMCoATrainer:
            measured = Bench(bench.device, quick=True).subject("")  # its weights are the same each time
            args = MMCoAConfig(
                output_dir=folder,
                max_steps=4,
                per_device_train_batch_size=8,
                save_strategy="steps",
                save_steps=2,
                learning_rate=1e-4,
                num_steps=3,
                text_attack="words",
                logging_steps=1000,
                report_to="none",
                disable_tqdm=True,
                use_cpu=not bench.cuda,
                full_determinism=deterministic,
            )
            attack = BertAttack(
                candidates=measured.candidates, template=args.template, class_names=measured.class_names
            )
            data = pictures(measured, 32)
            given = {"train_dataset": data, "processing_class": measured.processor, "text_attack": attack}
            return MMCoATrainer(measured.model, args, callbacks=list(callbacks), **given)

        try:
            if stops:
                trainer(_StopAt(2)).train()
                last = trainer()
                last.train(resume_from_checkpoint=True)
            else:
                last = trainer()
                last.train()
            last.save_model(str(Path(folder) / "final"))
            return load_file(Path(folder) / "final" / "model.safetensors")
        finally:
            torch.use_deterministic_algorithms(False)
            os.environ.pop("CUDA_LAUNCH_BLOCKING", None)


def evaluated(bench: Bench) -> Iterator[Finding]:
    """`evaluate_robustness` on both devices: the outcome of every sample under every attack."""
    measured = Bench(bench.device, quick=True).subject("")
    data: datasets.Dataset = pictures(measured, 48)
    spec = ThreatModel.preset("quick", epsilon="8/255", step_size="2/255", num_steps=5)
    outcomes = []
    for side in (measured, on_cpu(measured)):
        AcceleratorState._reset_state(reset_partial_state=True)
        result = evaluate_robustness(
            side.model, side.processor, data, threat_model=spec, candidates=side.candidates, progress=False
        )
        outcomes.append(result["outcomes"])
    for name, signs in outcomes[0].items():
        alike = sum(one == other for one, other in zip(signs, outcomes[1][name], strict=True)) / len(signs)
        yield check(f"outcomes alike under {name}", alike, alike >= OUTCOMES)


CHECKS = (embeddings, step, precision, twice, resumed, evaluated)
