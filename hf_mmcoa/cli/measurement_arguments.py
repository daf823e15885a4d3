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
    BEYOND_ATTACKS,
    IMAGE_ATTACKS,
    MULTIMODAL_ATTACKS,
    PRESETS,
    TEXT_ADVERSARIES,
    TEXT_ATTACKS,
    ThreatModel,
)
from ..families.names import FAMILIES
from .attack_argument import named_attacks
from .threat_file import EXAMPLE, read_threat_file

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
    options["beyond"] = {
        "nargs": "+",
        "metavar": "NAME",
        "help": f"Also measure what no ball bounds: {', '.join(BEYOND_ATTACKS)} (universal=FILE, a perturbation that "
        "`hf-mmcoa universal` found).",
    }
    options["max_texts"] = {"type": int, "help": "Most legal texts that an attack lists."}
    options["families"] = {
        "metavar": "NAMES",
        "help": f"Also measure these families of text perturbation: all, or some of {', '.join(FAMILIES)} joined by |.",
    }
    return options


OVERRIDES = _overrides()


def add_measurement_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the options that say what is measured on which data under which threat model.

    Args:
        parser: parser of the command.
        several: whether `--dataset` and `--epsilon` take several values.
    """
    parser.add_argument(
        "--dataset",
        required=True,
        nargs="+" if several else None,
        metavar="NAME_OR_PATH",
        help="a registered benchmark, a Hub id or a folder" + (", or several" if several else ""),
    )
    parser.add_argument("--split", default="test", help="split to measure on; test without it")
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data set's files already"
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=THREATS,
        metavar="KIND",
        help=f"one or more of {', '.join(THREATS)}; all without it",
    )
    parser.add_argument(
        "--attack",
        nargs="+",
        metavar="NAME",
        help="run these attacks alone, by name: fgsm, mi-fgsm, square, autoattack, words, co-attack, ... "
        "(docs/attacks.md)",
    )
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        help="threat model, standard without it; the options of the last group change single fields of it",
    )
    parser.add_argument(
        "--threat_model",
        "--threat-model",
        metavar="FILE",
        help=f"threat model as YAML: fields of ThreatModel on top of a preset, such as {EXAMPLE}",
    )
    parser.add_argument(
        "--templates",
        nargs="+",
        metavar="TEMPLATE",
        help="prompt ensemble, whose text embeddings are averaged: openai (the data set's own), another data set's "
        "name such as imagenet, a file of templates, or several templates",
    )
    parser.add_argument(
        "--masked_lm",
        "--masked-lm",
        metavar="PATH_OR_ID",
        help="masked language model of the source masked-lm, which it makes the default of --candidates",
    )
    parser.add_argument(
        "--wordnet_root",
        "--wordnet-root",
        metavar="FOLDER",
        help="folder of WordNet's files for the source wordnet, which it makes the default of --candidates",
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
        if name == "epsilon" and several:
            options = {**options, "nargs": "+", "help": f"{options['help']} Or several."}
        group.add_argument(*spellings, dest=name, default=None, **options)


def kinds(args: argparse.Namespace) -> list[str]:
    """Return the kinds of attack that are run, by `--attacks` or of the attacks named by `--attack`."""
    if args.attack:
        return named_attacks(args.attack)[0]
    return list(args.attacks or THREATS)


def threat_model(args: argparse.Namespace) -> ThreatModel:
    """Return the preset, with the fields of `--threat_model`, with every field replaced that was given as an option.

    Raises:
        ValueError: if a value is out of range, or two options contradict each other.
    """
    overrides = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    if isinstance(epsilon := overrides.get("epsilon"), list):  # a command that takes several goes through them itself
        (overrides["epsilon"],) = epsilon
    if args.attack:
        if args.attacks:
            raise ValueError("`--attack` names single attacks and `--attacks` whole kinds: give one of the two.")
        fields = named_attacks(args.attack)[1]
        if twice := sorted(set(fields) & set(overrides)):
            raise ValueError(f"`--attack` and `--{twice[0]}` both name attacks: give one of the two.")
        overrides |= fields
    preset, values = args.preset, {}
    if args.threat_model:
        values = read_threat_file(args.threat_model)
        named = values.pop("preset", None)
        if preset and named and preset != named:
            raise ValueError(f"{args.threat_model} names the preset {named} and `--preset` {preset}: leave one out.")
        preset = preset or named
    if args.templates:  # replace those of the file
        values.pop("templates", None), values.pop("template", None)
    if "temperature" in overrides and overrides["temperature"] != "logit_scale":
        overrides["temperature"] = float(overrides["temperature"])
    return ThreatModel.preset(preset or "standard", **{**values, **overrides})


def with_templates(spec: ThreatModel, args: argparse.Namespace, dataset: Any) -> ThreatModel:
    """Return the threat model with the ensemble that `--templates` names for a data set.

    Raises:
        ValueError: if there is no such ensemble, or `--template` names another prompt.
    """
    from ..data.benchmark_info import describe
    from ..data.templates import prompt_templates

    if not args.templates:
        return spec
    info = describe(dataset)
    return dataclasses.replace(spec, templates=prompt_templates(args.templates, info.name, info.templates))


def substitutes(
    args: argparse.Namespace, model: Any, processor: Any
) -> CandidateSource | Mapping[str, CandidateSource] | None:
    """Return the sources of substitutes that `--candidates` names; None if no option names one.

    Args:
        args: parsed arguments, of which `candidates`, `masked_lm` and `wordnet_root` are read.
        model: dual encoder whose vocabulary "neighbours" and "hotflip" draw on.
        processor: the model's processor.

    Raises:
        ValueError: if a source is unknown, or one of several has no name.
    """
    from ..substitutes.embedded import EMBEDDED, synonym_table
    from ..substitutes.held_out import known_and_unseen

    given = _named_sources(args)
    if given is None:
        return None
    if len(given) == 1 and given[0] in EMBEDDED and (table := synonym_table(given[0])):
        return dict(zip(("known", "unseen"), known_and_unseen(table), strict=True))
    pairs = [one.partition("=") if "=" in one else ("", "", one) for one in given]
    if len(pairs) > 1 and any(not name for name, _, _ in pairs):
        raise ValueError(
            f"`--candidates` with several sources needs a name for each, as NAME=SOURCE, got {' '.join(given)}."
        )
    sources = {name: _candidate_source(source, model, processor, args) for name, _, source in pairs}
    return sources.get("", sources)


def _named_sources(args: argparse.Namespace) -> Sequence[str] | None:
    """Return the words of `--candidates`, or the source that `--masked_lm` or `--wordnet_root` belongs to."""
    options = {"masked-lm": ("--masked_lm", args.masked_lm), "wordnet": ("--wordnet_root", args.wordnet_root)}
    used = {source: option for source, (option, value) in options.items() if value is not None}
    if args.candidates is None:
        if len(used) > 1:
            raise ValueError(
                "`--masked_lm` and `--wordnet_root` are two sources: say by `--candidates` which is the threat model's "
                "own, such as `--candidates known=masked-lm unseen=wordnet`."
            )
        return [*used] or None
    named = [one.partition("=")[2] or one for one in args.candidates]
    for source, option in used.items():
        if source not in named:
            raise ValueError(f"`{option}` is for the source {source}, and `--candidates` names {', '.join(named)}.")
    return list(args.candidates)


def _candidate_source(source: str, model: Any, processor: Any, args: argparse.Namespace) -> CandidateSource:
    from ..substitutes.embedded import synonym_table
    from ..substitutes.masked_lm import MASKED_LM
    from ..substitutes.named import candidate_source

    if (table := synonym_table(source)) is not None:
        return table
    return candidate_source(
        source,
        model,
        processor.tokenizer,
        masked_lm=args.masked_lm or MASKED_LM,
        wordnet_root=args.wordnet_root,
    )
