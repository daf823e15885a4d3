"""`hf-mmcoa reproduce` on a model and data of the published layouts: a planted wrong number is flagged."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from squares import CLASS_NAMES, squares

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import evaluator, load_result

pytestmark = pytest.mark.filterwarnings("ignore")

TABLE = """\
title: squares
read: {{numbers: "nowhere"}}
models: {{ours: model, other: gone/away}}
base: model
data:
  - {{name: first, dataset: owner/wds_first, templates: ["This is a photo of a {{}}", "a {{}}"]}}
  - {{name: second, dataset: owner/wds_second, threat_model: {{num_steps: 1}}}}
threat_model: {{preset: quick, image_attacks: [pgd-ce], num_steps: 2, perturb_at: native}}
samples: {{clean: all, attacked: 12}}
decimals: 2
numbers:
  - {{model: ours, clean: {clean}, 16/255: {attacked}, 32/255: 0.0}}
"""


def write_webdataset(folder, rows, seed):
    """A data set as `clip-benchmark/wds_*` lays it out: shards of pictures and labels, names in a text file."""
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test/0.tar", "w") as tar:
        for number, row in enumerate(squares(rows, seed=seed)):
            picture = io.BytesIO()
            row["image"].save(picture, "PNG")
            content = {"cls": str(row["label"]).encode(), "png": picture.getvalue()}
            for kind, data in content.items():
                member = tarfile.TarInfo(f"s{number:07}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (folder / "test/nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(CLASS_NAMES))
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}")


@pytest.fixture
def place(model, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("model")
    processor.save_pretrained("model")
    for number, name in enumerate(("first", "second")):
        write_webdataset(tmp_path / "data/owner" / f"wds_{name}", 15, number)
    write_table()
    return tmp_path


def write_table(clean=90.0, attacked=50.0):
    with open("table.yaml", "w") as file:
        file.write(TABLE.format(clean=clean, attacked=attacked))


def reproduce(*words, output="out"):
    options = ["--data_dir", "data", "--cpu", "--quiet", "--models", "ours", "--output", output]
    return main(["reproduce", "table.yaml", *options, *words])


def numbers(output="out"):
    with open(f"{output}/reproduction.json") as file:
        return json.load(file)["numbers"]


@pytest.mark.slow
def test_honest_numbers_hold_and_a_planted_one_is_flagged(place, capsys, monkeypatch):
    reproduce()
    clean, attacked, _ = numbers()
    shares = [load_result(file)["image_accuracy"] for file in sorted(place.glob("out/results/*_eps16-255.json"))]
    assert len(shares) == 2 and attacked["measured"] == pytest.approx(sum(shares) / 2)
    assert attacked["samples"] == 24 and attacked["measured"] < clean["measured"]
    first = load_result(next(place.glob("out/results/*first_eps16-255.json")))
    assert first["attack_spec"]["templates"] == ["This is a photo of a {}", "a {}"] and first["num_samples"] == 12
    assert (first["attack_spec"]["num_steps"], first["attack_spec"]["perturb_at"]) == (2, "native")
    assert load_result(next(place.glob("out/results/*second_eps16-255.json")))["attack_spec"]["num_steps"] == 1

    # What is finished is not measured again, whatever the publication says.
    monkeypatch.setattr(evaluator.ZeroShotTask, "attack", lambda *given: pytest.fail("measured again"))
    honest = {"clean": 100 * clean["measured"], "attacked": 100 * attacked["measured"]}
    write_table(**honest)
    capsys.readouterr()
    reproduce()
    shown = capsys.readouterr().out
    assert [one["verdict"] for one in numbers()[:2]] == ["holds", "holds"] and "| ours | mean of 2 | clean |" in shown
    planted = attacked["measured"] + (0.5 if attacked["measured"] < 0.5 else -0.5)
    write_table(honest["clean"], 100 * planted)
    assert reproduce() == 3
    assert [one["verdict"] for one in numbers()[:2]] == ["holds", "differs"]
    assert "| differs |" in (place / "out/reproduction.md").read_text()


def test_what_cannot_be_measured_is_said(place, capsys):
    (place / "data/owner/wds_second").rename(place / "elsewhere")
    assert reproduce("--max_samples", "3") == 1
    printed = capsys.readouterr()
    assert "owner/wds_second" in printed.err and "not measured" in printed.out
    clean, *_ = numbers()
    assert clean["verdict"] == "not measured" and clean["why"].startswith("1 of 2 data sets are missing: second: ")


def test_a_plan_measures_nothing(place, capsys):
    assert reproduce("--dry-run") == 0
    plan = capsys.readouterr().out
    assert not (place / "out").exists() and plan.count("hf-mmcoa evaluate --model model --dataset owner/wds_") == 2
    assert "3 published numbers; 4 evaluations (1 models, 2 data sets, 2 radii)" in plan
    assert main(["reproduce", "robustvlm-vit-b-32", "--output", "out", "--dry-run", "--models", "FARE4=fare.pt"]) == 0
    plan = capsys.readouterr().out
    assert plan.count("--model fare.pt") == 13 and "--base openai/clip-vit-base-patch32" in plan


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--models", "nobody"], "of ours, other"),
        (["--models", "ours=model", "other=model"], "given for two models"),
        (["--max_samples", "0"], "at least 1"),
        (["--output", "table.yaml"], "name a folder"),
    ],
)
def test_errors_say_what_to_do(place, words, text, capsys):
    assert reproduce(*words) == 1
    assert text in capsys.readouterr().err
