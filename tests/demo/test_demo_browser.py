"""The page in a real browser: clicks, uploads and hostile names; what a reader then sees."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, Browser
from PIL import Image
from squares import CLASS_NAMES, KNOWN, _trained, dataset, model, processor

from hf_mmcoa.demo.page import Setup, build_page, launch
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

pytest.importorskip("gradio")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
FIXTURES = (_trained, dataset, model, processor)  # the CLIP of coloured squares; pytest finds them in this module
HOSTILE = ("<img src=x onerror=alert(1)>", "${alert(2)}", "{{alert(3)}}", "<script>alert(4)</script>")


@pytest.fixture
def models(model, processor):
    """Two models: the one trained, the other not, and with room for long names."""
    texts = [f"This is a photo of a {name}" for name in CLASS_NAMES]
    return {
        "trained": (model, processor),
        "<i>untrained</i>": build_tiny_clip(texts, image_size=16, patch_size=8, width=32, context_length=64),
    }


@pytest.fixture
def page(models, dataset):
    """The page of `models`, served on the loopback; its address."""
    budget = ThreatModel(epsilon=0.2, num_steps=5, template="This is a photo of a {}")
    page = build_page(
        Setup(models=models, dataset=dataset, class_names=CLASS_NAMES, budget=budget, sources={"known": KNOWN})
    )
    yield launch(page)
    page.close(verbose=False)


@pytest.fixture
def browser(page, tmp_path):
    (tmp_path / "profile").mkdir()
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        browser.wait("document.querySelectorAll('.mm-panel').length === 2")
        yield browser


def choose(browser, attack):
    browser.evaluate(f"[...document.querySelectorAll('#attack input')].find(e => e.value === '{attack}').click()")


def attacked(browser, attack):
    """Click the button, and wait for the answer."""
    browser.click("#go")
    browser.wait(f"document.querySelector('.mm')?.dataset.attack === '{attack}'")
    return browser.text()


def test_a_click_shows_both_models_under_attack(browser, page, tmp_path):
    before = browser.text()
    assert before.count("Right: cat") + before.count("Wrong without an attack") == 2 and "under attack" not in before
    text = attacked(browser, "image")
    panels = browser.evaluate("[...document.querySelectorAll('.mm-panel')].map(e => e.innerText)")
    assert [panel.splitlines()[0] for panel in panels] == ["trained", "<i>untrained</i>"]
    assert "✗ Fooled" in panels[0]
    for panel in panels:
        assert all(word in panel for word in ("clean", "under attack", "change \u00d7", "attacked", "%", *CLASS_NAMES))
    assert "every pixel by up to 0.2" in text

    choose(browser, "multimodal")
    attacked(browser, "multimodal")
    assert browser.evaluate("document.querySelector('.mm-prompt').innerText") == "This is a photo of a cat feline"
    browser.screenshot(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").width >= 1200

    # 8 pixels a side are seen as squares, not as a blur.
    style = "getComputedStyle(document.querySelector('.mm-pictures img'))"
    assert browser.evaluate(f"{style}.imageRendering") == "pixelated"
    assert browser.evaluate(f"parseFloat({style}.width)") > 64
    assert browser.requests and not [url for url in browser.requests if not url.startswith((page, "data:", "blob:"))]


def test_another_example_is_a_click_away(browser):
    browser.click("#examples .gallery-item:nth-child(2) button")
    browser.wait("document.querySelector('.mm-prompt').innerText.includes('dog')")
    assert browser.evaluate("document.querySelector('#truth input').value") == "dog"


def test_names_are_text_whatever_they_hold(browser, models):
    browser.type("#classes textarea", f"cat, {HOSTILE[0]}")
    browser.click("#go")
    browser.wait("document.querySelector('[role=alert]') !== null")
    assert f"{HOSTILE[0]}' has" in browser.text()  # too long for the trained model

    del models["trained"]
    browser.type("#classes textarea", f"cat, {', '.join(HOSTILE)}")
    browser.wait("document.querySelector('#truth input').value === 'cat'")
    choose(browser, "multimodal")
    text = attacked(browser, "multimodal")
    assert all(name in text for name in HOSTILE[:2])
    browser.click("#truth input")  # its list holds the names too
    browser.wait("document.body.innerText.includes('alert(4)')")
    assert not browser.dialogs
    assert browser.evaluate("document.querySelectorAll('img[onerror], #result script, .mm i').length") == 0


@pytest.mark.parametrize(("names", "said"), [("cat", "at least two class names"), ("cat, dog, Cat", "read the same")])
def test_names_that_do_not_do_get_a_sentence(browser, names, said):
    browser.type("#classes textarea", names)
    browser.click("#go")
    browser.wait("document.querySelector('[role=alert]') !== null")
    assert said in browser.evaluate("document.querySelector('[role=alert]').innerText")


def test_uploads_are_read_or_refused(browser, tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "good.png")
    browser.evaluate("document.querySelector('#result .mm').remove()")
    browser.upload("input[type=file]", tmp_path / "good.png")
    browser.wait("document.querySelector('.mm-note')?.innerText === 'No attack.'")
    assert "Prediction:" in browser.text()
    (tmp_path / "bad.png").write_text("no picture")
    browser.upload("input[type=file]", tmp_path / "bad.png")
    browser.wait("document.querySelector('[role=alert]') !== null")
    assert "could not be read as a picture" in browser.text()
    assert "every pixel" in attacked(browser, "image")  # the last good picture is still there
