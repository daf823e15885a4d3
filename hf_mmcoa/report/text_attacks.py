"""Show what attacks on texts did: accuracies by adversary, texts that misled, how they were searched, and the curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..attacks.settings import TEXT_ADVERSARIES
from ..evaluation.attack_names import AttackName
from .charts import Series, radius_curve
from .gallery import word_differences
from .markdown import escape_markdown
from .table import Estimate, accuracy_estimate, by_adversary, text_attack_label

EXAMPLES = 3
"""Texts that misled which are shown of each model and attack."""
Pieces = list[tuple[str, str]]
CURVE_SENTENCE = (
    "The token embeddings of the true class's prompt move for each image; no words realise it. Accuracy in percent "
    "without intervals, and in brackets the radius as a share of the distance to the nearest other class word, which "
    "training changes: compare models at equal shares."
)
MISLED_SENTENCE = (
    "Prompts of the true class that misled most images, and the prompt that won; of each attack from the adversary "
    "that changes fewest prompts."
)
SEARCH_SENTENCE = (
    "Legal texts were listed once, and the adversaries shared, own and all choose among them. Exhaustive: every legal "
    "text is listed, so own and all are the worst that the attack allows. Behind it, how many texts or images the "
    "model encoded; gradients are not counted apart."
)


def adversary_table(series: Sequence[Series]) -> dict[str, Any]:
    """Return the `names` of adversaries and `rows` of estimates by model; no rows if all texts had one adversary."""
    found = by_adversary([result for one in series for result in one.results])
    names = [name for name in TEXT_ADVERSARIES if any(name in row for row in found.values())]

    def estimates(one: Series, row: Mapping[str, str]) -> list[Estimate | None]:
        return [accuracy_estimate(one.results, row[name]) if one.has(row.get(name, "")) else None for name in names]

    rows = [{"label": label, "models": [(one, estimates(one, row)) for one in series]} for label, row in found.items()]
    return {"names": names, "rows": rows}


def misleading_texts(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return examples of texts that misled each model's first result, with the words that changed.

    Of each attack the adversary is shown that changes fewest prompts, and the texts that misled most images, at most
    one a class. A rival text is compared with nothing where its own prompt is not known.
    """
    rows = []
    for one in series:
        result = one.results[0]
        for name, found in _weakest(result.get("witnesses", {})).items():
            misled = Counter((label, *pair) for label, pair in zip(result["labels"], found, strict=True) if pair)
            first = {label: (label, own, rival) for (label, own, rival), _ in reversed(misled.most_common())}
            shown = sorted(first.values(), key=lambda example: -misled[example])[:EXAMPLES]
            if shown:
                _, attack, adversary, source = AttackName.parse(name)
                rows.append(
                    {
                        "model": one.name,
                        "attack": f"{text_attack_label(attack, source, one.results)}, {adversary}",
                        "misled": misled.total(),
                        "examples": [
                            {
                                "own": word_differences(result["prompts"][label], own),
                                "rival": rival,
                                "count": misled[label, own, rival],
                            }
                            for label, own, rival in shown
                        ],
                    }
                )
    return rows


def _weakest(witnesses: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the weakest adversary of each attack that misled anything."""
    kept: dict[tuple[str, str], str] = {}
    for name in sorted((name for name, found in witnesses.items() if any(found)), key=_rank):
        _, attack, _, source = AttackName.parse(name)
        kept.setdefault((attack, source), name)
    return {name: found for name, found in witnesses.items() if name in kept.values()}


def _rank(name: str) -> int:
    adversary = AttackName.parse(name).adversary
    return TEXT_ADVERSARIES.index(adversary) if adversary in TEXT_ADVERSARIES else len(TEXT_ADVERSARIES)


def marked(pieces: Pieces) -> str:
    """Return word differences as Markdown, what was replaced struck out and what replaced it bold."""
    marks = {"same": "", "old": "~~", "new": "**"}
    said = []
    for kind, text in pieces:
        inside = escape_markdown(text)
        before, after = (" " * (edge != edge.strip()) for edge in (text[:1], text[-1:]))
        said.append(f"{before}{marks[kind]}{inside}{marks[kind]}{after}" if inside else " ")
        said.append(" " if kind == "old" and not after else "")
    return " ".join("".join(said).split())


def searches(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return, for each attack, how its texts were searched and what each model's first result had to encode for it."""
    results = [one.results[0] for one in series]
    names = dict.fromkeys(name for key in ("searches", "queries") for each in results for name in each.get(key, {}))

    def search(name: str) -> str:
        found = (each.get("searches", {}).get(name, "") for each in results)
        return " or ".join(dict.fromkeys(filter(None, found)))

    return [
        {
            "attack": name if _is_choice(name) else f"{name}, legal texts",
            "search": search(name),
            "values": [_count(name, each.get("queries", {}).get(name)) for each in results],
        }
        for name in names
    ]


def _is_choice(name: str) -> bool:
    """Return False for the list of legal texts that several adversaries choose from: "text/words"."""
    return not name.startswith("text/") or bool(AttackName.parse(name).adversary)


def _count(name: str, number: int | None) -> str:
    return "" if number is None else f"{number:,} {'texts' if name.startswith('text/') else 'images'}"


def curve_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the numbers of `radius_chart`: a row for each model, and each radius with accuracy and share."""
    return [
        {
            "model": one.name,
            "points": [
                {"radius": f"{radius:.3g}", "accuracy": f"{100 * accuracy:.1f}", "share": f"{share:.2g}"}
                for radius, accuracy, share in zip(curve.radius, curve.accuracy, curve.share, strict=True)
            ],
        }
        for one in series
        if (curve := radius_curve(one)) is not None
    ]
