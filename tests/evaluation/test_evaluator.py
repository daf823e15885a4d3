from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from squares import CLASS_NAMES, KNOWN, UNSEEN, squares

from hf_mmcoa.attacks.image_losses import class_loss
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.evaluation.attack_names import worst_case_attacks, worst_outcome
from hf_mmcoa.evaluation.statistics import wilson_interval
from hf_mmcoa.evaluation.uncertainty import interval_fields
from hf_mmcoa.zero_shot import ZeroShotClassifier

SHORT = {"epsilon": 0.05, "num_steps": 5}


def evaluate(model, processor, dataset, *args, **kwargs):
    settings = {"candidates": KNOWN, "progress": False, "sanity": False, "batch_size": 10} | kwargs
    if isinstance(settings.get("threat_model", {}), dict):
        settings["threat_model"] = ThreatModel.preset("quick", **{**SHORT, **settings.get("threat_model", {})})
    return evaluate_robustness(model, processor, dataset, *args, **settings)


def pictures(dataset):
    return collate(ImageRows(dataset).__getitems__(list(range(len(dataset)))))


def fallen(outcome):
    return {row for row, stands in enumerate(outcome) if stands == "0"}


class Fells:
    """Makes given rows of a data set look like another class, and remembers which rows it was shown."""

    def __init__(self, dataset, rows):
        self.pictures, self.rows, self.shown, self.losses = pictures(dataset)["images"], rows, [], []

    def __call__(self, images, loss_fn, generator=None):
        adv_images = images.clone()
        self.losses.append(loss_fn(images).detach())
        for place, image in enumerate(images):
            row = int((self.pictures - image).flatten(1).abs().amax(1).argmin())
            self.shown.append(row)
            if row in self.rows:
                adv_images[place] = image.roll(1, 0)  # the next channel is the next class
        return adv_images

    def __repr__(self):
        return f"Fells({sorted(self.rows)})"


# Worst cases


def test_a_sample_stands_only_if_it_stands_against_every_attack(model, processor, dataset):
    first, second = Fells(dataset, {0, 1}), Fells(dataset, {1, 2})
    result = evaluate(model, processor, dataset, ["image"], image_attacks={"first": first, "second": second})
    assert result["clean_accuracy"] == 1
    assert fallen(result["outcomes"]["image/first"]) == {0, 1}
    assert fallen(result["outcomes"]["image/second"]) == {0, 1, 2}  # what fell before it counts for it too
    assert result["image_accuracy"] == result["worst_case_accuracy"] == 21 / 24
    assert result["image_attack_success_rate"] == pytest.approx(3 / 24)
    assert sorted(first.shown) == list(range(24)) and sorted(second.shown) == list(range(2, 24))
    assert result["attack_spec"]["image_attacks"] == ["first: Fells([0, 1])", "second: Fells([1, 2])"]


def test_intervals_of_image_numbers_are_over_images_and_of_all_others_over_classes(model, processor, dataset):
    result = evaluate(model, processor, dataset, threat_model="quick")
    for name, attacks in worst_case_attacks(list(result["outcomes"])).items():
        outcome = worst_outcome(result, attacks)
        fields = interval_fields(name, outcome, result["labels"], attacks)
        assert {field: result[field] for field in fields} == fields
        over = "images" if name in ("clean_accuracy", "image_accuracy") else "classes"
        assert result[f"{name}_interval_over"] == over
    assert result["clean_accuracy"] == 1 and result["clean_accuracy_interval"] == wilson_interval(24, 24)
    low, high = result["text_accuracy_interval"]
    assert high - low > 0.3 and 1 <= result["text_accuracy_effective_samples"] < 24  # three classes


def test_without_skipping_each_attack_has_its_own_number_and_the_worst_case_is_the_same(model, processor, dataset):
    attacks = {"first": Fells(dataset, {0, 1}), "second": Fells(dataset, {1, 2})}
    result = evaluate(
        model, processor, dataset, ["image"], image_attacks=attacks, threat_model={"skip_fallen": False, "restarts": 2}
    )
    assert fallen(result["outcomes"]["image/first"]) == {0, 1}
    assert fallen(result["outcomes"]["image/second"]) == {1, 2}
    assert result["image_accuracy"] == 21 / 24


def test_a_misclassified_sample_is_never_attacked_and_never_stands(model, processor, dataset):
    wrong = dataset.map(lambda row, index: {"label": (row["label"] + (index == 5)) % 3}, with_indices=True)
    attack = Fells(dataset, {0})
    result = evaluate(model, processor, wrong, ["image"], image_attacks={"one": attack})
    assert fallen(result["outcomes"]["clean"]) == {5} and 5 not in attack.shown
    assert fallen(result["outcomes"]["image/one"]) == {0, 5}
    assert result["image_attack_success_rate"] == pytest.approx(1 / 23)


def test_text_outcomes_are_those_of_a_classifier_that_reads_the_attacked_prompts(model, processor, dataset):
    spec, sources = {"text_adversaries": ("blind", "shared", "own", "all")}, {"known": KNOWN, "unseen": UNSEEN}
    result = evaluate(model, processor, dataset, ["text"], candidates=sources, threat_model=spec)
    assert result["adv_prompts"]["text/words/blind"] == [
        f"This is a photo of a {word}" for word in ("feline", "hound", "auto")
    ]
    batch = pictures(dataset)
    for key, words in (("", ("feline", "hound", "auto")), (":unseen", ("kitty", "puppy", "wagon"))):
        expected = ZeroShotClassifier(model, processor, words)(batch["images"]).argmax(1) == batch["labels"]
        assert result["outcomes"][f"text/words/blind{key}"] == "".join("01"[stands] for stands in expected.tolist())
    assert result["text_blind_accuracy"] == result["attacks/text/words/blind"] == 1
    assert result["text_shared_unseen_accuracy"] <= result["text_blind_unseen_accuracy"] < 0.5
    assert result["text_unseen_accuracy"] == result["text_all_unseen_accuracy"] <= result["text_own_unseen_accuracy"]
    assert result["attack_spec"]["candidates"] == {"known": repr(KNOWN), "unseen": repr(UNSEEN)}


def test_multimodal_is_every_image_found_read_with_every_prompt_found(model, processor, dataset):
    attack = Fells(dataset, set(range(6)))
    spec = {"skip_fallen": False, "text_adversaries": ("blind",)}
    result = evaluate(
        model, processor, dataset, candidates={"known": UNSEEN}, image_attacks={"one": attack}, threat_model=spec
    )
    batch = pictures(dataset)
    images = batch["images"].clone()
    images[:6] = images[:6].roll(1, 1)
    classifier = ZeroShotClassifier(model, processor, ("kitty", "puppy", "wagon"))
    both = classifier(images).argmax(1) == batch["labels"]
    assert result["outcomes"]["multimodal/independent/blind"] == "".join("01"[stands] for stands in both.tolist())
    text_alone = classifier(batch["images"]).argmax(1) == batch["labels"]
    worst = both & text_alone & (torch.arange(24) >= 6)
    assert result["multimodal_accuracy"] == worst.sum().item() / 24
    assert 0 < result["multimodal_accuracy"] < result["attacks/text/words/blind"]


def test_an_independent_attack_looks_at_clean_prompts_and_an_adaptive_one_at_attacked_ones(model, processor, dataset):
    attack = Fells(dataset, set())
    spec = {"skip_fallen": False, "multimodal_attacks": ("independent", "adaptive"), "temperature": 5.0}
    spec["text_adversaries"] = ("blind",)
    evaluate(
        model, processor, dataset, candidates=UNSEEN, image_attacks={"one": attack}, threat_model=spec, batch_size=24
    )
    batch = pictures(dataset)
    encoder = ZeroShotClassifier(model, processor, ("cat", "dog")).encoder
    image_embeds = encoder.encode_images(batch["images"])
    for losses, words in zip(attack.losses, (("cat", "dog", "car"), ("kitty", "puppy", "wagon")), strict=True):
        prompts = encoder.encode_texts([f"This is a photo of a {word}" for word in words])
        expected = class_loss(5.0 * image_embeds @ prompts.T, batch["labels"])  # the temperature given, not the model's
        assert torch.allclose(losses, expected, atol=1e-4)


def test_image_attacks_can_be_run_on_another_prompt_than_the_one_that_judges(model, processor, dataset):
    attack = Fells(dataset, {0})
    spec = {"attacker_template": "a photo of a {}", "temperature": 1.0}
    result = evaluate(
        model, processor, dataset, "image", image_attacks={"one": attack}, threat_model=spec, batch_size=24
    )
    classifier = ZeroShotClassifier(model, processor, ("cat", "dog", "car"), "a photo of a {}")
    batch = pictures(dataset)
    logits = classifier.encoder.encode_images(batch["images"]) @ classifier.prompt_embeds.T
    assert torch.allclose(attack.losses[0], class_loss(logits, batch["labels"]), atol=1e-5)
    assert fallen(result["outcomes"]["image/one"]) == {0}


def test_embedding_attack_is_a_row_of_its_own(model, processor, dataset):
    spec = {"text_attacks": ("words", "embedding"), "rho": 1.0}
    result = evaluate(model, processor, dataset, ["text"], threat_model=spec)
    blind, own = (result[f"attacks/text/embedding/{adversary}"] for adversary in ("blind", "own"))
    assert result["embedding_accuracy"] <= min(blind, own) < 0.5 < result["text_accuracy"]
    assert result["worst_case_accuracy"] <= result["embedding_accuracy"]
    curve = result["embedding_curve"]
    assert curve["radius"] == [0, 0.25, 0.5, 1.0, 2.0, 4.0] and curve["accuracy"][0] == result["clean_accuracy"]
    assert curve["accuracy"] == sorted(curve["accuracy"], reverse=True) and curve["accuracy"][3] == own
    shares = curve["share_of_nearest_class"]
    assert shares[0] == 0 and shares[5] == pytest.approx(16 * shares[1]) and 0 < shares[3] < 10


def test_a_real_attack_breaks_the_model_and_a_larger_budget_breaks_it_more(model, processor, dataset):
    accuracy = {
        epsilon: evaluate(model, processor, dataset, ["image"], threat_model={"epsilon": epsilon})["image_accuracy"]
        for epsilon in (0.02, 0.05, 0.2)
    }
    assert 1 >= accuracy[0.02] > accuracy[0.05] > accuracy[0.2] == 0


@pytest.mark.slow
def test_every_attack_of_the_strong_preset_runs(model, processor, dataset):
    spec = ThreatModel.preset("strong", epsilon=0.03, num_steps=3, restarts=2, num_text_steps=2)
    result = evaluate(
        model, processor, dataset.select(range(6)), threat_model=spec, candidates={"known": KNOWN}, sanity=True
    )
    names = {"pgd-ce", "pgd-margin", "strong"}
    assert {name.removeprefix("image/") for name in result["outcomes"] if name.startswith("image/")} == names
    both = {name.removeprefix("multimodal/") for name in result["outcomes"] if name.startswith("multimodal/")}
    looking = {f"{name}/{adversary}" for name in ("independent", "adaptive") for adversary in ("shared", "own", "all")}
    assert both == looking | {"co-attack/blind", "sga/own", "joint/all"}
    assert [finding for finding in result["sanity"] if finding["passed"] is False] == []


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["co-attack/blind", "sga/own", "joint/all"])
def test_attacks_that_choose_texts_by_the_image_are_judged_with_their_own_texts(model, processor, dataset, name):
    spec = {"epsilon": 0.1, "multimodal_attacks": (name.partition("/")[0],), "skip_fallen": False}
    result = evaluate(model, processor, dataset, threat_model=spec)
    assert result[f"attacks/multimodal/{name}"] < result["text_accuracy"]
    still = evaluate(model, processor, dataset, threat_model={**spec, "epsilon": 0.0001})
    assert still[f"attacks/multimodal/{name}"] > result[f"attacks/multimodal/{name}"]


# What is left as it was, and what repeats


def test_the_model_is_left_as_it_was(model, processor, dataset):
    model.train()
    model.visual_projection.requires_grad_(False)
    model.logit_scale.grad = torch.tensor(3.0)
    before = {name: (weight.requires_grad, weight.clone()) for name, weight in model.named_parameters()}
    state = torch.get_rng_state()
    evaluate(model, processor, dataset.select(range(4)), threat_model="standard")
    assert all(module.training for module in model.modules())
    for name, weight in model.named_parameters():
        assert weight.requires_grad == before[name][0] and torch.equal(weight, before[name][1])
        assert weight.grad is None or name == "logit_scale"
    assert model.logit_scale.grad == 3.0 and torch.equal(torch.get_rng_state(), state)


def test_the_model_is_left_as_it_was_after_an_error(model, processor, dataset):
    def broken(images, loss_fn, generator=None):
        raise RuntimeError("out of memory")

    model.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(model, processor, dataset, image_attacks={"broken": broken})
    assert model.training and all(weight.requires_grad for weight in model.parameters())


def test_a_seed_gives_one_result_and_another_seed_another_attack(model, processor, dataset):
    def final_images(seed):
        seen = []

        class Recorder:
            def __call__(self, images, loss_fn, generator=None):
                seen.append(torch.rand(images.shape, generator=generator))
                return images

        evaluate(model, processor, dataset, ["image"], image_attacks={"one": Recorder()}, threat_model={"seed": seed})
        return torch.cat(seen)

    assert torch.equal(final_images(0), final_images(0))
    assert not torch.equal(final_images(0), final_images(1))
    assert not torch.equal(final_images(0)[:10], final_images(0)[10:20])  # batches have random numbers of their own


def test_a_subsample_is_the_same_for_every_seed(model, processor, dataset):
    rows = [
        evaluate(model, processor, dataset, ["clean"], max_samples=7, threat_model={"seed": seed})["row_ids"]
        for seed in (0, 1)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 7 and rows[0] != list(range(7))


# Budgets of zero


def test_epsilon_zero_equals_clean_and_warns(model, processor, dataset):
    with pytest.warns(UserWarning, match="image attack has no budget"):
        result = evaluate(model, processor, dataset, ["image"], threat_model={"epsilon": 0})
    assert result["outcomes"]["image/pgd-ce"] == result["outcomes"]["clean"]


@pytest.mark.parametrize("budget", [{"num_candidates": 0}, {"max_changes": 0}])
def test_a_text_attack_without_budget_equals_clean_and_warns(model, processor, dataset, budget):
    with pytest.warns(UserWarning, match="text/words attack has no budget"):
        result = evaluate(model, processor, dataset, ["text"], threat_model=budget)
    for adversary in ("shared", "own", "all"):
        assert result["outcomes"][f"text/words/{adversary}"] == result["outcomes"]["clean"]
    assert result["adv_prompts"]["text/words/shared"] == result["prompts"]


# Bad input


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"class_names": ["cat"]}, "at least two classes"),
        ({"class_names": ["cat", "dog"]}, r"label 2, outside \[0, 2\)"),
        ({"class_names": ["cat", "dog", "a car " * 9]}, "context holds 16"),
        ({"attacks": ["audio"]}, "choose from clean"),
        ({"threat_model": "weak"}, "choose from paper"),
        ({"threat_model": {"image_attacks": ("fgms",)}}, "choose from pgd-ce"),
        ({"threat_model": {"image_attacks": ()}}, "`image_attacks` is empty"),
        ({"threat_model": {"text_attacks": ()}}, "`text_attacks` is empty"),
        ({"threat_model": {"text_attacks": ("embedding",)}}, "needs texts to present"),
        ({"threat_model": {"text_attacks": ("characters",), "multimodal_attacks": ("joint",)}}, 'add "words"'),
        ({"threat_model": {"attacker_template": "a " * 20 + "{}"}}, "context holds 16"),
        ({"candidates": {}}, "empty mapping"),
        ({"candidates": {"a:b": KNOWN}}, "colon"),
        ({"candidates": None, "threat_model": {"candidates": "dictionary"}}, "must be neighbours"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"max_samples": 0}, "`max_samples` must be at least 1"),
        ({"label_column": "y"}, "no column 'y'"),
    ],
)
def test_bad_input_is_named(model, processor, dataset, changes, text):
    with pytest.raises(ValueError, match=text):
        evaluate(model, processor, dataset, **changes)


def test_an_empty_data_set_is_refused(model, processor, dataset):
    with pytest.raises(ValueError, match="is empty"):
        evaluate(model, processor, dataset.select([]))


def test_a_streamed_data_set_is_refused(model, processor, dataset):
    with pytest.raises(ValueError, match="map-style"):
        evaluate(model, processor, dataset.to_iterable_dataset())


def test_captions_without_labels_are_told_what_is_missing(model, processor, dataset):
    captions = dataset.remove_columns("label").add_column("text", ["a cat"] * len(dataset))
    with pytest.raises(ValueError, match=r"no label column.*captions.*`class_names`"):
        evaluate(model, processor, captions)


def test_labels_without_names_are_told_what_is_missing(model, processor, dataset):
    with pytest.raises(ValueError, match="`class_names` is needed"):
        evaluate(model, processor, dataset.cast_column("label", datasets.Value("int64")))


def test_a_model_without_a_temperature_is_refused(model, processor, dataset):
    del model.logit_scale
    with pytest.raises(TypeError, match="has no logit_scale"):
        evaluate(model, processor, dataset)


def test_a_model_that_overflows_is_refused(model, processor, dataset):
    with torch.no_grad():
        model.visual_projection.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="non-finite logits for the clean image of row 0"):
        evaluate(model, processor, dataset, ["image"])


def test_sharded_weights_are_refused(model, processor, dataset):
    next(model.parameters()).ds_id = 0  # DeepSpeed ZeRO-3's mark
    with pytest.raises(ValueError, match=r"pass `trainer\.whole_model\(\)`"):
        evaluate(model, processor, dataset)


def test_processes_that_do_not_know_of_each_other_are_refused(model, processor, dataset, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = type("State", (), {"num_processes": 1, "device": torch.device("cpu")})()
    with pytest.raises(ValueError, match="2 processes were launched and `accelerator` knows of 1"):
        evaluate(model, processor, dataset, accelerator=alone)


def test_a_different_resolution_is_recorded(model, processor):
    small = evaluate(model, processor, squares(6), ["clean"])
    large = evaluate(model, processor, squares(6, size=40), ["clean"])
    assert small["attack_spec"]["perturb_at"] == "native" and large["attack_spec"]["perturb_at"] == "model"


def test_class_names_in_another_order_than_the_data_sets_are_refused(model, processor, dataset):
    permuted = [*CLASS_NAMES[1:], CLASS_NAMES[0]]
    with pytest.raises(ValueError, match=f"Given: {permuted[0]}, {permuted[1]}, {permuted[2]}") as caught:
        evaluate(model, processor, dataset, class_names=permuted)
    assert f"The data: {', '.join(CLASS_NAMES)}" in str(caught.value)
    assert evaluate(model, processor, dataset, ["clean"], class_names=[name.upper() for name in CLASS_NAMES])


def test_pictures_of_a_folder_are_measured_as_arrays_of_them_are(model, processor, dataset, tmp_path):
    """The same pictures as class folders, as floats with the channels first, and with words over all splits."""
    expected = evaluate(model, processor, dataset, ["clean"])
    folder = tmp_path / "folder"
    for number, row in enumerate(dataset):
        for split in ("test", "extra"):
            path = folder / split / str(row["label"] + 1) / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(path)
    (folder / "classnames.txt").write_text("\n".join(CLASS_NAMES))
    (folder / "test" / ".ipynb_checkpoints").mkdir()
    (folder / "test" / ".ipynb_checkpoints" / "0.png").write_bytes(b"")
    arrays = [np.asarray(image).transpose(2, 0, 1) / 255 for image in dataset["image"]]
    floats = datasets.Dataset.from_dict({"image": arrays, "label": [CLASS_NAMES[n] for n in dataset["label"]]})
    floats.to_parquet(tmp_path / "floats" / "test.parquet")
    for path in (folder, tmp_path / "floats"):
        loaded = load_benchmark(str(path))
        assert len(loaded) == len(dataset)
        found = evaluate(model, processor, loaded, ["clean"])
        assert found["clean_accuracy"] == expected["clean_accuracy"]
