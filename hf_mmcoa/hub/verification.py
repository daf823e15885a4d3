"""Verify a published model: its card against its result files, and these against a measurement made now."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn

from ..evaluation.findings import Finding, failed, finding
from ..evaluation.provenance import versions
from ..evaluation.rules import check_rules
from ..evaluation.runner import evaluating
from ..file_names import CARD_FILE
from ..io import write_json
from ..models.encoder import load_clip
from ..report.conditions import fraction
from ..zero_shot import ZeroShotClassifier
from .card_claims import check_card
from .measurements import Measurements, measurements
from .model_folder import PUBLISHED, hub_id, read_checkpoint
from .remeasure import measure_again

FILE = "verification.json"
WEIGHTS = "results were measured on these weights"
IMAGES = 8  # of noise, for the rules of the forward pass
THREAT_MODELS = {"linf": "Linf", "l2": "L2"}  # RobustBench's names


def verify(
    folder_or_id: str,
    output: str | Path,
    *,
    max_samples: int | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
    accelerator: Any = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure the numbers of a model folder or a Hub repository again, and write `verification.json`.

    Args:
        folder_or_id: what `hf-mmcoa push` writes: weights, card and result files.
        output: folder for `verification.json` and the new result files; a verification that was interrupted goes on
            from there.
        max_samples: measure on so many of the recorded samples at most, drawn once.
        data_dir: folder that holds the data sets' files.
        revision: branch or commit of a Hub repository.
        accelerator: see `evaluate_robustness`.
        progress: show a bar.

    Returns:
        What was written. `results` holds an entry for each result file on these weights, in the manner of RobustBench's
        `model_info`: data set, threat model and `eps`, and `numbers` with `reported` beside `measured`, the interval
        and the verdict. `rules` holds findings: the weights, the card, RobustBench's rules, and the sanity checks of
        the new measurement that failed. `verdict` is "differs" if a number differs or a rule is broken, else "not
        measured" if a number could not be measured or there is none, else "holds".

    Raises:
        FileNotFoundError: if there is no such folder or repository.
        ValueError: if it holds no model.
    """
    folder = _folder(folder_or_id, revision)
    checkpoint = read_checkpoint(folder)
    model = checkpoint.model()
    processor = load_clip(str(checkpoint.base_model) if checkpoint.is_adapter else folder)[1]
    measured = measurements(folder, (), fingerprints := checkpoint.fingerprints(model))
    rules = [*_check_weights(measured, fingerprints), *check_card(checkpoint, measured)]
    results: list[dict[str, Any]] = []
    for column, result in _own_results(measured, fingerprints):
        again = measure_again(
            result,
            model,
            processor,
            name=folder_or_id,
            folder=Path(output) / "results",
            file=f"{len(results):02d}",
            max_samples=max_samples,
            data_dir=data_dir,
            accelerator=accelerator,
            progress=progress,
        )
        results.append(_entry(column, result, [asdict(one) for one in again.numbers], again.result))
        sanity = failed(again.result["sanity"]) if again.result else []
        rules += [{**one, "check": f"{result['dataset']}: {one['check']}"} for one in sanity]
    rules += _check_forward(model, processor)
    content = {
        "name": folder_or_id,
        "architecture": checkpoint.architecture.model_class.__name__,
        "weights": sorted(fingerprints),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "verdict": _verdict(results, rules),
        "results": results,
        "rules": rules,
        "not_measured": [f"{one.title}: retrieval and defences are not measured again" for one in measured.tables],
    }
    write_json(content, Path(output) / FILE)
    return content


def _folder(folder_or_id: str, revision: str | None) -> Path:
    """Return the folder of a model, fetched from the Hub if it is no local one: safetensors and text alone."""
    if (folder := Path(folder_or_id).expanduser()).is_dir():
        return folder
    if hub_id(folder_or_id) is None:
        raise FileNotFoundError(f"{folder_or_id} is no folder and no Hub id (owner/name).")
    try:
        return Path(snapshot_download(folder_or_id, revision=revision, allow_patterns=[*PUBLISHED, CARD_FILE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{folder_or_id} is no folder, and was not found on the Hub: {str(error).splitlines()[0]}"
        ) from error


def _own_results(measured: Measurements, fingerprints: set[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the results that were measured on these weights, by the name of their column."""
    return [
        (name, result)
        for section in measured.sections
        for name, result in section.columns.items()
        if result.get("fingerprints", {}).get("model") in fingerprints
    ]


def _check_weights(measured: Measurements, fingerprints: set[str]) -> list[Finding]:
    """Check that the result files can be read, do not contradict themselves, and belong to these weights."""
    if measured.left_out:
        return [finding(WEIGHTS, False, problem) for problem in measured.left_out]
    count = len(measured.sections) + len(measured.tables)
    if not count:
        return [finding(WEIGHTS, None, "not checked: the folder holds no result files")]
    return [finding(WEIGHTS, True, f"fingerprint {' or '.join(sorted(fingerprints))}")]


def _check_forward(model: nn.Module, processor: Any) -> list[Finding]:
    """Check RobustBench's rules of the forward pass on images of noise."""
    classifier = ZeroShotClassifier(model, processor, ["cat", "dog", "car"])
    size = classifier.encoder.image_size
    images = torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
    with evaluating(classifier):
        return check_rules(classifier, images.to(next(model.parameters()).device))


def _entry(
    column: str, result: Mapping[str, Any], numbers: list[dict[str, Any]], new: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return one result in the manner of RobustBench's `model_info`."""
    spec = result["attack_spec"]
    clean = next((one for one in numbers if one["accuracy"] == "clean_accuracy"), {})
    return {
        "column": column,
        "dataset": result.get("dataset", "unnamed"),
        "threat_model": THREAT_MODELS[spec["norm"]],
        "eps": fraction(float(spec["epsilon"])),
        "clean_acc": clean.get("measured"),
        "samples_reported": result["num_samples"],
        "versions_reported": result["versions"],
        "numbers": numbers,
        "attack_spec": spec,
        "measured_in": None if new is None else new["fingerprints"],
    }


def _verdict(results: list[dict[str, Any]], rules: list[Finding]) -> str:
    verdicts = [number["verdict"] for result in results for number in result["numbers"]]
    if "differs" in verdicts or failed(rules):
        return "differs"
    return "not measured" if "not measured" in verdicts or not verdicts else "holds"
