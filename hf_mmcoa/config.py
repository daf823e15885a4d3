"""Every number of the method, once: `TrainingArguments` and the fields that are MMCoA's own."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

import yaml
from transformers import TrainingArguments

from .attacks.candidates import MASKED_LM
from .data.prompts import DEFAULT_TEMPLATE, check_template


@dataclass
class MMCoAConfig(TrainingArguments):
    """Arguments of `MMCoATrainer`, from Python, the command line or `--config file.yaml`.

    All of `TrainingArguments`, then: the objective (`objective` to `template`), the image attack (`norm` to
    `perturb_at`) and the text attack (`text_attack` to `num_text_steps`). Defaults are the release's (METHODS,
    sections 2 and 3) except where an argument says otherwise. Different from `TrainingArguments`:
    `remove_unused_columns` is False (the trainer reads the data set's own columns), `adam_beta2` is 0.98 and
    `adam_epsilon` 1e-6 (CLIP's and the release's optimiser).

    Lengths in pixels are fractions of [0, 1] and may be written as text: `epsilon="1/255"`.

    Raises:
        ValueError: if a value is out of range or two contradict each other.

    Example:
        >>> MMCoAConfig(output_dir="out", epsilon="4/255", num_steps=3).epsilon
        0.01568627450980392
    """

    # objective
    objective: Literal["mmcoa", "clean", "tecoa", "fare", "pmg-aft", "tga-zsr", "leaf", "fare+leaf"] = field(
        default="mmcoa", metadata={"help": "What is minimised; `clean` is CLIP's own loss without attack."}
    )
    lambda_image: float = field(default=0.5, metadata={"help": "Weight of contrastive(I', T), at least 0."})
    lambda_text: float = field(default=0.5, metadata={"help": "Weight of contrastive(I, T'), at least 0."})
    lambda_clean: float = field(
        default=0.0, metadata={"help": "Weight of contrastive(I, T), at least 0; not in the paper."}
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
    train_image_encoder: bool = field(default=True, metadata={"help": "Train the vision tower and its projection."})
    train_text_encoder: bool = field(default=True, metadata={"help": "Train the text tower and its projection."})
    train_logit_scale: bool = field(default=True, metadata={"help": "Train the temperature; it never exceeds ln 100."})
    template: str = field(default=DEFAULT_TEMPLATE, metadata={"help": "Class prompt with one {} for the class name."})

    # image attack
    norm: Literal["linf", "l2"] = field(default="linf", metadata={"help": "Norm of the image perturbation."})
    epsilon: float | str | None = field(
        default="1/255", metadata={"help": "Radius of the image perturbation, in [0, 1] pixel units: 0.0039 or 1/255."}
    )
    step_size: float | str | None = field(
        default="1/255", metadata={"help": "Length of an attack step, in the unit of epsilon."}
    )
    num_steps: int = field(default=10, metadata={"help": "Steps of the image attack, at least 1."})
    random_start: bool = field(default=True, metadata={"help": "Start the image attack at a random point of the ball."})
    perturb_at: Literal["auto", "native", "model"] = field(
        default="auto",
        metadata={
            "help": "Resolution the budget applies at: the image's own, or the model's after resize and crop. "
            "`auto`: what the benchmark says; else native if the first image is square and no larger than the model's."
        },
    )

    # text attack
    text_attack: Literal["auto", "words", "embedding", "words+embedding", "characters", "none"] = field(
        default="auto",
        metadata={
            "help": "Substituted words, perturbed token embeddings, one after the other, or typing errors. "
            "`auto`: characters for `leaf` and `fare+leaf`, words for the others, as their papers do."
        },
    )
    candidates: Literal["neighbours", "masked-lm", "hotflip", "wordnet"] = field(
        default="neighbours",
        metadata={
            "help": "Where substitutes come from; `masked-lm`: the paper's, `neighbours`: CLIP's own, no download."
        },
    )
    masked_lm: str = field(default=MASKED_LM, metadata={"help": "Masked language model of `candidates=masked-lm`."})
    num_candidates: int = field(default=10, metadata={"help": "Substitutes tried per word, at least 1."})
    max_changes: int = field(default=1, metadata={"help": "Words, or characters, changed per text, at least 1."})
    protect_template: bool = field(
        default=True, metadata={"help": "Never change the template's words (the release does)."}
    )
    forbid_class_names: bool = field(
        default=True, metadata={"help": "Never turn a prompt into another class's prompt (the release does)."}
    )
    align_to_cls: bool = field(
        default=True,
        metadata={"help": "Read the masked LM at the word's own position; off: one to the left, the release's fault."},
    )
    rho: float = field(
        default=1.0, metadata={"help": "Radius of the embedding attack per token, in mean norms of the token table."}
    )
    num_text_steps: int = field(default=10, metadata={"help": "Steps of the embedding attack, at least 1."})

    # TrainingArguments, with our defaults
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: the trainer reads the data set's columns."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "CLIP, arXiv:2103.00020, table 18; the release too."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "CLIP, arXiv:2103.00020, table 18; the release too."})

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")
        check_template(self.template)
        self.epsilon = pixels("epsilon", self.epsilon)
        self.step_size = pixels("step_size", self.step_size)
        limit = 1.0 if self.norm == "linf" else float("inf")
        if not 0 <= self.epsilon <= limit:
            hint = f" Did you mean {self.epsilon:g}/255?" if self.epsilon > 1 else ""
            raise ValueError(f"`epsilon` is in [0, 1] pixel units, got {self.epsilon:g}.{hint}")
        for name in ("num_steps", "num_candidates", "max_changes", "num_text_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("lambda_image", "lambda_text", "lambda_clean", "rho", "step_size"):
            if not getattr(self, name) >= 0:  # written so that NaN fails too
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if self.text_attack == "none" and (
            "leaf" in self.objective or (self.objective == "mmcoa" and self.lambda_text > 0)
        ):
            out = "set `lambda_text=0` with it" if self.objective == "mmcoa" else "name an attack, or leave it out"
            raise ValueError(f'`text_attack="none"` leaves the text term of {self.objective} without an attack: {out}.')
        for name, owners in _OWNERS.items():
            if getattr(self, name) and self.objective not in owners:
                raise ValueError(
                    f"`{name}` belongs to `objective` {' and '.join(owners)}; {self.objective!r} does not read it."
                )
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"`clean_weight` must be in [0, 1], got {self.clean_weight}.")
        if self.trades and self.clean_weight == 0:
            raise ValueError("`trades` with `clean_weight=0` ties the encoder to nothing: give `clean_weight` above 0.")
        if self.batch_eval_metrics:
            raise ValueError("`batch_eval_metrics` is not supported: accuracies need all outcomes.")
        if self.objective == "mmcoa" and self.lambda_image == self.lambda_text == self.lambda_clean == 0:
            raise ValueError(
                "`lambda_image`, `lambda_text` and `lambda_clean` are all 0: there is nothing to minimise."
            )
        if not (self.train_image_encoder or self.train_text_encoder):
            raise ValueError("`train_image_encoder` and `train_text_encoder` are both off: nothing would train.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must stay off: the trainer reads the data set's own columns.")
        given = {each.name for each in fields(self) if getattr(self, each.name) != _default(each)}
        if self.text_attack == "auto":
            self.text_attack = "characters" if "leaf" in self.objective else "words"
        super().__post_init__()
        self._given, self._resolved = given, self.to_dict()

    def to_yaml(self) -> str:
        """Every argument that was given or changed, no token, as YAML that `hf-mmcoa train --config` reads."""
        now = self.to_dict()
        told = {name for name, value in now.items() if name in self._given or value != self._resolved.get(name)}
        kept = {name: now[name] for name in told if not name.endswith("_token")}
        return yaml.safe_dump({"output_dir": self.output_dir} | kept, sort_keys=True)


_OWNERS = {
    "clean_weight": ("fare", "fare+leaf"),
    "trades": ("fare", "fare+leaf"),
    "release_scaling": ("pmg-aft",),
    "accumulate_attack_gradients": ("mmcoa",),
}
_CHOICES = {
    name: get_args(get_type_hints(MMCoAConfig)[name])
    for name in ("objective", "targets", "norm", "perturb_at", "text_attack", "candidates")
}


def _default(each: Field[Any]) -> Any:
    """A field's default, resolved as `__post_init__` resolves what was given."""
    value: Any = each.default_factory() if each.default_factory is not MISSING else each.default
    return pixels(each.name, value) if each.name in ("epsilon", "step_size") else value


def pixels(name: str, value: float | str | None) -> float:
    """A length in [0, 1] pixel units, from a number or from text such as "1/255"."""
    if value is None:
        raise ValueError(f'`{name}` must be a number or text such as "1/255", got None.')
    numerator, slash, denominator = str(value).partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'`{name}` must be a number or text such as "1/255", got {value!r}.') from None
