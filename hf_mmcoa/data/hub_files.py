"""Files of Hub repositories: list them, and download only those that are needed, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError


class NoNetworkError(FileNotFoundError):
    """Raised when files are not in the cache and there is no network to download them."""


def list_repository(hub_id: str) -> list[str]:
    """List the paths of a repository's files; without a network, of those in the cache.

    Raises:
        FileNotFoundError: if there is no such repository, or no network and none of its files in the cache.
        PermissionError: if the repository is gated and no token with access is set.
    """
    try:
        return sorted(huggingface_hub.HfApi().list_repo_files(hub_id, repo_type="dataset"))
    except GatedRepoError as error:
        raise _gated(hub_id) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"`name`: the Hub has no data set {hub_id!r}, or it is private and no token is set."
        ) from error
    except Exception as error:
        if not is_network_error(error):
            raise
        root = download(hub_id, None, None, gated=False, cached=True)  # or an error that says where it looked
        files = sorted(p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file())
        if not files:
            raise FileNotFoundError(f"{hub_id}: no network, and none of its files in {root}.") from error
        return files


def download(
    hub_id: str, revision: str | None, patterns: list[str] | None, gated: bool, hint: str = "", cached: bool = False
) -> str:
    """Download the files that match `patterns`, unless they are in the cache.

    Args:
        hub_id: the repository.
        revision: commit; None for the main branch.
        patterns: globs of the files; None for all files.
        gated: whether the repository is known to be gated. The Hub may deny that it exists to those without access.
        hint: a sentence that ends the message of the PermissionError.
        cached: look in the cache only.

    Returns:
        The folder of the cache that holds the files, laid out as in the repository.

    Raises:
        FileNotFoundError: naming the files; `NoNetworkError` if they are not in the cache and cannot be downloaded.
        PermissionError: if the repository is gated and no token with access is set.
    """
    missing = ", ".join(p for p in patterns or ["all files"] if p != "README.md")
    try:
        return str(
            huggingface_hub.snapshot_download(
                hub_id, repo_type="dataset", revision=revision, allow_patterns=patterns, local_files_only=cached
            )
        )
    except GatedRepoError as error:
        raise _gated(hub_id, hint) from error
    except LocalEntryNotFoundError as error:
        raise _no_network(hub_id, revision, missing) from error
    except RepositoryNotFoundError as error:
        if gated:
            raise _gated(hub_id, hint) from error
        raise FileNotFoundError(f"{missing}: the Hub has no data set {hub_id!r} that this token can see") from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"{missing} of {hub_id}: {error}") from error


def is_network_error(error: Exception) -> bool:
    """Return whether `error` means offline mode or no connection to the Hub.

    The HTTP library below huggingface_hub differs between versions, hence the look at the module's name.
    """
    if isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError)):
        return False
    return isinstance(error, ConnectionError) or type(error).__module__.startswith(("httpx", "requests"))


def _no_network(hub_id: str, revision: str | None, missing: str) -> NoNetworkError:
    folder = Path(hub_constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}"
    return NoNetworkError(
        f"no network, and {missing} of {hub_id}{f' at {revision[:8]}' if revision else ''} not in {folder}"
    )


def _gated(hub_id: str, hint: str = "") -> PermissionError:
    return PermissionError(
        f"{hub_id} is gated: accept its terms at https://huggingface.co/datasets/{hub_id}, then log in with "
        f"`hf auth login` or set HF_TOKEN to a token of that account. {hint}".rstrip()
    )
