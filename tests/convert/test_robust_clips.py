"""Robust CLIPs by name: their rows, each published form built from a small config, and faults that must be errors."""

from __future__ import annotations

import http.server
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import CLIPModel

import hf_mmcoa
from hf_mmcoa.attacks.settings import pixels
from hf_mmcoa.convert import robust_clips as rows
from hf_mmcoa.convert.checkpoint import LIMIT, convert
from hf_mmcoa.convert.load import load_model, load_robust, load_whole
from hf_mmcoa.convert.robust_clips import find_robust_clip, parse_robust_clips, robust_clips
from hf_mmcoa.models.encoder import DualEncoder

RUNNABLE = [row for row in robust_clips() if not row.refused]
WORDS = ["a photo of a cat", "a red car", "feline"]


# The published forms, spelt out here and not taken from the code under test

RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def openai_weights(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The model's weights as OpenCLIP and OpenAI name them: query, key and value packed, projections transposed."""
    found: dict[str, torch.Tensor] = {}
    given = {name: weight for name, weight in model.state_dict().items() if "position_ids" not in name}
    for name, weight in given.items():
        if name in ("visual_projection.weight", "text_projection.weight"):
            found["visual.proj" if name[0] == "v" else "text_projection"] = weight.T.contiguous()
            continue
        if packed := re.search(r"self_attn\.([qkv])_proj\.(weight|bias)", name):
            if packed[1] != "q":
                continue
            weight = torch.cat([given[name.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            name = name.replace(packed[0], f"attn.in_proj_{packed[2]}")
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        found[name] = weight
    return found


def image_tower(model: CLIPModel) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("visual."): weight
        for name, weight in openai_weights(model).items()
        if name.startswith("visual.")
    }


def training_dictionary(model: CLIPModel) -> dict[str, object]:
    """As the scripts of TeCoA, TGA-ZSR and QT-AFT save it."""
    return {
        "epoch": 2,
        "state_dict": {},
        "add_prompter": {"prompt": torch.empty(1, 0, 32)},
        "vision_encoder_state_dict": image_tower(model),
        "best_acc1": np.mean([40.0, 41.0]),
    }


def open_clip_config(model: CLIPModel) -> dict[str, object]:
    vision, text = model.config.vision_config, model.config.text_config
    return {
        "model_cfg": {
            "embed_dim": model.config.projection_dim,
            "quick_gelu": vision.hidden_act == "quick_gelu",
            "vision_cfg": {
                "image_size": vision.image_size,
                "layers": vision.num_hidden_layers,
                "width": vision.hidden_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
                "mlp_ratio": vision.intermediate_size / vision.hidden_size,
                "patch_size": vision.patch_size,
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "width": text.hidden_size,
                "heads": text.num_attention_heads,
                "layers": text.num_hidden_layers,
                "mlp_ratio": text.intermediate_size / text.hidden_size,
            },
        },
        "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
    }


def publish(model: CLIPModel, row: rows.RobustClip, folder: Path) -> Path:
    """Save a model in the form that a row says; returns the file or folder."""
    folder.mkdir()
    if row.layout == "CLIPModel folder":
        model.save_pretrained(folder)
        return folder
    if row.layout == "OpenCLIP folder":
        (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(model)))
        torch.save(openai_weights(model), folder / "open_clip_pytorch_model.bin")
        return folder
    scripts = row.method in ("QT-AFT", "TGA-ZSR") or row.name.endswith("-authors")
    torch.save(training_dictionary(model) if scripts else image_tower(model), folder / "weights.pt")
    return folder / "weights.pt"


def with_activation(model: CLIPModel, activation: str) -> CLIPModel:
    """A model of the same weights with another activation."""
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.vision_config.hidden_act = config.text_config.hidden_act = activation
    other = CLIPModel(config).eval()
    other.load_state_dict(model.state_dict())
    return other


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
    thread = threading.Thread(target=server.serve_forever, daemon=True)
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
