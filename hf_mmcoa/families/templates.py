"""Other sentences around the same class name: published prompt templates, own paraphrases, prefixes and suffixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..data.benchmarks import BENCHMARKS
from ..data.prompts import DEFAULT_TEMPLATE, check_template
from .parts import Instance

PARAPHRASES = (
    "one can see a {} here",
    "you can see a {} in this picture",
    "here is a {}",
    "there is a {} in the picture",
    "this picture shows a {}",
    "the picture shows a {}",
    "what you see is a {}",
    "it is a {}",
    "the thing in the picture is a {}",
    "a {} can be seen",
    "a {} is shown here",
    "in this picture there is a {}",
    "someone took a picture of a {}",
    "we are looking at a {}",
    "I took this picture of a {}",
    "look, a {}",
    "the object shown is a {}",
    "an image that contains a {}",
    "an example of a {}",
    "the subject of this photo is a {}",
    "this must be a {}",
    "the camera caught a {}",
    "my camera saw a {}",
    "a snapshot of a {}",
)
"""Own sentences that say of a picture that it shows the class."""

PREFIXES = (
    "see: ", "photo: ", "image: ", "caption: ", "look: ", "note: ", "picture 1: ", "fig. 2: ", "1. ", "- ", "> ",
    "re: ", "hello, ", "well, ", "okay: ", "today: ", "description: ", "label: ", "answer: ", "title: ",
)  # fmt: skip
SUFFIXES = (
    ", high resolution", ", low resolution", ", close up", ", outdoors", ", in colour", ", stock photo", " (2019)",
    " [1]", "!", "...", ".", " :)", ", thanks", ", hd", ", 4k", ", uncropped", " - free download", ", as seen before",
    ", detail", " #1",
)  # fmt: skip


def imagenet_templates() -> tuple[str, ...]:
    """Return the 80 templates that OpenAI published for ImageNet (arXiv:2103.00020)."""
    return next(row.templates for row in BENCHMARKS if row.name == "imagenet")


def name_in(text: str, template: str) -> str | None:
    """Return the class name in a text that matches the template, without regard to case, else None.

    Example:
        >>> name_in("a photo of a red panda", "a photo of a {}")
        'red panda'
    """
    before, after = (re.escape(part) for part in template.split("{}"))
    found = re.fullmatch(f"{before}(.+){after}", text, re.IGNORECASE | re.DOTALL)
    return found[1] if found else None


@dataclass(frozen=True, kw_only=True)
class TemplateSwaps:
    """The class name in another template. A text that does not match its template, such as a caption, is left alone.

    Instances: ("template", the template). The article stays the template's own: "a apple" is in it.

    Args:
        templates: the other templates, each with one `{}`.
        template: the one that the texts were made with.

    Raises:
        ValueError: if a template does not have exactly one `{}`.
    """

    templates: Sequence[str] = field(repr=False)
    template: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        for template in (self.template, *self.templates):
            check_template(template)
        object.__setattr__(self, "templates", tuple(self.templates))

    @property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        return [("template", template) for template in self.templates]

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        if (name := name_in(text, self.template)) is not None:
            for template in self.templates:
                yield ("template", template), template.replace("{}", name)


@dataclass(frozen=True, kw_only=True)
class Affixes:
    """Words or signs before or after the text that say nothing about the class.

    Instances: ("prefix", the prefix), ("suffix", the suffix). A full stop at the end stays at the end.
    """

    prefixes: Sequence[str] = field(default=PREFIXES, repr=False)
    suffixes: Sequence[str] = field(default=SUFFIXES, repr=False)

    @property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        return [*(("prefix", each) for each in self.prefixes), *(("suffix", each) for each in self.suffixes)]

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        for prefix in self.prefixes:
            yield ("prefix", prefix), prefix + text
        body = text.removesuffix(".")
        stop = text[len(body) :]
        for suffix in self.suffixes:
            yield ("suffix", suffix), body + suffix + ("" if suffix.endswith((".", "!")) else stop)
