"""Read the located files of one split by the `datasets` library's own loaders and explicit lists of files.

No script of a repository runs, no other split is read, and a webdataset of one tar is not mistaken for text.
"""

from __future__ import annotations

import re
from typing import Any

import datasets

from .benchmarks import Source
from .hub_files import is_network_error
from .idx import read_idx
from .layout import Files, have_class_folders, splits_with_classes


def read_split(source: Source, hub_split: str, root: str, files: Files, streaming: bool) -> Any:
    """Read one of the repository's splits with the repository's own columns.

    Args:
        source: says how the files are read.
        hub_split: the repository's name of the split.
        root: folder or hf:// address that holds the files.
        files: paths or addresses of the files of each split.
        streaming: return a `datasets.IterableDataset` in place of a `datasets.Dataset`.

    Raises:
        ValueError: if the split is empty, or a file is broken.
        FileNotFoundError: if files are streamed and there is no network.
    """
    if source.format == "embedded":
        dataset = _embedded(source, hub_split)
    elif source.format == "idx":
        dataset = read_idx(files[hub_split])
    elif source.format == "saved":
        saved = datasets.load_from_disk(*files[hub_split] or [root])
        dataset = saved[hub_split] if isinstance(saved, datasets.DatasetDict) else saved
    else:
        wanted, options = {hub_split: files[hub_split]}, {}
        if source.format == "imagefolder":
            wanted = splits_with_classes(files, hub_split)
            options = {"drop_labels": False} if have_class_folders(wanted) else {}
        try:
            return datasets.load_dataset(
                source.format,
                data_files={re.sub(r"\W", "_", s): paths for s, paths in wanted.items()},
                split=re.sub(r"\W", "_", hub_split),
                streaming=streaming,
                verification_mode="no_checks",  # they want all splits; `Source.counts` checks the one in use
                **options,
            )
        except ValueError as error:
            if "corresponds to no data" in str(error):
                raise ValueError(f"split {hub_split!r} of {root} is empty.") from error
            raise
        except Exception as error:
            if is_network_error(error):  # only when streaming: other files are on the disk by now
                missing = ", ".join(path.removeprefix(f"{root}/") for path in wanted[hub_split])
                raise FileNotFoundError(
                    f"no network, and streaming {source.hub_id} reads {missing} from {root}. Use `streaming=False` for "
                    "files in the cache, or `data_dir` for a local copy."
                ) from error
            raise
    return dataset.to_iterable_dataset() if streaming else dataset


def _embedded(source: Source, hub_split: Any) -> datasets.Dataset:
    """Return a data set of this package; `locate` has checked the split against the source's."""
    if source.hub_id == "pictograms":
        from .pictograms import load_pictograms

        return load_pictograms(hub_split, concepts=source.config)  # type: ignore[arg-type]  # of our own yaml
    from .digits import load_digits  # imports scikit-learn, which takes a second

    return load_digits(hub_split)
