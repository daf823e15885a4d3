"""Say what a protocol would do: cells, downloads, disk space, and the time, estimated from steps measured here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, CLIPConfig, CLIPModel

from ..attacks.image_losses import NUM_TARGETS
from ..data.benchmark_info import describe
from ..data.benchmarks import Source, find_benchmark
from ..models import encoding
from ..testbed.tiny_clip import tiny_clip
from .cell import Cell, Data
from .cell_models import base_folder, trained_folder
from .cells import check_settings, result_path
from .protocol import Protocol

PROMPT_LENGTH = 12  # tokens, about what a class prompt has


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds measured on this machine for one attack gradient per image and for one text's embedding."""

    image_gradient: float
    text: float
    parameters: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Size:
    """The numbers of rows of a split and of classes, where they are known without a download."""

    rows: int | None
    classes: int


def plan_protocol(protocol: Protocol, output: str | Path, processes: int = 1) -> str:
    """Return a text about a protocol: the state of its cells, downloads, disk space and time.

    Nothing is downloaded and no model is trained. The time is an upper bound: evaluation stops attacking misclassified
    samples, mostly long before the last step.
    """
    output = Path(output)
    cells = protocol.cells()
    waiting = [cell for cell in cells if not result_path(cell, output).exists()]
    bases = {base for cell in waiting if (base := base_folder(protocol, cell, output)) and not base.is_dir()}
    models = {
        model: cell for cell in waiting if (model := trained_folder(cell, output)) is not None and not model.is_dir()
    }
    speed = measured_step(protocol)
    lines = [f"{protocol.name}: {len(cells)} cells, {len(cells) - len(waiting)} finished", ""]
    lines += [f"  {cell.name}: {_state(cell, output)}" for cell in cells]
    lines += ["", "downloads", ""]
    download_mb, unknown = 0.0, 0
    for text, megabytes in _downloads(protocol):
        lines.append(f"  {text}")
        download_mb += megabytes or 0
        unknown += megabytes is None
    if not lines[-1]:
        lines.append("  none")
    folders = len(bases) + len(models)
    model_mb = 4e-6 * speed.parameters * folders
    more = f" and {unknown} of unknown size" if unknown else ""
    lines += [
        "",
        f"disk: downloads {_megabytes(download_mb)}{more}; {folders} models {_megabytes(model_mb)}",
        "",
        f"measured on {speed.what}: {1e3 * speed.image_gradient:.3g} ms an image and attack step, "
        f"{1e3 * speed.text:.3g} ms a text",
        *_time(protocol, waiting, len(bases), list(models.values()), speed, processes),
    ]
    return "\n".join(lines)


def measured_step(protocol: Protocol) -> Speed:
    """Time one attack gradient and one text on the architecture with random weights, which need no download."""
    device = protocol.arguments("unused", "clean", 0).device
    model: Any
    if protocol.tiny is not None:
        model, _ = tiny_clip(
            ["a photo"], image_size=protocol.tiny["image_size"], patch_size=protocol.tiny["patch_size"]
        )
        what, batch = "a tiny CLIP", protocol.batch_size
    else:
        model, what = _untrained(str(protocol.model))
        batch = 4 if device.type == "cpu" else 32
    model.to(device).requires_grad_(False)
    config: Any = model.config
    size = config.vision_config.image_size
    pixels = torch.rand(batch, 3, size, size, device=device, requires_grad=True)
    ids = torch.full((batch, PROMPT_LENGTH), 1, device=device)
    ids[:, -1] = config.text_config.eos_token_id

    def gradient() -> None:
        torch.autograd.grad(encoding.image_embeds(model, pixels).sum(), pixels)

    with torch.no_grad():
        text = _seconds(lambda: encoding.text_embeds(model, ids))
    return Speed(
        image_gradient=_seconds(gradient) / batch,
        text=text / batch,
        parameters=sum(weight.numel() for weight in model.parameters()),
        what=f"{what} on {device.type}, {torch.get_num_threads()} threads",
    )


def _untrained(name: str) -> tuple[CLIPModel, str]:
    """Build a model's architecture with random weights, from its local configuration, else the paper's ViT-B/32."""
    cached = Path(name).is_dir() or isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str)
    config = AutoConfig.from_pretrained(name, local_files_only=True) if cached else CLIPConfig()
    if not isinstance(config, CLIPConfig):
        raise ValueError(f"`model`: {name!r} is a {config.model_type!r} model; one of type 'clip' is needed.")
    return CLIPModel(config), name if cached else f"CLIP ViT-B/32 in place of {name}, which is not here yet,"


def _seconds(work: Callable[[], Any]) -> float:
    """Return the time of the faster of two calls after one to warm up."""
    work()
    times = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def _state(cell: Cell, output: Path) -> str:
    try:
        check_settings(cell, output)
    except ValueError as error:
        return f"refused: {error}"
    if result_path(cell, output).exists():
        return "finished"
    return "begun" if result_path(cell, output).parent.is_dir() else "to do"


# Downloads


def _downloads(protocol: Protocol) -> list[tuple[str, float | None]]:
    """Return what each data set and model needs from the Hub, with its size in megabytes where it is known."""
    found: list[tuple[str, float | None]] = []
    trains = any(method.trains for method in protocol.objectives) or protocol.tiny is not None
    for data in protocol.all_data:
        evaluated = data in (protocol.datasets or protocol.evaluate_on)
        trained = trains and (data in protocol.datasets or data == protocol.train_on or protocol.tiny is not None)
        splits = [data.train_split] * trained + [data.test_split] * evaluated
        found.append(_download(data, list(dict.fromkeys(splits))))
    if protocol.model is not None and not Path(protocol.model).is_dir():
        found.append(_model_download(protocol.model))
    if "masked-lm" in {protocol.candidates, *(data.candidates for data in protocol.all_data)}:
        found.append(_model_download(protocol.arguments("unused", "clean", 0).masked_lm))
    return found


def _download(data: Data, splits: list[str]) -> tuple[str, float | None]:
    if data.data_dir is not None:
        hint = f" (make it: {data.made_by})" if data.made_by else ""
        there = "" if Path(data.data_dir).is_dir() else f", which is not there{hint}"
        return f"{data.name}: nothing, read from {data.data_dir}{there}", 0.0
    row = find_benchmark(data.dataset or data.name)
    if row is None:
        return f"{data.name}: {data.dataset or data.name}, splits {', '.join(splits)}", None
    texts, total, unknown = [], 0.0, False
    sources = [source for split in splits if (source := _source(data, split)) is not None]
    for number, source in enumerate(sources):
        if source in sources[:number]:
            continue
        if source.format in ("idx", "embedded"):
            texts.append(f"nothing, {source.notes}")
            continue
        own = [split for split in splits if _source(data, split) == source]
        globs = [source.files[hub] for split in own for hub in source.hub_splits(split)]
        cached = _cached(source, globs)
        size = f"at most {_megabytes(source.size_mb)}" if source.size_mb else "size unknown"
        gated = ", gated: needs a token" if source.gated else ""
        at = f"@{source.revision[:8]}" if source.revision else ""
        texts.append(f"{source.hub_id}{at}: {', '.join(globs)} ({'in the cache' if cached else size}{gated})")
        total += 0 if cached else source.size_mb or 0
        unknown |= not cached and not source.size_mb
    return f"{data.name}: {'; '.join(texts)}", None if unknown else total


def _source(data: Data, split: str) -> Source | None:
    row = find_benchmark(data.dataset or data.name)
    return next((source for source in row.sources if source.hub_splits(split)), None) if row else None


def _cached(source: Source, globs: list[str]) -> bool:
    try:
        root = huggingface_hub.snapshot_download(
            source.hub_id, repo_type="dataset", revision=source.revision, local_files_only=True
        )
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return False
    return all(any(Path(root).glob(pattern)) for pattern in globs)


def _model_download(name: str) -> tuple[str, float | None]:
    if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
        return f"{name}: in the cache", 0.0
    return f"{name}: config, tokenizer and weights", None


def _megabytes(number: float) -> str:
    return f"{number / 1000:.1f} GB" if number >= 1000 else f"{number:.0f} MB" if number >= 1 else f"{number:.1f} MB"


# Time


def _size(data: Data, split: str) -> Size:
    """Return a split's size from the benchmark's row, or from local files; 0 classes where neither is known."""
    row, source = find_benchmark(data.dataset or data.name), _source(data, split)
    if row is not None and source is not None and source.format not in ("idx", "embedded") and not data.data_dir:
        counts = [source.counts.get(hub) for hub in source.hub_splits(split)]
        return Size(rows=None if None in counts else sum(filter(None, counts)), classes=row.num_classes)
    if row is None and data.data_dir is None:
        return Size(rows=None, classes=0)  # on the Hub: a dry run must not read it
    try:
        dataset = data.load(split)
    except (OSError, ValueError):  # the cells will report it
        return Size(rows=None, classes=0)
    return Size(rows=len(dataset), classes=len(describe(dataset).class_names))


def _time(
    protocol: Protocol, waiting: list[Cell], num_bases: int, trained: list[Cell], speed: Speed, processes: int
) -> list[str]:
    sizes = {
        (data.name, split): _size(data, split)
        for cell in waiting
        for data, split in {(cell.data, cell.data.test_split), (cell.train_on or cell.data, cell.data.train_split)}
    }
    unknown: set[str] = set()
    pretraining = training = evaluation = 0.0
    if protocol.tiny is not None and waiting:
        first = waiting[0].train_on or waiting[0].data
        pictures = sizes[first.name, first.train_split].rows or 0
        pictures = min(pictures, protocol.tiny.get("max_samples") or pictures)
        # Forward and backward through both towers, weights too: at most two image gradients.
        pretraining = num_bases * protocol.tiny["epochs"] * pictures * 2 * speed.image_gradient
    for cell in trained:
        assert cell.train_on is not None
        size = sizes[cell.train_on.name, cell.train_on.train_split]
        rows = size.classes * cell.shots if cell.shots is not None else size.rows
        if rows is None:
            unknown.add(f"{cell.train_on.name}/{cell.train_on.train_split}")
            continue
        args = protocol.arguments("unused", cell.method, cell.seed)
        batch = min(args.train_batch_size, max(rows, 1))
        steps = args.max_steps if args.max_steps > 0 else args.num_train_epochs * max(rows // batch, 1)
        attacks = cell.method.objective != "clean"
        attack = args.attack_steps[0] if attacks else 0
        texts = min(size.classes, batch) * (args.num_candidates + 6) if attacks else size.classes * 3
        training += steps * (batch * (attack + 3) * speed.image_gradient + texts * speed.text)
    for cell in waiting:
        samples = sizes[cell.data.name, cell.data.test_split].rows or protocol.max_test_samples
        if samples is None:
            unknown.add(f"{cell.data.name}/{cell.data.test_split}")
            continue
        evaluation += min(samples, protocol.max_test_samples or samples) * _gradients(cell) * speed.image_gradient
    total = pretraining + training + evaluation
    lines = [
        f"time: {_duration(total)} at most ({_duration(pretraining)} pretraining, {_duration(training)} training, "
        f"{_duration(evaluation)} evaluation), {_duration(total / processes)} with {processes} "
        f"{'process' if processes == 1 else 'processes'} if each has its own cores or device"
    ]
    if unknown:
        lines.append(f"not counted, of unknown size: {', '.join(sorted(unknown))}")
    return lines


def _gradients(cell: Cell) -> int:
    """Return the number of image gradients for a sample that withstands all attacks of two sources."""
    spec = cell.settings["threat_model"]
    restarts = spec["restarts"]
    runs = {"strong": 2 + NUM_TARGETS, "apgd-targeted": restarts * NUM_TARGETS}  # the others climb one loss each
    image = sum(runs.get(name, restarts) for name in spec["image_attacks"])
    multimodal = sum({"independent": 0, "adaptive": image}.get(a, restarts) for a in spec["multimodal_attacks"])
    return int(spec["num_steps"] * (image + 2 * multimodal))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
