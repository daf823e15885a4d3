"""Between two models: the weights, the sweep that goes on where it was, and the program."""

from __future__ import annotations

import copy
import json
import warnings

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.cli import main
from hf_mmcoa.evaluation import ThreatModel, load_result
from hf_mmcoa.models.lora import add_lora, load_adapted, merge
from hf_mmcoa.models.weights import interpolate
from hf_mmcoa.protocols import interpolation
from hf_mmcoa.protocols.interpolation import check_alphas, sweep, write_summary
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

QUICK = {"threat_model": ThreatModel.preset("quick", num_steps=1), "sanity": False, "progress": False}


@pytest.fixture
def robust(tiny_clip):
    """Another model of `tiny_clip`'s architecture."""
    generator = torch.Generator().manual_seed(1)
    other = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))  # far off: sums round
    return other


@pytest.fixture
def dataset():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "car"])})
    rows = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1, 2] * 2}
    return datasets.Dataset.from_dict(rows, features=features)


def weights(model):
    return dict(model.state_dict())


# The weights


def test_the_ends_are_the_two_models_bit_for_bit(tiny_clip, robust):
    for alpha, end in ((0, tiny_clip), (1, robust)):
        mixed = weights(interpolate(tiny_clip, robust, alpha))
        assert all(torch.equal(weight, mixed[name]) for name, weight in weights(end).items())


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.5, -0.5])
def test_every_weight_lies_on_the_line(tiny_clip, robust, alpha):
    before, mixed = copy.deepcopy(weights(tiny_clip)), weights(interpolate(tiny_clip, robust, alpha))
    for name, weight in weights(tiny_clip).items():
        assert torch.equal(weight, before[name])
        assert torch.allclose(mixed[name], (1 - alpha) * weight + alpha * weights(robust)[name], atol=1e-6), name
    assert not torch.equal(mixed["logit_scale"], tiny_clip.logit_scale)


def test_alpha_is_the_scale_of_an_adapter(tiny_clip, images):
    adapted = add_lora(copy.deepcopy(tiny_clip), rank=4, alpha=8)
    with torch.no_grad():
        for weight in adapted.parameters():
            weight.add_(0.1) if weight.requires_grad else None
    mixed = interpolate(tiny_clip, merge(adapted), 0.3)
    for module in adapted.modules():
        if hasattr(module, "scaling"):
            module.scaling["default"] *= 0.3
    scaled = merge(adapted)
    for name, weight in weights(mixed).items():
        assert torch.allclose(weight, weights(scaled)[name], atol=1e-6), name


def test_models_of_different_architecture_are_refused_with_the_difference(tiny_clip):
    def build(**options):
        return build_tiny_clip(["a cat"], **{"image_size": 32, "patch_size": 8, "width": 32, **options})[0]

    one = build()
    with pytest.raises(ValueError, match=r"vision_config\.num_hidden_layers: 2 and 3"):
        interpolate(one, build(layers=3), 0.5)
    with pytest.raises(ValueError, match=r"text_config\.max_position_embeddings: 16 and 8"):
        interpolate(one, build(context_length=8), 0.5)
    heads = build()
    heads.config.vision_config.num_attention_heads = 2  # the same shapes, another function
    with pytest.raises(ValueError, match="num_attention_heads: 4 and 2"):
        interpolate(one, heads, 0.5)
    shapes = build()
    shapes.visual_projection = torch.nn.Linear(32, 8, bias=False)
    with pytest.raises(ValueError, match=r"visual_projection\.weight: \(32, 32\) and \(8, 32\)"):
        interpolate(one, shapes, 0.5)


@pytest.mark.parametrize("alphas", [[], [0.5, 0.5], [float("nan")], [0.0, float("inf")]])
def test_alphas_that_mean_nothing_are_refused(alphas):
    with pytest.raises(ValueError, match="`alphas` must be different finite numbers"):
        check_alphas(alphas)


def test_an_alpha_outside_is_allowed_with_a_warning(tiny_clip, robust):
    with pytest.warns(UserWarning, match=r"alpha -0\.5, 1\.5 lies outside \[0, 1\]"):
        assert check_alphas([1.5, 0.0, -0.5]) == [-0.5, 0.0, 1.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_alphas([0, 1])
    with pytest.raises(ValueError, match="finite"):
        interpolate(tiny_clip, robust, float("nan"))


# The sweep


def test_a_sweep_writes_one_result_an_alpha_and_computes_none_twice(
    tiny_clip, robust, tiny_processor, dataset, tmp_path, monkeypatch
):
    arguments = (tiny_clip, robust, tiny_processor, dataset)
    first = sweep(*arguments, [1, 0], tmp_path, **QUICK)
    assert list(first) == [0, 1] and {file.name for file in tmp_path.iterdir()} == {"alpha-0.json", "alpha-1.json"}
    assert load_result(tmp_path / "alpha-1.json") == json.loads(json.dumps(first[1]))
    assert first[0]["fingerprints"]["model"] != first[1]["fingerprints"]["model"]

    batches = []
    from hf_mmcoa.evaluation import evaluator

    evaluate_batch = evaluator.evaluate_batch
    monkeypatch.setattr(evaluator, "evaluate_batch", lambda *given: batches.append(given[1]) or evaluate_batch(*given))
    again = sweep(*arguments, [0, 0.5, 1], tmp_path, **QUICK)
    assert batches == [0] and again[0] == load_result(tmp_path / "alpha-0.json")
    assert again[0.5]["model"] == "(1 - 0.5) pretrained + 0.5 robust"


def test_a_sweep_of_another_model_into_the_same_folder_is_refused(tiny_clip, robust, tiny_processor, dataset, tmp_path):
    sweep(tiny_clip, robust, tiny_processor, dataset, [0.5], tmp_path, **QUICK)
    with pytest.raises(ValueError, match="holds the result of another evaluation"):
        sweep(robust, tiny_clip, tiny_processor, dataset, [0.5], tmp_path, names=("x", "y"), **QUICK)


def test_candidates_are_made_of_each_mixture(tiny_clip, robust, tiny_processor, dataset, tmp_path):
    seen = []
    sweep(
        *(tiny_clip, robust, tiny_processor, dataset, [0, 1], tmp_path),
        candidates_of=lambda mixture: seen.append(mixture.logit_scale.item()),
        **QUICK,
    )
    assert seen == [tiny_clip.logit_scale.item(), robust.logit_scale.item()]


def test_the_summary_holds_every_number_with_its_interval(tiny_clip, robust, tiny_processor, dataset, tmp_path):
    results = sweep(tiny_clip, robust, tiny_processor, dataset, [0, 0.5], tmp_path, **QUICK)
    files = write_summary(results, tmp_path, ("some/clip", "robust_clip"))
    assert [file.name for file in files] == ["interpolation.json", "interpolation.md", "interpolation.png"]
    summary = json.loads(files[0].read_text())
    assert [point["alpha"] for point in summary["points"]] == [0, 0.5]
    for point in summary["points"]:
        result = load_result(tmp_path / point["result"])
        for name in ("clean_accuracy", "multimodal_accuracy", "worst_case_accuracy_interval"):
            assert point[name] == result[name]
    assert summary["pretrained"] == "some/clip" and summary["attack_spec"] == results[0]["attack_spec"]
    page = files[1].read_text()
    assert "| alpha 0 | alpha 0.5 |" in page and "# Between some/clip and robust\\_clip" in page
    assert "| multimodal, all |" in page and "shared: the worst list of prompts" in page
    assert "6 samples" in page and "(interpolation.png)" in page
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_clean_against_robust_and_every_accuracy_over_alpha(monkeypatch):
    from matplotlib.figure import Figure

    from hf_mmcoa.report import charts

    def one(alpha):
        numbers = {"clean": 0.9 - 0.2 * alpha, "image": 0.5 * alpha, "multimodal": 0.4 * alpha, "text_unseen": 0.1}
        return {f"{name}_accuracy": value for name, value in numbers.items()} | {
            f"{name}_accuracy_interval": [max(value - 0.05, 0), value + 0.05] for name, value in numbers.items()
        }

    figures = []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda self, *given: figures.append(self) or subplots(self, *given))
    series = {alpha: charts.Series(name="x", place=0, results=[one(alpha)]) for alpha in (0, 0.5, 1)}
    assert charts.interpolation_chart(series).startswith(b"\x89PNG")
    tradeoff, curves = figures[0].axes
    assert [text.get_text() for text in tradeoff.texts] == ["0", "0.5", "1"]
    line = tradeoff.lines[0]
    assert np.allclose(line.get_xdata(), [90, 80, 70]) and np.allclose(line.get_ydata(), [0, 20, 40])
    assert tradeoff.get_ylabel() == "accuracy, percent\nmultimodal"
    assert curves.get_legend_handles_labels()[1] == ["clean", "image", "text (unseen)", "multimodal"]


# The program


@pytest.fixture
def command(tiny_clip, robust, tiny_processor, dataset, tmp_path):
    for name, model in (("pretrained", tiny_clip), ("robust", robust)):
        model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    dataset.save_to_disk(tmp_path / "data")
    options = ["--dataset", tmp_path / "data", "--preset", "quick", "--num_steps", 1, "--no_sanity", "--cpu", "--quiet"]
    return list(map(str, ["interpolate", "--pretrained", tmp_path / "pretrained", *options]))


def test_the_whole_program(command, tmp_path, capsys):
    line = [*command, "--robust", str(tmp_path / "robust"), "--output", str(tmp_path / "out")]
    assert main([*line, "--alphas", "0", "1", "--save_alpha", "0.5", "--save", str(tmp_path / "half")]) == 0
    shown = capsys.readouterr().out
    assert "alpha 0" in shown and "multimodal" in shown and "interpolation.png" in shown
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"alpha-0.json", "alpha-1.json", *(f"interpolation.{kind}" for kind in ("json", "md", "png"))}
    assert load_result(tmp_path / "out" / "alpha-0.json")["attack_spec"]["num_steps"] == 1
    half = CLIPModel.from_pretrained(tmp_path / "half")
    ends = [CLIPModel.from_pretrained(tmp_path / name) for name in ("pretrained", "robust")]
    middle = (ends[0].text_projection.weight + ends[1].text_projection.weight) / 2
    assert torch.allclose(half.text_projection.weight, middle, atol=1e-6)
    CLIPProcessor.from_pretrained(tmp_path / "half")


@pytest.mark.slow
def test_the_program_scales_an_adapter(command, tiny_clip, tmp_path):
    adapted = add_lora(copy.deepcopy(tiny_clip), train_logit_scale=True)
    with torch.no_grad():
        for weight in adapted.parameters():
            weight.add_(0.1) if weight.requires_grad else None
    adapted.save_pretrained(tmp_path / "adapter")
    line = [*command, "--adapter", str(tmp_path / "adapter"), "--output", str(tmp_path / "out"), "--alphas", "1"]
    assert main([*line, "--save_alpha", "0.5", "--save", str(tmp_path / "half")]) == 0
    expected = interpolate(tiny_clip, merge(load_adapted(tiny_clip, tmp_path / "adapter")), 0.5)
    half = weights(CLIPModel.from_pretrained(tmp_path / "half"))
    assert all(torch.equal(weight, half[name]) for name, weight in weights(expected).items())
    assert not torch.equal(half["logit_scale"], tiny_clip.logit_scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attacks", "clean"], "no robust accuracy to trade"),
        (["--save_alpha", "0.5"], "belong together"),
        (["--save_alpha", "0.5", "--save", "robust"], "would overwrite one of the models to mix"),
        (["--alphas", "0", "0"], "`alphas` must be different finite numbers"),
    ],
)
def test_what_cannot_work_is_one_line(command, options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--robust", "robust", "--output", "out", *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hf-mmcoa interpolate:") and message in error and not (tmp_path / "out").exists()


def test_models_that_read_otherwise_or_are_built_otherwise_are_refused(command, tiny_processor, tmp_path, capsys):
    def refused(model, processor):
        model.save_pretrained(tmp_path / "other")
        processor.save_pretrained(tmp_path / "other")
        assert main([*command, "--robust", str(tmp_path / "other"), "--output", str(tmp_path / "out")]) == 1
        return capsys.readouterr().err

    other, processor = build_tiny_clip(["a cat"], image_size=16, patch_size=8, width=32)
    assert "vision_config.image_size: 32 and 16" in refused(other, processor)
    bright = copy.deepcopy(tiny_processor)
    bright.image_processor.image_mean = [0.0, 0.0, 0.0]
    plain = CLIPModel.from_pretrained(tmp_path / "robust")
    assert "preprocess their input differently: image_mean" in refused(plain, bright)


def test_a_failed_sanity_check_is_an_exit_status(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        interpolation, "evaluate_robustness", _with_finding(interpolation.evaluate_robustness, "a check")
    )
    line = [*command, "--robust", str(tmp_path / "robust"), "--output", str(tmp_path / "out"), "--alphas", "1"]
    assert main(line) == 3
    assert "alpha 1: sanity check failed: a check: why" in capsys.readouterr().err


def _with_finding(evaluate, check):
    finding = {"check": check, "passed": False, "detail": "why"}
    return lambda *given, **options: evaluate(*given, **options) | {"sanity": [finding]}
