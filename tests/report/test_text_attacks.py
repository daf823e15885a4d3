"""The page shows by whom texts were chosen, which of them misled, how they were searched, and the embedding curve."""

from __future__ import annotations

import html
import json

import pytest
from result_dicts import make_result
from test_table import ADVERSARIES

from hf_mmcoa.evaluation.results import save_result
from hf_mmcoa.report.charts import Series, radius_chart, radius_curve
from hf_mmcoa.report.page import write_report
from hf_mmcoa.report.text_attacks import marked, misleading_texts, searches

CAT, DOG = "a photo of a cat", "a photo of a dog"
CURVE = {"radius": [0.0, 0.5, 1.0], "accuracy": [0.9, 0.8, 0.1], "share_of_nearest_class": [0.0, 0.2, 0.4]}


def result(**changes):
    """Samples 6 and 8 are cats, 7 a dog; what misled them, for the adversaries "own" and "all"."""
    nothing = [None] * 10
    own = [*[None] * 6, ["a photo of a feline", DOG], ["a photo of a hound", CAT], ["a photo of a feline", DOG], None]
    fields = {
        "witnesses": {"text/words/own:unseen": nothing, "text/words/all:unseen": own, "text/words/all": own}
        | {"text/words/own": own},
        "searches": {"text/words": "exhaustive", "text/words/shared": "coordinate descent from 5 starts"},
        "queries": {"text/words": 1040, "image/pgd-ce": 20},
        "embedding_curve": CURVE,
    }
    return make_result(ADVERSARIES, text_adversaries=("own", "all"), **{**fields, **changes})


def series(*results):
    return [Series(name=f"model {place}", place=place, results=[one]) for place, one in enumerate(results)]


def test_examples_are_of_the_weakest_adversary_that_misled_and_the_commonest_first():
    unseen, words = misleading_texts(series(result()))
    assert (words["attack"], unseen["attack"]) == ("words (known), own", "words (unseen), all")
    first, second = words["examples"]
    assert first == {
        "own": [("same", "a photo of a "), ("old", "cat"), ("new", "feline")],
        "rival": DOG,
        "count": 2,
    }
    assert second["count"] == 1 and words["misled"] == 3


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([("same", "a "), ("old", "cat"), ("new", "feline"), ("same", ".")], "a ~~cat~~ **feline**\\."),
        ([("same", "a "), ("new", "big "), ("same", "<b>")], r"a **big** \<b\>"),
        ([("old", "a "), ("same", "dog")], "~~a~~ dog"),
    ],
)
def test_changes_are_marked_in_markdown(pieces, text):
    assert marked(pieces) == text


def test_searches_say_how_and_how_many():
    assert searches(series(result(), result(searches={}, queries={}))) == [
        {"attack": "text/words, legal texts", "search": "exhaustive", "values": ["1,040 texts", ""]},
        {"attack": "text/words/shared", "search": "coordinate descent from 5 starts", "values": ["", ""]},
        {"attack": "image/pgd-ce", "search": "", "values": ["20 images", ""]},
    ]


def test_a_curve_is_the_mean_of_its_results_and_needs_all_of_them():
    other = result(embedding_curve={**CURVE, "accuracy": [0.7, 0.6, 0.1], "share_of_nearest_class": [0.0, 0.4, 0.8]})
    mean = radius_curve(Series(name="m", place=0, results=[result(), other]))
    assert mean.accuracy == pytest.approx([0.8, 0.7, 0.1]) and mean.share == pytest.approx([0, 0.3, 0.6])
    assert mean.radius == CURVE["radius"]
    shorter = result(embedding_curve={name: numbers[:2] for name, numbers in CURVE.items()})
    assert radius_curve(Series(name="m", place=0, results=[result(), shorter])) is None
    assert radius_curve(Series(name="m", place=0, results=[make_result()])) is None


def test_the_chart_has_a_line_a_model_in_both_panels(monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda self, *given: figures.append(self) or subplots(self, *given))
    png = radius_chart([*series(result(), result()), *series(make_result())])
    assert png.startswith(b"\x89PNG")
    radius, share = figures[0].axes
    for panel, across in ((radius, CURVE["radius"]), (share, CURVE["share_of_nearest_class"])):
        first, second = (line for line in panel.lines if len(line.get_xdata()) == 3)
        assert list(first.get_xdata()) == across == list(second.get_xdata())
        assert list(first.get_ydata()) == pytest.approx([90, 80, 10])
    (legend,) = figures[0].legends
    assert legend.get_texts()[0].get_text() == "model 0 (budget: 40% of the distance)"  # at a rho of 1


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The report of one result, as HTML and as Markdown."""
    for name in ("accuracy_chart", "radius_chart"):
        monkeypatch.setattr(f"hf_mmcoa.report.page.{name}", lambda *args, **kwargs: b"PNG")
    save_result(result(), tmp_path / "r.json")
    report = write_report([tmp_path / "r.json"], tmp_path / "out")
    assert (tmp_path / "out" / "radius-1.png").exists()
    return html.unescape(report.page.read_text(encoding="utf-8")), report.markdown.read_text(encoding="utf-8")


def test_the_page_shows_all_four(page):
    shown, written = page
    assert "<th>own</th><th>all</th>" in shown and "only the true class's prompt changes" in shown
    assert shown.count('scope="rowgroup"') == 6 + 6  # the headline accuracies, then the rows by adversary
    assert "<del>cat</del> <ins>feline</ins>" in shown and "(2 images)" in shown
    assert "<td>exhaustive</td>" in shown.replace(' class="words"', "") and "<td>1,040 texts</td>" in shown
    assert '<td>80.0 <small class="muted">(0.2)</small></td>' in shown
    assert "- a photo of a ~~cat~~ **feline** is read as a photo of a dog (2 images)" in written
    assert "| text/words, legal texts | exhaustive | 1,040 texts |" in written
    assert "| before | 90.0 (0) | 80.0 (0.2) | 10.0 (0.4) |" in written and "(radius-1.png)" in written


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding_curve": {**CURVE, "radius": [0.0]}}, "as many accuracies"),
        ({"embedding_curve": {**CURVE, "accuracy": [0.9, 0.8, 1.2]}}, "no fraction"),
        ({"embedding_curve": {**CURVE, "radius": [0.0, -1.0, 1.0]}}, "negative"),
        ({"embedding_curve": {"radius": [0.0]}}, "embedding_curve"),
        ({"witnesses": {"text/words/own": [["one", "two"]]}}, "two texts or none a sample"),
        ({"witnesses": {"text/words/own": [["one"], *[None] * 9]}}, "two texts or none a sample"),
        ({"witnesses": {"text/words/own": [["a" * 2000, "b"], *[None] * 9]}}, "1000 characters"),
        ({"labels": [7] * 10, "witnesses": {"text/words/own": [None] * 10}}, "number the prompts"),
        ({"witnesses": ["none"]}, "witnesses"),
    ],
    ids=str,
)
def test_damaged_fields_leave_the_file_out(tmp_path, changes, said):
    (tmp_path / "bad.json").write_text(json.dumps(result(**changes)))
    with pytest.raises(ValueError, match=said):
        write_report([tmp_path / "bad.json"], tmp_path / "out")
