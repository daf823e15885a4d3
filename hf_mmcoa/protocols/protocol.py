"""Define a protocol: data sets, methods, seeds and settings, and the cells that they make.

A cell is one entry of the table: one model, trained on one draw of one data set by one method with one seed, and
evaluated on one data set. Its settings, as plain JSON, are all that affects its result. They are written beside the
result, and a cell with other settings is another cell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..attacks.settings import AttackSettings
from ..config import MeasuredConfig, MMCoAConfig
from ..data.load import load_benchmark
from ..evaluation.threat_model import PRESETS, ThreatModel
from ..io import fingerprint
from ..substitutes.embedded import synonym_table
from ..testbed.word_vectors import WORD_VECTORS
from .values import candidates_path, check_training, choices, field_values, with_numbers

UNTOUCHED = "none"  # the objective of a cell that evaluates the model without training
FULL = "full"  # in YAML and in names: all rows of the training split


# What decides how often a method steps: methods of unequal numbers of steps are no comparison.
STEPS = (
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "auto_find_batch_size",
    "dataloader_drop_last",
)


MASKED_LM_ONLY = ("masked_lm",)  # settings that other sources of substitutes do not read

# Image size, patch size and number of pretraining images (None: all) of the tiny CLIP for a data set.
TINY = {"digits": (8, 2, None), "fashion-mnist": (28, 7, 20000)}


QUIET: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}


_OURS = ("output_dir", "objective", "seed", "resume_from_checkpoint")  # set by the cell, not by the YAML file


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set of a protocol.

    Args:
        name: name in its cells, and argument of `load_benchmark` unless `dataset` is given.
        dataset: a registered benchmark or a Hub id.
        data_dir: folder with its files, relative to the YAML file; the protocol's when None.
        train_split: split to train on.
        test_split: split to evaluate on; nothing is ever selected on it.
        image_column: column of the images, where it has no usual name.
        label_column: column of the labels, likewise.
        accept_differences: load the data even if counts or names differ from the benchmark's row.
        candidates: source of substitutes for its class words; the protocol's when None.
        made_by: command that creates the folder `name` in `data_dir`, shown where it is missing.
    """

    name: str
    dataset: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    accept_differences: bool = False
    candidates: str | None = None
    made_by: str | None = None

    def load(self, split: str) -> Any:
        """Load one split by `load_benchmark`.

        Raises:
            FileNotFoundError: if `data_dir` is missing; the message says how to create it.
        """
        if self.made_by is not None and not (folder := Path(self.data_dir or ".", self.name)).is_dir():
            raise FileNotFoundError(f"`data_dir`: there is no folder {folder}. Make it: {self.made_by}")
        return load_benchmark(
            self.dataset or self.name,
            split=split,
            data_dir=self.data_dir,
            image_column=self.image_column,
            label_column=self.label_column,
            accept_differences=self.accept_differences,
        )

    def settings(self) -> dict[str, Any]:
        """Return what affects a result. File locations do not: results carry a fingerprint of the data."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key not in ("data_dir", "made_by", "candidates")}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table: an objective and its changes to the protocol's training.

    Args:
        name: name of its row.
        objective: a value of `MMCoAConfig.objective`, or "none" for the model without training.
        settings: fields of `MMCoAConfig` that override the protocol's `training`, and `candidates`, the source of
            substitutes that it is trained on. They affect its training only: every method is evaluated under the same
            threat model, with the protocol's substitutes.

    Example:
        >>> Method.parse("mmcoa,targets=class")
        Method(name='mmcoa,targets=class', objective='mmcoa', settings={'targets': 'class'})
        >>> Method.parse("mine=mmcoa,lambda_text=0.9").folder
        'mine'
    """

    name: str
    objective: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.search(r"\w", self.name):
            raise ValueError(f"`objectives`: the name {self.name!r} holds no letter or digit.")
        if self.objective == UNTOUCHED and self.settings:
            raise ValueError(f"`objectives`: {self.name!r} is the model as it was given and takes no settings.")
        if ours := sorted(set(self.settings) & set(_OURS)):
            raise ValueError(f"`objectives`: {self.name!r} must not set {', '.join(ours)}: the protocol does.")

    @classmethod
    def parse(cls, text: str) -> Method:
        """Parse `OBJECTIVE,FIELD=VALUE,...` or `NAME=OBJECTIVE,FIELD=VALUE,...`, with values in YAML.

        Without a name the whole text is the name.

        Raises:
            ValueError: if a part is no `FIELD=VALUE`.
        """
        first, *others = text.split(",")
        name, named, objective = first.rpartition("=")
        return cls(name=name if named else text, objective=objective, settings=field_values(others, f"{text!r}"))

    @classmethod
    def read(cls, given: Any, folder: Path) -> Method:
        """Read a method as a YAML file has it: a text for `parse`, or `{name: ..., objective: ..., FIELD: VALUE}`.

        Raises:
            ValueError: if it is neither, or names no objective.
        """
        if isinstance(given, str):
            return cls.parse(given)
        if not isinstance(given, dict) or not isinstance(given.get("objective"), str):
            raise ValueError(f"`objectives`: expected an objective or `{{name: ..., objective: ...}}`, got {given!r}.")
        settings = with_numbers({key: value for key, value in given.items() if key not in ("name", "objective")})
        if "candidates" in settings:
            settings["candidates"] = candidates_path(str(settings["candidates"]), folder)
        name = given.get("name", ",".join([given["objective"], *(f"{key}={settings[key]}" for key in settings)]))
        return cls(name=str(name), objective=given["objective"], settings=settings)

    @property
    def folder(self) -> str:
        """Return the name in a form for names of folders."""
        return re.sub(r"[^\w.+-]+", "-", self.name)

    @property
    def trains(self) -> bool:
        """Return whether the method trains a model."""
        return self.objective != UNTOUCHED

    @property
    def training(self) -> dict[str, Any]:
        """Return the fields of `MMCoAConfig` that the method changes."""
        return {key: value for key, value in self.settings.items() if key != "candidates"}

    @property
    def candidates(self) -> str | None:
        """Return the source of substitutes that the method is trained on; None for the protocol's."""
        return self.settings.get("candidates")

    def to_json(self) -> str | dict[str, Any]:
        """Return the method in the form that `read` takes."""
        if not self.settings and self.name == self.objective:
            return self.name
        return {"name": self.name, "objective": self.objective, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the table.

    Args:
        data: data set that the model is evaluated on.
        train_on: data set that it is trained on; None without training.
        shots: training images per class; None for all, and without training.
        method: method of its row.
        seed: seed of the training, the few-shot draw and the random starts of the attacks.
        settings: everything that affects the result, as JSON.
    """

    data: Data
    train_on: Data | None
    shots: int | None
    method: Method
    seed: int
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Return the name of the cell, which is its folder."""
        if self.train_on is None:
            return f"{self.data.name}_{self.method.folder}_seed{self.seed}"
        trained = self.train_on.name
        source = trained if trained == self.data.name else f"{trained}-to-{self.data.name}"
        return f"{source}_{shots_name(self.shots)}_{self.method.folder}_seed{self.seed}"

    @property
    def training(self) -> dict[str, Any]:
        """Return all settings that determine the trained model: cells with equal ones share one training."""
        kept = {key: self.settings[key] for key in ("model", "train_on", "shots", "objective", "seed", "training")}
        return kept | {"candidates": self.settings.get("train_candidates", self.settings["candidates"])}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A grid of cells, as a YAML file describes it.

    Args:
        name: title of the report.
        description: text above the table.
        task: "iid": train and evaluate on each of `datasets`; "ood": train on `train_on`, evaluate on `evaluate_on`.
        datasets: data sets of the task "iid".
        train_on: training data of the task "ood".
        evaluate_on: evaluation data of the task "ood".
        shots: numbers of training images per class; None for all.
        objectives: the methods. In YAML each is an objective ("mmcoa", or "none" for the model without training), one
            with settings of its own ("mmcoa,targets=class"), or the same as `{name: mmcoa-class, objective: mmcoa,
            targets: class}`.
        seeds: seeds of the repetitions, which are averaged in the table.
        model: folder or Hub id of a CLIP; None for a tiny one as `tiny` describes it.
        tiny: settings of a CLIP that is built and pretrained here on captions of the training splits: `image_size` and
            `patch_size` in pixels, `epochs`, `max_samples` images drawn once, and `word_vectors`, a name of
            `testbed.word_vectors` ("minilm"), if its token table starts from a public model's.
        training: any fields of `MMCoAConfig`.
        threat_model: `preset` and any fields of `ThreatModel`; fields that training shares default to `training`.
        candidates: a source of `MMCoAConfig.candidates`, "digits" or "fashion-mnist" (embedded tables), or a JSON file
            `{"word": ["substitute", ...]}`; training knows one half, the other is held out.
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
    model: str | None = None
    tiny: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    threat_model: Mapping[str, Any] = field(default_factory=dict)
    candidates: str = "neighbours"
    max_test_samples: int | None = None
    batch_size: int = 128
    unequal_steps: bool = False
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.task not in ("iid", "ood"):
            raise ValueError(f"`task` must be iid or ood, got {self.task!r}.")
        wanted = ("datasets",) if self.task == "iid" else ("train_on", "evaluate_on")
        for name in ("datasets", "train_on", "evaluate_on"):
            if bool(getattr(self, name)) != (name in wanted):
                state = "needs" if name in wanted else "does not take"
                raise ValueError(f"`task: {self.task}` {state} `{name}`; it takes {' and '.join(wanted)}.")
        for name in ("shots", "objectives", "seeds"):
            values = [each.folder if isinstance(each, Method) else each for each in getattr(self, name)]
            if not values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must name at least one value, each once, got {values}.")
        for names in ([data.name for data in self.datasets], [data.name for data in self.evaluate_on]):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"data sets named twice: {', '.join(twice)}. Give each its own `name`.")
        if (self.model is None) == (self.tiny is None):
            raise ValueError("give one of `model` (folder or Hub id) and `tiny` (a CLIP built here).")
        fields = ("image_size", "patch_size", "epochs", "max_samples", "word_vectors")
        if unknown := sorted(set(self.tiny or ()) - set(fields)):
            raise ValueError(f"`tiny` has no field {', '.join(unknown)}: {', '.join(fields)}.")
        if (vectors := (self.tiny or {}).get("word_vectors", WORD_VECTORS[0])) not in WORD_VECTORS:
            raise ValueError(f"`tiny`: `word_vectors` must be one of {', '.join(WORD_VECTORS)}, got {vectors!r}.")
        if missing := sorted({"image_size", "patch_size", "epochs"} - set(self.tiny or ())) if self.tiny else []:
            raise ValueError(f"`tiny` lacks {', '.join(missing)}.")
        for name, value in (self.tiny or {}).items():
            if name != "word_vectors" and not (isinstance(value, int) and value is not True and value > 0):
                raise ValueError(f"`tiny`: `{name}` must be a whole number, at least 1, got {value!r}.")
        if bad := [shots for shots in self.shots if shots is not None and shots < 1]:
            raise ValueError(f"`shots` are images a class, at least 1, or {FULL!r}; got {bad}.")
        if ours := sorted(set(self.training) & {*_OURS, "candidates"}):
            raise ValueError(f"`training` must not set {', '.join(ours)}: the protocol does.")
        for method in self.objectives:
            self._check_method(method)
        self.attack_spec(0)

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
        self.arguments("unused", method, 0)

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
        shared = {name: getattr(args, name) for name in AttackSettings.threat_names() if name in self.training}
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
        return (data,) if self.task == "iid" else self.all_data

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
            self._cell(train_on, data, shots, method, seed)
            for train_on, data in pairs
            for method in self.objectives
            for shots in (self.shots if method.trains else (None,))
            for seed in self.seeds
        ]

    def _cell(self, train_on: Data, data: Data, shots: int | None, method: Method, seed: int) -> Cell:
        trained = train_on if method.trains else None
        model: Any = self.model
        if self.tiny is not None:
            read = [{"name": each.name, **each.settings()} for each in self.pretrained_on(data)]
            model = {**self.tiny, "seed": seed, "captions_of": read}
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
        if trained is not None and (self.task == "ood" or method.candidates):
            settings["train_candidates"] = self.described_candidates(trained, method)
        return Cell(data=data, train_on=trained, shots=shots, method=method, seed=seed, settings=settings)


def shots_name(shots: int | None) -> str:
    """Return "full" or, for instance, "4-shot"."""
    return FULL if shots is None else f"{shots}-shot"


def short_fingerprint(value: Any) -> str:
    """Return 8 hexadecimal digits that distinguish two folders."""
    return fingerprint(value)[:8]
