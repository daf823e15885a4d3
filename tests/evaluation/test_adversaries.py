"""The adversaries of the texts against a brute force that uses transformers alone: exact equality, sample by sample."""

from __future__ import annotations

import itertools
import string

import pytest
import torch
import torch.nn.functional as F
from squares import CLASS_NAMES, KNOWN, UNSEEN
from test_evaluator import pictures

from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.substitutes.synonyms import SynonymTable

TEMPLATE = "This is a photo of a {}."
TABLE = {"cat": ["kitty", "feline", "wagon"], "dog": ["puppy"], "car": ["auto", "hound"]}


def evaluate(model, processor, dataset, **changes):
    spec = {"text_adversaries": ("shared", "own", "all"), "template": TEMPLATE, "epsilon": 0.05, "num_steps": 5}
    candidates = changes.pop("candidates", SynonymTable(TABLE))
    attacks = changes.pop("attacks", ["text"])
    spec = ThreatModel.preset("quick", **{**spec, **changes})
    return evaluate_robustness(
        model, processor, dataset, attacks, threat_model=spec, candidates=candidates, progress=False, sanity=False
    )


class Brute:
    """Cosines of every image and text, by transformers."""

    @torch.no_grad()
    def __init__(self, model, processor, dataset, pools):
        self.pools, self.labels = pools, [row["label"] for row in dataset]
        images = processor.image_processor([row["image"] for row in dataset], return_tensors="pt")
        image_embeds = F.normalize(model.get_image_features(**images).pooler_output, dim=-1)
        texts = sorted({text for pool in pools for text in pool})
        tokens = processor.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
        text_embeds = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        cosines = image_embeds @ text_embeds.T
        self.score = [dict(zip(texts, row, strict=True)) for row in cosines.tolist()]

    def correct(self, sample, prompts):
        scores = [self.score[sample][prompt] for prompt in prompts]
        label = self.labels[sample]
        return all(scores[label] > score for index, score in enumerate(scores) if index != label)

    def robust(self, sample, pools):
        return all(self.correct(sample, prompts) for prompts in itertools.product(*pools))

    def outcome(self, adversary):
        clean = [pool[:1] for pool in self.pools]
        samples = range(len(self.labels))
        if adversary == "all":
            return [self.robust(sample, self.pools) for sample in samples]
        if adversary == "own":
            own = [[*clean[:y], self.pools[y], *clean[y + 1 :]] for y in self.labels]
            return [self.robust(sample, own[sample]) for sample in samples]
        lists = itertools.product(*self.pools)
        return min(([self.correct(sample, prompts) for sample in samples] for prompts in lists), key=sum)


def word_pools():
    return [[TEMPLATE.format(word) for word in (name, *TABLE[name])] for name in CLASS_NAMES]


def edited(name):
    """All strings one edit from a prompt, its own class word's spelling of another class left out."""
    text, letters = TEMPLATE.format(name), string.ascii_lowercase + string.digits + string.punctuation + " "
    found = [text[:at] + new + text[at + 1 :] for at in range(len(text)) for new in ["", *letters]]
    found += [text[:at] + new + text[at:] for at in range(len(text) + 1) for new in letters]
    return list(dict.fromkeys([text, *found]))


@pytest.mark.parametrize("adversary", ["shared", "own", "all"])
def test_words_are_those_of_a_brute_force(model, processor, dataset, adversary):
    result = evaluate(model, processor, dataset)
    expected = Brute(model, processor, dataset, word_pools()).outcome(adversary)
    found = result["outcomes"][f"text/words/{adversary}"]
    if adversary == "shared":  # several lists may leave equally few
        assert found.count("1") == sum(expected)
    else:
        assert found == "".join("01"[robust] for robust in expected)
    assert 0 < found.count("1") < 24 or adversary != "own"
    assert result[f"text_{adversary}_accuracy"] == found.count("1") / 24


@pytest.mark.slow
def test_characters_are_all_strings_one_edit_away(model, processor, dataset):
    data = dataset.select(range(9))
    result = evaluate(model, processor, data, text_attacks=("characters",), forbid_class_names=False)
    brute = Brute(model, processor, data, [edited(name) for name in CLASS_NAMES])
    for adversary in ("own", "all"):
        expected = []
        for sample, label in enumerate(brute.labels):
            score, clean = brute.score[sample], [pool[0] for pool in brute.pools]
            own = min(score[text] for text in brute.pools[label])
            rivals = [
                max(score[text] for text in brute.pools[j]) if adversary == "all" else score[clean[j]]
                for j in range(3)
                if j != label
            ]
            expected.append(own > max(rivals))
        assert result["outcomes"][f"text/characters/{adversary}"] == "".join("01"[each] for each in expected)
    assert result["queries"]["text/characters"] == len({text for pool in brute.pools for text in pool})
    assert result["searches"]["text/characters"] == "exhaustive"


def test_a_sample_robust_to_all_is_robust_to_the_others_and_witnesses_show_why_not(model, processor, dataset):
    result = evaluate(model, processor, dataset, attacks=["text", "multimodal"])
    outcomes = result["outcomes"]
    for kind in ("text/words", "multimodal/independent"):
        for adversary in ("shared", "own"):
            stands = zip(outcomes[f"{kind}/all"], outcomes[f"{kind}/{adversary}"], strict=True)
            assert all(ceiling <= other for ceiling, other in stands)
    assert result["text_accuracy"] == result["text_all_accuracy"]
    brute = Brute(model, processor, dataset, word_pools())
    for adversary in ("own", "all"):
        shown = result["witnesses"][f"text/words/{adversary}"]
        for sample, texts in enumerate(shown):
            assert (texts is None) == (
                outcomes[f"text/words/{adversary}"][sample] == "1" or outcomes["clean"][sample] == "0"
            )
            if texts is not None:
                own, rival = texts
                assert own in brute.pools[brute.labels[sample]]
                assert brute.score[sample][own] <= brute.score[sample][rival]
    assert any(texts for texts in result["witnesses"]["text/words/all"])


def test_an_image_attacked_against_its_worst_texts_beats_one_attacked_against_the_clean_prompts(
    model, processor, dataset
):
    result = evaluate(model, processor, dataset, attacks=["multimodal"], multimodal_attacks=("independent", "adaptive"))
    for adversary in ("shared", "own", "all"):
        assert (
            result[f"attacks/multimodal/adaptive/{adversary}"] <= result[f"attacks/multimodal/independent/{adversary}"]
        )
    assert result["multimodal_own_accuracy"] < min(result["text_own_accuracy"], result["image_accuracy"])


def test_a_budget_too_large_to_list_says_how_many_texts_and_what_to_do(model, processor, dataset):
    with pytest.raises(ValueError, match=r"text/characters:.*`max_texts` is 10.*blind"):
        evaluate(model, processor, dataset, text_attacks=("characters",), max_texts=10)


def test_two_words_are_listed_where_they_fit_and_searched_by_a_beam_where_not(model, processor, dataset):
    changes = {"candidates": SynonymTable({**TABLE, "photo": ["picture", "image", "view", "shot"]}), "max_changes": 2}
    changes |= {"protect_template": False}
    every = evaluate(model, processor, dataset, **changes)
    beam = evaluate(model, processor, dataset, max_texts=43, **changes)
    assert every["searches"]["text/words"] == "exhaustive" and beam["searches"]["text/words"].startswith("beam of")
    for adversary in ("own", "all"):
        assert every[f"text_{adversary}_accuracy"] <= beam[f"text_{adversary}_accuracy"]


def test_a_table_without_any_candidate_is_a_finding(model, processor, dataset):
    with pytest.warns(UserWarning):
        result = evaluate_robustness(
            model,
            processor,
            dataset,
            ["text"],
            threat_model=ThreatModel.preset("quick"),
            candidates=SynonymTable({"zebra": ["horse"]}),
            progress=False,
        )
    failed = {finding["check"] for finding in result["sanity"] if finding["passed"] is False}
    assert "text/words: legal texts: every class has a candidate text" in failed
    assert "text/words: legal texts: every key of the table occurs in a prompt" in failed


def test_names_of_adversaries_are_no_names_of_sources(model, processor, dataset):
    with pytest.raises(ValueError, match="names of adversaries"):
        evaluate(model, processor, dataset, candidates={"known": UNSEEN, "own": UNSEEN})


@pytest.mark.slow
def test_the_search_by_another_process_or_before_an_interruption_gives_the_same_outcomes(
    model, processor, dataset, tmp_path, monkeypatch
):
    whole = evaluate(model, processor, dataset, attacks=["multimodal"], text_attacks=("words", "characters"))
    from hf_mmcoa.evaluation import evaluator

    def interrupted(*arguments):
        raise KeyboardInterrupt

    spec = ThreatModel.preset(
        "quick", template=TEMPLATE, epsilon=0.05, num_steps=5, text_attacks=("words", "characters")
    )
    arguments = {"threat_model": spec, "candidates": SynonymTable(TABLE), "progress": False, "sanity": False}
    output = tmp_path / "result.json"
    with monkeypatch.context() as patched:
        patched.setattr(evaluator, "evaluate_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate_robustness(model, processor, dataset, ["multimodal"], output=output, **arguments)
    resumed = evaluate_robustness(model, processor, dataset, ["multimodal"], output=output, **arguments)
    assert resumed["outcomes"] == whole["outcomes"] and resumed["witnesses"] == whole["witnesses"]
    assert pictures(dataset)["labels"].tolist() == resumed["labels"]


def test_families_are_measured_beside_the_attacks(model, processor, dataset):
    result = evaluate(model, processor, dataset, families="keyboard|affixes")
    for name in ("keyboard", "affixes"):
        assert 0 <= result[f"families/{name}/worst"] <= result[f"families/{name}/mean"] <= result["clean_accuracy"]
    assert result["families/worst"] <= min(result["families/keyboard/worst"], result["families/affixes/worst"])
    assert result["attack_spec"]["families"] == "keyboard|affixes"
    with pytest.raises(ValueError, match="keyboard, homoglyphs"):
        evaluate(model, processor, dataset, families="typos")


def test_what_resists_every_prompt_at_its_worst_is_not_attacked_again_with_fewer_choices(model, processor, dataset):
    changes = {"multimodal_attacks": ("adaptive",), "text_adversaries": ("own", "all"), "epsilon": 0.02}
    changes |= {"attacks": ["multimodal"], "candidates": KNOWN}
    spared, every = (
        evaluate(model, processor, dataset, skip_fallen=skip_fallen, **changes) for skip_fallen in (True, False)
    )
    own, ceiling = "multimodal/adaptive/own", "multimodal/adaptive/all"
    assert 0 <= spared["queries"][own] < spared["queries"][ceiling]
    assert every["queries"][own] >= every["queries"][ceiling]
    for name in ("multimodal_own_accuracy", "multimodal_all_accuracy"):
        assert spared[name] == pytest.approx(every[name], abs=1 / 24)
