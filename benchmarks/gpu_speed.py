"""How fast a GPU takes training steps, attack steps and evaluations, and where it waits for the host."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import arithmetic
import torch
import torch.nn.functional as F
from epoch import PARTS, epoch, pictures, share
from gpu_bench import NEEDS_CUDA, Bench, Finding, attempt, check, found
from host_reads import host_reads
from torch import Tensor
from training_step import Sides

from hf_mmcoa import ZeroShotClassifier, evaluate_robustness
from hf_mmcoa.attacks import AutoAttack
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.evaluation import ThreatModel

STEPS = 10
PIECES = {"attack_batch_size": 64, "encode_batch_size": 64}
TRAINED: list[tuple[str, int, str, dict[str, Any]]] = [  # shape, batch, attention, settings
    ("vit-b-32", 64, "sdpa", {}),
    ("vit-b-32", 256, "sdpa", {}),
    ("vit-l-14", 64, "sdpa", {}),
    ("vit-l-14", 256, "sdpa", PIECES),
    ("vit-b-32", 256, "eager", {}),
    ("vit-b-32", 256, "sdpa", {"bf16": False}),
    ("vit-b-32", 256, "sdpa", {"attack_schedule": "fast"}),
    ("vit-b-32", 256, "sdpa", {"attack_schedule": "shared"}),
]
ATTACKED: list[tuple[str, int, str, dict[str, Any]]] = [
    ("vit-b-32", 64, "sdpa", {}),
    ("vit-b-32", 256, "sdpa", {}),
    ("vit-b-32", 256, "eager", {}),
    ("vit-l-14", 64, "sdpa", {}),
    ("vit-l-14", 64, "eager", {}),
]
GRAPHED = [("vit-b-32", 64), ("vit-b-32", 256), ("vit-l-14", 64)]
EVALUATED = 256


def named(shape: str, batch_size: int, attention: str, settings: dict[str, Any]) -> str:
    """Return what a row of a table is called."""
    return ", ".join(
        [shape, f"batch {batch_size}", attention, *(f"{name}={value}" for name, value in settings.items())]
    )


def sides_of(bench: Bench, shape: str, batch_size: int, attention: str, settings: dict[str, Any]) -> Sides:
    """Return a batch and its trainer on the device, in bf16 unless the settings say otherwise."""
    if bench.quick:
        batch_size, settings = 4, {name: 2 if name in PIECES else value for name, value in settings.items()}
    measured = bench.subject(shape)
    measured.model.set_attn_implementation(attention)
    steps = 2 if bench.quick else STEPS
    return Sides(measured, batch_size, steps, device=bench.device, **{"bf16": True, **settings})


def steps(bench: Bench) -> Iterator[Finding]:
    """Whole training steps: attacks on images and words, loss, backward and AdamW; the batch lies on the device."""
    for case in TRAINED:
        yield from attempt(named(*case), lambda case=case: _step(bench, *case))  # type: ignore[misc]
        bench.free()


def _step(bench: Bench, shape: str, batch_size: int, attention: str, settings: dict[str, Any]) -> Iterator[Finding]:
    # Pieces are the trainer's own settings, which `Sides` writes for both of its own.
    pieces = settings.get("encode_batch_size", 0)
    rest = {name: value for name, value in settings.items() if name not in PIECES}
    sides = sides_of(bench, shape, batch_size, attention, {**rest, "pieces": 2 if pieces and bench.quick else pieces})
    trainer = sides.trainer
    model = trainer.accelerator.prepare_model(sides.model)
    trainer.current_gradient_accumulation_steps = 1  # the Trainer's loop sets it
    optimizer = torch.optim.AdamW(sides.model.parameters(), lr=1e-6, fused=bench.cuda)

    def step() -> None:
        optimizer.zero_grad()
        trainer.training_step(model, dict(sides.batch))
        optimizer.step()

    step()
    peak = bench.peak(step)
    seconds = bench.seconds(step, warm_ups=0)
    name = named(shape, batch_size, attention, settings)
    yield found(f"training step, {name}", seconds, "s", images_per_second=len(sides.images) / seconds)
    yield found(f"training step, {name}: peak memory beside weights and optimizer", peak, "GiB")


def attack(bench: Bench) -> Iterator[Finding]:
    """PGD-10 on images alone, as a share of what a matrix product reaches on the same card."""
    peak = matrix_product(bench)
    yield found("bf16 matrix product", 2 * peak / 1e12, "TFLOP/s")
    for case in ATTACKED:
        yield from attempt(named(*case), lambda case=case: _attack(bench, peak, *case))  # type: ignore[misc]
        bench.free()
    for shape, batch_size in GRAPHED:
        what = f"{shape}, batch {batch_size}, CUDA graph"
        if not bench.cuda:
            yield found(what, NEEDS_CUDA)
            continue
        yield from attempt(what, lambda shape=shape, batch_size=batch_size: _graph(bench, shape, batch_size))  # type: ignore[misc]
        bench.free()


def compiled(bench: Bench) -> Iterator[Finding]:
    """The same with `compile_attack`; the first call compiles. `--quick` traces, and generates no code."""
    backend = {"backend": "aot_eager"} if bench.quick else {}
    with mock.patch.object(torch, "compile", partial(torch.compile, **backend)):
        yield from _attack(bench, matrix_product(bench), "vit-b-32", 256, "sdpa", {"compile_attack": True})


def matrix_product(bench: Bench) -> float:
    """Return the multiplications a second of a large product in bf16."""
    size = 256 if bench.quick else 8192
    left, right = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return size**3 / bench.seconds(lambda: left @ right, repeats=10)


def _attack(
    bench: Bench, peak: float, shape: str, batch_size: int, attention: str, settings: dict[str, Any]
) -> Iterator[Finding]:
    sides = sides_of(bench, shape, batch_size, attention, settings)
    batch = sides.trainer._read(dict(sides.batch))
    attacker, generator = sides.trainer.attacker, torch.Generator(bench.device)

    def run() -> Tensor:
        return attacker.attack_images(batch, generator)[0]

    start = time.perf_counter()
    run()
    bench.synchronize()
    first = time.perf_counter() - start
    seconds = bench.seconds(run, warm_ups=0)
    one = arithmetic.image(sides.model.config)
    count = sides.args.num_steps * len(sides.images) * (one.forward + one.to_input)
    yield found(
        f"attack, {named(shape, batch_size, attention, settings)}",
        seconds,
        "s",
        share_of_matrix_product=count / seconds / peak,
        first_call_seconds=first,
    )


def _graph(bench: Bench, shape: str, batch_size: int) -> Iterator[Finding]:
    """One step of PGD captured and replayed, against the same steps launched one by one."""
    sides = sides_of(bench, shape, batch_size, "sdpa", {})
    batch, attacked = sides.trainer._read(dict(sides.batch)), sides.trainer.attacker.image_attack
    images, labels, scale = batch.images, batch.anchor_ids, sides.encoder.logit_scale.detach()
    delta = torch.zeros_like(images)

    def step() -> None:
        # A cached bf16 copy of a weight would be made outside the graph and be gone when it is replayed.
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            points = (images + delta).requires_grad_()
            logits = scale * sides.encoder.encode_images(points) @ batch.anchors.T
            (grad,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), points)
        delta.copy_(attacked.project(delta + attacked.step(grad), images))

    def run(once: Callable[[], None]) -> Tensor:
        delta.zero_()
        for _ in range(STEPS):
            once()
        return images + delta

    plain = bench.seconds(lambda: run(step))
    expected = run(step).clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    seconds = bench.seconds(lambda: run(graph.replay))
    alike = float(((run(graph.replay) - expected).abs() < 1e-6).float().mean())
    yield found(f"attack, {shape}, batch {batch_size}, CUDA graph", seconds, "s", without_a_graph=plain)
    yield check(f"attack, {shape}, batch {batch_size}, CUDA graph: pixels alike", alike, alike > 0.95)


def reads(bench: Bench) -> Iterator[Finding]:
    """How often the host waits for the device in a step of the attack, and in the rest of a batch."""
    counts = {}
    for number in (2, 12):
        sides = Sides(bench.subject("vit-b-32"), 8, number, device=bench.device, bf16=True)
        batch, generator = sides.trainer._read(dict(sides.batch)), torch.Generator(bench.device)
        sides.trainer.attacker.attack_images(batch, generator)
        with host_reads(torch.device(bench.device)) as counts[number]:
            sides.trainer.attacker.attack_images(batch, generator)
    per_step = (counts[12].total() - counts[2].total()) / 10
    places = dict(counts[12])
    yield check("times that the host waits in one step of the image attack", per_step, per_step == 0, places=places)
    sides.ours()
    with host_reads(torch.device(bench.device)) as whole:
        sides.ours()
    yield found("times that the host waits in a whole training step", whole.total(), places=dict(whole.most_common()))


def evaluation(bench: Bench) -> Iterator[Finding]:
    """`evaluate_robustness` end to end, decoding and hashing of weights included, and AutoAttack."""
    measured, count = bench.subject("vit-b-32"), 8 if bench.quick else EVALUATED
    model, size = measured.model, measured.model.config.vision_config.image_size
    data = pictures(measured, count)
    classifier = ZeroShotClassifier(model, measured.processor, measured.class_names)
    rows = ImageRows(data, "image", "label", None, "model", size)
    images = collate(rows.__getitems__(list(range(count))))["images"].to(bench.device)
    with torch.no_grad():
        labels = classifier(images).argmax(1)  # as the model classifies them, so that all are attacked
    data = data.remove_columns("label").add_column("label", labels.tolist()).cast(data.features)
    effort = {"num_steps": 2, "restarts": 1} if bench.quick else {}
    for preset in ("quick", "standard"):

        def evaluate(preset: str = preset) -> Iterator[Finding]:
            spec = ThreatModel.preset(preset, **effort)
            start = time.perf_counter()
            result = evaluate_robustness(
                model, measured.processor, data, threat_model=spec, candidates=measured.candidates, progress=False
            )
            seconds = time.perf_counter() - start
            robust = {"image_accuracy": result["image_accuracy"]}
            yield found(f"evaluation, {preset}, {count} images", count / seconds, "images/s", seconds=seconds, **robust)

        yield from attempt(f"evaluation, {preset}", evaluate)
        bench.free()
    if importlib.util.find_spec("pyautoattack") is None:
        yield found("AutoAttack", "needs pyautoattack")
        return

    def autoattack() -> Iterator[Finding]:
        version = "apgd-ce" if bench.quick else "standard"
        start = time.perf_counter()
        adv_images = AutoAttack(epsilon=1 / 255, version=version)(images, classifier, labels)
        bench.synchronize()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            robust = float((classifier(adv_images).argmax(1) == labels).float().mean())
        yield found(f"AutoAttack, {version}", count / seconds, "images/s", seconds=seconds, image_accuracy=robust)
        inside = float((adv_images - images).abs().max() * 255)
        yield check("AutoAttack: largest perturbation in 1/255", inside, inside < 1 + 1e-3)

    yield from attempt("AutoAttack", autoattack)


def parts(bench: Bench) -> Iterator[Finding]:
    """Where an epoch's time goes, with substitutes from a masked language model of BERT-base's shape."""
    images, batch_size = (8, 4) if bench.quick else (1024, 256)
    settings: dict[str, Any] = {"bf16": True, **({"num_steps": 2} if bench.quick else {"dataloader_num_workers": 4})}
    measured, clocks = bench.subject("vit-b-32"), {"wall": time.perf_counter}
    seconds = epoch(measured, images, batch_size, bench.quick, bench.device, clocks, **settings)["wall"]
    whole = sum(seconds.values())
    yield found(f"epoch of {images} images, batch {batch_size}", whole, "s", images_per_second=images / whole)
    for part in PARTS:
        yield found(f"epoch: share of {part}", share(seconds, part), "", seconds=seconds[part])
