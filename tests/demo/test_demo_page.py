"""The page listens at the given address, loads nothing from other servers, and every setting on it has an effect."""

from __future__ import annotations

import socket
import time
import urllib.request
import warnings

import numpy as np
import psutil
import pytest
from squares import CLASS_NAMES, KNOWN, UNSEEN, _trained, dataset, model, processor

from hf_mmcoa.demo.page import NO_CLASS, Setup, _compare, _examples, _radius, _truth, build_page, launch
from hf_mmcoa.evaluation.threat_model import ThreatModel

pytest.importorskip("gradio")
FIXTURES = (_trained, dataset, model, processor)  # the CLIP of coloured squares; pytest finds them in this module


@pytest.fixture
def setup(model, processor, dataset):
    return Setup(
        models={"first": (model, processor)},
        dataset=dataset,
        class_names=CLASS_NAMES,
        budget=ThreatModel(epsilon=0.2, num_steps=3, template="This is a photo of a {}"),
        sources={"known": KNOWN, "unseen": UNSEEN},
        note="A <note>.",
    )


@pytest.fixture
def served(setup):
    """Serve the page with the given options; returns the page and its address."""
    pages = []

    def serve(*arguments, **options):
        page = build_page(setup)
        pages.append(page)
        return page, launch(page, *arguments, **options)

    yield serve
    for page in pages:
        page.close(verbose=False)


def listens_on(port: int) -> set[str]:
    found = psutil.Process().net_connections("inet")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


def test_it_listens_on_the_loopback_unless_told_otherwise(served, monkeypatch):
    tunnels: list[object] = []
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **what: tunnels.append(what))
    for name, value in (("GRADIO_SHARE", "True"), ("GRADIO_SERVER_NAME", "0.0.0.0")):
        monkeypatch.setenv(name, value)
    page, url = served()
    assert listens_on(page.server_port) == {"127.0.0.1"} and url == f"http://127.0.0.1:{page.server_port}/"
    assert not tunnels and not page.share and page.share_url is None
    everywhere, _ = served("0.0.0.0")
    assert listens_on(everywhere.server_port) == {"0.0.0.0"}


def test_a_port_that_is_taken_is_an_error(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match=str(taken.getsockname()[1])):
            served(port=taken.getsockname()[1])


def test_a_page_that_does_not_answer_is_an_error_without_talk_of_sharing(served, monkeypatch):
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    with pytest.raises(OSError, match="too busy, or a proxy") as refused:
        served()
    assert "share" not in str(refused.value)


@pytest.mark.slow
def test_the_server_speaks_to_nobody_outside(served, monkeypatch):
    asked = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: (asked.append(to), connect(self, to))[1])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *what, **how: (asked.append(what), look_up(*what, **how))[1])
    page, url = served()
    with urllib.request.urlopen(url) as answer:
        html = answer.read().decode()
    with urllib.request.urlopen(f"{url}theme.css") as answer:
        theme = answer.read().decode()
    time.sleep(1)  # gradio's analytics would start in threads of their own
    hosts = {str(one[0]) for one in asked if not isinstance(one, str)}
    assert hosts and hosts <= {"127.0.0.1", "localhost"}
    assert "url(http" not in theme and "@import" not in theme
    assert 'src="http' not in html and not page.analytics_enabled
    links = [part.split(">")[0] for part in html.split("<link")[1:]]
    assert links and not [link for link in links if "http" in link]


def test_a_note_is_text(setup):
    values = [str(getattr(block, "value", "")) for block in build_page(setup).blocks.values()]
    assert any("A &lt;note&gt;." in value for value in values) and not any("<note>" in value for value in values)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("attack", "setting", "values"),
    [
        ("image", "epsilon", ("0.01", "0.2")),
        ("image", "epsilon", ("1/255", "0.2")),
        ("image", "norm", ("linf", "l2")),
        ("image", "num_steps", (1, 20)),
        ("image", "seed", (0, 1)),
        ("words", "max_changes", (0, 1)),
        ("words", "source", ("known", "unseen")),
        ("text embedding", "rho", (0.1, 1.0)),
    ],
)
def test_every_setting_does_something(setup, attack, setting, values):
    picture, name = _examples(setup)[0]
    # Few steps leave the random start in the result.
    common = {"epsilon": "0.2", "num_steps": 2, "source": "unseen"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no budget, on purpose
        found = [
            _compare(setup, picture, "cat, dog, car", name, attack, **{**common, setting: value}) for value in values
        ]
    first, second = (np.log(next(iter(one.readings.values())).attacked) for one in found)
    assert np.abs(first - second).max() > 0.01


def test_examples_are_one_of_each_class_as_they_are(setup, dataset):
    examples = _examples(setup)
    assert [name for _, name in examples] == CLASS_NAMES
    assert np.array_equal(np.asarray(examples[1][0]), np.asarray(dataset[1]["image"]))


def test_the_true_class_is_found_among_the_names_typed(setup):
    assert _truth("dog, Cat", "cat") == "Cat"
    assert _truth("dog, owl", "cat") == _truth("dog", "dog") == NO_CLASS
    picture, _ = _examples(setup)[0]
    assert next(iter(_compare(setup, picture, "dog, cat", "cat", "none").readings.values())).label == 1
    assert not _compare(setup, picture, "dog, cat", NO_CLASS, "none").has_label
    with pytest.raises(ValueError, match="'owl', which is not among the class names"):
        _compare(setup, picture, "dog, cat", "owl", "none")


def test_a_norm_starts_from_a_radius_of_its_own():
    assert _radius(4 / 255, "linf", (8, 8)) == "4/255"
    # Half of 3 x 8 x 8 values moved by 0.1: the square root of 96 times 0.1.
    assert float(_radius(0.1, "l2", (8, 8))) == pytest.approx(0.98, abs=0.005)
