"""The texts of an evaluation under attack: class prompts or captions, searched once and embedded once.

Text attacks need no image, so they run before the first batch: by every source of substitutes the words, then the
characters, then the token embeddings, which no text realises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks import factory
from ..attacks.contracts import MultimodalAttack
from ..attacks.image_losses import class_loss
from ..attacks.perturbed_texts import TextVictim
from ..losses import zero_shot_logits
from ..models.encoder import DualEncoder
from ..substitutes.source import CandidateSource
from .results import worst_case_attacks
from .threat_model import ThreatModel

TEXTS_PER_BATCH = 256


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
    found: dict[str, list[str]] = field(default_factory=dict)
    """The attacked texts by attack; filled by `use`."""
    embeds: dict[str, Tensor] = field(default_factory=dict)
    """Their unit embeddings, (texts, dim) by attack, the embedding attack's too; filled by `use`."""

    @cached_property
    def clean(self) -> Tensor:
        """Unit embeddings of the clean texts, (texts, dim)."""
        return self.encoder.encode_texts(self.texts)

    def search(self) -> dict[str, list[str]]:
        """Return the texts that each text attack finds, in the order of `texts`."""
        found = {
            source_key("text/words", source, self.sources): self._words(candidates)
            for source, candidates in self.sources.items()
        }
        if "text" in self.attacks and "characters" in self.spec.text_attacks:
            attack = factory.character_attack(self.spec, self.class_names)
            found["text/characters"] = attack(self.texts, self.encoder.encode_texts)
        return found

    def _words(self, candidates: CandidateSource) -> list[str]:
        if self.spec.num_candidates == 0:  # no budget: `prepare` has warned
            return self.texts
        return factory.word_attack(self.spec, candidates, self.class_names)(self.texts, self.encoder.encode_texts)

    def use(self, found: dict[str, list[str]]) -> None:
        """Take attacked texts, found here or elsewhere, and embed them; the embedding attack is computed."""
        self.found = found
        self.embeds = {name: self.encoder.encode_texts(texts) for name, texts in found.items()}
        if "text" in self.attacks and "embedding" in self.spec.text_attacks:
            self.embeds["text/embedding"] = self._perturbed_embeddings()

    def _perturbed_embeddings(self) -> Tensor:
        """Embeddings that raise CE(s g(t'_c) T^T, c) within the ball of the embedding attack, (texts, dim)."""
        attack = factory.text_attacker("embedding", self.spec, None)
        parts = []
        for start in range(0, len(self.texts), TEXTS_PER_BATCH):
            texts = self.texts[start : start + TEXTS_PER_BATCH]
            own = torch.arange(start, start + len(texts), device=self.clean.device)

            def loss(embeds: Tensor, own: Tensor = own) -> Tensor:
                return class_loss(zero_shot_logits(embeds, self.clean, self.scale), own)

            perturbed = attack(
                texts,
                TextVictim(
                    encoder=self.encoder,
                    encode=self.encoder.encode_texts,
                    distance_encode=self.encoder.encode_texts,
                    embedding_loss=loss,
                    generator=lambda kind: torch.Generator(self.clean.device).manual_seed(self.spec.seed),
                ),
            )
            parts.append(F.normalize(perturbed.features(self.encoder), dim=-1))
        return torch.cat(parts)

    def realised(self, source: str) -> dict[str, Tensor]:
        """Return embeddings of attacked texts by attack, with one source's substitutes; not the embedding attack's."""
        accuracy = source_key("text", source, self.sources).replace(":", "_") + "_accuracy"
        return {name: self.embeds[name] for name in worst_case_attacks(list(self.embeds))[accuracy][1:]}

    def multimodal_attack(self, name: str, source: str) -> MultimodalAttack:
        """Return a multimodal attack that chooses its texts by the image."""
        return factory.multimodal_attack(name, self.spec, self._remembering_words(source))

    @cached_property
    def remembering_encoder(self) -> DualEncoder:
        """The encoder, but embedding no text twice: attacks that search texts ask for the same ones in every batch."""
        return _RememberingEncoder(self.encoder)

    def _remembering_words(self, source: str) -> Any:
        key = source_key("text/words", source, self.sources)
        if key not in self._remembered:
            attack = factory.word_attack(self.spec, self.sources[source], self.class_names)
            self._remembered[key] = _RememberedTexts(attack, self.texts, self.found[key])
        return self._remembered[key]

    @cached_property
    def _remembered(self) -> dict[str, _RememberedTexts]:
        return {}


def source_key(attack: str, source: str, sources: Mapping[str, Any]) -> str:
    """Return the name of an attack with one of several sources; the first one, the threat model's own, adds nothing."""
    return attack if not sources or source == next(iter(sources)) else f"{attack}:{source}"


class _RememberedTexts:
    """A text attack on texts that were attacked already."""

    def __init__(self, attack: Any, texts: list[str], adv_texts: list[str]) -> None:
        self._attack, self._texts, self._adv_texts = attack, texts, adv_texts
        self._variants: list[list[str]] | None = None

    def __call__(self, texts: Sequence[str], encode: Any) -> list[str]:
        return self._adv_texts if list(texts) == self._texts else self._attack(texts, encode)

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
        self._seen: dict[str, Tensor] = {}

    def encode_texts(self, texts: list[str], batch_size: int = 1024, truncation: bool = True) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            self._seen.update(zip(new, super().encode_texts(new, batch_size, truncation), strict=True))
        return torch.stack([self._seen[text] for text in texts])
