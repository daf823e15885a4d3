"""The options of `hf-mmcoa train`: every field of `RunArguments` and `MMCoAConfig`, on the command line or in YAML."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..file_names import WHAT_RAN
from ..io import printable, read_yaml
from ..protocols.run_arguments import RunArguments, digits_settings

if TYPE_CHECKING:
    from ..config import MMCoAConfig

DESCRIPTION = """\
Measure a CLIP clean and under attack, train it to be robust, and measure it again. Every option may also stand in a
YAML file (--config). Without --model_name_or_path: a tiny CLIP on handwritten digits, in about two minutes.
"""


def parse(argv: Sequence[str]) -> tuple[RunArguments, MMCoAConfig]:
    """Parse the options of a training run.

    An option of the command line overrides the same option in the `--config` file. Without a model, both override the
    settings of the default run on digits.

    Args:
        argv: the words after `hf-mmcoa train`.

    Raises:
        SystemExit: if the file cannot be read or an option has a value of the wrong type; also after `--help`.
        ValueError: if an option is unknown or a value out of range.
    """
    early = argparse.ArgumentParser(prog="hf-mmcoa train", add_help=False)
    early.add_argument("--config")
    early.add_argument("--model_name_or_path", "--model-name-or-path")
    known, _ = early.parse_known_args(argv)
    given = _read_options(Path(known.config)) if known.config else {}
    given.pop(WHAT_RAN, None)
    from transformers import HfArgumentParser  # here: a wrong file is reported without waiting seconds for imports

    from ..config import MeasuredConfig

    parser = HfArgumentParser([RunArguments, MeasuredConfig], prog="hf-mmcoa train", description=DESCRIPTION)  # type: ignore[list-item]
    parser.add_argument("--config", help="YAML file of any of the options; the command line overrides it")
    base: dict[str, Any] = {"output_dir": "output/mmcoa", "report_to": "none"}
    if not (known.model_name_or_path or given.get("model_name_or_path")):
        base |= digits_settings()
    options = {action.dest for action in parser._actions}
    if unknown := sorted(set(given) - options):
        parser.error(f"--config {known.config}: unknown options {', '.join(unknown)}")
    for action in parser._actions:
        if action.dest in given:
            _check_option(parser, known.config, action, given[action.dest])
    parser.set_defaults(**base | given)
    # Defaults of the run on digits that the chosen objective does not read are no wish of the user's.
    read = vars(parser.parse_known_args(list(argv))[0])
    ours = {name: value for name, value in base.items() if name not in given and read[name] == value}
    kept = MeasuredConfig.without_unread(ours, {name: value for name, value in read.items() if name not in ours})
    parser.set_defaults(**{name: getattr(MeasuredConfig, name) for name in ours if name not in kept})
    run, args, _ = parser.parse_args_into_dataclasses(list(argv))  # the third holds --config
    return run, args


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
