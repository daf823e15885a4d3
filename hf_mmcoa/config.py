"""Every number of the method, once: `TrainingArguments` and the fields that are MMCoA's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import yaml
from transformers import TrainingArguments

from .attacks.settings import AttackSettings, pixels, with_attack_settings
from .data.prompts import DEFAULT_TEMPLATE
from .families.names import chosen_families
from .models.lora import check_adapters
from .objectives import Objective
from .objectives.named import named_objective
from .objectives.unread import OWNERS, unfit_to_share, unread_settings
from .substitutes.masked_lm import MASKED_LM

logger = logging.getLogger(__name__)


# 1/255: the release's configuration of its training attack (arXiv:2404.19287).
@dataclass
@with_attack_settings(step_size="1/255", template=DEFAULT_TEMPLATE)
class MMCoAConfig(TrainingArguments):
    """Hold every argument of `MMCoATrainer`, from Python, the command line or `--config file.yaml`.

    All of `TrainingArguments`, then the objective (`objective` to `train_logit_scale`), how attacks are run in training
    (`attack_schedule` to `align_to_cls`), adapters (`lora` to `last_blocks`), `log_images_every`, and the fields of
    `AttackSettings`, which evaluation shares: `norm`, `epsilon`, `step_size`, `num_steps`, `restarts`, `random_start`,
    `temperature`, `perturb_at`, `template`, `candidates`, `num_candidates`, `max_changes`, `protect_template`,
    `forbid_class_names`, `max_edits`, `rho`, `num_text_steps`. Defaults are the release's (docs/methods.md, sections 2
    and 3) except where an argument says otherwise.
    Different from `TrainingArguments`: `remove_unused_columns` is False (the trainer reads the data set's own columns),
    `adam_beta2` is 0.98 and `adam_epsilon` 1e-6 (CLIP's and the release's optimiser).

    Lengths in pixels are fractions of [0, 1] and may be written as text: `epsilon="1/255"`.

    Raises:
        ValueError: if a value is out of range or two contradict each other.

    Example:
        >>> MMCoAConfig(output_dir="out", epsilon="4/255", num_steps=3).epsilon
        0.01568627450980392
    """

    measured: ClassVar[frozenset[str]] = frozenset()
    """Settings that are read beside the training, so that no objective refuses them."""

    # objective
    objective: Literal[
        "mmcoa",
        "clean",
        "tecoa",
        "fare",
        "pmg-aft",
        "tga-zsr",
        "leaf",
        "fare+leaf",
        "mat",
        "mat+",
        "advflyp",
        "saft",
        "sim-clip",
        "qt-aft",
        "agft",
    ] = field(default="mmcoa", metadata={"help": "What is minimised; `clean` is CLIP's own loss without attack."})
    lambda_image: float = field(default=0.5, metadata={"help": "Weight of contrastive(I', T), at least 0."})
    lambda_text: float = field(default=0.5, metadata={"help": "Weight of contrastive(I, T'), at least 0."})
    lambda_clean: float = field(
        default=0.0, metadata={"help": "Weight of contrastive(I, T), at least 0; not in the paper."}
    )
    lambda_class: float = field(
        default=0.0,
        metadata={"help": "Weight of CE(s I' P^T, y), attacked images among all classes; not in the paper."},
    )
    lambda_distill: float = field(
        default=0.0,
        metadata={
            "help": "Weight of mean ||g(t') - g0(t)||^2, attacked texts to pretrained ones (as LEAF); not in the paper."
        },
    )
    text_adversary: Literal["blind", "own", "all"] = field(
        default="blind",
        metadata={
            "help": "Who chooses the words of the text term. `blind`: one text per prompt, found without an image "
            "(paper); `own`: for each image the worst text of its own class; `all`: for each image the worst text of "
            "every class. The last two are exact and need class prompts; not in the paper."
        },
    )
    targets: Literal["diagonal", "class"] = field(
        default="diagonal",
        metadata={"help": "`diagonal`: a sample's text is its own alone (paper); `class`: shared by all of its class."},
    )
    accumulate_attack_gradients: bool = field(
        default=False,
        metadata={"help": "Let the image attack's class gradients reach the weights, as the release does by accident."},
    )
    clean_weight: float = field(
        default=0.0, metadata={"help": "`fare`, `fare+leaf`: share of the clean term in the image loss, in [0, 1]."}
    )
    trades: bool = field(
        default=False,
        metadata={"help": "`fare`, `fare+leaf`: attacked features follow the encoder's own clean ones (TRADES form)."},
    )
    release_scaling: bool = field(
        default=False,
        metadata={"help": "`pmg-aft`: sums instead of means, no logit scale, gradient through p(x), as the release."},
    )
    captions_per_image: int = field(  # 5: as many as COCO and Flickr30k have, and SAFT's command (--ncaps 5)
        default=5,
        metadata={
            "help": "`mat+`, `saft`: captions of each image in a step, at least 1. Drawn from the row's own, repeated "
            "where it has fewer; of images with labels alone, class prompts in `template` and further ones."
        },
    )
    train_image_encoder: bool = field(default=True, metadata={"help": "Train the vision tower and its projection."})
    train_text_encoder: bool = field(default=True, metadata={"help": "Train the text tower and its projection."})
    train_logit_scale: bool = field(
        default=True, metadata={"help": "Train the temperature (of a CLIP at most ln 100) and SigLIP's bias."}
    )

    # image attack
    attack_schedule: Literal["pgd", "fast", "shared"] = field(
        default="pgd",
        metadata={
            "help": "`fast`: 3 steps of 2.5 epsilon / 3. `shared`: one step from the clean images that the loss encodes"
            " anyway, with noise on them. Both without `num_steps` and `step_size` (docs/defences.md)."
        },
    )
    attack_check_every: int = field(
        default=0,
        metadata={
            "help": "Steps between two checks of the image attack against PGD-10, on 16 images; where it is too weak, "
            "it takes twice as many steps from then on (docs/defences.md). 0: none."
        },
    )
    attack_early_stop: bool = field(
        default=False,
        metadata={
            "help": "Leave an image where it is once it is taken for another class, and compute it no more (friendly "
            "adversarial training, arXiv:2002.11242, with tau 0): cheaper, and a weaker attack."
        },
    )
    attack_batch_size: int = field(
        default=0,
        metadata={"help": "Images that the attack differentiates at a time, to save memory; 0: the whole batch."},
    )
    compile_attack: bool = field(
        default=False,
        metadata={
            "help": "Compile the image encoder of the attack (torch.compile): minutes at the start, then faster steps."
        },
    )
    encode_batch_size: int = field(
        default=0,
        metadata={
            "help": "Images and texts that the loss's forward encodes at a time; the backward encodes them again, so "
            "that a large batch needs the memory of a small one (GradCache, arXiv:2101.06983). 0: the whole batch."
        },
    )

    # text attack
    text_attack: str = field(
        default="auto",
        metadata={
            "help": "`words` (substituted), `embedding` (perturbed token embeddings), `words+embedding` (one after the "
            "other), `characters` (typing errors), `families` (the worst of a few texts of many sorts), `none`, or "
            "several joined by `|`: each text suffers one of them, drawn anew in each step. `auto`: characters for "
            "`leaf` and `fare+leaf`; words, the paper's form of `mmcoa`, for the others."
        },
    )
    families: str = field(
        default="all",
        metadata={
            "help": "Families of perturbation of `text_attack=families`, joined by `|`: keyboard, homoglyphs, "
            "case-and-space, templates, paraphrases, affixes, plural-and-article, synonyms, characters, words. `all`: "
            "all that the candidates allow; synonyms need a table or wordnet, words another source."
        },
    )
    leave_out_family: str | None = field(
        default=None,
        metadata={"help": "One of `families` that training does not use, to measure what carries over to it."},
    )
    num_variants: int = field(
        default=10, metadata={"help": "Texts drawn per text and step from `families`; the worst is trained on."}
    )
    masked_lm: str = field(default=MASKED_LM, metadata={"help": "Masked language model of `candidates=masked-lm`."})
    align_to_cls: bool = field(
        default=True,
        metadata={"help": "A word gets its own candidates; off: those of the word to its left, the release's fault."},
    )

    # adapters
    lora: Literal["none", "image", "text", "both"] = field(
        default="none",
        metadata={"help": "Towers that get low-rank adapters (LoRA); nothing else trains then but the temperature."},
    )
    lora_rank: int = field(
        default=8, metadata={"help": "Rank of an adapter, at least 1; 8: LoRA's code for RoBERTa, and peft's default."}
    )
    lora_alpha: float = field(
        default=16.0, metadata={"help": "Scale of an adapter times its rank, above 0; 16: LoRA's code for RoBERTa."}
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout of an adapter's input, in [0, 1); 0: peft's default."}
    )
    # `str` makes HfArgumentParser keep the `nargs`: it refuses a list option without values.
    lora_target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Layers that are adapted, by the ends of their names; without it, or without a value, q_proj and "
            "v_proj (LoRA).",
            "nargs": "*",
        },
    )
    lora_modules_to_save: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Modules that train in full beside the adapters, by the ends of their names: small ones, such as "
            "patch_embedding and layer_norm1.",
            "nargs": "*",
        },
    )
    last_blocks: int | None = field(
        default=None,
        metadata={"help": "Train so many last blocks of each tower, its final layer norm and projection; else all."},
    )

    # tracking
    log_images_every: int = field(
        default=0,
        metadata={
            "help": "Steps between two pictures of attacked examples, to the trackers of `report_to` that take images; "
            "0: none."
        },
    )

    # TrainingArguments, with our defaults
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: the trainer reads the data set's columns."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "CLIP, arXiv:2103.00020, table 18; the release too."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "CLIP, arXiv:2103.00020, table 18; the release too."})

    if TYPE_CHECKING:  # the fields of `AttackSettings`, added by the decorator

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")
        _check_text_attack(self.text_attack)
        self._check_families()
        for name in ("num_steps", "num_candidates", "max_changes", "max_edits", "num_text_steps", "captions_per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("epsilon", "step_size"):
            setattr(self, name, pixels(name, getattr(self, name)))
        for name in ("lora_target_modules", "lora_modules_to_save"):
            value = getattr(self, name)
            setattr(self, name, ([value] if isinstance(value, str) else value) or None)
        given = {each.name for each in fields(self) if getattr(self, each.name) != _default(each)}
        self._given = given
        self._resolve_text_attack()
        self.check()
        self.check_read(named_objective(self))
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # pinning is for copies to an accelerator; torch warns without one
        self._resolved = self.to_dict()

    def check(self) -> None:
        """Check fields against each other and against what they may be; the trainer does it again for changed ones.

        Raises:
            ValueError: if a value is out of range or two contradict each other.
        """
        _check_text_attack(self.text_attack)
        self.temperature = self.attack_settings.temperature  # validates every setting of the attacks
        for name in (*LAMBDAS, "log_images_every", "attack_check_every", "attack_batch_size", "encode_batch_size"):
            if not getattr(self, name) >= 0:  # written so that NaN fails too
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if self.text_attack == "none" and (
            self.objective in ("leaf", "fare+leaf", "mat", "mat+")
            or (self.objective == "mmcoa" and (self.lambda_text or self.lambda_distill))
        ):
            out = "set `lambda_text=0` with it" if self.objective == "mmcoa" else "name an attack, or leave it out"
            raise ValueError(f'`text_attack="none"` leaves the text term of {self.objective} without an attack: {out}.')
        if self.text_adversary != "blind" and self.objective == "mmcoa":
            if self.text_attack != "words":
                raise ValueError(
                    f"`text_adversary={self.text_adversary}` lists all substitutes of a word and needs "
                    f'`text_attack="words"`, got {self.text_attack!r}.'
                )
            if not self.lambda_text:
                raise ValueError(
                    f"`text_adversary={self.text_adversary}` is of the text term, and `lambda_text` is 0: set one."
                )
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"`clean_weight` must be in [0, 1], got {self.clean_weight}.")
        if self.trades and self.clean_weight == 0 and self.objective in OWNERS["trades"]:
            raise ValueError("`trades` with `clean_weight=0` ties the encoder to nothing: give `clean_weight` above 0.")
        if self.objective == "mmcoa" and not any(getattr(self, name) for name in LAMBDAS):
            raise ValueError(f"{', '.join(f'`{name}`' for name in LAMBDAS)} are all 0: there is nothing to minimise.")
        if not (self.train_image_encoder or self.train_text_encoder):
            raise ValueError("`train_image_encoder` and `train_text_encoder` are both off: nothing would train.")
        check_adapters(self)
        for name, (accepted, reason) in _REFUSED.items():
            if (value := getattr(self, name)) not in accepted:
                raise ValueError(f"`{name}` is not supported, got {value!r}: {reason}.")

    def check_read(self, objective: Objective, named: bool = True) -> None:
        """Check that every setting that was given has an effect under an objective.

        Args:
            objective: what is trained.
            named: whether it is the one that `objective` names, and not an object of the user's own.

        Raises:
            ValueError: if one has none; the setting, the objective and the way out are named.
        """
        what = f"`objective={self.objective}`" if named else f"the objective {type(objective).__name__}"
        for name in sorted(OWNERS.keys() & self._given):
            if not named:
                raise ValueError(f"`{name}` has no effect: {what} has its own. Give it there, and leave it out here.")
            if self.objective not in OWNERS[name]:
                raise ValueError(
                    f"`{name}` belongs to `objective` {' and '.join(OWNERS[name])}; {self.objective!r} does not read "
                    "it: leave it out."
                )
        evaluates = self.do_eval or self.eval_strategy != "no" or bool(self.log_images_every)
        unread = unread_settings(self, objective, evaluates)
        idle = [name for name in unread if name in self._given - self.measured]
        if idle:
            evaluated = idle[0] not in unread_settings(self, objective, evaluates=True)
            out = ", or give `do_eval=True` if `evaluate()` is to attack with it" if evaluated else ""
            raise ValueError(
                f"`{idle[0]}` has no effect under {what}: {unread[idle[0]]}, or leave `{idle[0]}` out{out}."
            )
        trained = unread_settings(self, objective)
        if self.attack_schedule == "shared" and (unfit := unfit_to_share(objective)):
            raise ValueError(f"`attack_schedule=shared` does not go with {what}, {unfit}: take `attack_schedule=fast`.")
        if only := [name for name in trained if name in self._given - self.measured]:
            logger.warning(
                "%s is read by the evaluation alone: under %s %s.", f"`{only[0]}`", what, trained[only[0]].split(":")[0]
            )

    @classmethod
    def without_unread(cls, common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that several trainings share, without those that nothing reads in one of them.

        Args:
            common: the shared settings.
            own: the settings of this training alone, `objective` among them; they win, and are refused if not read.
        """
        values = SimpleNamespace(**{each.name: _default(each) for each in fields(cls)} | {**common, **own})
        try:
            values.text_attack = resolved_text_attack(values)
            objective = named_objective(values)
            evaluates = values.do_eval or values.eval_strategy != "no" or bool(values.log_images_every)
            unread = set(unread_settings(values, objective, evaluates))
        except (ValueError, TypeError, KeyError, AttributeError):  # the constructor says more
            return dict(common)
        unread |= {name for name, owners in OWNERS.items() if values.objective not in owners}
        return {name: value for name, value in common.items() if name not in unread - cls.measured}

    def _resolve_text_attack(self) -> None:
        self._auto_text_attack: str | None = None
        if self.text_attack == "auto":
            self.text_attack = self._auto_text_attack = resolved_text_attack(self)

    @property
    def text_attack_is_auto(self) -> bool:
        """Tell whether `text_attack` is what "auto" stands for; an attack or objective object may say otherwise."""
        return self.text_attack == self._auto_text_attack

    @property
    def attack_settings(self) -> AttackSettings:
        """Return what the training attacks may do, as the arguments are now.

        Raises:
            ValueError: if an argument is out of range.
        """
        settings = {name: getattr(self, name) for name in AttackSettings.names()}
        num_steps, step_size = self.attack_steps
        return AttackSettings(**settings | {"num_steps": num_steps, "step_size": step_size})

    @property
    def attack_steps(self) -> tuple[int, float]:
        """Number and length of the image attack's steps."""
        if (num_steps := SCHEDULED_STEPS.get(self.attack_schedule)) is not None:
            return num_steps, 2.5 * pixels("epsilon", self.epsilon) / num_steps  # Madry et al., arXiv:1706.06083
        return self.num_steps, pixels("step_size", self.step_size)

    def _check_families(self) -> None:
        chosen_families(self.families, self.leave_out_family)
        if self.num_variants < 1:
            raise ValueError(f"`num_variants` must be at least 1, got {self.num_variants}.")
        names = ("families", "leave_out_family", "num_variants")
        idle = [name for name in names if getattr(self, name) != getattr(MMCoAConfig, name)]
        if idle and "families" not in self.text_attack.split("|"):
            raise ValueError(
                f"`{idle[0]}` belongs to `text_attack=families`; {self.text_attack!r} does not read it: add families."
            )

    def to_yaml(self) -> str:
        """Return every argument that was given or changed, no token, as YAML that `hf-mmcoa train --config` reads."""
        now = self.to_dict()
        told = {name for name, value in now.items() if name in self._given or value != self._resolved.get(name)}
        kept = {name: now[name] for name in told if not name.endswith("_token")}
        return yaml.safe_dump({"output_dir": self.output_dir} | kept, sort_keys=True)


class MeasuredConfig(MMCoAConfig):
    """`MMCoAConfig` of a training whose model is measured under the same budget, as `hf-mmcoa train` does.

    The budget is read then, whatever the objective attacks.
    """

    measured = frozenset({*AttackSettings.threat_names(), "candidates", "masked_lm", "align_to_cls"})


_IN_16_BITS = (
    "it turns the weights into 16 bits, for the training after it too, and a perturbation of 1/255 is lost in that; "
    "mixed precision is `bf16=True` or `fp16=True`"
)
# What a `Trainer` does for language models, or for a loss of its own: accepted values, and why no other is.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "remove_unused_columns": ((False,), "the trainer reads the data set's own columns, so it must stay off"),
    "label_smoothing_factor": ((0, 0.0), 'the loss is the objective\'s; soft targets are `targets="class"`'),
    "neftune_noise_alpha": ((None,), 'noise on token embeddings is an attack here: take `text_attack="embedding"`'),
    "train_sampling_strategy": (
        ("random", "sequential"),
        "images have no length to group by; take random or sequential",
    ),
    "include_num_input_tokens_seen": (("no", False), "a batch is counted in images, not in tokens; leave it out"),
    "use_liger_kernel": ((False,), "Liger has no kernels for CLIP or SigLIP; leave it out"),
    "bf16_full_eval": ((False,), _IN_16_BITS),
    "fp16_full_eval": ((False,), _IN_16_BITS),
    "label_names": ((None, ["labels"]), "the trainer finds the label column of the data set; leave it out"),
}


LAMBDAS = ("lambda_image", "lambda_text", "lambda_clean", "lambda_class", "lambda_distill")


_CHOICES = {
    name: get_args(hint)
    for name, hint in get_type_hints(MMCoAConfig).items()
    if get_origin(hint) is Literal and name in MMCoAConfig.__annotations__
}


TEXT_ATTACKS = ("words", "embedding", "words+embedding", "characters", "families")


def _check_text_attack(value: str) -> None:
    kinds = value.split("|")
    if value not in ("auto", "none") and (set(kinds) - set(TEXT_ATTACKS) or len(set(kinds)) < len(kinds)):
        raise ValueError(
            f"`text_attack` must be auto, none, or some of {', '.join(TEXT_ATTACKS)}, each once, joined by `|`; "
            f"got {value!r}."
        )


def resolved_text_attack(values: Any) -> str:
    """Return the text attack that runs: "auto" is the one of the objective's paper."""
    if values.text_attack != "auto":
        return str(values.text_attack)
    return "characters" if "leaf" in values.objective else "words"


SCHEDULED_STEPS = {"fast": 3, "shared": 1}
"""Attack steps of the schedules that have a number of their own."""


def _default(each: Field[Any]) -> Any:
    """Return a field's default, resolved as `__post_init__` resolves what was given."""
    value: Any = each.default_factory() if each.default_factory is not MISSING else each.default
    return pixels(each.name, value) if each.name in ("epsilon", "step_size") else value
