"""Errors of the Hub say what to do."""

from __future__ import annotations

from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from repositories import hub_error

from hf_mmcoa.data.load import load_benchmark


def test_gated_repository_says_what_to_accept_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (GatedRepoError, RepositoryNotFoundError):  # without a token the Hub may deny that it exists

        def refuse(*_: Any, kind: type[Exception] = kind, **__: Any) -> str:
            raise hub_error(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(PermissionError) as caught:
            load_benchmark("imagenet")
        for part in ("huggingface.co/datasets/ILSVRC/imagenet-1k", "HF_TOKEN", "clip-benchmark/wds_imagenet1k"):
            assert part in str(caught.value)
