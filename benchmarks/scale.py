"""What processes of a training send each other, counted with 2, 4 and 8, and steps on up to 64 GPUs, predicted.

    python benchmarks/scale.py            # about 4 CPU minutes
    python benchmarks/scale.py --predict  # the second part alone, seconds

The count is checked: its bytes have to be those of a formula, and losses and gradients those of one process. The
prediction is not: no GPU has run it. `prediction` says what it is made of.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import communication
import datasets
import measure
import numpy as np
import prediction
import torch
from PIL import Image
from safetensors.torch import load_file
from subject import Subject, subject

from hf_mmcoa.data.rows import ImageRows

PROCESSES = (2, 4, 8)
MACHINES = [(1, None), (2, None), (4, None), (8, None), (64, "100 Gb/s"), (64, "8 x 400 Gb/s")]
"""GPUs, and what connects their machines of 8."""
NETWORKS = {"100 Gb/s": 12.5e9, "8 x 400 Gb/s": 400e9}
"""Bytes that a machine sends to others in one second; the faster is that of NVIDIA's DGX H100 (its data sheet)."""
PLANNED = (8, 64)
PICTURE, DECODED = (500, 375), 64
"""Size of a JPEG as ImageNet's are, and how many are decoded to see how fast a core is."""
LINKS = ("nvlink", "pcie")
NAMES = {"vit-b-32": "ViT-B/32", "vit-l-14": "ViT-L/14"}
RATE, RATE_BATCH = 1e-5, 128  # AdamW, of TeCoA and FARE: the commands of RobustVLM's README
CLASSES = 1000
IMAGES = 1_281_167  # of ImageNet's training split
EPOCHS = 2  # those of TeCoA and FARE: RobustVLM's README
LARGEST_HEADERS = 0.03
"""Of the bytes sent, at most those of gloo's own messages and headers."""
ALIKE = 1e-4
"""Largest relative difference of losses and gradients from one process: rounding."""
MEMORY = 80e9
CASES = [
    ("vit-b-32", 64, 3),
    ("vit-b-32", 256, 3),
    ("vit-l-14", 64, 3),
    ("vit-l-14", 256, 3),
    ("vit-b-32", 256, 10),
    ("vit-l-14", 64, 10),
]
"""Shape, batch of one GPU, attack steps: 3 are those of `attack_schedule=fast`."""


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "scale", runs=1)
    options.add_argument("--predict", action="store_true", help="count nothing: keep what the output file has of it")
    options.add_argument("--processes", type=int, nargs="+", default=list(PROCESSES))
    options.add_argument("--utilisation", type=float, default=prediction.Assumptions.utilisation)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    if options.predict:
        counted = json.loads(options.output.read_text(encoding="utf-8"))["counted"]
    else:
        counted = count([2] if options.quick else options.processes)
    given = prediction.Assumptions(utilisation=options.utilisation)
    result = measure.report(
        "scale",
        [],
        quick=options.quick,
        settings={
            "cards": {name: dataclasses.asdict(card) for name, card in prediction.CARDS.items()},
            "assumptions": dataclasses.asdict(given),
            "networks": NETWORKS,
            "classes": CLASSES,
            "images": IMAGES,
            "epochs": EPOCHS,
        },
        counted=counted,
        decoded_a_second=decoding(),
        predicted=predictions(given, options.quick),
        target="payload as computed, nothing sent beyond it but headers, losses and gradients of one process",
        met=None if options.quick else all(each["holds"] for each in counted),
    )
    measure.save(result, options.output)
    print(show(result))
    if result["met"] is False:
        sys.exit(1)


def count(processes: list[int]) -> list[dict[str, Any]]:
    """Train with each number of processes, and compare with one and with the formula."""
    with tempfile.TemporaryDirectory() as folder:
        one = train(Path(folder, "1"), 1)
        return [compared(one, train(Path(folder, str(number)), number)) for number in processes]


def train(folder: Path, processes: int) -> dict[str, Any]:
    """Return what `communication` finds with so many processes, and the gradients."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*(command if processes > 1 else [sys.executable]), communication.__file__, str(folder)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{processes} processes failed: {done.stderr[-2000:]}")
    return found_in(folder)


def found_in(folder: Path) -> dict[str, Any]:
    """Return what `communication` has written into a folder."""
    found = json.loads((folder / "communication.json").read_text(encoding="utf-8"))
    return {**found, "gradients": load_file(folder / "gradients.safetensors")}


def compared(one: dict[str, Any], several: dict[str, Any]) -> dict[str, Any]:
    """Return the counts, what the formula says, and how far losses and gradients are from those of one process."""
    processes, formula = several["processes"], communication.of_step(**several["made_of"])
    expected = communication.sent(formula, processes)
    losses = max(abs(b / a - 1) for a, b in zip(one["losses"], several["losses"], strict=True))
    whole, parts = (
        torch.cat([each["gradients"][name].flatten() for name in sorted(one["gradients"])]) for each in (one, several)
    )
    gradients = ((parts - whole).norm() / whole.norm()).item()
    headers = several["sent"] / expected - 1
    return {
        "processes": processes,
        "made_of": several["made_of"],
        "payload": several["payload"],
        "payload_computed": formula,
        "sent": several["sent"],
        "sent_computed": expected,
        "headers": headers,
        "losses_differ": losses,
        "gradients_differ": gradients,
        "holds": several["payload"] == formula and 0 <= headers < LARGEST_HEADERS and max(losses, gradients) < ALIKE,
    }


def decoding() -> float:
    """Return how many JPEGs a core decodes, resizes and crops for a ViT-B/32 in one CPU second."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (DECODED, 48, 64, 3), np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    stored = []
    for picture in coarse:
        file = io.BytesIO()
        Image.fromarray(picture).resize(PICTURE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        stored.append({"bytes": file.getvalue(), "path": None})
    data = datasets.Dataset.from_dict({"image": stored, "label": [0] * DECODED}, features=features)
    rows = ImageRows(data, perturb_at="model", image_size=224)
    return DECODED / measure.timed(lambda: rows.__getitems__(list(range(DECODED))))[1]["cpu"]


def predictions(given: prediction.Assumptions, quick: bool) -> list[dict[str, Any]]:
    """Return a row for each case, card, link and number of GPUs."""
    measured = {}
    for shape in dict.fromkeys(shape for shape, _, _ in CASES):
        measured[shape] = subject(quick=True) if quick else subject(classes=CLASSES, shape=shape)
    return [row for case in CASES for row in predicted(measured[case[0]], case, given)]


def predicted(measured: Subject, case: tuple[str, int, int], given: prediction.Assumptions) -> list[dict[str, Any]]:
    """Return a row for each card, link and number of GPUs."""
    shape, batch_size, num_steps = case
    step = prediction.of_step(measured, batch_size, num_steps)
    in_pieces = step.bytes_held > MEMORY
    if in_pieces:
        step = prediction.in_pieces(step)
    rows = []
    for name, card in prediction.CARDS.items():
        for link in LINKS:
            for gpus, network in MACHINES:
                given = dataclasses.replace(given, network=NETWORKS.get(network or "", given.network))
                row = {"shape": shape, "batch_size": batch_size, "num_steps": num_steps, "card": name, "link": link}
                row |= {"gpus": gpus, "network": network, "in_pieces": in_pieces, "memory": step.bytes_held}
                row |= prediction.seconds(step, gpus, card, link, given)
                row |= {"sent": communication.sent(step.payload, gpus), "multiplications": sum(step.compute.values())}
                row["hours"] = EPOCHS * IMAGES / row["images_a_second"] / 3600
                row["optimizer_steps"] = EPOCHS * IMAGES // (gpus * batch_size)
                row["learning_rate"] = RATE * (gpus * batch_size / RATE_BATCH) ** 0.5
                rows.append(row)
    return rows


def header(columns: list[str]) -> list[str]:
    """Return the first lines of a table."""
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def markdown_counted(result: dict[str, Any]) -> str:
    """The table of what was counted, in bytes a step and process."""
    lines = header(
        ["processes", *communication.KINDS, "sent", "computed", "losses, gradients differ by"],
    )
    for one in result["counted"]:
        payload = " | ".join(f"{one['payload'][kind]:,.0f}" for kind in communication.KINDS)
        differ = f"{one['losses_differ']:.0e}, {one['gradients_differ']:.0e}"
        sent = f"{one['sent']:,.0f} | {one['sent_computed']:,.0f}"
        lines.append(f"| {one['processes']} | {payload} | {sent} | {differ} |")
    return "\n".join(lines)


def markdown_predicted(result: dict[str, Any], card: str = "H100 SXM") -> str:
    """The table of what is predicted for a card, NVLink and PCIe side by side."""
    columns = ["model", "batch a GPU", "attack steps", "GPUs", "step, ms", "waiting for others", "efficiency"]
    lines = header([*columns, "with PCIe", "images/s", "GiB a GPU"])
    rows = [row for row in result["predicted"] if row["card"] == card]
    for row, pcie in zip(*([row for row in rows if row["link"] == link] for link in LINKS), strict=True):
        batch = f"{row['batch_size']}{' in 4 pieces' if row['in_pieces'] else ''}"
        lines.append(
            f"| {NAMES[row['shape']]} | {batch} | {row['num_steps']} | {machines(row)} | {1000 * row['step']:,.0f} "
            f"| {row['communication_share']:.0%} | {row['efficiency']:.0%} | {pcie['efficiency']:.0%} "
            f"| {row['images_a_second']:,.0f} | {row['memory'] / 2**30:.0f} |"
        )
    return "\n".join(lines)


def machines(row: dict[str, Any]) -> str:
    """Return how many GPUs, and over which network."""
    return f"{row['gpus']}, {row['network']}" if row["network"] else str(row["gpus"])


def markdown_plan(result: dict[str, Any]) -> str:
    """The table of what to expect of two epochs of ImageNet on 8 and 64 GPUs."""
    columns = ["model", "batch a GPU", "GPUs", "learning rate", "optimizer steps", "minutes, H100", "minutes, A100"]
    lines = header([*columns, "cores that decode, H100"])
    rows = [row for row in result["predicted"] if row["link"] == "nvlink" and row["num_steps"] == 3]
    h100, a100 = ([row for row in rows if row["card"] == name] for name in prediction.CARDS)
    for row, other in zip(h100, a100, strict=True):
        if row["gpus"] in PLANNED:
            lines.append(
                f"| {NAMES[row['shape']]} | {row['batch_size']} | {machines(row)} "
                f"| {row['learning_rate']:.1e} | {row['optimizer_steps']:,} "
                f"| {60 * row['hours']:,.1f} | {60 * other['hours']:,.1f} "
                f"| {row['images_a_second'] / result['decoded_a_second']:,.0f} |"
            )
    return "\n".join(lines)


def show(result: dict[str, Any]) -> str:
    """The tables for people."""
    counted = f"counted, bytes a step and process:\n{markdown_counted(result)}"
    predicted = f"PREDICTED, not measured, H100 SXM:\n{markdown_predicted(result)}"
    plan = f"PREDICTED, not measured, {EPOCHS} epochs of ImageNet:\n{markdown_plan(result)}"
    return "\n\n".join([counted, predicted, plan, measure.verdict(result, "counted")])


if __name__ == "__main__":
    main()
