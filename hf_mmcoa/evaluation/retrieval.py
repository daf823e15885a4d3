"""Image-text retrieval of a dual encoder, clean and under attack, on pairs of images and captions.

An image's best-scored own caption against every caption that is not its own is a classification, so the attacks of
zero-shot evaluation are used as they are. What is kept is the rank of the right answer for every query under every
attack; all recalls, worst cases and intervals are computed from those.
"""

from __future__ import annotations

import base64
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from ..attacks import factory
from ..attacks.engine import ImageAttacker, Measured, seeded_generator
from ..attacks.image_losses import class_loss
from ..attacks.settings import MULTIMODAL_ADVERSARIES
from ..data.columns import AUTO
from ..data.rows import collate
from ..io import fingerprint, read_json, write_json
from ..losses import zero_shot_logits
from ..models.encoder import DualEncoder
from ..substitutes.source import CandidateSource
from .attack_names import AttackName, source_suffix
from .attacked_texts import AttackedTexts, FoundTexts
from .pairs import Pairs, own_against_others, ranks_of_best, ranks_of_logits, read_pairs
from .prepare import ATTACKS, complete_attacks
from .provenance import model_fingerprint, versions
from .recalls import all_ranks, recalls
from .results import BLIND, BLIND_SPEC, todays_name
from .runner import Record, evaluated_model, process_state, result_names, run
from .sanity import Finding, inside_ball
from .sanity_texts import check_embeddings, within_budget
from .threat_model import ThreatModel

FORMAT = 2


def evaluate_retrieval(
    model: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    threat_model: str | Mapping[str, Any] | ThreatModel = "standard",
    *,
    image_column: str = AUTO,
    text_column: str = AUTO,
    candidates: CandidateSource | Mapping[str, CandidateSource] | None = None,
    attacks: Sequence[str] = ATTACKS,
    batch_size: int = 64,
    max_samples: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    model_name: str | None = None,
    dataset_name: str | None = None,
    training_seed: int | None = None,
    accelerator: Accelerator | PartialState | None = None,
) -> dict[str, Any]:
    """Measure recall at 1, 5 and 10 from image to text and from text to image, with the rank of every query.

    Equal captions are one caption, which belongs to all of their images. From image to text every image is a query and
    a hit if any of its own captions is among the first k of all captions; from text to image every caption is a query
    and a hit if any of its images is. A tie counts as lost: a model that gives all the same score finds nothing.

    Who is attacked: every item of the attacked modality, once, on whichever side it stands. Attacked images are the
    queries from image to text and the gallery from text to image, attacked captions the reverse. One attacked copy of
    the data answers both directions, as in Co-Attack (arXiv:2206.09391): an attacker who publishes images or captions
    knows their partners and not who will search for what. For the attacked item's own query that is a white-box worst
    case; of queries from the other side it is one attack among stronger ones that aim at a single query.

    - image: every image attack of the threat model with its restarts, against the cosines with all captions as logits,
      of which the best own one is right (with one caption an image the contrastive loss `CE(s I' T^T, i)`). Captions
      are embedded once. Attacks that do not know which image they look at ("strong", "autoattack") run image by image.
    - text: words by `BertAttack` without a template, characters, and token embeddings, each caption away from its own
      embedding and without seeing an image. There are no class names to protect: whether a caption still describes its
      image is up to the source of substitutes.
    - multimodal: "independent", attacked images meet attacked captions; "adaptive", images are attacked against the
      attacked captions; "co-attack", "sga" and "joint" choose captions by the image, whose first own caption is the one
      that they attack. From text to image that caption is the query, as the attack wrote it for its first image.

    An interrupted evaluation goes on from `<output>.partial`, and several processes share the batches. Captions longer
    than the context are cut off, with one warning.

    Args:
        model: a `CLIPModel`, wrapped or not; evaluated where it is, in eval mode, and left as it was.
        processor: its `CLIPProcessor`.
        dataset: pictures and captions, map-style.
        threat_model: the name of a preset ("quick", "paper", "standard", "strong"), a `ThreatModel`, or its
            fields as in YAML: `{"preset": "quick", "epsilon": "4/255"}`.
        image_column: pictures; "auto" finds them.
        text_column: a caption or a list of captions a row; "auto" takes `text`, `caption` or `texts`.
        candidates: source of the substitutes, or several by name, as for `evaluate_robustness`.
        attacks: of "clean", "image", "text" and "multimodal", as for `evaluate_robustness`.
        batch_size: images per batch. The random starts depend on it.
        max_samples: so many rows only, drawn once; recall is higher in a smaller gallery.
        output: JSON file for the result; the result of the same evaluation is returned as it lies there.
        overwrite: replace the result of another evaluation in `output`, finished or not, instead of raising.
        progress: show a bar.
        model_name: recorded as `result["model"]`; the model's own name when None.
        dataset_name: recorded as `result["dataset"]`; the data set's own when None.
        training_seed: seed of the training that made the weights, recorded as `result["training_seed"]`.
        accelerator: shares the batches among its processes; every process returns the whole result.

    Returns:
        A flat dictionary of JSON values: `clean_image_to_text_recall_at_1`, `image_text_to_image_recall_at_5` and so on
        for every threat, direction and depth, each the worst case per query over the threat's attacks and with its 95%
        interval over images in `..._interval`; `attacks/<name>/<direction>_recall_at_<k>`; `ranks`,
        "<attack>/<direction>" to one rank a query (1 is the best), in the order of `row_ids` or of `captions`;
        `captions`, `captions_of` (for each image the places of its own), `adv_captions`; `attack_spec`, `sanity` and
        what else is needed to judge it.

    Raises:
        ValueError: for an empty or streamed data set, no caption column, a row without a caption, fewer than two
            images or captions, attacks that are unknown or have nothing to run, a threat model with a template, or an
            `output` that belongs to another evaluation.
        TypeError: if the model is no dual encoder, or has no `logit_scale`.

    Example:
        >>> result = evaluate_retrieval(model, processor, flickr30k, "quick")  # doctest: +SKIP
        >>> result["image_image_to_text_recall_at_1"], result["attack_spec"]["epsilon"]  # doctest: +SKIP
    """
    attacks = complete_attacks(attacks)
    spec = ThreatModel.read(threat_model)
    if spec.beyond:
        raise ValueError(f"`beyond` {list(spec.beyond)} needs class names: captions have none. Leave it out.")
    state = process_state(accelerator, model)
    model = evaluated_model(model, state, accelerator)
    encoder = DualEncoder(model, processor)
    pairs = read_pairs(dataset, image_column, text_column, spec.perturb_at, encoder, batch_size, max_samples)
    spec, sources = _resolve(spec, attacks, candidates, encoder, pairs.rows_at)
    return run(
        RetrievalTask(encoder, pairs, spec, attacks, sources, batch_size),
        model,
        names={"format": FORMAT, "task": "retrieval"}
        | result_names(model, dataset, model_name, dataset_name, training_seed),
        output=output,
        overwrite=overwrite,
        state=state,
        sanity=True,
        progress=progress,
        load=load_retrieval,
        save=write_json,
    )


class RetrievalTask:
    """Retrieval as a `runner.Task`: the record of a batch holds the embeddings of its attacked images.

    Args:
        encoder: the model.
        pairs: images and captions.
        spec: the threat model as it is run.
        attacks: of `ATTACKS`.
        sources: sources of substitutes by name.
        batch_size: images per batch.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        pairs: Pairs,
        spec: ThreatModel,
        attacks: tuple[str, ...],
        sources: Mapping[str, CandidateSource],
        batch_size: int,
    ) -> None:
        self.encoder, self.pairs, self.spec, self.attacks = encoder, pairs, spec, attacks
        self.sources, self.batch_size = sources, batch_size
        self.num_batches = math.ceil(len(pairs.row_ids) / batch_size)
        self.texts = AttackedTexts(
            encoder=encoder,
            texts=pairs.captions,
            spec=spec,
            attacks=attacks,
            sources=sources,
            class_names=(),
            scale=self.scale,
        )

    @cached_property
    def scale(self) -> Tensor:
        """Return the factor of the cosines inside an attack, scalar."""
        return self.encoder.attacked_scale(self.spec.temperature)

    @cached_property
    def image_attacks(self) -> dict[str, ImageAttacker]:
        """Return the threat model's image attacks by name."""
        return {name: factory.image_attack(name, self.spec) for name in self.spec.image_attacks}

    def header(self) -> dict[str, Any]:
        """See `Task`."""
        pairs = self.pairs
        return {
            "attacks": list(self.attacks),
            "attack_spec": self.spec.to_dict(),
            "num_samples": len(pairs.row_ids),
            "num_captions": len(pairs.captions),
            "batch_size": self.batch_size,
            "seed": self.spec.seed,
            "fingerprints": {
                "specification": self.spec.fingerprint(),
                "model": model_fingerprint(self.encoder.model),
                "data": fingerprint([pairs.row_ids, pairs.captions, pairs.captions_of]),
            },
            "versions": versions(),
            "row_ids": pairs.row_ids,
        }

    def search(self) -> FoundTexts:
        """See `Task`."""
        return self.texts.search()

    def load(self, index: int) -> dict[str, Any]:
        """See `Task`."""
        rows = self.pairs.row_ids[index * self.batch_size : (index + 1) * self.batch_size]
        return collate(self.pairs.rows.__getitems__(rows))

    def attack(self, index: int, batch: dict[str, Any]) -> Record:
        """See `Task`."""
        return _Batch(self, index, batch).record()

    def progress(self, records: Sequence[Record]) -> str:
        """See `Task`."""
        return ""

    def check(self, records: Sequence[Record]) -> list[Finding]:
        """See `Task`."""
        findings: list[Finding] = []
        if any(record["losses"] for record in records):
            lengths, ranges = zip(*((one["largest_perturbation"], one["pixel_range"]) for one in records), strict=True)
            findings.append(inside_ball(lengths, ranges, self.spec.pixel_radius))
        budget = self.spec.zero_budgets().get("image") is None
        for name in records[0]["losses"]:
            before, after = (sum(record["losses"][name][place] for record in records) for place in (0, 1))
            total = len(self.pairs.row_ids)
            findings.append(
                {
                    "check": f"image/{name}: raises the loss",
                    "passed": after > before if budget else None,
                    "detail": f"mean {before / total:.4g} before, {after / total:.4g} after",
                }
            )
        for name, captions in self.texts.found.lists.items():
            findings.append(within_budget(self.texts.changes, name, zip(self.pairs.captions, captions, strict=True)))
        findings += check_embeddings(self.texts, [], None)
        first = [self.pairs.captions[owned[0]] for owned in self.pairs.captions_of]
        for name in records[0]["own_texts"]:
            words = str(AttackName("text", "words", "", AttackName.parse(name).source))
            written = [text for record in records for text in record["own_texts"][name]]
            found = within_budget(self.texts.changes, words, zip(first, written, strict=True))
            findings.append({**found, "check": f"{name}: within its budget"})
        return findings

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """See `Task`."""
        images = {
            name: torch.cat([_tensor(record["embeds"][name]) for record in records]) for name in records[0]["embeds"]
        }
        texts = {"clean": self.texts.clean.cpu()} | {name: found.cpu() for name, found in self.texts.embeds.items()}
        multimodal = self.spec.multimodal_attacks if "multimodal" in self.attacks else ()
        ranks = all_ranks(images, texts, self.pairs, multimodal)
        for name in records[0]["ranks"]:  # attacks that choose the texts by the image
            ranks[f"{name}/image_to_text"] = [rank for record in records for rank in record["ranks"][name]]
            own_texts = [text for record in records for text in record["own_texts"][name]]
            ranks[f"{name}/text_to_image"] = self._ranks_of_captions(own_texts, images[name], texts["clean"])
        return {
            **recalls(ranks, self.pairs.captions_of),
            "captions": self.pairs.captions,
            "captions_of": self.pairs.captions_of,
            "adv_captions": self.texts.found.lists,
            "searches": self.texts.found.searches,
            "queries": self.texts.found.queries,
            "ranks": ranks,
        }

    def _ranks_of_captions(self, own_texts: list[str], images: Tensor, clean: Tensor) -> list[int]:
        """Search the attacked images by the captions that the attack wrote for their first image."""
        queries = clean.clone()
        written: dict[int, str] = {}
        for owned, text in zip(self.pairs.captions_of, own_texts, strict=True):
            written.setdefault(owned[0], text)
        queries[list(written)] = self.encoder.encode_texts(list(written.values())).cpu()
        return ranks_of_best(queries, images, self.pairs.images_of)


class _Batch:
    """The attacks on one batch of images."""

    def __init__(self, task: RetrievalTask, index: int, batch: dict[str, Any]) -> None:
        self.task, self.spec, self.start = task, task.spec, index * task.batch_size
        self.images = batch["images"].to(task.texts.clean.device)
        self.own = task.pairs.captions_of[self.start : self.start + len(self.images)]
        self.clean = task.encoder.encode_images(self.images)
        if not self.clean.isfinite().all():
            row = batch["row_ids"][int((~self.clean.isfinite().all(1)).int().argmax())]
            raise ValueError(f"the model gives a non-finite embedding for the image of row {row}: it is broken.")
        self.embeds = {"clean": self.clean}
        self.losses: dict[str, list[float]] = {}
        self.ranks: dict[str, list[int]] = {}
        self.own_texts: dict[str, list[str]] = {}
        self.measured = Measured(self.spec.norm)

    def record(self) -> Record:
        """Run every attack; return what is kept of them, as JSON values."""
        task, texts = self.task, self.task.texts
        if "image" in task.attacks:
            self._attack_images(texts.clean, "clean", "image")
        if "multimodal" in task.attacks:
            if "adaptive" in self.spec.multimodal_attacks:
                for source in task.sources or ("",):
                    for name, found in texts.realised(source).items():
                        if not any(key.startswith(f"{name}/") for key in self.embeds):
                            self._attack_images(found, name, name)
            for source in task.sources or ("",):
                for name in self.spec.multimodal_attacks:
                    if name not in ("independent", "adaptive"):
                        self._attack_both(name, source)
        return {
            "embeds": {name: _text(embeds) for name, embeds in self.embeds.items()},
            "losses": self.losses,
            "ranks": self.ranks,
            "own_texts": self.own_texts,
            "largest_perturbation": self.measured.largest,
            "pixel_range": self.measured.pixel_range,
        }

    def _attack_images(self, texts: Tensor, seed_name: str, prefix: str) -> None:
        """Run every image attack with its restarts against one set of captions."""
        labels = torch.zeros(len(self.images), dtype=torch.long, device=self.images.device)

        def logits_of(embeds: Tensor, own: Sequence[Sequence[int]]) -> Tensor:
            return own_against_others(zero_shot_logits(embeds, texts, self.task.scale), own)

        for name, attack in self.task.image_attacks.items():
            before = class_loss(logits_of(self.clean, self.own), labels)
            worst = torch.full_like(before, -math.inf)
            for restart in range(attack.restarts):
                generator = seeded_generator(self.images.device, self.spec.seed, self.start, seed_name, name, restart)
                adv_images = self._run(attack, labels, logits_of, generator)
                self.measured.add(adv_images, self.images)
                embeds = self.task.encoder.encode_images(adv_images)
                self.embeds[f"{prefix}/{name}|{restart}"] = embeds
                worst = torch.maximum(worst, class_loss(logits_of(embeds, self.own), labels))
            if prefix == "image":
                self.losses[name] = [before.sum().item(), worst.sum().item()]

    def _run(self, attack: ImageAttacker, labels: Tensor, logits_of: Any, generator: torch.Generator) -> Tensor:
        """Attack the batch; image by image where the attack cannot know which captions are an image's own."""

        def attacked(rows: slice) -> Tensor:
            own, encode = self.own[rows], self.task.encoder.encode_images

            def logits_fn(images: Tensor, places: Tensor) -> Tensor:
                logits = logits_of(encode(images), [own[place] for place in places.tolist()])
                return logits if attack.reads_rows else logits[:, logits[0] > -math.inf]  # without the own captions

            return attack.find(self.images[rows], labels[rows], logits_fn, generator, False)[0]

        if attack.reads_rows:
            return attacked(slice(None))
        return torch.cat([attacked(slice(row, row + 1)) for row in range(len(self.images))])

    def _attack_both(self, name: str, source: str) -> None:
        """Run an attack that chooses the captions by the image: each image's first own caption is its label."""
        task, encoder = self.task, self.task.texts.remembering_encoder
        adversary = MULTIMODAL_ADVERSARIES[name]
        key = str(AttackName("multimodal", name, adversary, source_suffix(source, task.sources)))
        labels = torch.tensor([own[0] for own in self.own], device=self.images.device)
        found = task.texts.multimodal_attack(name, source)(
            self.images,
            labels,
            task.pairs.captions,
            encoder,
            seeded_generator(self.images.device, self.spec.seed, self.start, key),
        )
        self.measured.add(found.images, self.images)
        self.embeds[key] = encoder.encode_images(found.images)
        self.ranks[key] = ranks_of_logits(found.logits(encoder), self.own)
        self.own_texts[key] = [texts[label] for texts, label in zip(found.prompts, labels.tolist(), strict=True)]


def _text(embeds: Tensor) -> str:
    """Return embeddings (batch, dim) as text of exactly the same numbers."""
    values = embeds.detach().float().cpu().numpy().astype("<f4")
    return f"{values.shape[1]}:{base64.b64encode(values.tobytes()).decode()}"


def _tensor(text: str) -> Tensor:
    width, _, content = text.partition(":")
    values = np.frombuffer(base64.b64decode(content), dtype="<f4").astype(np.float32)
    return torch.from_numpy(values).view(-1, int(width))


def load_retrieval(path: str | Path) -> dict[str, Any]:
    """Read a result file of `evaluate_retrieval`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was cut off, is no result of retrieval, or its recalls are not those of its ranks.

    Intervals are computed from the ranks again: older files hold some that took the captions of an image for
    independent.
    """
    result = _upgraded(read_json(path))
    if not isinstance(result, Mapping) or result.get("task") != "retrieval" or result.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of `evaluate_retrieval` in format {FORMAT}.")
    try:
        ThreatModel.from_dict(result["attack_spec"])
        numbers = recalls(result["ranks"], result["captions_of"])
        wrong = [name for name, value in numbers.items() if not name.endswith("_interval") and result[name] != value]
    except (KeyError, TypeError, AttributeError, ZeroDivisionError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} is {result[wrong[0]]}, its ranks say {numbers[wrong[0]]}.")
    return {**result, **numbers}


def _upgraded(result: Any) -> Any:
    """Return a result of version 0.1 in today's format, in which attacks on texts say which adversary they are."""
    if not isinstance(result, Mapping) or result.get("format") != BLIND or "ranks" not in result:
        return result
    ranks = {
        f"{todays_name(name.rpartition('/')[0])}/{name.rpartition('/')[2]}": found
        for name, found in result["ranks"].items()
    }
    kept = {name: value for name, value in result.items() if not name.startswith("attacks/")}
    spec = {**BLIND_SPEC, **result["attack_spec"]}
    return {**kept, **recalls(ranks, result["captions_of"]), "ranks": ranks, "attack_spec": spec, "format": FORMAT}


def _resolve(
    spec: ThreatModel,
    attacks: Sequence[str],
    candidates: CandidateSource | Mapping[str, CandidateSource] | None,
    encoder: DualEncoder,
    perturb_at: Any,
) -> tuple[ThreatModel, dict[str, CandidateSource]]:
    """Return the threat model as it is run on pairs, and the sources of substitutes."""
    if given := [name for name in ("template", "templates", "attacker_template") if getattr(spec, name) is not None]:
        raise ValueError(f"`threat_model` has a {' and a '.join(given)}, and captions follow none: leave it None.")
    for kind in ("image", "text", "multimodal"):
        if kind in attacks and not getattr(spec, f"{kind}_attacks"):
            raise ValueError(f"`attacks` asks for {kind} attacks and the threat model's `{kind}_attacks` is empty.")
    words = "text" in attacks and "words" in spec.text_attacks
    searching = [name for name in spec.multimodal_attacks if name not in ("independent", "adaptive")]
    if "multimodal" in attacks and searching and not words:
        raise ValueError(f'{", ".join(searching)} search for words: add "words" to `text_attacks`.')
    if "multimodal" in attacks and spec.text_attacks == ("embedding",):
        raise ValueError('a multimodal attack needs texts to present: add "words" or "characters" to `text_attacks`.')
    sources = factory.candidate_sources(candidates, spec.candidates, encoder) if words else {}
    described = {name: repr(source) for name, source in sources.items()}
    # There is no template to protect and no class name to forbid; every image meets every attack to its end.
    kept: dict[str, Any] = {"protect_template": False, "forbid_class_names": False, "skip_fallen": False}
    kept |= {"text_adversaries": ("blind",), "families": None}
    kept |= {"perturb_at": perturb_at} | ({"candidates": described.get("", described)} if sources else {})
    spec = replace(spec, **kept)
    for what, why in spec.zero_budgets().items():
        if what.split("/")[0] in attacks:
            warnings.warn(f"the {what} attack has no budget ({why}): it equals clean.", UserWarning, stacklevel=3)
    return spec, sources
