"""The rows are those of the paper's data sets, consistent, and read strictly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_mmcoa import data
from hf_mmcoa.data import benchmarks
from hf_mmcoa.data.benchmarks import BENCHMARKS, find_benchmark, parse_benchmarks


def test_the_seventeen_of_the_paper_and_five_local_ones_are_rows() -> None:
    assert {row.name for row in BENCHMARKS} == {
        "cifar10", "cifar100", "stl10", "imagenet", "tiny-imagenet", "caltech101", "caltech256", "pets", "cars",
        "food101", "flowers102", "fgvc-aircraft", "sun397", "country211", "eurosat", "dtd", "pcam", "digits",
        "fashion-mnist", "pictograms", "pictograms-common", "pictograms-ood",
    }  # fmt: skip
    assert len({row.name for row in BENCHMARKS}) == len(BENCHMARKS)


@pytest.mark.parametrize("row", BENCHMARKS, ids=lambda row: row.name)
def test_a_row_is_consistent(row: Any) -> None:
    assert all(template.count("{}") == 1 for template in (row.template, *row.templates))
    assert set(row.by_index) <= set(range(row.num_classes))
    for names in (row.class_names, row.expected_names):
        assert len(names) in (0, row.num_classes) and len(set(names)) == len(names)
    assert "test" in row.sources[0].splits
    for source in row.sources:
        if source.format != "embedded":
            assert {s for own in source.splits.values() for s in own} == set(source.files)
            assert set(source.counts) <= set(source.files)
        if source.format == "webdataset":
            assert all(glob.endswith(".tar") for glob in source.files.values())
        assert source.revision is None or len(source.revision) == 40


def test_small_pictures_are_attacked_at_their_own_size() -> None:
    native = {row.name for row in BENCHMARKS if row.perturb_at == "native"}
    pictograms = {"pictograms", "pictograms-common", "pictograms-ood"}
    assert native == {"cifar10", "cifar100", "stl10", "digits", "fashion-mnist"} | pictograms


def test_names_are_found_whatever_their_spelling_and_by_hub_id() -> None:
    assert find_benchmark("CIFAR-10") is find_benchmark("cifar_10") is find_benchmark("cifar10")
    row = find_benchmark("clip-benchmark/wds_imagenet1k")
    assert row is not None and row.name == "imagenet" and row.sources[0].names_file == "classnames.txt"
    assert find_benchmark("someone/cifar10") is None


def test_values_of_the_file_arrive_with_their_types() -> None:
    assert len(BENCHMARKS) == 22 and sum(len(row.sources) for row in BENCHMARKS) == 41
    cifar100, imagenet, sun397 = (find_benchmark(name) for name in ("cifar100", "imagenet", "sun397"))
    assert cifar100 is not None and imagenet is not None and sun397 is not None
    assert cifar100.rename == {"cra": "crab"} and cifar100.expected_names[-1] == "worm"
    assert cifar100.sources[0].splits == {"train": ("train",), "test": ("test",)}
    assert cifar100.sources[0].counts == {"train": 50_000, "test": 10_000}
    assert imagenet.by_index[517] == "construction crane" and imagenet.sources[0].gated
    assert imagenet.sources[0].hub_splits("test") == imagenet.sources[0].hub_splits("validation") == ("validation",)
    assert sun397.replace == ((r"^/\w/", ""),) and sun397.sources[0].hub_splits("all") == ()


ROW = """
- name: shapes
  num_classes: 2
  sources:
    - hub_id: someone/shapes
      splits: {test: [test]}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_classes: 2", "num_clases: 2", "benchmark 'shapes': unknown field 'num_clases'; the fields are name, "),
        ("  num_classes: 2\n", "", "benchmark 'shapes': the field 'num_classes' is missing"),
        ("num_classes: 2", "num_classes: true", "the field 'num_classes' is True, not of type int"),
        ("num_classes: 2", "num_classes: 2\n  perturb_at: 224", "the field 'perturb_at' is 224, not of type Literal"),
        ("num_classes: 2", "num_classes: 2\n  class_names: [yes, no]", "the field 'class_names' is "),
        ("num_classes: 2", "num_classes: 2\n  replace: [[a]]", "the field 'replace' is "),
        ("splits:", "spilts:", "benchmark 'shapes', source 'someone/shapes': unknown field 'spilts'"),
        ("[test]", "test", "source 'someone/shapes': the field 'splits' is {'test': 'test'}, not of type Mapping"),
        ("splits:", "revision: 1\n      splits:", "the field 'revision' is 1, not of type str | None"),
    ],
)
def test_a_wrong_row_is_refused_by_row_and_field(old: str, new: str, message: str) -> None:
    (row,) = parse_benchmarks(ROW)
    assert (row.name, row.num_classes, row.sources[0].splits) == ("shapes", 2, {"test": ("test",)})
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_benchmarks(ROW.replace(old, new))


def test_rows_are_read_on_first_use() -> None:
    program = (
        "import hf_mmcoa; from hf_mmcoa.data.benchmarks import all_benchmarks as read; "
        "assert not read.cache_info().currsize; from hf_mmcoa.data import BENCHMARKS; assert BENCHMARKS is read(); "
        "from hf_mmcoa.data import benchmarks, load_benchmark; assert benchmarks.BENCHMARKS is BENCHMARKS; "
        "assert load_benchmark is hf_mmcoa.load_benchmark"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    for module in (data, benchmarks):
        with pytest.raises(AttributeError, match="no attribute 'anything'"):
            _ = module.anything
