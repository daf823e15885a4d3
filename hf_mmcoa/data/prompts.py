"""Make prompts of class names, with one clean-up and one default template for training, attack and evaluation.

Two classes with the same prompt can never be told apart, so `class_prompts` warns of them by name.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence

DEFAULT_TEMPLATE = "This is a photo of a {}"  # no full stop: MMCoA (arXiv:2404.19287), as in its release

_SEPARATORS = str.maketrans({"_": " ", "-": " ", "/": " "})
_NAMED_COLLISIONS = 5  # a warning names this many groups and counts the rest


def clean_class_name(name: str) -> str:
    """Lower-case `name`, compose it (Unicode's NFC), turn `_`, `-` and `/` into spaces, and collapse white space.

    Example:
        >>> clean_class_name("Polka-dotted/Red_Panda ")
        'polka dotted red panda'
    """
    return " ".join(unicodedata.normalize("NFC", name.lower()).translate(_SEPARATORS).split())


def check_template(template: str) -> None:
    """Raise ValueError unless `template` holds exactly one `{}`."""
    if template.count("{}") != 1:
        raise ValueError(
            f"`template` needs exactly one {{}} for the class name, got {template!r} with {template.count('{}')}."
        )


def class_prompts(class_names: Sequence[str], template: str = DEFAULT_TEMPLATE, clean: bool = True) -> list[str]:
    """Make one prompt per class, in the order of `class_names`.

    Args:
        class_names: names of the C classes.
        template: text with exactly one `{}` for the class name. Other braces are ordinary characters.
        clean: whether every name goes through `clean_class_name` first.

    Returns:
        C prompts, composed (NFC). Equal prompts are kept; one `UserWarning` counts them and names their classes.

    Raises:
        ValueError: if the template does not have exactly one `{}`, there are no names, or a name is no Unicode text or
            is empty after the clean-up.

    Example:
        >>> class_prompts(["Red_Panda", "cat"])
        ['This is a photo of a red panda', 'This is a photo of a cat']
    """
    check_template(template)
    if isinstance(class_names, str) or len(class_names) == 0:
        raise ValueError(f"`class_names` is a sequence of at least one name, got {class_names!r}.")
    names = [clean_class_name(name) if clean else name for name in class_names]
    for original, name in zip(class_names, names, strict=True):
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(
                f"`class_names`: {original!r} is no Unicode text: its bytes were not UTF-8, perhaps in the name of a "
                "folder. Rename it, or pass `class_names`."
            )
        if not name.strip():
            raise ValueError(f"`class_names`: {original!r} is empty after clean-up; give it a name with letters.")
    prompts = [unicodedata.normalize("NFC", template.replace("{}", name)) for name in names]
    _warn_of_collisions(class_names, prompts)
    return prompts


def _warn_of_collisions(class_names: Sequence[str], prompts: Sequence[str]) -> None:
    classes_of: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        classes_of.setdefault(prompt, []).append(index)
    groups = [indices for indices in classes_of.values() if len(indices) > 1]
    if not groups:
        return
    named = "; ".join(
        " = ".join(f"{class_names[i]!r} ({i})" for i in indices) for indices in groups[:_NAMED_COLLISIONS]
    )
    if len(groups) > _NAMED_COLLISIONS:
        named += f"; and {len(groups) - _NAMED_COLLISIONS} more groups"
    warnings.warn(
        f"{len(classes_of)} distinct prompts for {len(prompts)} classes: {sum(map(len, groups))} classes cannot be "
        f"told apart: {named}. Give them different `class_names` to silence this.",
        UserWarning,
        stacklevel=3,
    )
