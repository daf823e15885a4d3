"""Measure what a correction of prompts gives without any training, beside MMCoA, on what the main command has written.

    python examples/train_mmcoa.py
    python examples/correct_prompts.py output/digits           # one folder a seed; about a minute each, no network

A text encoder that was trained to be robust should beat two things that need no training: reading a prompt as the class
prompt that lies nearest (the centroid of the class word and its known substitutes, which are themselves looked up), and
a spelling corrector. Printed are accuracies on the test digits under attacks on the prompts alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hf_mmcoa import evaluate_robustness, load_benchmark
from hf_mmcoa.data import class_prompts
from hf_mmcoa.data.digits import CLASS_NAMES
from hf_mmcoa.defences import CorrectingProcessor, NearestCentroid, SpellCorrection
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.models.encoder import DualEncoder, load_clip
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.substitutes.held_out import known_and_unseen

COLUMNS = {
    "clean": "clean_accuracy",
    "words (known), all": "attacks/text/words/all",
    "words (unseen), own": "attacks/text/words/own:unseen",
    "words (unseen), all": "attacks/text/words/all:unseen",
    "characters, own": "attacks/text/characters/own",
    "characters, all": "attacks/text/characters/all",
}


def rows(folder: Path, known: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the models of one run, with and without corrections: a name, a model and a processor."""
    template = "This is a photo of a {}"
    prompts = class_prompts(CLASS_NAMES, template)
    substitutes = dict(known.table)
    reworded = [[template.replace("{}", word) for word in substitutes[name]] for name in CLASS_NAMES]
    spelled = SpellCorrection((*template.replace("{}", "").lower().split(), *CLASS_NAMES))
    for name, path in (("before", folder / "pretrained"), ("after", folder)):
        model, processor = load_clip(path)
        nearest = NearestCentroid(DualEncoder(model, processor), prompts, reworded)
        yield name, model, processor
        yield f"{name} + spelling", model, CorrectingProcessor(processor, spelled)
        yield f"{name} + spelling + centroid", model, CorrectingProcessor(processor, spelled, nearest)


def main() -> None:
    """Measure every row in every folder and print the means as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="what the main command has written, one folder a seed")
    parser.add_argument("--max_samples", type=int, help="test digits; all 360 without it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = synonym_table("digits-wordnet")
    assert table is not None
    known, unseen = known_and_unseen(table)
    spec = ThreatModel.preset(
        "quick", text_attacks=("words", "characters"), num_candidates=20, text_adversaries=("own", "all")
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in options.folders:
        for name, model, processor in rows(folder, known):
            result = evaluate_robustness(
                model,
                processor,
                load_benchmark("digits"),
                ["clean", "text"],
                threat_model=spec,
                candidates={"known": known, "unseen": unseen},
                max_samples=options.max_samples,
                sanity=False,  # a correction hides the attacked text from the checks
                progress=False,
            )
            found.setdefault(name, []).append(result)
    print("| | " + " | ".join(COLUMNS) + " |\n| --- |" + " ---: |" * len(COLUMNS))
    for name, results in found.items():
        means = (statistics.mean(result[key] for result in results) for key in COLUMNS.values())
        print(f"| {name} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
