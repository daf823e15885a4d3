"""To the Hub and back, read by a process that knows nothing but the Hub's address."""

from __future__ import annotations

import io
import re

import datasets
import pytest
from PIL import Image
from safetensors.torch import load_file

from hf_mmcoa.evaluation.provenance import model_fingerprint
from hf_mmcoa.hub.model_folder import read_checkpoint
from hf_mmcoa.hub.push import push

pytestmark = pytest.mark.slow

FINGERPRINT = "from hf_mmcoa.evaluation.prepare import model_fingerprint as mark\n"


def code_blocks(card):
    return re.findall(r"^```python\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL)


def test_a_model_its_branches_and_the_lines_of_its_card(online, checkpoint, elsewhere, tmp_path):
    push(checkpoint, "user/robust-clip")
    weights = model_fingerprint(read_checkpoint(checkpoint).model())
    (checkpoint / "training_args.yaml").write_text("epsilon: 0.2\n")
    push(checkpoint, "user/robust-clip", revision="other")
    first = online.repositories["models", "user/robust-clip"].branches["main"]
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    (usage,) = code_blocks((checkpoint / "README.md").read_text())
    shown = elsewhere(
        FINGERPRINT
        + f"""
from huggingface_hub import ModelCard, hf_hub_download, model_info
from transformers import CLIPModel
from hf_mmcoa.models.encoder import load_clip as load
print("from_pretrained", mark(CLIPModel.from_pretrained("user/robust-clip")))
print("load", mark(load("user/robust-clip")[0]))
print("commit", mark(CLIPModel.from_pretrained("user/robust-clip", revision={first!r})))
for revision in ("main", "other"):
    file = hf_hub_download("user/robust-clip", "training_args.yaml", revision=revision)
    print(revision, open(file).read().split()[1])
card = ModelCard.load("user/robust-clip")
card.validate()
print("metrics", len(card.data.eval_results))
names = [file.rfilename for file in model_info("user/robust-clip").siblings]
print("pickles", [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pth"))])
{usage}
"""
    )
    lines = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    assert lines["from_pretrained"] == lines["load"] == lines["commit"] == weights
    assert (lines["main"], lines["other"]) == ("squares", "0.2")
    assert lines["metrics"] == "5" and lines["pickles"] == "[]" and "'label': 'cat'" in shown


def test_a_benchmark_from_the_hub(hub, elsewhere):
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    rows = {"image": [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")] * 2, "label": [0, 1, 0, 1]}
    content = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(content)
    hub.create("datasets", "user/small", False, {"data/test-00000-of-00001.parquet": content.getvalue()})
    shown = elsewhere(
        """
import datasets
from hf_mmcoa import load_benchmark
data = datasets.load_dataset("user/small", split="test")
print(data.features["label"].names, data["label"][:], data[0]["image"].getpixel((0, 0)))
data = load_benchmark("user/small")
print(data.features["label"].names, len(data))
"""
    )
    assert shown.splitlines() == ["['cat', 'dog'] [0, 1, 0, 1] (255, 0, 0)", "['cat', 'dog'] 4"]


def test_a_private_repository_opens_with_its_owner_s_token_only(online, checkpoint, elsewhere):
    push(checkpoint, "user/secret", private=True)
    shown = elsewhere(
        """
from transformers import CLIPModel
for token in (False, "hf_stranger", "hf_owner"):
    try:
        print(type(CLIPModel.from_pretrained("user/secret", token=token)).__name__)
    except OSError as error:
        print("refused:", " ".join(str(error).split()))
"""
    )
    nobody, stranger, owner = shown.splitlines()
    for refusal in (nobody, stranger):
        assert refusal.startswith("refused: user/secret is not a local folder") and "token" in refusal
    assert owner == "CLIPModel"


def test_an_adapter_and_the_merged_model(online, adapter, elsewhere, tmp_path):
    push(tmp_path / "base", "user/base")
    push(adapter, "user/adapter", base_model="user/base")
    (usage,) = code_blocks((adapter / "README.md").read_text())
    push(adapter, "user/merged", merge=True)
    shown = elsewhere(
        FINGERPRINT
        + f"""
import torch
from transformers import CLIPModel
{usage}
base, merged = CLIPModel.from_pretrained("user/base"), CLIPModel.from_pretrained("user/merged")
pixels = torch.rand(2, 3, 32, 32)
outputs = [each.eval().get_image_features(pixel_values=pixels).pooler_output for each in (model, merged, base)]
distances = [(outputs[0] - other).abs().max().item() for other in outputs[1:]]
print("merged", distances[0] < 1e-5, "base", distances[1] < 1e-3)
print("processor", type(processor).__name__)
"""
    )
    assert shown.splitlines()[-2:] == ["merged True base False", "processor CLIPProcessor"]
    assert (
        load_file(adapter / "merged" / "model.safetensors").keys()
        == load_file(tmp_path / "base" / "model.safetensors").keys()
    )
