"""Names of the families, and what an option such as `families="homoglyphs|affixes"` stands for; imports no torch."""

from __future__ import annotations

FAMILIES = (
    "keyboard",
    "homoglyphs",
    "case-and-space",
    "templates",
    "paraphrases",
    "affixes",
    "plural-and-article",
    "synonyms",
    "characters",
    "words",
)
"""Names of all families."""


def chosen_families(families: str = "all", leave_out: str | None = None) -> tuple[str, ...]:
    """Return the names that an option stands for.

    Args:
        families: "all", or names joined by `|`.
        leave_out: one of them that is not used, to measure what carries over to it; None for none.

    Raises:
        ValueError: if a name is unknown or repeated, or nothing is left.

    Example:
        >>> chosen_families("homoglyphs|affixes", leave_out="affixes")
        ('homoglyphs',)
    """
    names = FAMILIES if families == "all" else tuple(families.split("|"))
    if set(names) - set(FAMILIES) or len(set(names)) < len(names):
        raise ValueError(
            f"`families` must be all, or some of {', '.join(FAMILIES)}, each once, joined by `|`; got {families!r}."
        )
    if leave_out is None:
        return names
    if leave_out not in names:
        raise ValueError(f"`leave_out_family` must be one of {', '.join(names)}, got {leave_out!r}.")
    if len(names) == 1:
        raise ValueError(f"`leave_out_family={leave_out}` leaves no family of `families={families}`.")
    return tuple(name for name in names if name != leave_out)
