"""The log of the attacks: figures worked by hand, pictures in a tracker's own file, no effect on the training."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_trainer import make, picture_rows, snapshot  # noqa: F401 (a fixture)
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_mmcoa.attacks.perturbed_texts import PerturbedTexts
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.objectives import Embeddings
from hf_mmcoa.training import tracking
from hf_mmcoa.training import trainer as training
from hf_mmcoa.training.attacker import Adversarial
from hf_mmcoa.training.batch import Batch
from hf_mmcoa.training.tracking import TAG, AttackedImages, attack_figures


def figures_of(clean, adv_image, adv_text, norm="linf", text_attack="words", adv_texts=(), adv_images=None):
    """Three samples whose anchors are the axes; index k is an embedding on axis k, or from 3 on its opposite."""
    eye = torch.eye(3)

    def features(axes):
        return None if axes is None else 5 * torch.cat([eye, -eye])[axes]  # un-normalised

    own = torch.arange(3)
    batch = Batch(torch.zeros(3, 3, 2, 2), ["a red car", "a cat", "a dog"], own, eye, own, own, own)
    embeds = Embeddings(
        logit_scale=torch.tensor(1.0),
        image_features=features(clean),
        adv_image_features=features(adv_image),
        adv_text_features=features(adv_text),
    )
    trainer = SimpleNamespace(
        attacker=SimpleNamespace(
            image_attack=SimpleNamespace(norm=norm), text_attacks=dict.fromkeys(text_attack.split("|"))
        ),
        args=SimpleNamespace(norm="linf"),
    )
    found = attack_figures(trainer, batch, embeds, Adversarial(images=adv_images, texts=list(adv_texts)))
    return {name: value.tolist() for name, value in found.items()}


def test_success_is_counted_among_the_images_that_were_right():
    """Samples 0 and 1 are classified correctly without attack, so only they count.

    The image attack makes 1 misclassified, the text attack 0: 1 of 2 each.
    """
    assert figures_of([0, 1, 0], [0, 2, 2], [3, 1, 5]) == {
        "image_attack_success": [1, 2],
        "text_attack_success": [1, 2],
    }
    assert figures_of([0, 1, 2], [0, 2, 2], [3, 4, 2]) == {
        "image_attack_success": [1, 3],
        "text_attack_success": [2, 3],
    }


def test_accuracy_where_no_clean_image_is_encoded():
    assert figures_of(None, [0, 2, 2], [1, 2, 2]) == {"adv_image_accuracy": [2, 3], "adv_text_accuracy": [1, 3]}
    assert figures_of(None, None, None) == {}


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.2), ("l2", 0.2 * 12**0.5)])
def test_image_perturbation_is_in_the_norm_of_the_attack(norm, length):
    adv_images = torch.zeros(3, 3, 2, 2)
    adv_images[:2] = torch.tensor([[0.1], [-0.3]])[:, :, None, None]
    total, count = figures_of(None, None, None, norm=norm, adv_images=adv_images)["image_perturbation"]
    assert (total, count) == (pytest.approx(2 * length), 3)


def test_text_perturbation_is_the_share_of_changed_words():
    clean = ["a red car", "a cat", "a dog"]
    attacks = [
        PerturbedTexts("words", clean, ["a red truck", "a cat", "a dog"]),
        PerturbedTexts("characters", clean, ["a red c ar", "acat", "a dgo"]),
    ]
    total, count = figures_of(None, None, None, text_attack="words|characters", adv_texts=attacks)["text_perturbation"]
    assert (total, count) == (pytest.approx(1 / 3 + 1 / 3 + 1 + 1 / 2), 6)


@pytest.mark.slow
def test_a_step_has_no_other_weights_and_no_other_forward(make, tiny_clip, monkeypatch):  # noqa: F811
    """With figures and pictures, and without: weights bit for bit, and forwards but for the pictures' own."""
    start = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    forwards = []
    for tower in (tiny_clip.vision_model, tiny_clip.text_model):
        tower.register_forward_hook(lambda *_: forwards.append(1))

    def run(**settings):
        tiny_clip.load_state_dict(start)
        forwards.clear()
        trainer = make(text_attack="words|embedding", **settings)
        trainer.add_callback(tracker := FakeTensorBoard())
        trainer.train()
        assert [step for _, _, step in tracker.shown] == ([1, 2] if settings else [])
        return snapshot(tiny_clip), len(forwards), trainer.state.log_history

    pictured, _, _ = run(log_images_every=1)
    logged_weights, logged, log = run()
    monkeypatch.setattr(training, "attack_figures", lambda *_: {})
    weights, plain, _ = run()
    assert logged == plain
    for other in (pictured, logged_weights):
        assert all(torch.equal(other[name], weight) for name, weight in weights.items())
    assert 0 < log[0]["image_perturbation"] <= 8 / 255 + 1e-6
    assert 0 < log[0]["text_embedding_perturbation"] <= 1 + 1e-6  # rho
    # Prompts of five and six words; of each at most one was changed.
    assert 0 < log[0]["text_perturbation"] <= 1 / 5
    assert {"grad_norm", "learning_rate"} <= set(log[0])


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("objective", "names"),
    [
        ("mmcoa", {"text_attack_success", "image_perturbation", "text_perturbation"}),
        ("tecoa", {"adv_image_accuracy", "image_perturbation"}),
        ("leaf", {"adv_text_accuracy", "text_perturbation"}),
        ("clean", set()),
    ],
)
def test_what_each_objective_logs_is_documented(make, objective, names):  # noqa: F811
    trainer = make(objective=objective, max_steps=1)
    trainer.train()
    logged = {name for name in trainer.state.log_history[0] if re.search("adv_|success|perturbation", name)}
    assert logged - {"image_attack_success"} == names - {"image_attack_success"}
    for page in ("tracking.md", "paper.md"):
        text = (Path(__file__).parents[2] / "docs" / page).read_text()
        assert all(f"`{name}`" in text for name in names)


def test_sums_and_counts_are_added_up_between_logs(make, monkeypatch):  # noqa: F811
    figures = iter([(1.0, 2.0), (3.0, 4.0), (1.0, 4.0), (0.0, 0.0)])
    monkeypatch.setattr(
        training,
        "attack_figures",
        lambda *_: {"image_attack_success": torch.tensor(next(figures)), "never": torch.zeros(2)},
    )
    trainer = make(max_steps=4, logging_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["image_attack_success"] for entry in logged] == pytest.approx([4 / 6, 1 / 4])
    assert "never" not in logged[0]


# Pictures


class FakeTensorBoard(TensorBoardCallback):
    """Keeps what is shown."""

    def __init__(self):
        self.tb_writer, self.shown = self, []

    def add_image(self, tag, picture, step, dataformats):
        self.shown.append((tag, picture.shape, step))

    def on_train_begin(self, *args, **kwargs):
        pass

    on_log = on_train_end = on_train_begin


class Package:
    """The two calls of wandb and trackio that are used."""

    def __init__(self):
        self.logged = []

    def Image(self, picture):
        return ("image", picture.size)

    def log(self, values):
        self.logged.append(values)


@pytest.mark.parametrize(("kind", "attribute"), [(WandbCallback, "_wandb"), (TrackioCallback, "_trackio")])
def test_wandb_and_trackio_get_their_own_images(kind, attribute):
    tracker = type("Fake", (kind,), {"__init__": lambda self: None})()
    setattr(tracker, attribute, package := Package())
    assert tracking._takes_images(tracker)
    tracking._show(tracker, tracking.Image.new("RGB", (7, 5)), 3)
    assert package.logged == [{TAG: ("image", (7, 5)), "train/global_step": 3}]


@pytest.mark.slow
def test_tensorboard_reads_the_pictures_back(make, tmp_path):  # noqa: F811
    """Every second step of three, and the scalars beside it."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make(report_to="tensorboard", log_images_every=2, max_steps=3, text_attack="characters")
    trainer.train()
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file), size_guidance={"images": 0, "scalars": 0}).Reload()
    (shown,) = events.Images(TAG)
    assert shown.step == 2 and shown.encoded_image_string.startswith(b"\x89PNG")
    assert shown.width > 1000 and shown.height > 100
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    written = [event.value for event in events.Scalars("train/image_perturbation")]
    assert written == pytest.approx([entry["image_perturbation"] for entry in logged])


def test_without_a_tracker_that_takes_images_nothing_is_computed(make, monkeypatch):  # noqa: F811
    monkeypatch.setattr(AttackedImages, "picture", lambda self, step: pytest.fail("a picture for nobody"))
    make(log_images_every=1, max_steps=1).train()


def test_what_cannot_be_shown_is_refused(make):  # noqa: F811
    with pytest.raises(ValueError, match="`log_images_every` must not be negative, got -1"):
        MMCoAConfig(output_dir="out", log_images_every=-1)
    captions = picture_rows(text=True).remove_columns("label")
    with pytest.raises(ValueError, match=r"`log_images_every=5`.*labels"):
        make(trainer={"train_dataset": captions, "eval_dataset": None}, log_images_every=5)
    with pytest.raises(ValueError, match="`num_images` must be at least 1, got 0"):
        AttackedImages(make(), picture_rows(), every=1, num_images=0)
