"""Prompt ensembles by name or from a file: several templates whose text embeddings are averaged."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from ..io import read_text, read_yaml
from .benchmarks import ensembles
from .prompts import check_template

OWN = "openai"


def prompt_templates(given: str | Sequence[str], benchmark: str = "", own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the templates of a prompt ensemble.

    Args:
        given: "openai" for OpenAI's ensemble of the benchmark; the name of one of its ensembles, such as "imagenet"; a
            file, YAML or JSON with a list of templates or a text with one a line; or the templates themselves.
        benchmark: name of the data set, for the message.
        own: the ensemble of the benchmark; fewer than two templates if it has none.

    Raises:
        ValueError: if there is no ensemble of that name, the benchmark has none, a template has not exactly one `{}`,
            or one is given twice.
        OSError: if the file cannot be read.

    Example:
        >>> prompt_templates("eurosat")[0]
        'a centered satellite photo of {}.'
    """
    given = [given] if isinstance(given, str) else list(given)
    templates = _listed(given[0], benchmark, own) if len(given) == 1 and "{}" not in given[0] else given
    for template in templates:
        check_template(template)
    if not templates or len(set(templates)) < len(templates):
        raise ValueError(f"`templates` needs at least one template, each once, got {templates}.")
    return tuple(templates)


def caption_templates(template: str, number: int) -> list[str]:
    """Return a template and the shortest of OpenAI's ensemble for CIFAR-10, whose prompts describe any picture.

    They make several captions of an image that has nothing but a class.

    Raises:
        ValueError: if there are not so many.

    Example:
        >>> caption_templates("This is a photo of a {}", 3)
        ['This is a photo of a {}', 'a photo of a {}.', 'a photo of the {}.']
    """
    others = sorted(ensembles()["cifar10"], key=lambda each: len(each.split()))
    found = [template, *(each for each in others if each != template)]
    if number > len(found):
        raise ValueError(f"`captions_per_image` must be at most {len(found)} for class prompts, got {number}.")
    return found[:number]


def _listed(name: str, benchmark: str, own: Sequence[str]) -> list[str]:
    """Return the templates of a name or of a file."""
    known = ensembles()
    if name == OWN:
        if len(own) < 2:
            raise ValueError(
                f"OpenAI published no prompt ensemble for {benchmark or 'this data set'}: name another data set's, of "
                f"{', '.join(known)}, or give a file or the templates themselves."
            )
        return list(own)
    if name in known:
        return known[name]
    if not Path(name).is_file():
        close = difflib.get_close_matches(name.lower(), [OWN, *known], n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"`templates`: {name!r} is no template (it has no {{}}), no file and no ensemble.{hint} Known: "
            f"{', '.join([OWN, *known])}."
        )
    if Path(name).suffix not in (".json", ".yaml", ".yml"):
        return [line for line in map(str.strip, read_text(name).splitlines()) if line]
    listed = read_yaml(name)  # JSON is YAML
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{name} must hold a list of templates, such as ['a photo of a {{}}.', 'the {{}}.'].")
    return listed
