"""The page says what the files say, keeps apart what does not compare, and trusts nothing that it reads."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest
from result_dicts import OUTCOMES, PASSED, make_result
from test_picture import make_gallery

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation.clusters import cluster_interval
from hf_mmcoa.evaluation.results import save_result
from hf_mmcoa.report import charts
from hf_mmcoa.report.gallery import gallery_path, save_gallery
from hf_mmcoa.report.load import read_results
from hf_mmcoa.report.page import write_report

AFTER = {
    **OUTCOMES,
    "image/pgd-ce": "1111111100",
    "text/words/all": "1" * 9 + "0",
    "multimodal/independent/all": "1" * 7 + "000",
}
EVIL = '<script>alert("x")</script>'


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Drawing takes a second a page; the charts have tests of their own."""
    for name in ("accuracy_chart", "tradeoff_chart", "epsilon_chart"):
        monkeypatch.setattr(f"hf_mmcoa.report.page.{name}", lambda *args, **kwargs: b"PNG")


@pytest.fixture
def written(tmp_path):
    """Two models in files of their own, and the page of both."""
    save_result(make_result(), tmp_path / "before.json")
    save_result(make_result(AFTER, model="after"), tmp_path / "after.json")
    return write_report([tmp_path / "before.json", tmp_path / "after.json"], tmp_path / "out")


def page_text(report) -> str:
    return report.page.read_text(encoding="utf-8")


def rows(page: str) -> dict[str, list[tuple[str, str, str]]]:
    """Label -> (value, low, high) of each bar."""
    found = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL):
        if label := re.search(r'rowgroup"[^>]*>([^<]*)', body):
            found[html.unescape(label[1])] = re.findall(r"--v: ([\d.]+)%; --low: ([\d.]+)%; --high: ([\d.]+)%", body)
    return found


def test_the_numbers_and_intervals_are_those_of_the_files(written):
    results = [make_result(), make_result(AFTER, model="after")]
    for label in ("clean", "image", "text, all", "multimodal, all"):
        name = label.removesuffix(", all")
        expected = [
            tuple(f"{100 * value:.1f}" for value in (one[f"{name}_accuracy"], *one[f"{name}_accuracy_interval"]))
            for one in results
        ]
        assert rows(page_text(written))[label] == expected
    markdown = written.markdown.read_text(encoding="utf-8")
    assert "| image | 40.0 [16.8, 68.7] | 80.0 [49.0, 94.3] |" in markdown


def test_paired_difference(written):
    page = page_text(written)
    assert "+40.0 points, p = 0.125 over images" in page  # 4 against 0 discordant samples: 2 / 2**4
    assert (
        "over classes: one attacked prompt decides all images" in html.unescape(page)
        and "p = 0.500 over classes" in page  # two classes: 2 of 4 patterns
    )


def test_the_whole_specification_is_shown(written):
    page, markdown = page_text(written), written.markdown.read_text(encoding="utf-8")
    for name, value in make_result()["attack_spec"].items():
        assert f"<dt>{name}</dt>" in page
        assert f"| {name.replace('_', chr(92) + '_')} |" in markdown
        if isinstance(value, int) and not isinstance(value, bool):
            assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert "<dt>epsilon</dt><dd>0.1</dd>" in page and "SynonymTable(3 words)" in page
    assert "torch 2.13.0" in page and "weights of after 0" in page and "10 samples" in page


def test_the_page_stands_alone(written):
    page = page_text(written)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href|srcset)=\"(?!data:)", page)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_foreign_text_is_escaped(tmp_path):
    result = make_result(
        model=EVIL,
        dataset=EVIL,
        adv_prompts={"text/words/all": [f"a photo of a {EVIL}", "a photo of a hound"]},
        sanity=[{"check": EVIL, "passed": False, "detail": EVIL}],
        versions={EVIL: EVIL},
        candidates=EVIL,
    )
    save_result(result, tmp_path / "r.json")
    save_gallery(make_gallery(names=(EVIL, "![x](http://example.com/x.png)")), gallery_path(tmp_path / "r.json"))
    report = write_report([f"{EVIL} ![x](http://example.com)={tmp_path / 'r.json'}"], tmp_path / "out", title=EVIL)
    assert "<script" not in page_text(report)
    assert html.escape(EVIL, quote=False)[:12] in page_text(report)
    markdown = report.markdown.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<script", markdown) and not re.search(r"(?<!\\)!\[x", markdown)


def test_failed_checks_stand_before_the_numbers(tmp_path):
    bad = {"check": "image/pgd-ce: has gradients", "passed": False, "detail": "9 of 16 samples have none"}
    save_result(make_result(sanity=[PASSED, bad]), tmp_path / "r.json")
    report = write_report([tmp_path / "r.json"], tmp_path / "out")
    page = page_text(report)
    assert 0 < page.index("9 of 16 samples have none") < page.index("Accuracy, percent")
    assert "1 of 2 sanity checks passed" in page
    assert "9 of 16 samples have none" in report.markdown.read_text(encoding="utf-8")


def test_a_result_without_checks_says_so(tmp_path):
    save_result(make_result(sanity=[]), tmp_path / "r.json")
    assert "No sanity checks were run for before" in page_text(write_report([tmp_path / "r.json"], tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "said"), [({"num_steps": 7}, "num_steps: 50 and 7"), ({"dataset": "other/test"}, "other/test")]
)
def test_different_conditions_get_sections_and_a_sentence(tmp_path, changes, said):
    save_result(make_result(), tmp_path / "one.json")
    save_result(make_result(AFTER, model="after", **changes), tmp_path / "two.json")
    report = write_report([tmp_path], tmp_path / "out")
    page = html.unescape(page_text(report))
    assert page.count('<table class="accuracy">') == 2
    assert "This section and section 1 differ in" in page and said in page
    assert "points, p" not in page
    assert "differ in" in report.markdown.read_text(encoding="utf-8")


def test_seeds_of_one_model_are_averaged(tmp_path):
    for seed, kept in enumerate((6, 7, 8)):
        save_result(
            make_result(dict.fromkeys(OUTCOMES, "1" * kept + "0" * (10 - kept)), seed=seed, training_seed=seed),
            tmp_path / f"{seed}.json",
        )
    shutil.copy(tmp_path / "0.json", tmp_path / "again.json")
    report = write_report([tmp_path], tmp_path / "out")
    found = cluster_interval(  # Student's t over three seeds would have an end at 94.8, and over classes above 100
        [row < kept for kept in (6, 7, 8) for row in range(10)],
        {"seeds": [0] * 10 + [1] * 10 + [2] * 10, "images": [*range(10)] * 3},
    )
    assert rows(page_text(report))["image"] == [("70.0", f"{100 * found.low:.1f}", f"{100 * found.high:.1f}")]
    assert "over seeds and images, of all others over seeds and classes" in page_text(report)
    assert "mean of 3" in page_text(report) and "<dt>seed</dt><dd>0, 1, 2</dd>" in page_text(report)
    assert len(report.notes) == 1 and "again.json repeats" in report.notes[0]


def test_names_given_by_the_user(tmp_path):
    for seed, name in enumerate(("x", "y")):
        save_result(make_result(model=name, training_seed=seed), tmp_path / f"{name}.json")
    report = write_report([f"MMCoA={tmp_path / 'x.json'}", f"MMCoA={tmp_path / 'y.json'}"], tmp_path / "out")
    assert "mean of 2" in page_text(report)


@pytest.mark.parametrize("seeds", [(None, None), (0, None), (0, 0)])
def test_other_weights_of_one_name_are_two_models(tmp_path, seeds):
    """Before and after a training are not two repetitions; their mean is nobody's number."""
    for seed, name, outcomes in zip(seeds, ("start", "end"), (OUTCOMES, AFTER), strict=True):
        said = {} if seed is None else {"training_seed": seed}
        result = make_result(outcomes, model="tiny CLIP", **said)
        result["fingerprints"]["model"] = name
        save_result(result, tmp_path / f"{name}.json")
    report = write_report([tmp_path / "start.json", tmp_path / "end.json"], tmp_path / "out")
    page = page_text(report)
    assert "mean of" not in page and "tiny CLIP (start)" in page and "tiny CLIP (end)" in page
    assert len(report.notes) == 1 and "2 models with different weights are called tiny CLIP" in report.notes[0]


def test_seeds_of_the_attack_on_one_model_are_averaged(tmp_path):
    for seed in (0, 1):
        result = make_result(seed=seed)
        result["fingerprints"]["model"] = "the same"
        save_result(result, tmp_path / f"{seed}.json")
    assert "mean of 2" in page_text(write_report([tmp_path], tmp_path / "out"))


def test_a_file_of_several_results(tmp_path):
    stored = {"before": make_result(), "after": make_result(AFTER), "note": "mine"}
    (tmp_path / "robustness.json").write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text("{}")
    assert list(read_results(tmp_path / "robustness.json")) == ["before", "after"]
    assert len(rows(page_text(write_report([tmp_path], tmp_path / "out")))["image"]) == 2


def test_a_cut_off_file_is_named_and_the_others_are_reported(tmp_path, capsys):
    save_result(make_result(), tmp_path / "good.json")
    whole = (tmp_path / "good.json").read_text()
    (tmp_path / "cut.json").write_text(whole[: len(whole) // 2])
    files = [str(tmp_path / name) for name in ("cut.json", "good.json", "missing.json")]
    assert main(["report", *files, "--output", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert "cut.json is no complete JSON file" in errors and "missing.json: No such file" in errors
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "cut.json is no complete JSON file" in page and rows(page)["image"][0][0] == "40.0"
    assert main(["report", files[1], "--output", str(tmp_path / "out")]) == 0


def test_nothing_readable_is_an_error_and_writes_nothing(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json"):
        write_report([tmp_path / "bad.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "changes",
    [
        {"image_accuracy": 1.4},
        {"image_accuracy_interval": None},
        {"clean_accuracy": "0.9"},
        {"sanity": ["all well"]},
        {"sanity": 3},
        {"versions": "2.13"},
        {"fingerprints": []},
        {"adv_prompts": {"text/words/all": [1, 2]}},
        {"adv_prompts": []},
        {"image_attack_success_rate": "high"},
    ],
    ids=str,
)
def test_damaged_results_are_left_out(tmp_path, changes):
    (tmp_path / "bad.json").write_text(json.dumps({**make_result(), **changes}))
    save_result(make_result(), tmp_path / "good.json")
    report = write_report([tmp_path / "bad.json", tmp_path / "good.json"], tmp_path / "out")
    assert len(report.left_out) == 1 and "bad.json" in report.left_out[0]


def test_a_result_whose_accuracy_is_not_that_of_its_outcomes_is_left_out(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({**make_result(), "text_accuracy": 0.5}))
    save_result(make_result(), tmp_path / "good.json")
    report = write_report([tmp_path / "bad.json", tmp_path / "good.json"], tmp_path / "out")
    assert len(report.left_out) == 1 and "text_accuracy is 0.5, its outcomes say 0.6" in report.left_out[0]


def test_no_path_in_a_file_is_opened(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET")
    result = make_result(model=str(secret), gallery=str(secret), prompts=[f"file://{secret}", "a photo of a dog"])
    (tmp_path / "folder").mkdir()
    save_result(result, tmp_path / "folder" / "r.json")
    report = write_report([tmp_path / "folder"], tmp_path / "out")
    assert "TOP SECRET" not in page_text(report)


def test_a_gallery_beside_a_result_is_shown(tmp_path):
    save_result(make_result(), tmp_path / "r.json")
    save_gallery(make_gallery(right=False), gallery_path(tmp_path / "r.json"))
    report = write_report([tmp_path / "r.json"], tmp_path / "out")
    page = page_text(report)
    assert "<del>cat</del> <ins>feline</ins>" in page and page.count("✗ dog") == 8  # four threats, two models
    assert "another threat model" not in page
    assert (tmp_path / "out" / "gallery-1-1.png").exists()
    assert "gallery-1-1.png" in report.markdown.read_text(encoding="utf-8")


def test_a_gallery_under_another_threat_model_says_so(tmp_path):
    save_result(make_result(num_steps=7), tmp_path / "r.json")
    save_gallery(make_gallery(), gallery_path(tmp_path / "r.json"))
    assert "another threat model than the numbers above: num_steps, step_size differ" in page_text(
        write_report([tmp_path / "r.json"], tmp_path / "out")
    )


def test_a_damaged_gallery_costs_nothing_else(tmp_path):
    save_result(make_result(), tmp_path / "r.json")
    gallery_path(tmp_path / "r.json").write_text("{")
    report = write_report([tmp_path / "r.json"], tmp_path / "out")
    assert len(report.left_out) == 1 and "is no gallery" in report.left_out[0]


def test_epsilons_of_one_model_make_a_curve(tmp_path):
    for epsilon in (0.1, 0.2):
        save_result(make_result(epsilon=epsilon), tmp_path / f"{epsilon}.json")
    report = write_report([tmp_path], tmp_path / "out")
    assert "epsilon-1.png" in [path.name for path in report.pictures]
    save_result(make_result(epsilon=0.2, num_steps=9), tmp_path / "0.2.json")  # not epsilon alone
    shutil.rmtree(tmp_path / "out")
    assert not any(path.name.startswith("epsilon") for path in write_report([tmp_path], tmp_path / "out").pictures)


class Recorder:
    """Stands in for axes: keeps what is drawn."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []

    def __getattr__(self, name):
        def record(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return (0, 100)

        return record

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


def draw(monkeypatch, chart, *args):
    recorder = Recorder()
    monkeypatch.setattr(
        charts, "_draw", lambda size, dark, function: function(recorder, charts.COLOURS, "black") or b""
    )
    chart(*args)
    return recorder


def make_series(*results):
    return [charts.Series(name=result["model"], place=place, results=[result]) for place, result in enumerate(results)]


def test_bars_have_the_intervals_of_the_results(monkeypatch):
    result = make_result()
    (args, kwargs), _ = draw(monkeypatch, charts.accuracy_chart, make_series(result, make_result(AFTER))).of("barh")
    names = ["clean_accuracy", "image_accuracy", "text_accuracy", "multimodal_accuracy", "worst_case_accuracy"]
    assert args[1] == pytest.approx([100 * result[name] for name in names])
    for name, below, above in zip(names, *kwargs["xerr"], strict=True):
        low, high = result[f"{name}_interval"]
        assert (below, above) == pytest.approx((100 * (result[name] - low), 100 * (high - result[name])))


def test_tradeoff_and_curve_have_the_numbers_of_the_results(monkeypatch):
    result = make_result()
    ((args, kwargs),) = draw(monkeypatch, charts.tradeoff_chart, make_series(result)).of("errorbar")
    assert args == (90.0, 20.0)
    assert kwargs["yerr"][1][0] == pytest.approx(100 * (result["multimodal_accuracy_interval"][1] - 0.2))
    points = [(epsilon, *make_series(make_result(epsilon=epsilon))) for epsilon in (0.1, 0.2)]
    image, both = draw(monkeypatch, charts.epsilon_chart, {"before": points}).of("errorbar")
    assert image[0] == ([0.0, 0.1, 0.2], [90.0, 40.0, 40.0])
    assert both[0] == ([0.1, 0.2], [20.0, 20.0])


def test_both_axes_of_a_tradeoff_have_one_zoom(monkeypatch):
    drawn = draw(monkeypatch, charts.tradeoff_chart, make_series(make_result(), make_result(AFTER)))
    assert drawn.of("set_xlim") == drawn.of("set_ylim") and drawn.of("set_aspect")[0][0] == ("equal",)


@pytest.mark.parametrize(
    ("radii", "labels"),
    [([1 / 255, 4 / 255, 8 / 255], ["8/255", "4/255", "1/255", "0"]), ([0.15, 0.3], ["0.3", "0.15", "0"])],
)
def test_radii_are_written_as_people_write_them(monkeypatch, radii, labels):
    points = [(radius, *make_series(make_result(epsilon=radius))) for radius in radii]
    (places, shown), _ = draw(monkeypatch, charts.epsilon_chart, {"before": points}).of("set_xticks")[0]
    assert shown == labels and places == [*reversed(radii), 0.0]


def test_radii_that_are_close_are_not_written_over_each_other(monkeypatch):
    points = [(n / 255, *make_series(make_result(epsilon=n / 255))) for n in (1, 2, 4, 8, 16, 32)]
    (_, shown), _ = draw(monkeypatch, charts.epsilon_chart, {"before": points}).of("set_xticks")[0]
    assert shown == ["32/255", "16/255", "8/255", "4/255", "0"]


def test_charts_are_pictures():
    series = make_series(make_result(model="$a_b"), make_result(AFTER, model="x/" + "long" * 20))
    for png in (charts.accuracy_chart(series), charts.tradeoff_chart(series, dark=True)):
        assert png.startswith(b"\x89PNG")
