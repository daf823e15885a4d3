"""Views of pictograms: images in [0, 1] that change in what they are told to change, and in nothing else."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from hf_mmcoa.data.pictograms import load_pictograms
from hf_mmcoa.testbed.pictogram_views import Views, on_white, premultiplied, rectangles, warped

NOTHING = dict.fromkeys((each.name for each in fields(Views)), 0.0)


@pytest.fixture(scope="module")
def pictures():
    return premultiplied(load_pictograms("twemoji", "common").select(range(16)))


def test_without_any_change_a_view_is_the_picture_on_white(pictures):
    view = Views(**NOTHING)(pictures, pictures.flip(0))
    assert torch.allclose(view, on_white(pictures).clamp(1e-4, 1), atol=2e-3)


def test_on_white_is_what_an_image_viewer_shows(pictures):
    from hf_mmcoa.data.images import to_rgb, to_tensor

    dataset = load_pictograms("twemoji", "common").select(range(16))
    shown = torch.stack([to_tensor(to_rgb(image)) for image in dataset["image"]])
    assert (on_white(pictures) - shown).abs().max() < 2 / 255


@pytest.mark.parametrize("change", NOTHING)
def test_every_field_changes_pictures(pictures, change):
    torch.manual_seed(0)
    plain, view = (Views(**NOTHING | {change: size})(pictures, pictures.flip(0)) for size in (0.0, 1.0))
    assert view.shape == plain.shape and view.min() >= 0 and view.max() <= 1 and torch.isfinite(view).all()
    assert ((view - plain).abs().amax((1, 2, 3)) > 0.02).float().mean() > 0.9


def test_all_changes_stay_in_range_and_a_seed_repeats_them(pictures):
    views = []
    for _ in range(2):
        torch.manual_seed(3)
        views.append(Views()(pictures, pictures))
    assert torch.equal(*views) and views[0].min() >= 0 and views[0].max() <= 1


def test_a_mirrored_picture_is_the_reverse(pictures):
    assert torch.allclose(warped(pictures, 0.0, 1.0), pictures.flip(-1), atol=1e-5)


def test_rectangles_have_the_sides_that_were_asked_for(pictures):
    torch.manual_seed(0)
    inside = rectangles(pictures, 0.5, 0.5)
    assert inside.shape == (16, 1, 48, 48)
    assert inside.any(-1).sum((1, 2)).min() >= 1 and inside.any(-1).sum((1, 2)).max() in (24, 25)
