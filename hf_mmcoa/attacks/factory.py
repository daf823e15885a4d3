"""Build attack objects from `AttackSettings`: the only module that maps names of a specification to attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..data.prompts import DEFAULT_TEMPLATE, clean_class_name
from ..families.family import TextFamily
from ..families.named import text_families
from ..families.parts import Part
from ..models.encoder import DualEncoder
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from .apgd import APGD
from .autoattack import AutoAttack
from .bert_attack import BertAttack
from .beyond import BeyondAttack
from .co_attack import CoAttack
from .contracts import EnumerableTextAttack, ImageAttack, MultimodalAttack, TextAttack
from .corruptions import Corruptions
from .diversity import Diversity
from .engine import ImageAttacker, LogitsAttack, LossAttack, TargetedAttack
from .expectation import Expectation
from .family_attack import FamilyAttack
from .image_losses import log_odds_loss, margin_loss
from .image_text_embedding import ImageTextPGD
from .joint import Joint
from .levenshtein import LevenshteinAttack
from .momentum import Momentum
from .perturbed_texts import DistanceAttacker, EmbeddingAttacker, InTurn, TextAttacker, WordAttacker
from .pgd import PGD
from .restarts import Restarts
from .settings import AttackSettings
from .sga import SGA
from .strong import StrongAttack
from .text_embedding import TextEmbeddingPGD
from .typographic import Typographic
from .universal import UniversalPerturbation

CHARMER_SLOTS = 20  # arXiv:2405.04346: slots of a text in which every character is tried


def pgd(settings: AttackSettings) -> PGD:
    """Return PGD, a single run, with the attack budget of the settings."""
    return PGD(
        epsilon=settings.pixel_radius,
        step_size=float(settings.step_size or 0),
        num_steps=settings.num_steps,
        norm=settings.norm,
        random_start=settings.random_start,
    )


def training_image_attack(settings: AttackSettings) -> ImageAttack:
    """Return the image attack of training: PGD, keeping for each image the worst of all restarts."""
    return pgd(settings) if settings.restarts == 1 else Restarts(pgd(settings), times=settings.restarts)


def encoder_attack(settings: AttackSettings) -> ImageAttack:
    """Return the attack on the features of an image encoder: APGD, keeping for each image the worst of all restarts."""
    adaptive = APGD(epsilon=settings.pixel_radius, norm=settings.norm, num_steps=settings.num_steps)
    return adaptive if settings.restarts == 1 else Restarts(adaptive, times=settings.restarts)


def noise(settings: AttackSettings) -> PGD:
    """Return the "attack" that takes no step: a random point of the ball."""
    return replace(pgd(settings), num_steps=0, random_start=True)


def image_attack(name: str, settings: AttackSettings) -> ImageAttacker:
    """Return the image attack with a name from `IMAGE_ATTACKS`.

    Raises:
        ValueError: if the name is unknown.
    """
    ball: dict[str, Any] = {"epsilon": settings.pixel_radius, "norm": settings.norm}
    num_steps, restarts = settings.num_steps, settings.restarts
    climbing = pgd(settings)
    from_image = replace(climbing, random_start=False)
    one_step = replace(from_image, step_size=settings.pixel_radius, num_steps=1)
    adaptive = APGD(**ball, num_steps=num_steps)
    attacks: dict[str, ImageAttacker] = {
        "pgd-ce": LossAttack(attack=climbing, loss=log_odds_loss, restarts=restarts),
        "pgd-margin": LossAttack(attack=climbing, loss=margin_loss, restarts=restarts),
        "pgd-targeted": TargetedAttack(attack=climbing, restarts=restarts),
        # From the image itself there is one run, whatever `restarts` says; DI draws its views anew.
        "fgsm": LossAttack(attack=one_step, loss=log_odds_loss),
        "mi-fgsm": LossAttack(attack=Momentum(from_image), loss=log_odds_loss),
        "di-fgsm": LossAttack(attack=Diversity(from_image), loss=log_odds_loss, restarts=restarts),
        "mi-di-fgsm": LossAttack(attack=Diversity(Momentum(from_image)), loss=log_odds_loss, restarts=restarts),
        "eot-pgd": LossAttack(attack=Expectation(climbing), loss=log_odds_loss, restarts=restarts),
        "apgd-ce": LossAttack(attack=adaptive, loss=log_odds_loss, restarts=restarts),
        "apgd-margin": LossAttack(attack=adaptive, loss=margin_loss, restarts=restarts),
        "apgd-targeted": TargetedAttack(attack=adaptive, restarts=restarts),
        "strong": LogitsAttack(attack=StrongAttack(**ball, num_steps=num_steps)),
        "autoattack": LogitsAttack(attack=AutoAttack(**ball)),
        "autoattack-rand": LogitsAttack(attack=AutoAttack(**ball, version="rand")),
        "autoattack-apgd-ce": LogitsAttack(attack=AutoAttack(**ball, version="apgd-ce")),
        "autoattack-apgd-t": LogitsAttack(attack=AutoAttack(**ball, version="apgd-t")),
        "autoattack-apgd-dlr": LogitsAttack(attack=AutoAttack(**ball, version="apgd-dlr")),
        "fab": LogitsAttack(attack=AutoAttack(**ball, version="fab")),
        "fab-t": LogitsAttack(attack=AutoAttack(**ball, version="fab-t")),
        "square": LogitsAttack(attack=AutoAttack(**ball, version="square")),
    }
    if name not in attacks:
        raise ValueError(f"`image_attacks`: unknown {name!r}; choose from {', '.join(attacks)}.")
    return attacks[name]


def beyond_attack(name: str) -> BeyondAttack:
    """Return the attack with a name from `BEYOND_ATTACKS`; the perturbation's file follows: "universal=FILE".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown, or the file missing or no perturbation.
    """
    kind, _, file = name.partition("=")
    if kind == "universal" and file:
        return UniversalPerturbation.load(file)
    if kind == "universal":
        raise ValueError("`beyond`: universal needs a perturbation, as universal=FILE: `hf-mmcoa universal` finds one.")
    attacks: dict[str, BeyondAttack] = {"typographic": Typographic(), "corruptions": Corruptions()}
    if name not in attacks:
        raise ValueError(f"`beyond`: unknown {name!r}; choose from universal=FILE, {', '.join(attacks)}.")
    return attacks[name]


def word_attack(settings: AttackSettings, candidates: CandidateSource, class_names: Sequence[str] = ()) -> BertAttack:
    """Return the attack "words" with a source of substitutes; without `class_names` the texts are captions."""
    return BertAttack(
        candidates=candidates,
        num_candidates=settings.num_candidates,
        max_changes=settings.max_changes,
        template=settings.template if class_names else None,
        class_names=tuple(class_names),
        protect_template=settings.protect_template,
        forbid_class_names=settings.forbid_class_names,
    )


def character_attack(
    settings: AttackSettings, class_names: Sequence[str] = (), exhaustive: bool = True
) -> LevenshteinAttack:
    """Return the attack "characters".

    Args:
        settings: the attack budget; with `forbid_class_names` no edit may create a word of a class name.
        class_names: names of all classes; empty for captions.
        exhaustive: True: search all slots, then all characters in the worst of them (Charmer), as evaluation does.
            False: search a random sample of both (LEAF), as training does.
    """
    forbidden = class_names if settings.forbid_class_names else ()
    words = {word.casefold() for name in forbidden for word in clean_class_name(name).split()}
    search: dict[str, int | None] = {"num_samples": None, "num_slots": CHARMER_SLOTS} if exhaustive else {}
    return LevenshteinAttack(max_edits=settings.max_edits, dictionary=frozenset(words), **search)  # type: ignore[arg-type]


def family_attack(
    settings: AttackSettings,
    candidates: CandidateSource,
    class_names: Sequence[str] = (),
    *,
    families: str = "all",
    leave_out: str | None = None,
    num_variants: int = 10,
) -> FamilyAttack:
    """Return the attack "families", on the training parts of the families.

    Args:
        settings: the budgets of the attacks on words and characters, the template and the guard of class names.
        candidates: source of substitutes, of which the training part is used.
        class_names: names of all classes; empty for captions.
        families, leave_out: see `hf_mmcoa.families.text_families`.
        num_variants: texts drawn per text.

    Raises:
        ValueError: if a family is unknown or cannot be made.
    """
    members = families_of_part("train", settings, candidates, class_names, families, leave_out)
    return FamilyAttack(families=members, num_variants=num_variants)


def families_of_part(
    part: Part,
    settings: AttackSettings,
    candidates: CandidateSource | None,
    class_names: Sequence[str] = (),
    families: str = "all",
    leave_out: str | None = None,
) -> list[TextFamily]:
    """Return the families of text perturbation, in one part of their instances.

    Args:
        part: "train", "validation" or "test".
        settings, candidates, class_names, families, leave_out: see `family_attack`; without `candidates` there is no
            family of words.
    """
    return text_families(
        families,
        leave_out,
        template=settings.template or DEFAULT_TEMPLATE,
        class_names=[clean_class_name(name) for name in class_names] if settings.forbid_class_names else (),
        words=None if candidates is None else word_attack(settings, candidates, class_names),
        characters=replace(character_attack(settings, class_names), max_edits=1),
        part=part,
    )


def embedding_attack(settings: AttackSettings) -> TextEmbeddingPGD:
    """Return the attack "embedding"."""
    return TextEmbeddingPGD(rho=settings.rho, num_steps=settings.num_text_steps, random_start=settings.random_start)


def image_text_attack(settings: AttackSettings) -> ImageTextPGD:
    """Return the attack on the embeddings of the own prompt that looks at the image."""
    return ImageTextPGD(num_steps=settings.num_text_steps, restarts=settings.restarts if settings.random_start else 0)


def text_attacker(
    kind: str,
    settings: AttackSettings,
    words: TextAttack | None,
    characters: LevenshteinAttack | None = None,
    families: FamilyAttack | None = None,
) -> TextAttacker:
    """Return the text attack of a kind: "words", "characters", "families", "embedding" or "words+embedding".

    Args:
        kind: name of the attack.
        settings: budget of the embedding attack.
        words: attack that substitutes words, for the kinds with words.
        characters: attack that edits characters, for the kind "characters".
        families: attack that draws from families of perturbations, for the kind "families".

    Raises:
        ValueError: if the kind is unknown, or the attack that it needs is None.
    """
    embedding = EmbeddingAttacker(embedding_attack(settings))
    found: dict[str, TextAttacker] = {"embedding": embedding}
    if words is not None:
        found["words"] = WordAttacker(words)
        found["words+embedding"] = InTurn(WordAttacker(words), embedding, "words+embedding")
    if characters is not None:
        found["characters"] = DistanceAttacker(characters)
    if families is not None:
        found["families"] = DistanceAttacker(families)
    if kind not in found:
        raise ValueError(f"`text_attack`: {kind!r} is unknown or lacks its attack; here: {', '.join(found)}.")
    return found[kind]


def multimodal_attack(name: str, settings: AttackSettings, text_attack: EnumerableTextAttack) -> MultimodalAttack:
    """Return the attack "co-attack", "sga" or "joint"; "independent" and "adaptive" are up to the evaluators."""
    if name == "co-attack":
        return CoAttack(
            text_attack=text_attack,
            epsilon=settings.pixel_radius,
            num_steps=settings.num_steps,
            norm=settings.norm,
        )
    if name == "sga":
        return SGA(text_attack=text_attack, image_attack=pgd(settings))
    return Joint(text_attack=text_attack, image_attack=Restarts(pgd(settings), times=settings.restarts))


def candidate_sources(
    given: CandidateSource | Mapping[str, CandidateSource] | None,
    candidates: str | Mapping[str, str],
    encoder: DualEncoder,
) -> dict[str, CandidateSource]:
    """Return the sources of substitutes by name; a single source has the name "".

    Args:
        given: the user's source, or several by name; they take precedence over `candidates`.
        candidates: name of the source in the specification.
        encoder: model whose vocabulary a named source may draw on.

    Raises:
        ValueError: if the mapping is empty, a name cannot be part of a key, or the specification names an unknown
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
    if not isinstance(candidates, str):
        raise ValueError(
            "the threat model describes its sources of substitutes: pass the sources themselves as `candidates`."
        )
    return {"": candidate_source(candidates, encoder.model, encoder.tokenizer)}
