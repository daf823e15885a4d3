"""An ensemble of synonyms is the mean that it says, and known synonyms change nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.defences import SynonymEnsemble, synonym_sets

PROMPTS, KNOWN = ["a cat", "a dog"], [["a tom", "a puss"], []]
VECTORS = {"a cat": [1.0, 0], "a tom": [0, 1.0], "a puss": [0.6, 0.8], "a dog": [-1.0, 0], "a rex": [0, -1.0]}


def encode(texts):
    return torch.tensor([VECTORS[text] for text in texts])


def test_an_ensemble_is_the_mean_worked_out_by_hand():
    ensemble = SynonymEnsemble(encode, synonym_sets(PROMPTS, KNOWN))
    mean = F.normalize(torch.tensor([1.6, 1.8]) / 3, dim=0)
    found = ensemble(["a tom", "a rex", "a cat", "a dog"])
    torch.testing.assert_close(found, torch.stack([mean, *encode(["a rex"]), mean, *encode(["a dog"])]))


def test_a_list_for_every_prompt_is_wanted():
    with pytest.raises(ValueError, match="`known` has 1 lists for 2 `prompts`: give one a class"):
        synonym_sets(PROMPTS, KNOWN[:1])
