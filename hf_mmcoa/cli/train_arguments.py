"""The options of `hf-mmcoa train`: every field of `RunArguments` and `MMCoAConfig`, on the command line or in YAML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from ..file_names import WHAT_RAN
from ..io import printable, read_yaml
from ..protocols.run_arguments import GENERAL, SHIPPED_FOR, RunArguments, default_settings, digits_settings
from .early_options import check_attack_settings, mistyped, no_number, option_names, unknown_options

if TYPE_CHECKING:
    from ..config import MMCoAConfig

DESCRIPTION = """\
Measure a CLIP clean and under attack, train it to be robust, and measure it again. Every option may also stand in a
YAML file (--config). Without --model_name_or_path and --dataset: a tiny CLIP on handwritten digits, in about two
minutes.
"""
CANDIDATES_HELP = (
    ' Or a JSON file {"word or phrase": ["substitute", ...]}, or an embedded table such as digits-wordnet, of which '
    "training gets one half, and the measurement also the other, unseen one."
)
TARGETS_HELP = " If it is not given: `class` for a model of yours on fewer classes than a batch has samples."


def parse(argv: Sequence[str]) -> tuple[RunArguments, MMCoAConfig]:
    """Parse the options of a training run.

    An option of the command line overrides the same option in the `--config` file. Both override the settings of the
    kind of run: on digits, with `--tiny`, or with a model. The help shows the defaults of the run that the other
    options ask for.

    Args:
        argv: the words after `hf-mmcoa train`.

    Raises:
        SystemExit: if an option is unknown or has a value of the wrong type, or the file cannot be read; also after
            `--help`.
        ValueError: if a value is out of range, or two options contradict each other.
    """
    if (problem := mistyped(argv) or no_number(argv)) is not None:
        _refuse(problem)
    given, asked = _asked_for(argv)
    if (known := option_names()) and (unknown := sorted(set(given) - set(known))):
        _refuse(f"--config {asked.config}: {unknown_options(unknown, known)}")
    check_attack_settings(argv, given)
    from transformers import HfArgumentParser  # here: what is wrong so far is reported without seconds of imports
    from transformers.hf_argparser import string_to_bool

    from ..config import MeasuredConfig

    tiny = string_to_bool(asked.tiny) if isinstance(asked.tiny, str) else bool(asked.tiny)
    if tiny and asked.model_name_or_path:
        raise ValueError("`--tiny` builds a model and `--model_name_or_path` names one: give one of the two.")
    named = asked.model_name_or_path or asked.dataset or tiny
    base = default_settings(asked.model_name_or_path, asked.dataset or "digits", tiny) if named else dict(GENERAL)
    described = _description(asked, tiny)
    parser = HfArgumentParser([RunArguments, MeasuredConfig], prog="hf-mmcoa train", description=described)  # type: ignore[list-item]
    parser.add_argument("--config", help="YAML file of any of the options; the command line overrides it")
    actions = {action.dest: action for action in reversed(parser._actions)}  # of `--x` and `--no_x` the former
    actions["candidates"].choices, actions["candidates"].type = None, str
    actions["candidates"].help = f"{actions['candidates'].help}{CANDIDATES_HELP}"
    actions["targets"].help = f"{actions['targets'].help}{TARGETS_HELP}"
    if unknown := sorted(set(given) - set(actions)):
        parser.error(f"--config {asked.config}: {unknown_options(unknown, list(actions))}")
    for action in parser._actions:
        if action.dest in given:
            _check_option(parser, asked.config, action, given[action.dest])
    if {"-h", "--help"} & set(argv):
        parser.set_defaults(**base | given)
        parser.parse_args(list(argv))
    if not named:
        base = default_settings(None, "digits", False)
    parser.set_defaults(**{"targets": None} | base | given)
    values = vars(parser.parse_args(list(argv)))
    # Defaults of a run that the chosen objective does not read are no wish of the user's.
    ours = {name: value for name, value in base.items() if name not in given and values[name] == value}
    rest = {name: value for name, value in values.items() if name not in ours}
    kept = MeasuredConfig.without_unread(ours, rest | {"targets": values["targets"] or MeasuredConfig.targets})
    values |= {name: getattr(MeasuredConfig, name) for name in ours if name not in kept}
    targets_are_free = bool(asked.model_name_or_path) and values["targets"] is None
    values["targets"] = values["targets"] or MeasuredConfig.targets
    table = _table(values)
    run, args = parser.parse_dict(values, allow_extra_keys=True)  # the extra one is --config
    run.synonyms, run.targets_are_free = table, targets_are_free
    return run, args


def _refuse(problem: str) -> NoReturn:
    """Exit as argparse does."""
    print(f"hf-mmcoa train: error: {printable(problem)}", file=sys.stderr)
    raise SystemExit(2)


def _asked_for(argv: Sequence[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """Return the options of the `--config` file, and those options of both that decide the defaults of the others."""
    early = argparse.ArgumentParser(prog="hf-mmcoa train", add_help=False)
    early.add_argument("--config")
    early.add_argument("--model_name_or_path", "--model-name-or-path")
    early.add_argument("--dataset")
    early.add_argument("--tiny", nargs="?", const=True)
    asked, _ = early.parse_known_args(argv)
    given = _read_options(Path(asked.config)) if asked.config else {}
    given.pop(WHAT_RAN, None)
    for name in ("model_name_or_path", "dataset", "tiny"):
        if getattr(asked, name) is None:
            setattr(asked, name, given.get(name))
    return given, asked


def _description(asked: argparse.Namespace, tiny: bool) -> str:
    """Return the description, which says whose defaults the help shows."""
    digits = ", ".join(f"{name} {value}" for name, value in digits_settings().items())
    if asked.model_name_or_path:
        shown = "a run on the model that was named"
    elif tiny and asked.dataset not in (None, "digits"):
        shown = f"a tiny CLIP on {asked.dataset}"
    elif asked.dataset in SHIPPED_FOR:
        shown = f"the CLIP that comes with the package, on {asked.dataset}"
    elif asked.dataset == "digits" or tiny:
        shown = "the tiny CLIP on digits"
    else:
        shown = (
            "a run on a model that --model_name_or_path names. The run on digits that is made without any option has "
            f"settings of its own: {digits}. Add --help to the other options to see the defaults of that run"
        )
    return f"{DESCRIPTION}\nThe defaults below are those of {shown}.".replace("%", "%%")


def _table(values: dict[str, Any]) -> str | None:
    """Take a table of substitutes out of `candidates`, and return its name or file; None for a source.

    Raises:
        ValueError: if there is neither a source nor a table of that name, or the table is faulty.
    """
    from ..attacks.settings import AttackSettings, CandidateName
    from ..substitutes.embedded import synonym_table

    name = values["candidates"]
    if name in get_args(CandidateName):
        return None
    if synonym_table(name) is None:
        raise ValueError(
            f"`candidates` must be one of {', '.join(get_args(CandidateName))}, an embedded table such as "
            f'digits-wordnet, or a file ending in .json that holds {{"word": ["substitute", ...]}}; got {name!r}.'
        )
    values["candidates"] = AttackSettings.candidates
    return str(name)


def _read_options(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise SystemExit(f"hf-mmcoa train: --config {file}: there is no such file")
    try:
        content = read_yaml(file) or {}
    except ValueError as error:
        raise SystemExit(f"hf-mmcoa train: --config: {printable(str(error))}") from error
    if not isinstance(content, dict):
        raise SystemExit(
            f"hf-mmcoa train: --config {file}: expected `option: value` lines, got {type(content).__name__}"
        )
    return content


def _check_option(parser: argparse.ArgumentParser, file: str, action: argparse.Action, value: Any) -> None:
    """Exit with one line unless the command line would accept this value of a file."""
    several = action.nargs in ("+", "*")
    convert: Any = action.type or str
    if value is None or (isinstance(value, dict) and convert is str and not several):  # settings such as fsdp_config
        return
    try:
        if isinstance(value, (list, dict)) != (several and isinstance(value, list)):
            raise ValueError(f"expected {'a list' if several else 'one value'}")
        for one in value if several else [value]:
            convert(str(one))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        parser.error(f"--config {file}: `{action.dest}` is {printable(repr(value))}: {printable(str(error))}")
