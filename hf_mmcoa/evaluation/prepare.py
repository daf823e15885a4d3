"""From what a user gives to what can be run: checked input, a specification without open ends, attacked prompts."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks import factory
from ..attacks.beyond import BeyondAttack
from ..attacks.class_prompts import FixedPrompts
from ..attacks.contracts import ImageAttack
from ..attacks.engine import ImageAttacker, LossAttack
from ..attacks.image_losses import class_loss
from ..attacks.settings import MULTIMODAL_ADVERSARIES, TEXT_ADVERSARIES
from ..attacks.settings import THREATS as ATTACKS
from ..data.benchmark_info import describe
from ..data.columns import resolve_columns
from ..data.labels import check_labels, check_order, read_labels
from ..data.perturbation import perturbation_size
from ..data.prompts import class_prompts
from ..data.rows import ImageRows, collate
from ..io import fingerprint
from ..models.encoder import DualEncoder
from ..models.ensemble import EnsembleEncoder
from ..substitutes.source import CandidateSource
from ..zero_shot import ZeroShotClassifier
from .attacked_texts import AttackedTexts, FoundTexts
from .provenance import model_fingerprint, versions
from .results import FORMAT
from .threat_model import ThreatModel

SHOWN = 10_000  # images whose clean embeddings are awaited with a progress bar
HASHED_IMAGES = 64  # pictures that the data fingerprint reads, beside all rows and labels


@dataclass(kw_only=True, eq=False)
class Evaluation:
    """One model, one data set and one threat model, checked and resolved: everything that a batch of rows needs."""

    classifier: ZeroShotClassifier
    rows: ImageRows
    row_ids: list[int]
    labels: list[int]
    attacks: tuple[str, ...]
    spec: ThreatModel
    sources: dict[str, CandidateSource]
    image_attacks: dict[str, ImageAttacker]
    batch_size: int
    beyond: Mapping[str, BeyondAttack] = field(default_factory=dict)

    # What is evaluated

    @property
    def encoder(self) -> DualEncoder:
        """Return the model."""
        return self.classifier.encoder

    @property
    def class_names(self) -> list[str]:
        """Return the names as they were given."""
        return self.classifier.class_names

    @property
    def prompts(self) -> list[str]:
        """Return the evaluator's prompts, one a class."""
        return self.classifier.prompts

    @property
    def num_batches(self) -> int:
        """Return the number of units of work."""
        return math.ceil(len(self.row_ids) / self.batch_size)

    def load(self, index: int) -> dict[str, Any]:
        """Return one batch of `collate`."""
        return collate(self.rows.__getitems__(self.rows_of(index)))

    def rows_of(self, index: int) -> list[int]:
        """Return the row numbers of one batch."""
        return self.row_ids[index * self.batch_size : (index + 1) * self.batch_size]

    def header(self) -> dict[str, Any]:
        """Return all that decides the outcomes, as JSON values."""
        return {
            "format": FORMAT,
            "attacks": list(self.attacks),
            "attack_spec": self.spec.to_dict(),
            "num_samples": len(self.row_ids),
            "batch_size": self.batch_size,
            "seed": self.spec.seed,
            "fingerprints": {
                "specification": self.spec.fingerprint(),
                "model": model_fingerprint(self.encoder.model),
                "data": self._data_fingerprint(),
                **{name: one.fingerprint for name, one in self.beyond.items() if hasattr(one, "fingerprint")},
            },
            "versions": versions(),
        }

    def _data_fingerprint(self) -> str:
        """Return a hash of rows, labels, prompts, tokens, image processor, and pictures drawn evenly from the rows."""
        pictures = hashlib.sha256()
        for row in self.rows.__getitems__(self.row_ids[:: math.ceil(len(self.row_ids) / HASHED_IMAGES)]):
            pictures.update(row["image"].numpy().tobytes())
        processor = self.encoder.image_processor.to_dict()
        ensemble = {} if self.spec.templates is None else {"ensemble": list(self.spec.templates)}
        return fingerprint(
            {
                **ensemble,
                "row_ids": self.row_ids,
                "labels": self.labels,
                "prompts": self.prompts,
                "tokens": self.encoder.tokenize(self.prompts)["input_ids"].tolist(),
                "processor": {key: processor.get(key) for key in ("size", "crop_size", "image_mean", "image_std")},
                "pictures": pictures.hexdigest(),
            }
        )

    # Prompts

    def search(self) -> FoundTexts:
        """Attack the prompts as far as no single image decides."""
        if not self.texts.chooses_by_image:
            return self.texts.search()
        embeds = self.clean_image_embeds()
        return self.texts.search(embeds, torch.tensor(self.labels, device=embeds.device))

    def clean_image_embeds(self) -> Tensor:
        """Return the embeddings of all clean images, (samples, dim)."""
        device, batches = self.prompt_embeds.device, range(self.num_batches)
        shown = self.texts.progress and len(self.row_ids) > SHOWN
        with torch.no_grad():
            parts = [
                self.encoder.encode_images(self.load(index)["images"].to(device))
                for index in tqdm(batches, desc="clean images", unit="batch", disable=not shown)
            ]
        return torch.cat(parts)

    @cached_property
    def clean_prompts(self) -> FixedPrompts:
        """Return the evaluator's prompts, as they classify."""
        return FixedPrompts(self.prompt_embeds, self.scale)

    @cached_property
    def attacker_prompts(self) -> FixedPrompts:
        """Return the prompts that image attacks are run against; `clean_prompts` itself where these are the same."""
        template = self.spec.attacker_template
        if template is None or (template == self.spec.template and self.spec.templates is None):
            return self.clean_prompts
        return FixedPrompts(self.encoder.encode_texts(class_prompts(self.class_names, template)), self.scale)

    @cached_property
    def scale(self) -> Tensor:
        """Return the factor of the cosines inside an attack, scalar."""
        return self.encoder.attacked_scale(self.spec.temperature)

    @cached_property
    def prompt_embeds(self) -> Tensor:
        """Return the embeddings of the evaluator's prompts, (classes, dim)."""
        return self.classifier.prompt_embeds

    @cached_property
    def texts(self) -> AttackedTexts:
        """Return the evaluator's prompts under attack."""
        templates = self.spec.templates
        texts = AttackedTexts(
            encoder=self.encoder if templates is None else EnsembleEncoder(self.encoder, templates),
            texts=self.prompts,
            spec=self.spec,
            attacks=self.attacks,
            sources=self.sources,
            class_names=self.class_names,
            scale=self.scale,
        )
        texts.clean = self.prompt_embeds  # the classifier has them
        return texts


def prepare(
    model: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    attacks: Sequence[str],
    spec: ThreatModel,
    *,
    class_names: Sequence[str] | None,
    candidates: CandidateSource | Mapping[str, CandidateSource] | None,
    image_attacks: Mapping[str, ImageAttack] | None,
    image_column: str,
    label_column: str,
    batch_size: int,
    max_samples: int | None,
    beyond: Mapping[str, BeyondAttack] | None = None,
) -> Evaluation:
    """Check the input of `evaluate_robustness` and settle what a specification leaves to the model and the data."""
    attacks = complete_attacks(attacks)
    for name, value in (("batch_size", batch_size), ("max_samples", 1 if max_samples is None else max_samples)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    image_column, label_column, class_names = _columns(dataset, image_column, label_column, class_names)
    benchmark = describe(dataset)
    spec = replace(spec, template=spec.template or benchmark.template)
    classifier = ZeroShotClassifier(model, processor, class_names, spec.templates or str(spec.template))
    if spec.attacker_template is not None:
        classifier.encoder.tokenize(class_prompts(class_names, spec.attacker_template))  # too long a prompt fails here
    check_labels(dataset, label_column, len(class_names))

    row_ids = list(range(len(dataset)))
    if max_samples is not None and max_samples < len(row_ids):
        # The same rows for every seed: a seed is another draw of the attack, not another data set.
        drawn = torch.randperm(len(row_ids), generator=torch.Generator().manual_seed(0))[:max_samples]
        row_ids = sorted(drawn.tolist())
    image_size = classifier.encoder.image_size
    perturb_at = spec.perturb_at
    if perturb_at == "auto":
        perturb_at = benchmark.perturb_at if benchmark.name else perturbation_size("auto", dataset, image_size)

    sources: dict[str, CandidateSource] = {}
    if bad := [name for name in (candidates if isinstance(candidates, Mapping) else ()) if name in TEXT_ADVERSARIES]:
        raise ValueError(f"`candidates`: {bad} are names of adversaries in results; call the sources otherwise.")
    if "text" in attacks and "words" in spec.text_attacks:
        sources = factory.candidate_sources(candidates, spec.candidates, classifier.encoder)
        described = {name: repr(source) for name, source in sources.items()}
        spec = replace(spec, candidates=described.get("", described))
    found: dict[str, ImageAttacker] = {
        name: LossAttack(attack=attack, loss=class_loss, restarts=spec.restarts)
        for name, attack in (image_attacks or {}).items()
    }
    if image_attacks:
        spec = replace(spec, image_attacks=tuple(f"{name}: {attack!r}" for name, attack in image_attacks.items()))
    elif "image" in attacks:
        found = {name: factory.image_attack(name, spec) for name in spec.image_attacks}
    beyond = {name.partition("=")[0]: factory.beyond_attack(name) for name in spec.beyond} if beyond is None else beyond
    spec = replace(spec, perturb_at=perturb_at, beyond=tuple(f"{name}: {attack!r}" for name, attack in beyond.items()))
    _check_combination(attacks, spec, found, sources)
    return Evaluation(
        classifier=classifier,
        rows=ImageRows(
            dataset, image_column, label_column, None, perturb_at, image_size, classifier.encoder.image_processor
        ),
        row_ids=row_ids,
        labels=read_labels(dataset, label_column)[row_ids].tolist(),
        attacks=attacks,
        spec=spec,
        sources=sources,
        image_attacks=found,
        batch_size=batch_size,
        beyond=beyond,
    )


def complete_attacks(attacks: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of attack that are run, in the order of `ATTACKS`: multimodal ones bring image and text along.

    Raises:
        ValueError: if one is unknown.
    """
    attacks = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    if unknown := [name for name in attacks if name not in ATTACKS]:
        raise ValueError(f"`attacks`: unknown {unknown}; choose from {', '.join(ATTACKS)}.")
    wanted = {"clean", *attacks} | ({"image", "text"} if "multimodal" in attacks else set())
    return tuple(name for name in ATTACKS if name in wanted)


def _columns(
    dataset: datasets.Dataset, image_column: str, label_column: str, class_names: Sequence[str] | None
) -> tuple[str, str, Sequence[str]]:
    """Return the picture and the label column, and class names."""
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"`dataset` must be a map-style datasets.Dataset, got {type(dataset).__name__}: its rows are looked up by "
            "number. Choose one split, and load it without streaming."
        )
    if len(dataset) == 0:
        raise ValueError("`dataset` is empty: it has no rows. Check the split and any filter or `select` before it.")
    columns = resolve_columns(dataset, image_column, label_column)
    if columns.label is None:
        captions = f" It has captions ({columns.text!r}), which name no classes." if columns.text else ""
        raise ValueError(
            f"`dataset` has no label column.{captions} Zero-shot accuracy needs a column of integers, named by "
            "`label_column` if its name is not a usual one, and `class_names` or a ClassLabel that holds them."
        )
    if class_names is None:
        class_names = getattr(dataset.features[columns.label], "names", None)
        if class_names is None:
            raise ValueError(
                f"`class_names` is needed: column {columns.label!r} is no ClassLabel, so nothing names its classes."
            )
    check_order(class_names, dataset.features[columns.label])
    return str(columns.image), columns.label, class_names


def _check_combination(
    attacks: tuple[str, ...],
    spec: ThreatModel,
    image_attacks: Mapping[str, Any],
    sources: Mapping[str, Any],
) -> None:
    """Raise for attacks that ask for what the threat model leaves out; warn of those that cannot change anything."""
    if "image" in attacks and not image_attacks:
        raise ValueError("`attacks` asks for image attacks and the threat model's `image_attacks` is empty.")
    if "text" in attacks and not spec.text_attacks:
        raise ValueError("`attacks` asks for text attacks and the threat model's `text_attacks` is empty.")
    if "text" in attacks and spec.templates is not None:
        _check_ensemble(spec)
    if "multimodal" in attacks:
        if not spec.multimodal_attacks:
            raise ValueError(
                "`attacks` asks for multimodal attacks and the threat model's `multimodal_attacks` is empty."
            )
        if spec.text_attacks == ("embedding",):
            raise ValueError(
                'a multimodal attack needs texts to present, and `text_attacks=("embedding",)` finds none: '
                'add "words" or "characters".'
            )
        searching = [name for name in spec.multimodal_attacks if name not in ("independent", "adaptive")]
        if searching and not sources:
            raise ValueError(f'{", ".join(searching)} search for words: add "words" to `text_attacks`.')
        for name in searching:
            needed = MULTIMODAL_ADVERSARIES[name]
            if not {needed, "all"} & set(spec.text_adversaries):
                raise ValueError(
                    f'`multimodal_attacks` names {name!r}, which is the adversary "{needed}", and `text_adversaries` '
                    f'leaves it out: add "{needed}" or "all" there.'
                )
    for what, why in spec.zero_budgets().items():
        if what.split("/")[0] in attacks:
            warnings.warn(
                f"the {what} attack has no budget ({why}): its accuracy equals clean.", UserWarning, stacklevel=4
            )


def _check_ensemble(spec: ThreatModel) -> None:
    """Raise for attacks on texts that change more than the class name, which all templates of an ensemble share."""
    reasons = []
    if spec.text_attacks != ("words",):
        reasons.append('only "words" among `text_attacks`: characters change the template, embeddings are of one text')
    if not spec.protect_template:
        reasons.append("`protect_template`: a change of the template has no counterpart in the others")
    if spec.families is not None:
        reasons.append("no `families`, which change the whole prompt")
    if reasons:
        raise ValueError(
            f"`templates` is an ensemble of {len(spec.templates or ())}, under which attacks on texts need "
            f"{'; '.join(reasons)}."
        )
