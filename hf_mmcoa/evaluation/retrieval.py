"""Image-text retrieval of a dual encoder, clean and under attack, on pairs of images and captions.

An image's best-scored own caption against every caption that is not its own is a classification, so the image attacks
and losses of zero-shot evaluation are used as they are. What is kept is the rank of the right answer for every query
under every attack; all recalls, worst cases and intervals are computed from those.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks import factory
from ..attacks.factory import LossAttack
from ..attacks.restarts import Restarts
from ..data.columns import AUTO, resolve_columns
from ..data.perturbation import perturbation_size
from ..data.rows import ImageRows, collate
from ..io import fingerprint, printable, write_json
from ..losses import zero_shot_logits
from ..models.encoder import DualEncoder
from ..substitutes.source import CandidateSource
from .batch import perturbation_lengths, seeded_generator
from .evaluator import _dataset_name as name_of
from .evaluator import _evaluating as evaluating
from .prepare import ATTACKS, source_key
from .prepare import _complete as complete
from .provenance import model_fingerprint, versions
from .results import MAX_NAME, worst_case_attacks
from .sanity import Finding, failed, inside_ball, within_word_budget
from .statistics import wilson_interval
from .threat_model import ThreatModel

FORMAT = 1
DEPTHS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")
# What of a threat model has a meaning for pairs: attacks that raise any loss, and texts attacked without class names.
RUN = {"image_attacks": ("pgd-ce", "pgd-margin", "apgd-ce", "apgd-margin"), "text_attacks": ("words",),
       "multimodal_attacks": ("independent", "adaptive")}  # fmt: skip
QUERIES_PER_BLOCK = 512

Embeds = dict[str, Tensor]


def evaluate_retrieval(
    model: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    threat_model: str | ThreatModel = "standard",
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

    - image: the threat model's PGD and APGD, with its restarts, against
      the cosines with all captions as logits, of which the best own one is right (with one caption an image the
      contrastive loss `CE(s I' T^T, i)`). Captions are embedded once.
    - text: `BertAttack` without a template, each caption away from its own embedding and without seeing an image. There
      are no class names to protect: whether a caption still describes its image is up to the source of substitutes.
    - multimodal: "independent", attacked images meet attacked captions; "adaptive", images are attacked against the
      attacked captions.

    Of a threat model's other attacks "embedding", which no words realise, is left out, and all else with a warning; the
    recorded `attack_spec` names what was run. Captions longer than the context are cut off, with one warning. Nothing
    is stored of an interrupted run, and it runs in one process.

    Args:
        model: a `CLIPModel`, wrapped or not; evaluated where it is, in eval mode, and left as it was.
        processor: its `CLIPProcessor`.
        dataset: pictures and captions, map-style.
        threat_model: a specification, or the name of a preset ("quick", "paper", "standard", "strong").
        image_column: pictures; "auto" finds them.
        text_column: a caption or a list of captions a row; "auto" takes `text`, `caption` or `texts`.
        candidates: source of the substitutes, or several by name, as for `evaluate_robustness`.
        attacks: of "clean", "image", "text" and "multimodal", as for `evaluate_robustness`.
        batch_size: images per batch. The random starts depend on it.
        max_samples: so many rows only, drawn once; recall is higher in a smaller gallery.
        output: JSON file for the result.
        overwrite: replace `output` if it exists, instead of raising.
        progress: show a bar.
        model_name: recorded as `result["model"]`; the model's own name when None.
        dataset_name: recorded as `result["dataset"]`; the data set's own when None.

    Returns:
        A flat dictionary of JSON values: `clean_image_to_text_recall_at_1`, `image_text_to_image_recall_at_5` and so on
        for every threat, direction and depth, each the worst case per query over the threat's attacks and with its 95%
        interval in `..._interval`; `attacks/<name>/<direction>_recall_at_<k>`; `ranks`, "<attack>/<direction>" to one
        rank a query (1 is the best), in the order of `row_ids` or of `captions`; `captions`, `captions_of` (for each
        image the places of its own), `adv_captions`; `attack_spec`, `sanity` and what else is needed to judge it.

    Raises:
        ValueError: for an empty or streamed data set, no caption column, a row without a caption, fewer than two
            images or captions, attacks that are unknown or have nothing to run, a threat model with a template, or an
            `output` that exists.
        TypeError: if the model is no dual encoder, or has no `logit_scale`.

    Example:
        >>> result = evaluate_retrieval(model, processor, flickr30k, "quick")  # doctest: +SKIP
        >>> result["image_image_to_text_recall_at_1"], result["attack_spec"]["epsilon"]  # doctest: +SKIP
    """
    if output is not None and not overwrite and Path(output).exists():
        raise ValueError(f"{output} exists. Choose another output, or pass `overwrite=True`.")
    attacks = complete(attacks)
    spec = ThreatModel.preset(threat_model) if isinstance(threat_model, str) else threat_model
    model = extract_model_from_parallel(model)
    encoder = DualEncoder(model, processor)
    pairs = _read_pairs(dataset, image_column, text_column, spec.perturb_at, encoder, batch_size, max_samples)
    spec, sources = _resolve(spec, attacks, candidates, encoder, pairs.rows_at)

    with evaluating(model), torch.no_grad():
        adv_captions = {
            source_key("text/words", source, sources): factory.word_attack(spec, found, [])(
                pairs.captions, encoder.encode_texts
            )
            for source, found in sources.items()
        }
        texts = {"clean": encoder.encode_texts(pairs.captions)}
        texts |= {name: encoder.encode_texts(captions) for name, captions in adv_captions.items()}
        attacked = _Attacked(encoder, pairs, spec, texts)
        images = attacked.all_images(attacks, batch_size, progress)
    ranks = _all_ranks(images, texts, pairs, spec.multimodal_attacks if "multimodal" in attacks else ())
    findings = attacked.findings()
    findings += [
        within_word_budget(name, pairs.captions, captions, spec.max_changes) for name, captions in adv_captions.items()
    ]
    result = {
        **_recalls(ranks),
        "format": FORMAT,
        "task": "retrieval",
        "model": printable(model_name or getattr(model, "name_or_path", "") or type(model).__name__)[:MAX_NAME],
        "dataset": printable(dataset_name or name_of(dataset))[:MAX_NAME],
        "attacks": list(attacks),
        "attack_spec": spec.to_dict(),
        "num_samples": len(pairs.row_ids),
        "num_captions": len(pairs.captions),
        "batch_size": batch_size,
        "seed": spec.seed,
        "fingerprints": {
            "specification": spec.fingerprint(),
            "model": model_fingerprint(model),
            "data": fingerprint([pairs.row_ids, pairs.captions, pairs.captions_of]),
        },
        "versions": versions(),
        "sanity": findings,
        "row_ids": pairs.row_ids,
        "captions": pairs.captions,
        "captions_of": pairs.captions_of,
        "adv_captions": adv_captions,
        "ranks": ranks,
    }
    for finding in failed(findings):
        warnings.warn(f"sanity check failed: {finding['check']} ({finding['detail']}).", UserWarning, stacklevel=2)
    if output is not None:
        write_json(result, output)
    return result


def retrieval_table(result: Mapping[str, Any]) -> str:
    """The recalls of a result in percent, a row per threat, aligned for a terminal.

    Example:
        >>> names = [f"clean_{direction}_recall_at_{k}" for direction in DIRECTIONS for k in DEPTHS]
        >>> print(retrieval_table(dict.fromkeys(names, 0.5)))
                          image to text           text to image
                         R@1   R@5  R@10         R@1   R@5  R@10
        clean           50.0  50.0  50.0        50.0  50.0  50.0
    """
    first = f"_{DIRECTIONS[0]}_recall_at_{DEPTHS[0]}"
    threats = [name.removesuffix(first) for name in result if name.endswith(first) and "/" not in name]
    lines = [" " * 18 + "image to text           text to image", " " * 17 + "R@1   R@5  R@10         R@1   R@5  R@10"]
    for threat in threats:
        cells = [
            "".join(f"{100 * result[f'{threat}_{direction}_recall_at_{depth}']:6.1f}" for depth in DEPTHS)
            for direction in DIRECTIONS
        ]
        lines.append(f"{threat.replace('_', ' '):14}{cells[0]}      {cells[1]}")
    return "\n".join(lines)


def ranks_of_best(queries: Tensor, gallery: Tensor, relevant: Sequence[Sequence[int]]) -> list[int]:
    """For each query the rank of its best-scored right answer among all wrong ones; 1 is the best, a tie is lost.

    Args:
        queries: embeddings, (queries, dim).
        gallery: embeddings, (items, dim).
        relevant: for each query the places of its right answers in the gallery.

    Example:
        >>> ranks_of_best(torch.eye(2), torch.tensor([[0.5, 0.1], [0.9, 0.1], [0.5, 0.1]]), [[0], [1, 2]])
        [3, 2]
    """
    ranks: list[int] = []
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        scores = queries[start : start + QUERIES_PER_BLOCK] @ gallery.T  # (block, items)
        own = _own_mask(relevant[start : start + QUERIES_PER_BLOCK], scores)
        best = scores.masked_fill(~own, float("-inf")).amax(1, keepdim=True)
        # "not behind" and not "ahead": ties and scores that are not numbers count against the model.
        ranks += (1 + (~(scores < best) & ~own).sum(1)).tolist()
    return ranks


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Rows, their distinct captions, and which belong together."""

    rows: ImageRows
    rows_at: Any  # the resolution of the rows, "native" or "model"
    row_ids: list[int]
    captions: list[str]
    captions_of: list[list[int]]  # by image, places in `captions`

    @property
    def images_of(self) -> list[list[int]]:
        """By caption, places in `row_ids`."""
        found: list[list[int]] = [[] for _ in self.captions]
        for image, places in enumerate(self.captions_of):
            for place in places:
                found[place].append(image)
        return found


@dataclass
class _Attacked:
    """The image attacks on all rows, and what the sanity checks want to know of them."""

    encoder: DualEncoder
    pairs: _Pairs
    spec: ThreatModel
    texts: Embeds
    lengths: list[float] = field(default_factory=list)
    ranges: list[tuple[float, float]] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)  # per image attack the summed loss before and after

    def all_images(self, attacks: Sequence[str], batch_size: int, progress: bool) -> Embeds:
        """Embeddings of all images: "clean", "image/<attack>" and "<attacked texts>/<attack>"; (images, dim) each."""
        parts: dict[str, list[Tensor]] = {}
        for start in tqdm(
            range(0, len(self.pairs.row_ids), batch_size), "retrieval", unit="batch", disable=not progress
        ):
            batch = collate(self.pairs.rows.__getitems__(self.pairs.row_ids[start : start + batch_size]))
            images = batch["images"].to(self.texts["clean"].device)
            clean = self.encoder.encode_images(images)
            if not clean.isfinite().all():
                row = batch["row_ids"][int((~clean.isfinite().all(1)).int().argmax())]
                raise ValueError(f"the model gives a non-finite embedding for the image of row {row}: it is broken.")
            found = {"clean": clean}
            if "image" in attacks:
                found |= self._attack(images, clean, start, "clean", "image")
            if "multimodal" in attacks and "adaptive" in self.spec.multimodal_attacks:
                for texts in self.texts:
                    found |= self._attack(images, clean, start, texts, texts) if texts != "clean" else {}
            for name, embeds in found.items():
                parts.setdefault(name, []).append(embeds)
        return {name: torch.cat(embeds) for name, embeds in parts.items()}

    def _attack(self, images: Tensor, clean: Tensor, start: int, texts: str, prefix: str) -> Embeds:
        """Every image attack on one batch, against one set of captions."""
        own = self.pairs.captions_of[start : start + len(images)]
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        scale = self.encoder.logit_scale.detach()
        if self.spec.temperature != "logit_scale":
            scale = torch.full_like(scale, float(self.spec.temperature))

        def logits_of(embeds: Tensor) -> Tensor:
            return own_against_others(zero_shot_logits(embeds, self.texts[texts], scale), own)

        found = {}
        for name in self.spec.image_attacks:
            loss_attack = factory.image_attack(name, self.spec)
            assert isinstance(loss_attack, LossAttack)  # `_resolve` keeps no other
            loss = loss_attack.loss

            def loss_fn(adv_images: Tensor, loss: factory.ClassLoss = loss) -> Tensor:
                return loss(logits_of(self.encoder.encode_images(adv_images)), labels)

            generator = seeded_generator(images.device, self.spec.seed, start, texts, name)
            adv_images = Restarts(loss_attack.attack, times=self.spec.restarts)(images, loss_fn, generator)
            self.lengths.append(perturbation_lengths(adv_images, images, self.spec.norm).amax().item())
            low, high = adv_images.aminmax()
            self.ranges.append((low.item(), high.item()))
            found[f"{prefix}/{name}"] = embeds = self.encoder.encode_images(adv_images)
            if texts == "clean":
                sums = self.losses.setdefault(name, [0.0, 0.0])
                for place, seen in enumerate((clean, embeds)):
                    sums[place] += loss(logits_of(seen), labels).sum().item()
        return found

    def findings(self) -> list[Finding]:
        """Inside the ball, and not without effect; see `sanity`."""
        if not self.lengths:
            return []
        budget = self.spec.zero_budgets().get("image") is None
        return [
            inside_ball(self.lengths, self.ranges, float(self.spec.epsilon)),
            *(
                {
                    "check": f"image/{name}: raises the loss",
                    "passed": after > before if budget else None,
                    "detail": f"mean {before / len(self.pairs.row_ids):.4g} before, "
                    f"{after / len(self.pairs.row_ids):.4g} after",
                }
                for name, (before, after) in self.losses.items()
            ),
        ]


def own_against_others(logits: Tensor, own: Sequence[Sequence[int]]) -> Tensor:
    """Scores of all captions as a classification with class 0 right: (batch, M) to (batch, 1 + M).

    Column 0 holds the best of the image's own captions, the others the captions, -inf where they are its own.
    """
    mask = _own_mask(own, logits)
    best = logits.masked_fill(~mask, float("-inf")).amax(1, keepdim=True)
    return torch.cat([best, logits.masked_fill(mask, float("-inf"))], 1)


def _own_mask(relevant: Sequence[Sequence[int]], scores: Tensor) -> Tensor:
    """True on the right answers, of the shape of `scores`."""
    rows = [row for row, places in enumerate(relevant) for _ in places]
    columns = [place for places in relevant for place in places]
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask[rows, columns] = True
    return mask


def _read_pairs(
    dataset: datasets.Dataset,
    image_column: str,
    text_column: str,
    perturb_at: Any,
    encoder: DualEncoder,
    batch_size: int,
    max_samples: int | None,
) -> _Pairs:
    """The checked rows and captions; a row's captions are read here because `ImageRows` takes the first of several."""
    for name, value, least in (("batch_size", batch_size, 1), ("max_samples", max_samples, 2)):
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    columns = resolve_columns(dataset, image_column, None, text_column)
    if columns.text is None:
        raise ValueError(
            f"`dataset` has no caption column; name it with `text_column`. It has {', '.join(dataset.column_names)}. "
            "(`load_benchmark` drops captions beside labels unless it is given `text_column` too.)"
        )
    pictures = dataset.select_columns([str(columns.image)])
    if columns.image != "image":
        pictures = pictures.rename_column(str(columns.image), "image")
    perturb_at = perturbation_size(perturb_at, pictures, encoder.image_size)
    rows = ImageRows(pictures, "image", None, None, perturb_at, encoder.image_size)
    row_ids = list(range(len(rows)))
    if max_samples is not None and max_samples < len(row_ids):
        drawn = torch.randperm(len(row_ids), generator=torch.Generator().manual_seed(0))[:max_samples]
        row_ids = sorted(drawn.tolist())
    texts = dataset.select_columns([columns.text]).with_format(None).select(row_ids)[:][columns.text]
    places: dict[str, int] = {}
    captions_of = []
    for row, given in zip(row_ids, texts, strict=True):
        listed = given if isinstance(given, list) else [given]
        if not listed or not all(isinstance(text, str) and text.strip() for text in listed):
            raise ValueError(
                f"row {row} has no caption, or an empty one, in column {columns.text!r}: {given!r}. Filter it out."
            )
        captions_of.append([places.setdefault(text, len(places)) for text in dict.fromkeys(listed)])
    captions = list(places)
    if len(row_ids) < 2 or len(captions) < 2:
        raise ValueError(
            f"retrieval needs at least two images and two different captions, got {len(row_ids)} and {len(captions)}."
        )
    _warn_of_long_captions(captions, encoder)
    return _Pairs(rows=rows, rows_at=perturb_at, row_ids=row_ids, captions=captions, captions_of=captions_of)


def _warn_of_long_captions(captions: list[str], encoder: DualEncoder) -> None:
    lengths = [len(ids) for ids in encoder.tokenizer(captions, verbose=False)["input_ids"]]  # type: ignore[union-attr]
    too_long = [caption for caption, length in zip(captions, lengths, strict=True) if length > encoder.context_length]
    if too_long:
        warnings.warn(
            f"{len(too_long)} of {len(captions)} captions are longer than the context of {encoder.context_length} "
            f"tokens and are cut off, for example {too_long[0][:80]!r}. Shorten them to silence this.",
            UserWarning,
            stacklevel=4,
        )


def _resolve(
    spec: ThreatModel,
    attacks: Sequence[str],
    candidates: CandidateSource | Mapping[str, CandidateSource] | None,
    encoder: DualEncoder,
    perturb_at: Any,
) -> tuple[ThreatModel, dict[str, CandidateSource]]:
    """The threat model as it is run on pairs, and the sources of substitutes."""
    if given := [name for name in ("template", "attacker_template") if getattr(spec, name) is not None]:
        raise ValueError(f"`threat_model` has a {' and a '.join(given)}, and captions follow none: leave it None.")
    kept: dict[str, Any] = {}
    left_out = []
    for name, known in RUN.items():
        asked = getattr(spec, name)
        kept[name] = tuple(attack for attack in asked if attack in known)
        kind = name.removesuffix("_attacks")
        if kind not in attacks:
            continue
        left_out += [attack for attack in asked if attack not in (*known, "embedding")]
        if not kept[name]:
            raise ValueError(
                f"`attacks` asks for {kind}, and of the threat model's `{name}` {asked} retrieval can run none; "
                f"it can run {', '.join(known)}."
            )
    if left_out:
        warnings.warn(
            f"retrieval does not run {', '.join(left_out)}: its worst case is weaker than this threat model's on "
            "classes. Leave them out of the threat model to silence this.",
            UserWarning,
            stacklevel=3,
        )
    sources = factory.candidate_sources(candidates, spec, encoder) if "text" in attacks else {}
    described = {name: repr(source) for name, source in sources.items()}
    if sources:
        kept["candidates"] = described.get("", described)
    # There is no template to protect and no class name to forbid; every image meets every attack to its end.
    kept |= {"protect_template": False, "forbid_class_names": False, "skip_fallen": False, "perturb_at": perturb_at}
    spec = replace(spec, **kept)
    for what, why in spec.zero_budgets().items():
        if what.split("/")[0] in attacks:
            warnings.warn(f"the {what} attack has no budget ({why}): it equals clean.", UserWarning, stacklevel=3)
    return spec, sources


def _all_ranks(images: Embeds, texts: Embeds, pairs: _Pairs, multimodal: Sequence[str]) -> dict[str, list[int]]:
    """Ranks of every query by "<attack>/<direction>"; if an attack has several pairs of sides, the worst per query."""
    attacked_images = {name: embeds for name, embeds in images.items() if name.startswith("image/")}
    answers = dict(zip(DIRECTIONS, (pairs.captions_of, pairs.images_of), strict=True))
    met = {"clean": [(images["clean"], texts["clean"])]}  # sides: images, texts
    met |= {name: [(embeds, texts["clean"])] for name, embeds in attacked_images.items()}
    for words, embeds in texts.items():
        if words == "clean":
            continue
        met[words] = [(images["clean"], embeds)]
        source = words.removeprefix("text/words")  # "", or a colon and the name of a further source
        for name in multimodal:
            made_for_it = {key: found for key, found in images.items() if key.startswith(f"{words}/")}
            adv_images = attacked_images if name == "independent" else made_for_it
            met[f"multimodal/{name}{source}"] = [(found, embeds) for found in adv_images.values()]
    return {
        f"{attack}/{direction}": [
            max(ranks)
            for ranks in zip(
                *(ranks_of_best(sides[query], sides[1 - query], relevant) for sides in found),
                strict=True,
            )
        ]
        for attack, found in met.items()
        for query, (direction, relevant) in enumerate(answers.items())
    }


def _recalls(ranks: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Every number of a result, from the ranks alone: worst cases with their intervals, then single attacks."""
    attacks = list(dict.fromkeys(name.rpartition("/")[0] for name in ranks))
    numbers: dict[str, Any] = {}
    for name, members in worst_case_attacks(attacks).items():
        for direction in DIRECTIONS:
            worst = [max(column) for column in zip(*(ranks[f"{one}/{direction}"] for one in members), strict=True)]
            for depth in DEPTHS:
                hits, key = sum(rank <= depth for rank in worst), f"{direction}_recall_at_{depth}"
                numbers[f"{name.removesuffix('accuracy')}{key}"] = hits / len(worst)
                numbers[f"{name.removesuffix('accuracy')}{key}_interval"] = wilson_interval(hits, len(worst))
    return numbers | {
        f"attacks/{name}_recall_at_{depth}": sum(rank <= depth for rank in found) / len(found)
        for name, found in ranks.items()
        for depth in DEPTHS
    }
