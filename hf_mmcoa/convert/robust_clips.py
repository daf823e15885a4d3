"""The rows of `robust_clips.yaml`: published robust CLIPs by name, where each lies, and what was published about it.

Adding a robust CLIP adds a row there and no code here. `load_robust` in load.py loads one.
"""

from __future__ import annotations

import difflib
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from ..schema import check_fields
from .layouts import Activation

ROBUST = "robust:"  # before a name, wherever a model is named on the command line

RobustLayout = Literal["image tower", "OpenCLIP folder", "CLIPModel folder"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """Accuracies that the authors of a model published.

    Attributes:
        specification: the attack, its steps and its norm, in the source's words.
        data: names of the data sets whose mean the numbers are; empty if the source does not list them.
        clean: accuracy without attack, a fraction.
        robust: accuracy under attack, a fraction, by epsilon in [0, 1] pixel units as text ("4/255").
        source: where the numbers were read.
    """

    specification: str
    data: tuple[str, ...]
    clean: float
    robust: Mapping[str, float]
    source: str


@dataclass(frozen=True, kw_only=True)
class RobustClip:
    """One published robust CLIP.

    Attributes:
        name: the name that `load_robust` takes.
        method: the defence that it was trained with.
        layout: "image tower" is a state dict of the image encoder and its projection, which gets the rest from `base`;
            the folders hold a whole model.
        base: Hub id of the CLIPModel that it was trained from; it gives the tokenizer, and the missing half of an image
            tower. None if it was trained from scratch.
        activation: activation of its encoders. Weights that come with another one are refused.
        epsilon: radius of the image perturbations of its training, in [0, 1] pixel units, as text.
        norm: their norm.
        text_training: the text perturbations of its training; empty if the text encoder is the base's.
        hub_id: Hub repository; None if it lies elsewhere.
        url: address of the file, if it is not on the Hub.
        file: name or pattern of the file in the Hub repository; None for a folder.
        revision: commit to load; None, because none could be read, follows the main branch.
        by_hand: whether `url` is a page from which a person downloads the file.
        licence: licence of the weights, or of the repository that publishes them.
        refused: why this package cannot run it; empty if it can.
        published: accuracies that were published.
        read_from: where each fact of the row was read, by fact. The weights themselves were never read.
    """

    name: str
    method: str
    layout: RobustLayout
    base: str | None
    activation: Activation
    epsilon: str
    norm: Literal["linf", "l2"] = "linf"
    text_training: str = ""
    hub_id: str | None = None
    url: str | None = None
    file: str | None = None
    revision: str | None = None
    by_hand: bool = False
    licence: str = "unknown"
    refused: str = ""
    published: tuple[Published, ...] = ()
    read_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Return the Hub id, with the file if it names one, or the URL."""
        return self.url or "/".join(filter(None, (self.hub_id, self.file)))

    @property
    def unverified(self) -> tuple[str, ...]:
        """Return the facts of the row that were read nowhere but in the list that this row was made from."""
        facts = ("source", *(("file",) if self.file else ()), "layout", "base", "activation", "epsilon", "licence")
        return tuple(fact for fact in facts if fact not in self.read_from and (fact != "base" or self.base))


@functools.cache
def robust_clips() -> tuple[RobustClip, ...]:
    """Return all published robust CLIPs that are known by name, those that are refused included.

    Example:
        >>> [row.epsilon for row in robust_clips() if row.name == "fare4-vit-b-32"]
        ['4/255']
    """
    return parse_robust_clips((resources.files(__package__) / "robust_clips.yaml").read_text(encoding="utf-8"))


def is_robust(name: str | Path) -> bool:
    """Return whether a name is one of a robust CLIP, and not of a folder, file or Hub repository."""
    return str(name).startswith(ROBUST)


def find_robust_clip(name: str) -> RobustClip:
    """Return the row of that name, with or without `robust:`.

    Raises:
        ValueError: if there is none; the text names the nearest.
    """
    name = name.removeprefix(ROBUST)
    rows = {row.name: row for row in robust_clips()}
    if name not in rows:
        near = difflib.get_close_matches(name.lower(), rows, n=3, cutoff=0.4)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no robust CLIP {name!r}.{meant} All names are in docs/convert.md.")
    return rows[name]


def parse_robust_clips(text: str) -> tuple[RobustClip, ...]:
    """Parse the rows of a text like `robust_clips.yaml`.

    Raises:
        ValueError: naming the row and the field, if a field is unknown, missing or of the wrong type, if a name occurs
            twice, or if a row has not exactly one of `hub_id` and `url`.
    """
    rows = tuple(map(_robust_clip, yaml.safe_load(text)["rows"]))
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"robust CLIP {min(twice)!r} occurs twice.")
    return rows


def _robust_clip(values: dict[str, Any]) -> RobustClip:
    where = f"robust CLIP {values.get('name')!r}"
    published = tuple(_published(each, where) for each in values.get("published", ()))
    row = _build(RobustClip, {**values, "published": published}, where)
    if (row.hub_id is None) == (row.url is None):
        raise ValueError(f"{where} needs one of `hub_id` and `url`.")
    if row.base is None and row.layout == "image tower":
        raise ValueError(f"{where} is an image tower, so it needs a `base`.")
    return row


def _published(values: dict[str, Any], where: str) -> Published:
    row = _build(Published, values, where)
    robust = {epsilon: _fraction(percent) for epsilon, percent in row.robust.items()}
    return Published(**{**vars(row), "data": tuple(row.data), "clean": _fraction(row.clean), "robust": robust})


def _fraction(percent: float) -> float:
    return round(percent / 100, 6)


_Kind = typing.TypeVar("_Kind", Published, RobustClip)


def _build(kind: type[_Kind], values: Mapping[str, Any], where: str) -> _Kind:
    try:
        check_fields(values, typing.get_type_hints(kind))
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error} The fields are {', '.join(each.name for each in fields(kind))}.") from error
