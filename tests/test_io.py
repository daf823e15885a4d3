"""JSON and YAML of strangers: a value, or one ValueError that names the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_mmcoa import io
from hf_mmcoa.io import (
    parse_json,
    parse_yaml,
    printable,
    read_json,
    read_text,
    read_yaml,
    remove_scratch,
    write_bytes,
    write_json,
    write_text,
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no complete JSON"),
        (b'{"a": 1', "no complete JSON"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is beyond the range"),
        (b"[" + b"9" * 5000 + b"]", "no complete JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 60 + b"]" * 60, "nested too deeply"),
        (b'"caf\xe9"', "no UTF-8 text .byte 0xe9 at 4"),
        (b'["caf\\udce9"]', "is no Unicode text"),
        (b'{"caf\\udce9": 1}', "is no Unicode text"),
    ],
)
def test_json_that_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json .*{problem}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [", "no YAML"),
        (b"a: .nan", "holds NaN"),
        (b"a: 2024-99-99", "no YAML"),
        (b"a: 2024-01-02", "holds a date"),
        (b"a: !!timestamp x", "no YAML"),  # AttributeError in PyYAML
        (b"a: !!bool x", "no YAML"),  # KeyError
        (b"a: !!int ''", "no YAML"),  # IndexError
        (b"a: !!python/object/apply:os.system ['touch owned']", "no YAML"),
        (b"a: !!binary aGk=", "holds a bytes"),
        (b"a: !!set {b}", "holds a set"),
        (b"1: a", "the key 1, which is no text"),
        (b"on: a", "the key True, which is no text"),
        (b"a: &a [*a]", "nested too deeply or too large"),
        (BOMB.encode(), "nested too deeply or too large"),
        (b"a: " + b"[" * 5000, "no YAML|nested too deeply"),
        (b"a: caf\xe9", "no UTF-8 text"),
        (b'a: "\\ud800"', "no Unicode text|no YAML"),
        (b"#" * (2**20 + 1), "larger than 1 MB"),
    ],
)
def test_yaml_that_is_refused(content: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)a\.yaml .*({problem})"):
        read_yaml(tmp_path / "a.yaml")
    assert [one.name for one in tmp_path.iterdir()] == ["a.yaml"]


def test_what_is_well_formed_is_read() -> None:
    value = {"a": [1, 2.5, None, True, "café ⚑"], "b": {"c": {}}}
    assert parse_json(json.dumps(value), "x") == parse_yaml(json.dumps(value), "x") == value
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd: .inf", "x") == {"a": {"b": 1}, "c": {"b": 1}, "d": float("inf")}
    assert parse_yaml("", "x") is None


def test_a_file_without_end_is_read_as_far_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "MAX_BYTES", 2**20)
    with pytest.raises(ValueError, match="/dev/zero is larger than 1 MB"):
        read_text("/dev/zero", 2**20)


def test_printable_shows_what_a_terminal_would_obey() -> None:
    assert printable("Zürich, 猫\n\tcat") == "Zürich, 猫\n\tcat"
    assert printable("a\x1b[2J\x07\r\u202eb\u200f\ud800\x9b") == r"a\x1b[2J\x07\r\u202eb\u200f\ud800\x9b"


# Writing


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(b"new", path),
        lambda path: write_text("new", path),
        lambda path: write_json(["new"], path),
    ],
    ids=["bytes", "text", "json"],
)
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=repr)
def test_an_error_in_the_middle_of_a_write_leaves_the_old_file(write, error, tmp_path, monkeypatch) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    whole = Path.write_bytes

    def half(path: Path, content: bytes) -> None:
        whole(path, content[: len(content) // 2])
        raise error

    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(Path, "write_bytes", half)
        write(file)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    write(file)
    assert "new" in file.read_text() and list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from hf_mmcoa.io import write_text
whole = Path.write_bytes
def half(path, content):
    whole(path, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = half
write_text("new" * 1000, sys.argv[1])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, str(file)], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    write_text("newer", file)
    assert file.read_text() == "newer" and list(tmp_path.iterdir()) == [file]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest process id
    below = tmp_path / "below"
    kept = [f"a.json.{os.getppid()}.tmp", "a.json.tmp", f"a.json.{dead}", "notes.old.tmp"]
    for folder in (tmp_path, below):
        folder.mkdir(exist_ok=True)
        for name in (*kept, f"a.json.{dead}.tmp", f"a.json.{os.getpid()}.tmp", f"b.png.{dead}.tmp"):
            (folder / name).touch()
    (tmp_path / f"a.json.{dead + 1}.tmp").mkdir()
    kept_here = {*kept, "below", f"a.json.{dead + 1}.tmp"}
    remove_scratch(tmp_path, "a.json")
    assert {file.name for file in tmp_path.iterdir()} == {*kept_here, f"b.png.{dead}.tmp"}
    remove_scratch(tmp_path, "**/*")
    assert {file.name for file in tmp_path.iterdir()} == kept_here
    assert {file.name for file in below.iterdir()} == {*kept}
    remove_scratch(tmp_path / "missing")


def test_a_text_is_written_byte_by_byte_as_it_is(tmp_path: Path) -> None:
    write_text("caf\u00e9\r\n\n", tmp_path / "new" / "a.txt")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"caf\xc3\xa9\r\n\n"


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json([1.5], tmp_path / "a.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json([float("nan")], tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == [1.5]
