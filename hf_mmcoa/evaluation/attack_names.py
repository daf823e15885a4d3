"""Names of attacks in results, and the worst cases over them.

An attack is called "<kind>/<attack>", with the adversary of the texts behind it and, with several sources of
substitutes, the source: "image/pgd-ce", "text/words/own", "multimodal/adaptive/all:unseen". The four adversaries are
described in docs/methods.md, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..attacks.settings import TEXT_ADVERSARIES

BEYOND = "beyond"
"""Kind of the attacks that no ball around the picture bounds."""
COVERED = {name: (name,) for name in TEXT_ADVERSARIES} | {"all": TEXT_ADVERSARIES}
"""For each adversary those whose every choice it could have made itself."""


class AttackName(NamedTuple):
    """The parts of an attack's name; `adversary` and `source` may be empty."""

    kind: str
    attack: str
    adversary: str = ""
    source: str = ""

    @classmethod
    def parse(cls, name: str) -> AttackName:
        """Return the parts of a name.

        Example:
            >>> AttackName.parse("text/words/own:unseen")
            AttackName(kind='text', attack='words', adversary='own', source='unseen')
        """
        kind, _, rest = name.partition("/")
        if kind not in ("text", "multimodal"):
            return cls(kind, rest)
        rest, _, source = rest.partition(":")
        attack, _, adversary = rest.partition("/")
        return cls(kind, attack, adversary, source)

    def __str__(self) -> str:
        name = "/".join(part for part in (self.kind, self.attack, self.adversary) if part)
        return f"{name}:{self.source}" if self.source else name

    @property
    def realised(self) -> bool:
        """Return whether this is an attack on texts that people can write: all but the one on token embeddings."""
        return self.kind == "text" and self.attack != "embedding"


def source_suffix(source: str, sources: Mapping[str, Any]) -> str:
    """Return what stands for a source in names: nothing for the first, which is the threat model's own."""
    return "" if not sources or source == next(iter(sources)) else source


def worst_cases(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each accuracy of a result, the attacks that it is the worst case over."""
    return worst_case_attacks(list(result["outcomes"]))


def worst_case_attacks(attacks: Sequence[str], by_adversary: bool = True) -> dict[str, list[str]]:
    """Return, for each accuracy, the attacks that it is the worst case over, sample by sample.

    "text_accuracy" is the worst case over all adversaries that were run, "text_own_accuracy" over one of them. The
    substitutes of a further source, "unseen", count towards that source's accuracies only: "text_unseen_accuracy",
    "text_own_unseen_accuracy". The embedding attack counts towards no text accuracy, since no words realise it. What no
    ball bounds is "beyond_accuracy" and counts towards nothing else, "worst_case_accuracy" included.

    Args:
        attacks: names of all attacks that were run, "clean" first.
        by_adversary: also return the accuracies of single adversaries.
    """
    parsed = {name: AttackName.parse(name) for name in attacks}
    groups = {"clean_accuracy": ["clean"]}
    image = [name for name, parts in parsed.items() if parts.kind == "image"]
    if image:
        groups["image_accuracy"] = ["clean", *image]
    for source in dict.fromkeys(parts.source for parts in parsed.values()):
        # Attacks that use no substitutes count for every source.
        text = [
            name
            for name, parts in parsed.items()
            if parts.realised and parts.source == (source if parts.attack == "words" else "")
        ]
        both = [name for name, parts in parsed.items() if parts.kind == "multimodal" and parts.source == source]
        for adversary in ("", *_adversaries(parsed[name] for name in (*text, *both))) if by_adversary else ("",):
            allowed = COVERED[adversary] if adversary else (*TEXT_ADVERSARIES, "")
            middle = "".join(f"_{part}" for part in (adversary, source) if part)
            texts, boths = ([name for name in names if parsed[name].adversary in allowed] for names in (text, both))
            if texts:
                groups[f"text{middle}_accuracy"] = ["clean", *texts]
            if boths:
                groups[f"multimodal{middle}_accuracy"] = ["clean", *image, *texts, *boths]
    embedding = [name for name, parts in parsed.items() if (parts.kind, parts.attack) == ("text", "embedding")]
    if embedding:
        groups["embedding_accuracy"] = ["clean", *embedding]
    inside = [name for name, parts in parsed.items() if parts.kind != BEYOND]
    if len(inside) > 1:
        groups["worst_case_accuracy"] = inside
    if beyond := [name for name in attacks if name not in inside]:
        groups[f"{BEYOND}_accuracy"] = ["clean", *beyond]
    order = ("clean", "image", "text", "multimodal", "embedding", "worst", BEYOND)
    return dict(sorted(groups.items(), key=lambda group: order.index(group[0].split("_")[0])))


def _adversaries(names: Any) -> list[str]:
    found = {parts.adversary for parts in names}
    return [adversary for adversary in TEXT_ADVERSARIES if adversary in found]


def worst_outcome(result: Mapping[str, Any], attacks: Sequence[str]) -> str:
    """Return one character a sample: "1" if it is classified correctly under every one of `attacks`, else "0"."""
    outcomes = [result["outcomes"][attack] for attack in attacks]
    return "".join("1" if set(column) == {"1"} else "0" for column in zip(*outcomes, strict=True))
