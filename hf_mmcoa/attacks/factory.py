"""The attacks that a threat model names, as objects: the one place where a name in a specification gets its meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..evaluation.threat_model import ThreatModel
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from .apgd import APGD
from .autoattack import AutoAttack
from .bert_attack import BertAttack
from .co_attack import CoAttack
from .contracts import ClassifierAttack, EnumerableTextAttack, ImageAttack, MultimodalAttack
from .image_losses import class_loss, margin_loss
from .joint import Joint
from .levenshtein import LevenshteinAttack
from .pgd import PGD
from .restarts import Restarts
from .sga import SGA
from .strong import StrongAttack

if TYPE_CHECKING:
    from ..models.encoder import DualEncoder

ClassLoss = Callable[[Tensor, Tensor], Tensor]
CHARMER_SLOTS = 20  # arXiv:2405.04346: places of a text that get every character


@dataclass(frozen=True, kw_only=True)
class LossAttack:
    """An attack that raises any loss, and the loss, logits and labels to (batch,), that it raises here."""

    attack: ImageAttack
    loss: ClassLoss


def image_attack(name: str, spec: ThreatModel) -> LossAttack | ClassifierAttack:
    """The image attack of a name of `IMAGE_ATTACKS`.

    Raises:
        ValueError: if there is none of that name.
    """
    epsilon, norm, num_steps = float(spec.epsilon), spec.norm, spec.num_steps
    pgd = PGD(
        epsilon=epsilon,
        step_size=float(spec.step_size or 0),
        num_steps=num_steps,
        norm=norm,
        random_start=spec.random_start,
    )
    apgd = APGD(epsilon=epsilon, num_steps=num_steps, norm=norm)
    attacks: dict[str, LossAttack | ClassifierAttack] = {
        "pgd-ce": LossAttack(attack=pgd, loss=class_loss),
        "pgd-margin": LossAttack(attack=pgd, loss=margin_loss),
        "apgd-ce": LossAttack(attack=apgd, loss=class_loss),
        "apgd-margin": LossAttack(attack=apgd, loss=margin_loss),
        "strong": StrongAttack(epsilon=epsilon, norm=norm, num_steps=num_steps),
        "autoattack": AutoAttack(epsilon=epsilon, norm=norm),
        "autoattack-rand": AutoAttack(epsilon=epsilon, norm=norm, version="rand"),
        "autoattack-apgd-ce": AutoAttack(epsilon=epsilon, norm=norm, version="apgd-ce"),
        "autoattack-apgd-t": AutoAttack(epsilon=epsilon, norm=norm, version="apgd-t"),
    }
    if name not in attacks:
        raise ValueError(f"`image_attacks`: unknown {name!r}; choose from {', '.join(attacks)}.")
    return attacks[name]


def word_attack(spec: ThreatModel, candidates: CandidateSource, class_names: list[str]) -> BertAttack:
    """The attack "words" with one source of substitutes."""
    return BertAttack(
        candidates=candidates,
        num_candidates=spec.num_candidates,
        max_changes=spec.max_changes,
        template=spec.template,
        class_names=class_names,
        protect_template=spec.protect_template,
        forbid_class_names=spec.forbid_class_names,
    )


def character_attack(spec: ThreatModel, class_names: list[str]) -> LevenshteinAttack:
    """The attack "characters": all places, then all characters in the worst of them (Charmer)."""
    words = {word for name in class_names for word in name.split()} if spec.forbid_class_names else set()
    return LevenshteinAttack(
        max_edits=spec.max_edits, num_samples=None, num_slots=CHARMER_SLOTS, dictionary=frozenset(words)
    )


def multimodal_attack(name: str, spec: ThreatModel, text_attack: EnumerableTextAttack) -> MultimodalAttack:
    """The attacks "co-attack", "sga" and "joint"; the evaluator itself combines "independent" and "adaptive"."""
    epsilon, norm, num_steps = float(spec.epsilon), spec.norm, spec.num_steps
    if name == "co-attack":
        return CoAttack(text_attack=text_attack, epsilon=epsilon, num_steps=num_steps, norm=norm)
    pgd = image_attack("pgd-margin", spec)
    assert isinstance(pgd, LossAttack)
    if name == "sga":
        return SGA(text_attack=text_attack, image_attack=pgd.attack)
    return Joint(text_attack=text_attack, image_attack=Restarts(pgd.attack, times=spec.restarts))


def candidate_sources(
    given: CandidateSource | Mapping[str, CandidateSource] | None, spec: ThreatModel, encoder: DualEncoder
) -> dict[str, CandidateSource]:
    """Sources of substitutes by name, the threat model's own first; a single one has the name "".

    Raises:
        ValueError: if the mapping is empty, a name cannot be part of a key, or the threat model names an unknown
            source.
    """
    if isinstance(given, Mapping):
        if not given:
            raise ValueError("`candidates` is an empty mapping; name at least one source, or pass None.")
        if bad := [name for name in given if not name or set(name) & set(":/ ")]:
            raise ValueError(
                f"`candidates`: the names {bad} are empty or hold a colon, slash or blank; they become part of keys."
            )
        return dict(given)
    if given is not None:
        return {"": given}
    if not isinstance(spec.candidates, str):
        raise ValueError(
            "the threat model describes its sources of substitutes: pass the sources themselves as `candidates`."
        )
    return {"": candidate_source(spec.candidates, encoder.model, encoder.tokenizer)}
