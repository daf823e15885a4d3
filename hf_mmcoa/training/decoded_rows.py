"""The data sets that a trainer is given, as decoded rows with labels that fit its class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import datasets

from ..data.columns import resolve_columns
from ..data.labels import check_labels, check_order
from ..data.perturbation import perturbation_size
from ..data.rows import ImageRows, ImageStream
from ..objectives import Objective


class DecodedRows:
    """Decodes data sets, all in the same way.

    Args:
        class_names: of all data sets; None for captions.
        names_given: whether the user named them, and so for data sets of other names too.
        perturb_at: of the configuration.
        image_size: side of the model's square input, in pixels.
        image_processor: the model's.
    """

    def __init__(
        self,
        class_names: list[str] | None,
        names_given: bool,
        perturb_at: Literal["auto", "native", "model"],
        image_size: int,
        image_processor: Any,
    ) -> None:
        self.class_names, self.names_given, self.perturb_at = class_names, names_given, perturb_at
        self.image_size, self.image_processor = image_size, image_processor

    def __call__(self, dataset: Any, draw_captions: bool = False, num_captions: int = 1) -> Any:
        """Return a `datasets.Dataset`, or a dictionary of them, as decoded rows; anything else as it is.

        Args:
            dataset: what the trainer is given.
            draw_captions, num_captions: see `ImageRows`.

        Raises:
            ValueError: if its labels do not fit the class names.
        """
        if isinstance(dataset, dict):
            return {name: self(part, draw_captions, num_captions) for name, part in dataset.items()}
        if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            return dataset
        reader = ImageStream if isinstance(dataset, datasets.IterableDataset) else ImageRows
        rows = reader(
            dataset,
            perturb_at=perturbation_size(self.perturb_at, dataset, self.image_size),
            image_size=self.image_size,
            image_processor=self.image_processor,
            draw_captions=draw_captions,
            num_captions=num_captions,
        )
        if rows.columns.label is not None and self.class_names:
            feature = dataset.features[rows.columns.label]
            names = feature.names if isinstance(feature, datasets.ClassLabel) else self.class_names
            check_order(self.class_names, feature)
            if not self.names_given and list(names) != self.class_names:
                raise ValueError(
                    f"the data sets differ in their class names: {self.class_names[:5]}... and {list(names)[:5]}... "
                    "Evaluate on other classes with `evaluate_robustness`, or pass `class_names` for all."
                )
            if isinstance(dataset, datasets.Dataset):
                check_labels(dataset, rows.columns.label, len(self.class_names))
        return rows


def find_class_names(given: Sequence[str] | None, *data: Any) -> list[str] | None:
    """Return the names given, or those of the first data set's `ClassLabel`; None for captions."""
    if given is not None:
        return [str(name) for name in given]
    for dataset in data:
        if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            label = resolve_columns(dataset).label
            feature = dataset.features[label] if label is not None else None
            if isinstance(feature, datasets.ClassLabel):
                return list(feature.names)
    return None


def check_labels_for_objective(objective: Objective, class_names: list[str] | None, dataset: Any) -> None:
    """Check that the training data have the class labels that an objective needs.

    Raises:
        ValueError: if they have not; other objectives are named.
    """
    if not objective.needs_labels or not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        return
    if not class_names or resolve_columns(dataset).label is None:
        raise ValueError(
            f"the objective {type(objective).__name__} needs class labels, and the data set has "
            + ("no label column." if class_names else "no class names.")
            + " Name the classes with `class_names` and the column `label`, or take an objective that needs none: "
            "mmcoa, clean, fare, leaf, fare+leaf, mat, advflyp or sim-clip."
        )
