"""All attacks of a threat model on one batch of labelled images: the unit of work of a zero-shot evaluation.

Random numbers depend on the seed, the batch and the attack alone, so it does not matter which process computes a batch,
when, and after how many interruptions.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ..attacks import factory
from ..attacks.class_prompts import ClassPrompts, FixedPrompts, WorstPrompts, correct
from ..attacks.engine import ImageAttacker, Measured, attack_images, seeded_generator
from ..attacks.settings import MULTIMODAL_ADVERSARIES, TEXT_ADVERSARIES
from .attack_names import BEYOND, AttackName, source_suffix, worst_case_attacks
from .controls import judge
from .export import Export
from .misled import Misled, Texts, rivals
from .nonsense import beaten
from .prepare import Evaluation

EMBEDDING_RADII = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of rho at which the image-aware embedding attack is run, each from the solution of the one before."""


def evaluate_batch(
    evaluation: Evaluation, index: int, batch: dict[str, Any], export: Export | None = None
) -> dict[str, Any]:
    """Return the outcomes of all attacks on one batch of `Evaluation.load`, as JSON values.

    Args:
        evaluation: what is evaluated.
        index: number of the batch.
        batch: the batch.
        export: writes the attacked images, and has what else it needs put into the record.
    """
    device = evaluation.prompt_embeds.device
    run = _Batch(evaluation, index, batch["images"].to(device), batch["labels"].to(device), export is not None)
    if not run.logits.isfinite().all():
        row = int((~run.logits.isfinite().all(1)).int().argmax())
        raise ValueError(
            f"the model gives non-finite logits for the clean image of row {batch['row_ids'][row]}: "
            "it is broken or overflows."
        )
    if "image" in evaluation.attacks:
        run.attack_images()
    if "text" in evaluation.attacks:
        run.attack_texts()
    if "multimodal" in evaluation.attacks:
        for source in evaluation.sources or ("",):
            # The strongest first: what resists it is not attacked by the others again.
            for adversary in sorted(evaluation.spec.text_adversaries, key=TEXT_ADVERSARIES.index, reverse=True):
                run.attack_both(adversary, source)
    run.attack_beyond()
    row_ids = batch["row_ids"].tolist()
    exported = {} if export is None else {"export": export.write_batch(evaluation, index, row_ids, run.misled)}
    return {
        "row_ids": row_ids,
        "labels": batch["labels"].tolist(),
        "predictions": run.logits.argmax(1).tolist(),
        "outcomes": {name: "".join("01"[robust] for robust in rows.tolist()) for name, rows in run.outcomes.items()},
        "witnesses": run.witnesses,
        "controls": run.controls,
        "nonsense": run.nonsense,
        "average_case": run.average_case,
        "written": run.written,
        "embedding_lengths": run.embedding_lengths,
        "curve": run.curve,
        "severities": run.severities,
        "queries": dict(run.queries),
        "largest_perturbation": run.measured.largest,
        "pixel_range": run.measured.pixel_range,
        "rivals": run.misled.rivals,
        "sureness": run.misled.sureness(evaluation.prompt_embeds, evaluation.encoder.logit_scale),
        **exported,
    }


class _Batch:
    """The attacks on one batch: which samples are robust to each, and what the image attacks found."""

    def __init__(self, evaluation: Evaluation, index: int, images: Tensor, labels: Tensor, keep: bool = False) -> None:
        self.evaluation, self.index, self.images, self.labels = evaluation, index, images, labels
        self.spec, self.texts = evaluation.spec, evaluation.texts
        with torch.no_grad():
            self.embeds = evaluation.encoder.encode_images(images)  # (batch, dim)
            self.logits = evaluation.clean_prompts.logits(self.embeds, labels)
        self.outcomes = {"clean": correct(self.logits, labels)}
        """Robust samples by attack, (batch,)."""
        self.found: list[Tensor] = []
        """Embeddings of adversarial images, (batch, dim) each; zeros where a sample was not attacked."""
        self.found_images: list[Tensor] = []
        """Those images, (batch, 3, h, w) each, where an export wants them."""
        self.witnesses: dict[str, list[list[str] | None]] = {}
        """For attacks that choose texts by the image: the texts that misled it, None for the other samples."""
        self.curve: list[int] = []
        """Robust samples at each of `EMBEDDING_RADII`."""
        self.severities: dict[str, int] = {}
        """Samples that are correct under each degree of an attack that no ball bounds, "corruptions/jpeg/3"."""
        self.embedding_lengths: list[float] = []
        """How far a token was moved at most at each of them, in mean row norms of the token table."""
        self.nonsense: tuple[int, int] | None = None
        """Pairs with a nonsense word and images that such a word beats, see `nonsense.beaten`."""
        self.average_case: dict[str, float] = {}
        """By attack that lists its texts: samples that are correct under one of their class's, drawn at random."""
        self.controls: dict[str, dict[str, Any]] = {}
        """Robust samples under random texts, by attack, see `controls.judge`."""
        self.written: dict[str, list[str]] = {}
        """By multimodal attack that writes texts: the prompt that it changed most, and what it became."""
        self.queries: Counter[str] = Counter()
        self.measured = Measured(self.spec.norm)
        self.misled = Misled(images, self.embeds, labels, keep)
        """What the samples are taken for under each attack."""
        self.misled.add("clean", self.every, self.logits, self.clean)

    @property
    def every(self) -> Tensor:
        """Return the places of all samples, (batch,)."""
        return torch.arange(len(self.labels), device=self.labels.device)

    @property
    def clean(self) -> Tensor:
        """Return which samples are classified correctly without an attack, (batch,)."""
        return self.outcomes["clean"]

    def attack_images(self) -> None:
        """Run the image attacks against the clean prompts."""
        robust = self.clean
        for name, attack in self.evaluation.image_attacks.items():
            key = f"image/{name}"
            prompts = self.evaluation.attacker_prompts, self.evaluation.clean_prompts
            self.outcomes[key], found = self._image_attack(attack, key, key, robust, *prompts)
            self.found += found
            robust = self.outcomes[key] if self.spec.skip_fallen else self.clean

    def attack_texts(self) -> None:
        """Classify the clean images with the attacked texts."""
        for name, embeds in self.texts.embeds.items():
            prompts = FixedPrompts(embeds, self.evaluation.scale)
            self.outcomes[name] = self.clean & prompts.correct(self.embeds, self.labels)
            self._add_texts(name, name, self.clean, prompts, self.embeds, self.outcomes[name])
        by_image = [adversary for adversary in self.spec.text_adversaries if adversary in ("own", "all")]
        for name, pools in self.texts.pools_by_attack().items():
            if self.texts.found.searches[name] == "exhaustive":  # a beam keeps the worst texts alone
                self.average_case[name] = pools.average_correct(self.embeds, self.labels).sum().item()
            for adversary in by_image:
                key = str(AttackName.parse(name)._replace(adversary=adversary))
                others = adversary == "all"
                self.outcomes[key] = self.clean & pools.correct(self.embeds, self.labels, others)
                worst = WorstPrompts(pools, others, self.evaluation.scale)
                self._add_texts(key, key, self.clean, worst, self.embeds, self.outcomes[key])
                self._keep_witnesses(key, pools.witnesses(self.embeds, self.labels, others))
        if by_image and "embedding" in self.spec.text_attacks:
            self._attack_embeddings()
        clean = self.evaluation.clean_prompts
        if self.texts.nonsense is not None:
            self.nonsense = beaten(self.embeds, self.evaluation.prompt_embeds, self.texts.nonsense)
        for name, drawn in self.texts.controls.items():
            self.controls[name] = judge(drawn, clean, self.embeds[self.clean], self.labels[self.clean])

    def _keep_witnesses(self, key: str, texts: list[tuple[str, str]]) -> None:
        misled = (self.clean & ~self.outcomes[key]).tolist()
        self.witnesses[key] = [list(pair) if fallen else None for pair, fallen in zip(texts, misled, strict=True)]

    def _add_texts(
        self, key: str, text: str, attacked: Tensor, prompts: ClassPrompts, embeds: Tensor, stands: Tensor
    ) -> None:
        """Note what prompts of the text attack `text` make of samples that stood; `attacked` and `stands`: (batch,)."""
        rows = (attacked & ~stands).nonzero().squeeze(1)
        logits = prompts.logits(embeds[rows], self.labels[rows])
        self.misled.add(key, rows, logits, stands[rows], texts=self._texts(text, rows, prompts, embeds[rows], logits))

    def _texts(self, text: str, rows: Tensor, prompts: ClassPrompts, embeds: Tensor, logits: Tensor) -> Texts | None:
        """Return what returns the texts of prompts that the text attack `text` wrote, for samples at `rows`."""
        if text not in self.texts.found.lists and not isinstance(prompts, WorstPrompts):
            return None  # token embeddings

        def found(places: Tensor) -> list[tuple[str, str]]:
            labels = self.labels[rows[places]]
            if isinstance(prompts, WorstPrompts):
                return prompts.pools.witnesses(embeds[places], labels, prompts.others)
            written = self.texts.found.lists[text]
            winners = rivals(logits[places], labels)
            return [(written[own], written[rival]) for own, rival in zip(labels.tolist(), winners, strict=True)]

        return found

    def _attack_embeddings(self) -> None:
        """Move the token embeddings of the own prompt, for each image apart."""
        key, rows = "text/embedding/own", self.clean.nonzero().squeeze(1)
        robust = self.clean.clone()
        self.curve = [len(rows)] * len(EMBEDDING_RADII)
        self.embedding_lengths = [0.0] * len(EMBEDDING_RADII)
        if len(rows) and self.spec.rho > 0 and self.spec.num_text_steps > 0:
            curve = factory.image_text_attack(self.spec).radius_curve(
                self.evaluation.encoder,
                self.evaluation.prompts,
                self.embeds[rows],
                self.labels[rows],
                [multiple * self.spec.rho for multiple in EMBEDDING_RADII],
                self._generator(key),
                restarts_at=[self.spec.rho],
            )
            self.curve = curve.robust.sum(1).tolist()
            self.embedding_lengths = curve.lengths.amax(1).tolist()
            robust[rows] = curve.robust[EMBEDDING_RADII.index(1.0)]
        self.outcomes[key] = robust

    def attack_both(self, adversary: str, source: str) -> None:
        """Run the multimodal attacks of one adversary of the texts, with one source of substitutes."""
        prompts = self.texts.prompts(adversary, source)
        for name in self.spec.multimodal_attacks:
            own = MULTIMODAL_ADVERSARIES.get(name, adversary)
            if adversary != (own if own in self.spec.text_adversaries else "all"):
                continue
            key = str(AttackName("multimodal", name, own, source_suffix(source, self.evaluation.sources)))
            robust = self._robust_so_far(key) if self.spec.skip_fallen else self.clean
            if name == "independent":
                self.outcomes[key] = self._independent(key, robust, prompts)
            elif name == "adaptive":
                self.outcomes[key] = self._adaptive(key, robust, prompts)
            else:
                self.outcomes[key] = self._searching(name, key, robust, source)

    def _robust_so_far(self, key: str) -> Tensor:
        """Return which samples no attack has misled that the adversary of `key` could have run itself, (batch,)."""
        parts = AttackName.parse(key)
        middle = "".join(f"_{part}" for part in (parts.adversary, parts.source) if part)
        attacks = worst_case_attacks([*self.outcomes, key])[f"multimodal{middle}_accuracy"]
        return torch.stack([self.outcomes[name] for name in attacks if name != key]).all(0)

    def _independent(self, key: str, robust: Tensor, prompts: dict[str, ClassPrompts]) -> Tensor:
        """Classify every adversarial image that was found with every attacked prompt that was found."""
        for text, each in prompts.items():
            for place, embeds in enumerate(self.found):
                stands = robust & each.correct(embeds, self.labels)
                rows = (robust & ~stands).nonzero().squeeze(1)
                if len(rows):
                    logits = each.logits(embeds[rows], self.labels[rows])
                    self.misled.add(
                        key,
                        rows,
                        logits,
                        stands[rows],
                        images=self.found_images[place][rows] if self.misled.keep else None,
                        texts=self._texts(text, rows, each, embeds[rows], logits),
                    )
                robust = stands
        return robust

    def _adaptive(self, key: str, robust: Tensor, prompts: dict[str, ClassPrompts]) -> Tensor:
        """Attack images against the attacked prompts: the attacker knows what will be read.

        With `skip_fallen`, a sample that resisted the adversary "all" is not attacked by one with fewer choices.
        """
        left = robust
        ceiling = self.outcomes.get(str(AttackName.parse(key)._replace(adversary="all")))
        spared = robust & ceiling if ceiling is not None and self.spec.skip_fallen else torch.zeros_like(robust)
        for text, each in prompts.items():
            for name, attack in self.evaluation.image_attacks.items():
                attacked = (left if self.spec.skip_fallen else robust) & ~spared
                result, _ = self._image_attack(attack, f"{key}/{text}/{name}", key, attacked, each, each, text)
                left = left & (result | spared)
        return left

    def attack_beyond(self) -> None:
        """Show what no ball bounds to every correctly classified sample, whatever the other attacks misled."""
        prompts = self.evaluation.clean_prompts
        for name, attack in self.evaluation.beyond.items():
            generator = self._generator(BEYOND, name)
            for changed in attack(self.images, self.labels, self.logits, self.evaluation.class_names, generator):
                key = "/".join(part for part in (BEYOND, name, changed.kind) if part)
                with torch.no_grad():
                    stands = self.clean & prompts.correct(
                        self.evaluation.encoder.encode_images(changed.images), self.labels
                    )
                self.outcomes[key] = self.outcomes.get(key, self.clean) & stands
                self.queries[key] += len(self.images)
                if changed.severity:
                    self.severities[f"{key}/{changed.severity}"] = int(stands.sum())

    def _searching(self, name: str, key: str, robust: Tensor, source: str) -> Tensor:
        """Run an attack that chooses the texts by the image; each sample is judged with the prompts found for it."""
        rows = robust.nonzero().squeeze(1)
        if len(rows) == 0:
            return robust
        encoder, left = self.texts.remembering_encoder, robust.clone()
        pairs = self.texts.multimodal_attack(name, source)(
            self.images[rows], self.labels[rows], self.evaluation.prompts, encoder, self._generator(key)
        )
        self.measured.add(pairs.images, self.images[rows])
        words = str(AttackName("text", "words", "", source_suffix(source, self.evaluation.sources)))
        texts = {each for row in pairs.prompts for each in zip(self.evaluation.prompts, row, strict=True)}
        self.written[key] = list(self.texts.changes.worst(words, texts))
        logits = pairs.logits(encoder)
        left[rows] = correct(logits, self.labels[rows])

        def texts_of(places: Tensor) -> list[tuple[str, str]]:
            labels = self.labels[rows[places]]
            found = zip(places.tolist(), labels.tolist(), rivals(logits[places], labels), strict=True)
            return [(pairs.prompts[place][own], pairs.prompts[place][rival]) for place, own, rival in found]

        self.misled.add(key, rows, logits, left[rows], images=pairs.images, texts=texts_of)
        return left

    def _image_attack(
        self,
        attack: ImageAttacker,
        seed: str,
        key: str,
        robust: Tensor,
        attacked: ClassPrompts,
        judged: ClassPrompts,
        text: str = "",
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one attack with its restarts: which samples are robust, and what embeddings each restart found.

        `text` is the text attack that wrote the prompts, if they are attacked.
        """
        left, found = robust.clone(), []
        self.queries[key] += 0  # an attack that meets no sample is listed too

        def encode(images: Tensor) -> Tensor:
            self.queries[key] += len(images)
            return self.evaluation.encoder.encode_images(images)

        for restart in range(attack.restarts):
            rows = (left if self.spec.skip_fallen else robust).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            result = attack_images(
                attack,
                self.images[rows],
                self.labels[rows],
                encode=encode,
                attacked=attacked,
                judged=judged,
                generator=self._generator(seed, restart),
                skip_fallen=self.spec.skip_fallen,
            )
            self.measured.add(result.images, self.images[rows])
            left[rows] &= result.stands
            embeds = result.embeds.new_zeros(len(left), result.embeds.shape[1])
            embeds[rows] = result.embeds
            found.append(embeds)
            labels = self.labels[rows]
            logits = judged.logits(result.embeds, labels)
            texts = self._texts(text, rows, judged, result.embeds, logits) if text else None
            self.misled.add(key, rows, logits, result.stands, embeds=result.embeds, images=result.images, texts=texts)
            if self.misled.keep and not text:
                images = self.images.clone()
                images[rows] = result.images
                self.found_images.append(images)
        return left, found

    def _generator(self, *key: object) -> torch.Generator:
        return seeded_generator(self.images.device, self.spec.seed, self.index, *key)
