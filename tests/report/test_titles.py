from __future__ import annotations

from result_dicts import make_result

from hf_mmcoa.evaluation import ThreatModel
from hf_mmcoa.report.conditions import describe, most_candidates
from hf_mmcoa.report.titles import title_parts


def titles(*results):
    return [", ".join(parts) for parts in title_parts(results)]


def test_radius_and_data_set_are_enough_where_they_differ():
    assert titles(make_result(epsilon=1 / 255), make_result(epsilon=4 / 255), make_result(dataset="stl10/test")) == [
        "squares/test, L∞ ε = 1/255",
        "squares/test, L∞ ε = 4/255",
        "stl10/test, L∞ ε = 0.1",
    ]


def test_presets_are_named():
    specs = [ThreatModel.preset(name, epsilon=4 / 255).to_dict() for name in ("quick", "standard")]
    results = [make_result() | {"attack_spec": spec} for spec in specs]
    assert titles(*results) == [
        "squares/test, L∞ ε = 4/255, preset quick",
        "squares/test, L∞ ε = 4/255, preset standard",
    ]


def test_single_settings_tell_apart_what_no_preset_does():
    results = [make_result(num_steps=7), make_result(num_steps=9), make_result(num_steps=9, restarts=3)]
    assert len(set(titles(*results))) == 3 and "num_steps 7" in titles(*results)[0]


def test_equal_settings_on_other_rows_are_numbered():
    results = [make_result(), make_result(row_ids=list(range(10, 20)))]
    assert titles(*results) == ["squares/test, L∞ ε = 0.1", "squares/test, L∞ ε = 0.1, number 2"]


def test_the_candidates_are_those_of_the_table():
    result = make_result(candidates_a_word={"": 3})
    assert "one word of up to 3 candidates" in describe(result["attack_spec"], most_candidates(result))
    assert "one word of up to 10 candidates" in describe(result["attack_spec"], most_candidates(make_result()))
    assert "of up to one candidate;" in describe(result["attack_spec"], 1)
    few = make_result(candidates_a_word={"": 30})
    assert "one word of up to 10 candidates" in describe(few["attack_spec"], most_candidates(few))
