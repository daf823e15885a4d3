"""`hf-mmcoa demo`: the models it shows, its messages for missing things, and the Space with the same page."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
from pathlib import Path

import pytest
import yaml

from hf_mmcoa import cli
from hf_mmcoa.cli import build_parser, demo, main
from hf_mmcoa.models.encoder import load_clip

SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"
SHORT = ("--pretrain_epochs", "1", "--max_steps", "2", "--use_cpu")


class Page:
    """In the place of a page that would wait for Ctrl-C."""

    def block_thread(self):
        pass


@pytest.fixture
def launched(monkeypatch):
    """Return what would have been served, and with which options."""
    pytest.importorskip("gradio")
    calls = []
    monkeypatch.setattr("hf_mmcoa.demo.page.build_page", lambda setup: calls.append(setup) or Page())
    monkeypatch.setattr("hf_mmcoa.demo.page.launch", lambda page, *how: calls.append(how) or "http://there")
    return calls


@pytest.fixture
def folder(tiny_clip, tiny_processor, tmp_path):
    tiny_clip.save_pretrained(tmp_path / "a")
    tiny_processor.save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def test_models_are_loaded_and_named(launched, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "b")
    assert main(["demo", "--model", str(folder), "--model", str(tmp_path / "b")]) == 0
    setup, how = launched
    assert list(setup.models) == ["a", "b"] and how == ("127.0.0.1", None, False)
    assert setup.class_names[0] == "zero" and setup.budget.template == "This is a photo of a {}"
    assert setup.budget.epsilon == 0.15 and list(setup.sources) == ["known", "unseen"]
    assert capsys.readouterr().out == "http://there  (Ctrl-C ends it)\n"


def test_options_reach_the_page(launched, folder, capsys):
    options = ["--epsilon", "2/255", "--host", "0.0.0.0", "--port", "7999", "--open"]
    assert main(["demo", "--model", str(folder), *options]) == 0
    setup, how = launched
    assert setup.budget.epsilon == 2 / 255 and how == ("0.0.0.0", 7999, True)
    assert "anybody who can reach 0.0.0.0" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_loopback_needs_no_word(launched, folder, capsys, host):
    assert main(["demo", "--model", str(folder), "--host", host]) == 0
    assert "anybody" not in capsys.readouterr().err


def test_names_that_are_alike_are_given_in_full():
    assert demo.name_models(["x/clip", "y/clip", "user/robust"]) == {
        "x/clip": "x/clip", "y/clip": "y/clip", "robust": "user/robust",
    }  # fmt: skip
    with pytest.raises(ValueError, match="x/clip"):
        demo.name_models(["x/clip", "x/clip"])


def test_without_gradio_it_says_what_to_install_and_trains_nothing(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name, *rest)
    )
    assert main(["demo"]) == 1
    assert capsys.readouterr().err.splitlines() == ['hf-mmcoa demo: needs gradio: pip install "hf-mmcoa[demo]"']


@pytest.mark.parametrize("arguments", [["--model", "no/such/folder"], ["--dataset", "no/such/data"]])
def test_what_is_missing_is_one_line(launched, arguments, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["demo", *arguments]) == 1
    assert "Traceback" not in capsys.readouterr().err and not launched


# The embedded default


@pytest.mark.slow
def test_default_models_are_trained_once_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = demo.default_models(tmp_path / "cache", SHORT)
    assert list(folders) == ["CLIP", "CLIP after MMCoA"] and "half a minute" in capsys.readouterr().err
    clean, robust = (dict(load_clip(folder)[0].named_parameters()) for folder in folders.values())
    assert any(not weight.equal(robust[name]) for name, weight in clean.items())
    monkeypatch.setattr("hf_mmcoa.testbed.pretraining.pretrain_on_digits", None)
    assert demo.default_models(tmp_path / "cache", SHORT) == folders  # nothing is trained
    assert {one.name for one in folders["CLIP"].parent.iterdir()} == {"clean", "robust"}


def test_an_interrupted_training_leaves_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_mmcoa.testbed.pretraining.pretrain_on_digits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.default_models(tmp_path / "cache", SHORT)
    assert not [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]


def test_the_default_runs_model_is_taken(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / demo.DEFAULT_RUN)
    trained = []
    monkeypatch.setattr(demo, "_train_default", lambda clean, robust, options: trained.append((clean, robust)))
    found = demo.default_models(tmp_path / "cache")
    assert found["CLIP after MMCoA"] == demo.DEFAULT_RUN and trained == [(found["CLIP"], demo.DEFAULT_RUN)]
    found["CLIP"].mkdir(parents=True)
    demo.default_models(tmp_path / "cache")
    assert len(trained) == 1


# The Space


def test_the_space_is_the_same_command(monkeypatch):
    given = []
    monkeypatch.setattr(cli, "main", lambda argv: given.append(argv) or 0)
    with pytest.raises(SystemExit):
        runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    args = build_parser().parse_args(given[0])
    assert args.run is demo.run and (args.host, args.port) == ("0.0.0.0", 7860)


def test_the_space_has_the_header_that_the_hub_reads():
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio" and (SPACE / header["app_file"]).is_file()
    assert int(header["sdk_version"].split(".")[0]) >= 6  # as the extra in pyproject.toml
    assert (SPACE / "requirements.txt").read_text(encoding="utf-8").split() == ["hf-mmcoa[demo]"]
