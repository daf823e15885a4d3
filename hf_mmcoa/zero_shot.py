"""A dual encoder with its class prompts as one image classifier, so that any attack library can attack it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .data.prompts import DEFAULT_TEMPLATE, class_prompts
from .losses import zero_shot_logits
from .models import encoding, freezing
from .models.encoder import DualEncoder, load_clip
from .models.precision import measured_in_full_precision


class ZeroShotClassifier(nn.Module):
    """Map images in [0, 1] to class logits `s I P^T`, differentiably in the images.

    The prompt embeddings are cached, and computed again after a weight of the text encoder has changed.

    Args:
        model: a `CLIPModel` or `SiglipModel`; of one with 16-bit weights a float32 copy is taken.
        processor: the processor that belongs to the model.
        class_names: at least two. They are lower-cased, and `_`, `-` and `/` become spaces (docs/methods.md, section
            1).
        template: a prompt with one `{}` for the class name, or several of them, whose embeddings are averaged (CLIP,
            section 3.1.4).

    Raises:
        ValueError: if there are fewer than two classes, a template has not exactly one `{}`, or a prompt is too long
            for the model.

    Example:
        >>> classifier = ZeroShotClassifier.from_pretrained("my/clip", ["cat", "dog"])  # doctest: +SKIP
        >>> classifier(torch.rand(1, 3, 32, 32)).softmax(-1)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        processor: object,
        class_names: Sequence[str],
        template: str | Sequence[str] = DEFAULT_TEMPLATE,
    ) -> None:
        super().__init__()
        if len(class_names) < 2:
            raise ValueError(f"`class_names` needs at least two classes to tell apart, got {list(class_names)}.")
        self.model = model = measured_in_full_precision(model)
        self.encoder = DualEncoder(model, processor)  # type: ignore[arg-type]
        self.class_names = list(class_names)
        templates = [template] if isinstance(template, str) else list(template)
        self._prompts = [class_prompts(self.class_names, one) for one in templates]  # (templates, classes)
        self.encoder.tokenize(
            [prompt for prompts in self._prompts for prompt in prompts]
        )  # raises now if a prompt is too long
        self._cached: tuple[object, Tensor] | None = None

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        class_names: Sequence[str],
        template: str | Sequence[str] = DEFAULT_TEMPLATE,
    ) -> ZeroShotClassifier:
        """Load the classifier from a model folder or a Hub id, in eval mode on the CPU.

        Args:
            model_name_or_path: a folder or Hub id of a CLIP or SigLIP.
            class_names: see the class.
            template: see the class.
        """
        return cls(*load_clip(model_name_or_path), class_names, template)

    @property
    def prompts(self) -> list[str]:
        """Return the prompt of each class with the first template."""
        return self._prompts[0]

    @property
    def prompt_embeds(self) -> Tensor:
        """Return the unit embedding of each class, averaged over the templates, (classes, dim), without gradient."""
        # A tensor's version rises with every in-place change, such as an optimizer step, but not with edits of `.data`.
        parameters = freezing.tower_parameters(self.model, "text")
        key = (parameters[0].device, parameters[0].dtype, tuple((id(weight), weight._version) for weight in parameters))
        if self._cached is None or self._cached[0] != key:
            # In full precision and outside inference mode, whatever the caller's mode: a later call may use another.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(parameters[0].device.type, enabled=False):
                embeds = torch.stack([self.encoder.encode_texts(prompts) for prompts in self._prompts]).mean(0)
                self._cached = (key, nn.functional.normalize(embeds, dim=-1))
        return self._cached[1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the class logits of images, (batch, classes).

        Args:
            images: in [0, 1], (batch, 3, height, width), of any size.

        Raises:
            ValueError: if the images have another shape, type or range.
        """
        if not torch.compiler.is_compiling():
            encoding.check_images(images)
        return zero_shot_logits(self.encoder.encode_images(images), self.prompt_embeds, self.encoder.logit_scale)
