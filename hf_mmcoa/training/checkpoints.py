"""A checkpoint is there whole or not at all, and a run goes on from the last whole one.

The Trainer writes a checkpoint file by file, each process its own, straight into `checkpoint-STEP`; who dies in the
middle leaves a folder that looks like the newest. Here all of it is written into `_unfinished/`, the files are listed
with their sizes once every process is done, and one rename puts the folder in place. Older ones go after that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ..file_names import FILE_LIST, STATE_FILE
from ..io import write_json

if TYPE_CHECKING:
    from transformers import Trainer

UNFINISHED = "_unfinished"  # in `output_dir`: the checkpoint that is being written
TORCH_WRITING = ("inline_container", "iostream error")  # in a RuntimeError: `torch.save` could not write


class CheckpointWriter:
    """Has a Trainer write its checkpoints aside, and puts them in place when they are complete."""

    def __init__(self) -> None:
        self._writing = False

    def folder(self, run_dir: str) -> str:
        """Where the Trainer is to put `checkpoint-STEP` now, `run_dir` being where it belongs."""
        return os.path.join(run_dir, UNFINISHED) if self._writing else run_dir

    @contextmanager
    def writing(self, trainer: Trainer, run_dir: str) -> Iterator[None]:
        """While the Trainer saves: whole or not at all, and never without the last complete one.

        Raises:
            OSError: if it can't be written; nothing half-written is left, and the error names the way out.
        """
        args, accelerator, state = trainer.args, trainer.accelerator, trainer.state
        name = f"checkpoint-{state.global_step}"
        scratch, written = Path(run_dir, UNFINISHED), Path(run_dir, UNFINISHED, name)
        if args.local_process_index == 0:
            shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        accelerator.wait_for_everyone()
        self._writing = True
        try:
            with _disk_errors_told(run_dir, state.global_step):
                yield
                _name_best(trainer, run_dir, written)
                accelerator.wait_for_everyone()  # each process has written its own files
                if args.process_index == 0:
                    _put_in_place(written, Path(run_dir))
                accelerator.wait_for_everyone()
                if args.local_process_index == 0 and written.exists():  # a machine that shares no disk with the first
                    _put_in_place(written, Path(run_dir))
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)  # gives back its room on a full disk
            raise
        finally:
            self._writing = False
        if args.should_save:
            _rotate(Path(run_dir), args.save_total_limit, state.best_model_checkpoint)
            shutil.rmtree(scratch, ignore_errors=True)


def checkpoint_to_resume(given: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: a folder, or the last complete one for True (or "true").

    Broken ones that are newer than that are named in a warning.

    Raises:
        ValueError: if the folder is no complete checkpoint, or there is none; the text says which there is.
    """
    if isinstance(given, str) and given.lower() in ("true", "false"):  # the command line knows no booleans here
        given = given.lower() == "true"
    if not given:
        return None
    if given is True:
        last, broken = _last_checkpoint(Path(output_dir))
        if broken:
            then = f"The run goes on from {last}, the last complete one." if last else "There is no complete one."
            warnings.warn(
                f"not complete, because writing was cut off or files have changed since: {'; '.join(broken)}. {then} "
                f"Nothing needs doing: what lies in `{UNFINISHED}` goes with the next save, any other may be deleted.",
                UserWarning,
                stacklevel=3,
            )
        if last is None:
            raise ValueError(
                f"`resume_from_checkpoint`: there is no complete checkpoint in `output_dir` {output_dir!r}. "
                "Leave it out to start from the beginning."
            )
        return str(last)
    if flaw := find_flaw(Path(given)):
        last, _ = _last_checkpoint(Path(output_dir))
        raise ValueError(
            f"`resume_from_checkpoint`: {str(given)!r} {flaw}, so it is no complete checkpoint of a Trainer. "
            + (f"The last one in `output_dir` is {str(last)!r}." if last else "There is none in `output_dir`.")
        )
    return str(given)


def last_checkpoint(folder: str | Path) -> Path | None:
    """The complete checkpoint of the most steps in a folder, or None."""
    return _last_checkpoint(Path(folder))[0]


def find_flaw(checkpoint: Path) -> str | None:
    """What keeps a folder from being a complete checkpoint, such as "holds no trainer_state.json"; None if nothing.

    A checkpoint that was not written by us lists no files: it counts as complete if its state, which is written last,
    can be read.
    """
    listed = checkpoint / FILE_LIST
    if listed.exists() and (sizes := _read_json(listed)) is None:
        return f"holds a cut off {FILE_LIST}"
    for name, size in sizes.items() if listed.exists() else ():
        file = checkpoint / name
        if not file.is_file():
            return f"holds no {name}"
        if file.stat().st_size != size:
            return f"holds {file.stat().st_size} of {size} bytes of {name}"
    if not (checkpoint / STATE_FILE).is_file():
        return f"holds no {STATE_FILE}"
    return f"holds a cut off {STATE_FILE}" if _read_json(checkpoint / STATE_FILE) is None else None


def check_writable(output_dir: str) -> None:
    """Raise OSError, naming the folder and the way out, unless files can be written there (and folders made)."""
    folder = Path(output_dir).absolute()
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"checkpoint")
            file.flush()
    except OSError as error:
        raise type(error)(
            f"`output_dir` {output_dir!r}: nothing can be written to {folder} ({_reason(error)}). "
            "Choose another folder with `output_dir`, or give this one room and the right to write."
        ) from error


@contextmanager
def _disk_errors_told(folder: str, step: int) -> Iterator[None]:
    """Raise what went wrong on disk as one OSError that names the folder and the way out.

    torch and safetensors report a full disk as errors of their own kinds, torch without saying what it was.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(each in str(error) for each in TORCH_WRITING):
            raise
        last = last_checkpoint(folder)
        then = f"{last} is complete" if last else "there is no checkpoint yet"
        kind = type(error) if isinstance(error, OSError) else OSError
        raise kind(
            f"the checkpoint of step {step} could not be written to {folder!r} ({_reason(error)}). "
            f"Nothing half-written is left; {then}. "
            "Make room (a checkpoint is written before an older one goes: `save_total_limit` plus one must fit) or see "
            "to the right to write"
            + (f", then go on with `resume_from_checkpoint={str(last)!r}`." if last else ", then start again.")
        ) from error


def _put_in_place(written: Path, run_dir: Path) -> None:
    """List the files, see them through to the disk, and rename."""
    files = [file for file in sorted(written.rglob("*")) if file.is_file()]
    sizes = {file.relative_to(written).as_posix(): file.stat().st_size for file in files}
    write_json(sizes, written / FILE_LIST)
    for path in (*files, written / FILE_LIST, *(path for path in written.rglob("*") if path.is_dir()), written):
        _synchronise(path)
    place = run_dir / written.name
    if place.exists():  # of another run, or of this one before it went back to an earlier checkpoint
        os.replace(place, written.with_name("replaced"))
    os.replace(written, place)
    _synchronise(run_dir)


def _synchronise(path: Path) -> None:
    """Through to the disk: a rename may outlive a power failure that the files' contents do not."""
    if os.name != "posix":  # where a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_best(trainer: Trainer, run_dir: str, written: Path) -> None:
    """The Trainer looks for its best checkpoint beside the one it writes; it lies, or will lie, in `run_dir`."""
    state = trainer.state
    if not state.best_global_step:
        return
    best = os.path.join(run_dir, f"checkpoint-{state.best_global_step}")
    if state.best_global_step == state.global_step or os.path.isdir(best):
        state.best_model_checkpoint = best
        if trainer.args.should_save:
            state.save_to_json(str(written / STATE_FILE))


def _rotate(run_dir: Path, limit: int | None, best: str | None) -> None:
    """Delete as the Trainer does, down to `limit`, the oldest first, never the newest or the best; but broken ones
    before all others.
    """
    if limit is None or limit <= 0:
        return
    found = sorted(_checkpoints(run_dir), key=lambda each: (find_flaw(each) is None, each.stat().st_mtime_ns))
    kept = {found[-1]} | ({run_dir / Path(best).name} & set(found) if best else set())
    for folder in [each for each in found if each not in kept][: max(0, len(found) - max(limit, len(kept)))]:
        (run_dir / UNFINISHED).mkdir(exist_ok=True)
        os.replace(folder, run_dir / UNFINISHED / f"deleted-{folder.name}")  # who dies while deleting leaves no half


def _checkpoints(folder: Path) -> list[Path]:
    """`checkpoint-STEP` folders, the most steps first."""
    found = [each for each in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", each.name)]
    return sorted((each for each in found if each.is_dir()), key=lambda each: -int(each.name.rpartition("-")[2]))


def _last_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The last complete checkpoint, and what is wrong with each that is newer."""
    broken = [f"{each} is unfinished" for each in sorted(folder.glob(f"{UNFINISHED}/checkpoint-*"))]
    for checkpoint in _checkpoints(folder):
        if (flaw := find_flaw(checkpoint)) is None:
            return checkpoint, broken
        broken.append(f"{checkpoint} {flaw}")
    return None, broken


def _read_json(file: Path) -> Any:
    """What a file holds, or None."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, (OSError, SafetensorError)) else f"is the disk full? torch says: {error}"
