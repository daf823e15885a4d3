"""Every number in README and docs is the one in its result file, and the results keep what the README promises."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from hf_mmcoa.evaluation import load_result
from hf_mmcoa.protocols import read_protocol
from hf_mmcoa.protocols.columns import first_columns, with_columns
from hf_mmcoa.protocols.comparison import read_rows
from hf_mmcoa.protocols.grid_table import accuracy_table, difference_table

ROOT = Path(__file__).resolve().parents[1]
COMPARISONS = ROOT / "docs" / "results" / "comparisons"


def numbers_of(name):
    return json.loads((COMPARISONS / name / "comparison.json").read_text())


def json_of(file):
    return json.loads(file.read_text())


def by_seed(name, method, accuracy):
    return list(numbers_of(name)["methods"][method]["accuracies"][accuracy]["by_seed"].values())


def test_tables_are_made_from_the_result_files(monkeypatch, capsys):
    script = ROOT / "docs" / "make_tables.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    assert runpy.run_path(str(script))["main"]() == 0, capsys.readouterr().out


def test_every_objective_on_captions_trains_with_the_rate_that_was_best_on_validation_data():
    chosen = json.loads((ROOT / "docs/results/pictograms-captions-rates/choice/comparison.json").read_text())
    assert chosen["specification"]["unseen_words"] == "validation"
    threats, directions = ("clean", "image", "text", "text_unseen"), ("image_to_text", "text_to_image")
    names = [f"{threat}_{direction}_recall_at_1" for threat in threats for direction in directions]
    tried = {}
    for method in chosen["methods"].values():
        score = mean(method["accuracies"][name]["value"] for name in names)
        tried.setdefault(method["objective"], {})[method["settings"]["learning_rate"]] = score
    protocol = read_protocol(ROOT / "examples/comparisons/pictograms-captions.yaml")
    rows = [method for method in protocol.objectives if method.trains]
    assert len(rows) == 7 and {len(rates) for rates in tried.values()} == {3}
    for method in rows:
        rates = tried[method.objective]
        assert rates[protocol.arguments("unused", method, 0).learning_rate] == max(rates.values()), method.name
    assert protocol.unseen_words == "test"


@pytest.mark.parametrize(("bed", "least"), [("digits", 13), ("fashion-mnist", 13), ("pictograms", 5)])
def test_every_objective_trains_with_the_learning_rate_that_was_best_on_validation_data(bed, least):
    """Best by the mean of four accuracies, `docs/comparison.md`; a row without a rate has that of the test bed."""
    chosen = json.loads((ROOT / f"docs/results/{bed}-rates/choice/comparison.json").read_text())
    assert chosen["specification"]["unseen_words"] == "validation"
    tried = {}
    for method in chosen["methods"].values():
        found = method["accuracies"]
        names = ("clean", "image", "text_own", "text_own_unseen")
        score = mean(found[f"{name}_accuracy"]["value"] for name in names)
        settings = dict(method["settings"])
        rate = settings.pop("learning_rate")
        row = (method["objective"], settings.get("text_adversary", "blind"))
        tried.setdefault(row, {})[rate] = score
    protocol = read_protocol(ROOT / f"examples/comparisons/{bed}.yaml")
    rows = [method for method in protocol.objectives if method.trains]
    assert len(rows) >= least and min(len(rates) for rates in tried.values()) >= 3
    for method in rows:
        rates = tried[method.objective, method.settings.get("text_adversary", "blind")]
        trained = protocol.arguments("unused", method, 0).learning_rate
        assert rates[trained] == max(rates.values()), method.name
    assert protocol.unseen_words == "test"  # the other half of the unseen words


def test_training_in_a_ball_resists_a_universal_perturbation_and_no_strong_contrast():
    runs = [json.loads(file.read_text()) for file in sorted((ROOT / "docs" / "results" / "beyond").glob("*.json"))]
    assert len(runs) == 3
    for run in runs:
        before, after = run["before"], run["after"]
        assert before["attacks/beyond/universal"] < 0.6 < 0.9 < after["attacks/beyond/universal"]
        assert after["attacks/beyond/corruptions/contrast"] < 0.5
        assert before["fingerprints"]["universal"] != after["fingerprints"]["universal"]


def test_the_robust_tower_changes_less_text():
    found = json.loads((ROOT / "docs" / "results" / "llava.json").read_text())
    original, robust = ([run["text changed by the attack"] for run in found[name]] for name in ("original", "fare"))
    assert len(original) == 3 and all(b < a for a, b in zip(original, robust, strict=True))


def test_three_seeds_fall_before_and_stand_after():
    runs = [json.loads(file.read_text()) for file in sorted((ROOT / "docs" / "results" / "digits").glob("*.json"))]
    assert len(runs) == 3

    def average(part: str, name: str) -> float:
        return mean(run[part][f"{name}_accuracy"] for run in runs)

    assert average("before", "clean") >= 0.95 and average("after", "clean") >= 0.95
    assert average("before", "image") <= 0.20 and average("after", "image") >= 0.65
    assert average("before", "text") <= 0.10 and average("after", "text") >= 0.90
    assert average("before", "multimodal") <= 0.10 and average("after", "multimodal") >= 0.60
    for run in runs:
        spec = run["after"]["attack_spec"]
        assert spec == run["before"]["attack_spec"] and spec["text_adversaries"] == ["shared", "own", "all"]
        assert spec["num_steps"] >= 25 and "apgd-targeted" in spec["image_attacks"]


@pytest.mark.few(3)
@pytest.mark.parametrize("folder", sorted(COMPARISONS.iterdir()), ids=lambda folder: folder.name)
def test_comparisons_are_what_their_result_files_say(folder):
    numbers = numbers_of(folder.name)
    rows = {row.name: row for row in read_rows([str(folder)], [])}
    assert rows.keys() == numbers["methods"].keys()
    for name, row in rows.items():
        method = numbers["methods"][name]
        assert method["files"] == {str(seed): str(Path(f).relative_to(folder)) for seed, f in row.files.items()}
        of_seed = {}  # one result, or one for each word split
        for repetition, result in row.results.items():
            of_seed.setdefault(str(repetition.seed), []).append(with_columns(result))
        for accuracy, found in method["accuracies"].items():
            expected = {seed: mean(result[accuracy] for result in results) for seed, results in of_seed.items()}
            assert found["by_seed"] == pytest.approx(expected), (name, accuracy)
    page = (folder / "comparison.md").read_text()
    main = list(first_columns(numbers["columns"]).values())
    assert accuracy_table(numbers, main) in page and difference_table(numbers, main) in page
    further = [label for label in numbers["columns"].values() if label not in main]
    assert not further or accuracy_table(numbers, further) in page


def test_a_table_shows_the_columns_and_rows_that_are_asked_for():
    numbers = numbers_of("digits-lab")
    shown = numbers["methods"]["mmcoa-general"]["accuracies"]["text_own_accuracy"]
    expected = " [".join(f"{100 * shown[key]:.1f}" for key in ("value", "low")) + f", {100 * shown['high']:.1f}]"
    head, _, row = accuracy_table(numbers, ["text (known), own", "clean"], ["mmcoa-general"]).splitlines()
    assert head == "| method | seeds | text (known), own | clean |"
    assert row.startswith(f"| mmcoa-general | 3 | {expected} |")
    test = numbers["tests"]["mmcoa-general"]["text_own_accuracy"]
    head, _, row = difference_table(numbers, ["text (known), own"], ["mmcoa-general"]).splitlines()
    assert head == "| method | text (known), own |"
    assert (
        row.startswith(f"| mmcoa-general | {100 * test['difference']:+.1f} [") and f"p = {test['p_value']:.3f}" in row
    )


def test_image_defences_stand_under_images_and_mmcoa_under_both():
    for defence in ("tecoa", "fare"):
        assert mean(by_seed("digits", defence, "image_accuracy")) >= 0.65
        gain = mean(by_seed("digits", "mmcoa", "multimodal_accuracy")) - mean(
            by_seed("digits", defence, "multimodal_accuracy")
        )
        assert gain >= 0.5


def test_the_numbers_in_the_readme_s_sentences_are_those_of_the_results():
    text = " ".join((ROOT / "README.md").read_text().split())

    def value(bed, method, name):
        return f"{100 * numbers_of(bed)['methods'][method]['accuracies'][name]['value']:.1f}%"

    own, everything = "text_own_unseen_accuracy", "text_unseen_accuracy"  # the second is under `all`, the strongest
    words = [value("digits-words", method, own) for method in ("mmcoa", "mmcoa-own")]
    words += [value("digits-words", method, everything) for method in ("mmcoa", "mmcoa-all")]
    assert "{} became {} under `own`, and {} became {} under `all`".format(*words) in text
    low, high = numbers_of("digits-words")["tests"]["mmcoa-all"][everything]["difference_interval"]
    assert low < 0 < high
    gains = [numbers_of(bed)["tests"]["mmcoa-own"][own] for bed in ("fashion-mnist", "pictograms")]
    points = " and ".join(f"{100 * gain['difference']:.0f}" for gain in gains)
    assert (
        f"`mmcoa-own` is {points} points ahead of the paper's form (p = {gains[0]['p_value']:.3f} and p < 0.001" in text
    )
    assert gains[1]["p_value"] < 0.001
    for bed in ("fashion-mnist", "pictograms"):
        assert {max(by_seed(bed, name, "embedding_accuracy")) for name in numbers_of(bed)["methods"]} == {0}
    before, after = (
        mean(json_of(ROOT / f"docs/results/digits/seed-{seed}.json")[when]["nonsense_images"] for seed in range(3))
        for when in ("before", "after")
    )
    assert f"on {after:.1%} of the images ({before:.1%} before)" in text


def test_no_result_names_a_folder_of_the_machine_that_measured_it():
    files = [*(ROOT / "docs/results").rglob("*.json"), *(ROOT / "benchmarks/results").glob("*.json")]
    assert len(files) > 500
    home = re.compile(r'"/|[" ]/(tmp|work|home|root|Users|mnt)/')
    assert [file.name for file in files if home.search(file.read_text())] == []


def test_what_the_page_says_of_the_forms():
    """No form withstands typing errors; embeddings beside words help unseen words and cost nothing."""
    for method in ("mmcoa", "mmcoa-mixed-distilled", "mmcoa-general"):
        assert max(by_seed("digits-lab", method, "attacks/text/characters/all")) <= 0.01
    unseen = "attacks/text/words/all:unseen"
    mixed, paper, general = (
        mean(by_seed("digits-lab", method, unseen)) for method in ("mmcoa-mixed-distilled", "mmcoa", "mmcoa-general")
    )
    assert mixed > paper + 0.05 > general
    for accuracy in ("clean_accuracy", "image_accuracy"):
        ours, theirs = (mean(by_seed("digits-lab", method, accuracy)) for method in ("mmcoa-mixed-distilled", "mmcoa"))
        assert abs(ours - theirs) < 0.01


def dry_run(*options):
    command = [sys.executable, ROOT / "docs" / "measure.py", "--dry-run", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_one_command_makes_every_table_of_the_readme():
    lines = dry_run()
    markers = re.findall(r"<!-- table:(.*) -->", (ROOT / "README.md").read_text())
    made = {name for line in lines if ": makes " in line for name in line.split(": makes ")[1].split(", ")}
    assert markers and set(markers) <= made and "no-training" in made
    assert lines[-1] == "python docs/make_tables.py"
    scripts = [word for line in lines for word in line.split() if word.endswith((".py", ".yaml"))]
    assert all((ROOT / script).is_file() for script in scripts)


def test_what_is_kept_is_what_is_committed(tmp_path, monkeypatch):
    """The copies of each step have the names of the committed files, which the tables are made from."""
    measure = runpy.run_path(str(ROOT / "docs" / "measure.py"))
    monkeypatch.chdir(tmp_path)
    committed = [file.relative_to(ROOT) for file in (ROOT / "docs" / "results").rglob("*.*") if file.is_file()]
    for step in measure["STEPS"]:
        for pattern, target in step.kept:
            wanted = {file for file in committed if file.is_relative_to(Path("docs/results") / target)}
            if not target.endswith(".json"):
                wanted = {file for file in wanted if file.relative_to("docs/results").match(pattern)}
                for file in wanted:
                    source = measure["WORK"] / file.relative_to("docs/results")
                    source.parent.mkdir(parents=True, exist_ok=True)
                    source.touch()
            assert wanted and {copy for _, copy in measure["copies"](pattern, target)} == wanted


def test_one_step_alone():
    lines = dry_run("--only", "objectives")
    assert [line.split(":")[0] for line in lines if ": makes " in line] == ["# objectives"]


def test_what_the_page_says_of_rows_without_training():
    """Only training withstands the worst unseen word; a certificate holds, and reaches the known words alone."""
    results = {}
    for file in sorted((ROOT / "docs" / "results" / "no-training").glob("*/seed-*.json")):
        results.setdefault(file.parent.name, []).append(load_result(file))
    assert len(results) == 14 and all([one["training_seed"] for one in row] == [0, 1, 2] for row in results.values())
    for result in (result for row in results.values() for result in row):
        for name, certified in result.get("certified", {}).items():
            stands = result["outcomes"][name]
            assert all(sign <= left for sign, left in zip(certified, stands, strict=True)), (result["model"], name)
            assert ("1" in certified) == (name in ("text/words/own", "text/words/all")), (result["model"], name)
    worst, word = (
        {name: mean(value(result) for result in row) for name, row in results.items()}
        for value in (
            lambda result: result["attacks/text/words/own:unseen"],
            lambda result: mean(result["mean_word"]["text/words:unseen"]),
        )
    )
    before = [name for name in worst if name.startswith("before")]
    assert max(worst[name] for name in before) < worst["after-alone"] - 0.2
    assert worst["before-spelling-and-public-centroid"] <= 0.01
    assert max(before, key=word.__getitem__) == "before-spelling-and-public-centroid"
    assert word["before-spelling-and-public-centroid"] < word["after-alone"]
