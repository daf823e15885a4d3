"""Say what a protocol would do: cells, downloads, disk space, and the time, estimated from steps measured here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, CLIPConfig, CLIPModel

from ..attacks.image_losses import NUM_TARGETS
from ..attacks.settings import THREATS
from ..convert.robust_clips import find_robust_clip, is_robust
from ..data.benchmarks import Source, find_benchmark
from ..models import encoding
from ..report.conditions import count
from ..testbed.english_clip import english_clip
from ..testbed.pictogram_clip import SHIPPED
from ..testbed.tiny_clip import tiny_clip
from .cell import HELD_OUT, Cell, Data, shots_name, split_and_part
from .cell_models import base_folder, trained_folder
from .cells import check_settings, result_path
from .protocol import ENGLISH, Protocol
from .split_sizes import first_source, shots_lines, split_size
from .step_rates import Rate, rate_of, read_rates
from .work import Work, training_work

PROMPT_LENGTH = 12  # tokens, about what a class prompt has


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds measured on this machine for one attack gradient per image and for one text's embedding."""

    image_gradient: float
    text: float
    parameters: int
    what: str


def plan_protocol(protocol: Protocol, output: str | Path, processes: int = 1) -> str:
    """Return a text about a protocol: the state of its cells, shots, downloads, disk space, work and time.

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
    if shots := shots_lines(protocol, waiting):
        lines += ["", "shots", "", *(f"  {line}" for line in shots)]
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
        "",
        *_time(protocol, waiting, len(bases), list(models.values()), speed, read_rates(output), processes),
    ]
    return "\n".join(lines)


def measured_step(protocol: Protocol) -> Speed:
    """Time one attack gradient and one text on the architecture with random weights, which need no download."""
    device = protocol.arguments("unused", "clean", 0).device
    model: Any
    if protocol.tiny is not None:
        sizes = {name: protocol.tiny[name] for name in ("image_size", "patch_size")}
        english = protocol.tiny.get("text_tower") == ENGLISH
        model, _ = english_clip(**sizes) if english else tiny_clip(["a photo"], **sizes)
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
    if name in SHIPPED:
        return SHIPPED[name]()[0], f"the shipped CLIP of the {name}"
    *_, name = _repositories(name)
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
    if protocol.model is not None and protocol.model not in SHIPPED and not Path(protocol.model).is_dir():
        found += [_model_download(each) for each in _repositories(protocol.model)]
    if "masked-lm" in {protocol.candidates, *(data.candidates for data in protocol.all_data)}:
        found.append(_model_download(protocol.arguments("unused", "clean", 0).masked_lm))
    return found


def _repositories(model: str) -> list[str]:
    """Return the Hub repositories that a model is read from; of a robust CLIP, last its base, whose sizes it has."""
    if not is_robust(model):
        return [model]
    row = find_robust_clip(model)
    return [each for each in (row.hub_id, row.base) if each]


def _download(data: Data, splits: list[str]) -> tuple[str, float | None]:
    if data.data_dir is not None:
        hint = f" (make it: {data.made_by})" if data.made_by else ""
        there = "" if Path(data.data_dir).is_dir() else f", which is not there{hint}"
        return f"{data.name}: nothing, read from {data.data_dir}{there}", 0.0
    row = find_benchmark(data.dataset or data.name)
    if row is None:
        return f"{data.name}: {data.dataset or data.name}, splits {', '.join(splits)}", None
    texts, total, unknown = [], 0.0, False
    sources = [source for split in splits if (source := first_source(data, split)) is not None]
    for number, source in enumerate(sources):
        if source in sources[:number]:
            continue
        if source.format in ("idx", "embedded"):
            texts.append(f"nothing, {source.notes}")
            continue
        own = [split for split in splits if first_source(data, split) == source]
        globs = [source.files[hub] for split in own for hub in source.hub_splits(split_and_part(split)[0])]
        cached = _cached(source, globs)
        size = f"at most {_megabytes(source.size_mb)}" if source.size_mb else "size unknown"
        gated = ", gated: needs a token" if source.gated else ""
        at = f"@{source.revision[:8]}" if source.revision else ""
        texts.append(f"{source.hub_id}{at}: {', '.join(globs)} ({'in the cache' if cached else size}{gated})")
        total += 0 if cached else source.size_mb or 0
        unknown |= not cached and not source.size_mb
    return f"{data.name}: {'; '.join(texts)}", None if unknown else total


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


def _time(
    protocol: Protocol,
    waiting: list[Cell],
    num_bases: int,
    trained: list[Cell],
    speed: Speed,
    rates: Sequence[Rate],
    processes: int,
) -> list[str]:
    """Return lines about the work of the trainings and the time of everything."""
    named = {
        (data.name, split): data  # each is read once, however many cells have it
        for cell in [*waiting, *trained]
        for data, split in (
            (cell.data, cell.data.test_split),
            (cell.trained_or_measured_on, cell.trained_or_measured_on.train_split),
        )
    }
    sizes = {(name, split): split_size(data, split) for (name, split), data in named.items()}
    unknown: set[str] = set()
    works: dict[str, list[tuple[int, Work]]] = {}
    pretraining = training = evaluation = 0.0
    measured: list[Rate] = []
    if protocol.tiny is not None and waiting:
        first = waiting[0].trained_or_measured_on
        pictures = sizes[first.name, first.train_split].rows or 0
        pictures = min(pictures, protocol.tiny.get("max_samples") or pictures)
        # Forward and backward through both towers, weights too: at most two image gradients.
        pretraining = num_bases * protocol.tiny["epochs"] * pictures * 2 * speed.image_gradient
    for cell in trained:
        assert cell.train_on is not None
        size = sizes[cell.train_on.name, cell.train_on.train_split]
        rows = size.classes * cell.shots if cell.shots is not None and size.classes else size.rows
        if rows is None:
            unknown.add(f"{cell.train_on.name}/{cell.train_on.train_split}")
            continue
        args = protocol.arguments("unused", cell.method, cell.seed)
        if cell.shots is None and args.eval_strategy != "no":
            rows -= max(1, round(HELD_OUT * rows))
        work = training_work(args, rows)
        where = f"{cell.train_on.name}/{cell.train_on.train_split}, {shots_name(cell.shots)}"
        works.setdefault(where, []).append((rows, work))
        if (rate := rate_of(cell, rates)) is not None:
            measured.append(rate)
            training += work.steps * rate.seconds
            continue
        batch = min(args.per_device_train_batch_size, max(rows, 1))
        texts = min(size.classes, batch) * (args.num_candidates + 6) if work.attacks_texts else size.classes * 3
        images = work.attack_gradients + 3 * work.images
        training += images * speed.image_gradient + work.steps * texts * speed.text
    for cell in waiting:
        samples = sizes[cell.data.name, cell.data.test_split].rows or protocol.max_test_samples
        if samples is None:
            unknown.add(f"{cell.data.name}/{cell.data.test_split}")
            continue
        evaluation += min(samples, protocol.max_test_samples or samples) * _gradients(cell) * speed.image_gradient
    total = pretraining + training + evaluation
    lines = [*_work_lines(works), *_rate_lines(measured, sum(map(len, works.values())))]
    lines.append(
        f"time: {_duration(total)} at most ({_duration(pretraining)} pretraining, {_duration(training)} training, "
        f"{_duration(evaluation)} evaluation), {_duration(total / processes)} with {processes} "
        f"{'job' if processes == 1 else 'jobs'} if each has its own cores or device"
    )
    if unknown:
        lines.append(f"not counted, of unknown size: {', '.join(sorted(unknown))}")
    return lines


def _work_lines(works: Mapping[str, Sequence[tuple[int, Work]]]) -> list[str]:
    """Return a line for each data set and number of shots, and one for their sum."""
    if not works:
        return []
    lines = ["training", ""]
    for where, each in works.items():
        rows = {number for number, _ in each}
        steps = sorted({work.steps for _, work in each})
        lines.append(
            f"  {where}: {count(len(each), 'training')} of {' or '.join(f'{number:,}' for number in steps)} steps on "
            f"{' or '.join(f'{number:,}' for number in sorted(rows))} images; {_sum([work for _, work in each])}"
        )
    every = [work for each in works.values() for _, work in each]
    return [*lines, f"  together: {sum(work.steps for work in every):,} steps, {_sum(every)}", ""]


def _sum(works: Sequence[Work]) -> str:
    images, gradients = sum(work.images for work in works), sum(work.attack_gradients for work in works)
    return f"{images:,} images seen, {gradients:,} attack gradients"


def _rate_lines(measured: Sequence[Rate], trainings: int) -> list[str]:
    """Say how many trainings are timed by steps that were measured in the output folder."""
    if not measured:
        return []
    slow, fast = (choose(rate.seconds for rate in measured) for choose in (max, min))
    span = f"{fast:.3g}" if f"{fast:.3g}" == f"{slow:.3g}" else f"{fast:.3g} to {slow:.3g}"
    devices = " and ".join(sorted({rate.device for rate in measured}))
    return [f"{len(measured)} of {trainings} trainings timed by steps of this folder: {span} s a step on {devices}"]


def _gradients(cell: Cell) -> int:
    """Return the number of image gradients for a sample that withstands all attacks of two sources."""
    spec, measured = cell.settings["threat_model"], cell.settings.get("measure", THREATS)
    restarts = spec["restarts"]
    runs = {"strong": 2 + NUM_TARGETS, "apgd-targeted": restarts * NUM_TARGETS}  # the others climb one loss each
    image = sum(runs.get(name, restarts) for name in spec["image_attacks"])
    multimodal = sum({"independent": 0, "adaptive": image}.get(a, restarts) for a in spec["multimodal_attacks"])
    return int(spec["num_steps"] * (image * ("image" in measured) + 2 * multimodal * ("multimodal" in measured)))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
