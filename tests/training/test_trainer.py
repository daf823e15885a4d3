"""The trainer: what it attacks, what moves, what it logs, what it saves, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import warnings

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.attacks.pgd import PGD
from hf_mmcoa.attacks.text_embedding import TextEmbeddingPGD
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.gradients import gradient
from hf_mmcoa.losses import class_targets, contrastive_loss
from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.objectives import Clean, MMCoA
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.training.trainer import MMCoATrainer

NAMES = ["cat", "dog", "red_car"]
SUBSTITUTES = SynonymTable({"cat": ("feline",), "dog": ("hound",), "red": ("scarlet",)})


def picture_rows(count=12, text=False, size=32):
    """Pictures whose grey level tells the class, so that there is something to learn."""
    rng = np.random.default_rng(0)
    labels = [row % 3 for row in range(count)]
    pictures = [
        Image.fromarray((80 * label + rng.integers(0, 60, (size, size, 3))).astype(np.uint8)) for label in labels
    ]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    columns = {"image": pictures, "label": labels}
    if text:
        features["text"] = datasets.Value("string")
        columns["text"] = [f"a picture of a {NAMES[label]} {row}" for row, label in enumerate(labels)]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def make(tiny_clip, tiny_processor, tmp_path):
    """A trainer on twelve pictures; keyword arguments go to the config, `trainer` holds those of the trainer."""

    def args(settings, config):
        return MMCoAConfig(**{**MMCoAConfig.without_unread(settings, config), **config})

    def build(trainer=None, model=None, **config):
        settings = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-3,
            "epsilon": "8/255",
            "step_size": "4/255",
            "num_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "do_eval": True,  # so that the settings of the attacks are read, whatever the objective attacks
        }
        rows = picture_rows()
        given = {
            "train_dataset": rows,
            "eval_dataset": rows,
            "processing_class": tiny_processor,
            "text_attack": BertAttack(candidates=SUBSTITUTES),
            **(trainer or {}),
        }
        return MMCoATrainer(model if model is not None else tiny_clip, args(settings, config), **given)

    return build


def changed_parameters(before, model):
    return {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}


def snapshot(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


# What trains


def test_two_steps_train_both_towers_and_log_the_terms(make, tiny_clip):
    before = snapshot(tiny_clip)
    trainer = make()
    trainer.train()
    moved = changed_parameters(before, tiny_clip)
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} <= moved
    logged = [entry for entry in trainer.state.log_history if "loss_image" in entry]
    assert len(logged) == 2
    for entry in logged:  # logged unweighted, so that they add up with the weights
        assert entry["loss"] == pytest.approx(0.5 * entry["loss_image"] + 0.5 * entry["loss_text"], rel=1e-5)


@pytest.mark.parametrize(
    ("field", "frozen"),
    [
        ("train_image_encoder", ("vision_model.", "visual_projection.")),
        ("train_text_encoder", ("text_model.", "text_projection.")),
        ("train_logit_scale", ("logit_scale",)),
    ],
)
def test_a_frozen_part_does_not_move(make, tiny_clip, field, frozen):
    before = snapshot(tiny_clip)
    make(**{field: False}).train()
    moved = changed_parameters(before, tiny_clip)
    assert moved and not any(name.startswith(frozen) for name in moved)


# The loss is the paper's


def batch_of(trainer):
    return next(iter(trainer.get_train_dataloader()))


def by_hand(trainer, inputs):
    """Compute the loss of docs/methods.md, section 2, written out: attacks re-run, every view encoded on its own."""
    model, processor = trainer.model, trainer.processing_class
    encoder = DualEncoder(model, processor)
    images, labels, args = inputs["images"], inputs["labels"], trainer.args
    prompts = encoder.encode_texts(trainer.prompts)

    def loss_fn(x):
        return F.cross_entropy(encoder.logit_scale * encoder.encode_images(x) @ prompts.T, labels, reduction="none")

    attack = PGD(epsilon=args.epsilon, step_size=args.step_size, num_steps=args.num_steps, random_start=False)
    adv_images = attack(images, loss_fn)
    texts = [trainer.prompts[label] for label in labels.tolist()]
    adv_texts = trainer.attacker.word_attack(texts, encoder.encode_texts)
    assert all(a != b for a, b in zip(texts, adv_texts, strict=True))
    targets = class_targets(labels) if args.targets == "class" else None
    scale = encoder.logit_scale
    image_term = contrastive_loss(encoder.encode_images(adv_images), encoder.encode_texts(texts), scale, targets)
    text_term = contrastive_loss(encoder.encode_images(images), encoder.encode_texts(adv_texts), scale, targets)
    return image_term, text_term


@pytest.mark.parametrize("targets", ["diagonal", "class"])
def test_compute_loss_is_the_equation(make, targets):
    trainer = make(random_start=False, targets=targets, lambda_image=0.3, lambda_text=0.9)
    inputs = batch_of(trainer)
    image_term, text_term = by_hand(trainer, inputs)
    loss = trainer.compute_loss(trainer.model, inputs)
    assert loss.item() == pytest.approx((0.3 * image_term + 0.9 * text_term).item(), rel=1e-5)


def test_lambda_clean_adds_the_clean_term(make):
    inputs = batch_of(make())
    trainer = make(lambda_image=0, lambda_text=0, lambda_clean=1)
    clean = make(objective="clean")
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(
        clean.compute_loss(clean.model, inputs).item()
    )


def test_a_weight_of_zero_runs_no_attack(make):
    def refuse(*args, **kwargs):
        raise AssertionError("attacked")

    trainer = make(trainer={"image_attack": refuse, "text_attack": refuse}, objective="clean")
    trainer.train()
    with pytest.raises(AssertionError, match="attacked"):
        make(trainer={"image_attack": refuse}).train()


def test_one_forward_of_the_wrapped_model_a_step(make):
    trainer, calls = make(), []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.compute_loss(trainer.model, batch_of(trainer))
    assert len(calls) == 1


def test_attacks_leave_no_gradient_and_no_trace(make):
    trainer = make()
    inputs = batch_of(trainer)
    state = torch.get_rng_state()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    assert all(weight.grad is None and weight.requires_grad for weight in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model.training and loss.requires_grad


def test_attacks_move_where_the_softmax_is_saturated(make):
    """A temperature at which the cross-entropy has no gradient for some sample in float32."""
    trainer = make(random_start=False, temperature=1e8)
    batch = trainer._read(batch_of(trainer))
    encoder, scale = trainer.attacker.encoder, trainer.attacker.attacked_scale

    def loss_fn(images):
        logits = scale * encoder.encode_images(images) @ batch.anchors.T
        return F.cross_entropy(logits, batch.anchor_ids, reduction="none")

    flat = ~gradient(loss_fn, batch.images).flatten(1).any(1)
    assert flat.any()
    adv_images, _ = trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))
    assert (adv_images != batch.images).flatten(1).any(1).all()


def test_accumulated_attack_gradients_are_the_release_s_step(make):
    """The release calls `loss.backward()` in every PGD step and never clears what that leaves on the weights."""
    trainer = make(accumulate_attack_gradients=True, random_start=False)
    inputs = batch_of(trainer)
    trainer.compute_loss(trainer.model, inputs).backward()
    ours = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}

    trainer.model.zero_grad()
    plain = make(random_start=False, model=trainer.model)
    encoder = DualEncoder(plain.model, plain.processing_class)
    images, labels, args = inputs["images"], inputs["labels"], plain.args
    delta = torch.zeros_like(images)
    for _ in range(args.num_steps):  # the release's procedure, restated
        delta.requires_grad_()
        logits = encoder.logit_scale * encoder.encode_images(images + delta) @ encoder.encode_texts(plain.prompts).T
        F.cross_entropy(logits, labels).backward()
        with torch.no_grad():
            delta = (delta + args.step_size * delta.grad.sign()).clamp(-args.epsilon, args.epsilon)
            delta = (images + delta).clamp(0, 1) - images
    plain.compute_loss(plain.model, inputs).backward()
    for name, weight in plain.model.named_parameters():
        assert torch.allclose(ours[name], weight.grad, rtol=1e-3, atol=1e-5), name
    assert not torch.allclose(ours["visual_projection.weight"], _gradient(plain, inputs)["visual_projection.weight"])


def _gradient(trainer, inputs):
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    return {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("kind", ["embedding", "words+embedding"])
def test_the_embedding_attack_raises_the_text_term(make, kind):
    words_or_nothing = make(
        text_attack="words" if "words" in kind else "none", lambda_text=0 if kind == "embedding" else 1
    )
    inputs = batch_of(words_or_nothing)
    trainer = make(text_attack=kind, rho=1.0)
    attacked = trainer.objective(trainer.compute_loss(trainer.model, inputs, return_outputs=True)[1])[1]["loss_text"]
    if kind == "embedding":
        weaker = make(objective="clean").compute_loss(trainer.model, inputs)
    else:
        embeds = words_or_nothing.compute_loss(trainer.model, inputs, return_outputs=True)[1]
        weaker = words_or_nothing.objective(embeds)[1]["loss_text"]
    assert attacked > weaker + 0.01
    trainer.compute_loss(trainer.model, inputs).backward()
    assert encoding.token_embedding_layer(trainer.model).weight.grad.abs().sum() > 0


def test_gradient_accumulation_averages(make, tiny_clip):
    """Two half batches accumulated take the step of their mean loss, not of their sum."""
    settings = {"objective": "clean", "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 1.0, "max_steps": 1}
    rows = picture_rows(6)
    models = []
    for accumulation, repeat in ((1, 1), (2, 2)):
        model = copy.deepcopy(tiny_clip)
        data = datasets.concatenate_datasets([rows] * repeat)
        trainer = make(
            trainer={"train_dataset": data},
            model=model,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            lr_scheduler_type="constant",
            **settings,
        )
        trainer.train()
        models.append(model)
    one, two = (dict(model.named_parameters()) for model in models)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


# Captions


def test_captions_need_no_labels(make):
    rows = picture_rows(text=True).remove_columns("label")
    trainer = make(trainer={"train_dataset": rows, "eval_dataset": rows})
    assert trainer.prompts is None
    trainer.train()
    assert trainer.state.log_history[0]["loss_text"] > 0


def test_training_draws_one_of_several_captions_and_evaluation_takes_the_first(make):
    rows = picture_rows(text=True).remove_columns("label")
    rows = rows.remove_columns("text").add_column("text", [["a cat", "a dog", "a car"]] * len(rows))
    trainer = make(trainer={"train_dataset": rows, "eval_dataset": rows})
    assert len({trainer.train_dataset[0]["text"] for _ in range(30)}) == 3
    assert {trainer.eval_dataset[0]["text"] for _ in range(30)} == {"a cat"}


def test_captions_that_are_cut_off_are_named_once(make):
    rows = picture_rows(text=True).remove_columns("label").map(lambda row: {"text": "a cat " * 60})
    trainer = make(trainer={"train_dataset": rows, "eval_dataset": None})
    with pytest.warns(
        UserWarning, match=r"of a batch are longer than the context of .* for example 'a cat a cat"
    ) as seen:
        trainer.train()
    assert len([each for each in seen if "longer than the context" in str(each.message)]) == 1


def test_class_names_in_another_order_than_the_data_sets_are_refused(make):
    names = picture_rows().features["label"].names
    with pytest.raises(ValueError, match=r"`class_names` are the data set's own in another order"):
        make(trainer={"class_names": names[::-1]})


def test_a_transform_of_the_data_set_is_refused(make):
    with pytest.raises(ValueError, match=r"has a transform .*dataset\.map"):
        make(trainer={"train_dataset": picture_rows().with_transform(lambda batch: batch)})


def test_the_same_caption_is_one_class_target(make):
    rows = picture_rows(text=True).remove_columns("label")
    rows = rows.map(lambda row: {"text": "a cat"})
    trainer = make(trainer={"train_dataset": rows, "eval_dataset": rows}, targets="class", objective="clean")
    embeds = trainer.compute_loss(trainer.model, batch_of(trainer), return_outputs=True)[1]
    assert torch.allclose(embeds.targets, torch.full((6, 6), 1 / 6))


def test_rows_without_texts_or_names_are_refused(make):
    rows = picture_rows().remove_columns("label")
    with pytest.raises(ValueError, match="neither a text column nor a label column"):
        make(trainer={"train_dataset": rows, "eval_dataset": rows}).train()


def test_a_streamed_data_set_trains(make):
    rows = picture_rows().to_iterable_dataset()
    trainer = make(trainer={"train_dataset": rows}, perturb_at="native")
    trainer.train()
    assert trainer.prompts[2] == "This is a photo of a red car" and trainer.state.global_step == 2


# Evaluation


def test_evaluate_reports_the_four_accuracies_and_attacks_under_no_grad(make):
    settings = {"max_steps": 60, "learning_rate": 3e-3, "objective": "clean", "lr_scheduler_type": "constant"}
    trainer = make(epsilon="120/255", step_size="30/255", num_steps=5, **settings)
    trainer.train()
    metrics = trainer.evaluate()
    accuracies = [metrics[f"eval_{threat}_accuracy"] for threat in ("clean", "image", "text", "multimodal")]
    assert accuracies[0] == 1.0
    assert accuracies[1] < 0.5  # the attack works under the Trainer's no_grad
    assert accuracies[3] == min(accuracies)  # an attacker of both may leave one alone
    assert np.isfinite(metrics["eval_loss"])
    trainer.state.global_step = 7  # what the attacks draw depends on the seed and not on when they are evaluated
    again = trainer.evaluate()
    assert all(again[name] == value for name, value in metrics.items() if name.endswith(("accuracy", "loss")))


def test_evaluate_attacks_the_prompts_once(make):
    calls = []
    attack = BertAttack(candidates=SUBSTITUTES)

    def counted(texts, encode):
        calls.append(list(texts))
        return attack(texts, encode)

    trainer = make(trainer={"text_attack": counted}, per_device_eval_batch_size=2)
    trainer.evaluate()
    assert calls == [trainer.prompts]


def test_the_best_model_is_chosen_by_multimodal_accuracy(make, tmp_path):
    trainer = make(
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_multimodal_accuracy",
    )
    trainer.train()
    best = max(entry["eval_multimodal_accuracy"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert trainer.state.best_metric == best and trainer.state.best_model_checkpoint


def test_your_own_metrics_stand_beside_ours(make):
    trainer = make(trainer={"compute_metrics": lambda prediction: {"rows": len(prediction.predictions)}})
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == 12 and "eval_image_accuracy" in metrics


# Objects instead of settings


def test_your_own_objective_decides_what_runs(make):
    trainer = make(trainer={"objective": Clean(), "image_attack": None})
    assert isinstance(trainer.objective, Clean)
    assert isinstance(make(lambda_clean=1.0).objective, MMCoA)


# Files


def test_the_saved_folder_is_a_plain_clip_and_no_pickle(make, tmp_path):
    trainer = make()
    trainer.train()
    trainer.save_model(str(tmp_path / "robust"))
    model = CLIPModel.from_pretrained(tmp_path / "robust")
    CLIPProcessor.from_pretrained(tmp_path / "robust")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True))
    names = {file.name for file in (tmp_path / "robust").iterdir()}
    assert "training_args.yaml" in names and not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    text = (tmp_path / "robust" / "training_args.yaml").read_text()
    assert "num_steps: 2" in text and "token" not in text


@pytest.mark.few(1)
@pytest.mark.parametrize("mid_epoch", [False, True])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(make, tiny_clip, tmp_path, mid_epoch):
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 4 if mid_epoch else 6,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = make(model=copy.deepcopy(tiny_clip), output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    resumed = make(model=copy.deepcopy(tiny_clip), output_dir=str(tmp_path / "whole"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_folder_that_is_no_checkpoint_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match=r"no trainer_state\.json.*none in `output_dir`"):
        make().train(resume_from_checkpoint=str(tmp_path))


# Every setting has its effect


def own_attack(make, **config):
    return make(trainer={"text_attack": None}, **config).attacker.word_attack


@pytest.mark.parametrize(
    ("setting", "value", "read"),
    [
        ("num_candidates", 3, lambda attack: attack.num_candidates),
        ("max_changes", 2, lambda attack: attack.max_changes),
        ("protect_template", False, lambda attack: attack.protect_template),
        ("forbid_class_names", False, lambda attack: attack.forbid_class_names),
        ("template", "a {}", lambda attack: attack.template),
        ("candidates", "hotflip", lambda attack: type(attack.candidates).__name__.removesuffix("Candidates").lower()),
    ],
)
def test_a_word_attack_of_the_settings(make, setting, value, read):
    assert read(own_attack(make, **{setting: value})) == value != read(own_attack(make))


def test_the_masked_lm_settings_reach_the_source(make, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "hf_mmcoa.training.attacker.candidate_source",
        lambda name, model, tokenizer, masked_lm, align: (
            seen.update(name=name, lm=masked_lm, align=align) or SUBSTITUTES
        ),
    )
    own_attack(make, candidates="masked-lm", masked_lm="some/bert", align_to_cls=False)
    assert seen == {"name": "masked-lm", "lm": "some/bert", "align": False}


def test_the_template_makes_the_prompts(make):
    assert make(template="a picture of the {}").prompts[2] == "a picture of the red car"


@pytest.mark.parametrize(("setting", "size"), [("native", 16), ("model", 32)])
def test_the_budget_applies_where_perturb_at_says(make, setting, size):
    trainer = make(trainer={"train_dataset": picture_rows(size=16)}, perturb_at=setting)
    assert batch_of(trainer)["images"].shape[-1] == size


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_stays_in_its_ball_and_fills_it(make, norm):
    trainer = make(norm=norm, epsilon=0.1, step_size=0.05, num_steps=4, random_start=False)
    batch = trainer._read(batch_of(trainer))
    shift = (trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))[0] - batch.images).flatten(1)
    size = shift.abs().amax(1) if norm == "linf" else shift.norm(dim=1)
    assert torch.allclose(size, torch.full((6,), 0.1), atol=5e-3)


@pytest.mark.parametrize("random_start", [True, False])
def test_every_step_and_every_accumulated_batch_has_its_own_random_start(make, random_start):
    trainer = make(random_start=random_start, accumulate_attack_gradients=True)  # which keeps the attack's iterates
    batch, starts = trainer._read(batch_of(trainer)), []
    for step in ((0, 0), (0, 1), (1, 0)):
        trainer.attacker.step, trainer.attacker.batch_of_step = step
        starts.append(trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))[1][0])
    assert torch.equal(starts[0], batch.images) is not random_start
    assert all(torch.equal(starts[0], other) is not random_start for other in starts[1:])


def embedding_shift(make, **config):
    trainer = make(text_attack="embedding", **config)
    batch = trainer._read(batch_of(trainer))
    attacked = trainer.attacker.attack_texts("embedding", batch.texts, batch.anchors, batch.text_anchor_ids)
    return attacked.shift.norm(dim=-1).max() / encoding.token_table(trainer.model).norm(dim=-1).mean()


def test_rho_is_the_radius_and_the_steps_divide_it(make):
    assert embedding_shift(make, rho=0.25).item() == pytest.approx(0.25, rel=1e-3)
    few, many = (
        make(text_attack="embedding", num_text_steps=steps).attacker.text_attacks["embedding"].attack
        for steps in (1, 7)
    )
    assert (few.num_steps, many.num_steps) == (1, 7)


def test_a_temperature_above_100_is_brought_back(make, tiny_clip):
    tiny_clip.logit_scale.data.fill_(10.0)  # beyond the clamp of the loss: without the callback it has no gradient
    make(max_steps=1, weight_decay=0.0).train()
    assert tiny_clip.logit_scale.item() == pytest.approx(math.log(100))


@pytest.mark.slow
def test_evaluation_of_captions_places_each_attacked_text_at_its_own(make):
    rows = picture_rows(text=True).remove_columns("label")
    data = {"train_dataset": rows, "eval_dataset": rows, "text_attack": lambda texts, encode: list(texts)}
    trainer = make(
        trainer=data, epsilon=0, per_device_eval_batch_size=12, objective="clean", max_steps=60, learning_rate=3e-3
    )
    trainer.train()
    metrics = trainer.evaluate()  # attacks that do nothing change nothing
    assert metrics["eval_text_accuracy"] == metrics["eval_multimodal_accuracy"] == metrics["eval_clean_accuracy"] > 0.3


@pytest.mark.parametrize("labels", [True, False])
def test_the_iterates_of_captions_are_scored_against_their_own_anchors(make, labels):
    rows = picture_rows(text=True)
    rows = rows if labels else rows.remove_columns("label")
    trainer = make(
        trainer={"train_dataset": rows, "eval_dataset": rows}, accumulate_attack_gradients=True, random_start=False
    )
    inputs = batch_of(trainer)
    embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)[1]
    batch = trainer._read(inputs)
    assert torch.allclose(embeds.prompt_embeds[embeds.labels], batch.anchors[batch.anchor_ids], atol=1e-5)


@pytest.mark.slow
def test_evaluate_reports_a_text_attack_that_works(make):
    swap: dict[str, str] = {}
    trainer = make(
        trainer={"text_attack": lambda texts, encode: [swap[text] for text in texts]},
        **{"max_steps": 60, "learning_rate": 3e-3, "objective": "clean", "epsilon": 0, "lr_scheduler_type": "constant"},
    )
    trainer.train()
    swap |= {trainer.prompts[k]: trainer.prompts[(k + 1) % 3] for k in range(3)}
    m = trainer.evaluate()
    assert m["eval_clean_accuracy"] == m["eval_image_accuracy"] == 1
    assert m["eval_text_accuracy"] == m["eval_multimodal_accuracy"] == 0


# Bad input


def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_rows(make, tiny_clip, tmp_path):
    tiny_clip.visual_projection.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0; .*non_finite_step_0"):
        make(objective="clean").train()
    saved = json.loads((tmp_path / "out" / "non_finite_step_0_process_0.json").read_text())
    assert saved["step"] == 0 and len(saved["row_ids"]) == 6 and set(saved["row_ids"]) <= set(range(12))


def test_a_model_that_is_broken_before_the_attack_stops_with_its_rows_too(make, tiny_clip, tmp_path):
    tiny_clip.text_projection.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 0; .*non_finite_step_0"):
        make().train()
    assert (tmp_path / "out" / "non_finite_step_0_process_0.json").is_file()


def test_evaluation_data_of_other_classes_are_refused(make):
    other = picture_rows().cast_column("label", datasets.ClassLabel(names=[f"n{index}" for index in range(len(NAMES))]))
    with pytest.raises(ValueError, match="differ in their class names"):
        make(trainer={"eval_dataset": {"same": picture_rows(), "other": other}})
    make(trainer={"eval_dataset": other, "class_names": NAMES})
    turned = picture_rows().cast_column("label", datasets.ClassLabel(names=NAMES[::-1]))
    with pytest.raises(ValueError, match="in another order"):
        make(trainer={"eval_dataset": turned})


def test_each_data_set_has_its_own_perturbation_size(make):
    trainer = make(trainer={"eval_dataset": picture_rows(size=48)})
    assert batch_of(trainer)["images"].shape[-1] == 32
    assert next(iter(trainer.get_eval_dataloader()))["images"].shape[-1] == 32


def test_labels_outside_the_class_names_are_refused(make):
    with pytest.raises(ValueError, match="row 2 has label 2, outside"):
        make(trainer={"class_names": ["cat", "dog"]})


def test_class_names_that_collide_are_named(make):
    with pytest.warns(UserWarning, match="red_car.*red-car"):
        make(trainer={"class_names": ["red_car", "dog", "red-car"]})


def test_an_empty_split_is_refused(make):
    with pytest.raises(ValueError, match="empty"):
        make(trainer={"train_dataset": picture_rows().select([])})


def test_one_of_model_and_model_init(make, tiny_clip, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="`model` and `model_init`"):
        MMCoATrainer(None, MMCoAConfig(output_dir=str(tmp_path)), processing_class=tiny_processor)
    trainer = MMCoATrainer(
        None,
        make().args,
        train_dataset=picture_rows(),
        processing_class=tiny_processor,
        text_attack=BertAttack(candidates=SUBSTITUTES),
        model_init=lambda: copy.deepcopy(tiny_clip),
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_model_made_anew_is_frozen_and_attacked_with_its_own_words(make, tiny_clip, tiny_processor):
    trainer = MMCoATrainer(
        None,
        make(train_text_encoder=False).args,
        train_dataset=picture_rows(),
        processing_class=tiny_processor,
        model_init=lambda trial: copy.deepcopy(tiny_clip),
    )
    trainer.train()
    assert not any(weight.requires_grad for weight in trainer.model.text_model.parameters())
    trainer.evaluate(picture_rows())
    assert trainer.attacker.word_attack.candidates.model is trainer.model


def test_matrices_alone_decay(make, tiny_clip):
    decayed = make().get_decay_parameter_names(tiny_clip)
    assert "visual_projection.weight" in decayed
    assert not {"logit_scale", "vision_model.embeddings.class_embedding"} & set(decayed)


def test_bf16_keeps_the_losses_of_the_attacks_in_fp32(make, monkeypatch):
    seen = []

    def watched(images, loss_fn, generator=None):
        seen.append(loss_fn(images).dtype)
        return images

    trainer = make(trainer={"image_attack": watched}, bf16=True, text_attack="words+embedding")
    attack = TextEmbeddingPGD.__call__

    def watched_embedding(self, model, input_ids, attention_mask, loss_fn, generator):
        def loss(embeds):
            seen.append(loss_fn(embeds).dtype)
            return loss_fn(embeds)

        return attack(self, model, input_ids, attention_mask, loss, generator)

    monkeypatch.setattr(TextEmbeddingPGD, "__call__", watched_embedding)
    trainer.train()
    assert set(seen) == {torch.float32} and len(seen) > 2


def test_nothing_warns_in_an_ordinary_run(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make().train()


def test_the_schedule_is_that_of_the_attack(make):
    attack = make(attack_schedule="fast").attacker.image_attack
    assert (attack.num_steps, attack.step_size) == (3, pytest.approx(20 / 3 / 255))
    assert make(num_steps=7).attacker.image_attack.num_steps == 7


def test_an_attack_that_stops_early_is_wrong_where_it_stopped_and_computes_less(make, tiny_clip):
    seen = []
    tiny_clip.vision_model.embeddings.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    attacked = {}
    for early in (False, True):
        trainer = make(attack_early_stop=early, num_steps=5, epsilon="64/255", step_size="16/255", random_start=False)
        batch = trainer._read(batch_of(trainer))
        seen.clear()
        attacked[early], _ = trainer.attacker.attack_images(batch, trainer.attacker.generator("images"))
        assert sum(seen) < 5 * 6 if early else seen == [6] * 5
    with torch.no_grad():
        fell = (trainer.attacker.encoder.encode_images(batch.images) @ batch.anchors.T).argmax(1) != batch.anchor_ids
    assert 0 < fell.sum() < 6  # those that were wrong before stay as they are
    assert torch.equal(attacked[True][fell], batch.images[fell])
    assert not torch.equal(attacked[True][~fell], batch.images[~fell])


# Arguments that are changed after construction


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("epsilon", 0.25, lambda attacker: attacker.image_attack.epsilon),
        ("num_steps", 3, lambda attacker: attacker.image_attack.num_steps),
        ("step_size", 0.125, lambda attacker: attacker.image_attack.step_size),
        ("norm", "l2", lambda attacker: attacker.image_attack.norm),
        ("random_start", False, lambda attacker: attacker.image_attack.random_start),
        ("restarts", 2, lambda attacker: attacker.image_attack.times),
        ("rho", 0.7, lambda attacker: attacker.text_attacks["embedding"].attack.rho),
        ("num_text_steps", 4, lambda attacker: attacker.text_attacks["embedding"].attack.num_steps),
        ("max_edits", 2, lambda attacker: attacker.character_attack.max_edits),
    ],
)
def test_arguments_changed_after_construction_reach_the_attacks(make, name, value, read):
    trainer = make(text_attack="embedding", max_steps=1)
    setattr(trainer.args, name, value)
    trainer.train()
    assert read(trainer.attacker) == value


def test_the_schedule_changed_after_construction_reaches_the_attack(make):
    trainer = make(max_steps=1, num_steps=7)
    trainer.args.attack_schedule = "fast"
    trainer.train()
    assert trainer.attacker.image_attack.num_steps == 3


def test_temperature_multiplies_the_attacked_cosines(make):
    assert make(temperature=3.0).attacker.attacked_scale.item() == 3
    trainer = make()
    assert trainer.attacker.attacked_scale.item() == pytest.approx(trainer.model.logit_scale.exp().item())
