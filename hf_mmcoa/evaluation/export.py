"""The attacked images and texts of an evaluation, and every prediction, as files for other programs.

Each batch writes its images as soon as it is attacked, so that nothing waits in memory, an interrupted evaluation goes
on where it was, and several processes write what one would have written.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from ..attacks.class_prompts import correct
from ..io import differences, read_json, remove_scratch, write_bytes, write_json, write_text
from .attack_names import AttackName
from .misled import Misled, record
from .partial import header_differences
from .prepare import Evaluation

ImageFormat = Literal["png", "safetensors"]
FOLDERS = {"image": "images", "multimodal": "images_multimodal"}
TABLE = "predictions.parquet"
TEXTS = "texts.json"
STATE = "export.json"
NOTE = (
    "PNG has 8 bits a channel. Rounding to them may undo an attack, or complete one: `after_rounding` holds what was "
    "measured on the rounded images."
)


class Export:
    """A folder of attacked images and texts.

    Args:
        folder: new or empty, or one that the same evaluation began or finished.
        images: "png", rounded to 8 bits, in a folder a class, or "safetensors", exact, in a file a batch.

    Raises:
        ValueError: if `images` is neither.
    """

    def __init__(self, folder: str | Path, images: ImageFormat = "png") -> None:
        if images not in get_args(ImageFormat):
            raise ValueError(f"`export_images` must be {' or '.join(get_args(ImageFormat))}, got {images!r}.")
        self.folder, self.format = Path(folder), images

    def complete(self, header: Mapping[str, Any]) -> bool:
        """Return whether the folder holds the whole export of an evaluation."""
        found = self._state()
        return found is not None and bool(found.get("complete")) and not self._differences(found, header)

    def open(self, header: Mapping[str, Any], overwrite: bool) -> None:
        """Begin, or go on; for the main process, before the first batch.

        Raises:
            ValueError: if the folder holds something else, unless `overwrite` is set and it is another export.
        """
        found = self._state()
        if found is None and self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"`export`: {self.folder} holds other files: name a new or an empty folder.")
        if found is not None and (other := self._differences(found, header)):
            if not overwrite:
                raise ValueError(
                    f"`export`: {self.folder} holds another evaluation ({'; '.join(other)[:300]}): name another "
                    "folder, or pass `overwrite=True`."
                )
            for name in FOLDERS.values():
                shutil.rmtree(self.folder / name, ignore_errors=True)
        remove_scratch(self.folder, "**/*")
        write_json(self._header(header) | {"complete": False}, self.folder / STATE)

    def holds(self, kept: Mapping[str, Any]) -> bool:
        """Return whether the files of a batch are there, of which `kept` is the record."""
        return "export" in kept and all((self.folder / name).is_file() for name in kept["export"]["files"])

    def write_batch(self, evaluation: Evaluation, index: int, row_ids: Sequence[int], misled: Misled) -> dict[str, Any]:
        """Write the images of a batch; return what the rest of the export needs, as JSON values."""
        labels = misled.labels.tolist()
        both = [row for row, attack in enumerate(misled.by["multimodal"]) if attack is not None]
        chosen = {"image": list(range(len(labels))) if "image" in evaluation.attacks else [], "multimodal": both}
        files: dict[str, list[str | None]] = {}
        for kind, rows in chosen.items():
            files[kind] = [None] * len(labels)
            if self.format == "safetensors" and rows:
                name = f"{FOLDERS[kind]}/batch-{index:05d}.safetensors"
                self._write_tensors(
                    name, misled.images[kind][rows], [row_ids[row] for row in rows], misled.labels[rows]
                )
            for row in rows:
                if self.format == "png":
                    name = f"{FOLDERS[kind]}/test/{labels[row]}/{row_ids[row]:07d}.png"
                    self._write_picture(name, misled.images[kind][row])
                files[kind][row] = name
        return {
            **record(misled),
            "image_files": files,
            "files": sorted({name for found in files.values() for name in found if name is not None}),
            "after_rounding": self._after_rounding(evaluation, misled, both) if self.format == "png" else {},
        }

    def write(self, result: Mapping[str, Any], header: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        """Write the table and the texts of a finished evaluation; for the main process."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = prediction_table(result, records)
        stream = io.BytesIO()
        pq.write_table(pa.table(columns), stream)
        write_bytes(stream.getvalue(), self.folder / TABLE)
        texts = {key: result[key] for key in ("class_names", "prompts", "adv_prompts")}
        write_json(texts, self.folder / TEXTS)
        if self.format == "png" and "image" in result["attacks"]:
            names = [" ".join(name.split()) for name in result["class_names"]]
            write_text("\n".join(names) + "\n", self.folder / FOLDERS["image"] / "classnames.txt")
        measured = {"note": NOTE, "after_rounding": _rounding(columns)} if self.format == "png" else {}
        write_json(self._header(header) | {"complete": True} | measured, self.folder / STATE)

    def _header(self, header: Mapping[str, Any]) -> dict[str, Any]:
        return {"images": self.format, "evaluation": dict(header)}

    def _differences(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> list[str]:
        then = found.get("evaluation")
        other = header_differences(then if isinstance(then, dict) else {}, header)
        return other + differences({"images": found.get("images")}, {"images": self.format})

    def _state(self) -> dict[str, Any] | None:
        path = self.folder / STATE
        found = read_json(path) if path.is_file() else None
        return found if isinstance(found, dict) else None

    def _write_picture(self, name: str, image: Tensor) -> None:
        stream = io.BytesIO()
        Image.fromarray(eight_bits(image).permute(1, 2, 0).cpu().numpy()).save(stream, "PNG")
        write_bytes(stream.getvalue(), self.folder / name)

    def _write_tensors(self, name: str, images: Tensor, row_ids: Sequence[int], labels: Tensor) -> None:
        from safetensors.torch import save

        tensors = {"images": images.cpu().contiguous(), "row_ids": torch.tensor(row_ids), "labels": labels.cpu()}
        write_bytes(save(tensors), self.folder / name)

    def _after_rounding(self, evaluation: Evaluation, misled: Misled, both: Sequence[int]) -> dict[str, Any]:
        """Return whether samples are classified correctly on the rounded images.

        Those of multimodal attacks are judged by the text of the own class and of the one that won.
        """
        found: dict[str, list[bool | None]] = {"image": [], "multimodal": [None] * len(misled.labels)}
        if "image" in evaluation.attacks:
            embeds = evaluation.encoder.encode_images(eight_bits(misled.images["image"]) / 255)
            logits = evaluation.clean_prompts.logits(embeds, misled.labels)
            found["image"] = correct(logits, misled.labels).tolist()
        if both:
            embeds = evaluation.encoder.encode_images(eight_bits(misled.images["multimodal"][both]) / 255)
            pairs = [misled.texts[str(misled.by["multimodal"][row])][row] for row in both]
            own, rival = (
                evaluation.encoder.encode_texts([str(pair[side]) for pair in pairs if pair]) for side in (0, 1)
            )
            for row, stands in zip(both, ((embeds * own).sum(1) > (embeds * rival).sum(1)).tolist(), strict=True):
                found["multimodal"][row] = stands
        return found


def eight_bits(images: Tensor) -> Tensor:
    """Return images in [0, 1] as whole numbers from 0 to 255, uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def prediction_table(result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the table of predictions, one row a sample.

    Of each attack `<attack>/outcome` says whether the sample is classified correctly under it, and
    `<attack>/prediction` as what: the clean prediction if that is wrong already, and nothing where the attack left a
    sample to an earlier one, or predicts nothing (token embeddings). `<attack>/text` is the own class's attacked prompt
    and `<attack>/rival_text` that of the class that won.

    Args:
        result: the whole result.
        records: records of the batches, with their `export`.
    """
    labels, names = result["labels"], result["class_names"]
    exported = [each["export"] for each in records]

    def joined(*keys: str) -> list[Any]:
        found: list[Any] = []
        for batch, own in zip(records, exported, strict=True):
            value: Any = own
            for key in keys:
                value = value.get(key) or {}
            found += value or [None] * len(batch["labels"])
        return found

    columns: dict[str, list[Any]] = {
        "row_id": result["row_ids"],
        "label": labels,
        "class_name": [names[label] for label in labels],
    }
    for kind in FOLDERS:
        if kind in result["attacks"]:
            columns[f"{kind}_file"] = joined("image_files", kind)
            columns[f"{kind}_attack"] = joined("by", kind)
            if any(own["after_rounding"] for own in exported):
                columns[f"{kind}_after_rounding"] = joined("after_rounding", kind)
    clean = [rival for each in records for rival in each["rivals"]["clean"]]
    for attack, outcome in result["outcomes"].items():
        stands = [sign == "1" for sign in outcome]
        rivals = [rival for each in records for rival in each["rivals"].get(attack, [None] * len(each["labels"]))]
        columns[f"{attack}/outcome"] = stands
        columns[f"{attack}/prediction"] = [
            label if right else first if first is not None else rival
            for label, right, first, rival in zip(labels, stands, clean, rivals, strict=True)
        ]
        if AttackName.parse(attack).kind == "multimodal" or AttackName.parse(attack).realised:
            pairs = joined("texts", attack)
            written = result["adv_prompts"].get(attack)
            columns[f"{attack}/text"] = [
                pair[0] if pair else written[label] if written else None
                for label, pair in zip(labels, pairs, strict=True)
            ]
            columns[f"{attack}/rival_text"] = [pair and pair[1] for pair in pairs]
    return columns


def _rounding(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return what rounding changed, by kind of image."""
    found: dict[str, Any] = {}
    for kind in FOLDERS:
        after = columns.get(f"{kind}_after_rounding", [])
        known = [place for place, value in enumerate(after) if value is not None]
        if not known:
            continue
        group = [
            columns[name] for name in columns if name.endswith("/outcome") and name.split("/")[0] in ("clean", kind)
        ]
        before = [all(column[place] for column in group) for place in range(len(after))]
        found[kind] = {
            "images": len(known),
            "correct_before": sum(before[place] for place in known),
            "correct_after": sum(after[place] for place in known),
            "undone": sum(after[place] and not before[place] for place in known),
            "completed": sum(before[place] and not after[place] for place in known),
        }
    return found
