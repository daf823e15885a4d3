"""The settings of a training that nothing reads under an objective: the configuration refuses them.

What an objective reads follows from what it declares (`views`, `trains`, `image_attack_target`, `reads_targets`), so
that an objective of the user's own is covered too.
"""

from __future__ import annotations

from typing import Any

from ..families.names import chosen_families
from .base import Objective, View

IMAGE_ATTACK = ("norm", "epsilon", "step_size", "num_steps", "restarts", "attack_schedule", "attack_batch_size")
# Of an image attack that knows the image's class:
CLASS_ATTACK = ("attack_early_stop", "compile_attack", "attack_check_every")
WORDS = ("candidates", "num_candidates", "max_changes", "protect_template", "align_to_cls", "masked_lm")
EMBEDDING = ("rho", "num_text_steps")
FAMILIES = ("families", "leave_out_family", "num_variants")
TEXT_ATTACK = ("text_attack", *WORDS, "max_edits", "forbid_class_names", *EMBEDDING, *FAMILIES)
PARTS = {"train_image_encoder": "image", "train_text_encoder": "text", "train_logit_scale": "logit_scale"}
OWNERS = {
    "lambda_image": ("mmcoa",),
    "lambda_text": ("mmcoa",),
    "lambda_clean": ("mmcoa",),
    "lambda_class": ("mmcoa",),
    "lambda_distill": ("mmcoa",),
    "text_adversary": ("mmcoa",),
    "accumulate_attack_gradients": ("mmcoa",),
    "clean_weight": ("fare", "fare+leaf"),
    "trades": ("fare", "fare+leaf"),
    "release_scaling": ("pmg-aft",),
}
"""The fields of the loss, and the values of `MMCoAConfig.objective` that have them."""

_IMAGES: frozenset[View] = frozenset(
    {"images", "adv_images", "patches", "adv_patches", "teacher_images", "teacher_patches"}
)
_TEXTS: frozenset[View] = frozenset({"texts", "adv_texts", "text_pools", "prompts", "teacher_texts"})


def unread_settings(args: Any, objective: Objective, evaluates: bool = False) -> dict[str, str]:
    """Return the settings that have no effect, whatever their values, each with the reason and the way out.

    Args:
        args: an `MMCoAConfig`, or anything else with its fields; `text_attack` is no longer "auto".
        objective: what is trained.
        evaluates: whether the training attack is also evaluated, on images and on texts (`MMCoATrainer.evaluate`).
    """
    views = objective.views
    on_images, on_texts = "adv_images" in views or evaluates, bool({"adv_texts", "text_pools"} & views) or evaluates
    on_texts_of_images = on_images and objective.attack_reads_texts
    on_classes = on_images and objective.image_attack_target in ("class", "soft class")
    kinds = set(args.text_attack.replace("+", "|").split("|")) if on_texts else set()
    families = chosen_families(args.families, args.leave_out_family) if "families" in kinds else ()
    reads_words = "words" in kinds or bool({"words", "synonyms"} & set(families))
    found: dict[str, str] = {}

    def unless(read: bool, names: tuple[str, ...], why: str) -> None:
        if not read:
            found.update({name: why for name in names if name not in found})

    no_images = "no image is attacked: take an objective that attacks images (mmcoa with `lambda_image`, tecoa, fare)"
    no_texts = "no text is attacked: take an objective that attacks texts (mmcoa with `lambda_text`, leaf)"
    unless(on_images, IMAGE_ATTACK, no_images)
    unless(on_images, CLASS_ATTACK, no_images)
    unless("adv_images" in views, CLASS_ATTACK[-1:], no_images)
    unless(on_texts or args.text_attack == "none", ("text_attack",), no_texts)
    unless(on_texts, TEXT_ATTACK[1:], no_texts)
    unless(
        args.attack_schedule == "pgd",
        ("num_steps", "step_size"),
        f"`attack_schedule={args.attack_schedule}` has steps of its own: take `attack_schedule=pgd`",
    )
    unless(
        args.attack_schedule != "shared" or evaluates,
        (*CLASS_ATTACK[:2], "attack_batch_size", "restarts"),
        "the one step of `attack_schedule=shared` lies within the forward of the loss: take `attack_schedule=fast`",
    )
    unless(on_classes, CLASS_ATTACK, "the image attack follows features and knows no class: take tecoa or mmcoa")
    unless(reads_words, WORDS, f"`text_attack={args.text_attack}` substitutes no words: add words to it")
    unless(args.candidates == "masked-lm", ("masked_lm",), "only `candidates=masked-lm` asks a language model")
    unless("characters" in kinds, ("max_edits",), f"`text_attack={args.text_attack}` edits no characters: add it")
    unless(
        bool(kinds & {"words", "families", "characters"}),
        ("forbid_class_names",),
        f"`text_attack={args.text_attack}` writes no text: add words or characters to it",
    )
    embeds = "embedding" in kinds
    unless(embeds, EMBEDDING, f"`text_attack={args.text_attack}` perturbs no embedding: add embedding to it")
    unless("families" in kinds, FAMILIES, f"`text_attack={args.text_attack}` draws from no family: add families to it")
    unless(on_images or embeds, ("random_start",), "no attack starts from a point of its own")
    unless(
        (on_texts_of_images or embeds) and objective.attack_with_logit_scale,
        ("temperature",),
        "no attack multiplies cosines by it",
    )
    unless(
        objective.reads_targets, ("targets",), "no batch of images and texts is contrasted: take mmcoa, mat or clean"
    )
    unless(objective.reads_captions, ("captions_per_image",), "one caption of an image is read: take `mat+` or `saft`")
    reads_texts = bool(views & _TEXTS) or on_texts_of_images or evaluates
    unless(reads_texts, ("template",), "no text is read")
    unless(bool(views & _IMAGES) or on_images, ("perturb_at",), "no image is read")
    for name, part in PARTS.items():
        unless(part in objective.trains, (name,), f"that part is frozen under {type(objective).__name__} already")
    return found


def unfit_to_share(objective: Objective) -> str | None:
    """Return why an objective's image attack cannot take its gradient from the loss's own forward; None if it can."""
    if not {"images", "patches"} & objective.views:
        return "whose loss encodes no clean images"
    if objective.image_attack_target != "class":
        return "whose image attack is not on the image's class"
    if "attack_iterates" in objective.views:
        return "whose loss reads the points at which the image attack took its gradients"
    return None
