"""The model card: the description of a checkpoint, its measurements and its limits, written from files alone.

Names in those files are untrusted: the template escapes everything it prints, except text that this module made.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import TrainingArguments

from .._version import __version__
from ..config import MMCoAConfig, resolved_text_attack
from ..data.benchmarks import find_benchmark
from ..file_names import PICTURE_FILE
from ..report.conditions import attacks_texts, describe, fraction, interval_sentence, measured_kinds, most_candidates
from ..report.markdown import Verbatim, escape_markdown
from ..report.picture import threat_sentence
from ..report.table import accuracies, estimate, markdown_table
from ..report.titles import title_parts
from .evaluate_command import dataset_and_split, evaluate_command, one_line, shell
from .limitations import limits
from .measurements import Measurements, Section, measurements
from .model_folder import Checkpoint, hub_id, read_checkpoint
from .recorded_facts import recorded_facts

TAG = "hf_mmcoa"  # a later push recognises a repository of this library by it
TEMPLATE = "card_template.md"
CITATION = """\
@article{zhou2024revisiting,
  title   = {Revisiting the Adversarial Robustness of Vision Language Models: a Multimodal Perspective},
  author  = {Zhou, Wanqi and Bai, Shuanghao and Mandic, Danilo P. and Zhao, Qibin and Chen, Badong},
  journal = {arXiv preprint arXiv:2404.19287},
  year    = {2024}
}
@software{hf_mmcoa,
  title   = {hf_mmcoa: robust fine-tuning of CLIP against image, text and multimodal attacks},
  version = {VERSION}
}"""

# Fields of `training_args.yaml` that the settings of the card leave out: paths and output, and facts shown elsewhere.
_NOT_SETTINGS: tuple[str, ...] = (
    "output_dir",
    "logging_dir",
    "resume_from_checkpoint",
    "report_to",
    "run_name",
    "disable_tqdm",
)
_NOT_SETTINGS += ("log_images_every",)
_OF_THE_RUN = ("model_name_or_path", "dataset", "data_dir", "train_split", "test_split", "shots")
# Fields of `TrainingArguments` that are shown even at their default, because they define a training.
_ALWAYS: tuple[str, ...] = (
    "learning_rate",
    "lr_scheduler_type",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
)
_ALWAYS += ("gradient_accumulation_steps", "weight_decay", "seed")


def model_card(
    folder: str | Path,
    results: Sequence[str | Path] = (),
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
) -> ModelCard:
    """Write the card of a checkpoint, with the same numbers as `model-index` metadata.

    Args:
        folder: a `CLIPModel`, a `SiglipModel` or an adapter, with `training_args.yaml` if hf_mmcoa trained it.
        results: result files, or "NAME=FILE" to name a column; if empty, `robustness.json` and `results/*.json` of the
            folder. Only measurements on these weights, and results to compare them with, are shown.
        repo_id: "owner/name", for the code that loads the model; None uses the folder.
        base_model: Hub id of the base model, if the files do not state it.
        license: licence of the weights in the Hub's spelling, such as "mit"; with None the card says that no licence is
            stated.
        language: language of the prompts in the Hub's spelling.
        tags: additional tags.

    Returns:
        The card; nothing is written to disk.

    Raises:
        FileNotFoundError: if the folder or a given result file is missing.
        ValueError: if there is nothing to publish, or a given result file was measured on other weights.
    """
    checkpoint = read_checkpoint(folder)
    measured = measurements(checkpoint.folder, results, checkpoint.fingerprints())
    return card_of(
        checkpoint, measured, repo_id=repo_id, base_model=base_model, license=license, language=language, tags=tags
    )


def card_of(
    checkpoint: Checkpoint,
    measured: Measurements,
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    note: str = "",
    where: str | None = None,
) -> ModelCard:
    """Write the card of a checkpoint and measurements that were read before.

    `note` follows the summary; the card's code loads the model from `repo_id`, else from `where` or the folder itself.
    """
    name = repo_id.rpartition("/")[2] if repo_id else Path(where or checkpoint.folder).resolve().name
    where = repo_id or where or str(checkpoint.folder)
    titles = title_parts([section.result for section in measured.sections])
    base = base_model or checkpoint.base_model or _measured_base(measured)
    dataset = _training_data(checkpoint)
    body = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            name=name,
            summary=Verbatim(" ".join(filter(None, (_summary(checkpoint, base, dataset), note)))),
            inside=Verbatim(_inside(checkpoint)),
            intervals=interval_sentence(
                averaged=False, texts=attacks_texts(section.result for section in measured.sections)
            ),
            usage=Verbatim(_usage(checkpoint, measured, where, base)),
            sections=[_section_context(*each) for each in zip(measured.sections, titles, strict=True)],
            tables=[
                {**dataclasses.asdict(one), "table": Verbatim("\n".join(one.markdown()))} for one in measured.tables
            ],
            picture=PICTURE_FILE in measured.files,
            measure=Verbatim(f"hf-mmcoa evaluate --model {shell(where)} --dataset cifar10 --output cifar10.json"),
            limits=[Verbatim(one) for one in _limits(measured)],
            training=[Verbatim(one) for one in _training(checkpoint, base)],
            settings=Verbatim(_settings(checkpoint.arguments)),
            train=Verbatim(_train_command(checkpoint)),
            evaluations=[
                Verbatim(command)
                for section in measured.sections
                if (command := evaluate_command(section.result, where)) is not None
            ],
            licences=[Verbatim(one) for one in _licences(license, base, dataset, measured)],
            citation=Verbatim(CITATION.replace("VERSION", __version__)),
        )
    )
    data = ModelCardData(
        language=list(language) if language is not None and not isinstance(language, str) else language,
        license=license,
        library_name="peft" if checkpoint.is_adapter else "transformers",
        pipeline_tag="zero-shot-image-classification",
        base_model=hub_id(base),
        base_model_relation=("adapter" if checkpoint.is_adapter else "finetune") if hub_id(base) else None,
        datasets=[found] if (found := _dataset_id(dataset)) else None,
        tags=[
            _family(checkpoint).lower(),
            "adversarial-robustness",
            TAG,
            *([tags] if isinstance(tags, str) else tags or ()),
        ],
        metrics=["accuracy"] if measured.sections else None,
        model_name=one_line(name) if measured.sections else None,
        eval_results=[
            one
            for section, parts in zip(measured.sections, titles, strict=True)
            for one in _eval_results(section, parts)
        ]
        or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


# The parts of the template


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text(encoding="utf-8")),
        finalize=lambda value: value if isinstance(value, Verbatim) else escape_markdown(str(value)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML: `finalize` escapes
    )


def _summary(checkpoint: Checkpoint, base: str | None, dataset: str | None) -> str:
    family = _family(checkpoint)
    what = f"A LoRA adapter for a {family}" if checkpoint.is_adapter else f"A {family}"
    if not checkpoint.arguments:
        return f"{what}, published with hf_mmcoa."
    made = (
        f"fine-tuned {f'from {_linked(base)} ' if base else ''}{f'on {escape_markdown(dataset)} ' if dataset else ''}"
    )
    if _setting(checkpoint.arguments, "objective") == "clean":
        return f"{what}, {made}with hf_mmcoa, without adversarial training."
    return (
        f"{what}, {made}with hf_mmcoa to be robust to attacks on images and texts "
        f"(objective `{_setting(checkpoint.arguments, 'objective')}`; MMCoA is arXiv:2404.19287)."
    )


def _family(checkpoint: Checkpoint) -> str:
    """Return "CLIP" or "SigLIP"."""
    name: str = checkpoint.architecture.model_class.__name__.removesuffix("Model")
    return {"Siglip": "SigLIP"}.get(name, name)


def _inside(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    if checkpoint.is_adapter:
        return f"an adapter of rank {int(config.get('r') or 0)} as safetensors and the processor"
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 32)
    length = text.get("max_position_embeddings", 77)
    return (
        f"a plain `{checkpoint.architecture.model_class.__name__}` as safetensors and its processor, for images of "
        f"{int(size)}x{int(size)} pixels in patches of {int(patch)} and texts of up to {int(length)} tokens"
    )


def _usage(checkpoint: Checkpoint, measured: Measurements, where: str, base: str | None) -> str:
    first = measured.sections[0].result if measured.sections else {}
    labels = list(first.get("class_names", ["cat", "dog"]))[:3]
    template = first.get("attack_spec", {}).get("template") or _setting(checkpoint.arguments, "template")
    ask = f'("image.png", candidate_labels={_quoted(labels)}, hypothesis_template={_quoted(template)})'
    if not checkpoint.is_adapter:
        return (
            "from transformers import pipeline\n"
            f'classify = pipeline("zero-shot-image-classification", model={_quoted(where)})\n'
            f"print(classify{ask})"
        )
    model, processor = checkpoint.architecture.model_class.__name__, checkpoint.architecture.processor_class.__name__
    return (
        "from peft import PeftModel\n"
        f"from transformers import {model}, {processor}\n"
        f"model = PeftModel.from_pretrained({model}.from_pretrained({_quoted(base or '')}), {_quoted(where)})\n"
        f"processor = {processor}.from_pretrained({_quoted(where)})"
    )


def _section_context(section: Section, title: Sequence[str]) -> dict[str, Any]:
    spec = section.result["attack_spec"]
    return {
        "title": ", ".join(title),
        "summary": Verbatim(_entities(", ".join(title))),
        "table": Verbatim(markdown_table(section.columns)),
        "caption": Verbatim(
            f"{threat_sentence(spec)} "
            f"{escape_markdown(describe(spec, most_candidates(section.result), measured_kinds(section.result)))}. "
            f"{section.result['num_samples']} samples. "
            f"Measured on this checkpoint: {escape_markdown(section.own)}."
        ),
        "specification": Verbatim(_quoted(spec, indent=1)),
    }


def _limits(measured: Measurements) -> list[str]:
    """Return the limits of all sections, each sentence once."""
    if not measured.sections:
        return ["Unknown: nothing was measured. Assume that every attack succeeds."]
    return list(dict.fromkeys(one for section in measured.sections for one in limits(section.result)))


def _training(checkpoint: Checkpoint, base: str | None) -> list[str]:
    arguments = checkpoint.arguments
    if not arguments:
        return ["Not recorded: the folder has no training_args.yaml."]
    said = [f"Base model: {_linked(base) if base else 'not recorded'}"]
    if "dataset" in arguments:
        row = find_benchmark(str(arguments["dataset"]))
        source = f", {_linked(row.sources[0].hub_id)}" if row and hub_id(row.sources[0].hub_id) else ""
        split = escape_markdown(str(arguments.get("train_split", "train")))
        shots = f", {int(arguments['shots'])} images a class" if arguments.get("shots") else ""
        said.append(f"Data: {escape_markdown(str(arguments['dataset']))}{source}, split {split}{shots}")
    else:
        said.append("Data: not recorded")
    return said + recorded_facts(arguments)


def _settings(arguments: Mapping[str, Any]) -> str:
    """Return the settings as YAML: the method's own fields that the objective reads, `_ALWAYS`, and others given."""
    if not arguments:
        return ""
    inherited = {each.name for each in fields(TrainingArguments)}
    own = [each.name for each in fields(MMCoAConfig) if each.name not in (*inherited, *_NOT_SETTINGS)]
    # A name that is no argument is untrusted text and is left out.
    values = MMCoAConfig.without_unread({name: _setting(arguments, name) for name in own}, {})
    if values.get("text_attack") == "auto":
        values["text_attack"] = resolved_text_attack(SimpleNamespace(**values))
    others = [name for name in arguments if name in inherited and name not in (*_NOT_SETTINGS, *_OF_THE_RUN)]
    names = dict.fromkeys(
        [*values, *_ALWAYS, *(name for name in others if not name.startswith(("hub_", "push_to_hub")))]
    )
    return "\n".join(f"{name}: {_scalar(values.get(name, _setting(arguments, name)))}" for name in names)


def _setting(arguments: Mapping[str, Any], name: str) -> Any:
    """Return a training argument as given, else its default."""
    if name in arguments:
        return arguments[name]
    each = MMCoAConfig.__dataclass_fields__.get(name)
    if each is None:
        return None
    return each.default if each.default_factory is MISSING else each.default_factory()


def _train_command(checkpoint: Checkpoint) -> str:
    """Return the command that repeats the training, or an empty text if the training data are not recorded."""
    return (
        "hf-mmcoa train --config training_args.yaml --output_dir reproduced"
        if "dataset" in checkpoint.arguments
        else ""
    )


def _licences(license: str | None, base: str | None, dataset: str | None, measured: Measurements) -> list[str]:
    said = [f"Weights: {escape_markdown(license)}" if license else "Weights: no licence is stated"]
    if hub_id(base):
        said.append(f"The licence of the base model, {_linked(str(base))}, applies to models derived from it")
    names = [dataset] if dataset else []
    names += [dataset_and_split(section.result)[0] for section in measured.sections]
    for name in dict.fromkeys(names):
        row = find_benchmark(name)
        known = row.sources[0].licence if row else "unknown"
        said.append(f"Data, {escape_markdown(name)}: {escape_markdown(known)}")
    return said


# Metadata


def _eval_results(section: Section, title: Sequence[str]) -> list[EvalResult]:
    """Return the checkpoint's own numbers of a section, as fractions, each with its interval and its threat model.

    Names of metrics say what the section's title says beside data set and radius.

    `interval_over` says what an interval generalises over, "images" or "classes".
    """
    result = section.result
    spec = result["attack_spec"]
    name, split = dataset_and_split(result)
    within = f"{'L2' if spec['norm'] == 'l2' else 'Linf'} {fraction(float(spec['epsilon']))}"

    def metric(key: str, label: str) -> str:
        on_images = key.startswith(("image", "multimodal", "worst_case"))
        said = ", ".join([*([within] if on_images else []), *title[2:]])
        name = "clean accuracy" if key == "clean_accuracy" else f"accuracy under attack: {label}"
        return one_line(f"{name} ({said})" if said else name)

    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            task_name="Zero-shot image classification under attack",
            dataset_type=one_line(_dataset_id(name) or Path(name).name),
            dataset_name=one_line(Path(name).name if Path(name).is_absolute() else name),
            dataset_split=split,
            metric_type="accuracy",
            metric_name=metric(key, label),
            metric_value=result[key],
            metric_args={
                "interval_95": [found.low, found.high],
                "interval_over": found.over,
                "num_samples": result["num_samples"],
            },
        )
        for key, label in accuracies([result]).items()
        for found in [estimate([result], key)]
    ]


def _training_data(checkpoint: Checkpoint) -> str | None:
    return str(found) if (found := checkpoint.arguments.get("dataset")) else None


def _measured_base(measured: Measurements) -> str | None:
    """Return the model that `hf-mmcoa train` measured before training."""
    return next((str(s.columns["before"]["model"]) for s in measured.sections if "before" in s.columns), None)


def _dataset_id(name: str | None) -> str | None:
    """Return the Hub id of a data set; None for embedded and local ones."""
    row = find_benchmark(name) if name else None
    return hub_id(row.sources[0].hub_id if row else name)


# Text


def _linked(name: str) -> str:
    found = hub_id(name)
    return f"[{escape_markdown(name)}](https://huggingface.co/{found})" if found else escape_markdown(name)


def _entities(text: str) -> str:
    """Return `text` on one line for an HTML element of a Markdown file, with special characters as entities.

    Those of Markdown and of HTML are replaced, and backslashes too: Markdown reads them as escapes, HTML does not.
    """
    return re.sub(r"""[\\`*_\[\]<>|!#~&$@"']""", lambda found: f"&#{ord(found[0])};", one_line(text))


def _quoted(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, on one line without `indent`.

    Nothing in it can end the code block that it is printed in, and nothing is invisible.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if text.replace("\n", "").isprintable() else json.dumps(value, indent=indent)


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, (str, list, dict)):
        return _quoted(value)
    return yaml.safe_dump(value).splitlines()[0]
