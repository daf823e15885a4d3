"""Define a protocol: data sets, methods, seeds and settings, and the cells that they make.

A cell is one entry of the table: one model, trained on one draw of one data set by one method with one seed, and
evaluated on one data set. Its settings, as plain JSON, are all that affects its result. They are written beside the
result, and a cell with other settings is another cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..attacks.settings import THREATS, AttackSettings
from ..config import MeasuredConfig, MMCoAConfig
from ..evaluation.prepare import complete_attacks
from ..evaluation.threat_model import PRESETS, ThreatModel
from ..objectives.named import named_objective
from ..objectives.unread import unread_settings
from ..substitutes.embedded import synonym_table
from ..substitutes.held_out import UNSEEN_WORDS, UnseenWords
from ..testbed.word_vectors import WORD_VECTORS
from .cell import FULL, KNOWN, SET_BY_CELL, UNSEEN, UNTOUCHED, WHOLE, Cell, Data, Method, short_fingerprint
from .values import check_training, choices

# What decides how often a method steps: methods of unequal numbers of steps are no comparison.
STEPS = (
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "auto_find_batch_size",
    "dataloader_drop_last",
)


TRAINED_ON_TEXTS = ("mmcoa", "leaf", "fare+leaf", "mat", "mat+")  # objectives that read attacked texts
MASKED_LM_ONLY = ("masked_lm",)  # settings that other sources of substitutes do not read

# Image size, patch size and number of pretraining images (None: all) of the tiny CLIP for a data set.
TINY = {"digits": (8, 2, None), "fashion-mnist": (28, 7, 20000)}


# The text tower of a tiny CLIP: trained on captions alone, or the shipped one that knows English.
CAPTIONS, ENGLISH = TEXT_TOWERS = ("captions", "english")

IID, OOD, RETRIEVAL = TASKS = ("iid", "ood", "retrieval")

# Fields of a threat model that speak of classes and their prompts.
OF_CLASSES = ("template", "templates", "attacker_template", "text_adversaries", "families", "beyond")

QUIET: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A grid of cells, as a YAML file describes it.

    Args:
        name: title of the report.
        description: text above the table.
        task: "iid": train and evaluate on each of `datasets`; "ood": train on `train_on`, evaluate on `evaluate_on`;
            "retrieval": as "iid", on pairs of images and captions, with labels left out, and recalls are measured.
        datasets: data sets of the tasks "iid" and "retrieval".
        train_on: training data of the task "ood".
        evaluate_on: evaluation data of the task "ood".
        shots: numbers of training images per class; None for all.
        objectives: the methods. In YAML each is an objective ("mmcoa", or "none" for the model without training), one
            with settings of its own ("mmcoa,targets=class"), or the same as `{name: mmcoa-class, objective: mmcoa,
            targets: class}`.
        seeds: seeds of the repetitions, which are averaged in the table.
        word_splits: seeds of the splits of the substitutes into known and unseen ones, a further level of repetitions.
            Methods whose training reads no substitutes are trained once for all of them.
        model: folder or Hub id of a CLIP, or "pictograms", which the package ships; None for a tiny one as `tiny`
            describes it.
        tiny: settings of a CLIP that is built and pretrained here on captions of the training splits: `image_size` and
            `patch_size` in pixels, `epochs`, `max_samples` images drawn once, and either `text_tower: english`, the
            shipped text tower that knows English, in place of "captions", which learns from the captions alone, or
            `word_vectors`, a name of `testbed.word_vectors` ("minilm"), if its token table starts from a public
            model's.
        training: any fields of `MMCoAConfig`.
        threat_model: `preset` and any fields of `ThreatModel`; fields that training shares default to `training`.
        candidates: a source of `MMCoAConfig.candidates`, "digits" or "fashion-mnist" (embedded tables), or a JSON file
            `{"word": ["substitute", ...]}`; training knows one half, the other is held out.
        substitutes: the lists that texts are attacked with, each a column of the table: the "known" half, the "unseen"
            half and the "whole" list, which is the paper's attack.
        unseen_words: those words of the unseen half that are measured: "all" of them, or the disjoint parts
            "validation", to choose by, and "test".
        measure: kinds of attack that are measured, of "clean", "image", "text" and "multimodal".
        max_test_samples: number of rows to evaluate on, drawn once; all when None.
        batch_size: batch size of the evaluation.
        unequal_steps: let a method change its number of gradient steps, which is refused otherwise.
        data_dir: folder with local files of the data sets, see `load_benchmark`.

    Raises:
        ValueError: if a value is unknown or two contradict each other; the message names the field.
    """

    name: str
    description: str = ""
    task: str = "iid"
    datasets: tuple[Data, ...] = ()
    train_on: Data | None = None
    evaluate_on: tuple[Data, ...] = ()
    shots: tuple[int | None, ...] = (None,)
    objectives: tuple[Method, ...] = (
        Method(name=UNTOUCHED, objective=UNTOUCHED),
        Method(name="mmcoa", objective="mmcoa"),
    )
    seeds: tuple[int, ...] = (0,)
    word_splits: tuple[int, ...] = (0,)
    model: str | None = None
    tiny: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    threat_model: Mapping[str, Any] = field(default_factory=dict)
    candidates: str = "neighbours"
    substitutes: tuple[str, ...] = (KNOWN, UNSEEN)
    unseen_words: UnseenWords = "all"
    measure: tuple[str, ...] = THREATS
    max_test_samples: int | None = None
    batch_size: int = 128
    unequal_steps: bool = False
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {self.task!r}.")
        wanted = ("train_on", "evaluate_on") if self.task == OOD else ("datasets",)
        for name in ("datasets", "train_on", "evaluate_on"):
            if bool(getattr(self, name)) != (name in wanted):
                state = "needs" if name in wanted else "does not take"
                raise ValueError(f"`task: {self.task}` {state} `{name}`; it takes {' and '.join(wanted)}.")
        for name in ("shots", "objectives", "seeds", "word_splits", "substitutes", "measure"):
            values = [each.folder if isinstance(each, Method) else each for each in getattr(self, name)]
            if not values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must name at least one value, each once, got {values}.")
        for names in ([data.name for data in self.datasets], [data.name for data in self.evaluate_on]):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"data sets named twice: {', '.join(twice)}. Give each its own `name`.")
        if (self.model is None) == (self.tiny is None):
            raise ValueError("give one of `model` (folder or Hub id) and `tiny` (a CLIP built here).")
        _check_tiny(self.tiny or {})
        if unknown := sorted(set(self.measure) - set(THREATS)):
            raise ValueError(f"`measure`: unknown {', '.join(unknown)}; choose from {', '.join(THREATS)}.")
        object.__setattr__(self, "measure", complete_attacks(self.measure))
        if self.unseen_words not in UNSEEN_WORDS:
            raise ValueError(f"`unseen_words` must be one of {', '.join(UNSEEN_WORDS)}, got {self.unseen_words!r}.")
        if bad := [shots for shots in self.shots if shots is not None and shots < 1]:
            raise ValueError(f"`shots` are images a class, at least 1, or {FULL!r}; got {bad}.")
        if ours := sorted(set(self.training) & {*SET_BY_CELL, "candidates"}):
            raise ValueError(f"`training` must not set {', '.join(ours)}: the protocol does.")
        if unknown := sorted(set(self.substitutes) - {KNOWN, UNSEEN, WHOLE}):
            raise ValueError(f"`substitutes`: unknown {', '.join(unknown)}; choose from {KNOWN}, {UNSEEN} and {WHOLE}.")
        for method in self.objectives:
            self._check_method(method)
        if self.task == RETRIEVAL:
            self._check_retrieval()
        self.attack_spec(0)

    def _check_retrieval(self) -> None:
        """Raise ValueError for what needs labels: captions have no classes, shots or prompts."""
        if self.tiny is not None:
            raise ValueError(
                "`tiny` is pretrained on captions of classes, and `task: retrieval` has none: name a `model`, a "
                "folder, a Hub id or pictograms."
            )
        if self.shots != (None,):
            raise ValueError("`shots` are images a class, and `task: retrieval` has no classes: leave it out.")
        if labelled := [data.name for data in self.datasets if data.label_column is not None]:
            raise ValueError(
                f"`datasets`: {', '.join(labelled)} names a `label_column`, which `task: retrieval` does not read: "
                "leave it out, and name the `text_column`."
            )
        if ours := [name for name in OF_CLASSES if name in self.threat_model]:
            raise ValueError(
                f"`threat_model`: {', '.join(ours)} speaks of classes, and captions have none: leave it out, or leave "
                "`task: retrieval` out, to compare on labels."
            )
        for method in self.objectives:
            args = self.arguments("unused", method, 0)
            if method.trains and named_objective(args).needs_labels:
                raise ValueError(
                    f"`objectives`: {method.name!r} needs labels, and `task: retrieval` trains on pairs of images and "
                    "captions. Take an objective that reads captions or images alone, such as mmcoa, mat or fare."
                )

    def _check_method(self, method: Method) -> None:
        steps = [name for name in STEPS if name in method.settings]
        if steps and not self.unequal_steps:
            raise ValueError(
                f"`objectives`: {method.name!r} sets {', '.join(steps)}: with more or fewer gradient steps than the "
                "other methods it would be compared unfairly. Set it in `training`, for all, or say "
                "`unequal_steps: true`."
            )
        sources = (None, *choices("candidates"))
        if method.candidates not in sources and synonym_table(str(method.candidates)) is None:
            raise ValueError(
                f"`objectives`: {method.name!r} sets candidates to {method.candidates!r}: neither a source of "
                "`MMCoAConfig.candidates`, nor a table of substitutes by name, nor a JSON file."
            )
        dead = [name for name in MASKED_LM_ONLY if name in method.settings]
        used = {method.candidates or data.candidates or self.candidates for data in self._trained_on}
        if dead and "masked-lm" not in used:
            raise ValueError(
                f"`objectives`: {method.name!r} sets {', '.join(dead)}, which changes nothing without the candidates "
                f"masked-lm: it trains on {', '.join(sorted(used))}. Give it candidates=masked-lm too."
            )
        args = self.arguments("unused", method, 0)
        if "substitutes" not in method.settings:
            return
        if method.substitutes not in (KNOWN, WHOLE):
            raise ValueError(
                f"`objectives`: {method.name!r} sets substitutes to {method.substitutes!r}; training may use {KNOWN} "
                f"or {WHOLE}."
            )
        words = {"words", "families"} & set(args.text_attack.replace("+", "|").split("|"))
        if method.objective not in TRAINED_ON_TEXTS or not words:
            raise ValueError(
                f"`objectives`: {method.name!r} sets substitutes, which changes nothing: its training attacks no words."
            )

    def arguments(self, output_dir: str | Path, method: Method | str, seed: int, **more: Any) -> MMCoAConfig:
        """Return the configuration of one training, of a method or of an objective without further settings.

        Raises:
            ValueError: if a training setting is unknown or wrong.
        """
        if isinstance(method, str):
            method = Method(name=method, objective=method)
        known = {each.name for each in dataclasses.fields(MMCoAConfig)}
        for where, given in (("`training`", self.training), (f"`objectives`, {method.name!r}", method.training)):
            if unknown := sorted(set(given) - known):
                raise ValueError(f"{where}: MMCoAConfig has no field {', '.join(unknown)}.")
            check_training(given, where)
        objectives = choices("objective")
        if method.objective not in (UNTOUCHED, *objectives):
            known_ones = ", ".join([UNTOUCHED, *objectives])
            raise ValueError(f"`objectives`: unknown {method.objective!r}; choose from {known_ones}.")
        chosen = method.objective if method.trains else "clean"
        own = {**method.training, "objective": chosen, "seed": seed, **more}
        common = MeasuredConfig.without_unread(self.training, own)
        return MeasuredConfig(output_dir=str(output_dir), **{**QUIET, **common, **own})

    def reads_words(self, method: Method) -> bool:
        """Return whether a word split changes a method's training: whether it reads the known half."""
        if not method.trains or method.substitutes == WHOLE:
            return False
        args = self.arguments("unused", method, 0)
        evaluates = args.do_eval or args.eval_strategy != "no" or bool(args.log_images_every)
        return "candidates" not in unread_settings(args, named_objective(args), evaluates)

    def unread(self, method: Method) -> list[str]:
        """Return the settings of `training` that nothing reads under a method: it trains without them."""
        if not method.trains:
            return []
        kept = MeasuredConfig.without_unread(self.training, {**method.training, "objective": method.objective})
        return [name for name in self.training if name not in kept and name not in method.training]

    def attack_spec(self, seed: int) -> ThreatModel:
        """Return the threat model of one cell's evaluation."""
        args = self.arguments("unused", UNTOUCHED, 0)
        given = {"seed": seed, **self.threat_model}
        preset = given.pop("preset", "standard")
        if unknown := sorted(set(given) - {each.name for each in dataclasses.fields(ThreatModel)}):
            raise ValueError(f"`threat_model` has no field {', '.join(unknown)} (and `preset`: {', '.join(PRESETS)}).")
        names = set(AttackSettings.threat_names()) - set(OF_CLASSES if self.task == RETRIEVAL else ())
        shared = {name: getattr(args, name) for name in self.training if name in names}
        return ThreatModel.preset(preset, **(shared | given))

    @property
    def _trained_on(self) -> tuple[Data, ...]:
        return self.datasets if self.train_on is None else (self.train_on,)

    @property
    def all_data(self) -> tuple[Data, ...]:
        """Return every data set once, those that are trained on first."""
        named = (*([self.train_on] if self.train_on else []), *self.datasets, *self.evaluate_on)
        return tuple({data.name: data for data in named}.values())

    def pretrained_on(self, data: Data) -> tuple[Data, ...]:
        """Return the data sets whose captions a tiny CLIP is pretrained on: `data` alone, or all for the task "ood"."""
        return self.all_data if self.task == OOD else (data,)

    def described_candidates(self, data: Data, method: Method | None = None) -> str:
        """Return the name of a data set's substitutes; for a file, its name and a fingerprint of its content.

        With a method, they are those that it is trained on.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        name = (method.candidates if method else None) or data.candidates or self.candidates
        if not name.endswith(".json"):
            return name
        return f"{Path(name).name} {short_fingerprint(Path(name).read_text(encoding='utf-8'))}"

    def cells(self) -> list[Cell]:
        """Return the cells of the grid. Without training there is one cell per data set and seed, whatever the
        shots.
        """
        pairs = (
            [(data, data) for data in self.datasets]
            if self.train_on is None
            else [(self.train_on, data) for data in self.evaluate_on]
        )
        return [
            self._cell(train_on, data, shots, method, seed, word_split)
            for train_on, data in pairs
            for method in self.objectives
            for shots in (self.shots if method.trains else (None,))
            for seed in self.seeds
            for word_split in self.word_splits
        ]

    def _cell(self, train_on: Data, data: Data, shots: int | None, method: Method, seed: int, word_split: int) -> Cell:
        trained = train_on if method.trains else None
        model: Any = self.model
        if self.tiny is not None:
            read = [{"name": each.name, **each.settings()} for each in self.pretrained_on(data)]
            model = {**self.tiny, "seed": seed, "captions_of": read}
            if model.get("text_tower") == CAPTIONS:  # as in results from before there was another
                del model["text_tower"]
        settings = {
            "data": data.settings(),
            "train_on": trained.settings() if trained else None,
            "shots": shots,
            "objective": method.objective,
            "seed": seed,
            "model": model,
            "training": {**self.training, **method.training} if trained else None,
            "threat_model": self.attack_spec(seed).to_dict(),
            "candidates": self.described_candidates(data),
            "max_test_samples": self.max_test_samples,
            "batch_size": self.batch_size,
        }
        if method.name != method.objective:  # results from before methods had names keep their settings
            settings["method"] = method.name
        if trained is not None and (self.task == OOD or method.candidates):
            settings["train_candidates"] = self.described_candidates(trained, method)
        if self.substitutes != (KNOWN, UNSEEN):
            settings["substitutes"] = list(self.substitutes)
        if method.substitutes == WHOLE:
            settings["train_substitutes"] = WHOLE
        # What is as it was before there was a choice stays unsaid, so that finished results are not computed again.
        if word_split != 0:
            settings["word_split"] = word_split
            if self.reads_words(method):
                settings["train_word_split"] = word_split
        if self.unseen_words != "all":
            settings["unseen_words"] = self.unseen_words
        if self.measure != THREATS:
            settings["measure"] = list(self.measure)
        if self.task == RETRIEVAL:
            settings["task"] = self.task
        return Cell(
            data=data,
            train_on=trained,
            shots=shots,
            method=method,
            seed=seed,
            settings=settings,
            word_split=word_split,
        )


def _check_tiny(tiny: Mapping[str, Any]) -> None:
    fields = ("image_size", "patch_size", "epochs", "max_samples", "word_vectors", "text_tower")
    if unknown := sorted(set(tiny) - set(fields)):
        raise ValueError(f"`tiny` has no field {', '.join(unknown)}: {', '.join(fields)}.")
    for name, known in (("word_vectors", WORD_VECTORS), ("text_tower", TEXT_TOWERS)):
        if name in tiny and tiny[name] not in known:
            raise ValueError(f"`tiny`: `{name}` must be one of {', '.join(known)}, got {tiny[name]!r}.")
    if tiny.get("text_tower") == ENGLISH and "word_vectors" in tiny:
        raise ValueError(
            f"`tiny`: the token table of `text_tower: {ENGLISH}` is trained already; `word_vectors` need `text_tower: "
            f"{CAPTIONS}`."
        )
    if missing := sorted({"image_size", "patch_size", "epochs"} - set(tiny)) if tiny else []:
        raise ValueError(f"`tiny` lacks {', '.join(missing)}.")
    for name, value in tiny.items():
        texts = ("word_vectors", "text_tower")
        if name not in texts and not (isinstance(value, int) and value is not True and value > 0):
            raise ValueError(f"`tiny`: `{name}` must be a whole number, at least 1, got {value!r}.")
