"""Candidate sources against outputs worked out by hand: a masked LM of fixed logits, a hand-set table, brute force."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import BertTokenizer, PreTrainedTokenizerFast

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.losses import coordinate_kl
from hf_mmcoa.models import encoding
from hf_mmcoa.substitutes.english import is_english
from hf_mmcoa.substitutes.masked_lm import MaskedLMCandidates
from hf_mmcoa.substitutes.named import candidate_source
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.substitutes.vocabulary import HotFlipCandidates, NeighbourCandidates
from hf_mmcoa.substitutes.wordnet import WordNetCandidates
from hf_mmcoa.substitutes.words import STOP_WORDS

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of dog hound puppy picture ##s ##let ##ling play sing ##ing ##er ,"
TOKENS = {token: index for index, token in enumerate(VOCABULARY.split())}


class FixedMaskedLM(nn.Module):
    """Logits by position, the same for every text: `rows[position]` lists tokens, best first; counts its forwards."""

    def __init__(self, rows: dict[int, str]) -> None:
        super().__init__()
        self.table = torch.zeros(32, len(TOKENS))
        for position, tokens in rows.items():
            for rank, token in enumerate(tokens.split()):
                self.table[position, TOKENS[token]] = 20.0 - rank
        self.batches: list[int] = []

    def forward(self, input_ids, **others):
        self.batches.append(len(input_ids))
        return SimpleNamespace(logits=self.table[: input_ids.shape[1]].expand(len(input_ids), -1, -1))


@pytest.fixture
def wordpiece() -> BertTokenizer:
    return BertTokenizer(vocab=TOKENS)


# [CLS] a photo of a dog [SEP]: the word "of" is at position 3, "dog" at position 5.
AT_OF, AT_A, AT_DOG = "of a", "picture a photo", "dog hound ##s , puppy [MASK] picture"


def test_masked_lm_reads_the_words_own_position_and_drops_pieces_and_signs(wordpiece):
    model = FixedMaskedLM({3: AT_OF, 4: AT_A, 5: AT_DOG})
    found = MaskedLMCandidates(model, wordpiece)(["a photo of a dog"], [[2, 4]], 6)
    # The top 6 are counted before anything is dropped: "picture" is the seventh. "##s", "," and "[MASK]" are no words.
    assert found == [{2: found[0][2], 4: ["dog", "hound", "puppy"]}]
    assert found[0][2][:2] == ["of", "a"]
    model = FixedMaskedLM({5: "##s dog"})
    assert MaskedLMCandidates(model, wordpiece)(["a photo of a dog"], [[4]], 1) == [{4: []}]


def test_masked_lm_without_alignment_reads_the_left_neighbours_output(wordpiece):
    model = FixedMaskedLM({3: AT_OF, 4: AT_A, 5: AT_DOG})
    source = MaskedLMCandidates(model, wordpiece, align_to_cls=False)
    assert source(["a photo of a dog"], [[4]], 3) == [{4: ["picture", "a", "photo"]}]


def test_masked_lm_answers_many_texts_in_one_forward_padded_to_the_longest(wordpiece):
    model = FixedMaskedLM({1: "photo", 2: "picture", 5: "hound"})
    texts = ["dog", "a photo, of a dog", "a dog", ""]
    found = MaskedLMCandidates(model, wordpiece)(texts, [[0], [3], [1], []], 1)
    assert found == [{0: ["photo"]}, {3: ["hound"]}, {1: ["picture"]}, {}]
    assert model.batches == [3]


def test_masked_lm_combines_a_word_of_several_pieces_and_ranks_by_perplexity(wordpiece):
    # "dogs" is dog ##s. Top 4 of the first piece: two words, a piece and "a"; of the second: three pieces and a word.
    # "puppy" and "##ing" are fifth and stay out.
    model = FixedMaskedLM({1: "dog hound ##er a puppy", 2: "##s ##let photo ##ling ##ing"})
    found = MaskedLMCandidates(model, wordpiece)(["dogs"], [[0]], 10)[0][0]
    # Logits 20, 19, 17 for dog, hound, a; 20, 19, 17 for ##s, ##let, ##ling: the sums rank the nine words.
    assert found == ["dogs", "doglet", "hounds", "houndlet", "dogling", "as", "houndling", "alet", "aling"]
    assert model.batches == [1, 9]
    assert MaskedLMCandidates(model, wordpiece)(["dogs"], [[0]], 2)[0][0] == ["dogs", "doglet"]


def test_perplexity_is_of_the_combination_put_into_the_text(wordpiece):
    class LikesPlays(FixedMaskedLM):
        def forward(self, input_ids, **others):
            logits = super().forward(input_ids).logits.clone()
            plays = (input_ids[:, 2] == TOKENS["play"]) & (input_ids[:, 3] == TOKENS["##ing"])
            logits[plays, 2:4] = 0.0
            logits[plays, 2, TOKENS["play"]] = logits[plays, 3, TOKENS["##ing"]] = 99.0
            return SimpleNamespace(logits=logits)

    model = LikesPlays({2: "sing play", 3: "##er ##ing"})
    found = MaskedLMCandidates(model, wordpiece)(["a singer"], [[1]], 4)[0][1]
    assert found[0] == "playing" and found[1] == "singer"


def test_masked_lm_with_byte_level_pieces():
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["a dog a dog a café a café dogs dogs hot hot"] * 9, vocab_size=300, min_frequency=2)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, pad_token="Ġ")
    order = [" dog", "o", " café", "s", " a"]  # without a space in front it is a piece
    ids = [tokenizer(each)["input_ids"] for each in order]
    assert [len(each) for each in ids] == [1] * 5

    class Model(nn.Module):
        def forward(self, input_ids, **others):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for rank, (token,) in enumerate(ids):
                logits[..., token] = 20.0 - 1.5**rank
            return SimpleNamespace(logits=logits)

    source = MaskedLMCandidates(Model(), tokenizer)
    assert source(["a dog"], [[1]], 5) == [{1: ["dog", "café", "a"]}]
    assert source(["a hots"], [[1]], 5) == [{1: ["dogo", "caféo", "dogs", "cafés"]}]


def test_at_most_24_combinations_the_most_likely_ones(wordpiece):
    model = FixedMaskedLM({1: "dog hound puppy a", 2: "##s ##let ##ling ##ing", 3: "##s ##let ##ling ##ing"})
    MaskedLMCandidates(model, wordpiece)(["doglets"], [[0]], 99)
    assert model.batches == [1, 24]


def test_bert_attack_on_hand_made_outputs_gives_the_hand_computed_text_aligned_or_not(wordpiece):
    angles = {"photo": 0.1, "dog": 0.5, "hound": 0.4, "puppy": 0.8, "picture": 0.9}

    def encode(texts):
        """The sum of the words' angles as a unit vector: "dog" is the most important word."""
        sums = torch.tensor([sum(angles.get(word, 0.0) for word in text.split()) for text in texts])
        return torch.stack([sums.cos(), sums.sin()], dim=1)

    model = FixedMaskedLM({4: "picture a", 5: "dog hound ##s , puppy"})  # [CLS] a photo of a dog
    texts = ["a photo of a dog"]
    aligned = BertAttack(candidates=MaskedLMCandidates(model, wordpiece), num_candidates=5)
    assert aligned(texts, encode) == ["a photo of a puppy"]  # hound moves 0.1, puppy 0.3, the others are none
    release = BertAttack(candidates=MaskedLMCandidates(model, wordpiece, align_to_cls=False), num_candidates=2)
    assert release(texts, encode) == ["a photo of a picture"]


def test_masked_lm_leaves_mode_and_gradients_as_they_are(wordpiece):
    class Dropping(FixedMaskedLM):
        def __init__(self) -> None:
            super().__init__({5: AT_DOG})
            self.scale, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.9)

        def forward(self, input_ids, **others):
            assert not self.training and not torch.is_grad_enabled()
            return SimpleNamespace(logits=self.dropout(super().forward(input_ids).logits) * self.scale)

    model = Dropping().train()
    model.dropout.eval()
    found = MaskedLMCandidates(model, wordpiece)(["a photo of a dog"], [[4]], 2)
    assert found == [{4: ["dog", "hound"]}]
    assert model.training and not model.dropout.training and model.scale.grad is None


def test_masked_lm_from_a_folder_and_its_repr(wordpiece, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=len(TOKENS), **sizes)).save_pretrained(tmp_path)
    wordpiece.save_pretrained(tmp_path)
    source = MaskedLMCandidates.from_pretrained(str(tmp_path), align_to_cls=False)
    assert repr(source) == f"MaskedLMCandidates({str(tmp_path)!r}, align_to_cls=False)"
    (found,) = source(["a photo of a dog"], [[4]], 19)
    assert set(found[4]) == {"a", "photo", "of", "dog", "hound", "puppy", "picture", "play", "sing"} & set(found[4])
    assert len(found[4]) >= 8


def test_neighbours_are_the_nearest_whole_words_of_the_table(tiny_clip, tiny_processor):
    tokenizer = tiny_processor.tokenizer
    ids = {word: tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in ("cat", "dog", "red", "photo", "of")}
    with torch.no_grad():
        table = encoding.token_embedding_layer(tiny_clip).weight
        table.zero_()
        table[:, 0] = -1.0  # everything else points away
        for word, (x, y) in {"cat": (1, 0), "dog": (1, 1), "red": (8, 2), "photo": (1, 3), "of": (1, 0)}.items():
            table[ids[word], :2] = torch.tensor([x, y]).float()
        piece = tokenizer.convert_tokens_to_ids("c")
        table[piece, :2] = torch.tensor([1.0, 0.0])  # as near as can be, but no whole word; "of" is a stop word
    source = NeighbourCandidates(tiny_clip, tokenizer)
    texts = ["a photo of a Cat", "this dog"]
    # Cosines to cat: red 8/sqrt(68), dog 1/sqrt(2), photo 1/sqrt(10). To dog: red 10/sqrt(136), photo 4/sqrt(20).
    assert source(texts, [[4], [1]], 2) == [{4: ["red", "dog"]}, {1: ["photo", "red"]}]
    with torch.no_grad():
        table[ids["photo"], :2] = torch.tensor([5.0, 0.0])
    assert source(texts, [[4], []], 1) == [{4: ["photo"]}, {}], "the table must not be cached: the model trains"


def test_neighbours_of_a_word_of_several_tokens_use_their_mean(tiny_clip, tiny_processor):
    tokenizer = tiny_processor.tokenizer
    pieces = tokenizer("cdog", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1 and set(pieces).isdisjoint(tokenizer.all_special_ids)
    with torch.no_grad():
        table = encoding.token_embedding_layer(tiny_clip).weight
        table.zero_()
        table[:, 0] = -1.0
        for place, piece in enumerate(pieces):
            table[piece] = 0.0
            table[piece, 1 + place % 2] = 1.0
        table[tokenizer.convert_tokens_to_ids("photo</w>")] = table[pieces[0]]
        table[tokenizer.convert_tokens_to_ids("red</w>")] = table[pieces].mean(0)
    assert NeighbourCandidates(tiny_clip, tokenizer)(["a cdog"], [[1]], 1) == [{1: ["red"]}]


def test_neighbours_of_an_unknown_word_are_none(tiny_clip, tiny_processor):
    tokenizer = copy.deepcopy(tiny_processor.tokenizer)
    word = "日"
    if set(tokenizer(word, add_special_tokens=False)["input_ids"]).isdisjoint(tokenizer.all_special_ids):
        pytest.skip("this tokenizer knows every byte")
    assert NeighbourCandidates(tiny_clip, tokenizer)([f"a {word}"], [[1]], 3) == [{}]
    assert HotFlipCandidates(tiny_clip, tokenizer)([f"a {word}"], [[1]], 3) == [{}]


def brute_force_gains(model, tokenizer, text: str, positions: list[int]) -> dict[int, float]:
    """Directional derivative of the KL towards each token, by central differences in float64."""
    model = copy.deepcopy(model).double()
    encoded = tokenizer([text], return_tensors="pt")["input_ids"]
    table = encoding.token_table(model)
    mean = table.mean(0)
    with torch.no_grad():
        start = encoding.token_embeddings(model, encoded).clone()
        clean = model.get_text_features(input_ids=encoded).pooler_output
        clean = clean / clean.norm()
        start[0, positions] = mean

        def kl(embeds):
            with encoding.edited_token_embeddings(model, lambda output: embeds):
                output = model.get_text_features(input_ids=encoded).pooler_output
            p, q = clean.log_softmax(-1), (output / output.norm()).log_softmax(-1)
            return (p.exp() * (p - q)).sum().item()

        gains = {}
        for token in range(len(table)):
            step = torch.zeros_like(start)
            step[0, positions[0]] = 1e-4 * (table[token] - mean)
            gains[token] = (kl(start + step) - kl(start - step)) / 2e-4
    return gains


@pytest.mark.few(1)
@pytest.mark.parametrize(("text", "word", "positions"), [("a photo of a cat", 4, [5]), ("a cdog of red", 1, None)])
def test_hotflip_ranks_by_the_brute_force_first_order_gain(tiny_clip, tiny_processor, text, word, positions):
    tokenizer = tiny_processor.tokenizer
    with torch.no_grad():  # an untrained table is so small that the mean says everything
        encoding.token_embedding_layer(tiny_clip).weight.mul_(20)
    if positions is None:
        positions = list(range(2, 2 + len(tokenizer("cdog", add_special_tokens=False)["input_ids"])))
        assert len(positions) > 1
    gains = brute_force_gains(tiny_clip, tokenizer, text, positions)
    other = "a large hound near this small red car"  # a second, longer text in the batch changes nothing
    found = HotFlipCandidates(tiny_clip, tokenizer)([other, text], [[2], [word]], 8)[1][word]
    assert len(found) == 8 and text.split()[word] not in found
    values = [gains[tokenizer.convert_tokens_to_ids(f"{each}</w>")] for each in found]
    assert values == sorted(values, reverse=True)
    words = [token[:-4] for token in tokenizer.get_vocab() if token.endswith("</w>") and token[:-4].isalpha()]
    best = max((each for each in words if is_english(each) and each not in STOP_WORDS),
               key=lambda each: gains[tokenizer.convert_tokens_to_ids(f"{each}</w>")])  # fmt: skip
    assert found[0] == best and values[0] > 0


def test_hotflip_batches_and_leaves_the_model_as_it_is(tiny_clip, tiny_processor, monkeypatch):
    tiny_clip.train()
    tiny_clip.text_projection.weight.requires_grad_(False)
    tiny_clip.logit_scale.grad = torch.tensor(3.0)
    rows = []
    real = encoding.text_embeds
    monkeypatch.setattr(
        encoding, "text_embeds", lambda model, ids, *rest: rows.append(len(ids)) or real(model, ids, *rest)
    )
    texts = ["a photo of a cat", "this dog", "a red car"]
    with torch.no_grad():
        found = HotFlipCandidates(tiny_clip, tiny_processor.tokenizer)(texts, [[1, 4], [1], []], 3)
        assert not torch.is_grad_enabled()
    assert [sorted(row) for row in found] == [[1, 4], [1], []]
    assert rows == [3, 3], "one forward for the clean rows, one for the three (text, word) rows"
    assert tiny_clip.training and not tiny_clip.text_projection.weight.requires_grad
    assert tiny_clip.logit_scale.grad == 3.0
    assert all(p.grad is None for name, p in tiny_clip.named_parameters() if name != "logit_scale")
    assert found == HotFlipCandidates(tiny_clip, tiny_processor.tokenizer)(texts, [[1, 4], [1], []], 3)


def test_coordinate_kl_by_hand():
    log3 = torch.tensor(3.0).log()
    p, q = torch.tensor([[log3, 0.0]]), torch.zeros(1, 2)  # softmax: (3/4, 1/4) and (1/2, 1/2)
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    torch.testing.assert_close(coordinate_kl(p, q), expected[None])


def test_synonym_table_ignores_case_and_keeps_the_order():
    table = SynonymTable({"Zero": ("nought", "Nil", "zilch"), "one": ["unity"]})
    found = table(["A ZERO, a two and a one", "one"], [[1, 3, 6], [0]], 2)
    assert found == [{1: ["nought", "Nil"], 3: [], 6: ["unity"]}, {0: ["unity"]}]


def test_synonym_table_finds_phrases_whole_and_the_words_in_them():
    table = SynonymTable({"Beer-Mug": ("stein", "krug"), "mug": ("cup",), "chest of drawers": ("dresser",)})
    texts = ["a beer mug, a beer, mug", "a MUG", "a chest of drawers"]
    found = table(texts, [[1, 2, 4, 5], [1], [3]], 1)
    assert found[0] == {1: [], 2: ["cup"], (1, 3): ["stein"], 4: [], 5: ["cup"]}, "a comma ends a phrase"
    assert found[1:] == [{1: ["cup"]}, {3: [], (1, 4): ["dresser"]}]


def test_synonym_table_reads_composed_and_decomposed_alike():
    table = SynonymTable({"cafe\u0301": ("pla\u0302t",)})
    assert table == SynonymTable({"caf\u00e9": ("pl\u00e2t",)})
    assert table(["a caf\u00e9", "a CAFE\u0301"], [[1], [1]], 1) == [{1: ["pl\u00e2t"]}] * 2


def test_a_split_keeps_phrase_keys():
    known, unseen = SynonymTable({"beer mug": ("stein", "krug")}).split(seed=0)
    both = [half(["a beer mug"], [[1]], 9)[0][1, 3] for half in (known, unseen)]
    assert sorted(word for half in both for word in half) == ["krug", "stein"]


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({"zero": ("nil",), "one": ("unity", "NIL")}, "more than once: nil"),
        ({"zero": ("nil", "nil")}, "more than once: nil"),
        ({"zero": ("nil",), "Zero": ("null",)}, "encoding of accents: zero"),
        ({"Beer-Mug": ("stein",), "beer mug": ("krug",)}, "encoding of accents: beer mug"),
        ({"caf\u00e9": ("bar",), "cafe\u0301": ("pub",)}, "encoding of accents: caf\u00e9"),
        ({"...": ("bear",)}, "'...', which holds no word"),
        ({"zero": "nil"}, "sequence of words, got 'nil'"),
        ({"zero": ("",)}, "sequence of words"),
    ],
)
def test_synonym_table_names_what_is_wrong(synonyms, message):
    with pytest.raises(ValueError, match=message):
        SynonymTable(synonyms)


def test_synonym_table_split_is_a_seeded_halving_of_every_word():
    table = SynonymTable({"a1": [f"x{i}" for i in range(8)], "b1": [f"y{i}" for i in range(5)], "c1": ["z"]})
    known, unseen = table.split(seed=0)
    assert [len(listed) for _, listed in known.table] == [4, 3, 1]
    for (word, listed), (_, first), (_, second) in zip(table.table, known.table, unseen.table, strict=True):
        assert set(first) | set(second) == set(listed) and set(first).isdisjoint(second), word
        assert list(first) == [each for each in listed if each in first], "the order of preference stays"
    assert table.split(seed=0) == (known, unseen)
    assert table.split(seed=1) != (known, unseen)
    assert dict(SynonymTable({"a1": [f"x{i}" for i in range(8)]}).split(0)[0].table)["a1"] == known.table[0][1]


def test_synonym_table_is_hashable_and_has_a_short_stable_repr():
    table = SynonymTable({"zero": ("nil", "null"), "one": ("unity",)})
    assert hash(table) == hash(SynonymTable({"zero": ["nil", "null"], "one": ["unity"]}))
    assert repr(table).startswith("SynonymTable(2 words, 3 substitutes, ")
    assert repr(table) != repr(SynonymTable({"zero": ("nil", "nought"), "one": ("unity",)}))


def test_wordnet_without_data_says_where_it_is_had(tmp_path):
    pytest.importorskip("nltk")
    with pytest.raises(LookupError, match=r'nltk\.download\("wordnet"\).*wordnet-base'):
        WordNetCandidates(root=str(tmp_path))(["a dog"], [[1]], 3)


def test_wordnet_gives_synonyms_then_hyponyms_as_single_words():
    pytest.importorskip("nltk")
    debian = "/usr/share/wordnet"
    source = WordNetCandidates(root=debian if Path(debian).exists() else None)
    try:
        found = source(["Dogs, a zero", "qwxz"], [[0, 2], [0]], 40)
    except LookupError:
        pytest.skip("no WordNet data here")
    assert {"nought", "cipher"} <= set(found[0][2]) and "zero" not in found[0][2]
    dogs = found[0][0]
    assert dogs.index("puppy") < dogs.index("pooch") < dogs.index("toy"), "in WordNet's order, in every process"
    assert "puppy" in dogs and dogs.index("cad") < dogs.index("puppy"), "synonyms come before hyponyms"
    assert not any("_" in word or " " in word for word in dogs)
    assert found[1] == {0: []}
    (found,) = source(["a Polar Bear, a t shirt"], [[1, 4]], 40)
    assert "ice bear" in found[1, 3] and "jersey" in found[4, 6], "phrases are looked up with spaces and hyphens"
    assert all(len(each.split()) <= 2 for each in found[1, 3])


def test_a_masked_lm_runs_where_the_model_under_attack_does(monkeypatch, wordpiece):
    masked = nn.Linear(1, 1)
    monkeypatch.setattr(
        MaskedLMCandidates, "from_pretrained", lambda name, align_to_cls: MaskedLMCandidates(masked, wordpiece)
    )
    attacked = nn.Linear(1, 1, device="meta")  # a GPU, as far as a CPU can tell
    source = candidate_source("masked-lm", attacked, wordpiece)
    assert source.model is masked and masked.weight.device.type == "meta"
