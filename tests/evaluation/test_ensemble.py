"""Prompt ensembles: the numbers of published CLIPs, and attacks on the words that all templates share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from squares import CLASS_NAMES, UNSEEN

from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.evaluation import evaluate_robustness
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.zero_shot import ZeroShotClassifier

TEMPLATES = ("This is a photo of a {}", "{} dog dog dog", "{} kitty")


def cosines(model, processor, image_row, names):
    """Cosines of one image and the classes, by transformers alone: processor, towers, and the mean of unit vectors."""
    with torch.no_grad():
        classes = []
        for name in names:
            tokens = processor.tokenizer(
                [one.replace("{}", name) for one in TEMPLATES], padding=True, return_tensors="pt"
            )
            texts = F.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=-1)
            classes.append(F.normalize(texts.mean(0), dim=-1))
        pixels = processor.image_processor(image_row["image"], return_tensors="pt")["pixel_values"]
        image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        return (F.normalize(image, dim=-1) @ torch.stack(classes).T)[0]


def by_transformers(model, processor, image_row, names):
    return int(cosines(model, processor, image_row, names).argmax())


def measured(model, processor, dataset, attacks=("clean",), **changes):
    spec = ThreatModel.preset("quick", **{"epsilon": 0.05, "num_steps": 3, "perturb_at": "model", **changes})
    return evaluate_robustness(
        model, processor, dataset, attacks, threat_model=spec, candidates=UNSEEN, progress=False, sanity=False
    )


def test_an_ensemble_predicts_what_transformers_alone_does(model, processor, dataset):
    result = measured(model, processor, dataset, templates=TEMPLATES)
    assert result["predictions"] == [by_transformers(model, processor, row, CLASS_NAMES) for row in dataset]
    assert result["attack_spec"]["templates"] == list(TEMPLATES)
    single = measured(model, processor, dataset)
    assert "templates" not in single["attack_spec"]
    assert single["fingerprints"]["data"] != result["fingerprints"]["data"]


def test_the_classifier_computes_what_transformers_alone_does(model, processor, dataset):
    rows = ImageRows(dataset, "image", "label", None, "model", 16, processor.image_processor)
    images = collate(rows.__getitems__([0, 1, 2]))["images"]
    by_hand = torch.stack([cosines(model, processor, dataset[row], CLASS_NAMES) for row in range(3)])
    with torch.no_grad():
        found, single = (
            classifier(images) / classifier.encoder.logit_scale
            for classifier in (
                ZeroShotClassifier(model, processor, CLASS_NAMES, each) for each in (TEMPLATES, TEMPLATES[0])
            )
        )
    assert torch.allclose(found, by_hand, atol=1e-3)
    assert (single - by_hand).abs().max() > 0.02


def test_an_attacked_word_stands_in_every_template(model, processor, dataset):
    changes = {"templates": TEMPLATES, "text_adversaries": ("blind", "shared", "own", "all")}
    result = measured(model, processor, dataset, ("text",), **changes)
    attacked = result["adv_prompts"]["text/words/shared"]
    names = [text.removeprefix("This is a photo of a ") for text in attacked]
    assert names != CLASS_NAMES
    right = [by_transformers(model, processor, row, names) == row["label"] for row in dataset]
    clean = [by_transformers(model, processor, row, CLASS_NAMES) == row["label"] for row in dataset]
    shared = "".join("1" if both else "0" for both in map(min, right, clean))
    assert result["outcomes"]["text/words/shared"] == shared


@pytest.mark.filterwarnings("ignore:sanity")
def test_attacks_on_both_see_the_ensemble(model, processor, dataset):
    """`joint` leaves no more than `own` on the same ensemble: its texts are embedded through all templates too."""
    changes = {"multimodal_attacks": ("independent", "adaptive", "co-attack", "sga", "joint")}
    changes |= {"templates": TEMPLATES, "text_adversaries": ("blind", "own", "all"), "skip_fallen": False}
    result = measured(model, processor, dataset, ("multimodal",), **changes)
    assert result["attacks/multimodal/joint/all"] <= result["attacks/text/words/all"]
    assert result["multimodal_accuracy"] <= result["text_accuracy"] <= result["clean_accuracy"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"text_attacks": ("words", "characters")}, "characters change the template"),
        ({"text_attacks": ("embedding",)}, "embeddings are of one text"),
        ({"protect_template": False}, "`protect_template`"),
        ({"families": "all"}, "`families`"),
    ],
)
def test_attacks_on_more_than_the_class_name_are_refused(model, processor, dataset, changes, text):
    with pytest.raises(ValueError, match=text):
        measured(model, processor, dataset, ("text",), templates=TEMPLATES, **changes)
    measured(model, processor, dataset, ("image",), templates=TEMPLATES, **changes)  # no text is attacked


def test_one_template_is_no_ensemble_and_two_kinds_contradict_each_other():
    one = ThreatModel.preset("quick", templates="a {}")
    assert one.fingerprint() == ThreatModel.preset("quick", template="a {}").fingerprint()
    several = ThreatModel.preset("quick", templates=TEMPLATES)
    assert ThreatModel.from_dict(several.to_dict()) == several and several.template == TEMPLATES[0]
    with pytest.raises(ValueError, match="give one of the two"):
        ThreatModel.preset("quick", templates=TEMPLATES, template="a {}")
    with pytest.raises(ValueError, match="exactly one"):
        ThreatModel.preset("quick", templates=("a {}", "b"))
