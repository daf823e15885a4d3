"""Commands that run processes of their own are not started by a launcher."""

from __future__ import annotations

import pytest

from hf_mmcoa.cli import main


@pytest.mark.parametrize("command", [["compare", "--dataset", "digits"], ["protocol", "few-shot"]])
def test_a_launched_grid_is_refused_before_it_waits_for_others(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert "`--processes 2`" in capsys.readouterr().err and not (tmp_path / "out").exists()
