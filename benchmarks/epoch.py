"""Where the time of an epoch goes, from the pictures on disk to the optimizer, with substitutes from a masked LM.

    python benchmarks/epoch.py --images 32

The real loop of `MMCoATrainer`, with one PNG a row, PGD-10, the word attack and AdamW. The masked language model has
BERT-base's shape and random weights: it costs what BERT costs, and its substitutes mean nothing. Every part ends with a
synchronisation of the device, so that its time is its own; an epoch without the clocks is at most a little faster.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import measure
import numpy as np
import torch
from PIL import Image
from subject import Subject, subject
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, TrainerCallback

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE
from hf_mmcoa.substitutes.masked_lm import MaskedLMCandidates
from hf_mmcoa.substitutes.words import words_of

PARTS = ("data", "class prompts", "image attack", "text attack", "masked LM", "loss", "optimizer", "other")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Clock = Callable[[], float]


class Parts:
    """Seconds of nested parts on several clocks; those of an inner part are not those of the outer one.

    Args:
        device: waited for at each end of a part.
        clocks: by name.
    """

    def __init__(self, device: torch.device, clocks: dict[str, Clock]) -> None:
        self.device, self.clocks = device, clocks
        self.seconds: dict[str, Counter[str]] = {name: Counter() for name in clocks}
        self._open: list[str] = []
        self._last = self._now()

    def _now(self) -> dict[str, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return {name: clock() for name, clock in self.clocks.items()}

    def _charge(self) -> None:
        """Give the time since the last change to the innermost part that is open."""
        now = self._now()
        for name, seconds in self.seconds.items():
            seconds[self._open[-1] if self._open else "other"] += now[name] - self._last[name]
        self._last = now

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, with its time counted for a part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.end()

        return timed

    def begin(self, part: str) -> None:
        """Count for a part from here on."""
        self._charge()
        self._open.append(part)

    def end(self) -> None:
        """Count for the part that was counted for before."""
        self._charge()
        self._open.pop()

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count a method of an object for a part."""
        setattr(owner, method, self.timed(part, getattr(owner, method)))

    def start(self) -> None:
        """Forget what was counted."""
        for seconds in self.seconds.values():
            seconds.clear()
        self._last = self._now()


@dataclass(frozen=True)
class TimedCandidates:
    """A source of substitutes whose time is counted apart."""

    source: MaskedLMCandidates
    parts: Parts

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Any:
        """See `CandidateSource`."""
        return self.parts.timed("masked LM", self.source)(texts, words, num_candidates)


class Watch(TrainerCallback):
    """Start the clocks with the first step, and count the optimizer's."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.parts.start()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.parts.begin("optimizer")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.parts.end()


def masked_lm(measured: Subject, quick: bool, device: torch.device) -> MaskedLMCandidates:
    """A BERT of base shape (`quick`: tiny) with random weights, that knows the words of prompts and substitutes."""
    words = {word for name in (*measured.class_names, DEFAULT_TEMPLATE) for word in words_of(name.casefold())}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words | set(measured.candidates.words))]
    tokens += [token for token in (*LETTERS, *(f"##{letter}" for letter in LETTERS)) if token not in words]
    tokens = tokens[: BertConfig().vocab_size]
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokens), **small) if quick else BertConfig()
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = BertForMaskedLM(config).eval()
    if len(tokens) < config.vocab_size:  # fewer words than BERT's: the rest of its rows stand for none
        model.cls.predictions.bias.data[len(tokens) :] = float("-inf")
    return MaskedLMCandidates(model, BertTokenizer(vocab={token: row for row, token in enumerate(tokens)}))


def pictures(measured: Subject, count: int) -> datasets.Dataset:
    """Random PNGs of the model's size, with labels in turn."""
    size, draw = measured.model.config.vision_config.image_size, np.random.default_rng(0)
    coarse = draw.integers(0, 256, (count, 7, 7, 3), np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=measured.class_names)})
    columns = {
        "image": [Image.fromarray(picture).resize((size, size)) for picture in coarse],
        "label": [row % len(measured.class_names) for row in range(count)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def epoch(
    measured: Subject, images: int, batch_size: int, quick: bool, device: str, clocks: dict[str, Clock], **settings: Any
) -> dict[str, dict[str, float]]:
    """Train one epoch and return the seconds of each part, by clock."""
    parts = Parts(torch.device(device), clocks)
    with tempfile.TemporaryDirectory() as folder:
        args = MMCoAConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            text_attack="words",
            perturb_at="model",
            learning_rate=1e-6,
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device == "cpu",
            **settings,
        )
        attack = BertAttack(
            candidates=TimedCandidates(masked_lm(measured, quick, torch.device(device)), parts),
            template=args.template,
            class_names=measured.class_names,
        )
        trainer = MMCoATrainer(
            measured.model,
            args,
            train_dataset=pictures(measured, images),
            processing_class=measured.processor,
            text_attack=attack,
            callbacks=[Watch(parts)],
        )
        parts.watch(trainer, "get_batch_samples", "data")
        parts.watch(trainer, "_read", "class prompts")
        parts.watch(trainer.attacker, "attack_images", "image attack")
        parts.watch(trainer.attacker, "attack_drawn_texts", "text attack")
        parts.watch(trainer, "compute_loss", "loss")  # less the parts above
        parts.watch(trainer.accelerator, "backward", "loss")
        parts.watch(trainer.accelerator, "clip_grad_norm_", "optimizer")
        trainer.train()
        parts.timed("other", lambda: None)()
    return {clock: {part: float(seconds[part]) for part in PARTS} for clock, seconds in parts.seconds.items()}


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "epoch", runs=1)
    options.add_argument("--images", type=int, default=32, help="of the epoch")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--classes", type=int, default=100)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    measured = subject(options.quick, options.classes)
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    runs = []
    for number in range(options.runs):
        runs.append(epoch(measured, options.images, options.batch_size, options.quick, "cpu", clocks))
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
    result = measure.report(
        "epoch",
        runs,
        quick=options.quick,
        settings={"images": options.images, "batch_size": options.batch_size, "classes": options.classes},
        shares={
            clock: {part: statistics.median(share(run[clock], part) for run in runs) for part in PARTS}
            for clock in clocks
        },
        target=None,
        met=None,
    )
    measure.save(result, options.output)
    print(show(result))


def share(seconds: dict[str, float], part: str) -> float:
    return seconds[part] / sum(seconds.values())


def show(result: dict[str, Any]) -> str:
    """The table for people."""
    run = result["runs"][0]
    rows = [
        [
            part,
            run["cpu"][part],
            run["wall"][part],
            *(f"{result['shares'][clock][part]:.1%}" for clock in ("cpu", "wall")),
        ]
        for part in PARTS
    ]
    rows.append(["all", sum(run["cpu"].values()), sum(run["wall"].values()), "", ""])
    header = ["part", "CPU s, run 1", "wall s, run 1", "share of CPU s", "of wall s"]
    return measure.table(header, rows)


if __name__ == "__main__":
    main()
