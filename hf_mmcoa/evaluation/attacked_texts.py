"""The texts of an evaluation under attack: class prompts or captions, searched once and embedded once.

What the adversaries "blind" and "shared" choose is the same for all images, so it is searched before the first batch.
For "own" and "all" every legal text is listed and embedded before the first batch; the batches choose among them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks import factory
from ..attacks.class_prompts import ClassPrompts, FixedPrompts, WorstPrompts
from ..attacks.contracts import EnumerableTextAttack, MultimodalAttack
from ..attacks.engine import seeded_generator
from ..attacks.enumeration import LegalTexts, legal_texts
from ..attacks.exhaustive import EncodedTexts, Scores, harm_to_images
from ..attacks.image_losses import log_odds_loss
from ..attacks.perturbed_texts import EmbeddingAttacker, TextVictim
from ..attacks.prompt_pools import PromptPools
from ..attacks.shared_choice import choose_shared_texts
from ..data.prompts import class_prompts
from ..losses import zero_shot_logits
from ..models.encoder import DualEncoder
from ..substitutes.source import CandidateSource
from .attack_names import AttackName, source_suffix
from .controls import random_embeddings, random_texts
from .families import measure_families
from .nonsense import nonsense_words
from .text_changes import TextChanges
from .threat_model import ThreatModel

TEXTS_PER_BATCH = 256


@dataclass(kw_only=True)
class FoundTexts:
    """Hold what the search found, as JSON values.

    Args:
        lists: attacked texts by attack, one for each text: the choices that are the same for all images.
        pools: legal texts of each class by attack, "text/words" or "text/words:unseen", the clean prompt first.
        searches: how each of these was found, such as "exhaustive".
        queries: number of texts that each search had to encode.
        controls: lists of random legal texts by attack, one text a class, as in `controls`; none for captions.
        findings: what was odd, each `{"check", "passed", "detail"}` as in `sanity`.
        families: numbers of `measure_families`.
    """

    lists: dict[str, list[str]] = field(default_factory=dict)
    pools: dict[str, list[list[str]]] = field(default_factory=dict)
    searches: dict[str, str] = field(default_factory=dict)
    queries: dict[str, int] = field(default_factory=dict)
    controls: dict[str, list[list[str]]] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    families: dict[str, float | int] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class AttackedTexts:
    """Texts and their attacked forms under one threat model.

    Args:
        encoder: the model.
        texts: class prompts, or captions.
        spec: the threat model.
        attacks: the kinds of attack that are run, of `prepare.ATTACKS`.
        sources: sources of substitutes by name.
        class_names: all classes; none for captions.
        scale: multiplies the cosines inside an attack, scalar.
    """

    encoder: DualEncoder
    texts: list[str]
    spec: ThreatModel
    attacks: tuple[str, ...]
    sources: Mapping[str, CandidateSource]
    class_names: Sequence[str]
    scale: Tensor
    progress: bool = False
    """Show bars while many texts or images are encoded."""
    found: FoundTexts = field(default_factory=FoundTexts)
    """What `search` returned; set by `use`."""
    embeds: dict[str, Tensor] = field(default_factory=dict)
    """Unit embeddings of `found.lists` and of the blind embedding attack, (texts, dim) by attack; set by `use`."""
    controls: dict[str, Tensor] = field(default_factory=dict)
    """Unit embeddings of `found.controls` and of random token embeddings, (draws, texts, dim) by attack; by `use`."""
    nonsense: Tensor | None = None
    """Unit embeddings of the prompts with nonsense words, (words, dim); None for captions. Set by `use`."""
    longest_shift: float = 0.0
    """How far the blind embedding attack moved a token at most, in mean row norms of the token table; set by `use`."""

    @cached_property
    def clean(self) -> Tensor:
        """Return unit embeddings of the clean texts, (texts, dim)."""
        return self.encoder.encode_texts(self.texts)

    @property
    def chooses_by_image(self) -> bool:
        """Return whether an adversary other than "blind", or families, need the images' embeddings."""
        chosen = bool(self.attacks_on_texts) and set(self.spec.text_adversaries) != {"blind"}
        return "text" in self.attacks and (chosen or self.spec.families is not None)

    @cached_property
    def attacks_on_texts(self) -> dict[str, EnumerableTextAttack]:
        """Return the attacks on texts that people can write, such as "text/words:unseen" and "text/characters"."""
        found: dict[str, EnumerableTextAttack] = {}
        if "text" not in self.attacks:
            return found
        for source, candidates in self.sources.items():
            name = str(AttackName("text", "words", "", source_suffix(source, self.sources)))
            budget = self.spec.num_candidates > 0  # without one `prepare` has warned
            found[name] = factory.word_attack(self.spec, candidates, self.class_names) if budget else _Nothing()
        if "characters" in self.spec.text_attacks:
            found["text/characters"] = factory.character_attack(self.spec, self.class_names)
        return found

    def search(self, image_embeds: Tensor | None = None, labels: Tensor | None = None) -> FoundTexts:
        """Attack the texts as far as no single image decides.

        Args:
            image_embeds: unit embeddings of all clean images, (N, dim); for the adversary "blind" alone None.
            labels: their classes, (N,).

        Raises:
            ValueError: if the legal texts are more than the threat model's `max_texts`.
        """
        found = FoundTexts()
        for name, attack in self.attacks_on_texts.items():
            parts = AttackName.parse(name)
            if "blind" in self.spec.text_adversaries:
                key = str(parts._replace(adversary="blind"))
                encode = _Counted(self.encoder.encode_texts)
                found.lists[key] = attack(self.texts, encode)
                found.queries[key] = encode.count
                found.searches[key] = "greedy, without the images"
            if set(self.spec.text_adversaries) == {"blind"}:
                found.controls[name] = self._random_texts(name, self._listed(attack))
                continue
            if image_embeds is None or labels is None:
                raise ValueError("`image_embeds` and `labels` are needed for the adversaries that look at images.")
            encoded = self._new_encoded(name)
            try:
                legal = self._legal(attack, image_embeds, labels, encoded)
            except ValueError as error:
                raise ValueError(
                    f'{name}: {error} Or take the published, weaker search: `text_adversaries=("blind",)`.'
                ) from error
            if legal.search == "exhaustive":
                self._encoded[name] = encoded  # a beam search encodes in another order, and so rounds differently
            found.pools[name] = list(map(list, legal.pools))
            found.controls[name] = self._random_texts(name, found.pools[name])
            found.searches[name] = legal.search
            found.findings += [{**each, "check": f"{name}: {each['check']}"} for each in legal.findings]
            if "shared" in self.spec.text_adversaries:
                key = str(parts._replace(adversary="shared"))
                shared = choose_shared_texts(Scores(image_embeds, labels, encoded, legal.pools), seed=self.spec.seed)
                found.lists[key] = [pool[at] for pool, at in zip(legal.pools, shared.choices.tolist(), strict=True)]
                found.searches[key] = shared.search
            found.queries[name] = len({text for pool in legal.pools for text in pool} | encoded.texts)
        if self.spec.families is not None and "text" in self.attacks:
            if image_embeds is None or labels is None:
                raise ValueError("`image_embeds` and `labels` are needed for families of text perturbation.")
            source = next(iter(self.sources.values()), None) if self.spec.num_candidates else None
            families = factory.families_of_part("test", self.spec, source, self.class_names, self.spec.families)
            found.families = measure_families(families, self.texts, self.encoder.encode_texts, image_embeds, labels)
        return found

    def _legal(
        self, attack: EnumerableTextAttack, image_embeds: Tensor, labels: Tensor, encoded: EncodedTexts
    ) -> LegalTexts:
        return legal_texts(
            attack, self.texts, max_texts=self.spec.max_texts, harm=harm_to_images(encoded, image_embeds, labels)
        )

    def _listed(self, attack: EnumerableTextAttack) -> Sequence[Sequence[str]]:
        """Return the legal texts of each class for the controls; none for captions, or where they are too many."""
        if not self.class_names:
            return []
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")
            return legal_texts(attack, self.texts, max_texts=self.spec.max_texts).pools
        return []

    def _random_texts(self, name: str, pools: Sequence[Sequence[str]]) -> list[list[str]]:
        return random_texts(pools, seeded_generator(torch.device("cpu"), self.spec.seed, "controls", name))

    def _new_encoded(self, name: str) -> EncodedTexts:
        return EncodedTexts(self.encoder.encode_texts, progress=f"texts of {name}" if self.progress else None)

    @cached_property
    def _encoded(self) -> dict[str, EncodedTexts]:
        return {}

    def use(self, found: FoundTexts) -> None:
        """Take what was found, here or by another process, and embed it; the blind embedding attack is computed."""
        self.found = found
        self.embeds = {name: self.encoder.encode_texts(texts) for name, texts in found.lists.items()}
        self.controls = {
            name: torch.stack([self.encoder.encode_texts(texts) for texts in lists])
            for name, lists in found.controls.items()
            if all(lists)
        }
        if "text" in self.attacks and self.class_names:
            self.nonsense = self.encoder.encode_texts(class_prompts(nonsense_words(), str(self.spec.template)))
        self.longest_shift = 0.0
        if "text" in self.attacks and "embedding" in self.spec.text_attacks:
            self.embeds["text/embedding/blind"] = self._perturbed_embeddings()
            if self.class_names:
                generator = seeded_generator(torch.device("cpu"), self.spec.seed, "controls", "text/embedding")
                self.controls["text/embedding"] = random_embeddings(self.encoder, self.texts, self.spec.rho, generator)

    def embedding_loss(self, own: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what the blind embedding attack increases, log-odds of s g(t') T^T, for texts of these places."""
        return lambda embeds: log_odds_loss(zero_shot_logits(embeds, self.clean, self.scale), own)

    @cached_property
    def changes(self) -> TextChanges:
        """Counts how many changes an attacked text has."""
        return TextChanges(self.attacks_on_texts, self.spec)

    def _perturbed_embeddings(self) -> Tensor:
        """Return embeddings that raise `embedding_loss` within the ball of the embedding attack, (texts, dim)."""
        restarts = self.spec.restarts if self.spec.random_start else 1
        attack = EmbeddingAttacker(replace(factory.embedding_attack(self.spec), restarts=restarts))
        parts = []
        for start in range(0, len(self.texts), TEXTS_PER_BATCH):
            texts = self.texts[start : start + TEXTS_PER_BATCH]
            own = torch.arange(start, start + len(texts), device=self.clean.device)
            perturbed = attack(
                texts,
                TextVictim(
                    encoder=self.encoder,
                    encode=self.encoder.encode_texts,
                    distance_encode=self.encoder.encode_texts,
                    embedding_loss=self.embedding_loss(own),
                    generator=lambda kind: torch.Generator(self.clean.device).manual_seed(self.spec.seed),
                ),
            )
            parts.append(F.normalize(perturbed.features(self.encoder), dim=-1))
            self.longest_shift = max(self.longest_shift, perturbed.longest_shift(self.encoder))
        return torch.cat(parts)

    # What classifies an image

    def prompts(self, adversary: str, source: str) -> dict[str, ClassPrompts]:
        """Return the prompts of one adversary and source, by the text attack that wrote them.

        "own" and "all" have one entry, "text": they choose among the texts of all attacks together.
        """
        if adversary in ("own", "all"):
            pools = self._pools_of(self._names(source))
            return {"text": WorstPrompts(pools, adversary == "all", self.scale)} if pools else {}
        wanted = [str(AttackName.parse(name)._replace(adversary=adversary)) for name in self._names(source)]
        return {name: FixedPrompts(self.embeds[name], self.scale) for name in wanted if name in self.embeds}

    def written(self, image_embeds: Tensor, labels: Tensor) -> list[list[str]]:
        """Return one prompt per class for each image, as examples: those of the adversary that changes fewest prompts.

        Args:
            image_embeds: unit embeddings, (batch, dim).
            labels: own classes, (batch,).
        """
        first = next(iter(self.sources), "")
        for adversary in ("own", "shared", "blind", "all"):
            if adversary not in self.spec.text_adversaries:
                continue
            if adversary in ("own", "all") and (pools := self._pools_of(self._names(first)[:1])):
                return pools.worst_prompts(image_embeds, labels, adversary == "all")
            for name in (name for name in self.found.lists if AttackName.parse(name).adversary == adversary):
                return [self.found.lists[name]] * len(labels)
        return [self.texts] * len(labels)

    def pools_by_attack(self) -> dict[str, PromptPools]:
        """Return the pools of each attack on texts that people can write, by its name."""
        return {name: self._pools_of((name,)) for name in self.found.pools}  # type: ignore[misc]  # none is None

    def _names(self, source: str) -> tuple[str, ...]:
        """Return the attacks with one source's substitutes, and those that use none."""
        suffix = source_suffix(source, self.sources)
        return tuple(
            name
            for name in self.attacks_on_texts
            if (parts := AttackName.parse(name)).attack != "words" or parts.source == suffix
        )

    def _pools_of(self, names: Iterable[str]) -> PromptPools | None:
        names = tuple(name for name in names if name in self.found.pools)
        if not names:
            return None
        if names not in self._built:
            texts = [[text for name in names for text in self.found.pools[name][own]] for own in range(len(self.texts))]
            self._built[names] = PromptPools(texts, lambda texts: self._embeds_of(texts, names))
        return self._built[names]

    def _embeds_of(self, texts: list[str], names: Sequence[str]) -> Tensor:
        """Return embeddings of legal texts that depend on nothing but the pools: not on who encoded what before."""
        tables = []
        for name in names:
            encoded = self._encoded.setdefault(name, self._new_encoded(name))
            encoded.rows([text for pool in self.found.pools[name] for text in pool])
            tables.append(encoded)
        parts: list[Tensor] = []
        places: dict[str, int] = {}
        for encoded in tables:
            own = [text for text in texts if text in encoded.texts and text not in places]
            places |= {text: len(places) + number for number, text in enumerate(own)}
            parts.append(encoded.embeds[encoded.rows(own)] if own else encoded.embeds[:0])
        return torch.cat(parts)[[places[text] for text in texts]]

    @cached_property
    def _built(self) -> dict[tuple[str, ...], PromptPools]:
        return {}

    # Attacks that choose texts themselves

    def realised(self, source: str) -> dict[str, Tensor]:
        """Return embeddings of the blindly attacked texts by attack, with one source's substitutes."""
        names = [str(AttackName.parse(name)._replace(adversary="blind")) for name in self._names(source)]
        return {name: self.embeds[name] for name in names if name in self.embeds}

    def multimodal_attack(self, name: str, source: str) -> MultimodalAttack:
        """Return a multimodal attack that chooses its texts by the image."""
        return factory.multimodal_attack(name, self.spec, self._remembering_words(source))

    @cached_property
    def remembering_encoder(self) -> DualEncoder:
        """Return an encoder that embeds no text twice: attacks on texts ask for the same ones in every batch."""
        return _RememberingEncoder(self.encoder)

    def _remembering_words(self, source: str) -> Any:
        name = str(AttackName("text", "words", "", source_suffix(source, self.sources)))
        if name not in self._remembered:
            self._remembered[name] = _RememberedTexts(self.attacks_on_texts[name], self.texts)
        return self._remembered[name]

    @cached_property
    def _remembered(self) -> dict[str, _RememberedTexts]:
        return {}


class _Nothing:
    """A text attack without a budget."""

    def __call__(self, texts: Sequence[str], encode: Any) -> list[str]:
        return list(texts)

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        return [[text] for text in texts]


class _Counted:
    """A text encoder that counts the distinct texts it was asked for."""

    def __init__(self, encode: Callable[[list[str]], Tensor]) -> None:
        self._encode, self._seen = encode, set[str]()

    def __call__(self, texts: list[str]) -> Tensor:
        self._seen.update(texts)
        return self._encode(texts)

    @property
    def count(self) -> int:
        return len(self._seen)


class _RememberedTexts:
    """A text attack on texts that it attacks in every batch."""

    def __init__(self, attack: Any, texts: list[str]) -> None:
        self._attack, self._texts = attack, texts
        self._adv_texts: list[str] | None = None
        self._variants: list[list[str]] | None = None

    def __call__(self, texts: Sequence[str], encode: Any) -> list[str]:
        if list(texts) != self._texts:
            return self._attack(texts, encode)
        if self._adv_texts is None:
            self._adv_texts = self._attack(self._texts, encode)
        return self._adv_texts

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        if list(texts) != self._texts:
            return self._attack.variants(texts)
        if self._variants is None:
            self._variants = self._attack.variants(self._texts)
        return self._variants


class _RememberingEncoder(DualEncoder):
    """Shares the model with another encoder; valid while no weight changes."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.__dict__.update(encoder.__dict__)
        self._encode = encoder.encode_texts  # an ensemble's, if it is one
        self._seen: dict[str, int] = {}
        self._parts: list[Tensor] = []

    def encode_texts(self, texts: list[str], batch_size: int = 1024, truncation: bool = True) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            self._parts.append(self._encode(new, batch_size, truncation))
            self._seen.update((text, len(self._seen)) for text in new)
            if len(new) == len(texts):
                return self._parts[-1]
        self._parts = [torch.cat(self._parts)] if len(self._parts) > 1 else self._parts
        return self._parts[0][[self._seen[text] for text in texts]]
