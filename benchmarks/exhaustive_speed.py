"""Every string one edit away from class prompts, encoded and searched, against bare forwards of the same strings.

    python benchmarks/exhaustive_speed.py

The text tower has a ViT-B/32's shape. `ours` lists the strings, encodes each once and finds the worst for every image
under `shared`, `own` and `all`. `bare` is given the strings and encodes them 256 at a time, padded to the longest of
their batch. A few of the 100 prompts are drawn for each run; both sides grow with their number.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from typing import Any

import measure
import torch
import torch.nn.functional as F
from subject import subject
from torch import Tensor

from hf_mmcoa.attacks import LevenshteinAttack, attack_prompts
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.models.encoder import DualEncoder

TARGET = 3.0  # issue 13
IMAGES = 1000
BATCH = 256


@torch.no_grad()
def bare(encoder: DualEncoder, texts: list[str]) -> Tensor:
    """Unit embeddings of texts, (texts, dim), by transformers alone."""
    parts = []
    for start in range(0, len(texts), BATCH):
        tokens = encoder.tokenizer(texts[start : start + BATCH], padding=True, return_tensors="pt")
        found = encoder.model.get_text_features(input_ids=tokens["input_ids"])  # type: ignore[operator]
        parts.append(F.normalize(found.pooler_output, dim=-1))
    return torch.cat(parts)


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "exhaustive_speed", runs=3)
    options.add_argument("--prompts", type=int, default=2, help="of the 100, others in every run")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    measured = subject(options.quick)
    encoder = DualEncoder(measured.model, measured.processor)
    prompts = class_prompts(measured.class_names)
    attack = LevenshteinAttack(max_edits=1, num_samples=None)
    generator = torch.Generator().manual_seed(0)
    runs: list[dict[str, Any]] = []
    for number in range(options.runs):
        drawn = random.Random(number).sample(prompts, options.prompts)
        texts = list(dict.fromkeys(text for pool in attack.variants(drawn) for text in pool))
        images = F.normalize(torch.randn(IMAGES, encoder.embed_dim, generator=generator), dim=-1)
        labels = torch.randint(len(drawn), (IMAGES,), generator=generator)
        found, ours = measure.timed(partial(attack_prompts, attack, drawn, encoder.encode_texts, images, labels))
        table, plain = measure.timed(partial(bare, encoder, texts))
        check(found, table, texts, images, labels)
        runs.append({"ours": ours, "bare": plain, "texts": len(texts)})
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
    factor = measure.ratio(runs, "ours", "bare")
    met = None if options.quick else factor["cpu"]["median"] <= TARGET
    settings = {"prompts": options.prompts, "images": IMAGES}
    result = measure.report(
        "exhaustive_speed", runs, quick=options.quick, settings=settings, factor=factor, target=TARGET, met=met
    )
    measure.save(result, options.output)
    rows = [
        [f"run {number}", run["texts"], run["ours"]["cpu"], run["bare"]["cpu"], run["ours"]["cpu"] / run["bare"]["cpu"]]
        for number, run in enumerate(runs, 1)
    ]
    print(measure.table(["CPU seconds", "texts", "ours", "bare", "factor"], rows))
    print(measure.verdict(result, "at most times the bare forwards"))
    if met is False:
        sys.exit(1)


def check(found: Any, table: Tensor, texts: list[str], images: Tensor, labels: Tensor) -> None:
    """Raise unless both sides agree on which samples are robust under `own`, up to rounding."""
    row_of = {text: row for row, text in enumerate(texts)}
    cosines = images @ table.T
    for sample in range(0, len(labels), 50):
        label = int(labels[sample])
        own = cosines[sample, [row_of[text] for text in found.pools[label]]].min()
        clean = [cosines[sample, row_of[pool[0]]] for index, pool in enumerate(found.pools) if index != label]
        margin = float(own - torch.stack(clean).max())
        if abs(margin) > 1e-5 and (margin > 0) != bool(found.own.robust[sample]):
            raise RuntimeError(f"sample {sample}: margin {margin} by transformers, robust {found.own.robust[sample]}.")


if __name__ == "__main__":
    main()
