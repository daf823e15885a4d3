from __future__ import annotations

import io
import pickle
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_mmcoa.data.columns import Columns, detect_columns
from hf_mmcoa.data.labels import check_labels, read_labels
from hf_mmcoa.data.rows import ImageRows, ImageStream, collate


def png(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return file.getvalue()


def table(pictures: list[bytes | None], image: str = "image", **columns: list[Any]) -> datasets.Dataset:
    features = datasets.Dataset.from_dict(columns).features if columns else datasets.Features()
    features[image] = datasets.Image()
    rows = {image: [None if p is None else {"bytes": p, "path": None} for p in pictures], **columns}
    return datasets.Dataset.from_dict(rows, features=features)


def test_captions_are_composed() -> None:
    assert ImageRows(table([png(0)], text=["a cafe\u0301"]))[0]["text"] == "a caf\u00e9"


def test_rows_have_pixels_label_text_and_row_id() -> None:
    dataset = table([png(0), png(51), png(255)], label=[2, 0, 1], text=["a", "b", "c"], other=[7, 8, 9])
    rows = ImageRows(dataset)
    assert len(rows) == 3 and rows.columns == Columns("image", "label", "text")
    row = rows[1]
    assert sorted(row) == ["image", "label", "row_id", "text"]
    torch.testing.assert_close(row["image"], torch.full((3, 4, 6), 0.2))
    assert (row["label"], row["text"], row["row_id"]) == (0, "b", 1)
    assert rows[-1]["row_id"] == 2
    with pytest.raises(IndexError):
        rows[3]
    assert [row["label"] for row in rows] == [2, 0, 1]  # torch's protocol: iteration ends with IndexError


def test_missing_columns_leave_their_keys_out() -> None:
    row = ImageRows(table([png(0)], image="jpg"))[0]
    assert sorted(row) == ["image", "row_id"]
    batch = collate([row])
    assert sorted(batch) == ["images", "row_ids"]


@pytest.mark.parametrize("image", ["image", "img", "jpg", "webp", "png", "jpeg", "picture"])
@pytest.mark.parametrize(("label", "text"), [("label", "text"), ("labels", "caption"), ("cls", "texts")])
def test_columns_are_detected(image: str, label: str, text: str) -> None:
    dataset = table([png(0)], image=image, **{label: [0], text: ["x"]})
    assert detect_columns(dataset) == Columns(image, label, text)


def test_columns_can_be_named_and_left_out() -> None:
    dataset = table([png(0)], label=[0], coarse=[5], caption=["x"])
    row = ImageRows(dataset, label_column="coarse", text_column=None)[0]
    assert row["label"] == 5 and "text" not in row
    with pytest.raises(ValueError, match=r"label_column.*'fine'.*coarse"):
        ImageRows(dataset, label_column="fine")
    with pytest.raises(ValueError, match="image_column"):
        ImageRows(datasets.Dataset.from_dict({"label": [0]}))


def test_boolean_labels_and_lists_of_captions() -> None:
    row = ImageRows(table([png(0)], label=[True], text=[["first", "second"]]))[0]
    assert row["label"] == 1 and type(row["label"]) is int and row["text"] == "first"


def test_one_of_several_captions_is_drawn_each_time() -> None:
    dataset = table([png(0)], text=[["first", "second", "third"]])
    rows = ImageRows(dataset, draw_captions=True)
    torch.manual_seed(0)
    drawn = [rows[0]["text"] for _ in range(60)]
    assert all(12 <= drawn.count(text) <= 28 for text in ("first", "second", "third"))
    torch.manual_seed(0)
    assert [rows[0]["text"] for _ in range(60)] == drawn
    stream = ImageStream(dataset.to_iterable_dataset(), draw_captions=True)
    assert len({next(iter(stream))["text"] for _ in range(30)}) == 3
    state = torch.get_rng_state()
    ImageRows(table([png(0)], text=[["only"]]), draw_captions=True)[0]
    assert torch.equal(torch.get_rng_state(), state)  # a single caption takes no number from the attacks


def test_several_captions_of_a_row_are_all_different_before_any_comes_twice() -> None:
    dataset = table([png(0), png(0)], text=[["one", "two", "three"], ["only"]])
    rows = ImageRows(dataset, draw_captions=True, num_captions=4)
    torch.manual_seed(0)
    orders = set()
    for _ in range(30):
        first, second = rows[0], rows[1]
        own = [first["text"], *first["more_texts"]]
        assert sorted(own[:3]) == ["one", "three", "two"] and own[3] == own[0]
        assert [second["text"], *second["more_texts"]] == ["only"] * 4
        orders.add(tuple(own))
    assert len(orders) == 6
    batch = collate([first, second])
    assert batch["texts"] == [first["text"], "only"] and len(batch["more_texts"]) == 3
    assert batch["more_texts"][1] == [first["more_texts"][1], "only"]
    plain = ImageRows(dataset, num_captions=2)[0]
    assert (plain["text"], plain["more_texts"]) == ("one", ["two"])
    stream = ImageStream(dataset.to_iterable_dataset(), num_captions=2)
    assert next(iter(stream))["more_texts"] == ["two"]
    assert "more_texts" not in ImageRows(dataset)[0]


def test_a_transform_is_refused_and_hidden_columns_are_not_read() -> None:
    dataset = table([png(0)], label=[0], text=["x"])
    with pytest.raises(ValueError, match=r"has a transform .*with_format\(None\)"):
        ImageRows(dataset.with_transform(lambda batch: batch))
    assert sorted(ImageRows(dataset.with_format("numpy", columns=["image", "label"]))[0]) == [
        "image",
        "label",
        "row_id",
    ]
    with pytest.raises(ValueError, match="no column 'label'; it has image"):
        ImageRows(dataset.with_format(columns=["image"]), label_column="label")
    for kind in ("torch", "numpy", "pandas", "arrow"):
        row = ImageRows(dataset.with_format(kind))[0]
        assert (row["label"], row["text"], row["image"].shape) == (0, "x", (3, 4, 6))
    for kind in ("torch", "numpy", "arrow"):
        row = next(iter(ImageStream(dataset.to_iterable_dataset().with_format(kind))))
        assert (row["label"], row["text"], row["image"].shape) == (0, "x", (3, 4, 6))


def test_selected_and_shuffled_data_sets_are_read_in_their_order() -> None:
    dataset = table([png(0), png(51), png(102)], label=[0, 1, 2]).select([2, 0])
    assert [ImageRows(dataset)[i]["label"] for i in range(2)] == [2, 0]


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        ImageRows(table([png(0)], label=[0]).select([]))


@pytest.mark.parametrize(
    "broken", [b"no picture", None, png(7)[:50], b""], ids=["text", "null", "truncated", "nothing"]
)
def test_undecodable_picture_names_its_row(broken: bytes | None) -> None:
    rows = ImageRows(table([png(0), png(0), broken], label=[0, 0, 0]))
    assert rows[0]["row_id"] == 0
    with pytest.raises(ValueError, match=r"row 2: the picture in column 'image'"):
        rows[2]
    with pytest.raises(ValueError, match="row 2"):
        list(DataLoader(rows, batch_size=3, collate_fn=collate))


def test_missing_label_and_text_name_their_row() -> None:
    with pytest.raises(ValueError, match="row 1 has no label"):
        ImageRows(table([png(0), png(0)], label=[0, None]))[1]
    with pytest.raises(ValueError, match="row 1 has no text"):
        ImageRows(table([png(0), png(0)], text=["a", None]))[1]


def test_perturb_at_model_resizes_and_native_does_not() -> None:
    dataset = table([png(9, (40, 20)), png(9, (20, 30))])
    assert ImageRows(dataset)[0]["image"].shape == (3, 20, 40)
    at_model = ImageRows(dataset, perturb_at="model", image_size=16)
    assert collate([at_model[0], at_model[1]])["images"].shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="image_size"):
        ImageRows(dataset, perturb_at="model")
    with pytest.raises(ValueError, match="perturb_at"):
        ImageRows(dataset, perturb_at="both")  # type: ignore[arg-type]


def test_native_batch_of_several_sizes_names_the_rows_and_the_way_out() -> None:
    rows = ImageRows(table([png(9, (4, 4)), png(9, (6, 5)), png(9, (4, 4))]))
    with pytest.raises(ValueError, match=r'row 0 is 4x4, row 1 is 5x6\. .*perturb_at="model"'):
        collate([rows[0], rows[1], rows[2]])


def test_collate_types() -> None:
    rows = ImageRows(table([png(0), png(255)], label=[3, 4], text=["a", "b"]))
    batch = collate([rows[1], rows[0]])
    assert batch["images"].dtype == torch.float32 and batch["images"].shape == (2, 3, 4, 6)
    assert batch["labels"].dtype == torch.long and batch["labels"].tolist() == [4, 3]
    assert batch["texts"] == ["b", "a"]
    assert batch["row_ids"].dtype == torch.long and batch["row_ids"].tolist() == [1, 0]


def test_workers_give_the_same_batches_and_rows_pickle() -> None:
    rows = pickle.loads(pickle.dumps(ImageRows(table([png(v) for v in range(20)], label=list(range(20))))))

    def batches(workers: int) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(5)
        return list(DataLoader(rows, 6, shuffle=True, generator=generator, collate_fn=collate, num_workers=workers))

    for one, two in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one["images"], two["images"]) and torch.equal(one["row_ids"], two["row_ids"])
        assert torch.equal(one["labels"], one["row_ids"])


def test_streamed_rows_equal_indexed_ones() -> None:
    dataset = table([png(v) for v in (0, 51, 102)], label=[1, 0, 1])
    rows, stream = ImageRows(dataset), ImageStream(dataset.to_iterable_dataset())
    for indexed, streamed in zip(rows, stream, strict=True):
        assert torch.equal(indexed.pop("image"), streamed.pop("image")) and indexed == streamed
    with pytest.raises(ValueError, match="ImageStream"):
        ImageRows(dataset.to_iterable_dataset())


def test_check_labels_names_the_first_bad_row() -> None:
    broken = [b"never decoded"] * 4
    check_labels(table(broken, label=[0, 1, 2, 0]), "label", 3)
    with pytest.raises(ValueError, match=r"row 2 has label 3, outside \[0, 3\).*2 such rows"):
        check_labels(table(broken, label=[0, 1, 3, 9]), "label", 3)
    with pytest.raises(ValueError, match=r"row 0 has label -1.*withheld"):
        check_labels(table(broken, label=[-1, 0, 0, 0]), "label", 3)
    with pytest.raises(ValueError, match="row 1 has label 2"):  # after a selection, rows are the selection's
        check_labels(table(broken, label=[0, 1, 2, 0]).select([3, 2]), "label", 2)


def test_read_labels_refuses_what_is_no_class_number() -> None:
    np.testing.assert_array_equal(read_labels(table([b""] * 2, label=[True, False])), [1, 0])
    with pytest.raises(ValueError, match="row 1 has no label"):
        read_labels(table([b""] * 2, label=[0, None]))
    with pytest.raises(ValueError, match="class_encode_column"):
        read_labels(table([b""] * 2, label=["cat", "dog"]))
    with pytest.raises(ValueError, match="no column 'cls'"):
        read_labels(table([b""], label=[0]), "cls")
