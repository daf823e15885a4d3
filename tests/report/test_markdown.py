from __future__ import annotations

import pytest

from hf_mmcoa.report.markdown import Verbatim, markdown_lines


def test_cells_are_escaped_unless_they_are_verbatim():
    lines = markdown_lines(["a|b", Verbatim("**c**")], [["x\n| y", Verbatim("0.5 [0.4, 0.6]")]])
    assert lines == [r"| a\|b | **c** |", "| --- | ---: |", r"| x \| y | 0.5 [0.4, 0.6] |"]


def test_columns_are_aligned_as_asked():
    assert markdown_lines(["a", "b", "c"], [], ["left", "left", "right"])[1] == "| --- | --- | ---: |"


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="2 columns has a row or an alignment of 1"):
        markdown_lines(["a", "b"], [["x"]])
