"""Results, specifications and folders of strangers: a wrong one is refused with its file and its field."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from galleries import make_gallery
from PIL import Image
from result_dicts import make_result

from hf_mmcoa.cli import main
from hf_mmcoa.cli.train_arguments import parse
from hf_mmcoa.convert.source import read_source
from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.idx import idx_array
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.evaluation.results import compare, load_result
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.hub.model_folder import read_checkpoint
from hf_mmcoa.protocols.reading import read_protocol
from hf_mmcoa.report import gallery as galleries
from hf_mmcoa.report.gallery import load_gallery
from hf_mmcoa.report.load import read_results
from hf_mmcoa.substitutes.embedded import synonym_table

RESULT = make_result()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"row_ids": 3}, "`row_ids` must be a list of whole numbers, got 3"),
        ({"labels": ["0"] * 10}, r"`labels\[0\]` must be a whole number, got '0'"),
        ({"labels": [True] * 10}, r"`labels\[0\]` must be a whole number, got True"),
        ({"outcomes": {"clean": 5}}, r"`outcomes\['clean'\]` must be a text, got 5"),
        ({"outcomes": []}, "`outcomes` must be a mapping to texts"),
        ({"num_samples": 0, "row_ids": [], "labels": [], "outcomes": {"clean": ""}}, "at least one sample"),
        ({"num_samples": 10.0}, "`num_samples` must be a whole number, got 10.0"),
        ({"seed": "0"}, "`seed` must be a whole number, got '0'"),
        ({"versions": {"torch": 2}}, r"`versions\['torch'\]` must be a text"),
        ({"clean_accuracy": 10**400}, "`clean_accuracy` must be .*, got 1000"),
        ({"attacks/clean": [1]}, "`attacks/clean` must be a number"),
        ({"image_accuracy_interval": 5}, "`image_accuracy_interval` must be a list"),
        ({"fingerprints": {"data": []}}, r"`fingerprints\['data'\]` must be a text"),
        ({"model": ["a"]}, "`model` must be a text"),
        ({"model": "m" * 2000}, "a name of 2000 characters"),
        ({"class_names": [1, 2]}, r"`class_names\[0\]` must be a text"),
        ({"sanity": ["fine"]}, r"`sanity\[0\]` must be a mapping"),
        ({"attack_spec": []}, "`attack_spec` must be a mapping"),
        ({"attack_spec": {**RESULT["attack_spec"], "num_steps": "many"}}, "`attack_spec`: `num_steps` must be a whole"),
        ({"attack_spec": {**RESULT["attack_spec"], "restarts": True}}, "`restarts` must be a whole number, got True"),
        ({"attack_spec": {**RESULT["attack_spec"], "norm": []}}, "`norm` must be one of linf, l2"),
        ({"attack_spec": {**RESULT["attack_spec"], "template": 5}}, "`template` must be a text"),
        ({"attack_spec": {**RESULT["attack_spec"], "image_attacks": [{}]}}, "`image_attacks\\[0\\]` must be a text"),
        ({"attack_spec": {**RESULT["attack_spec"], "candidates": {"a": {}}}}, "`candidates\\['a'\\]` must be a text"),
        ({"attack_spec": {**RESULT["attack_spec"], "step_size": 10**400}}, "`step_size` must not be negative or inf"),
        ({"attack_spec": {**RESULT["attack_spec"], "epsilon": {}}}, "`epsilon` must be a number or text"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_result_is_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps({**RESULT, **change}))
    for read in (load_result, read_results):
        with pytest.raises(ValueError, match=rf"(?s)r\.json.*{problem}"):
            read(file)
    with pytest.raises(ValueError, match=f"the second result.*{problem}"):
        compare(RESULT, {**RESULT, **change})


@pytest.mark.parametrize("key", list(RESULT))
def test_any_field_may_be_missing_or_null_without_a_traceback(key: str, tmp_path: Path) -> None:
    """What is not refused can be shown: the report reads nothing that `read_results` has not looked at."""
    for changed in ({name: value for name, value in RESULT.items() if name != key}, {**RESULT, key: None}):
        (tmp_path / "r.json").write_text(json.dumps(changed))
        try:
            read_results(tmp_path / "r.json")
        except ValueError as error:
            assert "r.json" in str(error)


def test_results_without_fingerprints_are_compared_by_their_rows() -> None:
    one = {key: value for key, value in RESULT.items() if key != "fingerprints"}
    assert compare(one, one)["clean_accuracy"]["difference"] == 0
    with pytest.raises(ValueError, match="data fingerprints None and squares"):
        compare(one, RESULT)


def test_a_gallery_is_held_to_a_number_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    galleries.save_gallery(make_gallery(), tmp_path / "g.json")
    pixels = sum(one.image[0].size * (1 + len(one.views)) for one in load_gallery(tmp_path / "g.json").samples)
    monkeypatch.setattr(galleries, "MAX_PIXELS", pixels)
    load_gallery(tmp_path / "g.json")
    monkeypatch.setattr(galleries, "MAX_PIXELS", pixels - 1)
    with pytest.raises(ValueError, match=r"g\.json is no gallery.*more than"):
        load_gallery(tmp_path / "g.json")
    for change in ({"samples": 3}, {"samples": [3]}, {"class_names": 5}, {"seed": 1e300}, {"attack_spec": []}):
        stored = json.loads((tmp_path / "g.json").read_text())
        (tmp_path / "h.json").write_text(json.dumps({**stored, **change}))
        with pytest.raises(ValueError, match=r"h\.json is no gallery"):
            load_gallery(tmp_path / "h.json")


# Specifications

DIGITS = {"base": "digits"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seeds": 3}, "`seeds` must be a list"),
        ({"seeds": ["0"]}, r"`seeds\[0\]` must be a whole number, got '0'"),
        ({"seeds": [[0]]}, r"`seeds\[0\]` must be a whole number"),
        ({"datasets": [5]}, "data set"),
        ({"datasets": 5}, "`datasets` must be a list"),
        ({"datasets": [{"name": ".."}]}, "needs a `name`"),
        ({"datasets": [{"name": "../../etc"}]}, "needs a `name`"),
        ({"datasets": [{"name": "digits", "data_dir": 5}]}, "`data_dir` must be a text"),
        ({"objectives": [5]}, "`objectives`"),
        ({"objectives": [{"objective": "mmcoa", "name": "../.."}]}, "no letter or digit"),
        ({"objectives": {"mmcoa": 1}}, "`objectives` must be a list"),
        ({"candidates": 5}, "`candidates` must be a text"),
        ({"model": 5, "tiny": None}, "`model` must be a text"),
        ({"name": []}, "`name` must be a text"),
        ({"batch_size": "big"}, "`batch_size` must be a whole number"),
        ({"max_test_samples": 1.5}, "`max_test_samples` must be a whole number"),
        ({"training": []}, "`training` must be"),
        ({"training": {"num_steps": "many"}}, "`training`: `num_steps` must be a whole number"),
        ({"threat_model": {"num_steps": []}}, "`num_steps` must be a whole number"),
        ({"threat_model": {"preset": []}}, "preset"),
        ({"tiny": {"image_size": "8", "patch_size": 2, "epochs": 1}}, "`tiny`: `image_size` must be a whole number"),
        ({"tiny": {"image_size": 8, "patch_size": 0, "epochs": 1}}, "`tiny`: `patch_size` must be a whole number"),
        ({"base": []}, "`base` must be one of"),
        ({"base": "../digits"}, "`base` must be one of"),
        ({"task": {}}, "`task` must be"),
    ],
    ids=str,
)
def test_a_wrong_field_of_a_protocol_is_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({**DIGITS, **change}))
    with pytest.raises(ValueError, match=rf"(?s)p\.yaml.*{problem}"):
        read_protocol(tmp_path / "p.yaml")


def test_no_cell_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump({**DIGITS, "objectives": [{"name": "../../a/b", "objective": "mmcoa"}]})
    )
    (cell,) = read_protocol(tmp_path / "p.yaml").cells()
    assert "/" not in cell.name and cell.name.startswith("digits_full_")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("num_steps: many", "`num_steps` is 'many'"),
        ("num_steps: [1]", "`num_steps` is .*expected one value"),
        ("num_steps: 1.5", "`num_steps` is 1.5"),
        ("learning_rate: {a: 1}", "`learning_rate` is .*expected one value"),
        ("train_image_encoder: perhaps", "`train_image_encoder` is 'perhaps'"),
        ("nonsense: 1", "unknown options nonsense"),
        ("- a\n- b", "expected `option: value`"),
        ("a: &a [*a]", "nested too deeply or too large"),
        ("epsilon: .nan", "holds NaN"),
    ],
)
def test_a_wrong_option_in_a_config_is_named(content: str, problem: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(SystemExit) as ended:
        parse(["--config", str(tmp_path / "c.yaml")])
    message = f"{ended.value} {capsys.readouterr().err}"
    assert re.search(rf"(?s)c\.yaml.*{problem}", message), message


def test_a_config_of_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"run_name: caf\xe9")
    with pytest.raises(SystemExit, match=r"c\.yaml is no UTF-8"):
        parse(["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    "change", [{"num_steps": "5"}, {"epsilon": float("nan")}, {"rho": float("inf")}, {"seed": 1.0}]
)
def test_a_threat_model_has_types(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(change))}`"):
        ThreatModel(**change)


# Folders


@pytest.mark.parametrize("content", ["[]", '{"cat": "feline"}', '{"cat": [1]}', "NaN", '{"cat": 5}'])
def test_a_table_of_substitutes_is_checked(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"t\.json holds no synonym table"):
        synonym_table(str(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b"[]"), ("config.json", b"\xff"), ("config.json", b"[" * 10**5), ("training_args.yaml", b"- 1")],
)
def test_a_checkpoint_s_files_are_named(name: str, content: bytes, checkpoint_folder: Path) -> None:
    (checkpoint_folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_checkpoint(checkpoint_folder)


@pytest.fixture
def checkpoint_folder(tiny_clip, tmp_path: Path) -> Path:
    tiny_clip.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/passwd", "..", 5])
def test_no_index_of_weights_leaves_its_folder(shard: Any, checkpoint_folder: Path) -> None:
    (checkpoint_folder / "model.safetensors").unlink()
    index = checkpoint_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"logit_scale": shard}}))
    with pytest.raises(ValueError, match=r"index\.json.*(no file of its own folder|does not name a file)"):
        read_source(checkpoint_folder)


def test_an_idx_file_is_read_no_further_than_it_says(tmp_path: Path) -> None:
    head = b"\0\0\x08\x01" + (3).to_bytes(4, "big")
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as file:
        file.write(head + bytes(30 << 20))  # 30 MB, of which 4 bytes are read
    with pytest.raises(ValueError, match=r"bomb\.gz is cut off or too long: 4 values of 3"):
        idx_array(tmp_path / "bomb.gz")
    for content, problem in (
        (b"\0\0\x08\x02" + b"\xff" * 8, "claims 18,446,744,065,119,617,025 values"),
        (b"\0\0\x08\x03\0\0", "cut off"),
        (gzip.compress(head + b"abc")[:-9], "cut off or damaged"),
        (b"\x1f\x8bnonsense", "cut off or damaged"),
    ):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            idx_array(tmp_path / "a")
    (tmp_path / "a").write_bytes(gzip.compress(head + b"abc"))
    assert idx_array(tmp_path / "a").tolist() == [97, 98, 99]


@pytest.mark.parametrize(
    "text", [None, "", "[]", "5", '{"hf_mmcoa": 5}', '{"hf_mmcoa": {"name": "a", "evil": 1}}', "["]
)
def test_a_foreign_description_is_no_benchmark(text: Any) -> None:
    assert describe(SimpleNamespace(features=None, info=SimpleNamespace(description=text))).name == ""


@pytest.mark.parametrize("content", ["[]", "{}", '{"splits": 5}', '{"splits": [1]}', "\x00"])
def test_a_saved_data_set_s_files_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset_dict\.json"):
        load_benchmark(str(tmp_path), split="train")


def test_class_names_in_another_encoding_are_named(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    (tmp_path / "classnames.txt").write_bytes("café\nthé".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classnames\.txt is no UTF-8 text .*save it as UTF-8"):
        load_benchmark(str(tmp_path), split="train")


def test_the_commands_say_it_in_one_line(tmp_path: Path, capsys) -> None:
    hostile = "\x1b[2J\u202e"
    (tmp_path / "r.json").write_text(json.dumps({**RESULT, "outcomes": {hostile: "2"}, "num_samples": 1}))
    (tmp_path / "p.yaml").write_text('"a\\e[2J": 1')
    assert main(["report", str(tmp_path / "r.json"), "--output", str(tmp_path / "out")]) == 1
    assert main(["protocol", str(tmp_path / "p.yaml"), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\u202e" not in said and r"\x1b[2J" in said and "Traceback" not in said
