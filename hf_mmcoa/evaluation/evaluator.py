"""Zero-shot accuracy of a dual encoder, clean and under image, text and multimodal attack: one call, one result.

Every legal text is encoded once, before the first batch. Images are attacked in fixed batches of rows; what is kept of
a batch is the outcome of every attack on every sample, and all numbers are computed from those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator, PartialState
from torch import nn

from ..attacks.beyond import BeyondAttack
from ..attacks.contracts import ImageAttack
from ..attacks.image_text_embedding import radius_shares
from ..data.columns import AUTO
from ..substitutes.source import CandidateSource
from ..substitutes.synonyms import most_substitutes
from .attack_names import BEYOND, AttackName, worst_case_attacks, worst_outcome
from .batch import EMBEDDING_RADII, evaluate_batch
from .by_class import numbers_by_class
from .export import Export, ImageFormat
from .nonsense import NUM_WORDS
from .prepare import ATTACKS, Evaluation, prepare
from .results import load_result, save_result
from .runner import Record, evaluated_model, process_state, result_names, run
from .sanity import Finding, run_battery
from .shards import Shard
from .threat_model import ThreatModel
from .uncertainty import interval_fields


def evaluate_robustness(
    model: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    attacks: Sequence[str] = ATTACKS,
    *,
    threat_model: str | Mapping[str, Any] | ThreatModel = "standard",
    class_names: Sequence[str] | None = None,
    candidates: CandidateSource | Mapping[str, CandidateSource] | None = None,
    image_attacks: Mapping[str, ImageAttack] | None = None,
    beyond: Mapping[str, BeyondAttack] | None = None,
    image_column: str = AUTO,
    label_column: str = AUTO,
    batch_size: int = 128,
    max_samples: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    accelerator: Accelerator | PartialState | None = None,
    sanity: bool = True,
    progress: bool = True,
    model_name: str | None = None,
    dataset_name: str | None = None,
    training_seed: int | None = None,
    export: str | Path | None = None,
    export_images: ImageFormat = "png",
    shard: str | None = None,
) -> dict[str, Any]:
    """Measure zero-shot accuracy under attack, with the outcome of every attack on every sample.

    The model is evaluated where it is, in eval mode; its mode, gradients and `requires_grad` are as before afterwards.

    Args:
        model: a `CLIPModel` or `SiglipModel`, wrapped or not.
        processor: its processor.
        dataset: pictures and labels, map-style.
        attacks: of "clean", "image", "text" and "multimodal". Multimodal brings image and text with it: an attacker of
            both may leave one alone. Which attacks of each kind are run is the threat model's business.
        threat_model: the name of a preset ("quick", "paper", "standard", "strong"), a `ThreatModel`, or its
            fields as in YAML: `{"preset": "quick", "epsilon": "4/255"}`.
        class_names: one a label; taken from the label column's `ClassLabel` when None.
        candidates: source of the text attack's substitutes; None builds the one that the threat model names. With
            several, {"known": s1, "unseen": s2}, the first is the threat model's own; each other one gives numbers of
            its own, named after it.
        image_attacks: attacks of your own by name, run on the cross-entropy in place of the threat model's.
        beyond: attacks that no ball bounds by name, in place of the threat model's; see `worst_case_attacks`.
        image_column: pictures; "auto" finds them.
        label_column: labels; "auto" finds them.
        batch_size: images per unit of work. The random starts depend on it.
        max_samples: evaluate on so many rows only, drawn once, the same for every threat model and seed.
        output: JSON file for the result. An evaluation that was interrupted goes on from `<output>.partial`, and ends
            with the file that an uninterrupted one would have written; a file that is complete already is returned.
        overwrite: replace a result, finished or not, of another evaluation in `output`, instead of raising.
        accelerator: shares the batches among its processes; every process returns the whole result.
        sanity: also run the checks of `sanity`, on a few samples; their findings lie in `result["sanity"]`.
        progress: show a bar, on the main process.
        model_name: recorded as `result["model"]`; the model's own name when None.
        dataset_name: recorded as `result["dataset"]`; the data set's own when None.
        training_seed: seed of the training that made the weights, recorded as `result["training_seed"]`. Reports
            average results of one name only where they hold different training seeds.
        export: folder for the attacked images and texts, and the predictions under every attack.
        export_images: "png", rounded to 8 bits, or "safetensors", exact.
        shard: "3/8" computes the third of eight parts, keeps it beside `output` and returns which batches it has, with
            no numbers; "merge/8" returns and writes what one run would have, once all parts are there.

    Returns:
        A flat dictionary of JSON values: `clean_accuracy`; `image_accuracy`, `text_accuracy` and `multimodal_accuracy`,
        the worst case per sample over that kind's attacks; the same for each adversary of the texts, as in
        `text_own_accuracy`; `embedding_accuracy` and `worst_case_accuracy`; for each of them its 95% interval, as in
        `image_accuracy_interval`, what that generalises over ("images" or "classes", see `uncertainty`), as in
        `image_accuracy_interval_over`, and its success rate among the correctly classified, as in
        `image_attack_success_rate` (None if there are none); `nonsense_images`, the share of clean images to which one
        of 200 nonsense words is nearer than every class, and `nonsense_pairs`, the share of (image, word) pairs;
        `average_case`, by attack that lists its texts the accuracy under one text of the true class drawn at random;
        `attacks/<name>` and `outcomes`, one sign a sample, of
        every attack; `attack_spec`, `sanity` and what else is needed to judge and redo it.

    Raises:
        ValueError: for an empty data set, fewer than two classes, labels outside the class names, a prompt longer than
            the context, unknown attacks, an `output` that belongs to another evaluation, or a model whose weights are
            spread over processes (FSDP, DeepSpeed ZeRO-3).
        TypeError: if the model is no dual encoder, or has no `logit_scale`.

    Example:
        >>> result = evaluate_robustness(model, processor, test_split, threat_model="quick")  # doctest: +SKIP
        >>> result["multimodal_accuracy"], result["attack_spec"]["epsilon"]  # doctest: +SKIP
    """
    spec, part = ThreatModel.read(threat_model), None if shard is None else Shard.read(shard)
    state = process_state(accelerator, model)
    model = evaluated_model(model, state, accelerator)
    task = prepare(
        model,
        processor,
        dataset,
        attacks,
        spec,
        class_names=class_names,
        candidates=candidates,
        image_attacks=image_attacks,
        beyond=beyond,
        image_column=image_column,
        label_column=label_column,
        batch_size=batch_size,
        max_samples=max_samples,
    )
    task.texts.progress = progress and state.is_main_process
    exported = None if export is None else Export(export, export_images)
    return run(
        ZeroShotTask(task, exported),
        model,
        names=result_names(model, dataset, model_name, dataset_name, training_seed),
        output=output,
        overwrite=overwrite,
        state=state,
        sanity=sanity,
        progress=progress,
        load=load_result,
        save=save_result,
        export=exported,
        shard=part,
    )


class ZeroShotTask:
    """Zero-shot classification as a `runner.Task`."""

    def __init__(self, evaluation: Evaluation, export: Export | None = None) -> None:
        self.export = export
        self.evaluation, self.texts, self.num_batches = evaluation, evaluation.texts, evaluation.num_batches
        self.header, self.load, self.search = evaluation.header, evaluation.load, evaluation.search

    def attack(self, index: int, batch: dict[str, Any]) -> Record:
        """See `Task`."""
        return evaluate_batch(self.evaluation, index, batch, self.export)

    def progress(self, records: Sequence[Record]) -> str:
        """See `Task`."""
        inside = [name for name in records[0]["outcomes"] if AttackName.parse(name).kind != BEYOND] if records else []
        robust = sum(worst_outcome(record, inside).count("1") for record in records)
        return f"{robust}/{sum(len(record['labels']) for record in records)} robust to all attacks"

    def check(self, records: Sequence[Record]) -> list[Finding]:
        """See `Task`."""
        return run_battery(self.evaluation, records)

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """See `Task`."""
        evaluation, spec = self.evaluation, self.evaluation.spec
        outcomes = {name: "".join(record["outcomes"][name] for record in records) for name in records[0]["outcomes"]}
        total, correct = len(outcomes["clean"]), outcomes["clean"].count("1")
        numbers: dict[str, Any] = {}
        for name, attacks in worst_case_attacks(list(outcomes)).items():
            outcome = worst_outcome({"outcomes": outcomes}, attacks)
            robust = outcome.count("1")
            numbers |= {name: robust / total, **interval_fields(name, outcome, evaluation.labels, attacks)}
            if name != "clean_accuracy":
                rate = name.removesuffix("_accuracy") + "_attack_success_rate"
                numbers[rate] = 1 - robust / correct if correct else None
        return {
            **numbers,
            **{f"attacks/{name}": outcome.count("1") / total for name, outcome in outcomes.items()},
            **self._embedding_curve(records, total),
            **self._nonsense(records, total),
            **self._average_case(records, total),
            **{
                name: sum(record["severities"][name] for record in records) / total
                for name in records[0].get("severities", {})  # a run that an older version began has none
            },
            **evaluation.texts.found.families,
            **numbers_by_class(records, outcomes, evaluation.labels, len(evaluation.class_names)),
            "class_names": evaluation.class_names,
            "prompts": evaluation.prompts,
            "adv_prompts": evaluation.texts.found.lists,
            "candidates_a_word": most_substitutes(evaluation.sources, evaluation.prompts, spec.num_candidates),
            "searches": evaluation.texts.found.searches,
            "queries": self._queries(records),
            "row_ids": evaluation.row_ids,
            "labels": evaluation.labels,
            "predictions": [prediction for record in records for prediction in record["predictions"]],
            "outcomes": outcomes,
            "witnesses": {
                name: [texts for record in records for texts in record["witnesses"][name]]
                for name in records[0]["witnesses"]
            },
        }

    def _queries(self, records: Sequence[Record]) -> dict[str, int]:
        """Return how many texts and images each attack had the model encode, gradients not counted apart."""
        counted = Counter(self.texts.found.queries)
        for record in records:
            counted.update(record["queries"])
        return dict(counted)

    def _nonsense(self, records: Sequence[Record], total: int) -> dict[str, float]:
        """Return how often a nonsense word is nearer to an image than all classes are, see `nonsense`."""
        counts = [record["nonsense"] for record in records if record.get("nonsense") is not None]
        if len(counts) < len(records):  # no text was attacked, or an older version began the run
            return {}
        pairs, images = (sum(column) for column in zip(*counts, strict=True))
        return {"nonsense_pairs": pairs / (total * NUM_WORDS), "nonsense_images": images / total}

    def _average_case(self, records: Sequence[Record], total: int) -> dict[str, dict[str, float]]:
        """Return the mean accuracy over the texts that each attack lists for the true class, one at a time."""
        if not all(record.get("average_case") for record in records):  # none listed, or an older version began the run
            return {}
        names = records[0]["average_case"]
        sums = {name: sum(record["average_case"][name] for record in records) for name in names}
        return {"average_case": {name: correct / total for name, correct in sums.items()}}

    def _embedding_curve(self, records: Sequence[Record], total: int) -> dict[str, Any]:
        """Return the accuracy over the radius of the image-aware embedding attack, and what the radius amounts to."""
        if not records[0]["curve"]:
            return {}
        spec, encoder = self.evaluation.spec, self.evaluation.encoder
        share = float(radius_shares(encoder, self.evaluation.class_names, spec.rho).median())
        robust = [sum(record["curve"][place] for record in records) for place in range(len(EMBEDDING_RADII))]
        clean = sum(record["outcomes"]["clean"].count("1") for record in records)
        return {
            "embedding_curve": {
                "radius": [0.0, *(multiple * spec.rho for multiple in EMBEDDING_RADII)],
                "accuracy": [robust / total for robust in (clean, *robust)],
                "share_of_nearest_class": [0.0, *(multiple * share for multiple in EMBEDDING_RADII)],
            }
        }
