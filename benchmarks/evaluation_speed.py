"""`evaluate_robustness` against the bare forwards and backwards that it needs, on a ViT-B/32 with 100 classes.

    python benchmarks/evaluation_speed.py

Clean, PGD-20, words and both together. *Own arithmetic* is a plain loop of model calls: every distinct text once,
without padding; one forward of the clean images; 20 forwards and input-gradient backwards; one forward of the
adversarial images. It is asserted to end with the evaluator's outcomes, sample for sample.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import datasets
import measure
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from subject import Subject, subject
from torch import Tensor

from hf_mmcoa import ZeroShotClassifier, evaluate_robustness
from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.evaluation import ThreatModel
from hf_mmcoa.evaluation.batch import seeded_generator
from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder

TARGET = 1.15  # issue 3
TEXTS_PER_FORWARD = 128


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "evaluation_speed", runs=5)
    options.add_argument("--images", type=int, default=8)
    options.add_argument("--steps", type=int, default=20, help="of PGD")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    measured = subject(options.quick)
    # Every attack meets every sample, so that both sides do the same arithmetic.
    threat_model = ThreatModel.preset(
        "quick",
        num_steps=options.steps,
        skip_fallen=False,
        perturb_at="model",
        template=DEFAULT_TEMPLATE,
        text_adversaries=("blind",),  # the exhaustive search has a benchmark of its own: exhaustive_speed
    )
    dataset = pictures(measured, options.images)
    runs, outcomes = compare(measured, dataset, threat_model, options.runs)
    overhead = measure.ratio(runs, "evaluator", "own_arithmetic")
    result = measure.report(
        "evaluation_speed",
        runs,
        quick=options.quick,
        settings={
            "images": options.images,
            "image_size": measured.model.config.vision_config.image_size,
            "classes": len(measured.class_names),
            "threat_model": threat_model.to_dict(),
        },
        overhead=overhead,
        early_stopping={
            "factor": measure.ratio(runs, "evaluator", "early_stopping"),
            "standing_of_all": {name: outcome.count("1") / len(outcome) for name, outcome in outcomes.items()},
        },
        target=TARGET,
        met=None if options.quick else overhead["cpu"]["median"] <= TARGET,
    )
    measure.save(result, options.output)
    print(show(result))
    if result["met"] is False:
        sys.exit(1)


def pictures(measured: Subject, count: int) -> datasets.Dataset:
    """Random pictures of the model's size, labelled as the model classifies them: all of them are attacked."""
    size = measured.model.config.vision_config.image_size
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (7, 7, 3), np.uint8)).resize((size, size)) for _ in range(count)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=measured.class_names)})
    dataset = datasets.Dataset.from_dict({"image": images, "label": [0] * count}, features=features)
    classifier = ZeroShotClassifier(measured.model, measured.processor, measured.class_names, DEFAULT_TEMPLATE)
    with torch.no_grad():
        predictions = classifier(load(dataset, size)).argmax(1).tolist()
    return datasets.Dataset.from_dict({"image": images, "label": predictions}, features=features)


def load(dataset: datasets.Dataset, size: int) -> Tensor:
    """All pictures as the evaluator reads them, (count, 3, size, size)."""
    rows = ImageRows(dataset, "image", "label", None, "model", size)
    return collate(rows.__getitems__(list(range(len(dataset)))))["images"]


def compare(
    measured: Subject, dataset: datasets.Dataset, threat_model: ThreatModel, num_runs: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every run's seconds, and the outcomes with early stopping."""

    def evaluator(skip_fallen: bool) -> dict[str, Any]:
        return evaluate_robustness(
            measured.model,
            measured.processor,
            dataset,
            threat_model=replace(threat_model, skip_fallen=skip_fallen),
            candidates=measured.candidates,
            batch_size=len(dataset),
            sanity=False,
            progress=False,
        )

    own = OwnArithmetic(measured, dataset, threat_model)
    runs = []
    for number in range(num_runs):
        expected, own_seconds = measure.timed(own)
        result, evaluator_seconds = measure.timed(lambda: evaluator(False))
        early, early_seconds = measure.timed(lambda: evaluator(True))
        found = {name: result["outcomes"][name] for name in expected}
        if found != expected:
            raise RuntimeError(f"the two sides differ: {found} and {expected}.")
        runs.append({"own_arithmetic": own_seconds, "evaluator": evaluator_seconds, "early_stopping": early_seconds})
        print(f"run {number + 1} of {num_runs}", file=sys.stderr, flush=True)
    return runs, early["outcomes"]


class OwnArithmetic:
    """What the evaluation cannot do without: model calls, and the few tensor operations of PGD between them.

    Tokens and decoded pictures lie ready, and the texts that the word attack looks at are known.
    """

    def __init__(self, measured: Subject, dataset: datasets.Dataset, threat_model: ThreatModel) -> None:
        self.model = measured.model
        self.encoder = DualEncoder(measured.model, measured.processor)
        self.images = load(dataset, self.encoder.image_size)
        self.labels = torch.tensor(dataset["label"])
        self.epsilon, self.step_size = float(threat_model.epsilon), float(threat_model.step_size or 0)
        self.num_steps = threat_model.num_steps
        # The evaluator's own random start, so that outcomes can be compared.
        self.noise = torch.rand(
            self.images.shape, generator=seeded_generator(self.images.device, 0, 0, "image/pgd-ce", 0)
        )

        classifier = ZeroShotClassifier(measured.model, measured.processor, measured.class_names, DEFAULT_TEMPLATE)
        seen = dict.fromkeys(classifier.prompts)

        def encode(texts: list[str]) -> Tensor:
            seen.update(dict.fromkeys(texts))
            return self.encoder.encode_texts(texts)

        attack = BertAttack(
            candidates=measured.candidates,
            num_candidates=threat_model.num_candidates,
            template=DEFAULT_TEMPLATE,
            class_names=measured.class_names,
        )
        adv_prompts = attack(classifier.prompts, encode)
        texts = list(seen)
        place = {text: row for row, text in enumerate(texts)}
        self.prompt_rows = [place[prompt] for prompt in classifier.prompts]
        self.adv_prompt_rows = [place[prompt] for prompt in adv_prompts]
        tokens = self.encoder.tokenize(texts)
        lengths = tokens["attention_mask"].sum(1)
        self.texts = [
            (rows, tokens["input_ids"][rows, : int(length)])
            for length in lengths.unique()
            for rows in (lengths == length).nonzero().squeeze(1).split(TEXTS_PER_FORWARD)
        ]

    def __call__(self) -> dict[str, str]:
        """Outcomes under the evaluator's names."""
        trainable = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in trainable:
            weight.requires_grad_(False)
        try:
            return self.run()
        finally:
            for weight in trainable:
                weight.requires_grad_(True)

    def run(self) -> dict[str, str]:
        images, labels, scale = self.images, self.labels, self.encoder.logit_scale
        with torch.no_grad():
            rows = torch.cat([rows for rows, _ in self.texts])
            embeds = torch.cat([encoding.text_embeds(self.model, input_ids) for _, input_ids in self.texts])
            embeds = embeds[rows.argsort()]
            prompts, adv_prompts = embeds[self.prompt_rows], embeds[self.adv_prompt_rows]
            clean_embeds = self.encode(images)
        delta = ((2 * self.noise - 1) * self.epsilon + images).clamp(0, 1) - images
        for _ in range(self.num_steps):
            adv_images = (images + delta).requires_grad_()
            logits = scale * self.encode(adv_images) @ prompts.T
            (grad,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), adv_images)
            delta = (delta + self.step_size * grad.sign()).clamp(-self.epsilon, self.epsilon)
            delta = (images + delta).clamp(0, 1) - images
        with torch.no_grad():
            adv_embeds = self.encode((images + delta).clamp(0, 1))
            clean, image = self.correct(clean_embeds, prompts), self.correct(adv_embeds, prompts)
            text, both = self.correct(clean_embeds, adv_prompts), self.correct(adv_embeds, adv_prompts)
        outcomes = {"clean": clean, "image/pgd-ce": clean & image, "text/words/blind": clean & text}
        outcomes["multimodal/independent/blind"] = clean & both
        return {name: "".join("01"[stands] for stands in rows.tolist()) for name, rows in outcomes.items()}

    def encode(self, images: Tensor) -> Tensor:
        return encoding.image_embeds(self.model, self.encoder.pixel_values(images))

    def correct(self, embeds: Tensor, prompts: Tensor) -> Tensor:
        return (embeds @ prompts.T).argmax(1) == self.labels


def show(result: dict[str, Any]) -> str:
    """The table for people."""
    overhead, factor = result["overhead"], result["early_stopping"]["factor"]
    rows = []
    for number, run in enumerate(result["runs"]):
        seconds = [run[side]["wall"] for side in ("own_arithmetic", "evaluator", "early_stopping")]
        ratios = [ratio[clock]["runs"][number] for ratio in (overhead, factor) for clock in ("wall", "cpu")]
        rows.append([f"run {number + 1}", *seconds, *ratios])
    for statistic in ("median", "low", "high"):
        ratios = [ratio[clock][statistic] for ratio in (overhead, factor) for clock in ("wall", "cpu")]
        rows.append([statistic, "", "", "", *ratios])
    header = [
        "",
        "own arithmetic s",
        "evaluator s",
        "early stop s",
        "overhead",
        "by CPU s",
        "early-stop factor",
        "by CPU s",
    ]
    return f"{measure.table(header, rows)}\n{measure.verdict(result, 'overhead by CPU seconds at most')}"


if __name__ == "__main__":
    main()
