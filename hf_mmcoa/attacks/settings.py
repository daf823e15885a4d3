"""Attack budget and effort in one object: the specification that training and evaluation share.

`ThreatModel` (evaluation) derives from `AttackSettings`, `MMCoAConfig` (training) takes its fields over as options, and
`attacks.factory` builds attack objects from it, so that its fields are listed only once. Fields marked `threat` define
the threat model; an evaluation takes them over from the training that it measures. The others set the effort of the
attacker. This module imports no torch, so that a command line can be parsed without it.
"""

# ruff: noqa: RUF009  (`_setting` is dataclasses.field)
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, get_type_hints

from ..data.prompts import check_template
from ..schema import check_fields

Norm = Literal["linf", "l2"]
PerturbAt = Literal["auto", "native", "model"]
CandidateName = Literal["neighbours", "masked-lm", "hotflip", "wordnet"]

THREATS = ("clean", "image", "text", "multimodal")
"""Threats that a model is evaluated under: none, attacks on each modality, and attacks on both."""

IMAGE_ATTACKS = (
    "pgd-ce",
    "pgd-margin",
    "pgd-targeted",
    "fgsm",
    "mi-fgsm",
    "di-fgsm",
    "mi-di-fgsm",
    "eot-pgd",
    "apgd-ce",
    "apgd-margin",
    "apgd-targeted",
    "strong",
    "autoattack",
    "autoattack-rand",
    "autoattack-apgd-ce",
    "autoattack-apgd-t",
    "autoattack-apgd-dlr",
    "fab",
    "fab-t",
    "square",
)
TEXT_ATTACKS = ("words", "characters", "embedding")
TEXT_ADVERSARIES = ("blind", "shared", "own", "all")
"""Who chooses the attacked class prompts. `blind`: the published search, one list of prompts for all images, found
without looking at them. `shared`: the worst list of prompts for all images. `own`: only the true class's prompt is
changed, to the worst text for the image. `all`: every class's prompt is, the ceiling."""
MULTIMODAL_ADVERSARIES = {"co-attack": "blind", "sga": "own", "joint": "all"}
"""The adversary that each multimodal attack is which chooses its texts itself."""
BEYOND_ATTACKS = ("universal", "typographic", "corruptions")
"""Changes of a picture that no Lp ball around it bounds; "universal" needs a file."""
MULTIMODAL_ATTACKS = ("independent", "adaptive", "co-attack", "sga", "joint")


def _setting(default: Any, help: str, threat: bool = False) -> Any:
    return field(default=default, metadata={"help": help, "threat": threat})


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """The budget and the effort of attacks on images and texts.

    Each field's `metadata["help"]` describes it with its unit and range; the command line shows the same text. Defaults
    follow MMCoA's release where it has the setting (arXiv:2404.19287, its training configuration).

    Raises:
        ValueError: if a value is out of range, unknown, or of another type than its field.

    Example:
        >>> AttackSettings(epsilon="4/255", num_steps=5).step_size
        0.00784313725490196
    """

    norm: Norm = _setting("linf", "Norm of the image perturbation.", threat=True)
    epsilon: float | str | None = _setting(
        "1/255", "Radius of the image perturbation, in [0, 1] pixel units: 0.0039 or 1/255.", threat=True
    )
    step_size: float | str | None = _setting(
        None,
        "Length of an image attack's step, in the unit of epsilon; 2.5 * epsilon / num_steps without it (Madry et al., "
        "arXiv:1706.06083).",
    )
    num_steps: int = _setting(10, "Gradient steps of the image attack.")
    restarts: int = _setting(1, "Random starts of the image attack; the worst result of each sample is kept.")
    random_start: bool = _setting(True, "Start image and embedding attacks at a random point of the ball.")
    temperature: float | Literal["logit_scale"] = _setting(
        "logit_scale", 'What multiplies the cosines inside an attacked loss: "logit_scale" (the model\'s) or a number.'
    )
    perturb_at: PerturbAt = _setting(
        "auto",
        "Resolution the budget applies at: the image's own (native), or the model's after resize and crop. `auto`: "
        "what the benchmark says; else native if the first image is square and no larger than the model's. A folder or "
        "Hub id that is no benchmark is `model`, with the resize and crop of the model's own processor; a benchmark's "
        "`model` resizes the short side to 256/224 of the model's size and crops.",
        threat=True,
    )
    template: str | None = _setting(None, "Class prompt with one {} for the class name.", threat=True)
    candidates: CandidateName = _setting(
        "neighbours",
        "Where substitute words come from: neighbours (CLIP's own, no download), masked-lm (the paper's), hotflip or "
        "wordnet.",
    )
    num_candidates: int = _setting(10, "Substitutes tried per word.", threat=True)
    max_changes: int = _setting(
        1, "Changes of words or phrases per text; words put in beyond those taken out count too.", threat=True
    )
    protect_template: bool = _setting(True, "Never change the template's words (the release does).", threat=True)
    forbid_class_names: bool = _setting(
        True, "Never turn a prompt into another class's prompt (the release does).", threat=True
    )
    max_edits: int = _setting(1, "Characters inserted, deleted or exchanged per text.", threat=True)
    rho: float = _setting(
        1.0,
        "Radius of the embedding attack per token, in mean row norms of the token table; 1 is about as far as a "
        "neighbouring word.",
        threat=True,
    )
    num_text_steps: int = _setting(10, "Gradient steps of the embedding attack.")
    seed: int = _setting(0, "Seed of the attacks' random starts.")

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # a frozen dataclass normalises its own fields this way
        if isinstance(self.temperature, str):
            set_(self, "temperature", _as_number(self.temperature))  # a command line passes text
        check_types(self)
        set_(self, "epsilon", pixels("epsilon", self.epsilon))
        if self.step_size is None:
            set_(self, "step_size", 2.5 * float(self.epsilon or 0) / max(self.num_steps, 1))
        set_(self, "step_size", pixels("step_size", self.step_size))
        for name, choices in (("norm", ("linf", "l2")), ("perturb_at", ("auto", "native", "model"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        self._check_numbers()
        if self.template is not None:
            check_template(self.template)

    def _check_numbers(self) -> None:
        epsilon = float(self.epsilon or 0)
        if not 0 <= epsilon <= (1.0 if self.norm == "linf" else math.inf) or math.isinf(epsilon):
            hint = f" Did you mean {epsilon:g}/255?" if epsilon > 1 else ""
            raise ValueError(f"`epsilon` is in [0, 1] pixel units, got {epsilon:g}.{hint}")
        for name in ("step_size", "num_steps", "num_candidates", "max_changes", "max_edits", "rho", "num_text_steps"):
            if not 0 <= getattr(self, name) < math.inf:  # written so that NaN fails too
                raise ValueError(f"`{name}` must not be negative or infinite, got {getattr(self, name)}.")
        if self.restarts < 1:
            raise ValueError(f"`restarts` must be at least 1, got {self.restarts}.")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"`restarts={self.restarts}` without `random_start` would run one attack {self.restarts} times."
            )
        if self.temperature != "logit_scale" and not (
            isinstance(self.temperature, (int, float)) and 0 < self.temperature < math.inf
        ):
            raise ValueError(f'`temperature` must be "logit_scale" or a positive number, got {self.temperature!r}.')

    @property
    def pixel_radius(self) -> float:
        """Return `epsilon` as a number."""
        return float(self.epsilon or 0)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the settings that training and evaluation share."""
        return tuple(each.name for each in dataclasses.fields(AttackSettings))

    @classmethod
    def threat_names(cls) -> tuple[str, ...]:
        """Return the names of the settings that an evaluation takes over from the training that it measures."""
        return tuple(each.name for each in dataclasses.fields(AttackSettings) if each.metadata["threat"])


def check_types(settings: Any) -> None:
    """Raise a ValueError that names the field if a value does not have the annotated type.

    A specification may come from a file. A single text is accepted for a list of texts.
    """
    values = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    hints = _hints(settings.__class__)
    check_fields(
        {
            name: [value] if hints[name] == tuple[str, ...] and isinstance(value, str) else value
            for name, value in values.items()
        },
        hints,
    )


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


Config = TypeVar("Config", bound=type)


def with_attack_settings(**defaults: Any) -> Callable[[Config], Config]:
    """Add to a class the fields of `AttackSettings` that it does not have yet.

    This is for dataclasses that cannot inherit them because they are not frozen. Apply it below `@dataclass`.

    Args:
        **defaults: defaults that differ from those of `AttackSettings`.
    """

    def add(cls: Config) -> Config:
        for each in dataclasses.fields(AttackSettings):
            if each.name in cls.__annotations__ or hasattr(cls, each.name):
                continue
            default = defaults.get(each.name, each.default)
            kind: Any = get_type_hints(AttackSettings)[each.name]
            if each.name == "temperature":  # an argument parser cannot mix a number with a Literal choice
                kind = float | str | None
            elif default is None:
                kind = kind | None
            cls.__annotations__[each.name] = kind
            setattr(cls, each.name, field(default=default, metadata={"help": each.metadata["help"]}))
        return cls

    return add


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def pixels(name: str, value: float | str | None) -> float:
    """Return a length in [0, 1] pixel units, from a number or from text such as "1/255".

    Raises:
        ValueError: if it is neither; the message names the argument.
    """
    if value is None:
        raise ValueError(f'`{name}` must be a number or text such as "1/255", got None.')
    numerator, slash, denominator = str(value).partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'`{name}` must be a number or text such as "1/255", got {value!r}.') from None
