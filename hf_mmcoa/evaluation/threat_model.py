"""What an attacker may do in one evaluation: a robust accuracy without it is not a result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..attacks.settings import pixels
from ..data.prompts import check_template
from ..io import fingerprint

if TYPE_CHECKING:
    from ..attacks.pgd import Norm

PresetName = Literal["paper", "quick", "standard", "strong"]


IMAGE_ATTACKS = (
    "pgd-ce",
    "pgd-margin",
    "apgd-ce",
    "apgd-margin",
    "strong",
    "autoattack",
    "autoattack-rand",
    "autoattack-apgd-ce",
    "autoattack-apgd-t",
)


TEXT_ATTACKS = ("words", "characters", "embedding")


MULTIMODAL_ATTACKS = ("independent", "adaptive", "co-attack", "sga", "joint")


_QUICK: dict[str, Any] = {"num_steps": 20, "image_attacks": ("pgd-ce",)}


_STANDARD: dict[str, Any] = {
    "num_steps": 50,
    "restarts": 2,
    "image_attacks": ("pgd-ce", "pgd-margin"),
    "text_attacks": ("words", "embedding"),
    "num_text_steps": 20,
    "multimodal_attacks": ("independent", "adaptive"),
}


_STRONG: dict[str, Any] = {
    "num_steps": 100,
    "restarts": 5,
    "image_attacks": ("pgd-ce", "pgd-margin", "strong"),
    "text_attacks": ("words", "characters", "embedding"),
    "num_candidates": 25,
    "num_text_steps": 50,
    "multimodal_attacks": ("independent", "adaptive", "co-attack", "sga", "joint"),
}


# The release's evaluation: each attack's own number on the last iterate, and a text attack that may touch any word.
_PAPER: dict[str, Any] = {
    "epsilon": 1 / 255,
    "step_size": 1 / 255,
    "num_steps": 100,
    "image_attacks": ("pgd-ce",),
    "candidates": "masked-lm",
    "protect_template": False,
    "forbid_class_names": False,
    "skip_fallen": False,
}


# By annotation: what a field may be given as, and in words.
_TYPES: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "float": ((int, float), "a number"),
    "float | str": ((int, float, str), 'a number or text such as "1/255"'),
    "float | str | None": ((int, float, str, type(None)), 'a number or text such as "1/255"'),
    "float | Literal['logit_scale']": ((int, float, str), '"logit_scale" or a number'),
    "str | None": ((str, type(None)), "a text"),
    "tuple[str, ...]": ((str, tuple, list), "a list of texts"),
    "str | Mapping[str, str]": ((str, Mapping), "a text, or a mapping of texts"),
    "Norm": (str, "a text"),
    "Literal['auto', 'native', 'model']": (str, "a text"),
}


PRESETS: dict[str, dict[str, Any]] = {"paper": _PAPER, "quick": _QUICK, "standard": _STANDARD, "strong": _STRONG}


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """A complete, serialisable specification of the attacks of one evaluation.

    Args:
        norm: of the image perturbation, "linf" or "l2".
        epsilon: its radius, in pixels of [0, 1]; a number or text such as "4/255". 0 is allowed and equals clean, with
            a warning.
        step_size: in the same unit; `2.5 * epsilon / num_steps` when None (Madry et al., arXiv:1706.06083).
        num_steps: gradient steps of an image attack.
        restarts: random starts of the PGD and APGD attacks; a sample falls if any of them fells it. "strong" and
            "autoattack" run once: they are several attacks already.
        random_start: start PGD at a random point of the ball; without it further restarts would repeat the first.
        image_attacks: of `IMAGE_ATTACKS`, in the order in which they are run. Only PGD takes `step_size`; the others
            find theirs.
        temperature: what multiplies the cosines inside the attacked loss: "logit_scale" (the model's) or a number.
        perturb_at: resolution the budget applies at: "native", "model", or "auto", which the evaluator resolves and
            records.
        template: prompt that the evaluator reads, with one `{}`; None takes the benchmark's and records it.
        attacker_template: prompt that image attacks are run against when the text is left alone; None for the
            evaluator's.
        text_attacks: of `TEXT_ATTACKS`. "embedding" is a row of its own, since no words realise it.
        candidates: where substitutes come from, by name ("neighbours", "masked-lm", "hotflip", "wordnet"). The
            evaluator writes the description of the source that it used here, or of each source by its name.
        num_candidates: substitutes tried per word.
        max_changes: words changed per prompt.
        protect_template: never change the template's words by words. Characters may be changed everywhere.
        forbid_class_names: never turn a prompt into another class's.
        max_edits: characters inserted, deleted or exchanged per prompt by "characters".
        rho: radius of the embedding attack per token, in mean norms of the token table.
        num_text_steps: its gradient steps.
        multimodal_attacks: of `MULTIMODAL_ATTACKS`. "independent": images attacked on the clean prompts, read with the
            attacked ones. "adaptive": images attacked on the attacked prompts. The others are the attacks of those
            names.
        skip_fallen: judge every iterate, and leave a sample alone from the one on that fells it: within an attack, and
            in the attacks after it, whose numbers count it as fallen too. Off, every attack meets every correctly
            classified sample and is judged on its last iterate, so that its number is its own.
        seed: of the random starts.

    Raises:
        ValueError: if a value is out of range or unknown.

    Example:
        >>> ThreatModel.preset("quick", epsilon="4/255").num_steps
        20
    """

    norm: Norm = "linf"
    epsilon: float | str = 1 / 255  # the release's
    step_size: float | str | None = None
    num_steps: int = 50
    restarts: int = 1
    random_start: bool = True
    image_attacks: tuple[str, ...] = ("pgd-ce",)
    temperature: float | Literal["logit_scale"] = "logit_scale"
    perturb_at: Literal["auto", "native", "model"] = "auto"
    template: str | None = None
    attacker_template: str | None = None
    text_attacks: tuple[str, ...] = ("words",)
    candidates: str | Mapping[str, str] = "neighbours"
    num_candidates: int = 10  # BERT-Attack as the release runs it
    max_changes: int = 1
    protect_template: bool = True
    forbid_class_names: bool = True
    max_edits: int = 1
    rho: float = 1.0
    num_text_steps: int = 10
    multimodal_attacks: tuple[str, ...] = ("independent",)
    skip_fallen: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # a frozen dataclass normalises its own fields this way
        self._check_types()
        set_(self, "epsilon", pixels("epsilon", self.epsilon))
        if self.step_size is None:
            set_(self, "step_size", 2.5 * float(self.epsilon) / max(self.num_steps, 1))
        set_(self, "step_size", pixels("step_size", self.step_size))
        for name, known in (
            ("image_attacks", None),  # the evaluator takes attacks that a user brings
            ("text_attacks", TEXT_ATTACKS),
            ("multimodal_attacks", MULTIMODAL_ATTACKS),
        ):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str) else tuple(value)
            if unknown := [one for one in value if known is not None and one not in known]:
                raise ValueError(f"`{name}`: unknown {unknown}; choose from {', '.join(known or ())}.")
            if len(set(value)) < len(value):
                raise ValueError(f"`{name}` names an attack twice: {value}.")
            set_(self, name, value)
        for name, choices in (("norm", ("linf", "l2")), ("perturb_at", ("auto", "native", "model"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        self._check_numbers()
        for template in (self.template, self.attacker_template):
            if template is not None:
                check_template(template)

    def _check_types(self) -> None:
        """A specification may come from a file."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            kind, words = _TYPES[str(each.type)]
            if not isinstance(value, kind) or (isinstance(value, bool) and each.type != "bool"):
                raise ValueError(f"`{each.name}` must be {words}, got {value!r}.")
            texts: Sequence[Any] = value if isinstance(value, (tuple, list)) else ()
            if isinstance(value, Mapping):
                texts = [*value, *value.values()]
            if wrong := [one for one in texts if not isinstance(one, str)]:
                raise ValueError(f"`{each.name}` must be {words}, but holds {wrong[0]!r}.")

    def _check_numbers(self) -> None:
        epsilon = float(self.epsilon)
        if not 0 <= epsilon <= (1.0 if self.norm == "linf" else math.inf) or math.isinf(epsilon):
            hint = f" Did you mean {epsilon:g}/255?" if epsilon > 1 else ""
            raise ValueError(f"`epsilon` is in [0, 1] pixel units, got {epsilon:g}.{hint}")
        for name in ("step_size", "num_steps", "num_candidates", "max_changes", "max_edits", "rho", "num_text_steps"):
            if not 0 <= getattr(self, name) < math.inf:
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

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ThreatModel:
        """A threat model by name, with any field replaced.

        "paper": the release's evaluation: 100 steps of 1/255 within linf 1/255, one masked-LM word, both presented
        together. "quick": PGD-20 on the cross-entropy, one word, independent. "standard": PGD-50 on cross-entropy and
        margin with 2 restarts, words and embeddings, independent and adaptive. "strong": 100 steps, 5 restarts, then
        `StrongAttack`, characters too, and every multimodal attack.

        Raises:
            ValueError: if there is no preset of that name, or a field is out of range.
        """
        if name not in list(PRESETS):  # from a file it may be anything, also what has no hash
            raise ValueError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    def zero_budgets(self) -> dict[str, str]:
        """The attacks that cannot change anything, each with the fields that make it so."""
        reasons = {}
        if self.epsilon == 0:
            reasons["image"] = "epsilon=0"
        elif self.num_steps == 0 and not self.random_start:
            reasons["image"] = "num_steps=0 without a random start"
        elif self.step_size == 0 and not self.random_start:
            reasons["image"] = "step_size=0 without a random start"
        for name in ("max_changes", "num_candidates"):
            if "words" in self.text_attacks and getattr(self, name) == 0:
                reasons["text/words"] = f"{name}=0"
        if "characters" in self.text_attacks and self.max_edits == 0:
            reasons["text/characters"] = "max_edits=0"
        for name in ("rho", "num_text_steps"):
            if "embedding" in self.text_attacks and getattr(self, name) == 0:
                reasons["text/embedding"] = f"{name}=0"
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back to an equal object."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ThreatModel:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if a field is unknown or missing; a specification is complete or it is none.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ValueError(
                f"a threat model has no field {', '.join(unknown)}. Was it written by another version of hf_mmcoa?"
            )
        if missing := sorted(names - set(values)):
            raise ValueError(
                f"the threat model lacks {', '.join(missing)}. Was it written by another version of hf_mmcoa?"
            )
        return cls(**values)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that two specifications share when, and only when, they are equal."""
        return fingerprint(self.to_dict())
