"""Comparisons: numbers worked out by hand, what is refused, and that an interrupted one ends like a whole one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from processes import finish, kill_when, start
from result_dicts import make_result

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.evaluation.clusters import cluster_interval, paired_cluster_interval
from hf_mmcoa.evaluation.results import save_result
from hf_mmcoa.evaluation.uncertainty import Repetition
from hf_mmcoa.protocols import read_protocol
from hf_mmcoa.protocols.cell import Method
from hf_mmcoa.protocols.columns import with_text_attacks
from hf_mmcoa.protocols.comparison import Row, compare_rows, read_rows, run_comparison
from hf_mmcoa.protocols.grid_table import _training, comparison_table
from hf_mmcoa.report.charts import dot_chart
from hf_mmcoa.report.table import Estimate

ROOT = Path(__file__).parents[2]
ONCE = Repetition(0)
TEXTS = {
    "clean": "1111111110",
    "image/pgd-ce": "1111000011",
    "text/words/all": "1111110000",
    "text/words/all:unseen": "1111001100",
    "text/characters/all": "1111101111",
    "text/embedding/own": "1110111111",
    "multimodal/independent/all": "1111000000",
    "multimodal/independent/all:unseen": "0011000000",
}


def row(name, *seeds, objective="mmcoa", start=0):
    """A row with one seed for each dictionary of outcomes."""
    results = {
        Repetition(seed): make_result(outcomes, model=name, seed=seed, predictions=[])
        for seed, outcomes in enumerate(seeds, start)
    }
    method = Method(name=name, objective=objective)
    return Row(name=name, results=results, files={seed: f"{name}-{seed}.json" for seed in results}, method=method)


def clean(*columns):
    return [{"clean": column} for column in columns]


# Numbers


def test_the_worst_text_is_over_every_source_character_and_embedding():
    result = with_text_attacks(make_result(TEXTS))
    assert result["worst_text_accuracy"] == 0.3  # samples 0, 1 and 2 stand against all four
    stands = cluster_interval([1] * 3 + [0] * 7, {"classes": [0, 1] * 5})
    assert result["worst_text_accuracy_interval"] == [stands.low, stands.high]
    assert result["worst_text_accuracy_interval_over"] == "classes"
    assert result["worst_case_accuracy"] == 0.1  # sample 2 alone stands against everything
    found = compare_rows([row("ours", TEXTS)])["methods"]["ours"]["accuracies"]
    names = ("words/all", "words/all:unseen", "characters/all")
    alone = {name: found[f"attacks/text/{name}"]["value"] for name in names}
    assert alone == dict(zip(names, (0.6, 0.6, 0.8), strict=True))  # a wrong clean prediction stays wrong
    assert "worst_text_accuracy" not in with_text_attacks(make_result())  # of one text attack it would be a repetition


def test_columns_are_in_reading_order():
    columns = compare_rows([row("mmcoa", TEXTS)])["columns"]
    assert list(columns.values()) == [
        "clean", "image", "words (known), all", "words (unseen), all", "characters, all", "text (known), all",
        "text (unseen), all", "text embedding", "text, worst",
        "multimodal (known), all", "multimodal (unseen), all", "worst case",
    ]  # fmt: skip


def test_accuracies_and_paired_tests_by_hand():
    # Seed 0: 8 of 10 against 4, five for one alone and one for the other; seed 1: 6 against 4, 2 and 0.
    ours = row("ours", *clean("1111111100", "1111110000"))
    theirs = row("theirs", *clean("1110000010", "1111000000"))
    found = compare_rows([row("none", *clean("1000000000", "1000000000"), objective="none"), theirs, ours])
    assert found["reference"] == "theirs"  # the first that trains
    test = found["tests"]["ours"]["clean_accuracy"]
    assert (test["only_method"], test["only_reference"], test["pairs"], test["seeds"]) == (7, 1, 20, [0, 1])
    # Images 3, 6 and 7 differ in one seed and 4 and 5 in both, for ours; 8 for theirs: sums 1, 1, 1, 2, 2, -1. Of 64
    # patterns of signs 10 reach 6 in size.
    assert (test["p_value"], test["test"], test["over"]) == (pytest.approx(10 / 64), "sign flips", "images")
    assert test["difference"] == pytest.approx(0.3)
    samples = {"seeds": [0] * 10 + [1] * 10, "images": [*range(10)] * 2}
    own, other = ([int(sign) for sign in signs] for signs in ("11111111001111110000", "11100000101111000000"))
    expected = paired_cluster_interval(other, own, samples)
    assert test["difference_interval"] == [expected.low, expected.high]
    assert test["interval_over"] == "seeds and images" and test["difference_interval"][0] < 0
    accuracy = found["methods"]["ours"]["accuracies"]["clean_accuracy"]
    assert accuracy["by_seed"] == {"0": 0.8, "1": 0.6} and accuracy["value"] == pytest.approx(0.7)
    expected = cluster_interval(own, samples)  # 0.7 ± 12.7 * 0.1, Student's t over seeds, leaves [0, 1]
    assert (accuracy["low"], accuracy["high"], accuracy["count"]) == (expected.low, expected.high, 2)
    assert accuracy["over"] == "seeds and images" and 0 < accuracy["low"] < 0.5
    assert compare_rows([ours, theirs], "theirs")["reference"] == "theirs"


def test_the_best_is_marked_only_if_samples_and_seeds_agree():
    def best(one, other):
        return compare_rows([row("one", *clean(*one)), row("other", *clean(*other))])["best"]["clean_accuracy"]

    ten, none = "1" * 10, "0" * 10
    assert best([ten], [none])["method"] == "one" and best([none], [ten])["method"] == "other"
    assert best([ten], [none])["significant"] and best([ten], [none])["runner_up"] == "other"
    assert not best([ten], ["1" * 5 + "0" * 5])["significant"]  # p = 0.0625
    assert best([ten, ten, ten], [none, none, none])["significant"]
    lucky = best([ten, ten, ten], [none, ten, ten])
    assert lucky["test"]["p_value"] < 0.05 and not lucky["significant"]  # one seed of three decides it
    assert not best([ten], [ten])["significant"]


def test_the_table_marks_the_best_and_tells_the_tests(tmp_path):
    def table(*rows):
        return comparison_table(read_protocol(write(tmp_path)), compare_rows(rows), [], {})

    ten, none = clean("1" * 10), clean("0" * 10)
    text = table(row("one", *ten), row("other", *none), row("far", *none, start=7))
    assert "| one | 1 | **100.0 [72.2, 100.0]** |" in text and "| other | 1 | 0.0 [0.0, 27.8] |" in text
    assert (
        "## Against one" in text and "| other | -100.0 [-100.0, -38.3], p = 0.002 |" in text and "| far | - |" in text
    )
    assert "(10 pairs)" in text and "number of tests: 2 a column" in text
    assert "**" not in table(row("one", *ten), row("other", *ten))  # no difference, no mark


def test_only_equal_seeds_are_paired():
    far = row("far", *clean("1111111100"), start=7)
    found = compare_rows([row("near", *clean("1110000000", "1000000000")), far])
    assert found["tests"]["far"]["clean_accuracy"] is None
    assert not found["best"]["clean_accuracy"]["significant"]
    both = row("both", *clean("1111111100", "0000000000"), start=1)  # seeds 1 and 2
    test = compare_rows([row("near", *clean("1110000000", "1000000000")), both])["tests"]["both"]["clean_accuracy"]
    assert (test["seeds"], test["only_method"], test["interval_over"]) == ([1], 7, "images")
    assert 0 < test["difference_interval"][0] < 0.7 < test["difference_interval"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epsilon": 0.2}, "epsilon: 0.1 and 0.2"), ({"dataset": "other/test"}, "dataset: 'squares/test' and 'other")],
)
def test_rows_of_unequal_specifications_are_refused(change, message):
    other = Row(name="b", results={ONCE: make_result(model="b", **change)}, files={ONCE: "b.json"})
    with pytest.raises(ValueError, match=message):
        compare_rows([Row(name="a", results={ONCE: make_result()}, files={ONCE: "a"}), other])


def test_other_pictures_under_the_same_name_are_refused():
    prints = make_result()["fingerprints"] | {"data": "circles"}
    rows = [
        Row(name="a", results={ONCE: make_result()}, files={ONCE: "a"}),
        Row(name="b", results={ONCE: make_result(fingerprints=prints)}, files={ONCE: "b"}),
    ]
    with pytest.raises(ValueError, match=r"different pictures: data fingerprints .*circles"):
        compare_rows(rows)


# Results from elsewhere


@pytest.fixture
def files(tmp_path):
    for name, seed in (("one", 0), ("one", 1), ("two", 0)):
        folder = tmp_path / "grid" / "cells" / f"{name}_seed{seed}"
        cell = {"objective": "mmcoa"} | ({"method": "two"} if name == "two" else {})
        save_result(make_result(seed=seed, predictions=[], cell=cell), folder / "result.json")
    save_result(make_result(model="org/clip", predictions=[]), tmp_path / "their.json")
    return tmp_path


def test_results_become_rows_by_method_seed_and_name(files):
    rows = {one.name: one for one in read_rows([str(files / "grid"), str(files / "their.json")], [])}
    seeds = {name: [each.seed for each in one.results] for name, one in rows.items()}
    assert seeds == {"mmcoa": [0, 1], "two": [0], "org/clip": [0]}
    assert rows["two"].files[ONCE].endswith("two_seed0/result.json")
    named = read_rows([f"older={files / 'grid'}", f"theirs={files / 'their.json'}"], ["mmcoa"])
    assert [one.name for one in named] == ["older: mmcoa", "older: two", "theirs"]


def test_a_name_that_is_taken_and_a_seed_twice_are_refused(files):
    with pytest.raises(ValueError, match=r"'mmcoa' is the name of another row. .* NAME="):
        read_rows([str(files / "grid")], ["mmcoa"])
    again = [f"a={files / 'their.json'}", f"a={files / 'grid/cells/one_seed0/result.json'}"]
    with pytest.raises(ValueError, match="'a' has two results of seed 0"):
        read_rows(again, [])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_rows([str(files / "nowhere.json")], [])


# The plot


def test_the_plot_has_a_line_a_method_and_shows_every_accuracy():
    def point(value):
        return Estimate(value=value, low=value - 0.05, high=value + 0.05, count=3, over="images")

    labels = {"clean_accuracy": "clean", "worst_case_accuracy": "worst case"}
    points = {name: dict.fromkeys(labels, point(place / 10)) for place, name in enumerate("abcd", 1)}
    whole = dot_chart(points, labels)
    assert whole.startswith(b"\x89PNG") and whole == dot_chart(dict(reversed(points.items())), labels)  # it is sorted
    assert whole != dot_chart(points | {"a": dict.fromkeys(labels, point(0.9))}, labels)
    assert whole != dot_chart(points, {"clean_accuracy": "clean"})
    assert len({dot_chart({"a": points["a"]}, labels, dark) for dark in (False, True)}) == 2

    def height(png):
        return int.from_bytes(png[20:24], "big")

    assert height(whole) > height(dot_chart({"a": points["a"]}, labels))


def test_the_plots_legend_is_two_lines_high(monkeypatch):
    from matplotlib.figure import Figure

    legend, seen = Figure.legend, []
    monkeypatch.setattr(Figure, "legend", lambda *a, **k: [seen.append((len(a[2]), k["ncols"])), legend(*a, **k)][1])
    labels = {name: name for name in ("clean_accuracy", "image_accuracy", "text_accuracy", "text_unseen_accuracy")}
    labels |= {"multimodal_accuracy": "both", "worst_case_accuracy": "worst case"}
    dot_chart({"a": dict.fromkeys(labels, Estimate(value=0.5, low=0.4, high=0.6, count=3, over="images"))}, labels)
    assert seen == [(6, 4)]


# The command

TEXT_ATTACKS = ["words", "embedding"]
SETTINGS = {"targets": "class", "template": "a photo of a {}", "candidates": "fashion-mnist"}
SMALL = {
    "base": "digits",
    "objectives": ["none", "clean", {"name": "ours", "objective": "mmcoa", **SETTINGS}],
    "tiny": {"epochs": 1, "max_samples": 64, "text_tower": "captions"},
    "candidates": "digits",
    "training": {"num_steps": 1, "max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True, "warmup_steps": 0},
    "threat_model": {
        "num_steps": 2,
        "restarts": 1,
        "num_text_steps": 1,
        "image_attacks": ["pgd-ce"],
        "text_attacks": TEXT_ATTACKS,
    },
    "max_test_samples": 12,
    "batch_size": 4,
}


def write(folder, **changes):
    content = {key: value for key, value in (SMALL | changes).items() if value is not None}
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def run(*arguments):
    return main(["compare", *map(str, arguments)])


def contents(output):
    files = [*output.glob("comparison.*"), output / "specification.json", *sorted(output.glob("cells/*/*"))]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of three methods with one seed."""
    folder = tmp_path_factory.mktemp("comparison")
    assert run(write(folder), "--output", folder / "out") == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """The finished comparison's folder, to be changed."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_command_writes_numbers_table_and_plot(finished):
    numbers = json.loads((finished / "out/comparison.json").read_text())
    assert list(numbers["methods"]) == ["none", "clean", "ours"] and numbers["reference"] == "clean"
    ours = numbers["methods"]["ours"]
    assert (ours["objective"], ours["settings"], ours["steps"]) == ("mmcoa", SETTINGS, [2])
    result = load_result(finished / "out" / ours["files"]["0"])
    assert ours["accuracies"]["clean_accuracy"]["by_seed"]["0"] == result["clean_accuracy"]
    texts = [name for name in result["outcomes"] if name.startswith("text/")]
    words = [f"words/{adversary}{part}" for adversary in ("shared", "own", "all") for part in ("", ":unseen")]
    assert set(texts) == {f"text/{name}" for name in (*words, "embedding/blind", "embedding/own")}
    stands = [set(each) == {"1"} for each in zip(*(result["outcomes"][name] for name in texts), strict=True)]
    assert ours["accuracies"]["worst_text_accuracy"]["value"] == sum(stands) / 12
    assert numbers["specification"]["training"]["max_steps"] == 2 and "torch" in numbers["versions"]
    assert "seed" not in numbers["specification"]["threat_model"]
    text = (finished / "out/comparison.md").read_text()
    assert (
        "| method | seeds | clean | image | text (known), all | text (unseen), all | text embedding | text, wo" in text
        and "\n## By adversary of the texts\n\n| method | seeds | text (known), shared |" in text
        and "\n- adversary own: only the true class's prompt changes" in text
    )
    assert "\n| ours | 1 | " in text and "\n## Against clean\n" in text and "(12 pairs)" in text
    assert "gradient steps: 2 for every method" in text and "- ours: mmcoa with candidates fashion-mnist, t" in text
    assert (finished / "out/comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_typing_errors_are_a_column(tmp_path):
    threat_model = SMALL["threat_model"] | {"text_attacks": ["words", "characters", "embedding"]}
    file = write(tmp_path, objectives=["none"], threat_model=threat_model, measure=["clean", "text"])
    assert run(file, "--output", tmp_path / "out") == 0
    row = json.loads((tmp_path / "out/comparison.json").read_text())["methods"]["none"]
    outcomes = load_result(tmp_path / "out" / row["files"]["0"])["outcomes"]
    assert {f"text/characters/{each}" for each in ("shared", "own", "all")} < set(outcomes)
    columns = "| words (known), all | words (unseen), all | characters, all | text (known), all |"
    assert columns in (tmp_path / "out/comparison.md").read_text()


def test_a_method_trains_by_its_own_settings_and_is_evaluated_like_the_others(finished):
    ours, clean = (
        load_result(finished / f"out/cells/digits_full_{name}_seed0/result.json") for name in ("ours", "clean")
    )
    attack = ours["training"]["text_attack"]
    assert "template='a photo of a {}'" in attack and "ClothingSynonyms" in attack
    assert ours["attack_spec"] == clean["attack_spec"] and ours["prompts"] == clean["prompts"]
    assert ours["prompts"][0] == "This is a photo of a zero"


def test_a_second_run_computes_nothing_and_writes_the_same(copied, capsys):
    output, before = copied / "out", contents(copied / "out")
    times = {file: file.stat().st_mtime_ns for file in output.glob("cells/*/*")}
    assert run(copied / "comparison.yaml", "--output", output) == 0
    assert contents(output) == before
    assert {file: file.stat().st_mtime_ns for file in output.glob("cells/*/*")} == times
    assert "3 cells, 3 finished already" in capsys.readouterr().err


def test_rows_are_chosen_and_added_by_the_command_line(copied, capsys):
    output = copied / "out"
    options = ["--objectives", "ours", "clean", "--reference", "ours", "--output", output]
    assert run(copied / "comparison.yaml", *options) == 0
    assert "2 cells, 2 finished already" in capsys.readouterr().err
    numbers = json.loads((output / "comparison.json").read_text())
    assert list(numbers["methods"]) == ["ours", "clean"] and numbers["reference"] == "ours"
    assert numbers["methods"]["ours"]["settings"] == SETTINGS
    assert run(copied / "comparison.yaml", "--reference", "theirs", "--output", output) == 1
    assert "`reference` must be one of the rows, none, clean, ours; got 'theirs'" in capsys.readouterr().err


def test_a_folder_begun_under_another_specification_is_refused(copied, capsys):
    before = contents(copied / "out")
    for change, message in (
        ({"training": {"max_steps": 3}}, "training.max_steps: 2 and 3"),
        ({"threat_model": {"epsilon": 0.3}}, "threat_model.epsilon: 0.15 and 0.3"),
        ({"max_test_samples": 11}, "max_test_samples: 12 and 11"),
    ):
        changed = {key: {**SMALL[key], **new} if isinstance(new, dict) else new for key, new in change.items()}
        assert run(write(copied, **changed), "--output", copied / "out") == 1
        assert f"belongs to another specification; then and now: {message}" in capsys.readouterr().err
    assert contents(copied / "out") == before


def test_results_of_others_are_rows_and_must_hold_under_the_same_specification(copied, capsys):
    theirs, output = copied / "theirs.json", copied / "out"
    result = load_result(output / "cells/digits_full_ours_seed0/result.json")
    theirs.write_text(json.dumps({key: value for key, value in result.items() if key not in ("cell", "training")}))
    assert run(copied / "comparison.yaml", "--results", f"theirs={theirs}", "--output", output) == 0
    numbers = json.loads((output / "comparison.json").read_text())
    assert list(numbers["methods"]) == ["none", "clean", "ours", "theirs"]
    assert numbers["methods"]["theirs"]["accuracies"] == numbers["methods"]["ours"]["accuracies"]
    assert "- theirs: read from " in (output / "comparison.md").read_text()

    spec = result["attack_spec"]
    theirs.write_text(json.dumps(result | {"attack_spec": spec | {"num_steps": 9}}))
    before = contents(output)
    assert run(copied / "comparison.yaml", "--results", f"theirs={theirs}", "--output", output) == 1
    assert "theirs and ours: num_steps: 9 and 2" in capsys.readouterr().err
    theirs.write_text(json.dumps(result | {"attack_spec": spec | {"template": "a {}"}}))  # known when the cells are
    assert run(copied / "comparison.yaml", "--results", f"theirs={theirs}", "--output", output) == 1
    assert "different conditions" in (error := capsys.readouterr().err) and "'a {}'" in error
    assert contents(output) == before


def test_a_missing_cell_is_named_and_the_others_are_compared(copied, capsys):
    file = write(
        copied, objectives=["none", "clean", {"name": "ours", "objective": "mmcoa", **SETTINGS, "targets": "diagonal"}]
    )
    assert run(file, "--output", copied / "out") == 1
    assert (
        "digits_full_ours_seed0: its settings have changed; then and now: training.targets" in capsys.readouterr().err
    )
    text = (copied / "out/comparison.md").read_text()
    assert "\n| clean | 1 |" in text and "\n| ours |" not in text and "\n- digits_full_ours_seed0: its set" in text


def test_unequal_steps_are_shown():
    rows = []
    for name, steps in (("a", 2), ("b", 3)):
        result = make_result(model=name, training={"steps": steps})
        rows.append(Row(name=name, results={ONCE: result}, files={ONCE: name}))
    found = compare_rows(rows)
    assert {name: method["steps"] for name, method in found["methods"].items()} == {"a": [2], "b": [3]}
    assert "- gradient steps differ: a 2, b 3." in _training(found)


def test_the_short_form_is_the_same_comparison(tmp_path, capsys):
    output = ["--output", tmp_path / "out", "--dry_run"]
    assert run("--dataset", "digits", "--objectives", "none", "x=mmcoa,targets=class", "--seeds", 0, 1, *output) == 0
    shown = capsys.readouterr().out
    assert "4 cells, 0 finished" in shown and "digits_full_x_seed1: to do" in shown and "4 models" in shown
    assert run("--dataset", "cifar10", *output) == 1
    assert "--dataset cifar10 needs --model" in capsys.readouterr().err
    assert run(*output) == 1
    assert "name a YAML file, or a data set by --dataset" in capsys.readouterr().err
    assert run("--dataset", "digits", "--objectives", "mmcoa,max_steps=9", *output) == 1
    assert "'mmcoa,max_steps=9' sets max_steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_are_fields_of_the_protocol():
    from hf_mmcoa.cli import build_parser
    from hf_mmcoa.cli.compare import _changes

    def read(*options):
        args = build_parser().parse_args(["compare", "--output", "out", *options])
        return read_protocol(args.comparison, args.data_dir, _changes(args))

    protocol = read("--dataset", "digits", "--training", "max_steps=9", "--preset", "quick", "--max_test_samples", "5")
    default = yaml.safe_load((ROOT / "hf_mmcoa/testbed/digits.yaml").read_text())
    assert protocol.training["max_steps"] == 9 and protocol.training["learning_rate"] == default["learning_rate"]
    assert protocol.attack_spec(0).num_steps == 20 and protocol.max_test_samples == 5 and protocol.tiny is not None
    own = read("--dataset", "digits", "--model", "some/clip")
    assert (own.model, own.tiny, own.candidates, own.training) == ("some/clip", None, "digits", {})
    assert read("--dataset", "fashion-mnist", "--model", "m", "--candidates", "hotflip").candidates == "hotflip"
    assert read("--dataset", "cifar10", "--model", "m").candidates == "neighbours"


@pytest.mark.parametrize("changes", [{"shots": [1, 2]}, {"datasets": ["digits", "cifar10"]}])
def test_one_data_set_and_one_number_of_shots(tmp_path, changes):
    protocol = read_protocol(write(tmp_path, **changes))
    with pytest.raises(ValueError, match=r"a comparison has one (data set|number of shots), got 2"):
        run_comparison(protocol, tmp_path / "out")


@pytest.mark.parametrize(("name", "rows", "seeds"), [("digits", 15, 3), ("fashion-mnist", 15, 1)])
def test_the_examples_are_comparisons_of_all_objectives(name, rows, seeds):
    from hf_mmcoa.protocols.comparison import check_is_comparison
    from hf_mmcoa.protocols.values import choices

    content = yaml.safe_load((ROOT / f"examples/comparisons/{name}.yaml").read_text())
    objectives = {each["objective"] if isinstance(each, dict) else each for each in content["objectives"]}
    lost = {"mat", "mat+", "sim-clip"}  # their clean accuracy, on validation images: digits-rates.yaml
    assert objectives == {"none", *choices("objective")} - lost
    protocol = read_protocol(ROOT / f"examples/comparisons/{name}.yaml")
    check_is_comparison(protocol)
    assert len(protocol.cells()) == seeds * len(protocol.objectives) == seeds * rows


@pytest.mark.slow
def test_the_newer_defences_are_trained_and_measured(tmp_path):
    rivals = ["mat", "mat+,captions_per_image=2", "advflyp", "saft,captions_per_image=2", "sim-clip", "qt-aft", "agft"]
    threats = {"num_steps": 2, "restarts": 1, "text_attacks": ["words"], "image_attacks": ["pgd-ce"]}
    assert run(write(tmp_path, objectives=["none", *rivals], threat_model=threats), "--output", tmp_path / "out") == 0
    methods = json.loads((tmp_path / "out/comparison.json").read_text())["methods"]
    assert list(methods) == ["none", *rivals]
    assert all(methods[name]["steps"] == [2] for name in rivals)
    assert methods["saft,captions_per_image=2"]["settings"] == {"captions_per_image": 2}
    assert all(0 <= each["accuracies"]["worst_case_accuracy"]["value"] <= 1 for each in methods.values())


# Interruptions


@pytest.mark.slow
def test_killed_twice_or_in_two_processes_it_ends_in_the_same_files(tmp_path):
    file = write(
        tmp_path,
        seeds=[0, 1],
        objectives=SMALL["objectives"][::2],
        training=SMALL["training"] | {"max_steps": 10},
        threat_model=SMALL["threat_model"] | {"text_attacks": ["words", "embedding"]},
    )
    whole, killed, two = (tmp_path / name for name in ("whole", "killed", "two"))

    def begin(output, *options):
        return start("compare", file, "--output", output, *options)

    finish(begin(whole))
    finish(begin(two, "--processes", "2"))
    assert contents(two) == contents(whole) and len(list(whole.glob("cells/*/result.json"))) == 4

    def results():
        return len(list(killed.glob("cells/*/result.json")))

    # In the middle of an evaluation, and in a training: a cell that is begun, and not yet evaluated.
    kill_when(begin(killed), lambda: any(killed.glob("cells/*/*.partial/batch-00000.json")))
    assert not (killed / "comparison.json").exists()
    first = results()
    kill_when(
        begin(killed),
        lambda: (
            results() > first
            and len(list(killed.glob("cells/*/settings.json"))) > results()
            and any(killed.glob("models/*.unfinished"))
        ),
    )
    assert "4 cells, 0 finished" not in finish(begin(killed))
    assert contents(killed) == contents(whole)
