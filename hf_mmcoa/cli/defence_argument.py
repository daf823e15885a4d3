"""`--defence NAME`: a test-time defence by name, with its settings as KEY=VALUE.

torch is imported where a defence is made, so that `--help` need not wait for it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from .measurement_arguments import kinds

DEFENCES = {"ttc": "TTC", "r-tpt": "RTPT", "noise": "GaussianNoise", "quantise": "Quantise"}
"""The class of `hf_mmcoa.defences` behind each name."""


def named_defence(name: str, settings: Sequence[str]) -> Any:
    """Return the defence of a name.

    Args:
        name: of `DEFENCES`.
        settings: fields of the class as KEY=VALUE; fractions such as 4/255 are numbers too.

    Raises:
        ValueError: if a setting is unknown, missing, no number or out of range.
    """
    from .. import defences

    kind = getattr(defences, DEFENCES[name])
    fields = {each.name: each for each in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in fields or not equals:
            raise ValueError(f"`--defence_settings`: {setting!r} is not KEY=VALUE of {name}; KEY: {', '.join(fields)}.")
        values[key] = _number(key, value, whole=fields[key].type == "int")
    if missing := [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in values]:
        raise ValueError(f"`--defence {name}` needs `--defence_settings {missing[0]}=...`.")
    return kind(**values)


def _number(key: str, text: str, whole: bool) -> float:
    from ..attacks.settings import pixels

    if not whole:
        return pixels(key, text)
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"`--defence_settings`: `{key}` must be a whole number, got {text!r}.") from None


def check_defence(args: argparse.Namespace) -> None:
    """Raise ValueError if options of a defence do not fit the others."""
    given = [name for name in ("defence_settings", "adaptive_steps", "eot_draws", "draws") if getattr(args, name)]
    if args.defence is None:
        if given:
            raise ValueError(f"`--{given[0]}` is a setting of `--defence`, which is not given.")
        return
    if args.task == "retrieval":
        raise ValueError("`--defence` answers in place of a classifier, so it needs `--task zero-shot`.")
    if (args.attack or args.attacks) and (other := [kind for kind in kinds(args) if kind not in ("clean", "image")]):
        raise ValueError(
            f"`--defence` is measured under attacks on images, and {', '.join(other)} attacks are asked for."
        )
    written = {"gallery": args.gallery, "export": args.export, "csv": args.csv}
    if unfit := [name for name, value in written.items() if value is not None]:
        raise ValueError(f"`--{unfit[0]}` is for a model without a defence: leave it or `--defence` out.")
    named_defence(args.defence, args.defence_settings or ())  # raises


def add_defence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a test-time defence."""
    group = parser.add_argument_group("test-time defence (docs/test-time.md); its attacks are those on images")
    group.add_argument(
        "--defence",
        choices=list(DEFENCES),
        help="measure the model behind this defence, under static and adaptive attacks",
    )
    group.add_argument(
        "--defence_settings",
        "--defence-settings",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings of the defence, such as epsilon=4/255 num_steps=2 for ttc, sigma=0.1 for noise",
    )
    group.add_argument(
        "--adaptive_steps",
        "--adaptive-steps",
        type=int,
        metavar="N",
        help="steps of the adaptive attacks; as many as of the static ones without it",
    )
    group.add_argument(
        "--eot_draws",
        "--eot-draws",
        type=int,
        metavar="N",
        help="draws of a random defence at each step of an adaptive attack; 20 without it",
    )
    group.add_argument(
        "--draws", type=int, metavar="N", help="answers of a random defence to each sample; 10 without it"
    )
