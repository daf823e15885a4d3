"""MAT, AdvFLYP, SAFT, Sim-CLIP, QT-AFT and AGFT in the trainer: what is attacked, in which captions, and trained."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_trainer import NAMES, SUBSTITUTES, batch_of, changed_parameters, make, picture_rows, snapshot  # noqa: F401

from hf_mmcoa.attacks.image_losses import log_odds_loss
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.evaluation import ThreatModel, evaluate_retrieval
from hf_mmcoa.models.encoder import DualEncoder

RIVALS = ["mat", "mat+", "advflyp", "saft", "sim-clip", "qt-aft", "agft"]
IMAGE, TEXT = ("vision_model.", "visual_projection."), ("text_model.", "text_projection.")
TEMPLATES = ("This is a photo of a {}", "a photo of a {}.")


def captioned(captions=3, count=12, labels=False):
    """Pictures with several captions each, all different."""
    rows = picture_rows(count)
    texts = [
        [f"a {kind} of a {NAMES[label]} {row}" for kind in ("picture", "photo", "view", "shot")[:captions]]
        for row, label in enumerate(rows["label"])
    ]
    rows = rows.add_column("text", texts)
    return rows if labels else rows.remove_columns("label")


def on_captions(rows=None):
    return {"train_dataset": captioned() if rows is None else rows, "eval_dataset": None}


@pytest.mark.few(4)
@pytest.mark.parametrize("data", ["labels", "captions"])
@pytest.mark.parametrize("name", RIVALS)
def test_a_few_steps_lower_the_loss(make, tiny_clip, name, data):  # noqa: F811
    before = snapshot(tiny_clip)
    settings = {"captions_per_image": 2} if name in ("mat+", "saft") else {}
    trainer = make(
        trainer=on_captions() if data == "captions" else None,
        objective=name,
        max_steps=6,
        per_device_train_batch_size=12,
        do_eval=data == "labels",
        **settings,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert min(losses[-2:]) < losses[0]
    if data == "labels":
        assert math.isfinite(trainer.evaluate()["eval_loss"])
    moved = changed_parameters(before, tiny_clip)
    parts = IMAGE + TEXT * ("mat" in name) + ("logit_scale",) * (name in ("mat", "mat+", "qt-aft"))
    assert all(each.startswith(parts) for each in moved)
    assert all(any(each.startswith(part) for each in moved) for part in parts)


def log_odds(embeds, texts, encoder, distinct=None):
    """The log-odds of each image's own text among the distinct ones: what an attack on captions or classes raises."""
    distinct = sorted(set(texts)) if distinct is None else distinct
    logits = encoder.logit_scale.detach() * embeds @ encoder.encode_texts(distinct).detach().T
    return logits, torch.tensor([distinct.index(text) for text in texts])


ATTACKS = {
    "mat": lambda e, x, f0, sets: log_odds_loss(*log_odds(F.normalize(x, dim=-1), *sets[0])),
    "mat+": lambda e, x, f0, sets: sum(log_odds_loss(*log_odds(F.normalize(x, dim=-1), *each)) for each in sets) / 2,
    "sim-clip": lambda e, x, f0, sets: (x - f0).square().sum(1),
    "qt-aft": lambda e, x, f0, sets: (
        (x - f0).square().sum(1) + 10 * F.cross_entropy(*log_odds(F.normalize(x, dim=-1), *sets[0]), reduction="none")
    ),
    "agft": lambda e, x, f0, sets: F.cross_entropy(
        log_odds(F.normalize(x, dim=-1), *sets[0])[0],
        (0.4 * log_odds(F.normalize(f0, dim=-1), *sets[0])[0]).softmax(1),
        reduction="none",
    ),
}
ATTACKS |= {"advflyp": ATTACKS["mat"], "saft": ATTACKS["mat+"]}


@pytest.mark.few(4)
@pytest.mark.parametrize("data", ["labels", "captions"])
@pytest.mark.parametrize("name", RIVALS)
def test_images_are_moved_away_from_what_the_defence_says(make, name, data):  # noqa: F811
    """The trainer's attacked images are those of its attack on the loss, written out."""
    settings = {"captions_per_image": 2} if name in ("mat+", "saft") else {}
    rows = on_captions() if data == "captions" else None
    trainer = make(trainer=rows, objective=name, random_start=False, do_eval=data == "labels", **settings)
    with torch.no_grad():
        trainer.model.visual_projection.weight.mul_(1.01)  # as after some steps: else f and f0 agree at the start
    inputs = batch_of(trainer)
    _, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    encoder = DualEncoder(trainer.model, trainer.processing_class)
    if data == "captions":
        sets = [(texts, encoder) for texts in (inputs["texts"], *inputs.get("more_texts", ()))]
    else:
        prompts = [class_prompts(NAMES, template) for template in TEMPLATES]
        sets = [([each[label] for label in inputs["labels"].tolist()], encoder, each) for each in prompts]
    with torch.no_grad():
        f0 = trainer.teacher.encoder.image_features(inputs["images"])[0] if trainer.teacher else None

    def loss_fn(images):
        return ATTACKS[name](encoder, encoder.image_features(images)[0], f0, sets)

    expected = trainer.attacker.image_attack(inputs["images"], loss_fn)
    with torch.no_grad():
        found = encoder.image_features(expected)[0]
        assert loss_fn(expected).mean() > loss_fn(inputs["images"]).mean()
    assert torch.allclose(embeds.adv_image_features, found, atol=1e-4)


def test_mat_is_mat_plus_with_one_caption(make, tiny_clip):  # noqa: F811
    trained = []
    for settings in ({"objective": "mat"}, {"objective": "mat+", "captions_per_image": 1}):
        trainer = make(trainer=on_captions(), model=copy.deepcopy(tiny_clip), do_eval=False, **settings)
        trainer.train()
        trained.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
    assert torch.equal(*trained)
    trainer = make(trainer=on_captions(), do_eval=False, objective="mat+", captions_per_image=2)
    trainer.train()
    assert not torch.equal(trained[0], torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))


def test_every_caption_of_an_image_is_attacked_and_encoded(make):  # noqa: F811
    trainer = make(trainer=on_captions(), objective="mat+", captions_per_image=3, do_eval=False)
    inputs = batch_of(trainer)
    for row in range(6):  # drawn in an order of their own, none twice
        own = [inputs["texts"][row], *(texts[row] for texts in inputs["more_texts"])]
        assert len(set(own)) == 3 and len({text.split()[-1] for text in own}) == 1
    _, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert len(embeds.caption_sets) == 3
    encoder = DualEncoder(trainer.model, trainer.processing_class)
    attack = trainer.attacker.word_attack
    for each, texts in zip(embeds.caption_sets, (inputs["texts"], *inputs["more_texts"]), strict=True):
        attacked = attack(list(texts), lambda given: encoder.encode_texts(list(given)).detach())
        assert attacked != texts
        assert torch.allclose(each.adv_text_embeds, encoder.encode_texts(attacked), atol=1e-5)
        assert each.adv_text_embeds.requires_grad


def test_prompts_of_further_templates_are_the_captions_of_a_class(make):  # noqa: F811
    """The attack on words leaves the words of each template alone."""
    trainer = make(
        trainer={"text_attack": None, "candidates": SUBSTITUTES}, objective="mat+", captions_per_image=2, max_changes=1
    )
    batch = trainer._read(batch_of(trainer))
    found = [
        {text for attacked in each.texts for text in attacked.texts}
        for each in trainer.attacker.attack(batch).caption_sets
    ]
    assert found == [
        {"This is a photo of a feline", "This is a photo of a hound", "This is a photo of a scarlet car"},
        {"a photo of a feline.", "a photo of a hound.", "a photo of a scarlet car."},
    ]


def test_captions_of_labelled_rows_are_read_before_class_prompts(make):  # noqa: F811
    trainer = make(trainer=on_captions(captioned(labels=True)), objective="saft", captions_per_image=2, do_eval=False)
    batch = trainer.reader.read_captions(inputs := batch_of(trainer))
    assert [sorted(each.texts) for each in batch.caption_sets] == [
        sorted(inputs["texts"]),
        sorted(inputs["more_texts"][0]),
    ]


def test_an_early_stop_of_agft_is_at_another_class_than_the_frozen_models(make):  # noqa: F811
    trainer = make(objective="agft", attack_early_stop=True, epsilon="64/255", step_size="16/255", num_steps=6)
    batch = trainer._read(batch_of(trainer))
    images, _ = trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))
    encoder = trainer.attacker.encoder

    def classes(pictures):
        return (encoder.encode_images(pictures) @ batch.anchors.T).argmax(1)

    with torch.no_grad():
        fooled = classes(images) != classes(batch.images)
        trainer.args.attack_early_stop = False
        whole, _ = trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))
    assert fooled.any() and not torch.equal(images[fooled], whole[fooled])


def test_a_change_of_the_number_of_captions_needs_a_new_trainer(make):  # noqa: F811
    trainer = make(objective="mat+", captions_per_image=2)
    trainer.args.captions_per_image = 3
    with pytest.raises(ValueError, match=r"`args.captions_per_image` was changed from 2 to 3"):
        trainer.train()
    with pytest.raises(ValueError, match=r"`captions_per_image` must be at least 1, got 0"):
        make(objective="mat+", captions_per_image=0)
    with pytest.raises(ValueError, match=r"`captions_per_image` must be at most 19 for class prompts, got 20"):
        make(objective="mat+", captions_per_image=20)


def test_a_model_of_mat_plus_is_evaluated_by_the_trainer_and_in_retrieval(make):  # noqa: F811
    rows = captioned()
    data = {"train_dataset": rows, "eval_dataset": rows}
    trainer = make(trainer=data, objective="mat+", captions_per_image=3)
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_multimodal_accuracy"] <= 1
    spec = ThreatModel.preset("quick", epsilon=0.05, num_steps=2, text_attacks=("words",))
    model, processor = trainer.model.eval(), trainer.processing_class
    result = evaluate_retrieval(
        model, processor, rows, spec, candidates=SUBSTITUTES, attacks=("clean", "image", "text"), progress=False
    )
    for direction in ("image_to_text", "text_to_image"):
        clean = result[f"clean_{direction}_recall_at_10"]
        assert all(result[f"{threat}_{direction}_recall_at_10"] <= clean for threat in ("image", "text")) and clean > 0
