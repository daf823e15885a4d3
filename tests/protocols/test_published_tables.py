"""The published tables that come with the package, the files that people write, and the verdicts on their numbers."""

from __future__ import annotations

import json

import pytest
from result_dicts import make_result

from hf_mmcoa.data.templates import prompt_templates
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.io import write_text
from hf_mmcoa.protocols.published_table import published_tables, read_table
from hf_mmcoa.protocols.reproduction import compare_table, write_reproduction

TABLE = """\
title: two models on two data sets
read: {numbers: "a README"}
models: {ours: owner/ours, theirs: owner/theirs}
data: [{name: cats}, {name: dogs, dataset: owner/dogs}]
threat_model: {preset: quick}
samples: {clean: all, attacked: 1000}
numbers:
  - {model: ours, clean: 90.0, 4/255: 40.0}
  - {model: ours, data: dogs, 4/255: 40.0}
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "mine.yaml").write_text(TABLE)
    return read_table(tmp_path / "mine.yaml")


def test_the_tables_hold_what_the_readmes_state():
    assert published_tables() == ["robustvlm-vit-b-32", "robustvlm-vit-l-14", "tga-zsr"]
    numbers = {
        (name, one.model, one.epsilon): one.percent for name in published_tables() for one in read_table(name).numbers
    }
    stated = {
        ("robustvlm-vit-b-32", "TeCoA1"): {None: 53.1, "1/255": 38.8, "2/255": 26.6, "4/255": 9.6},
        ("robustvlm-vit-b-32", "FARE1"): {None: 60.5, "1/255": 38.0, "2/255": 20.1, "4/255": 2.9},
        ("robustvlm-vit-b-32", "TeCoA4"): {None: 44.0, "1/255": 38.2, "2/255": 33.1, "4/255": 23.6},
        ("robustvlm-vit-b-32", "FARE4"): {None: 48.6, "1/255": 40.6, "2/255": 33.7, "4/255": 21.9},
        ("robustvlm-vit-l-14", "TeCoA2"): {None: 60.0, "2/255": 43.6, "4/255": 27.0},
        ("robustvlm-vit-l-14", "FARE2"): {None: 67.0, "2/255": 43.1, "4/255": 20.5},
        ("robustvlm-vit-l-14", "TeCoA4"): {None: 54.2, "2/255": 42.3, "4/255": 31.9},
        ("robustvlm-vit-l-14", "FARE4"): {None: 61.1, "2/255": 45.9, "4/255": 32.4},
        ("tga-zsr", "TGA-ZSR"): {None: 56.44, "1/255": 42.09},
    }
    for (name, model), row in stated.items():
        assert {epsilon: numbers[name, model, epsilon] for epsilon in row} == row


def test_robustvlm_attacks_as_its_code_does():
    table = read_table("robustvlm-vit-b-32")
    assert len(table.data) == 13 and table.published_samples("1/255") == 1000 and table.published_samples(None) is None
    for data in table.data:
        values = {**table.threat_model, **data.threat_model}
        spec = ThreatModel.preset(values.pop("preset"), **values)
        two_classes = data.name == "pcam"
        assert spec.image_attacks == (("apgd-ce",) if two_classes else ("apgd-ce", "autoattack-apgd-t"))
        assert (spec.num_steps, spec.restarts, spec.skip_fallen) == (100, 5, True)
        assert spec.perturb_at == ("native" if data.name in ("cifar10", "cifar100", "stl10") else "model")
        assert prompt_templates(data.templates)


def test_tga_zsr_attacks_as_its_code_does():
    table = read_table("tga-zsr")
    spec = ThreatModel.preset(**{"name": table.threat_model["preset"]}, image_attacks=("pgd-ce",))
    assert len(table.data) == 16 and (spec.num_steps, spec.step_size, spec.skip_fallen) == (100, 1 / 255, False)


def result(clean, attacked, total):
    """A result of `total` samples, of which so many stand."""
    outcomes = {"clean": "1" * clean + "0" * (total - clean), "image/pgd-ce": "1" * attacked + "0" * (total - attacked)}
    return make_result(outcomes)


def verdicts(table, **counts):
    results = {
        ("ours", data, "4/255"): result(clean, attacked, total) for data, (clean, attacked, total) in counts.items()
    }
    return compare_table(table, results, {("ours", "dogs", "4/255"): "no such data set"})


def test_a_number_holds_inside_its_interval(table):
    clean, mean, dogs = verdicts(table, cats=(95, 45, 100), dogs=(85, 35, 100))
    assert (clean.measured, mean.measured, dogs.measured) == pytest.approx((0.9, 0.4, 0.35))
    assert (mean.samples, dogs.samples, mean.published_samples, clean.published_samples) == (200, 100, 1000, None)
    assert [one.verdict for one in (clean, mean, dogs)] == ["holds"] * 3
    assert mean.low < 0.4 < mean.high and dogs.high - dogs.low > mean.high - mean.low


def test_a_number_that_differs_on_enough_samples_is_flagged(table):
    few = verdicts(table, cats=(9, 3, 10), dogs=(9, 3, 10))
    many = verdicts(table, cats=(900, 300, 1000), dogs=(900, 300, 1000))
    assert [one.verdict for one in few] == ["holds"] * 3
    assert [one.verdict for one in many] == ["holds", "differs", "differs"]


def test_a_mean_without_one_of_its_data_sets_is_not_measured(table):
    clean, mean, dogs = verdicts(table, cats=(95, 45, 100))
    assert {clean.verdict, mean.verdict, dogs.verdict} == {"not measured"}
    assert mean.why == "1 of 2 data sets are missing: dogs: no such data set" and dogs.measured is None


def test_the_page_says_what_is_not_certain(table, tmp_path):
    hostile = "<b>*hi*</b>"
    results = {
        ("ours", "cats", "4/255"): {
            **result(95, 45, 100),
            "sanity": [{"check": hostile, "passed": False, "detail": ""}],
        }
    }
    compared = compare_table(table, results, {})
    write_reproduction(table, {"ours": "x"}, compared, results, tmp_path)
    page = (tmp_path / "reproduction.md").read_text()
    assert "| ours | mean of 2 | 4/255 | 40.0 |  |  |  | not measured |" in page
    assert "1 of 2 data sets are missing" in page and "a README" in page and "<b>" not in page
    content = json.loads((tmp_path / "reproduction.json").read_text())
    assert content["numbers"][1]["published"] == 0.4 and hostile in content["failed_sanity_checks"][0]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("title: ", "headline: ", "headline"),
        ("model: ours, clean", "model: nobody, clean", "there is no model 'nobody'"),
        ("data: dogs,", "data: birds,", "there is no data set 'birds'"),
        ("4/255: 40.0}", "four: 40.0}", "neither clean nor a radius"),
        ("clean: 90.0", "clean: 900", "percentage"),
        ("preset: quick", "preset: quick, epsilon: 1/255", "the numbers have theirs"),
        ("preset: quick", "preset: quick, random_start: false", "no option"),
        ("preset: quick", "preset: quick, image_attacks: [pgd]", "unknown pgd"),
        ("attacked: 1000", "attacked: some", "or all"),
        ("samples: {clean: all, attacked: 1000}\n", "", "lacks samples"),
        ("[{name: cats}, ", "[{name: dogs}, ", "each once"),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(tmp_path, old, new, text):
    assert old in TABLE
    write_text(TABLE.replace(old, new), tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=text):
        read_table(tmp_path / "mine.yaml")


def test_a_table_that_does_not_exist():
    with pytest.raises(ValueError, match=r"no published table .*tga-zsr.* and no YAML file"):
        read_table("leaf")
