"""`hf-mmcoa train`: how options are read, and the whole program in miniature."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import warnings

import datasets
import pytest
from transformers import CLIPModel, CLIPProcessor, HfArgumentParser

from hf_mmcoa.cli import main
from hf_mmcoa.cli.early_options import check_attack_settings, mistyped, no_number
from hf_mmcoa.cli.train import main as train_main
from hf_mmcoa.cli.train_arguments import parse
from hf_mmcoa.config import MeasuredConfig
from hf_mmcoa.data.digits import load_digits
from hf_mmcoa.protocols.run_arguments import RunArguments
from hf_mmcoa.protocols.run_data import suit_contrastive_loss, training_data
from hf_mmcoa.testbed.tiny_clip import tiny_clip

SMALL = ["--pretrain_epochs", "1", "--max_steps", "2", "--preset", "quick", "--max_test_samples", "20", "--use_cpu"]


def test_without_a_model_the_settings_are_the_embedded_defaults():
    run, args = parse([])
    assert run.model_name_or_path is None and run.dataset == "digits"
    assert (args.epsilon, args.num_steps, args.learning_rate, args.max_steps) == (0.15, 5, 3e-3, 400)


def test_with_a_model_the_settings_are_the_configs():
    run, args = parse(["--model_name_or_path", "some/clip", "--dataset", "cifar10"])
    assert (args.epsilon, args.num_steps, args.max_steps) == (1 / 255, 10, -1) and run.dataset == "cifar10"


def test_the_command_line_overrides_the_file_and_the_file_the_default(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("epsilon: 4/255\nnum_steps: 7\nshots: 4\n")
    run, args = parse(["--config", str(file), "--num_steps", "9"])
    assert (args.epsilon, args.num_steps, args.learning_rate, run.shots) == (4 / 255, 9, 3e-3, 4)


def test_an_unknown_line_in_the_file_is_named(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("epsilom: 4/255\n")
    with pytest.raises(SystemExit):
        parse(["--config", str(file)])
    assert "unknown options epsilom" in capsys.readouterr().err


def test_every_option_is_known_to_the_quick_check_and_a_mistyped_one_is_named_at_once(capsys):
    """A fresh interpreter must not load torch or transformers for it: that is what took seconds."""
    parser = HfArgumentParser([RunArguments, MeasuredConfig])
    options = [word for action in parser._actions for word in action.option_strings if word.startswith("--")]
    assert len(options) > 200 and mistyped(options) is None
    assert mistyped(["--learn", "3e-3", "--no-do-eval", "--epsilon=1/255", "-h", "--", "--anything"]) is None
    for words in (["--learnig_rate", "1"], ["--output_dir", "here", "--learnig-rate=1"]):
        with pytest.raises(SystemExit) as stopped:
            parse(words)
        assert stopped.value.code == 2
        assert "unknown options learnig_rate (did you mean learning_rate?)" in capsys.readouterr().err
    code = (
        "import sys; from hf_mmcoa.cli.early_options import mistyped; print(mistyped(['--nope', '--epsilom'])); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[0] == "unknown options nope, epsilom (did you mean epsilon?)" and shown[1] == "set()"


def test_a_wrong_value_is_reported_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from hf_mmcoa.cli.train import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as stopped:\n    status = stopped.code\n"
        "print(status, {'torch', 'transformers'} & set(sys.modules))"
    )
    euclidean = tmp_path / "run.yaml"
    euclidean.write_text("norm: l2\n")
    mistyped_file = tmp_path / "mistyped.yaml"
    mistyped_file.write_text("epsilonn: 1/255\n")
    for words, said in (
        (["--max_steps", "five"], "argument --max_steps: invalid int value: 'five'"),
        (["--learning-rate=fast"], "argument --learning_rate: invalid float value: 'fast'"),
        (["--epsilon", "3"], "`epsilon` is in [0, 1] pixel units, got 3. Did you mean 3/255?"),
        (["--norm", "l3"], "`norm` must be one of linf, l2, got 'l3'."),
        (
            ["--config", str(euclidean), "--epsilon", "3", "--rho", "-1"],
            "`rho` must not be negative or infinite, got -1",
        ),
    ):
        ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert said in ran.stderr and ran.stdout.split()[1:] == ["set()"] and ran.stdout[0] in "12"


def test_an_early_check_says_nothing_of_what_is_right_or_not_its_own(tmp_path):
    right = [
        "--epsilon",
        "1/255",
        "--num_steps=3",
        "--lr",
        "x",
        "--candidates",
        "mine.json",
        "--output_dir",
        "5",
        "--",
        "--rho",
    ]
    assert no_number(right) is None
    check_attack_settings(right, {"norm": "l2", "num_candidates": 4})
    check_attack_settings(["--epsilon", "3"], {"norm": "l2"})
    check_attack_settings(["--epsilon", "1/255"], {"num_steps": "five"})  # the file's, reported with its name
    with pytest.raises(ValueError, match="`num_steps` must not be negative"):
        check_attack_settings(["--num_steps", "3", "--num_steps=-1"], {})


def test_a_missing_file_is_named():
    with pytest.raises(SystemExit, match=r"nowhere\.yaml: there is no such file"):
        parse(["--config", "nowhere.yaml"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a whole run, and what it printed."""
    folder, out = tmp_path_factory.mktemp("trained"), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["train", "--output_dir", str(folder), *SMALL]) == 0
    return folder, out.getvalue()


def test_the_whole_program(trained):
    folder, shown = trained
    results = json.loads((folder / "robustness.json").read_text())
    assert set(results) == {"before", "after"}
    for result in results.values():
        assert result["num_samples"] == 20 and result["attack_spec"]["epsilon"] == 0.15
        assert result["attack_spec"]["rho"] == 1.0  # whatever radius training finds best by itself
        assert {"text_accuracy", "text_unseen_accuracy", "multimodal_unseen_accuracy"} <= set(result)
    assert results["before"]["attack_spec"] == results["after"]["attack_spec"]
    assert "before" in shown and "multimodal" in shown
    assert (folder / "attacks.png").read_bytes().startswith(b"\x89PNG")
    CLIPProcessor.from_pretrained(folder)
    CLIPModel.from_pretrained(folder)


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert (
        train_main(
            [
                "--model_name_or_path",
                str(tmp_path / "none"),
                "--dataset",
                "cifar1O",
                "--output_dir",
                str(tmp_path),
                *SMALL,
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert "hf-mmcoa train:" in error and "cifar10" in error and "Traceback" not in error


def test_a_value_out_of_range_is_one_line(tmp_path, capsys):
    assert train_main(["--epsilon", "8", "--output_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "Did you mean 8/255" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "cifar10"], "needs `--model_name_or_path`, the CLIP that is trained; or `--tiny`"),
        (["--resume_from_checkpoint", "nowhere"], "'nowhere' holds no trainer_state.json"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(tmp_path, capsys, options, message):
    assert train_main([*options, "--output_dir", str(tmp_path), *SMALL]) == 1
    shown = capsys.readouterr().err
    assert message in shown and "[1/" not in shown


@pytest.mark.slow
def test_the_saved_folder_needs_nothing_of_ours(trained, tmp_path):
    folder, _ = trained
    code = (
        "import sys; from PIL import Image; from transformers import CLIPModel, CLIPProcessor, pipeline\n"
        f"folder = {str(folder)!r}\n"
        "CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)\n"
        "ask = pipeline('zero-shot-image-classification', model=folder)\n"
        "answer = ask(Image.new('RGB', (8, 8)), candidate_labels=['zero', 'one'])\n"
        "assert {each['label'] for each in answer} == {'zero', 'one'}\n"
        "assert not any(name.startswith('hf_mmcoa') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


# Other data than the digits


def help_of(*options, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_main([*options, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def default_of(option, shown):
    """The default that the help shows for an option."""
    spelling = option.replace("_", "-")
    return re.search(rf"--{spelling} {option.upper()} .*?\(default: ([^)]*)\)", shown.split("options:")[1])[1]


def test_the_help_shows_the_defaults_of_the_run_that_is_asked_for(capsys):
    general, digits = help_of(capsys=capsys), help_of("--dataset", "digits", capsys=capsys)
    tiny = help_of("--tiny", "--dataset", "fruit", capsys=capsys)
    model = help_of("--model_name_or_path", "some/clip", "--dataset", "fruit", capsys=capsys)
    assert [default_of("max_steps", each) for each in (general, digits, tiny, model)] == ["-1", "400", "300", "-1"]
    assert "epsilon 0.15" in general  # the settings of the run without options are said, and not shown as general ones
    assert "defaults below are those of the tiny CLIP on digits" in digits and "a tiny CLIP on fruit" in tiny


def test_candidates_take_a_source_a_table_or_a_file(tmp_path):
    file = tmp_path / "words.json"
    file.write_text('{"beer mug": ["stein"]}')
    for name, table in (("wordnet", None), ("digits-wordnet", "digits-wordnet"), (str(file), str(file))):
        run, args = parse(["--candidates", name])
        assert run.synonyms == table and args.candidates == ("neighbours" if table else name)


@pytest.mark.parametrize("given", ["wordnt", "missing.json"])
def test_candidates_that_are_neither_are_refused(given):
    with pytest.raises(ValueError, match=rf"`candidates`.*{given}"):
        parse(["--candidates", given])


def test_an_unknown_line_is_told_its_nearest_option(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("image_colum: picture\n")
    with pytest.raises(SystemExit):
        parse(["--config", str(tmp_path / "run.yaml")])
    assert "did you mean image_column?" in capsys.readouterr().err


def test_a_model_and_a_tiny_one_exclude_each_other():
    with pytest.raises(ValueError, match="one of the two"):
        parse(["--tiny", "--model_name_or_path", "some/clip"])


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Two classes of digits in columns of unusual names, with captions."""
    folder = tmp_path_factory.mktemp("data") / "parquet"
    rows = load_digits("train").select(range(0, 1200, 30)).cast_column("label", datasets.Value("int64"))
    rows = rows.map(lambda row: {"kind": row["label"] % 2, "remark": f"a scan of {row['label']}"})
    kinds = datasets.ClassLabel(names=["even one", "odd one"])
    rows = rows.remove_columns("label").rename_column("image", "scan").cast_column("kind", kinds)
    for split in ("train", "test"):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


COLUMNS = ["--image_column", "scan", "--label_column", "kind"]


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    model, processor = tiny_clip(["This is a photo of a even odd one"], image_size=8, patch_size=2, width=16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def given(small_clip, parquet, *options):
    return parse(
        ["--model_name_or_path", small_clip, "--dataset", str(parquet), "--use_cpu", "--max_steps", "2", *options]
    )


def test_columns_of_any_name_are_read(small_clip, parquet):
    run, args = given(small_clip, parquet, *COLUMNS, "--text_column", "remark")
    data, validation = training_data(run, args)
    assert set(data.column_names) == {"image", "label", "text"} and validation is None
    assert data[3]["text"].startswith("a scan of ") and data.features["label"].names == ["even one", "odd one"]


@pytest.mark.slow
def test_a_stream_is_read_shuffled(small_clip, parquet):
    run, args = given(small_clip, parquet, *COLUMNS, "--streaming")
    data, _ = training_data(run, args)
    assert isinstance(data, datasets.IterableDataset) and args.perturb_at == "model"
    streamed, stored = [row["label"] for row in data], load_digits("train")["label"][::30]
    assert sorted(streamed) == sorted(label % 2 for label in stored)
    assert streamed != [label % 2 for label in stored]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_steps", "-1"], "needs `--max_steps`"),
        (["--shots", "2"], "leave `--shots` out"),
        (["--eval_strategy", "steps", "--eval_steps", "1"], "leave `--eval_strategy` out"),
    ],
)
def test_what_a_stream_cannot_do_is_said(small_clip, parquet, options, message):
    run, args = given(small_clip, parquet, *COLUMNS, "--streaming", *options)
    with pytest.raises(ValueError, match=message):
        training_data(run, args)


@pytest.mark.slow
def test_a_streamed_training_runs(small_clip, parquet, tmp_path, monkeypatch):
    # datasets waits so many seconds after each pass over parquet files; 40 rows and batches of 128 are ten passes.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    options = ["--model_name_or_path", small_clip, "--dataset", str(parquet), *COLUMNS, "--streaming", *SMALL[2:]]
    assert train_main([*options, "--num_steps", "1", "--targets", "class", "--output_dir", str(tmp_path)]) == 0
    assert "streaming: true" in (tmp_path / "training_args.yaml").read_text()


def test_fewer_classes_than_samples_share_their_targets(small_clip, parquet):
    run, args = given(small_clip, parquet, *COLUMNS)
    data, _ = training_data(run, args)
    assert args.per_device_train_batch_size == 128  # not transformers' 8
    with pytest.warns(UserWarning, match="`targets` is set to class: of 40 samples of a batch and 2 classes"):
        suit_contrastive_loss(data, run, args)
    assert args.targets == "class"
    for options in (["--targets", "diagonal"], ["--objective", "tecoa"]):
        run, args = given(small_clip, parquet, *COLUMNS, *options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            suit_contrastive_loss(data, run, args)
        assert args.targets == "diagonal"


def test_a_small_batch_is_warned_about(small_clip, parquet):
    run, args = given(small_clip, parquet, *COLUMNS, "--per_device_train_batch_size", "8", "--targets", "class")
    with pytest.warns(UserWarning, match="a batch has 8 samples"):
        suit_contrastive_loss(training_data(run, args)[0], run, args)
