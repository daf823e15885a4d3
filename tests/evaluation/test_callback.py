from __future__ import annotations

import pytest
import torch
from squares import KNOWN
from transformers import Trainer, TrainingArguments

from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.evaluation import RobustnessCallback, ThreatModel, evaluate_robustness

SPEC = ThreatModel.preset("quick", epsilon=0.05, num_steps=3)


class ClassTrainer(Trainer):
    """A plain trainer of the logit scale, nothing of MMCoA in it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model.logit_scale.square()


def trainer(model, processor, dataset, tmp_path, **arguments):
    return ClassTrainer(
        model,
        TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=6,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
            **arguments,
        ),
        data_collator=collate,
        train_dataset=ImageRows(dataset),
        processing_class=processor,
    )


@pytest.mark.few(1)
@pytest.mark.parametrize(("every", "steps"), [(2, [0, 2, 4]), ("epoch", [0, 4])])
def test_robustness_is_logged_every_so_often(model, processor, dataset, tmp_path, every, steps):
    training = trainer(model, processor, dataset, tmp_path, num_train_epochs=1)
    training.add_callback(
        RobustnessCallback(training, dataset, every=every, threat_model=SPEC, candidates=KNOWN, max_samples=9)
    )
    training.train()
    logged = [entry for entry in training.state.log_history if "robustness/clean_accuracy" in entry]
    assert [entry["step"] for entry in logged] == steps
    expected = evaluate_robustness(
        model, processor, dataset, threat_model=SPEC, candidates=KNOWN, max_samples=9, sanity=False, progress=False
    )
    for kind in ("clean", "image", "text", "multimodal"):
        assert logged[0][f"robustness/{kind}_accuracy"] == expected[f"{kind}_accuracy"]
    assert model.training  # the trainer's mode is given back


def test_measuring_does_not_change_what_is_trained(model, processor, dataset, tmp_path):
    training = trainer(model, processor, dataset, tmp_path, num_train_epochs=1, learning_rate=0.1)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    training.add_callback(RobustnessCallback(training, dataset, threat_model=SPEC, candidates=KNOWN, max_samples=3))
    training.train()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"logit_scale"}


@pytest.mark.parametrize("every", [0, "step", 1.5])
def test_an_interval_that_is_none_is_refused(dataset, every):
    with pytest.raises(ValueError, match='`every` must be "epoch"'):
        RobustnessCallback(None, dataset, every=every)
