"""The `hf-mmcoa evaluate` command that repeats a result, for its model card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from ..attacks.factory import beyond_attack
from ..attacks.settings import pixels
from ..evaluation.prepare import ATTACKS
from ..evaluation.threat_model import IMAGE_ATTACKS, PRESETS, ThreatModel
from ..io import printable
from ..report.conditions import fraction
from ..substitutes.embedded import EMBEDDED, synonym_table
from ..substitutes.held_out import known_and_unseen
from ..substitutes.masked_lm import MASKED_LM
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Fields of a threat model that no option of `hf-mmcoa evaluate` changes.
_NO_OPTION = ("candidates", "random_start", "protect_template", "forbid_class_names", "skip_fallen")
# The description of a candidate source in a result -> its name on the command line.
_SOURCES = {
    "NeighbourCandidates()": "neighbours",
    "HotFlipCandidates()": "hotflip",
    "WordNetCandidates()": "wordnet",
    f"MaskedLMCandidates({MASKED_LM!r}, align_to_cls=True)": "masked-lm",
}


def evaluate_command(result: Mapping[str, Any], model: str) -> str | None:
    """Return the `hf-mmcoa evaluate` command that repeats a result.

    Args:
        result: a result of `evaluate_robustness`.
        model: folder or Hub id for the command.

    Returns:
        One line; None if the command's options cannot express the threat model.
    """
    spec = result["attack_spec"]
    candidates = _candidates_option(result)
    beyond = {f"{name}: {beyond_attack(name)!r}": name for name in ("typographic", "corruptions")}
    if candidates is None or not set(spec["image_attacks"]) <= set(IMAGE_ATTACKS):
        return None
    if not set(spec.get("beyond", ())) <= set(beyond):  # an object, or a perturbation whose file is not known
        return None
    presets = {name: ThreatModel.preset(name).to_dict() for name in PRESETS}
    differences = {
        name: {field: value for field, value in spec.items() if field not in _NO_OPTION and value != preset.get(field)}
        for name, preset in presets.items()
        if all(spec[field] == preset[field] for field in _NO_OPTION[1:])
    }
    if not differences:
        return None
    preset = min(differences, key=lambda name: len(differences[name]))
    name, split = dataset_and_split(result)
    words = ["hf-mmcoa", "evaluate", "--model", model, "--dataset", name]
    words += ["--split", split] if split and split != "test" else []
    words += ["--attacks", *result["attacks"]] if set(result.get("attacks", ATTACKS)) != set(ATTACKS) else []
    words += ["--preset", preset]
    for field, value in differences[preset].items():
        value = [beyond[each] for each in value] if field == "beyond" else value
        if value is not None:
            words += [f"--{field}", *(map(str, value) if isinstance(value, list) else [_number(value)])]
    words += candidates
    rows = result["row_ids"]
    words += ["--max_samples", str(len(rows))] if rows != list(range(len(rows))) else []
    words += ["--batch_size", str(result["batch_size"])] if result.get("batch_size", 128) != 128 else []
    return " ".join(map(shell, [*words, "--output", "results.json"]))


def dataset_and_split(result: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the name of a result's data set, and its split if it is recorded."""
    name, _, split = str(result.get("dataset", "unnamed")).rpartition("/")
    return (name, split) if name else (split, None)


def _candidates_option(result: Mapping[str, Any]) -> list[str] | None:
    """Return the option that names the substitutes of a result; None if they came from an object or a file."""
    source, name = result["attack_spec"]["candidates"], dataset_and_split(result)[0]
    if "words" not in result["attack_spec"]["text_attacks"]:
        return []
    if isinstance(source, str):
        return ["--candidates", _SOURCES[source]] if source in _SOURCES else None
    for named in (name, f"{name}-wordnet") if name in EMBEDDED else ():
        table = synonym_table(named)
        halves = known_and_unseen(table) if table is not None else ()
        if list(source.values()) == [repr(half) for half in halves]:
            return ["--candidates", named]
    return None


def recorded_sources(
    result: Mapping[str, Any], model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> CandidateSource | Mapping[str, CandidateSource] | None:
    """Return the substitutes of a result, built again; None if it attacks no words.

    Args:
        result: a result of `evaluate_robustness`.
        model: dual encoder whose vocabulary a source may draw on.
        tokenizer: the dual encoder's tokenizer.

    Raises:
        LookupError: if they came from an object or a file, which a result only describes.
    """
    option, recorded = _candidates_option(result), result["attack_spec"]["candidates"]
    if option is None:
        raise LookupError(f"its substitutes came from an object or a file: {recorded}")
    if not option:
        return None
    if isinstance(recorded, str):
        return candidate_source(option[1], model, tokenizer)
    table = synonym_table(option[1])
    return dict(zip(recorded, known_and_unseen(table), strict=True)) if table is not None else None


def one_line(text: str) -> str:
    """Return text on one line, with what is invisible written out."""
    return " ".join(printable(text).split())


def shell(word: str) -> str:
    """Return a word as a shell reads it back."""
    return shlex.quote(one_line(word))


def _number(value: Any) -> str:
    """Return an option's value so that it reads back as the same number; fractions such as 4/255 stay fractions."""
    written = fraction(value) if isinstance(value, float) else ""
    return written if "/" in written and pixels("value", written) == value else str(value)
