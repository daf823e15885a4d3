"""Protocols: what a YAML file may say, which cells it means, and that each is computed once, whatever happens."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from processes import finish, kill_when, start
from transformers import HfArgumentParser

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.cli import main
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.data import few_shot_indices, find_benchmark
from hf_mmcoa.data.digits import load_digits
from hf_mmcoa.evaluation import load_result
from hf_mmcoa.evaluation.results import BLIND_SPEC
from hf_mmcoa.protocols import read_protocol
from hf_mmcoa.protocols.cell import Method
from hf_mmcoa.protocols.cell_models import base_folder, substitutes, trained_folder, training_rows
from hf_mmcoa.protocols.cells import result_path
from hf_mmcoa.protocols.grid_table import protocol_table
from hf_mmcoa.protocols.protocol import STEPS
from hf_mmcoa.protocols.reading import named_protocols
from hf_mmcoa.substitutes.fashion_mnist import CLASS_NAMES, SYNONYMS
from hf_mmcoa.testbed.captions import captioned
from hf_mmcoa.training.trainer import MMCoATrainer

ROOT = Path(__file__).parents[2]
SMALL = {
    "datasets": ["digits"],
    "shots": [2],
    "tiny": {"image_size": 8, "patch_size": 2, "epochs": 1, "max_samples": 64},
    "training": {"epsilon": 0.15, "num_steps": 1, "max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True},
    "threat_model": {"preset": "quick", "num_steps": 2},
    "candidates": "digits",
    "max_test_samples": 16,
    "batch_size": 8,
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        content = {key: value for key, value in (SMALL | changes).items() if value is not None}
        file = tmp_path / "protocol.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


# Specification


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digits"}, "no field dataset"),
        ({"datasets": [{"name": "a/b"}]}, "a data set needs a `name`"),
        ({"datasets": [{"name": "digits", "split": "test"}]}, "data set 'digits' has no field split"),
        ({"datasets": ["digits", "digits"]}, "data sets named twice: digits"),
        ({"datasets": "digits"}, "`datasets` must be a list"),
        ({"task": "iidd"}, "`task` must be one of iid, ood, retrieval, got 'iidd'"),
        ({"task": "ood"}, "`task: ood` does not take `datasets`"),
        ({"datasets": None, "task": "ood", "train_on": "digits"}, "`task: ood` needs `evaluate_on`"),
        ({"model": "some/clip"}, "give one of `model`"),
        ({"tiny": {"image_size": 8, "epochs": 1}}, "`tiny` lacks patch_size"),
        ({"shots": [0]}, "`shots` are images a class"),
        ({"shots": ["all"]}, r"`shots\[0\]` must be a whole number or 'full', got 'all'"),
        ({"seeds": [0, 0]}, "`seeds` must name at least one value, each once"),
        ({"objectives": ["mmcoaa"]}, "`objectives`: unknown 'mmcoaa'; choose from none, mmcoa"),
        ({"training": {"epsilom": 1}}, "MMCoAConfig has no field epsilom"),
        ({"training": {"epsilon": 8}}, r"`epsilon` is in \[0, 1\] pixel units, got 8. Did you mean 8/255"),
        ({"training": {"seed": 1}}, "`training` must not set seed"),
        ({"threat_model": {"preset": "standart"}}, "unknown preset 'standart'"),
        ({"threat_model": {"steps": 3}}, "`threat_model` has no field steps"),
        ({"base": "cifar10"}, "`base` must be one of digits, fashion-mnist, pictograms, pictograms-common, got"),
        ({"objectives": [{"name": "mine"}]}, "`objectives`: expected an objective or"),
        ({"objectives": ["mmcoa,targets"]}, "'mmcoa,targets': expected each FIELD=VALUE once, got 'targets'"),
        ({"objectives": ["mmcoa,target=class"]}, "'mmcoa,target=class': MMCoAConfig has no field target"),
        ({"objectives": ["mmcoa,targets=rows"]}, "`targets` must be one of diagonal, class, got 'rows'"),
        ({"objectives": ["mmcoa,seed=3"]}, "'mmcoa,seed=3' must not set seed"),
        ({"objectives": ["none,epsilon=0.1"]}, "'none,epsilon=0.1' is the model as it was given"),
        ({"objectives": ["a b=mmcoa", "a-b=clean"]}, "`objectives` must name at least one value, each once"),
        ({"objectives": ["mmcoa,max_steps=9"]}, "'mmcoa,max_steps=9' sets max_steps: with more or fewer gradient"),
        (
            {"objectives": ["mmcoa,masked_lm=bert"]},
            "masked_lm, which changes nothing without the candidates masked",
        ),
        ({"objectives": ["mmcoa,candidates=bert"]}, "sets candidates to 'bert': neither a source"),
    ],
)
def test_a_mistake_names_file_field_and_way_out(write, changes, message):
    with pytest.raises(ValueError, match=rf"protocol\.yaml: .*{message}"):
        read_protocol(write(**changes))


def test_no_such_protocol_lists_those_that_are():
    with pytest.raises(
        ValueError, match="no protocol \\(few-shot, few-shot-ood, paper-iid, paper-ood\\) and no YAML file"
    ):
        read_protocol("paper")


def test_an_untouched_model_has_seen_no_shots(write):
    protocol = read_protocol(write(datasets=["digits", "cifar10"], shots=[1, "full"], seeds=[0, 3]))
    names = [cell.name for cell in protocol.cells()]
    assert names[:6] == [
        "digits_none_seed0",
        "digits_none_seed3",
        "digits_1-shot_mmcoa_seed0",
        "digits_1-shot_mmcoa_seed3",
        "digits_full_mmcoa_seed0",
        "digits_full_mmcoa_seed3",
    ]
    assert len(names) == len(set(names)) == 12


def test_out_of_distribution_trains_once_for_all(write):
    ood = {"task": "ood", "datasets": None, "train_on": "digits", "evaluate_on": ["cifar10", "stl10"]}
    cells = read_protocol(write(**ood, objectives=["mmcoa"])).cells()
    assert [cell.name for cell in cells] == [
        "digits-to-cifar10_2-shot_mmcoa_seed0",
        "digits-to-stl10_2-shot_mmcoa_seed0",
    ]
    assert cells[0].training == cells[1].training and cells[0].settings != cells[1].settings


def test_the_threat_model_is_the_trainings_where_it_says_so_and_the_presets_else(write):
    spec = read_protocol(write(threat_model={"preset": "strong", "restarts": 2})).attack_spec(5)
    assert (spec.epsilon, spec.restarts, spec.num_candidates, spec.seed) == (0.15, 2, 25, 5)


def test_a_method_is_an_objective_with_settings_and_a_name(write):
    rows = ["mmcoa", "mmcoa,targets=class,learning_rate=1e-3", {"name": "both ways", "objective": "mmcoa", "rho": 2}]
    protocol = read_protocol(write(objectives=rows))
    plain, text, named = protocol.cells()
    assert [cell.name for cell in protocol.cells()] == [
        "digits_2-shot_mmcoa_seed0",
        "digits_2-shot_mmcoa-targets-class-learning_rate-1e-3_seed0",
        "digits_2-shot_both-ways_seed0",
    ]
    assert (text.method.name, named.method.name) == ("mmcoa,targets=class,learning_rate=1e-3", "both ways")
    assert "method" not in plain.settings and named.settings["method"] == "both ways"  # old cells keep their settings
    assert text.settings["training"] == SMALL["training"] | {"targets": "class", "learning_rate": 1e-3}
    args = protocol.arguments("unused", text.method, 3)
    assert (args.targets, args.learning_rate, args.seed, args.max_steps) == ("class", 1e-3, 3, 2)
    assert len({trained_folder(cell, Path("out")) for cell in (plain, text, named)}) == 3
    assert [Method.read(method.to_json(), Path()) for method in protocol.objectives] == list(protocol.objectives)
    assert protocol.objectives[0].to_json() == "mmcoa"


def test_a_method_changes_its_training_and_never_the_evaluation(write):
    changed = "mmcoa,epsilon=0.3,num_candidates=2,candidates=wordnet,template=a {}"
    protocol = read_protocol(write(objectives=["mmcoa", changed]))
    plain, own = (cell.settings for cell in protocol.cells())
    differing = {key for key in {**plain, **own} if plain.get(key) != own.get(key)}
    assert differing == {"training", "method", "train_candidates"}
    assert own["training"]["epsilon"] == 0.3 and own["threat_model"]["epsilon"] == 0.15
    assert own["train_candidates"] == "wordnet" and own["candidates"] == "digits"


def test_substitutes_of_a_methods_own_are_trained_on(write, tmp_path):
    (tmp_path / "words.json").write_text('{"one": ["ace", "unit"]}')
    row = {"name": "mine", "objective": "mmcoa", "candidates": "words.json"}
    protocol = read_protocol(write(objectives=[row]))
    (cell,) = protocol.cells()
    evaluated = substitutes(protocol, cell.data, None, None)
    taught = substitutes(protocol, cell.data, None, None, cell.method)
    assert len(taught["known"].table) == 1 and len(evaluated["known"].table) == 10
    assert cell.settings["train_candidates"].startswith("words.json ")
    other = read_protocol(write(objectives=[row | {"candidates": "fashion-mnist"}])).cells()[0]
    assert trained_folder(cell, tmp_path) != trained_folder(other, tmp_path)


@pytest.mark.parametrize("name", STEPS)
def test_every_setting_that_decides_the_number_of_steps_is_refused(write, name):
    with pytest.raises(ValueError, match=f"sets {name}: with more or fewer gradient steps"):
        read_protocol(write(objectives=["mmcoa", f"mmcoa,{name}=1"]))


def test_unequal_steps_are_compared_only_where_the_file_says_so(write):
    file = write(objectives=["mmcoa", "long=mmcoa,max_steps=9"], unequal_steps=True)
    assert [cell.settings["training"]["max_steps"] for cell in read_protocol(file).cells()] == [2, 9]


def test_masked_language_model_settings_need_its_candidates(write):
    file = write(objectives=["mmcoa,candidates=masked-lm,masked_lm=bert"])
    assert read_protocol(file).cells()[0].settings["training"]["masked_lm"] == "bert"
    read_protocol(write(objectives=["mmcoa,masked_lm=bert"], candidates="masked-lm"))


def test_a_methods_masked_language_model_is_shifted_by_its_trainer_alone(write, monkeypatch, tiny_clip, tiny_processor):
    calls = []
    monkeypatch.setattr("hf_mmcoa.protocols.cell_models.candidate_source", lambda *a: calls.append((a[0], *a[3:])))
    file = write(objectives=["mmcoa,candidates=masked-lm,masked_lm=bert,align_to_cls=false"])
    protocol = read_protocol(file)
    substitutes(protocol, protocol.datasets[0], tiny_clip, tiny_processor, protocol.objectives[0])
    assert calls == [("masked-lm", "bert", True)]


def test_a_base_is_what_the_train_command_does_without_a_model(write):
    default = yaml.safe_load((ROOT / "hf_mmcoa/testbed/digits.yaml").read_text())
    file = write(base="digits", datasets=None, candidates=None, tiny={"epochs": 1}, training={"max_steps": 7})
    protocol = read_protocol(file)
    assert dict(protocol.tiny) == {"image_size": 8, "patch_size": 2, "epochs": 1, "text_tower": "english"}
    assert protocol.training["learning_rate"] == default["learning_rate"] and protocol.training["max_steps"] == 7
    assert set(default) - set(protocol.training) == {
        "output_dir", "save_strategy", "logging_steps", "per_device_eval_batch_size", "pretrain_epochs", "candidates",
    }  # fmt: skip
    assert protocol.candidates == default["candidates"] and protocol.datasets[0].name == "digits"
    assert protocol.training["num_candidates"] == default["num_candidates"]
    whole = read_protocol(write(base="digits", datasets=None, tiny=None, training=None))
    assert whole.tiny["epochs"] == default["pretrain_epochs"]
    assert read_protocol(write(base="digits", datasets=None, tiny=None, model="some/clip")).tiny is None


def test_other_substitutes_are_another_training(write, tmp_path):
    (tmp_path / "words.json").write_text('{"one": ["ace", "unit"]}')
    file = write(candidates="words.json", objectives=["mmcoa"])
    (cell,) = read_protocol(file).cells()
    before = trained_folder(cell, tmp_path), base_folder(read_protocol(file), cell, tmp_path)
    assert before == (trained_folder(cell, tmp_path), base_folder(read_protocol(file), cell, tmp_path))
    (tmp_path / "words.json").write_text('{"one": ["ace", "single"]}')
    (cell,) = read_protocol(file).cells()
    assert cell.settings["candidates"].startswith("words.json ")
    after = trained_folder(cell, tmp_path), base_folder(read_protocol(file), cell, tmp_path)
    assert before[0] != after[0] and before[1] != after[1]


def test_numbers_without_a_point_are_numbers(write):
    file = write(training={"use_cpu": True})
    file.write_text(file.read_text().replace("use_cpu: true", "learning_rate: 1e-3\n  epsilon: 8/255"))
    args = read_protocol(file).arguments("unused", "mmcoa", 0)
    assert args.learning_rate == 1e-3 and args.epsilon == 8 / 255


def test_the_named_protocols_are_what_the_paper_says():
    for name in named_protocols():
        protocol = read_protocol(name)
        assert protocol.arguments("unused", "mmcoa", 0).num_steps == 10
        spec = protocol.attack_spec(0)
        assert (spec.epsilon, spec.num_steps, spec.protect_template) == (1 / 255, 100, False)
        assert all(find_benchmark(data.dataset or data.name) for data in protocol.all_data)
        assert protocol.train_on not in protocol.evaluate_on


def test_no_image_is_both_trained_and_tested_on_in_distribution():
    for data in read_protocol("paper-iid").datasets:
        row = find_benchmark(data.dataset or data.name)
        sources = {s: next(x for x in row.sources if s in x.splits) for s in (data.train_split, data.test_split)}
        train, test = (sources[s] for s in (data.train_split, data.test_split))
        assert train is test, f"{data.name}: train is {train.hub_id}, test {test.hub_id}"
        assert not set(train.splits[data.train_split]) & set(test.splits[data.test_split])


# Data


def test_a_few_shot_draw_is_the_row_list_of_its_seed(write):
    protocol = read_protocol(write(seeds=[0, 1], objectives=["mmcoa"]))
    digits = load_digits("train")
    first, second = (training_rows(digits, cell, select=False)[0] for cell in protocol.cells())
    assert first == few_shot_indices(digits["label"], 2, 0) and second == few_shot_indices(digits["label"], 2, 1)
    assert len(first) == 20 and first != second


def test_rows_for_model_selection_are_never_trained_on(write):
    digits = load_digits("train")
    for shots in ([2], ["full"]):
        cells = read_protocol(write(shots=shots, seeds=[0, 1], objectives=["mmcoa"])).cells()
        (rows, held_out), (_, again) = (training_rows(digits, cell, select=True) for cell in cells)
        assert held_out == again and len(held_out) == 120 and not set(rows) & set(held_out)
    assert len(rows) == 1080
    assert sorted(rows + held_out) == list(range(1200))


def test_fashion_words_are_many_and_no_class_shares_another_classes():
    source = SYNONYMS
    texts = [f"This is a photo of a {name}" for name in CLASS_NAMES]
    known, unseen = source.split(0)
    seen = set()
    for part, least in ((source, 4), (known, 2), (unseen, 2)):
        attack = BertAttack(candidates=part, template="This is a photo of a {}", class_names=CLASS_NAMES)
        variants = attack.variants(texts)
        assert all(len(found) > least for found in variants)  # the first is the text itself
        flat = [text for found in variants for text in found]
        assert len(flat) == len(set(flat))
        if part is not source:
            assert not seen & (set(flat) - set(texts))
            seen |= set(flat) - set(texts)
    assert attack.variants(["a photo of a t shirt top"])[0][1:] == [
        f"a photo of a t shirt {word}" for word in dict(unseen.table)["top"]
    ]


def test_captions_name_no_other_class():
    texts = captioned(load_digits("train"), seed=0)["text"]
    assert len(set(texts)) > 100 and not any(text.startswith("one ") for text in texts)  # "one {}", of a three


# The grid


def run(file, output, *options):
    return main(["protocol", str(file), "--output", str(output), *options])


def test_the_grid_runs_once_and_a_changed_setting_is_refused(write, tmp_path, capsys):
    output = tmp_path / "grid"
    assert run(write(), output) == 0
    result = json.loads((output / "cells/digits_2-shot_mmcoa_seed0/result.json").read_text())
    assert result["training"]["row_ids"] == few_shot_indices(load_digits("train")["label"], 2, 0)
    assert result["num_samples"] == 16 and result["attack_spec"]["epsilon"] == 0.15
    assert {"text_accuracy", "text_unseen_accuracy", "multimodal_unseen_accuracy"} <= set(result)
    table = (output / "table.md").read_text()
    assert "| digits | - | none | 1 |" in table and "| digits | 2-shot | mmcoa | 1 |" in table
    assert "mmcoa, 2-shot" in (output / "index.html").read_text()
    assert set(json.loads((output / "protocol.json").read_text())["cells"]) == {
        "digits_none_seed0",
        "digits_2-shot_mmcoa_seed0",
    }

    before = {file: file.stat().st_mtime_ns for file in output.glob("*/*/*.json")}
    assert run(write(), output) == 0
    assert {file: file.stat().st_mtime_ns for file in output.glob("*/*/*.json")} == before
    assert (output / "table.md").read_text() == table

    # Only what the change touches is refused: an untouched model has no learning rate, a new seed is a new cell.
    capsys.readouterr()
    assert run(write(training=SMALL["training"] | {"learning_rate": 0.5}), output) == 1
    shown = capsys.readouterr().err
    assert (
        "digits_2-shot_mmcoa_seed0: its settings have changed; then and now: training.learning_rate: None and 0.5"
        in shown
    )
    assert "digits_none" not in shown.replace("digits_none_seed0=", "")
    assert "- digits\\_2-shot" not in (output / "table.md").read_text()
    assert "| digits | 2-shot" not in (output / "table.md").read_text()


def test_one_failing_cell_does_not_lose_the_others(write, tmp_path, capsys):
    missing = {"name": "nowhere", "data_dir": "missing", "made_by": "make it so"}
    file = write(datasets=[missing, "digits"], objectives=["none"])
    assert run(file, tmp_path / "grid") == 1
    error = capsys.readouterr().err
    assert "nowhere_none_seed0: FileNotFoundError: `data_dir`: there is no folder" in error and "make it so" in error
    table = (tmp_path / "grid" / "table.md").read_text()
    assert "| digits | - | none | 1 |" in table and "- nowhere_none_seed0:" in table


def test_two_runs_in_one_folder_are_refused(write, tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "grid").mkdir()
    with FileLock(tmp_path / "grid" / ".lock"):
        assert run(write(), tmp_path / "grid") == 1
    assert "another process runs a protocol" in capsys.readouterr().err


def test_a_dry_run_tells_and_does_nothing(write, tmp_path, capsys):
    assert run(write(datasets=["digits", "cifar10"]), tmp_path / "grid", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "4 cells, 0 finished" in shown and "cifar10_2-shot_mmcoa_seed0: to do" in shown
    assert "cifar10: uoft-cs/cifar10@0b271498: */train-*.parquet, */test-*.parquet (at most 144 MB)" in shown
    assert "digits: nothing" in shown and "4 models" in shown and "downloads 144 MB" in shown
    assert "ms an image and attack step" in shown and "time: " in shown
    assert not (tmp_path / "grid").exists()


def test_an_argument_parser_made_before_changes_nothing(write):
    """transformers' parser writes into the fields of the configuration: `float | str` becomes `str` there."""
    HfArgumentParser([MMCoAConfig])  # type: ignore[list-item]
    assert read_protocol(write(training=SMALL["training"] | {"epsilon": 0.15})).training["epsilon"] == 0.15
    with pytest.raises(ValueError, match="`num_steps` must be"):
        read_protocol(write(training=SMALL["training"] | {"num_steps": "many"}))


def test_the_committed_table_is_what_its_results_say():
    protocol = read_protocol(ROOT / "examples/protocols/fashion-mnist.yaml")
    folder = ROOT / "docs/results/fashion-mnist"
    finished = [(cell, load_result(result_path(cell, folder))) for cell in protocol.cells()]
    for cell, result in finished:
        if result["cell"]["training"]:  # words were the default when this was measured
            result["cell"]["training"]["text_attack"] = "words"
        settings = json.loads(json.dumps(cell.settings))
        for one in (result["cell"], settings):  # the texts were found by the only adversary that there was
            one["threat_model"] |= BLIND_SPEC
        assert result["cell"] == settings
    assert protocol_table(protocol, finished, {}) == (folder / "table.md").read_text()


# Interruptions


@pytest.mark.slow
def test_an_interrupted_training_goes_on_from_its_checkpoint(write, tmp_path, monkeypatch):
    training = SMALL["training"] | {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    file, name = write(training=training, objectives=["mmcoa"]), "digits_2-shot_mmcoa_seed0"
    assert run(file, tmp_path / "whole") == 0
    compute_loss, calls = MMCoATrainer.compute_loss, []

    def counted(self, *args, **kwargs):
        if self.args.objective == "mmcoa":
            calls.append(1)
            if len(calls) == 6:
                raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(MMCoATrainer, "compute_loss", counted)
    assert run(file, tmp_path / "stopped") == 130
    assert run(file, tmp_path / "stopped") == 0
    assert len(calls) == 6 + 2  # steps 5 and 6 again, from the checkpoint of step 4
    whole, stopped = (tmp_path / each / "cells" / name / "result.json" for each in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    assert not list((tmp_path / "stopped/models").glob("*.unfinished"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """`smoke.yaml`, cut down: three data sets in three formats, two shots, two objectives, one seed."""
    folder = tmp_path_factory.mktemp("smoke")
    spec = importlib.util.spec_from_file_location("make", ROOT / "examples/protocols/make_local_datasets.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.write_local_datasets(folder / "data", train=400, test=16)
    content = yaml.safe_load((ROOT / "examples/protocols/smoke.yaml").read_text())
    content |= {"data_dir": "data", "seeds": [0], "batch_size": 4}
    content["tiny"]["epochs"] = 2
    content["training"]["max_steps"] = 4
    content["threat_model"] |= {"num_steps": 2, "num_text_steps": 2, "text_attacks": ["words", "embedding"]}
    (folder / "smoke.yaml").write_text(yaml.safe_dump(content))
    return folder


def begin(folder, output, *options):
    return start("protocol", folder / "smoke.yaml", "--output", output, *options)


def contents(output):
    files = [output / "table.md", output / "protocol.json", *sorted(output.glob("cells/*/*"))]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(smoke):
    """The grid of one process that nobody stopped."""
    finish(begin(smoke, smoke / "whole"))
    assert len(list((smoke / "whole").glob("cells/*/result.json"))) == 9
    return smoke / "whole"


@pytest.mark.slow
def test_killed_twice_the_grid_ends_in_the_same_table(smoke, whole):
    killed = smoke / "killed"

    def results():
        return len(list(killed.glob("cells/*/result.json")))

    # In the middle of an evaluation, and between the beginning of a later cell and its evaluation: in its training.
    kill_when(begin(smoke, killed), lambda: results() >= 1 and any(killed.glob("cells/*/*.partial/batch-00001.json")))
    assert any(killed.glob("cells/*/evaluation.json.partial/batch-*.json"))
    begun = results()
    kill_when(
        begin(smoke, killed),
        lambda: (
            results() > begun + 1
            and len(list(killed.glob("cells/*/settings.json"))) > results()
            and not any(killed.glob("cells/*/*.partial"))
        ),
    )
    error = finish(begin(smoke, killed))
    assert "9 cells, 0 finished" not in error
    assert contents(killed) == contents(whole)


@pytest.mark.slow
def test_two_processes_make_the_same_table(smoke, whole):
    finish(begin(smoke, smoke / "two", "--processes", "2"))
    assert contents(smoke / "two") == contents(whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- digits\n", "expected `field: value` lines"),
        ("dataset: [digits]\ntiny: {image_size: 8, patch_size: 2, epochs: 1}\n", "Did you mean datasets?"),
        ("tiny: {image_size: 8, patch_size: 2, epochs: 1}\n", "needs `datasets`"),
        ("datasets: [digits]\n", "give one of `model`"),
    ],
)
def test_a_message_about_a_missing_part_shows_a_whole_file(tmp_path, text, message):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_protocol(tmp_path / "grid.yaml")
    example = str(raised.value).partition("For example:\n\n")[2]
    (tmp_path / "example.yaml").write_text(example)
    assert read_protocol(tmp_path / "example.yaml").datasets[0].name == "fruit"
