"""The HTML shows the content of the comparison, whatever text is in it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hf_mmcoa.demo.panels import STYLE, comparison_html, message_html
from hf_mmcoa.demo.side_by_side import Comparison, Reading
from hf_mmcoa.evaluation.threat_model import ThreatModel

SHOUT = "<img src=x onerror=alert(1)>\"'&"


def comparison(attack="image", clean=(0.9, 0.1), attacked=(0.2, 0.8), names=("cat", "dog"), size=8, **changes):
    perturbation = np.zeros((3, size, size), np.float32)
    if attack in ("image", "multimodal"):
        perturbation[0, 0, 0] = 0.1
    prompts = [f"a photo of a {name}" for name in names]
    reading = Reading(
        image=np.full((3, size, size), 0.5, np.float32),
        perturbation=perturbation,
        label=0,
        clean=np.array(clean),
        attacked=np.array(attacked),
        prompts=prompts,
        adv_prompts=[prompts[0].replace("cat", "feline"), *prompts[1:]],
    )
    whole = {"readings": {"model": reading}, "class_names": names, "attack": attack, "has_label": True}
    return Comparison(**{**whole, "budget": ThreatModel(epsilon="4/255", num_steps=7), **changes})


class Tags(HTMLParser):
    """All tags with their attributes, and all text, of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    ("changes", "verdict", "kind"),
    [
        ({}, "✗ Fooled: dog, not cat", "mm-wrong"),
        ({"attacked": (0.6, 0.4)}, "✓ Robust: still cat", "mm-right"),
        ({"clean": (0.1, 0.9)}, "✗ Wrong without an attack: dog, not cat", "mm-wrong"),
        ({"attack": "none", "attacked": (0.9, 0.1)}, "✓ Right: cat", "mm-right"),
        ({"attack": "none", "attacked": (0.9, 0.1), "has_label": False}, "✓ Prediction: cat", "mm-right"),
    ],
)
def test_the_verdict_comes_first(changes, verdict, kind):
    html = comparison_html(comparison(**changes))
    assert re.search(rf'class="mm-verdict {kind}">{re.escape(verdict)}<', html)


def test_bars_have_the_probabilities_on_them_and_the_true_class_first():
    names = ("cat", "dog", "car", "owl", "fox", "hen", "bee")
    clean, attacked = (0.6, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02), (0.01, 0.2, 0.1, 0.6, 0.05, 0.03, 0.01)
    html = comparison_html(comparison(names=names, clean=clean, attacked=attacked))
    assert re.findall(r'scope="row"[^>]*>(\w+)<', html) == ["cat", "owl", "dog", "car", "fox"]
    assert re.findall(r"width:([\d.]+)%", html) == re.findall(r"<span>([\d.]+)%", html)
    assert re.findall(r"<span>([\d.]+)%", html)[:4] == ["60.0", "1.0", "10.0", "60.0"]
    assert re.findall(r'<tr class="([\w-]*)">', html)[:3] == ["mm-true", "mm-fooling", ""]


def test_both_answers_are_among_the_bars_however_likely():
    names = ("cat", "a", "b", "c", "d", "e", "f")
    clean, attacked = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.11), (0.1, 0.2, 0.2, 0.21, 0.2, 0.2, 0.1)
    html = comparison_html(comparison(names=names, clean=clean, attacked=attacked))
    assert re.findall(r'scope="row"[^>]*>(\w+)<', html) == ["cat", "c", "a", "b", "f"]


def test_pictures_show_the_change_with_its_factor():
    html = comparison_html(comparison())
    assert re.findall(r"<figcaption>(.*?)<", html) == ["clean", "change \u00d7 5", "attacked"]
    stored = [base64.b64decode(one) for one in re.findall(r"base64,([^\"]+)", html)]
    clean, change, attacked = (np.asarray(Image.open(io.BytesIO(one))).astype(int) for one in stored)
    assert (change[1:] == 128).all() and change[0, 0].tolist() == [255, 128, 128]  # grey is no change
    assert attacked[0, 0, 0] - clean[0, 0, 0] == pytest.approx(0.1 * 255, abs=1)


def test_small_pictures_keep_their_pixels():
    assert "mm-sharp" in comparison_html(comparison(size=8))
    assert "mm-sharp" not in comparison_html(comparison(size=64))
    assert ".mm-sharp { image-rendering: pixelated; }" in STYLE


def test_changed_words_are_marked_and_others_behind_a_fold():
    html = comparison_html(comparison("words"))
    assert "a photo of a <del>cat</del> <mark>feline</mark>" in html
    assert "0 of one other prompt changed" in html and html.count("<figure>") == 1
    assert "<mark>" not in comparison_html(comparison("image"))


def test_a_prompt_without_substitutes_says_so():
    assert "no substitute is known" in comparison_html(comparison("words", names=("dog", "owl")))


@pytest.mark.parametrize(
    ("attack", "budget", "said"),
    [
        ("image", {}, ["every pixel by up to 4/255", "7 gradient steps"]),
        ("image", {"norm": "l2", "epsilon": 2}, ["Euclidean distance of up to 2"]),
        ("words", {"max_changes": 2}, ["2 words of each prompt"]),
        (
            "text embedding",
            {"rho": 0.5, "num_text_steps": 3},
            ["0.5 mean embedding norms", "3 gradient steps"],
        ),
        ("multimodal", {}, ["every pixel", "one word of each prompt"]),
        ("none", {}, ["No attack."]),
    ],
)
def test_the_budget_is_said(attack, budget, said):
    spec = ThreatModel(**{"epsilon": "4/255", "num_steps": 7, "seed": 5, **budget})
    html = comparison_html(comparison(attack, budget=spec))
    assert all(text in html for text in said) and ("Seed 5" in html) == (attack != "none")


@pytest.mark.parametrize("attack", ["none", "image", "words", "multimodal"])
def test_markup_in_names_is_text(attack):
    reading = next(iter(comparison(attack, names=(SHOUT, "dog")).readings.values()))
    whole = comparison(attack, names=(SHOUT, "dog"), readings={SHOUT: reading})
    found = Tags(comparison_html(whole))
    assert all("onerror" not in attributes and attributes.get("src") != "x" for _, attributes in found.tags)
    assert {tag for tag, attributes in found.tags if attributes.get("data-model")} == {"section"}
    assert any(attributes.get("data-model") == SHOUT for _, attributes in found.tags)
    assert SHOUT in found.texts  # the heading, whole
    marked = Tags(message_html(SHOUT))
    assert marked.texts == [SHOUT] and [tag for tag, _ in marked.tags] == ["div", "div"]


def test_markup_in_changed_words_is_text():
    whole = comparison("words")
    reading = whole.readings["model"]
    changed = Reading(**{**vars(reading), "adv_prompts": ["a photo of a <b>feline</b>", reading.prompts[1]]})
    html = comparison_html(Comparison(**{**vars(whole), "readings": {"m": changed}}))
    assert "<b>" not in html and "feline" in html
