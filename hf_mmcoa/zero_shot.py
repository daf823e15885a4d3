"""A dual encoder with its class prompts as one image classifier, so that any attack library can attack it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from .data.prompts import DEFAULT_TEMPLATE, class_prompts
from .losses import zero_shot_logits
from .models import encoding, freezing
from .models.encoder import DualEncoder, load_clip
from .models.precision import measured_in_full_precision


class ZeroShotClassifier(nn.Module):
    """Map images in [0, 1] to class logits `s I P^T`, differentiably in the images.

    The prompt embeddings are cached, and computed again after a weight of the text encoder has changed. A compiled
    classifier does not notice such a change: read `prompt_embeds` after it. What `torch.export` and ONNX wrote keeps
    the old ones: read `prompt_embeds` and export again.

    Args:
        model: a `CLIPModel` or `SiglipModel`; of one with 16-bit weights a float32 copy is taken.
        processor: the processor that belongs to the model.
        class_names: at least two. They are lower-cased, and `_`, `-` and `/` become spaces (docs/methods.md, section
            1).
        template: a prompt with one `{}` for the class name, or several of them, whose embeddings are averaged (CLIP,
            section 3.1.4).
        on_out_of_range: "raise" refuses images that leave [0, 1] by more than rounding, such as 8-bit or normalised
            ones. "clamp" clamps them, for attacks of other libraries whose steps leave the range (docs/attacks.md). The
            gradient is that at the clamped image, and passes the clamp. See `models.encoding.pixels_in_range`.

    Raises:
        ValueError: if there are fewer than two classes, a template has not exactly one `{}`, a prompt is too long for
            the model, or `on_out_of_range` is neither.

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
        *,
        on_out_of_range: encoding.OnOutOfRange = "raise",
    ) -> None:
        super().__init__()
        if len(class_names) < 2:
            raise ValueError(f"`class_names` needs at least two classes to tell apart, got {list(class_names)}.")
        if on_out_of_range not in (choices := get_args(encoding.OnOutOfRange)):
            raise ValueError(f"`on_out_of_range` must be one of {', '.join(choices)}, got {on_out_of_range!r}.")
        self.model = model = measured_in_full_precision(model)
        self.on_out_of_range = on_out_of_range
        self.encoder = DualEncoder(model, processor)  # type: ignore[arg-type]
        self.class_names = list(class_names)
        templates = [template] if isinstance(template, str) else list(template)
        self._prompts = [class_prompts(self.class_names, one) for one in templates]  # (templates, classes)
        self.encoder.tokenize(
            [prompt for prompts in self._prompts for prompt in prompts]
        )  # raises now if a prompt is too long
        self._encoded_weights: list[nn.Parameter] = []
        self._encoded_state: list[object] = []
        self._prompt_embeds: Tensor
        self.register_buffer("_prompt_embeds", None, persistent=False)  # a compiled graph reads it at each call
        self._encode_prompts()

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        class_names: Sequence[str],
        template: str | Sequence[str] = DEFAULT_TEMPLATE,
        *,
        on_out_of_range: encoding.OnOutOfRange = "raise",
    ) -> ZeroShotClassifier:
        """Load the classifier from a model folder or a Hub id, in eval mode on the CPU.

        Args:
            model_name_or_path: a folder or Hub id of a CLIP or SigLIP.
            class_names: see the class.
            template: see the class.
            on_out_of_range: see the class.
        """
        return cls(*load_clip(model_name_or_path), class_names, template, on_out_of_range=on_out_of_range)

    @property
    def prompts(self) -> list[str]:
        """Return the prompt of each class with the first template."""
        return self._prompts[0]

    @property
    def prompt_embeds(self) -> Tensor:
        """Return the unit embedding of each class, averaged over the templates, (classes, dim), without gradient."""
        self._encode_prompts()
        return self._prompt_embeds

    def forward(self, images: Tensor) -> Tensor:
        """Return the class logits of images, (batch, classes).

        Args:
            images: in [0, 1], (batch, 3, height, width), of any size.

        Raises:
            ValueError: if the images have another shape, type or range.
        """
        images = encoding.pixels_in_range(images, self.on_out_of_range)
        return zero_shot_logits(self.encoder.encode_images(images), self.prompt_embeds, self.encoder.logit_scale)

    @torch.compiler.assume_constant_result  # run when a graph is compiled, and no part of the graph
    def _encode_prompts(self) -> None:
        """Encode the prompts again if the text encoder has changed.

        Raises:
            RuntimeError: if it has changed and `torch.export` has put weights without values in its place.
        """
        weights = freezing.tower_parameters(self.model, "text")
        if any(isinstance(weight, FakeTensor) for weight in weights):
            if self._encoded_state[2:] != [weight._version for weight in self._encoded_weights]:
                raise RuntimeError(
                    "the text encoder's weights have changed since the prompts were encoded. Read the classifier's "
                    "`prompt_embeds` once before `torch.export`."
                )
            return
        # A tensor's version rises with every in-place change, such as an optimizer step, but not with edits of `.data`.
        # The weights themselves are kept: an id may soon belong to another tensor.
        state = [weights[0].device, weights[0].dtype, *(weight._version for weight in weights)]
        same = len(weights) == len(self._encoded_weights) and all(map(operator.is_, weights, self._encoded_weights))
        if same and state == self._encoded_state:
            return
        # In full precision and outside inference mode, whatever the caller's mode: a later call may use another.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(weights[0].device.type, enabled=False):
            embeds = torch.stack([self.encoder.encode_texts(prompts) for prompts in self._prompts]).mean(0)
            self._prompt_embeds = nn.functional.normalize(embeds, dim=-1)
        self._encoded_weights, self._encoded_state = weights, state
