"""Robust CLIPs by name: their rows, each published form built from a small config, and faults that must be errors."""

from __future__ import annotations

import argparse
import http.server
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from published_forms import image_tower, open_clip_config, publish, with_activation
from transformers import CLIPModel

import hf_mmcoa
from hf_mmcoa.attacks.settings import pixels
from hf_mmcoa.cli import demo, main
from hf_mmcoa.convert import robust_clips as rows
from hf_mmcoa.convert.checkpoint import LIMIT, convert
from hf_mmcoa.convert.load import load_model, load_robust, load_whole
from hf_mmcoa.convert.robust_clips import find_robust_clip, parse_robust_clips, robust_clips
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.models.lora import add_lora

RUNNABLE = [row for row in robust_clips() if not row.refused]
SMALL = ["--dataset", "digits", "--max_samples", "4", "--preset", "quick", "--cpu", "--no_sanity", "--quiet"]
WORDS = ["a photo of a cat", "a red car", "feline"]


@pytest.fixture
def clips(tiny_clip, tiny_processor, tmp_path):
    """Make the base of a row, a folder, and the robust model that was trained from it, both with its activation."""

    def make(row: rows.RobustClip) -> tuple[Path, CLIPModel]:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in tiny_clip.parameters():  # large weights, so that each matters
                weight.copy_(torch.randn(weight.shape, generator=generator) / 3)
        base = with_activation(tiny_clip, row.activation)
        base.save_pretrained(tmp_path / "base")
        tiny_processor.save_pretrained(tmp_path / "base")
        robust = with_activation(base, row.activation)
        trained = robust.vision_model if row.layout == "image tower" else robust
        with torch.no_grad():
            for weight in trained.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) / 50)
        return tmp_path / "base", robust

    return make


def difference(one, other, processor) -> float:
    """The largest difference between coordinates of the embeddings of random images and of texts."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoders = [DualEncoder(model, processor) for model in (one, other)]
    with torch.no_grad():
        pixels_differ = encoders[0].encode_images(images) - encoders[1].encode_images(images)
        words_differ = encoders[0].encode_texts(WORDS) - encoders[1].encode_texts(WORDS)
    return float(torch.stack([pixels_differ.abs().max(), words_differ.abs().max()]).max())


@pytest.mark.few(4)
@pytest.mark.parametrize("row", RUNNABLE, ids=lambda row: row.name)
def test_the_published_form_of_each_row_gives_the_same_embeddings(row, clips, tiny_processor, tmp_path):
    base, robust = clips(row)
    model, processor = load_robust(row.name, weights=publish(robust, row, tmp_path / "source"), base=base)
    assert difference(robust, model, processor) < LIMIT
    assert difference(CLIPModel.from_pretrained(base), model, processor) > 0.01  # the base is another model
    assert processor.tokenizer.get_vocab() == tiny_processor.tokenizer.get_vocab()
    assert processor.image_processor.crop_size["height"] == 32


# Faults that would be a worse number

FARE = find_robust_clip("fare4-vit-b-32")
FOLDER = find_robust_clip("fare4-vit-b-32-laion2b")
LEAF = find_robust_clip("leaf-rho50-vit-l-14")
OTHER = {"gelu": "quick_gelu", "quick_gelu": "gelu"}


@pytest.mark.parametrize("row", [FARE, FOLDER, LEAF], ids=lambda row: row.layout)
def test_a_wrong_activation_is_an_error(row, clips, tmp_path):
    base, robust = clips(row)
    wrong = OTHER[row.activation]
    if row.layout == "image tower":  # it takes its activation from the base
        with_activation(CLIPModel.from_pretrained(base), wrong).save_pretrained(base)
    source = publish(with_activation(robust, wrong), row, tmp_path / "source")
    with pytest.raises(ValueError, match=rf"{row.name} was trained with {row.activation}.*image encoder {wrong}"):
        load_robust(row.name, weights=source, base=base)
    model, processor = load_robust(row.name, weights=source, base=base, activation=wrong)  # said, so it is taken
    assert difference(robust, model, processor) > 10 * LIMIT
    if row.layout == "OpenCLIP folder":  # a configuration that forgot it: `activation` puts it right
        model, processor = load_robust(row.name, weights=source, base=base, activation=row.activation)
        assert difference(robust, model, processor) < LIMIT


def test_a_text_encoder_of_another_activation_is_an_error(clips, tmp_path):
    base, robust = clips(FARE)
    other = CLIPModel.from_pretrained(base)
    other.config.text_config.hidden_act = "gelu"
    other.save_pretrained(base)
    with pytest.raises(ValueError, match=r"text encoder gelu"):
        load_robust(FARE.name, weights=publish(robust, FARE, tmp_path / "source"), base=base)


@pytest.mark.parametrize(
    ("row", "left_out", "named"),
    [
        (FARE, ("proj",), "image projection"),
        (FOLDER, ("transformer.", "token_", "positional", "ln_final", "text_"), "text tower, text projection"),
        (FOLDER, ("logit_scale",), "logit scale"),
        (FOLDER, ("visual.",), "image tower, image projection"),
    ],
)
def test_a_missing_half_is_not_taken_from_the_base(row, left_out, named, clips, tmp_path):
    base, robust = clips(row)
    source = publish(robust, row, tmp_path / "source")
    file = source if source.is_file() else source / "open_clip_pytorch_model.bin"
    torch.save({name: one for name, one in torch.load(file).items() if not name.startswith(left_out)}, file)
    with pytest.raises(ValueError, match=rf"{row.name} was published with its own {named}, and"):
        load_robust(row.name, weights=source, base=base)


def test_a_base_that_it_was_not_trained_from_is_an_error(clips, tmp_path):
    base, robust = clips(FARE)
    source = publish(robust, FARE, tmp_path / "source")
    model = CLIPModel.from_pretrained(base)
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding.weight)
    model.save_pretrained(base)
    with pytest.raises(ValueError, match=r"fare4-vit-b-32: .* is the source really fine-tuned from it\? Its base is"):
        load_robust(FARE.name, weights=source, base=base)


@pytest.mark.parametrize("name", ["fare4-convnext-base-w-laion2b", "tecoa4-convnext-base-w-laion2b"])
def test_a_convolutional_tower_is_refused_by_name(name, tmp_path):
    with pytest.raises(ValueError, match=rf"robust:{name} \(chs20/.*\) cannot be run here: its image tower is a Conv"):
        load_model(f"robust:{name}")
    with pytest.raises(ValueError, match="ConvNeXt"):
        convert(f"robust:{name}", tmp_path / "out")


def test_delta_clip_is_refused_by_name_and_so_is_its_image_tower(clips, tmp_path):
    """Its text encoder is its own, so its image encoder with the text encoder of another CLIP would be at chance."""
    base, robust = clips(FOLDER)
    with pytest.raises(ValueError, match=r"delta_clip_l14_224\) cannot be run here: its text tower reads BERT's"):
        load_robust("delta-vit-l-14", weights=publish(robust, FOLDER, tmp_path / "source"), base=base)
    config = open_clip_config(robust)  # options that the authors' code has, and CLIPModel has not
    config["model_cfg"]["text_cfg"] |= {"vocab_path": "vocab.txt", "no_causal_mask": True}
    config["model_cfg"]["vision_cfg"] |= {"no_ln_pre": True}
    (tmp_path / "source" / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cannot do: no_ln_pre = True, vocab_path = 'vocab.txt', no_causal_mask"):
        load_model(tmp_path / "source", processor=base)
    without = {name: one for name, one in image_tower(robust).items() if not name.startswith("ln_pre")}
    torch.save(without, tmp_path / "tower.pt")
    with pytest.raises(ValueError, match=r"missing: visual.ln_pre.weight, visual.ln_pre.bias"):
        load_model(tmp_path / "tower.pt", base=base)


# Rows


def test_the_rows_are_those_of_the_readme_of_robustvlm():
    """Percent, clean and at 1, 2 and 4 / 255, as its README prints them (commit 7de10ee)."""
    printed = {
        "tecoa1-vit-b-32": (53.1, 38.8, 26.6, 9.6),
        "fare1-vit-b-32": (60.5, 38.0, 20.1, 2.9),
        "tecoa4-vit-b-32": (44.0, 38.2, 33.1, 23.6),
        "fare4-vit-b-32": (48.6, 40.6, 33.7, 21.9),
        "fare4-vit-b-16-laion2b": (56.6, 47.7, 39.2, 23.5),
        "tecoa2-vit-l-14": (60.0, None, 43.6, 27.0),
        "fare2-vit-l-14": (67.0, None, 43.1, 20.5),
        "tecoa4-vit-l-14": (54.2, None, 42.3, 31.9),
        "fare4-vit-l-14": (61.1, None, 45.9, 32.4),
    }
    for name, (clean, *robust) in printed.items():
        (found,) = find_robust_clip(name).published
        assert len(found.data) == 13 and found.clean == pytest.approx(clean / 100)
        expected = {f"{e}/255": value / 100 for e, value in zip((1, 2, 4), robust, strict=True) if value is not None}
        assert found.robust == pytest.approx(expected)


def test_each_row_is_plausible():
    assert len(robust_clips()) >= 28 and hf_mmcoa.robust_clips() == robust_clips()
    for row in robust_clips():
        assert 1 / 255 <= pixels("epsilon", row.epsilon) <= 8 / 255, row.name
        assert row.base is None or re.fullmatch(r"(openai|laion)/[\w.-]+", row.base), row.name
        openai = row.base is not None and row.base.startswith("openai/")
        assert row.refused or (row.activation == "quick_gelu") == openai, (
            row.name
        )  # LAION's bases are trained with GELU
        for one in row.published:
            at = sorted(one.robust, key=lambda epsilon: pixels("epsilon", epsilon))
            accuracies = [one.clean, *(one.robust[epsilon] for epsilon in at)]
            assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] > 0, row.name


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no robust CLIP 'FARE4-ViT-B32'. Did you mean fare4-vit-b-32"):
        load_model("robust:FARE4-ViT-B32")


ROW = "rows: [{name: a, method: m, layout: image tower, base: b, activation: gelu, epsilon: 1/255, hub_id: x/y}]"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("method: m", "methods: m", r"robust CLIP 'a': .*unexpected keyword argument 'methods'.*The fields are name"),
        ("method: m, ", "", r"'method'"),
        ("image tower", "tower", r"`layout` must be one of image tower, .*got 'tower'"),
        ("gelu", "relu", r"`activation` must be one of"),
        ("hub_id: x/y", "hub_id: x/y, url: 'https://x'", "one of `hub_id` and `url`"),
        ("hub_id: x/y", "revision: main", "one of `hub_id` and `url`"),
        ("base: b", "base: null", "needs a `base`"),
    ],
)
def test_a_wrong_row_is_named(old, new, text):
    assert parse_robust_clips(ROW)[0].address == "x/y"
    with pytest.raises(ValueError, match=text):
        parse_robust_clips(ROW.replace(old, new))


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'a' occurs twice"):
        parse_robust_clips(ROW.replace("}]", "}, " + ROW.removeprefix("rows: [")))


# Where the weights come from


@pytest.fixture
def address(monkeypatch, tmp_path):
    """Serve the files of a folder on loopback; returns its URL. torch's folder of checkpoints is empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path / "served"), **kwargs)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def change_row(monkeypatch, row, **fields):
    changed = replace(row, **fields)
    monkeypatch.setattr(rows, "robust_clips", lambda: (changed,))


def test_a_file_outside_the_hub_is_downloaded_once(address, clips, tmp_path, monkeypatch):
    base, robust = clips(FARE)
    publish(robust, FARE, tmp_path / "source").replace(tmp_path / "served" / "fare.pt")
    change_row(monkeypatch, FARE, url=f"{address}/fare.pt", base=str(base))
    model, processor = load_whole("robust:fare4-vit-b-32")
    assert difference(robust, model, processor) < LIMIT
    assert (tmp_path / "torch/hub/checkpoints/fare4-vit-b-32.pt").is_file()
    (tmp_path / "served" / "fare.pt").unlink()
    load_model("robust:fare4-vit-b-32")


@pytest.mark.few(1)
@pytest.mark.parametrize("obstacle", ["gone", "offline", "by hand"])
def test_a_file_that_cannot_be_downloaded_may_be_saved_by_hand(obstacle, address, tmp_path, monkeypatch):
    change_row(monkeypatch, FARE, url=f"{address}/fare.pt", by_hand=obstacle == "by hand")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", obstacle == "offline")
    with pytest.raises(OSError, match=r"Download it from http.*/fare.pt and save it as .*fare4-vit-b-32.pt"):
        load_model("robust:fare4-vit-b-32")
    assert not list(tmp_path.rglob("fare4-vit-b-32*"))


def test_a_base_that_is_not_here_is_named(clips, tmp_path, monkeypatch):
    _, robust = clips(FARE)
    change_row(monkeypatch, FARE, base=str(tmp_path / "nothing"))
    source = publish(robust, FARE, tmp_path / "source")
    with pytest.raises(OSError, match=r"robust:fare4-vit-b-32 needs .*nothing, which cannot be loaded: name with"):
        load_robust("fare4-vit-b-32", weights=source)


# A name in place of a folder


@pytest.fixture
def fetched(clips, tmp_path, monkeypatch):
    """Let `robust:fare4-vit-b-32` lie on this machine; returns its base and the model itself."""
    base, robust = clips(FARE)
    source = publish(robust, FARE, tmp_path / "source")
    change_row(monkeypatch, FARE, base=str(base))
    monkeypatch.setattr("hf_mmcoa.convert.robust_build._fetch", lambda row: source)
    return base, robust


def test_a_robust_clip_is_converted_by_name(fetched, tmp_path):
    _, robust = fetched
    done = convert("robust:fare4-vit-b-32", tmp_path / "out")
    assert done.source == "robust:fare4-vit-b-32" and done.from_base == ("text tower", "text projection", "logit scale")
    written = CLIPModel.from_pretrained(tmp_path / "out")
    for name, weight in robust.state_dict().items():
        assert torch.equal(written.state_dict()[name], weight), name
    with pytest.raises(ValueError, match=r"convert 'robust:fare4-vit-b-32' to 'clip' first"):
        convert("robust:fare4-vit-b-32", tmp_path / "other", to="open_clip")


def test_an_adapter_finds_its_base_by_name(fetched, tmp_path):
    _, robust = fetched
    model, processor = load_whole("robust:fare4-vit-b-32")
    add_lora(model, rank=2).save_pretrained(tmp_path / "adapter")  # untrained, so it changes nothing
    processor.save_pretrained(tmp_path / "adapter")
    adapted, processor = load_model(tmp_path / "adapter")
    assert difference(robust, adapted, processor) < LIMIT


# The commands


@pytest.mark.slow
def test_the_demo_takes_a_name(fetched):
    base, robust = fetched
    args = argparse.Namespace(model=["robust:fare4-vit-b-32", str(base)], dataset="digits", data_dir=None, epsilon=None)
    model, processor = demo.setup(args).models["robust:fare4-vit-b-32"]
    assert difference(robust, model, processor) < LIMIT


@pytest.mark.slow
def test_interpolate_takes_a_name(fetched, tmp_path, capsys):
    base, robust = fetched
    mixing = [
        "--pretrained",
        str(base),
        "--robust",
        "robust:fare4-vit-b-32",
        "--alphas",
        "1",
        "--output",
        str(tmp_path),
    ]
    saving = ["--save", str(tmp_path / "mixed"), "--save_alpha", "1"]
    assert main(["interpolate", *mixing, *saving, *SMALL, "--attacks", "clean", "image"]) == 0, capsys.readouterr().err
    model, processor = load_model(tmp_path / "mixed")
    assert difference(robust, model, processor) < LIMIT


@pytest.mark.slow
def test_train_takes_a_name(fetched, tmp_path, capsys):
    """One step at a learning rate of zero leaves the robust model as it was."""
    _, robust = fetched
    steps = ["--max_steps", "1", "--learning_rate", "0", "--per_device_train_batch_size", "4", "--num_steps", "1"]
    data = ["--dataset", "digits", "--use_cpu", "--max_test_samples", "4", "--preset", "quick", "--objective", "tecoa"]
    output = ["--output_dir", str(tmp_path / "trained")]
    done = main(["train", "--model_name_or_path", "robust:fare4-vit-b-32", *steps, *data, *output])
    assert done == 0, capsys.readouterr().err
    model, processor = load_model(tmp_path / "trained")
    assert difference(robust, model, processor) < LIMIT
