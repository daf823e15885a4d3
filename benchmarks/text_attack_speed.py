"""`BertAttack` against one text at a time, padded to 77 tokens, on the text tower of a ViT-B/32: same texts, faster.

    python benchmarks/text_attack_speed.py

A training batch of 256 prompts of 100 classes. The other side is our own plain restatement of how the method is
published (METHODS, section 4): every one of the 256 texts on its own, whether it was attacked before or not; the
importance variants of all its words, then its candidates; everything padded to the context of 77.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from typing import Any

import measure
import torch
import torch.nn.functional as F
from subject import FixedCandidates, Subject, subject
from torch import Tensor

from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.attacks.bert_attack import UNKNOWN_WORD
from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE, class_prompts
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.substitutes.words import STOP_WORDS

NUM_CANDIDATES = 10
TARGET = 40  # issue 7
ROUNDING = 1e-6  # of the divergence in float32: a sum of 512 terms p (log p - log q), each with logs near ln 512


class OneAtATime:
    """BERT-Attack as it is published, for texts whose words are parted by single blanks.

    All clean texts are encoded together. Then for each text: one forward of a variant per word, template and stop words
    included, since those are passed over only afterwards; one forward of the text itself and its candidates. Padded
    to the context everywhere.

    Args:
        encoder: the model.
        candidates: substitutes.
        unchangeable: words that are passed over, in lower case.
        forwards: "text": a text's variants are one batch, its candidates another. "variant": each of them alone.
    """

    def __init__(
        self, encoder: DualEncoder, candidates: FixedCandidates, unchangeable: set[str], forwards: str
    ) -> None:
        self.encoder, self.candidates, self.unchangeable = encoder, candidates, unchangeable
        self.batch_size = {"text": 32, "variant": 1}[forwards]
        self.encoded = 0

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> list[str]:
        """Texts to attacked texts."""
        clean = self.encode(texts, batch_size=256)
        return [self.attack(text, row)[0] for text, row in zip(texts, clean, strict=True)]

    def attack(self, text: str, clean: Tensor, slack: float = 0.0) -> list[str]:
        """The attacked text; then, with slack, the others that rounding of the divergences might have put first."""
        words = text.split(" ")
        variants = [" ".join([*words[:place], UNKNOWN_WORD, *words[place + 1 :]]) for place in range(len(words))]
        importance = self.divergence(clean, variants)
        places = [
            place
            for place in importance.argsort(descending=True, stable=True).tolist()
            if words[place].casefold() not in self.unchangeable
        ]
        reached: list[str] = []
        for place in places:
            if reached and importance[place] <= importance[places[0]] - slack:
                break
            found = [words[place], *self.candidates.of(words[place], NUM_CANDIDATES)]
            trials = [" ".join([*words[:place], word, *words[place + 1 :]]) for word in found]
            divergence = self.divergence(clean, trials)
            order = divergence.argsort(descending=True, stable=True).tolist()
            reached += [trials[index] for index in order if divergence[index] >= divergence[order[0]] - slack]
        return reached or [text]

    def divergence(self, clean: Tensor, texts: list[str]) -> Tensor:
        # In float64, which costs nothing here: of two nearly equal candidates this side has the right one.
        p, q = clean.double().log_softmax(-1), self.encode(texts, self.batch_size).double().log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)

    def encode(self, texts: list[str], batch_size: int) -> Tensor:
        self.encoded += len(texts)
        parts = []
        for start in range(0, len(texts), batch_size):
            tokens = self.encoder.tokenizer(
                texts[start : start + batch_size],
                padding="max_length",
                max_length=self.encoder.context_length,
                return_tensors="pt",
            )
            parts.append(F.normalize(self.encoder.model.get_text_features(input_ids=tokens["input_ids"]).pooler_output))  # type: ignore[operator]
        return torch.cat(parts)


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "text_attack_speed", runs=5)
    options.add_argument("--prompts", type=int, default=256, help="texts in the batch")
    options.add_argument(
        "--sample", type=int, default=16, help="of them for the slow side, others in every run, scaled"
    )
    options.add_argument("--single", type=int, default=2, help="of these, with one forward per variant and candidate")
    options.add_argument("--attack-template", action="store_true", help="as the release: template words may change")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    measured = subject(options.quick)
    runs, counts = compare(measured, options)
    speedup = {side: measure.ratio(runs, side, "ours") for side in ("per_text", "per_variant")}
    result = measure.report(
        "text_attack_speed",
        runs,
        quick=options.quick,
        settings={
            "prompts": options.prompts,
            "classes": len(measured.class_names),
            "sample": options.sample,
            "single": options.single,
            "num_candidates": NUM_CANDIDATES,
            "protect_template": not options.attack_template,
            "context": measured.model.config.text_config.max_position_embeddings,
        },
        counts=counts,
        speedup=speedup,
        target=TARGET,
        met=None if options.quick else speedup["per_text"]["cpu"]["median"] >= TARGET,
    )
    measure.save(result, options.output)
    print(show(result))
    if result["met"] is False:
        sys.exit(1)


def compare(measured: Subject, options: Any) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Every run's seconds for the whole batch, and how many texts each side encodes for it."""
    encoder = DualEncoder(measured.model, measured.processor)
    prompts = class_prompts(measured.class_names)
    draw = random.Random(0)
    batch = prompts + draw.choices(prompts, k=options.prompts - len(prompts))
    draw.shuffle(batch)
    ours = BertAttack(
        candidates=measured.candidates,
        num_candidates=NUM_CANDIDATES,
        template=DEFAULT_TEMPLATE,
        class_names=measured.class_names,
        protect_template=not options.attack_template,
    )
    unchangeable = set(STOP_WORDS - set(measured.class_names))  # "can" is a class
    if not options.attack_template:
        unchangeable |= set(DEFAULT_TEMPLATE.casefold().split())
    per_text = OneAtATime(encoder, measured.candidates, unchangeable, "text")
    per_variant = OneAtATime(encoder, measured.candidates, unchangeable, "variant")
    encoded = 0

    def encode(texts: list[str]) -> Tensor:
        nonlocal encoded
        encoded += len(texts)
        return encoder.encode_texts(texts)

    ours(batch[:2], encode), per_text(batch[:1])  # first calls are slower
    encoded = per_text.encoded = 0
    runs = []
    for number in range(options.runs):
        sample = random.Random(number).sample(range(len(batch)), min(options.sample, len(batch)))
        single = sample[: options.single]
        texts, ours_seconds = measure.timed(partial(ours, batch, encode))
        slow_texts, slow_seconds = measure.timed(partial(per_text, [batch[row] for row in sample]))
        single_texts, single_seconds = measure.timed(partial(per_variant, [batch[row] for row in single]))
        ties = check_same(
            per_text,
            [batch[row] for row in sample + single],
            [texts[row] for row in sample + single],
            slow_texts + single_texts,
        )
        if texts == batch:
            raise RuntimeError("nothing was attacked.")
        runs.append(
            {
                "ours": ours_seconds,
                "per_text": {clock: value * len(batch) / len(sample) for clock, value in slow_seconds.items()},
                "per_variant": {clock: value * len(batch) / len(single) for clock, value in single_seconds.items()},
                "compared_texts": len(sample) + len(single),
                "ties": ties,
            }
        )
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
    scale = len(batch) / len(sample)
    return runs, {
        "distinct_texts": len(set(batch)),
        "ours_encodes": encoded / options.runs,
        "per_text_encodes": scale * per_text.encoded / options.runs,
    }


def check_same(slow: OneAtATime, texts: list[str], ours: list[str], theirs: list[str]) -> list[list[str]]:
    """The texts with two different outcomes that are equally good up to rounding: (text, ours, theirs).

    Raises:
        RuntimeError: for any other difference.
    """
    ties = [[text, *pair] for text, *pair in zip(texts, ours, theirs, strict=True) if pair[0] != pair[1]]
    encoded = slow.encoded
    for text, one, other in ties:
        with torch.no_grad():
            if one not in slow.attack(text, slow.encode([text], 1)[0], ROUNDING):
                raise RuntimeError(f"of {text!r} ours makes {one!r}, the other side {other!r}.")
    slow.encoded = encoded
    return ties


def show(result: dict[str, Any]) -> str:
    """The table for people."""
    rows = []
    for number, run in enumerate(result["runs"]):
        seconds = [run[side]["wall"] for side in ("ours", "per_text", "per_variant")]
        ratios = [result["speedup"]["per_text"][clock]["runs"][number] for clock in ("wall", "cpu")]
        rows.append([f"run {number + 1}", *seconds, *ratios, result["speedup"]["per_variant"]["cpu"]["runs"][number]])
    medians = [result["speedup"]["per_text"][clock]["median"] for clock in ("wall", "cpu")]
    rows.append(["median", "", "", "", *medians, result["speedup"]["per_variant"]["cpu"]["median"]])
    header = ["", "ours s", "one text s", "one forward s", "speed-up", "by CPU s", "one forward, by CPU s"]
    compared = sum(run["compared_texts"] for run in result["runs"])
    ties = sum(len(run["ties"]) for run in result["runs"])
    same = f"texts: {compared - ties} of {compared} the same, {ties} equally good up to rounding"
    return f"{measure.table(header, rows)}\n{same}\n{measure.verdict(result, 'speed-up by CPU seconds at least')}"


if __name__ == "__main__":
    main()
