"""The picture shows every sample, marks right and wrong, and keeps its size."""

from __future__ import annotations

import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor
from result_dicts import make_result

from hf_mmcoa.report import picture
from hf_mmcoa.report.gallery import THREATS, Gallery, Prediction, Sample, View
from hf_mmcoa.report.picture import MAX_BYTES, RIGHT_FILL, WRONG, save_picture, threat_sentence


def make_gallery(
    size: int = 8, models: int = 2, right: bool = True, names: tuple[str, ...] = ("cat", "dog")
) -> Gallery:
    """One sample of noise, predicted as itself or not."""
    rng = np.random.default_rng(0)
    image = rng.random((3, size, size), dtype=np.float32)
    prediction = Prediction(label=0 if right else 1, probability=0.9)
    view = View(
        perturbation=rng.uniform(-0.1, 0.1, (3, size, size)),
        prompt="a photo of a cat",
        adv_prompt="a photo of a feline",
        predictions=dict.fromkeys(THREATS, prediction),
    )
    sample = Sample(row_id=3, label=0, image=image, views={f"model {index}": view for index in range(models)})
    return Gallery(samples=[sample], class_names=list(names), attack_spec=make_result()["attack_spec"], seed=0)


def pixels_of(path, colour: str) -> int:
    found = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(found - np.array(ImageColor.getrgb(colour))).max(-1) <= 3).sum())


@pytest.mark.parametrize("right", [True, False])
def test_right_and_wrong_have_their_colours(tmp_path, right):
    save_picture(make_gallery(right=right), tmp_path / "p.png", "A title")
    green, red = pixels_of(tmp_path / "p.png", RIGHT_FILL), pixels_of(tmp_path / "p.png", WRONG)
    assert (green > 10_000) == right and (red > 10_000) != right


@pytest.mark.slow
def test_width_grows_with_models_and_height_with_samples(tmp_path):
    gallery = make_gallery(models=1)
    sizes = []
    for one in (gallery, make_gallery(models=2), replace(gallery, samples=[*gallery.samples] * 3)):
        save_picture(one, tmp_path / "p.png")
        sizes.append(Image.open(tmp_path / "p.png").size)
    assert sizes[1][0] > 1.7 * sizes[0][0] and sizes[1][1] <= sizes[0][1]
    assert sizes[2][0] == sizes[0][0] and sizes[2][1] > 1.5 * sizes[0][1]


@pytest.mark.parametrize(
    "title", [None, "A title of one model that is much longer than its picture is wide, as they come"]
)
def test_no_line_of_a_picture_of_one_model_runs_over_its_edge(tmp_path, title):
    gallery = replace(make_gallery(models=1), class_names=["herbaceous vegetation land", "annual crop land"])
    save_picture(gallery, tmp_path / "p.png", title)
    drawn = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    edge = round(0.1 * drawn.shape[1] / 7)  # inches of about seven
    assert (drawn[:, -edge:] > 250).all() and (drawn[-edge // 2 :] > 250).all()


def test_long_names_are_broken_and_not_cut():
    lines, size = picture._fitted("✗ herbaceous vegetation land, 100%", picture.CHIP_WIDTH - 0.08, picture.CHIP_HEIGHT)
    assert " ".join(lines) == "✗ herbaceous vegetation land, 100%" and size >= 6


@pytest.mark.slow
def test_large_noisy_images_stay_under_the_limit(tmp_path):
    gallery = make_gallery(size=96)
    save_picture(replace(gallery, samples=[*gallery.samples] * 5), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size <= MAX_BYTES


def test_small_images_are_enlarged_without_smoothing(tmp_path):
    gallery = make_gallery(models=1)
    image = np.zeros((3, 8, 8), dtype=np.float32)
    image[0, :, 4:] = 1  # black and red: a smoothed edge has colours between
    view = replace(gallery.samples[0].views["model 0"], perturbation=np.zeros_like(image))
    save_picture(
        replace(gallery, samples=[replace(gallery.samples[0], image=image, views={"m": view})]), tmp_path / "p.png"
    )
    assert pixels_of(tmp_path / "p.png", "#ff0000") > 1000
    assert pixels_of(tmp_path / "p.png", "#800000") == 0


def test_foreign_names_and_settings_change_nothing(tmp_path):
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_picture(make_gallery(names=("a $ and \\frac{ " + "long " * 20, "$x$")), tmp_path / "p.png", "100 % of $y$")
    assert dict(matplotlib.rcParams) == before


def test_the_sentence_says_the_budget():
    spec = make_result(epsilon="4/255", max_changes=2)["attack_spec"]
    assert threat_sentence(spec) == (
        "The attacker may change every pixel by up to 4/255 of the range from black to white and 2 words of the prompt."
    )
    spec = make_result(norm="l2", epsilon=0.5, text_attacks=("characters",))["attack_spec"]
    assert "Euclidean distance of up to 0.5 and one character" in threat_sentence(spec)
