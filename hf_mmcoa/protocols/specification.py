"""What a protocol is: a YAML file to a checked `Protocol`, and a `Protocol` to its cells.

A cell is one number of the table: one model, trained on one draw of one data set by one objective with one seed, and
evaluated on one data set. Its settings are all that decides its result, as plain JSON: they are written beside the
result, and a cell whose settings have changed is not the same cell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from ..config import MMCoAConfig
from ..data.benchmarks import load_benchmark
from ..data.synonyms import synonym_table
from ..data.word_vectors import WORD_VECTORS
from ..documents import parse_yaml, read_yaml
from ..evaluation.specification import PRESETS, ThreatModel, fingerprint

UNTOUCHED = "none"  # the objective of a cell that evaluates the model as it was given
FULL = "full"  # in YAML and in names: all rows of the training split
# Named protocols are what the command line offers: files of its own.
NAMED = files("hf_mmcoa.cli").joinpath("protocols")

# Where `training` names one of these it is also the evaluation's, unless `threat_model` says otherwise.
SHARED = (
    "norm",
    "epsilon",
    "perturb_at",
    "num_candidates",
    "max_changes",
    "protect_template",
    "forbid_class_names",
    "rho",
    "template",
)
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
# Image size, patch size and pretraining pictures (None: all) of the tiny CLIP for a data set that needs no model.
TINY = {"digits": (8, 2, None), "fashion-mnist": (28, 7, 20000)}
QUIET: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
# By annotation: what a YAML file may give for a field that has no reader of its own, and in words.
_TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"),
    "str | None": ((str, type(None)), "a text"),
    "int": (int, "a whole number"),
    "int | None": ((int, type(None)), "a whole number"),
    "bool": (bool, "true or false"),
}
_OURS = ("output_dir", "objective", "seed", "resume_from_checkpoint")  # set by the cell, not by the YAML


@dataclass(frozen=True, kw_only=True)
class Data:
    """One data set of a protocol.

    Args:
        name: of its cells; what `load_benchmark` takes unless `dataset` says otherwise.
        dataset: a registered benchmark or a Hub id.
        data_dir: folder with its files, relative to the YAML file; the protocol's own when None.
        train_split, test_split: trained on, and measured on; nothing is ever selected on the latter.
        image_column, label_column: where they have no usual names.
        accept_differences: load although counts or names differ from the benchmark's row.
        candidates: substitutes of its class words; the protocol's own when None.
        made_by: the command that makes the folder `name` in `data_dir`, for the message where it is missing.
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
        """One split by `load_benchmark`.

        Raises:
            FileNotFoundError: if `data_dir` is missing; the text says how to make it.
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
        """What decides a result; where the files lie does not: results carry a fingerprint of their content."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if key not in ("data_dir", "made_by", "candidates")}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table: an objective and what it changes of the protocol's training.

    Args:
        name: of its row.
        objective: a value of `MMCoAConfig.objective`, or "none" for the model as it was given.
        settings: fields of `MMCoAConfig` over the protocol's `training`, and `candidates`, the substitutes that it is
            trained on. They change its training alone: every method is evaluated under one threat model, with the
            protocol's substitutes.

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
        """`OBJECTIVE,FIELD=VALUE,...` or `NAME=OBJECTIVE,FIELD=VALUE,...`, values as YAML reads them; the text is the
        name where it gives none.

        Raises:
            ValueError: if a part is no `FIELD=VALUE`.
        """
        first, *others = text.split(",")
        name, named, objective = first.rpartition("=")
        return cls(name=name if named else text, objective=objective, settings=field_values(others, f"{text!r}"))

    @classmethod
    def read(cls, given: Any, folder: Path) -> Method:
        """As a YAML file has it: a text for `parse`, or `{name: ..., objective: ..., FIELD: VALUE}`.

        Raises:
            ValueError: if it is neither, or names no objective.
        """
        if isinstance(given, str):
            return cls.parse(given)
        if not isinstance(given, dict) or not isinstance(given.get("objective"), str):
            raise ValueError(f"`objectives`: expected an objective or `{{name: ..., objective: ...}}`, got {given!r}.")
        settings = _numbers({key: value for key, value in given.items() if key not in ("name", "objective")})
        if "candidates" in settings:
            settings["candidates"] = _candidates_path(str(settings["candidates"]), folder)
        name = given.get("name", ",".join([given["objective"], *(f"{key}={settings[key]}" for key in settings)]))
        return cls(name=str(name), objective=given["objective"], settings=settings)

    @property
    def folder(self) -> str:
        """The name as a part of folders' names."""
        return re.sub(r"[^\w.+-]+", "-", self.name)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.objective != UNTOUCHED

    @property
    def training(self) -> dict[str, Any]:
        """The fields of `MMCoAConfig` that it changes."""
        return {key: value for key, value in self.settings.items() if key != "candidates"}

    @property
    def candidates(self) -> str | None:
        """The substitutes that it is trained on; None for the protocol's."""
        return self.settings.get("candidates")

    def to_json(self) -> str | dict[str, Any]:
        """As `read` takes it."""
        if not self.settings and self.name == self.objective:
            return self.name
        return {"name": self.name, "objective": self.objective, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table.

    Args:
        data: what the model is evaluated on.
        train_on: what it is trained on; None for an untouched model.
        shots: images a class of the training split, None for all; None for an untouched model.
        method: its row.
        seed: of the training, the few-shot draw and the random starts of the attacks.
        settings: everything that decides the result, as JSON.
    """

    data: Data
    train_on: Data | None
    shots: int | None
    method: Method
    seed: int
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Its folder."""
        if self.train_on is None:
            return f"{self.data.name}_{self.method.folder}_seed{self.seed}"
        trained = self.train_on.name
        source = trained if trained == self.data.name else f"{trained}-to-{self.data.name}"
        return f"{source}_{shots_name(self.shots)}_{self.method.folder}_seed{self.seed}"

    @property
    def training(self) -> dict[str, Any]:
        """All that decides the model: cells that share it share one training."""
        kept = {key: self.settings[key] for key in ("model", "train_on", "shots", "objective", "seed", "training")}
        return kept | {"candidates": self.settings.get("train_candidates", self.settings["candidates"])}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A grid of cells, as a YAML file describes it.

    Args:
        name: of the report.
        description: shown above the table.
        task: "iid": train and evaluate on each of `datasets`; "ood": train on `train_on`, evaluate on `evaluate_on`.
        datasets: of "iid".
        train_on: of "ood".
        evaluate_on: of "ood".
        shots: images a class; None for all.
        objectives: the methods. In YAML an objective ("mmcoa", or "none" for the model as it was given), one with
            settings of its own ("mmcoa,targets=class"), or the same as `{name: mmcoa-class, objective: mmcoa,
            targets: class}`.
        seeds: repetitions, averaged in the table.
        model: folder or Hub id of a CLIP; None for a tiny one as `tiny` says.
        tiny: of a CLIP that is built and pretrained here, on captions of the training splits: `image_size` and
            `patch_size` in pixels, `epochs`, `max_samples` pictures drawn once, and `word_vectors`, a name of
            `data.word_vectors`, if its token table is to start from a public model's ("minilm").
        training: any field of `MMCoAConfig`.
        threat_model: `preset` and any field of `ThreatModel`; what training and evaluation share is the training's.
        candidates: a source of `MMCoAConfig.candidates`, "digits" or "fashion-mnist" (embedded tables), or a JSON file
            `{"word": ["substitute", ...]}`; one half is known to training, the other held out.
        max_test_samples: evaluate on so many rows, drawn once; all when None.
        batch_size: of the evaluation.
        unequal_steps: let a method change how many gradient steps it takes; else that is refused.
        data_dir: where the data sets' files lie already, see `load_benchmark`.

    Raises:
        ValueError: if a value is unknown or two contradict each other; the text names the field.
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
        sources = (None, *_choices("candidates"))
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
        """The configuration of one training, by a method or by an objective without settings of its own.

        Raises:
            ValueError: if a training setting is unknown or wrong.
        """
        if isinstance(method, str):
            method = Method(name=method, objective=method)
        known = {each.name for each in dataclasses.fields(MMCoAConfig)}
        for where, given in (("`training`", self.training), (f"`objectives`, {method.name!r}", method.training)):
            if unknown := sorted(set(given) - known):
                raise ValueError(f"{where}: MMCoAConfig has no field {', '.join(unknown)}.")
            _check_training(given, where)
        objectives = _choices("objective")
        if method.objective not in (UNTOUCHED, *objectives):
            choices = ", ".join([UNTOUCHED, *objectives])
            raise ValueError(f"`objectives`: unknown {method.objective!r}; choose from {choices}.")
        chosen = method.objective if method.trains else "clean"
        values = {**QUIET, **self.training, **method.training, "objective": chosen, "seed": seed, **more}
        return MMCoAConfig(output_dir=str(output_dir), **values)

    def attack_spec(self, seed: int) -> ThreatModel:
        """The threat model of one cell's evaluation."""
        args = self.arguments("unused", UNTOUCHED, 0)
        given = {"seed": seed, **self.threat_model}
        preset = given.pop("preset", "standard")
        if unknown := sorted(set(given) - {each.name for each in dataclasses.fields(ThreatModel)}):
            raise ValueError(f"`threat_model` has no field {', '.join(unknown)} (and `preset`: {', '.join(PRESETS)}).")
        shared = {name: getattr(args, name) for name in SHARED if name in self.training}
        return ThreatModel.preset(preset, **(shared | given))

    @property
    def _trained_on(self) -> tuple[Data, ...]:
        return self.datasets if self.train_on is None else (self.train_on,)

    @property
    def all_data(self) -> tuple[Data, ...]:
        """Every data set once, what is trained on first."""
        named = (*([self.train_on] if self.train_on else []), *self.datasets, *self.evaluate_on)
        return tuple({data.name: data for data in named}.values())

    def pretrained_on(self, data: Data) -> tuple[Data, ...]:
        """Whose captions a tiny CLIP for `data` has read: its own; all where one model is judged on all."""
        return (data,) if self.task == "iid" else self.all_data

    def described_candidates(self, data: Data, method: Method | None = None) -> str:
        """The substitutes of a data set by name, a file with a fingerprint of its content; with a method those that it
        is trained on.

        Raises:
            FileNotFoundError: if the file is missing.
        """
        name = (method.candidates if method else None) or data.candidates or self.candidates
        if not name.endswith(".json"):
            return name
        return f"{Path(name).name} {short_fingerprint(Path(name).read_text(encoding='utf-8'))}"

    def cells(self) -> list[Cell]:
        """The grid. An untouched model has seen no shots: it has one cell a data set and seed."""
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
        if method.name != method.objective:  # results of the time before methods had names keep their settings
            settings["method"] = method.name
        if trained is not None and (self.task == "ood" or method.candidates):
            settings["train_candidates"] = self.described_candidates(trained, method)
        return Cell(data=data, train_on=trained, shots=shots, method=method, seed=seed, settings=settings)


def shots_name(shots: int | None) -> str:
    """ "full" or "4-shot"."""
    return FULL if shots is None else f"{shots}-shot"


def short_fingerprint(value: Any) -> str:
    """8 hexadecimal digits that tell two folders apart."""
    return fingerprint(value)[:8]


def named_protocols() -> list[str]:
    """The protocols that come with the package."""
    return sorted(each.name.removesuffix(".yaml") for each in NAMED.iterdir() if each.name.endswith(".yaml"))


def read_protocol(
    name_or_yaml: str | Path | None, data_dir: str | None = None, changes: Mapping[str, Any] | None = None
) -> Protocol:
    """A protocol by name, or from a YAML file, or from `changes` alone.

    Args:
        name_or_yaml: one of `named_protocols()`, or a file whose keys are `Protocol`'s fields, and `base`: "digits" or
            "fashion-mnist", whose tiny CLIP, training and substitutes hold where the file says nothing else.
        data_dir: where the data sets' files lie already; overrides the file's.
        changes: fields that replace the file's; of `training`, `threat_model` and `tiny` the single fields that they
            name. `objectives` may name rows of the file.

    Raises:
        ValueError: if there is neither, or the file holds what a protocol does not; the text says which field.
    """
    if name_or_yaml is None:
        return _protocol({}, Path.cwd(), "comparison", data_dir, changes or {})
    path = Path(name_or_yaml)
    known = named_protocols()
    if str(name_or_yaml) in known:
        content, folder = yaml.safe_load(NAMED.joinpath(f"{name_or_yaml}.yaml").read_text(encoding="utf-8")), Path.cwd()
    elif path.is_file():
        content, folder = read_yaml(path), path.resolve().parent
    else:
        raise ValueError(f"{str(name_or_yaml)!r} is no protocol ({', '.join(known)}) and no YAML file.")
    try:
        return _protocol(content, folder, path.stem, data_dir, changes or {})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name_or_yaml}: {error}") from error


def _protocol(content: Any, folder: Path, name: str, data_dir: str | None, changes: Mapping[str, Any]) -> Protocol:
    if not isinstance(content, dict):
        raise ValueError(f"expected `field: value` lines, got {type(content).__name__}.")
    content, base = {**content}, changes.get("base", content.get("base"))
    if "objectives" in changes:
        named = {
            each["name"]: each for each in content.get("objectives", ()) if isinstance(each, dict) and "name" in each
        }
        changes = {**changes, "objectives": [named.get(each, each) for each in changes["objectives"]]}
    values = _over(_over(base_settings(base) if base is not None else {}, content), changes)
    values = {"name": name, **{key: value for key, value in values.items() if key != "base"}}
    _check_fields(values, Protocol, "a protocol")
    if data_dir is not None:
        values["data_dir"] = str(Path(data_dir).absolute())
    elif values.get("data_dir"):
        values["data_dir"] = str((folder / values["data_dir"]).resolve())
    for key in ("datasets", "evaluate_on"):
        values[key] = tuple(_data(each, values, folder) for each in _sequence(values.get(key, []), key))
    if values.get("train_on"):
        values["train_on"] = _data(values["train_on"], values, folder)
    for key in ("shots", "objectives", "seeds"):
        if key in values:
            values[key] = tuple(_sequence(values[key], key))
    if "objectives" in values:
        values["objectives"] = tuple(Method.read(each, folder) for each in values["objectives"])
    values["shots"] = tuple(None if each == FULL else each for each in values.get("shots", (None,)))
    for key, kind in (("shots", (int, type(None))), ("seeds", int)):
        if wrong := [each for each in values.get(key, ()) if not isinstance(each, kind) or isinstance(each, bool)]:
            raise ValueError(f"`{key}`: {wrong} are of the wrong type.")
    for key in ("tiny", "training", "threat_model"):
        if not isinstance(values.get(key), (dict, type(None))):
            raise ValueError(f"`{key}` must be `field: value` lines, got {values[key]!r}.")
    values |= {key: _numbers(values.get(key) or {}) for key in ("training", "threat_model")}
    values["candidates"] = _candidates_path(values.get("candidates", "neighbours"), folder)
    if values.get("model") and (folder / values["model"]).is_dir():
        values["model"] = str(folder / values["model"])
    return Protocol(**values)


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The second's fields over the first's; settings field by field, and a model replaces a tiny one."""
    values = {**under, **over}
    for key in ("training", "threat_model", "tiny"):
        if isinstance(under.get(key), dict) and isinstance(over.get(key), dict):
            values[key] = {**under[key], **over[key]}
    if over.get("model") and "tiny" not in over:
        values.pop("tiny", None)
    return values


def base_settings(dataset: str) -> dict[str, Any]:
    """Fields of a protocol on a data set that needs no model: its tiny CLIP, training and substitutes.

    `hf-mmcoa train` reads the same file; what a protocol decides itself, or shows nowhere, is left out.

    Raises:
        ValueError: if there is no such data set.
    """
    if dataset not in list(TINY):  # not the dictionary: what stands in a file may be a list, which has no hash
        raise ValueError(f"`base` must be one of {', '.join(TINY)}, got {dataset!r}.")
    options = yaml.safe_load(files("hf_mmcoa.cli").joinpath(f"{dataset}.yaml").read_text(encoding="utf-8"))
    image_size, patch_size, max_samples = TINY[dataset]
    tiny = {"image_size": image_size, "patch_size": patch_size, "epochs": options.pop("pretrain_epochs")}
    tiny |= {"max_samples": max_samples} if max_samples else {}
    values = {"datasets": [dataset], "tiny": tiny, "candidates": dataset}
    if "max_test_samples" in options:
        values["max_test_samples"] = options.pop("max_test_samples")
    left_out = ("output_dir", "save_strategy", "logging_steps", "per_device_eval_batch_size")
    return values | {"training": {key: value for key, value in options.items() if key not in left_out}}


def field_values(given: Sequence[str], where: str) -> dict[str, Any]:
    """FIELD=VALUE texts as a YAML file would hold them.

    Raises:
        ValueError: if one has no "=", or a field is there twice.
    """
    values: dict[str, Any] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name or name in values:
            raise ValueError(f"{where}: expected each FIELD=VALUE once, got {one!r}.")
        values[name] = parse_yaml(value, f"{where}: the value of {name}")
    return _numbers(values)


def _data(given: Any, protocol: Mapping[str, Any], folder: Path) -> Data:
    if not isinstance(given, (str, dict)):
        raise ValueError(f"expected a data set's name or `{{name: ...}}`, got {given!r}.")
    values: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    _check_fields(values, Data, f"data set {values.get('name', given)!r}")
    # It is a part of folders' names; one of dots alone would be another folder.
    if not re.fullmatch(r"(?=.*\w)[\w.-]+", str(values.get("name", ""))):
        raise ValueError(
            f"a data set needs a `name` of letters, digits, '.', '_' and '-', got {values.get('name')!r}. "
            "A Hub id or path goes into `dataset` or `data_dir`."
        )
    if values.get("data_dir"):
        values["data_dir"] = str((folder / values["data_dir"]).resolve())
    else:
        values["data_dir"] = protocol.get("data_dir")
    if values.get("candidates"):
        values["candidates"] = _candidates_path(values["candidates"], folder)
    return Data(**values)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """YAML 1.1 reads 1e-3 as text, for it has no point; people mean the number."""
    return {
        key: float(value) if isinstance(value, str) and re.fullmatch(r"\d+e[+-]?\d+", value, re.I) else value
        for key, value in values.items()
    }


def _candidates_path(given: str, folder: Path) -> str:
    return str(folder / given) if given.endswith(".json") else given


def _check_fields(values: Mapping[str, Any], kind: type, what: str) -> None:
    known = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{what} has no field {', '.join(unknown)}; it has {', '.join(known)}.")
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        wanted, words = _TYPES.get(str(each.type), (object, ""))
        value = values.get(each.name, each.default)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool and wanted is not object):
            raise ValueError(f"{what}: `{each.name}` must be {words}, got {value!r}.")


def _check_training(given: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, naming the field, if a number or a switch of the configuration is given as something else."""
    # Not the fields' own types: transformers' argument parser writes into those.
    bases = [vars(base).get("__annotations__", {}) for base in reversed(MMCoAConfig.__mro__)]
    for name, kind in {name: kind for own in bases for name, kind in own.items()}.items():
        annotation = getattr(kind, "__name__", kind)  # transformers annotates with types, we with texts
        wanted, words = {**_TYPES, "float": ((int, float), "a number")}.get(str(annotation), (object, ""))
        value = given.get(name)
        if value is not None and (
            not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (int, float))
        ):
            raise ValueError(f"{where}: `{name}` must be {words}, got {value!r}.")


def _sequence(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"`{name}` must be a list, got {value!r}.")
    return value


def _choices(name: str) -> tuple[str, ...]:
    """The values of a `Literal` field of the configuration."""
    return get_args(get_type_hints(MMCoAConfig)[name])
