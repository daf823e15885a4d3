"""What a user of transformers' `Trainer` expects holds for `MMCoATrainer`, with a plain `Trainer` as the yardstick."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import datasets
import evaluate
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score
from test_trainer import NAMES, make, picture_rows  # noqa: F401  # a fixture
from torch import nn
from transformers import EarlyStoppingCallback, HfArgumentParser, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.attacks.levenshtein import LevenshteinAttack
from hf_mmcoa.attacks.settings import THREATS
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.training.trainer import MMCoATrainer
from hf_mmcoa.zero_shot import ZeroShotClassifier

ACCURACIES = [f"eval_{threat}_accuracy" for threat in THREATS]


class PlainModel(nn.Module):
    """A zero-shot classifier as a plain `Trainer` wants it."""

    main_input_name = "images"

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images, labels=None, row_ids=None):
        logits = self.classifier(images)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def pair(make, tiny_clip, tiny_processor, tmp_path):  # noqa: F811
    """An `MMCoATrainer` and a plain `Trainer` of the same weights, data and arguments."""

    def build(trainer=None, rows=None, **config):
        rows = picture_rows(11) if rows is None else rows
        given = {"eval_dataset": rows, **(trainer or {})}
        config = {"per_device_eval_batch_size": 4, "report_to": "none", "disable_tqdm": True, "use_cpu": True} | config
        classifier = ZeroShotClassifier(copy.deepcopy(tiny_clip), tiny_processor, class_prompts(NAMES, "a {}"), "{}")
        plain = Trainer(
            PlainModel(classifier),
            TrainingArguments(str(tmp_path / "plain"), remove_unused_columns=False, **config),
            data_collator=collate,
            **given | {"eval_dataset": ImageRows(rows)},
        )
        return make(trainer=given, template="a {}", **config), plain

    return build


def accuracy(prediction):
    return {"accuracy": accuracy_score(prediction.label_ids, prediction.predictions.argmax(1))}


def close(ours, theirs):
    return all(np.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


# Predictions


def test_predictions_are_class_logits_and_labels(pair):
    ours, plain = (trainer.predict(trainer.eval_dataset) for trainer in pair())
    assert ours.predictions.shape == (11, 3) and close(ours.predictions, plain.predictions)
    assert np.array_equal(ours.label_ids, plain.label_ids) and ours.label_ids.dtype == plain.label_ids.dtype
    assert {f"test_{threat}_accuracy" for threat in THREATS} | {"test_loss", "test_runtime"} <= set(ours.metrics)


def test_predict_decodes_a_data_set(make):  # noqa: F811
    found = make().predict(picture_rows(5), metric_key_prefix="held_out")
    assert found.label_ids.tolist() == [0, 1, 2, 0, 1] and "held_out_clean_accuracy" in found.metrics


def test_images_without_labels_are_predicted(pair):
    rows = picture_rows(11)
    unlabelled = rows.remove_columns("label")
    ours, plain = pair()
    found, expected = ours.predict(unlabelled), plain.predict(ImageRows(unlabelled))
    assert found.label_ids is None is expected.label_ids
    assert close(found.predictions, expected.predictions)
    assert not any("accuracy" in name or "loss" in name for name in found.metrics)


def test_a_scikit_learn_metric_is_the_clean_accuracy(pair):
    ours, plain = (trainer.evaluate() for trainer in pair({"compute_metrics": accuracy}))
    assert ours["eval_accuracy"] == plain["eval_accuracy"] == pytest.approx(ours["eval_clean_accuracy"])


def test_a_metric_of_evaluate_is_the_clean_accuracy(make, tmp_path):  # noqa: F811
    class Accuracy(evaluate.Metric):  # the Hub's needs the Hub
        def _info(self):
            features = datasets.Features(
                {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
            )
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions, references):
            return {"accuracy": accuracy_score(references, predictions)}

    metric = Accuracy(cache_dir=str(tmp_path))
    trainer = make(
        trainer={"compute_metrics": lambda found: metric.compute(predictions=found[0].argmax(1), references=found[1])}
    )
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == pytest.approx(metrics["eval_clean_accuracy"])


def test_predictions_of_captions_are_similarities_among_those_of_the_batch(make, tiny_clip, tiny_processor):  # noqa: F811
    rows = picture_rows(10, text=True).remove_columns("label")
    rows = rows.map(lambda row, index: {"text": "a cat" if index in (1, 2) else row["text"]}, with_indices=True)
    trainer = make(
        trainer={"train_dataset": rows, "eval_dataset": rows, "compute_metrics": accuracy}, per_device_eval_batch_size=4
    )
    found, texts = trainer.predict(rows), rows["text"]
    assert found.label_ids.tolist() == [0, 1, 1, 2, 0, 1, 2, 3, 0, 1]
    assert found.predictions.shape == (10, 4) and (found.predictions[:4, 3] == -100).all()  # as the Trainer pads
    batch = tiny_processor(
        text=[texts[row] for row in range(4, 8)], images=[rows[row]["image"] for row in range(4, 8)],
        return_tensors="pt", padding=True,
    )  # fmt: skip
    with torch.no_grad():
        assert close(found.predictions[4:8], tiny_clip(**batch).logits_per_image.numpy())
    assert found.metrics["test_accuracy"] == pytest.approx(found.metrics["test_clean_accuracy"])


# Metrics


def test_the_four_accuracies_need_no_metrics_of_yours(make):  # noqa: F811
    metrics = make().evaluate()
    assert set(ACCURACIES) <= set(metrics)
    assert make(trainer={"compute_metrics": accuracy}).evaluate().items() >= {n: metrics[n] for n in ACCURACIES}.items()


def test_metrics_set_after_construction_are_called(make):  # noqa: F811
    trainer = make()
    trainer.compute_metrics = accuracy
    assert "eval_accuracy" in trainer.evaluate()


def test_your_metric_of_our_name_wins(make):  # noqa: F811
    trainer = make(trainer={"compute_metrics": lambda prediction: {"clean_accuracy": -1.0}})
    assert trainer.evaluate()["eval_clean_accuracy"] == -1.0


def test_preprocess_logits_may_change_their_shape(pair):
    def best(logits, labels):
        assert labels.shape == logits.shape[:1]
        return logits.argmax(-1)

    given = {
        "preprocess_logits_for_metrics": best,
        "compute_metrics": lambda found: {"accuracy": accuracy_score(found.label_ids, found.predictions)},
    }
    ours, plain = pair(given)
    assert ours.evaluate()["eval_accuracy"] == plain.evaluate()["eval_accuracy"]
    assert (
        ours.predict(ours.eval_dataset).predictions.tolist() == plain.predict(plain.eval_dataset).predictions.tolist()
    )


@pytest.mark.parametrize("settings", [{}, {"eval_do_concat_batches": False}, {"eval_accumulation_steps": 1}])
def test_metrics_get_inputs_losses_predictions_and_labels_of_the_same_shapes(pair, settings):
    seen = []

    def watch(found):
        seen.append([found.inputs, found.predictions, found.label_ids, found.losses])
        return {}

    for trainer in pair({"compute_metrics": watch}, include_for_metrics=["inputs", "loss"], **settings):
        trainer.evaluate()
    for ours, plain in zip(*seen, strict=True):
        parts = [part if isinstance(part, list) else [part] for part in (ours, plain)]
        assert [part.shape for part in parts[0]] == [part.shape for part in parts[1]]
    whole = [np.concatenate(part[0]) if isinstance(part[0], list) else part[0] for part in seen]
    assert np.array_equal(*whole) and whole[0].shape == (11, 3, 32, 32)


def test_batch_eval_metrics_are_called_once_a_batch(pair):
    counts = []
    for trainer in pair(batch_eval_metrics=True):
        calls = []

        def count(found, compute_result, calls=calls):
            calls.append((tuple(found.predictions.shape), tuple(found.label_ids.shape), compute_result))
            return {"batches": len(calls)} if compute_result else {}

        trainer.compute_metrics = count
        assert trainer.evaluate()["eval_batches"] == 3
        counts.append(calls)
    assert counts[0] == counts[1]


def test_batch_eval_metrics_keep_the_accuracies(make):  # noqa: F811
    whole = make().evaluate()
    trainer = make(trainer={"compute_metrics": lambda found, compute_result: {}}, batch_eval_metrics=True)
    metrics = trainer.evaluate()
    assert {name: metrics[name] for name in ACCURACIES} == {name: whole[name] for name in ACCURACIES}


def test_prediction_loss_only_gathers_nothing(pair):
    ours, plain = pair({"compute_metrics": accuracy}, prediction_loss_only=True)
    for trainer in (ours, plain):
        found = trainer.predict(trainer.eval_dataset)
        assert found.predictions is found.label_ids is None and "test_loss" in found.metrics
        assert "eval_accuracy" not in trainer.evaluate()
    assert set(ACCURACIES) <= set(ours.evaluate())


def test_an_incomplete_last_batch_is_dropped_on_request(pair):
    ours, plain = (trainer.predict(trainer.eval_dataset) for trainer in pair(dataloader_drop_last=True))
    assert len(ours.predictions) == len(plain.predictions) == 8


def test_several_evaluation_sets_have_names(make):  # noqa: F811
    rows = {"few": picture_rows(4), "many": picture_rows(12)}
    trainer = make(trainer={"eval_dataset": rows, "compute_metrics": lambda found: {"rows": len(found.label_ids)}})
    metrics = trainer.evaluate()
    assert (metrics["eval_few_rows"], metrics["eval_many_rows"]) == (4, 12)
    assert {f"eval_{name}_{threat}_accuracy" for name in rows for threat in THREATS} <= set(metrics)
    assert set(trainer.evaluate({"other": picture_rows(3)})) >= {"eval_other_rows", "eval_other_image_accuracy"}
    alone = make(trainer={"eval_dataset": rows["few"]}).evaluate()
    assert all(metrics[name.replace("eval_", "eval_few_")] == alone[name] for name in ACCURACIES)


# The course of a training


def test_early_stopping_by_robustness(make):  # noqa: F811
    trainer = make(
        trainer={"callbacks": [EarlyStoppingCallback(early_stopping_patience=2)]},
        learning_rate=0.0,  # nothing gets better
        max_steps=9,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="multimodal_accuracy",
        load_best_model_at_end=True,
    )
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.args.greater_is_better


def test_early_stopping_by_your_metric_on_one_of_several_sets(make):  # noqa: F811
    trainer = make(
        trainer={
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=1)],
            "compute_metrics": lambda found: {"constant": 1.0},
            "eval_dataset": {"a": picture_rows(3), "b": picture_rows(6)},
        },
        max_steps=9,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="eval_b_constant",
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_plateau_scheduler_reads_our_metrics(make):  # noqa: F811
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "mode": "max"}}
    trainer = make(
        eval_strategy="steps", eval_steps=1, metric_for_best_model="multimodal_accuracy", learning_rate=1e-6,
        max_steps=3, **settings,
    )  # fmt: skip
    trainer.train()
    assert trainer.lr_scheduler.get_last_lr()[0] < 1e-6


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved(make, tiny_clip, monkeypatch):  # noqa: F811
    sizes = []
    whole = MMCoATrainer.compute_loss

    def limited(self, model, inputs, *args, **kwargs):
        loss = whole(self, model, inputs, *args, **kwargs)
        sizes.append((len(inputs["images"]), self.attacker.batch_of_step))
        if len(inputs["images"]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss

    monkeypatch.setattr(MMCoATrainer, "compute_loss", limited)
    trainer = make(auto_find_batch_size=True)
    trainer.train()
    assert trainer.state.global_step == 2 and sizes[0][0] == 6 and sizes[-1][0] <= 5
    assert {batch for _, batch in sizes} == {0}  # the failed attempt is not counted


def test_a_run_resumes_with_another_batch_size(make, tiny_clip, tmp_path):  # noqa: F811
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "output_dir": str(tmp_path / "run")}
    make(model=copy.deepcopy(tiny_clip), **settings).train()
    resumed = make(model=copy.deepcopy(tiny_clip), per_device_train_batch_size=4, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert resumed.state.global_step == 3 and resumed._train_batch_size == 4


@pytest.mark.slow
def test_a_sharded_checkpoint_resumes(make, tiny_clip, tmp_path):  # noqa: F811
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "output_dir": str(tmp_path / "run")}
    whole = make(model=copy.deepcopy(tiny_clip), **settings)
    whole.train()
    folder = tmp_path / "run" / "checkpoint-2"
    saved = type(tiny_clip).from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    saved.save_pretrained(folder, max_shard_size="100KB")
    (folder / "file_list.json").unlink(missing_ok=True)
    for listed in folder.glob("*.json"):
        if "model.safetensors" in json.loads(listed.read_text()) and listed.name != "model.safetensors.index.json":
            listed.unlink()
    assert (folder / "model.safetensors.index.json").is_file()
    resumed = make(model=copy.deepcopy(tiny_clip), **settings)
    resumed.train(resume_from_checkpoint=str(folder))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


# Arguments


def test_the_arguments_are_the_caller_s_and_stay_as_they_are(make, tiny_clip, tiny_processor, tmp_path):  # noqa: F811
    args = MMCoAConfig(str(tmp_path), report_to="none", use_cpu=True, max_steps=1)
    before = args.to_dict()
    characters = LevenshteinAttack(num_samples=2, alphabet="x")
    given = {"train_dataset": picture_rows(), "processing_class": tiny_processor}
    first = MMCoATrainer(tiny_clip, args, text_attack=characters, **given)
    assert first.args is args and args.to_dict() == before
    assert list(first.attacker.text_attacks) == ["characters"]
    second = MMCoATrainer(copy.deepcopy(tiny_clip), args, **given)
    assert list(second.attacker.text_attacks) == ["words"]
    first.save_model(str(tmp_path / "saved"))
    assert "text_attack: characters" in (tmp_path / "saved" / "training_args.yaml").read_text()


def test_a_text_attack_object_is_the_only_one_of_auto(make):  # noqa: F811
    words = BertAttack(candidates=SynonymTable({"cat": ("feline",)}))
    trainer = make(trainer={"text_attack": words}, objective="leaf")
    assert list(trainer.attacker.text_attacks) == ["words"] and trainer.attacker.word_attack is words
    trainer.args.text_attack = "embedding"
    trainer.train()
    assert list(trainer.attacker.text_attacks) == ["embedding"]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "value", "term"),
    [
        ("lambda_clean", 0.5, "loss_clean"),
        ("lambda_class", 0.5, "loss_class"),
        ("lambda_distill", 0.5, "loss_distill"),
        ("accumulate_attack_gradients", True, "loss_attack_iterates"),
    ],
)
def test_terms_set_after_construction_are_trained(make, name, value, term):  # noqa: F811
    trainer = make(max_steps=1)
    setattr(trainer.args, name, value)
    trainer.train()
    assert term in trainer.state.log_history[0]
    assert getattr(trainer.objective, name) == value
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a_weight_set_after_construction_weighs(make):  # noqa: F811
    trainer = make(max_steps=1)
    trainer.args.lambda_image, trainer.args.lambda_text = 2.0, 0.0
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(2 * entry["loss_image"], rel=1e-5) and "loss_text" not in entry


@pytest.mark.parametrize(
    ("objective", "name", "value"), [("fare", "clean_weight", 0.5), ("pmg-aft", "release_scaling", True)]
)
def test_fields_of_other_objectives_set_after_construction_are_trained(make, objective, name, value):  # noqa: F811
    trainer = make(objective=objective, max_steps=1)
    setattr(trainer.args, name, value)
    trainer.train()
    assert getattr(trainer.objective, name) == value


def test_an_evaluation_follows_the_arguments(make):  # noqa: F811
    trainer = make()
    losses = [trainer.evaluate()["eval_loss"]]
    trainer.args.lambda_image = 5.0
    losses.append(trainer.evaluate()["eval_loss"])
    assert losses[1] > 1.5 * losses[0]


def test_a_callback_may_change_the_budget_from_step_to_step(make):  # noqa: F811
    class Grow(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            args.epsilon = 0.1 * (state.global_step + 1)

    trainer = make(
        trainer={"callbacks": [Grow()]}, step_size="255/255", random_start=False, max_steps=2, learning_rate=0.0
    )
    trainer.train()
    sizes = [entry["image_perturbation"] for entry in trainer.state.log_history if "image_perturbation" in entry]
    assert sizes == pytest.approx([0.1, 0.2], abs=0.01)


@pytest.mark.parametrize(
    ("name", "value"), [("objective", "clean"), ("lora", "both"), ("template", "a {}"), ("train_text_encoder", False)]
)
def test_fields_that_can_have_no_effect_any_more_are_refused(make, name, value):  # noqa: F811
    trainer = make()
    setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=rf"`args\.{name}` was changed from .* make a new trainer"):
        trainer.train()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epsilon", 8, "Did you mean 8/255"),
        ("lambda_text", -1.0, "must not be negative"),
        ("text_attack", "none", "lambda_text=0"),
        ("text_attack", "word", "`text_attack` must be"),
    ],
)
def test_values_out_of_range_set_after_construction_are_refused(make, name, value, message):  # noqa: F811
    trainer = make()
    setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_teacher_that_is_asked_for_too_late_is_refused(make):  # noqa: F811
    trainer = make(max_steps=1)
    trainer.train()
    trainer.args.lambda_distill = 0.5
    with pytest.raises(ValueError, match="pass the pretrained model as `teacher`"):
        trainer.train()


def test_a_loss_function_is_refused(make):  # noqa: F811
    with pytest.raises(ValueError, match=r"`compute_loss_func` is not supported.*`objective`"):
        make(trainer={"compute_loss_func": lambda *args, **kwargs: None})


# The search for hyper-parameters


class Trial:
    """The part of an optuna trial that the Trainer reads."""

    def __init__(self, number):
        self.number, self.params = number, {}

    def suggest_categorical(self, name, choices):
        return self.params.setdefault(name, choices[self.number % len(choices)])


@pytest.fixture
def search(monkeypatch):
    """A backend of two trials under optuna's name, as `run_hp_search_optuna` runs them."""

    class Backend:
        default_hp_space = None

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            scores = []
            for number in range(n_trials):
                trainer.objective = trainer.model = trainer.model_wrapped = None
                trainer.train(trial=Trial(number))
                if getattr(trainer, "objective", None) is None:
                    trainer.objective = trainer.compute_objective(trainer.evaluate())
                scores.append(trainer.objective)
            return scores

    optuna = ModuleType("optuna")
    optuna.__spec__ = ModuleSpec("optuna", None)
    optuna.trial = SimpleNamespace(BaseTrial=Trial)
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    backends = sys.modules[Trainer.__module__].ALL_HYPERPARAMETER_SEARCH_BACKENDS
    monkeypatch.setitem(backends, HPSearchBackend.OPTUNA, Backend)


@pytest.mark.few(1)
@pytest.mark.parametrize("eval_strategy", ["no", "steps"])
def test_a_search_over_the_budget(make, tiny_clip, search, eval_strategy):  # noqa: F811
    seen = []

    class Watch(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            attack = trainer.attacker.image_attack
            seen.append((attack.epsilon, trainer._objective.lambda_text, trainer.model.text_projection.weight))

    trainer = _searched(make, tiny_clip, callbacks=[Watch()], eval_strategy=eval_strategy)
    scores = trainer.hyperparameter_search(
        lambda trial: {
            "epsilon": trial.suggest_categorical("epsilon", [0.0, 0.5]),
            "lambda_text": trial.suggest_categorical("lambda_text", [0.25, 0.75]),
            "train_text_encoder": trial.suggest_categorical("train_text_encoder", [True, False]),
        },
        compute_objective=lambda metrics: metrics["eval_image_accuracy"],
        n_trials=2,
        direction="maximize",
        backend="optuna",
    )
    assert [each[:2] for each in seen] == [(0.0, 0.25), (0.5, 0.75)]
    assert [each[2].requires_grad for each in seen] == [True, False]
    assert all(isinstance(score, float) for score in scores)
    assert trainer.objective.lambda_text == 0.75  # the objective again


def _searched(make, tiny_clip, callbacks, **config):  # noqa: F811
    args = make(max_steps=1, **({"eval_steps": 1} if config["eval_strategy"] == "steps" else {}), **config)
    return MMCoATrainer(
        None,
        args.args,
        train_dataset=picture_rows(),
        eval_dataset=picture_rows(),
        processing_class=args.processing_class,
        text_attack=BertAttack(candidates=SynonymTable({"cat": ("feline",)})),
        model_init=lambda: copy.deepcopy(tiny_clip),
        callbacks=callbacks,
    )


# The command line


def test_a_list_option_without_values_is_the_default():
    parser = HfArgumentParser((MMCoAConfig,))
    line = ["--output_dir", "out", "--lora", "both", "--lora_target_modules", "--lora_modules_to_save"]
    (args,) = parser.parse_args_into_dataclasses(line)
    assert args.lora_target_modules is None is args.lora_modules_to_save
    (args,) = parser.parse_args_into_dataclasses([*line[:-1], "q_proj", "k_proj"])
    assert args.lora_target_modules == ["q_proj", "k_proj"]
    assert MMCoAConfig("out", lora="both", lora_target_modules="q_proj").lora_target_modules == ["q_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epsilon": "8/255", "norm": "l2", "temperature": 3.0, "random_start": False, "label_names": ["labels"]},
        {"objective": "fare+leaf", "clean_weight": 0.5, "trades": True},
        {"lora": "both", "lora_target_modules": ["q_proj", "k_proj"], "lora_modules_to_save": ["layer_norm1"]},
        {"text_attack": "words|families", "families": "keyboard|affixes", "leave_out_family": "affixes"},
        {"last_blocks": 1, "candidates": "hotflip", "include_for_metrics": ["inputs"]},
    ],
)
def test_every_field_survives_json_and_the_command_line(settings):
    args = MMCoAConfig("out", report_to="none", **settings)
    parser = HfArgumentParser((MMCoAConfig,))
    printed = json.loads(args.to_json_string())
    (from_json,) = parser.parse_dict(printed)
    assert from_json.to_dict() == args.to_dict()
    line = []
    for each in dataclasses.fields(args):
        value = printed.get(each.name)
        if each.init and value is not None and value != []:
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            line += [f"--{each.name}", *map(str, values)]
    (from_line,) = parser.parse_args_into_dataclasses(line)
    assert from_line.to_dict() == args.to_dict()
