"""The options that commands which measure robustness share: data, attacks, threat model and substitutes.

This module imports no torch, so that a command line can be checked without it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from ..attacks.settings import THREATS, AttackSettings, Norm, PerturbAt
from ..evaluation.threat_model import (
    IMAGE_ATTACKS,
    MULTIMODAL_ATTACKS,
    PRESETS,
    TEXT_ADVERSARIES,
    TEXT_ATTACKS,
    ThreatModel,
)
from ..families.names import FAMILIES

if TYPE_CHECKING:
    from ..substitutes.source import CandidateSource

SANITY_FAILED = 3  # exit status


def _overrides() -> dict[str, dict[str, Any]]:
    """Return the options that change one field of the preset: their help is that of `AttackSettings`."""
    options: dict[str, dict[str, Any]] = {}
    for each in dataclasses.fields(AttackSettings):
        if each.type in ("bool", "CandidateName"):  # a preset's business, and `--candidates`
            continue
        options[each.name] = {"help": each.metadata["help"].replace("%", "%%")}
        if each.type in ("int", "float"):
            options[each.name]["type"] = {"int": int, "float": float}[str(each.type)]
    options["norm"]["choices"] = get_args(Norm)
    options["perturb_at"]["choices"] = get_args(PerturbAt)
    options["attacker_template"] = {"help": "Class prompt that image attacks are computed with; --template without it."}
    choices = {
        "image_attacks": IMAGE_ATTACKS,
        "text_attacks": TEXT_ATTACKS,
        "text_adversaries": TEXT_ADVERSARIES,
        "multimodal_attacks": MULTIMODAL_ATTACKS,
    }
    for option, names in choices.items():
        options[option] = {
            "nargs": "+",
            "metavar": "NAME",
            "choices": names,
            "help": f"One or more of {', '.join(names)}.",
        }
    options["text_adversaries"]["help"] += (
        " Who chooses the attacked class prompts: one list for all images, found without them (blind) or the worst "
        "(shared); the true class's for each image (own); every class's (all)."
    )
    options["max_texts"] = {"type": int, "help": "Most legal texts that an attack lists."}
    options["families"] = {
        "metavar": "NAMES",
        "help": f"Also measure these families of text perturbation: all, or some of {', '.join(FAMILIES)} joined by |.",
    }
    return options


OVERRIDES = _overrides()


def add_measurement_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured on which data under which threat model."""
    parser.add_argument(
        "--dataset", required=True, metavar="NAME_OR_PATH", help="a registered benchmark, a Hub id or a folder"
    )
    parser.add_argument("--split", default="test", help="split to measure on; test without it")
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data set's files already"
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=THREATS,
        default=list(THREATS),
        metavar="KIND",
        help=f"one or more of {', '.join(THREATS)}; all without it",
    )
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="standard",
        help="threat model; the options of the last group change single fields of it",
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        metavar="SOURCE",
        help="where the text attack's substitutes come from: neighbours, masked-lm, hotflip, wordnet, digits (the "
        'embedded synonyms, a known and an unseen half), or a JSON file {"word": ["substitute", ...]}; several as '
        "NAME=SOURCE, of which the first is the threat model's",
    )
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, default=128, metavar="N", help="images per batch; 128 without it"
    )
    parser.add_argument(
        "--max_samples",
        "--max-samples",
        type=int,
        metavar="N",
        help="measure on this many samples, drawn once; on all without it",
    )
    parser.add_argument("--no_sanity", "--no-sanity", action="store_true", help="skip the sanity checks")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if there is an accelerator")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    group = parser.add_argument_group("threat model (defaults are the preset's)")
    for name, options in OVERRIDES.items():
        spellings = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
        group.add_argument(*spellings, dest=name, default=None, **options)


def threat_model(args: argparse.Namespace) -> ThreatModel:
    """Return the preset with every field replaced that was given as an option.

    Raises:
        ValueError: if a value is out of range.
    """
    overrides = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    if "temperature" in overrides and overrides["temperature"] != "logit_scale":
        overrides["temperature"] = float(overrides["temperature"])
    return ThreatModel.preset(args.preset, **overrides)


def substitutes(
    given: Sequence[str] | None, model: Any, processor: Any
) -> CandidateSource | Mapping[str, CandidateSource] | None:
    """Return the sources of substitutes that `--candidates` names; None if the option was not given.

    Args:
        given: words of the option.
        model: dual encoder whose vocabulary "neighbours" and "hotflip" draw on.
        processor: the model's processor.

    Raises:
        ValueError: if a source is unknown, or one of several has no name.
    """
    from ..substitutes.embedded import EMBEDDED, synonym_table
    from ..substitutes.held_out import known_and_unseen

    if given is None:
        return None
    if len(given) == 1 and given[0] in EMBEDDED and (table := synonym_table(given[0])):
        return dict(zip(("known", "unseen"), known_and_unseen(table), strict=True))
    pairs = [one.partition("=") if "=" in one else ("", "", one) for one in given]
    if len(pairs) > 1 and any(not name for name, _, _ in pairs):
        raise ValueError(
            f"`--candidates` with several sources needs a name for each, as NAME=SOURCE, got {' '.join(given)}."
        )
    sources = {name: _candidate_source(source, model, processor) for name, _, source in pairs}
    return sources.get("", sources)


def _candidate_source(source: str, model: Any, processor: Any) -> CandidateSource:
    from ..substitutes.embedded import synonym_table
    from ..substitutes.named import candidate_source

    if (table := synonym_table(source)) is not None:
        return table
    return candidate_source(source, model, processor.tokenizer)
