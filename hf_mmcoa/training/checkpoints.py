"""Checkpoints that are either complete or absent, and the search for the last complete one to resume from.

The Trainer writes a checkpoint file by file, each process its own files, straight into `checkpoint-STEP`; a run that is
killed meanwhile leaves an incomplete folder that looks like the newest checkpoint. Here all files are written into
`_unfinished/`, their sizes are listed once every process is done, and one rename puts the folder in place. Older
checkpoints are deleted after that.
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
    """Make a Trainer write its checkpoints into `_unfinished/`, and rename them when they are complete."""

    def __init__(self) -> None:
        self._writing = False

    def folder(self, run_dir: str) -> str:
        """Return the folder in which the Trainer must create `checkpoint-STEP` now.

        Args:
            run_dir: the folder in which the complete checkpoint belongs.
        """
        return os.path.join(run_dir, UNFINISHED) if self._writing else run_dir

    @contextmanager
    def writing(self, trainer: Trainer, run_dir: str) -> Iterator[None]:
        """Make the checkpoint that the Trainer writes in the block complete or absent, and keep the last complete one.

        Args:
            trainer: the Trainer that saves.
            run_dir: the folder in which the complete checkpoint belongs.

        Raises:
            OSError: if the checkpoint cannot be written; no incomplete file is left, and the error says what to do.
        """
        args, accelerator, state = trainer.args, trainer.accelerator, trainer.state
        name = f"checkpoint-{state.global_step}"
        scratch, written = Path(run_dir, UNFINISHED), Path(run_dir, UNFINISHED, name)
        if args.local_process_index == 0:
            shutil.rmtree(scratch, ignore_errors=True)  # left by a run that was killed
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
                if args.local_process_index == 0 and written.exists():  # on a machine without the first one's disk
                    _put_in_place(written, Path(run_dir))
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)  # frees its space on a full disk
            raise
        finally:
            self._writing = False
        if args.should_save:
            _rotate(Path(run_dir), args.save_total_limit, state.best_model_checkpoint)
            shutil.rmtree(scratch, ignore_errors=True)


def checkpoint_to_resume(given: str | bool | None, output_dir: str) -> str | None:
    """Return the checkpoint that `resume_from_checkpoint` names; True (or "true") names the last complete one.

    Args:
        given: a checkpoint folder, a boolean or its name, or None.
        output_dir: the folder in which checkpoints are searched.

    Returns:
        The folder; None if `given` is None or false.

    Warns:
        UserWarning: if there are newer checkpoints that are incomplete; they are named.

    Raises:
        ValueError: if the folder is no complete checkpoint, or there is none; the text names the last complete one.
    """
    if isinstance(given, str) and given.lower() in ("true", "false"):  # from the command line
        given = given.lower() == "true"
    if not given:
        return None
    if given is True:
        last, broken = _last_checkpoint(Path(output_dir))
        if broken:
            then = f"The run goes on from {last}, the last complete one." if last else "None is complete."
            warnings.warn(
                f"incomplete checkpoints (writing was cut off, or files were changed): {'; '.join(broken)}. {then} "
                f"You need not do anything: the next save removes `{UNFINISHED}`, and other folders may be deleted.",
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
    """Return the complete checkpoint with the most steps in a folder, or None."""
    return _last_checkpoint(Path(folder))[0]


def find_flaw(checkpoint: Path) -> str | None:
    """Return why a folder is no complete checkpoint, such as "holds no trainer_state.json", or None if it is one.

    A checkpoint without a list of files was not written by this module. It counts as complete if its state, which the
    Trainer writes last, can be read.
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
    """Raise OSError, naming the folder and what to do, unless files and folders can be created in `output_dir`."""
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
            "Choose another folder with `output_dir`, or free space on the disk and get write permission."
        ) from error


@contextmanager
def _disk_errors_told(folder: str, step: int) -> Iterator[None]:
    """Turn disk errors in the block into one OSError that names the folder and what to do.

    torch and safetensors report a full disk by error types of their own, and torch does not name the cause.
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
            f"No incomplete file is left; {then}. "
            "Free some space (a checkpoint is written before an older one is deleted: `save_total_limit` plus one must "
            "fit) or get write permission"
            + (f", then go on with `resume_from_checkpoint={str(last)!r}`." if last else ", then start again.")
        ) from error


def _put_in_place(written: Path, run_dir: Path) -> None:
    """List the files, flush them to disk, and rename the folder."""
    files = [file for file in sorted(written.rglob("*")) if file.is_file()]
    sizes = {file.relative_to(written).as_posix(): file.stat().st_size for file in files}
    write_json(sizes, written / FILE_LIST)
    for path in (*files, written / FILE_LIST, *(path for path in written.rglob("*") if path.is_dir()), written):
        _synchronise(path)
    place = run_dir / written.name
    if place.exists():  # from another run, or from this run before it resumed from an earlier checkpoint
        os.replace(place, written.with_name("replaced"))
    os.replace(written, place)
    _synchronise(run_dir)


def _synchronise(path: Path) -> None:
    """Flush a file or folder to disk.

    Without it, a rename may survive a power failure while the contents of the renamed files do not.
    """
    if os.name != "posix":  # other systems cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_best(trainer: Trainer, run_dir: str, written: Path) -> None:
    """Correct the path of the best checkpoint in the Trainer's state.

    The Trainer looks for it beside the folder that it is writing, but it is, or will be, in `run_dir`.
    """
    state = trainer.state
    if not state.best_global_step:
        return
    best = os.path.join(run_dir, f"checkpoint-{state.best_global_step}")
    if state.best_global_step == state.global_step or os.path.isdir(best):
        state.best_model_checkpoint = best
        if trainer.args.should_save:
            state.save_to_json(str(written / STATE_FILE))


def _rotate(run_dir: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints down to `limit`, as the Trainer does, never the newest or the best one.

    Incomplete checkpoints are deleted before all others.
    """
    if limit is None or limit <= 0:
        return
    found = sorted(_checkpoints(run_dir), key=lambda each: (find_flaw(each) is None, each.stat().st_mtime_ns))
    kept = {found[-1]} | ({run_dir / Path(best).name} & set(found) if best else set())
    for folder in [each for each in found if each not in kept][: max(0, len(found) - max(limit, len(kept)))]:
        (run_dir / UNFINISHED).mkdir(exist_ok=True)
        os.replace(folder, run_dir / UNFINISHED / f"deleted-{folder.name}")  # so a kill leaves no partial one


def _checkpoints(folder: Path) -> list[Path]:
    """Return the `checkpoint-STEP` folders, those with the most steps first."""
    found = [each for each in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", each.name)]
    return sorted((each for each in found if each.is_dir()), key=lambda each: -int(each.name.rpartition("-")[2]))


def _last_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the last complete checkpoint, and the flaw of each newer one."""
    broken = [f"{each} is unfinished" for each in sorted(folder.glob(f"{UNFINISHED}/checkpoint-*"))]
    for checkpoint in _checkpoints(folder):
        if (flaw := find_flaw(checkpoint)) is None:
            return checkpoint, broken
        broken.append(f"{checkpoint} {flaw}")
    return None, broken


def _read_json(file: Path) -> Any:
    """Return the content of a JSON file, or None if it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, (OSError, SafetensorError)) else f"is the disk full? torch says: {error}"
