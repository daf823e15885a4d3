"""What no ball bounds in an evaluation: numbers of its own, which leave all others as they are."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
from PIL import Image

from hf_mmcoa import load_benchmark
from hf_mmcoa.attacks import Corruptions, Typographic, UniversalPerturbation
from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import ThreatModel, evaluate_retrieval, evaluate_robustness
from hf_mmcoa.evaluation.attack_names import worst_case_attacks, worst_outcome
from hf_mmcoa.hub.evaluate_command import evaluate_command
from hf_mmcoa.report.page import write_report
from hf_mmcoa.report.table import robustness_table
from hf_mmcoa.testbed.pretraining import align_with_english

NAMES = ["cat", "dog", "red car"]
SPEC = ThreatModel.preset("quick", num_steps=1, epsilon=0.02)


@pytest.fixture
def pictures() -> datasets.Dataset:
    generator = torch.Generator().manual_seed(0)
    drawn = (255 * torch.rand(12, 32, 32, 3, generator=generator)).byte().numpy()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [Image.fromarray(each) for each in drawn], "label": [index % 3 for index in range(12)]}
    return datasets.Dataset.from_dict(rows, features=features)


BEYOND = {
    "universal": UniversalPerturbation(delta=torch.full((3, 32, 32), 0.3), epsilon=0.3),
    "typographic": Typographic(size=0.4),
    "corruptions": Corruptions(kinds=("contrast", "gaussian-noise")),
}


def measure(clip, processor, pictures, **options):
    options = {"attacks": ["clean", "image"], "threat_model": SPEC, "progress": False, "sanity": False} | options
    return evaluate_robustness(clip, processor, pictures, **options)


def test_the_worst_case_keeps_to_balls():
    names = ["clean", "image/pgd-ce", "beyond/typographic", "beyond/corruptions/jpeg"]
    groups = worst_case_attacks(names)
    assert groups["worst_case_accuracy"] == groups["image_accuracy"] == names[:2]
    assert groups["beyond_accuracy"] == ["clean", *names[2:]] and list(groups)[-1] == "beyond_accuracy"
    assert worst_case_attacks(["clean", "beyond/typographic"]) == {
        "clean_accuracy": ["clean"],
        "beyond_accuracy": ["clean", "beyond/typographic"],
    }


def test_other_numbers_stay_and_its_own_are_worst_cases(tiny_clip, tiny_processor, pictures):
    plain = measure(tiny_clip, tiny_processor, pictures)
    found = measure(tiny_clip, tiny_processor, pictures, beyond=BEYOND, batch_size=128)
    same = set(plain) - {"attack_spec", "fingerprints", "outcomes", "queries"}
    assert {name: found[name] for name in same} == {name: plain[name] for name in same}
    names = [
        "beyond/universal",
        "beyond/typographic",
        "beyond/corruptions/contrast",
        "beyond/corruptions/gaussian-noise",
    ]
    assert [name for name in found["outcomes"] if name not in plain["outcomes"]] == names
    signs = worst_outcome(found, ["clean", *names])
    assert found["beyond_accuracy"] == signs.count("1") / 12 and found["beyond_accuracy_interval_over"] == "images"
    for kind in ("contrast", "gaussian-noise"):
        degrees = [found[f"beyond/corruptions/{kind}/{severity}"] for severity in range(1, 6)]
        assert found[f"attacks/beyond/corruptions/{kind}"] <= min(degrees)
    assert "beyond" not in plain["attack_spec"]
    assert [name.partition(":")[0] for name in found["attack_spec"]["beyond"]] == list(BEYOND)
    assert found["fingerprints"]["universal"] == BEYOND["universal"].fingerprint
    opposite = {"universal": UniversalPerturbation(delta=torch.full((3, 32, 32), -0.3), epsilon=0.3)}
    other = measure(tiny_clip, tiny_processor, pictures, beyond=BEYOND | opposite)
    assert other["attack_spec"] == found["attack_spec"] and other["fingerprints"] != found["fingerprints"]


def test_outcomes_are_those_of_the_classifier(tiny_clip, tiny_processor, pictures):
    from hf_mmcoa import ZeroShotClassifier
    from hf_mmcoa.data import to_tensor

    found = measure(tiny_clip, tiny_processor, pictures, attacks=["clean"], beyond={"universal": BEYOND["universal"]})
    images = torch.stack([to_tensor(row["image"]) for row in pictures])
    classifier = ZeroShotClassifier(tiny_clip, tiny_processor, NAMES, found["attack_spec"]["template"])
    labels = torch.tensor(pictures["label"])
    with torch.no_grad():
        right = (classifier(images).argmax(1) == labels) & (
            classifier(BEYOND["universal"].apply(images)).argmax(1) == labels
        )
    assert found["outcomes"]["beyond/universal"] == "".join("01"[each] for each in right.tolist())


def test_by_name_in_a_resumed_file_a_table_and_a_page(tiny_clip, tiny_processor, pictures, tmp_path):
    BEYOND["universal"].save(tmp_path / "delta.safetensors")
    names = (f"universal={tmp_path}/delta.safetensors", "corruptions")
    spec = ThreatModel.preset("quick", num_steps=1, epsilon=0.02, beyond=names)
    options = {"threat_model": spec, "output": tmp_path / "result.json", "sanity": True}
    found = measure(tiny_clip, tiny_processor, pictures, **options)
    assert measure(tiny_clip, tiny_processor, pictures, **options) == json.loads((tmp_path / "result.json").read_text())
    row = next(line for line in robustness_table({"tiny": found}).splitlines() if line.startswith("beyond balls"))
    assert f"{100 * found['beyond_accuracy']:.1f}" in row
    report = write_report([tmp_path / "result.json"], tmp_path / "report")
    shown = report.markdown.read_text()
    assert "### Beyond balls" in shown and f"| {100 * found['beyond/corruptions/jpeg/3']:.1f} |" in shown
    page = report.page.read_text()
    assert "<h3>Beyond balls</h3>" in page and "<td>corruptions/pixelate</td><td>5</td>" in page


def test_the_command_of_a_card_names_what_it_can(tiny_clip, tiny_processor, pictures):
    by_name = ThreatModel.preset("quick", beyond=("corruptions",), text_attacks=())
    found = measure(tiny_clip, tiny_processor, pictures, attacks=["clean"], threat_model=by_name)
    assert "--beyond corruptions" in str(evaluate_command(found, "clip"))
    named = {"corruptions": BEYOND["corruptions"]}
    own = measure(tiny_clip, tiny_processor, pictures, attacks=["clean"], threat_model=by_name, beyond=named)
    assert evaluate_command(own, "clip") is None


def test_what_cannot_be_run_is_refused(tiny_clip, tiny_processor, pictures):
    small = datasets.Dataset.from_dict(
        {"image": [each.resize((8, 8)) for each in pictures["image"]], "label": pictures["label"]},
        features=pictures.features,
    )
    with pytest.raises(ValueError, match="8x8 are too small to write"):
        measure(tiny_clip, tiny_processor, small, beyond={"typographic": Typographic()})
    with pytest.raises(ValueError, match="unknown 'fog'"):
        measure(tiny_clip, tiny_processor, pictures, threat_model=ThreatModel.preset("quick", beyond=("fog",)))
    captions = pictures.remove_columns("label").add_column("text", ["a cat"] * 12)
    spec = ThreatModel.preset("quick", beyond=("corruptions",))
    with pytest.raises(ValueError, match=r"`beyond`.*captions have none"):
        evaluate_retrieval(tiny_clip, tiny_processor, captions, spec)


@pytest.mark.slow
def test_the_commands_train_on_one_split_and_measure_on_another(tmp_path, capsys):
    for part in align_with_english(
        load_benchmark("digits", split="train"),
        image_size=8,
        patch_size=2,
        epochs=3,
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
    )[:2]:
        part.save_pretrained(tmp_path / "clip")
    delta = tmp_path / "delta.safetensors"
    words = ["--model", f"{tmp_path}/clip", "--dataset", "digits", "--cpu", "--epsilon", "0.3", "--max_samples", "64"]
    assert main(["universal", *words, "--epochs", "30", "--output", str(delta)]) == 0
    trained = capsys.readouterr().out
    loaded = UniversalPerturbation.load(delta)
    assert loaded.fingerprint in trained and loaded.epsilon == 0.3 and loaded.delta.shape == (3, 8, 8)
    clean, perturbed = (float(part.split("%")[0].split()[-1]) for part in trained.split("images:")[1].split("and"))
    assert perturbed < clean / 2 and clean > 30
    more = [
        "--beyond",
        f"universal={delta}",
        "--attacks",
        "clean",
        "--quiet",
        "--output",
        str(tmp_path / "result.json"),
    ]
    assert main(["evaluate", *words, *more]) in (0, 3)
    assert "beyond balls" in capsys.readouterr().out
    assert "beyond/universal" in json.loads((tmp_path / "result.json").read_text())["outcomes"]
