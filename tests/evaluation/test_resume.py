"""An evaluation that is interrupted, damaged, shared or repeated ends with the file of one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from evaluate_script import content
from processes import run_script
from squares import KNOWN
from test_evaluator import evaluate

from hf_mmcoa.attacks.pgd import PGD
from hf_mmcoa.evaluation import ThreatModel
from hf_mmcoa.evaluation.results import partial_folder, save_result

SCRIPT = Path(__file__).with_name("evaluate_script.py")


class Interrupted(PGD):
    """PGD that is stopped at its call number `stop`."""

    calls = 0
    stop = 0

    def __call__(self, images, loss_fn, generator=None):
        Interrupted.calls += 1
        if Interrupted.calls == Interrupted.stop:
            raise KeyboardInterrupt
        return super().__call__(images, loss_fn, generator)


@pytest.fixture
def attack():
    Interrupted.calls = Interrupted.stop = 0
    return Interrupted(epsilon=0.05, step_size=0.02, num_steps=3)


@pytest.fixture
def run(model, processor, dataset, attack):
    """Evaluate five batches of five into a file, with one call of the attack each."""

    def run(output, **changes):
        settings = {"batch_size": 5, "image_attacks": {"pgd": attack}, "sanity": True, "candidates": KNOWN} | changes
        return evaluate(changes.pop("model", model), processor, dataset, output=output, **settings)

    return run


@pytest.fixture
def whole(run, tmp_path):
    """The file of an uninterrupted run, and how often its attack was called."""
    run(tmp_path / "whole.json")
    calls, Interrupted.calls = Interrupted.calls, 0
    return (tmp_path / "whole.json").read_bytes(), calls


@pytest.mark.few(1)
@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_an_interrupted_run_ends_with_the_same_file(run, tmp_path, whole, stop):
    output = tmp_path / "result.json"
    Interrupted.stop = stop
    with pytest.raises(KeyboardInterrupt):
        run(output)
    done = len(list(partial_folder(output).glob("batch-*.json")))
    assert done == min(stop - 1, 5) and not output.exists()
    Interrupted.calls, Interrupted.stop = 0, 0
    run(output)
    assert output.read_bytes() == whole[0]
    assert Interrupted.calls == whole[1] - done  # finished batches are not computed again
    assert not partial_folder(output).exists()


def test_a_finished_run_is_returned_and_its_leftovers_removed(run, tmp_path, whole):
    output = tmp_path / "whole.json"
    partial_folder(output).mkdir()  # killed between the last write and the clean-up
    run(output)
    assert output.read_bytes() == whole[0] and Interrupted.calls == 0
    assert not partial_folder(output).exists()


def interrupted(run, output, at):
    Interrupted.stop = at
    with pytest.raises(KeyboardInterrupt):
        run(output)
    Interrupted.calls, Interrupted.stop = 0, 0


@pytest.mark.few(1)
@pytest.mark.parametrize("file", ["batch-00001.json", "texts.json", "header.json"])
def test_a_file_cut_off_is_dropped_with_a_warning(run, tmp_path, whole, file):
    output = tmp_path / "result.json"
    interrupted(run, output, 4)
    damaged = partial_folder(output) / file
    damaged.write_text(damaged.read_text()[:-20])
    with pytest.warns(UserWarning, match=f"{file} was cut off"):
        run(output)
    assert output.read_bytes() == whole[0]


def test_another_threat_model_is_not_merged(run, tmp_path):
    output = tmp_path / "result.json"
    interrupted(run, output, 3)
    with pytest.raises(ValueError, match=r"attack_spec.rho: 1.0 and 2.0"):
        run(output, threat_model={"rho": 2.0})
    assert len(list(partial_folder(output).glob("batch-*.json"))) == 2  # the good part is kept
    run(output, threat_model={"rho": 2.0}, overwrite=True)
    assert output.exists()


def test_another_model_is_not_merged(run, tmp_path, model):
    output = tmp_path / "result.json"
    interrupted(run, output, 3)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"fingerprints.model"):
        run(output)


def test_other_data_are_not_merged(run, tmp_path, model, processor, dataset, attack):
    output = tmp_path / "result.json"
    interrupted(run, output, 3)
    other = dataset.select([1, 0, *range(2, 24)])
    with pytest.raises(ValueError, match=r"fingerprints.data"):
        evaluate(model, processor, other, output=output, batch_size=5, image_attacks={"pgd": attack})


def test_another_result_is_overwritten_only_on_request(run, tmp_path, whole):
    output = tmp_path / "whole.json"
    with pytest.raises(ValueError, match=r"attack_spec.seed: 0 and 1.*overwrite"):
        run(output, threat_model={"seed": 1})
    assert output.read_bytes() == whole[0]
    run(output, threat_model={"seed": 1}, overwrite=True)
    assert output.read_bytes() != whole[0]


def test_a_result_cut_off_is_reported_and_overwritten_only_on_request(run, tmp_path, whole):
    output = tmp_path / "whole.json"
    output.write_bytes(whole[0][:500])
    with pytest.raises(ValueError, match="cut off"):
        run(output)
    run(output, overwrite=True)
    assert output.read_bytes() == whole[0]


def test_batches_of_a_run_without_a_file_leave_nothing(model, processor, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = evaluate(model, processor, dataset, ["image"])
    assert list(tmp_path.iterdir()) == []
    save_result(result, "result.json")  # and are a valid result all the same
    assert ThreatModel.from_dict(result["attack_spec"]).epsilon == 0.05


def start(folder, *arguments, processes=1):
    status, out, error = run_script(SCRIPT, folder, *arguments, processes=processes)
    assert status == 0, error[-3000:]
    return out


@pytest.fixture
def saved(model, processor, dataset, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    dataset.save_to_disk(tmp_path / "data")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "batches"), [(2, ["0, 2, 4", "1, 3, 5"]), (4, ["0, 4", "1, 5", "2", "3"])])
def test_several_processes_give_the_file_of_one(saved, processes, batches):
    start(saved, "evaluate", "one.json")
    printed = start(saved, "evaluate", "many.json", processes=processes)
    for process, own in enumerate(batches):
        assert f"process {process} of {processes}, batches {own}\n" in printed
    assert (saved / "one.json").read_bytes() == (saved / "many.json").read_bytes()
    assert content(saved / "one") == content(saved / "many") and len(content(saved / "one")) > 24  # and the same export


@pytest.mark.slow
def test_killed_twenty_times_the_file_is_the_same(saved):
    output = start(saved, "kill", "20")
    killed = [int(line.split()[1]) for line in output.splitlines() if line.startswith("killed")]
    assert len(killed) == 20
    assert len(set(killed)) > 3, killed  # at different places, counted in finished batches
