"""The push of a checkpoint folder to the Hub: card, safetensors, processor, arguments and results, in one commit.

There is only one commit, so a push that is cut off leaves the repository as it was and the same call repeats it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token, metadata_load
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from torch import nn

from .._version import __version__
from ..file_names import CARD_FILE, PICTURE_FILE, RESULTS_FOLDER
from ..io import read_json, write_text
from ..models import lora
from .card import TAG, card_of
from .local_folder import write_folder
from .measurements import measurements
from .model_folder import MERGED_FOLDER, PICKLES, WEIGHTS, Checkpoint, hub_id, read_checkpoint

MERGED_NOTE = (
    "It was trained as a LoRA adapter and merged into its base model; the numbers below were measured before or after "
    "merging, which differ by rounding."
)
# Files that an earlier push may have left in a repository, and that a later push deletes unless it replaces them.
_REPLACED: tuple[str, ...] = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "adapter_config.json",
    PICTURE_FILE,
)
_REPLACED += (f"{RESULTS_FOLDER}/*.json", "robustness*.json", *PICKLES)
_TELLING = ("model_type", "base_model_name_or_path")  # names that are compared, beside all whole numbers
_NO_CONTENT = (".gitattributes", CARD_FILE, "LICENSE")  # a repository with only these counts as empty


@dataclass(frozen=True, kw_only=True)
class Package:
    """The content of a push.

    Args:
        checkpoint: the model to publish; for a merged adapter, the merged model.
        files: path in the repository -> its content, a file or bytes.
        left_out: the files of the folder that are not published; for result files, a message with the reason.
    """

    checkpoint: Checkpoint
    files: Mapping[str, Path | bytes]
    left_out: Sequence[str]


def push(
    folder: str | Path,
    repo_id: str,
    *,
    results: Sequence[str | Path] = (),
    private: bool = False,
    revision: str | None = None,
    merge: bool = False,
    overwrite: bool = False,
    base_model: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> tuple[Package, CommitInfo]:
    """Write a folder's card and push the folder's published files.

    Args:
        folder: a `CLIPModel`, a `SiglipModel` or an adapter, as safetensors.
        repo_id: "owner/name", created if it does not exist; "name" alone belongs to the token's user.
        results: see `model_card`; files from elsewhere are put into `results/`.
        private: create the repository as a private one.
        revision: branch, created from main if it does not exist.
        merge: for an adapter: write and push the plain model of adapter and base model.
        overwrite: allow replacing another model in the repository, and a card in the folder that was written by hand.
        base_model: Hub id of the base model, if the files name a local folder or none.
        license: see `model_card`.
        token: a token with write access; None takes that of `hf auth login` or HF_TOKEN.

    Returns:
        The pushed files, and the commit.

    Raises:
        FileNotFoundError: if the folder or a given result file is missing.
        ValueError: if there is nothing that may be published, the repository holds something else, or the Hub refuses
            the card.
        PermissionError: if there is no token, or it may not write there.
        ConnectionError: if the push broke off; the folder and its card are complete, and the same call repeats the
            push.
    """
    api = connect(token)
    with telling(repo_id, folder):
        repo_id = full_id(api, repo_id)
    package = pack(
        folder,
        repo_id,
        results=results,
        merge=merge,
        other_card="replace" if overwrite else "refuse",
        base_model=base_model,
        license=license,
    )
    with telling(repo_id, folder):
        open_repository(
            api,
            repo_id,
            package.checkpoint.config,
            private=private,
            revision=revision,
            overwrite=overwrite,
        )
        return package, send(api, repo_id, package.files, f"Push {package.checkpoint.folder.resolve().name}", revision)


def push_to_folder(
    folder: str | Path,
    target: str | Path,
    repo_id: str | None = None,
    *,
    results: Sequence[str | Path] = (),
    merge: bool = False,
    overwrite: bool = False,
    base_model: str | None = None,
    license: str | None = None,
) -> Package:
    """Write what `push` would send into a local folder; nothing is uploaded and no token is needed.

    Args:
        folder: see `push`, as for the other arguments.
        target: new, empty, or a folder that an earlier call filled.
        repo_id: name that the card's code uses; None for the path of `target`.
        results: see `push`.
        merge: see `push`.
        overwrite: allow replacing another content of `target`, and a card in `folder` that was written by hand.
        base_model: see `push`.
        license: see `push`.

    Returns:
        The written files.

    Raises:
        FileNotFoundError: see `push`.
        ValueError: see `push`; also if `target` is the folder itself or holds something else.
    """
    target = Path(target).expanduser()
    if target.resolve() == Path(folder).resolve():
        raise ValueError(f"`to_folder`: {target} is the folder of the checkpoint itself: name another one.")
    if target.exists() and not target.is_dir():
        raise ValueError(f"`to_folder`: {target} is a file: name a folder.")
    if target.is_dir() and any(target.iterdir()) and not overwrite and not _is_ours_in(target):
        raise ValueError(
            f"`to_folder`: {target} holds files that hf-mmcoa push did not write: name a new folder, or give "
            "--overwrite to write between them."
        )
    other_card: Literal["refuse", "replace"] = "replace" if overwrite else "refuse"
    package = pack(
        folder,
        repo_id,
        where=None if repo_id else str(target),
        results=results,
        merge=merge,
        other_card=other_card,
        base_model=base_model,
        license=license,
    )
    write_folder(package.files, target, _REPLACED)
    return package


def pack(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    results: Sequence[str | Path] = (),
    merge: bool = False,
    other_card: Literal["refuse", "replace", "keep"] = "refuse",
    base_model: str | None = None,
    license: str | None = None,
    model: nn.Module | None = None,
    **metadata: Any,
) -> Package:
    """Write a folder's card (`README.md`) and return what a push of the folder sends.

    Nothing is sent. The base model of an adapter may be downloaded, to check whether the results belong to these
    weights.

    Args:
        folder: see `push`, as for the other arguments.
        repo_id: None for a card without a push: an adapter's base model may then be a local folder.
        results: see `push`.
        merge: see `push`.
        other_card: action for a README.md that hf_mmcoa did not write: "refuse" raises ValueError, "replace" overwrites
            it, "keep" leaves it.
        base_model: see `push`.
        license: see `push`.
        model: the weights of the folder, if they are in memory already.
        **metadata: `language` and `tags` of the card, and `where`, the path that its code names without a `repo_id`.
    """
    checkpoint = read_checkpoint(folder)
    measured = measurements(checkpoint.folder, results, checkpoint.fingerprints(model))
    base_model, note = base_model or checkpoint.base_model, ""
    changed: dict[str, Path | bytes] = {}
    if merge:
        checkpoint, note = _merged(checkpoint), MERGED_NOTE
    elif checkpoint.is_adapter and repo_id is not None:
        base = hub_id(base_model)
        if base is None:
            raise ValueError(
                f"the adapter in {folder} belongs to {base_model!r}, which is not on the Hub, so others could not load "
                "it. Name the base model's Hub id (--base_model), or push adapter and base model as one (--merge)."
            )
        if base != checkpoint.config.get("base_model_name_or_path"):
            config = checkpoint.config | {"base_model_name_or_path": base}
            changed["adapter_config.json"] = json.dumps(config, indent=2).encode()
    card_file = checkpoint.folder / CARD_FILE
    foreign = card_file.is_file() and not _is_ours(card_file) and not _is_draft(card_file)
    if foreign and other_card == "refuse":
        raise ValueError(
            f"{card_file} was not written by hf_mmcoa and would be replaced by its card: move it, or give --overwrite."
        )
    if not (foreign and other_card == "keep"):
        known: dict[str, Any] = {"repo_id": repo_id, "base_model": base_model, "license": license, "note": note}
        write_text(str(card_of(checkpoint, measured, **known, **metadata)), card_file)
    own: dict[str, Path | bytes] = {file.name: file for file in checkpoint.files()}
    files = own | measured.files | changed | {CARD_FILE: card_file}
    beside = sorted(path.name for path in checkpoint.folder.iterdir() if not path.name.startswith((".", "_")))
    left_out = [name for name in beside if name not in files and name not in (RESULTS_FOLDER, MERGED_FOLDER)]
    return Package(checkpoint=checkpoint, files=files, left_out=[*left_out, *measured.left_out])


def connect(token: str | None = None) -> HfApi:
    """Return a client of the Hub with a token.

    Raises:
        PermissionError: if there is no token.
    """
    token = token or get_token()
    if not token:
        raise PermissionError(
            "there is no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token with write access "
            "(huggingface.co/settings/tokens)."
        )
    return HfApi(token=token, library_name=TAG, library_version=__version__)


def full_id(api: HfApi, repo_id: str) -> str:
    """Return "user/name" for a "name" of the token's user, and any other id unchanged."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def open_repository(
    api: HfApi,
    repo_id: str,
    config: Mapping[str, Any],
    *,
    private: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
) -> None:
    """Create a repository and a branch unless they exist, and check that they hold no other model.

    Args:
        api: the result of `connect`.
        repo_id: "owner/name".
        config: configuration of the model, or of the adapter, that is to be pushed.
        private: require that the repository is private.
        revision: branch; None for main.
        overwrite: do not check the content.

    Raises:
        ValueError: if the repository is public and must not be, or holds another model; the text says which.
    """
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private or None, exist_ok=True)  # it may exist, hidden from this token
    else:
        if private and not info.private:
            raise ValueError(f"{repo_id} exists and is public: make it private in its settings, or push elsewhere.")
        if not overwrite:
            _check_content(api, repo_id, config, revision)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def send(
    api: HfApi,
    repo_id: str,
    files: Mapping[str, Path | bytes],
    message: str,
    revision: str | None = None,
    background: bool = False,
) -> Any:
    """Make the published files of a repository's branch equal to `files`, in one commit; files of other kinds stay.

    Args:
        api: the result of `connect`.
        repo_id: "owner/name".
        files: see `Package`.
        message: message of the commit.
        revision: branch; None for main.
        background: return a `Future` at once.

    Returns:
        `CommitInfo`, or a `Future` of it.
    """
    there = api.list_repo_files(repo_id, revision=revision)
    gone = [name for name in there if name not in files and any(fnmatch(name, one) for one in _REPLACED)]
    operations: list[Any] = [CommitOperationAdd(name, files[name]) for name in sorted(files)]
    operations += [CommitOperationDelete(name) for name in gone]
    commit: Any = api.create_commit
    return commit(repo_id, operations, commit_message=message, revision=revision, run_as_future=background)


@contextlib.contextmanager
def telling(repo_id: str, folder: str | Path) -> Iterator[None]:
    """Turn errors on the way to the Hub, while the block runs, into errors that say what the user can do."""
    try:
        yield
    except (ValueError, PermissionError):
        raise
    except Exception as error:
        # The errors of the HTTP library, which differs between releases of huggingface_hub, are no OSErrors.
        if not (isinstance(error, (OSError, RuntimeError)) or type(error).__module__.startswith("httpx")):
            raise
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HfHubHTTPError):
            cause = cause.__cause__
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if status in (401, 403):
            raise PermissionError(
                f"the Hub does not let this token write to {repo_id} ({status}). Use one with write access: "
                "`hf auth login`, or HF_TOKEN."
            ) from error
        raise ConnectionError(
            f"the push to {repo_id} broke off: {error or type(error).__name__}. The repository is unchanged; {folder} "
            "and its card are complete, and the same command repeats the push."
        ) from error


def _merged(adapter: Checkpoint) -> Checkpoint:
    """Write the plain model of an adapter into a folder beside it, with its processor and arguments, and return it."""
    if not adapter.is_adapter:
        raise ValueError(f"`merge`: {adapter.folder} holds a whole model, not an adapter: push it without `merge`.")
    folder = adapter.folder / MERGED_FOLDER
    folder.mkdir(exist_ok=True)
    lora.merge(adapter.model()).save_pretrained(folder)  # type: ignore[arg-type]
    for file in adapter.files():
        if not fnmatch(file.name, WEIGHTS[True]) and file.name != "adapter_config.json":
            shutil.copy(file, folder)
    return read_checkpoint(folder)


def _is_ours(card_file: Path) -> bool:
    """Return True if this library wrote a card."""
    try:
        return TAG in ((metadata_load(card_file) or {}).get("tags") or [])
    except (ValueError, TypeError, AttributeError, yaml.YAMLError):  # the file is untrusted
        return False


def _is_ours_in(folder: Path) -> bool:
    """Return True if a folder holds a card that this library wrote."""
    return (folder / CARD_FILE).is_file() and _is_ours(folder / CARD_FILE)


def _is_draft(card_file: Path) -> bool:
    """Return True if a card is the draft that the Trainer or peft writes for the user to complete."""
    text = card_file.read_text(encoding="utf-8", errors="replace").lower()
    return "more information needed" in text


def _check_content(api: HfApi, repo_id: str, config: Mapping[str, Any], revision: str | None) -> None:
    try:
        names = api.list_repo_files(repo_id, revision=revision)
    except RevisionNotFoundError:
        names, revision = api.list_repo_files(repo_id), None  # a new branch starts from main
    content = [name for name in names if name not in _NO_CONTENT]
    if not content:
        return

    def remote(name: str) -> Path | None:
        return Path(api.hf_hub_download(repo_id, name, revision=revision)) if name in names else None

    card, file = remote(CARD_FILE), remote("adapter_config.json") or remote("config.json")
    theirs = _json_object(file)
    kind = "an adapter" if "peft_type" in theirs else theirs.get("model_type")
    if card is None or not _is_ours(card):
        problem = "and was not pushed by hf-mmcoa"
    elif ("peft_type" in theirs) != ("peft_type" in config):
        problem = "where this is " + ("an adapter" if "peft_type" in config else "a whole model")
    elif sizes := _other_sizes(theirs, config):
        problem = f"of another architecture ({', '.join(sizes)})"
    else:
        return
    raise ValueError(
        f"{repo_id} holds something else: {kind or 'no model'}, {problem}; {len(content)} files, among them "
        f"{', '.join(content[:4])}. Push to another id, or give --overwrite to replace it."
    )


def _json_object(file: Path | None) -> dict[str, Any]:
    """Return the content of an untrusted configuration; empty if it is missing or no JSON object."""
    with contextlib.suppress(ValueError, OSError):
        content = {} if file is None else read_json(file)
        return content if isinstance(content, dict) else {}
    return {}


def _other_sizes(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the fields in which two configurations differ: whole numbers and `_TELLING`, if both have them."""
    found = []
    for key in theirs.keys() & ours.keys():
        one, other = theirs[key], ours[key]
        if isinstance(one, dict) and isinstance(other, dict):
            found += _other_sizes(one, other, f"{prefix}{key}.")
        elif one != other and (key in _TELLING or (type(one) is type(other) is int and "token_id" not in key)):
            found.append(f"{prefix}{key} {one} and {other}")
    return sorted(found)
