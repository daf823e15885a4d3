"""The attacks of one evaluation, complete and serialisable: a robust accuracy without them is not a result.

Everything that changes a number of an evaluation is a field of `ThreatModel`, except the model, the data and the
objects that a user passes in, whose descriptions are written into it. It goes into every result file, and its
fingerprint decides whether two results may be merged or compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..attacks.settings import (
    BEYOND_ATTACKS,
    IMAGE_ATTACKS,
    MULTIMODAL_ATTACKS,
    TEXT_ADVERSARIES,
    TEXT_ATTACKS,
    AttackSettings,
)
from ..data.prompts import check_template
from ..families.names import chosen_families
from ..io import fingerprint

__all__ = [
    "BEYOND_ATTACKS",
    "IMAGE_ATTACKS",
    "MULTIMODAL_ATTACKS",
    "PRESETS",
    "TEXT_ADVERSARIES",
    "TEXT_ATTACKS",
    "PresetName",
    "ThreatModel",
    "preset_of",
]

PresetName = Literal["paper", "quick", "standard", "strong"]

PRESETS: dict[str, dict[str, Any]] = {
    # The release's evaluation: each attack's own number on the last iterate, and a text attack that may touch any word.
    "paper": {
        "epsilon": 1 / 255,
        "step_size": 1 / 255,
        "num_steps": 100,
        "image_attacks": ("pgd-ce",),
        "text_adversaries": ("blind",),
        "candidates": "masked-lm",
        "protect_template": False,
        "forbid_class_names": False,
        "skip_fallen": False,
    },
    "quick": {"num_steps": 20, "image_attacks": ("pgd-ce",)},
    # Targets and steps that shrink find what restarts do not (benchmarks/outside_attacks.py).
    "standard": {
        "num_steps": 25,
        "image_attacks": ("apgd-ce", "apgd-margin", "apgd-targeted"),
        "text_attacks": ("words", "embedding"),
        "num_text_steps": 20,
        "multimodal_attacks": ("independent", "adaptive"),
    },
    "strong": {
        "num_steps": 100,
        "restarts": 5,
        "image_attacks": ("pgd-ce", "pgd-margin", "strong"),
        "text_attacks": ("words", "characters", "embedding"),
        "num_candidates": 25,
        "num_text_steps": 50,
        "multimodal_attacks": ("independent", "adaptive", "co-attack", "sga", "joint"),
    },
}

_EFFORT = ("num_steps", "restarts", "image_attacks", "text_attacks", "num_text_steps", "multimodal_attacks")
_BUDGET = ("epsilon", "step_size", "candidates")


@dataclass(frozen=True, kw_only=True)
class ThreatModel(AttackSettings):
    """All attacks of an evaluation: the budgets of `AttackSettings`, and which attacks spend them.

    Budgets of zero are allowed and leave clean accuracy, with a warning of the evaluator. `restarts` apply to PGD and
    APGD ("strong" and "autoattack" are several attacks already), and only PGD takes `step_size`. The evaluator resolves
    `perturb_at` "auto" and `template` None (the benchmark's own) and records what it used. Characters may be changed
    everywhere in a prompt, the template included.

    Args:
        candidates: source of substitute words by name, see `AttackSettings`. The evaluator writes the description of
            the source that it used here, or of each source by its name.
        templates: prompt ensemble of the evaluator: a class is the mean of its unit embeddings over these templates,
            normalised again (CLIP, arXiv:2103.00020, section 3.1.4). None: the one `template`, else the first of them.
            An attack on words writes the substitute into every template.
        image_attacks: names from `IMAGE_ATTACKS`, in the order in which they are run.
        attacker_template: prompt template that image attacks are run against when the text is left alone; the
            evaluator's when None.
        text_attacks: names from `TEXT_ATTACKS`. "embedding" is a row of its own, since no words realise it.
        text_adversaries: who chooses the attacked class prompts, from `TEXT_ADVERSARIES`: "blind", "shared", "own" or
            "all". Captions (retrieval) have the adversary "blind" only.
        max_texts: most legal texts of all classes together that an attack lists for "shared", "own" and "all"; two and
            more changes are searched by a beam where they are more, one change that has more is an error.
        families: families of text perturbation whose test parts are measured beside the attacks, in the mean and with
            the worst text: "all", or names from `hf_mmcoa.families.names.FAMILIES` joined by `|`; None for none.
        multimodal_attacks: names from `MULTIMODAL_ATTACKS`. "independent": images attacked on the clean prompts and
            classified with the attacked ones. "adaptive": images attacked on the attacked prompts; for "own" and "all"
            these are chosen anew at every step.
        beyond: changes of a picture that no ball bounds, from `BEYOND_ATTACKS`, a perturbation with its file:
            "universal=FILE". Their numbers are apart from all others. The evaluator writes their descriptions here.
        skip_fallen: judge every iterate and stop attacking a sample once it is misclassified, within an attack and in
            the attacks after it, whose numbers count it as misclassified too. Off, every attack meets every correctly
            classified sample and is judged on its last iterate, so that its number is its own.

    Raises:
        ValueError: if a value is out of range or unknown.

    Example:
        >>> ThreatModel.preset("quick", epsilon="4/255").num_steps
        20
    """

    num_steps: int = 50
    candidates: str | Mapping[str, str] = "neighbours"  # type: ignore[assignment]  # also a source's description
    templates: tuple[str, ...] | None = None
    image_attacks: tuple[str, ...] = ("pgd-ce",)
    attacker_template: str | None = None
    text_attacks: tuple[str, ...] = ("words",)
    text_adversaries: tuple[str, ...] = ("shared", "own", "all")
    max_texts: int = 1_000_000  # 2 GB of embeddings of a ViT-B/32
    families: str | None = None
    multimodal_attacks: tuple[str, ...] = ("independent",)
    beyond: tuple[str, ...] = ()
    skip_fallen: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.templates, str):
            object.__setattr__(self, "templates", (self.templates,))
        super().__post_init__()
        self._check_templates()
        for name, known in (
            ("image_attacks", None),  # the evaluator takes attacks that a user brings
            ("text_attacks", TEXT_ATTACKS),
            ("text_adversaries", TEXT_ADVERSARIES),
            ("multimodal_attacks", MULTIMODAL_ATTACKS),
            ("beyond", None),  # a file's name, or a description
        ):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str) else tuple(value)
            if unknown := [one for one in value if known is not None and one not in known]:
                raise ValueError(f"`{name}`: unknown {unknown}; choose from {', '.join(known or ())}.")
            if len(set(value)) < len(value):
                raise ValueError(f"`{name}` names an attack twice: {value}.")
            object.__setattr__(self, name, value)  # a frozen dataclass normalises its own fields this way
        if not self.text_adversaries:
            raise ValueError(f"`text_adversaries` is empty; choose from {', '.join(TEXT_ADVERSARIES)}.")
        if self.families is not None:
            chosen_families(self.families)
        if self.max_texts < 1:
            raise ValueError(f"`max_texts` must be at least 1, got {self.max_texts}.")
        if self.attacker_template is not None:
            check_template(self.attacker_template)

    def _check_templates(self) -> None:
        if self.templates is None:
            return
        templates = tuple(self.templates)
        for template in templates:
            check_template(template)
        if not templates or len(set(templates)) < len(templates):
            raise ValueError(f"`templates` needs at least one template, each once, got {templates}.")
        if self.template not in (None, templates[0]):
            raise ValueError(
                f"`template` is {self.template!r} and `templates` begins with {templates[0]!r}: give one of the two."
            )
        object.__setattr__(self, "template", templates[0])
        # An ensemble of one is no ensemble: one specification, one fingerprint.
        object.__setattr__(self, "templates", templates if len(templates) > 1 else None)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ThreatModel:
        """Return a threat model by name, with any field replaced.

        "paper": the release's evaluation: 100 steps of 1/255 within linf 1/255, one masked-LM word, both presented
        together. "quick": PGD-20 on the cross-entropy, one word, independent. "standard": APGD-25 on the cross-entropy,
        on the margin, then on the margin of each of the 9 likeliest wrong classes, words and embeddings, independent
        and adaptive. "strong": 100 steps, 5 restarts, then `StrongAttack`, characters too, and every multimodal attack.

        Raises:
            ValueError: if there is no preset of that name, or a field is out of range.
        """
        if name not in list(PRESETS):  # from a file it may be anything, also what has no hash
            raise ValueError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def read(cls, given: str | Mapping[str, Any] | ThreatModel) -> ThreatModel:
        """Return the threat model that a caller gives.

        Args:
            given: one; the name of a preset; or fields over `preset` ("standard" without it), as in a YAML file.

        Raises:
            ValueError: if there is no such preset or field, or a field is out of range.
            TypeError: if it is none of these.

        Example:
            >>> ThreatModel.read({"preset": "quick", "epsilon": "4/255"}).epsilon == 4 / 255
            True
        """
        if isinstance(given, ThreatModel):
            return given
        if isinstance(given, str):
            return cls.preset(given)
        if not isinstance(given, Mapping):
            raise TypeError(
                f"`threat_model` must be a ThreatModel, a preset ({', '.join(PRESETS)}) or fields by name, got "
                f"{given!r}."
            )
        fields = {"preset": "standard", **given}
        if unknown := sorted(set(fields) - {"preset", *(field.name for field in dataclasses.fields(cls))}):
            raise ValueError(f"`threat_model`: there is no field {', '.join(unknown)}.")
        return cls.preset(fields.pop("preset"), **fields)

    @classmethod
    def of(cls, settings: AttackSettings, **changes: Any) -> ThreatModel:
        """Return a threat model with the budget and the effort of `settings`, and any field replaced."""
        return cls(**{name: getattr(settings, name) for name in AttackSettings.names()} | changes)

    def zero_budgets(self) -> dict[str, str]:
        """Return the attacks that cannot change anything, each with the fields that make it so."""
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
        """Return plain JSON values; `from_dict` reads them back to an equal object.

        Without an ensemble there is no `templates`, and without such attacks no `beyond`, as in older files.
        """
        values = dataclasses.asdict(self)
        if self.templates is None:
            del values["templates"]
        if not self.beyond:
            del values["beyond"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ThreatModel:
        """Return the threat model that `to_dict` wrote.

        Raises:
            ValueError: if a field is unknown or missing; a specification is complete or it is none.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ValueError(
                f"a threat model has no field {', '.join(unknown)}. Was it written by another version of hf_mmcoa?"
            )
        if missing := sorted(names - {"templates", "beyond"} - set(values)):
            raise ValueError(
                f"the threat model lacks {', '.join(missing)}. Was it written by another version of hf_mmcoa?"
            )
        return cls(**values)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that two specifications share when, and only when, they are equal."""
        return fingerprint(self.to_dict())


def preset_of(spec: Mapping[str, Any]) -> str | None:
    """Return the name of the preset whose attacks a specification runs; None if there is none.

    The radius, its step and the source of substitutes may differ. A preset means what it means in this version: an
    older result whose attacks are no longer those of the preset has none.

    Args:
        spec: a threat model as `ThreatModel.to_dict` writes it.
    """
    for name, chosen in PRESETS.items():
        preset = ThreatModel.preset(name).to_dict()
        if all(spec.get(field) == preset[field] for field in {*_EFFORT, *chosen} - {*_BUDGET}):
            return name
    return None
