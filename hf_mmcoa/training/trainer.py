"""`MMCoATrainer`: transformers' `Trainer` with the attack inside `compute_loss` and the defence as an object."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from transformers import EvalPrediction, ProcessorMixin, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerControl, TrainerState

from ..attacks.bert_attack import BertAttack
from ..attacks.contracts import ImageAttack, TextAttack
from ..attacks.image_losses import embedding_loss
from ..attacks.levenshtein import LevenshteinAttack
from ..attacks.out_of_memory import HalvingOnOutOfMemory
from ..attacks.pgd import PGD
from ..attacks.pieces import in_pieces
from ..attacks.settings import pixels
from ..attacks.text_embedding import TextEmbeddingPGD
from ..config import MMCoAConfig
from ..data.columns import resolve_columns
from ..data.labels import check_labels
from ..data.perturbation import perturbation_size
from ..data.prompts import class_prompts
from ..data.rows import ImageRows, ImageStream, collate
from ..file_names import ARGUMENTS_FILE
from ..losses import class_targets, zero_shot_logits
from ..models import encoding, freezing
from ..models.architectures import towers_of
from ..models.encoder import DualEncoder
from ..models.lora import TARGET_MODULES, add_lora
from ..objectives import FARE, LEAF, PMGAFT, TGAZSR, Clean, Embeddings, FAREAndLEAF, MMCoA, Objective, TeCoA
from ..substitutes.masked_lm import MaskedLMCandidates
from ..substitutes.misaligned import LeftNeighboursCandidates
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from .checkpoints import CheckpointWriter, check_writable, checkpoint_to_resume
from .distributed import WholeCopy, check_sharding, gather_rows, left_unprepared, load_scalars, own_rows, pad_rows
from .interruption import StopOnSignal
from .publishing import PublishingTrainer
from .tracking import AttackedImages, attack_figures

THREATS = ("clean", "image", "text", "multimodal")

logger = logging.getLogger(__name__)


class MMCoATrainer(PublishingTrainer):
    """Adversarial fine-tuning of a `CLIPModel` or `SiglipModel`, and a `Trainer` in every other respect.

    Rows hold an image and a label, whose text is its class prompt, or an image and a text, or all three (then the text
    is the row's own and the label says which texts may be exchanged). Images are attacked away from their text among
    all class prompts, or among the batch's texts where rows have their own; texts are attacked without the image.

    `evaluate()` reports `eval_clean_accuracy`, `eval_image_accuracy`, `eval_text_accuracy` and
    `eval_multimodal_accuracy` (worst case over image, text and both) under the training attack: a monitor for model
    selection, weaker than `evaluate_robustness`. Logged in training beside the loss: the objective's own terms
    (`loss_image`, `loss_text`, ...), unweighted, averaged since the last log, and what the attacks did
    (`image_attack_success`, `image_perturbation`, ...; docs/tracking.md).

    Args:
        model: a `CLIPModel` or `SiglipModel`, changed in place; freezing a tower sets its `requires_grad`.
        args: the configuration.
        train_dataset: a `datasets.Dataset`, see above.
        eval_dataset: the same, or a dictionary of them.
        processing_class: the model's `CLIPProcessor` or `SiglipProcessor`; saved beside every checkpoint.
        class_names: read off the data set's `ClassLabel` when None.
        objective: an `Objective`; built from `args.objective` when None. With one, `args.text_attack="auto"` is words
            alone.
        teacher: the frozen pretrained encoders f0 and g0, for objectives that read them; the model as it is given when
            None. Never trained and never saved.
        image_attack: PGD as `args` say when None.
        text_attack: what replaces words, or characters if it is a `LevenshteinAttack`; as `args` say when None. With
            `args.text_attack="auto"` it is the only one.
        candidates: where that takes its substitutes from (`SynonymTable`, ...); what `args` name when None.
        model_init: makes the model, instead of `model`; as `Trainer`'s.
        **kwargs: everything else that `Trainer` takes: callbacks, optimizers, compute_metrics, ...

    Raises:
        TypeError: if model or processor are no dual encoder's.
        ValueError: if model, processor, data and names do not fit together.

    Example:
        >>> trainer = MMCoATrainer(model, MMCoAConfig("out"), data, processing_class=processor)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> trainer.save_model("robust-clip")  # a plain CLIPModel folder  # doctest: +SKIP
    """

    args: MMCoAConfig
    run_settings: Mapping[str, Any] = {}
    """What repeats the run beside `args`: model, data. `hf-mmcoa train` sets it; goes into training_args.yaml."""
    stops_on_signals: bool = True
    """Whether Ctrl-C and SIGTERM stop `train()` after the step, with a checkpoint, and not in its middle."""

    def __init__(
        self,
        model: nn.Module | None = None,
        args: MMCoAConfig | None = None,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | dict[str, datasets.Dataset] | None = None,
        processing_class: ProcessorMixin | None = None,
        class_names: Sequence[str] | None = None,
        objective: Objective | None = None,
        teacher: nn.Module | None = None,
        image_attack: ImageAttack | None = None,
        text_attack: TextAttack | None = None,
        candidates: CandidateSource | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else MMCoAConfig(output_dir="mmcoa_output")
        if text_attack is not None or objective is not None:
            args.use_words_only()
        if (model is None) == (model_init is None):
            raise ValueError("pass one of `model` and `model_init`.")
        first_model = model if model is not None else _first_model(model_init)
        encoder = DualEncoder(first_model, processing_class)  # type: ignore[arg-type]  # it refuses None
        self._names_given = class_names is not None
        self.class_names = _find_class_names(class_names, train_dataset, eval_dataset)
        self.prompts = class_prompts(self.class_names, args.template) if self.class_names else None
        if self.prompts:
            encoder.tokenize(self.prompts)  # a prompt that is longer than the context fails here
        self._image_size = encoder.image_size
        self._perturb_setting = args.perturb_at
        self.objective: Objective = objective if objective is not None else _objective(args, encoder.image_size)
        self._check_labels_for_objective(train_dataset)
        self._processor, self._given_teacher = processing_class, teacher
        self._teacher: DualEncoder | None = None
        if model is not None:
            model = _freeze(model, args, self.objective)
            self._take_teacher(model, args)

        self._cached_encoder: DualEncoder | None = None
        self._whole: WholeCopy | None = None
        self._compiled: tuple[DualEncoder, Any] | None = None  # the encoder, and its `encode_images` compiled
        self._halving = HalvingOnOutOfMemory()
        self._checkpoints = CheckpointWriter()
        if not Path(str(args.output_dir)).is_dir():  # the Trainer makes it, and says less
            check_writable(str(args.output_dir))
        user_metrics = kwargs.pop("compute_metrics", None)
        kwargs.setdefault("data_collator", collate)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._rows(train_dataset),
            eval_dataset=self._rows(eval_dataset),
            processing_class=processing_class,
            model_init=model_init,  # type: ignore[arg-type]
            compute_metrics=lambda prediction: (
                _accuracies(prediction) | (user_metrics(prediction) if user_metrics else {})
            ),
            **kwargs,
        )
        self._keep_whole()
        if args.device.type == "cpu":
            args.dataloader_pin_memory = False  # pinning is for copies to an accelerator; torch warns without one
        self.model_accepts_loss_kwargs = False  # our loss is a batch mean: the Trainer divides it when it accumulates
        self.add_callback(_ClampLogitScale())
        self._stop_on_signal = StopOnSignal(self)
        self.add_callback(self._stop_on_signal)
        if args.log_images_every:
            self.add_callback(AttackedImages(self, eval_dataset, train_dataset, every=args.log_images_every))
        self.image_attack = image_attack if image_attack is not None else _image_attack(args)
        self._given_candidates = candidates
        self._builds_text_attack = text_attack is None and "words" in args.text_attack
        self.text_attack: Any = self._build_word_attack() if self._builds_text_attack else text_attack
        given = isinstance(text_attack, LevenshteinAttack)
        self.character_attack: Any = text_attack if given else LevenshteinAttack(max_edits=args.max_changes)
        self.embedding_attack = TextEmbeddingPGD(rho=args.rho or 0.0, num_steps=args.num_text_steps)
        self._term_sums: dict[str, Any] = {}
        self._terms_summed = 0
        self._figure_sums: dict[str, Any] = {}  # of each figure (sum, count), (2,)
        self._batch_of_step = (-1, 0)
        self._evaluation_texts: list[Tensor] | None = None
        self._frozen_prompts: Tensor | None = None

    # The objective

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Attack the batch, encode what the objective reads in one forward, and weigh (METHODS, section 2).

        Args:
            model: as the Trainer wrapped it.
            inputs: a batch of `collate`.
            return_outputs: also return the `Embeddings`.
            num_items_in_batch: unused: the loss is a mean over the global batch.

        Returns:
            The loss, scalar.

        Raises:
            FloatingPointError: if the loss is not finite; the batch's row ids are saved first.
        """
        self.whole_model()
        batch = self._teach(self._read(inputs, own_texts=not self.objective.needs_labels))
        if not torch.isfinite(batch.anchors).all():  # the attacks would trip over it first, and not name the rows
            self._stop_non_finite(batch.anchors.sum(), inputs)
        views = self.objective.views
        generator = self._training_generator()
        adv_images, iterates = self._attack_images(batch, generator) if "adv_images" in views else (None, [])
        adv_texts, adv_text_ids = self._attack_drawn_texts(batch) if "adv_texts" in views else ([], None)

        embeds = self._encode(model, batch, adv_images, iterates, adv_texts, adv_text_ids)
        loss, terms = self.objective(embeds)

        if not torch.isfinite(loss):
            self._stop_non_finite(loss, inputs)
        for name, term in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + term.detach()
        self._terms_summed += 1
        for name, figure in attack_figures(self, batch, embeds, adv_images, adv_texts).items():
            self._figure_sums[name] = self._figure_sums.get(name, 0) + figure
        return (loss, embeds) if return_outputs else loss

    def _attack_images(self, batch: _Batch, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Images moved away from what the objective says, and the points at which the attack took its gradients."""
        scale = self._attacked_scale
        iterates: list[Tensor] = []
        stops = self.args.attack_early_stop and self.objective.image_attack_target == "class"
        standing = torch.ones_like(batch.anchor_ids, dtype=torch.bool) if stops else None

        def class_loss(images: Tensor, rows: Tensor) -> Tensor:  # CE(s f(x') P^T, y), METHODS section 3
            logits, own = zero_shot_logits(self._encode_images(images), batch.anchors, scale), batch.anchor_ids[rows]
            loss = F.cross_entropy(logits, own, reduction="none")
            if standing is None:
                return loss
            standing[rows] = logits.detach().argmax(1) == own
            return loss * standing[rows]

        def teacher_loss(images: Tensor, rows: Tensor) -> Tensor:  # ||f(x') - f0(x)||^2, un-normalised
            with self.accelerator.autocast():
                features, _ = self._encoder.image_features(images)
            return embedding_loss(features, batch.teacher["teacher_image_features"][rows])

        rows_loss = teacher_loss if self.objective.image_attack_target == "teacher" else class_loss

        def attack(batch_size: int) -> Tensor:
            iterates.clear()
            if standing is not None:
                standing.fill_(True)
            loss = in_pieces(rows_loss, batch_size, standing)

            def loss_fn(images: Tensor) -> Tensor:
                if "attack_iterates" in self.objective.views:
                    iterates.append(images.detach())
                return loss(images)

            return self.image_attack(batch.images, loss_fn, generator=generator)

        return self._halving(attack, self.args.attack_batch_size or len(batch.images), generator), iterates

    def _attack_drawn_texts(self, batch: _Batch) -> tuple[list[_AttackedTexts], Tensor]:
        """Each sample's text under one of the attacks that `text_attack` names; its row among all of them, (batch,).

        A text is attacked only in the ways that were drawn for it.
        """
        kinds = self.args.text_attack.split("|")
        drawn = self._drawn_attack(len(kinds), len(batch.images))
        found, rows, first = [], torch.zeros_like(batch.text_ids), 0
        for number, kind in enumerate(kinds):
            samples = drawn == number
            used = torch.unique(batch.text_ids[samples])
            texts = [batch.texts[row] for row in used.tolist()]
            if texts:
                found.append(self._attack_texts(kind, texts, batch.anchors, batch.text_anchor_ids[used]))
                rows[samples] = first + torch.searchsorted(used, batch.text_ids[samples])
            first += len(texts)
        return found, rows

    def _attack_texts(self, kind: str, texts: list[str], anchors: Tensor, anchor_ids: Tensor) -> _AttackedTexts:
        """Each text with words or characters replaced, and the shift of its token embeddings where those are attacked.

        The embedding attack moves a text away from its own anchor among all of them, without any image.
        """
        sources = texts
        if kind == "characters":
            texts = self._attack_characters(texts)
        elif "words" in kind:
            texts = self.text_attack(texts, self._encode_texts)
        if "embedding" not in kind:
            return _AttackedTexts(kind, sources, texts)
        scale = self._attacked_scale

        def loss_fn(embeds: Tensor) -> Tensor:
            with torch.autocast(embeds.device.type, enabled=False):  # the encoder in bf16, the attack's loss in fp32
                return F.cross_entropy(zero_shot_logits(embeds, anchors, scale), anchor_ids, reduction="none")

        tokens = self._encoder.tokenize(texts, truncation=True)
        with self.accelerator.autocast():
            moved = self.embedding_attack(
                self._encoder.model, **tokens, loss_fn=loss_fn, generator=self._text_generator(4)
            )
        with torch.no_grad():
            shift = moved - encoding.token_embeddings(self._encoder.model, tokens["input_ids"])
            return _AttackedTexts(kind, sources, texts, shift)

    def _attack_characters(self, texts: list[str]) -> list[str]:
        """LEAF's attack: away from the pretrained features where the objective has a teacher of texts."""
        generator = torch.Generator().manual_seed(self._text_generator(2).initial_seed())  # places are drawn on the CPU
        reference = self._teacher_texts if "teacher_texts" in self.objective.views else None

        def encode(trials: list[str]) -> Tensor:
            with torch.no_grad(), self.accelerator.autocast():
                return self._encoder.text_features(trials)

        return self.character_attack(texts, encode, generator=generator, reference_encode=reference)

    @property
    def _attacked_scale(self) -> Tensor:
        """What multiplies the cosines inside an attack."""
        scale = self._encoder.logit_scale.detach()
        return scale if self.objective.attack_with_logit_scale else torch.ones_like(scale)

    def _encode(
        self,
        model: nn.Module,
        batch: _Batch,
        adv_images: Tensor | None,
        iterates: list[Tensor],
        adv_texts: Sequence[_AttackedTexts],
        adv_text_ids: Tensor | None,
    ) -> Embeddings:
        """Every view that the objective reads from ONE forward of the wrapped model, gathered from all processes.

        What a frozen text encoder says of clean texts is known from the anchors and not computed again.
        """
        views, encoder = self.objective.views, self._encoder
        frozen_texts = not freezing.trains_text(encoder.model)
        images = {
            "adv_images": [adv_images] if adv_images is not None else [],
            "images": [batch.images] if views & {"images", "patches"} else [],
            "iterates": iterates,
        }
        texts = {
            "texts": batch.texts if "texts" in views and not frozen_texts else [],
            "prompts": (batch.texts if self.prompts is None or batch.keys is not None else self.prompts)
            if "prompts" in views and not frozen_texts
            else [],
            "adv_texts": [text for attacked in adv_texts for text in attacked.texts],
        }
        # The model's forward wants both: one picture or one text stands in for those that nobody reads.
        pixels = encoder.pixel_values(
            torch.cat([image for part in images.values() for image in part] or [batch.images[:1]])
        )
        tokens = encoder.tokenize([text for part in texts.values() for text in part] or ["a"], truncation=True)
        shift = self._token_shift(tokens["input_ids"], adv_texts)
        wants_patches = bool(views & {"patches", "adv_patches"})
        output = encoding.joint_forward(
            model, pixels, tokens["input_ids"], shift, wants_patches, self.args.encode_batch_size
        )

        image_sizes = {name: len(part) * len(batch.images) for name, part in images.items()}
        text_sizes = {name: len(part) for name, part in texts.items()}
        image_parts = _split(output.image_embeds, image_sizes)
        image_features = _split(output.image_features, image_sizes)
        text_parts = _split(output.text_embeds, text_sizes)
        adv_text_features = _split(output.text_features, text_sizes)["adv_texts"]
        patches = _split(output.patches, image_sizes) if output.patches is not None else {}
        prompts = text_parts["prompts"]
        if prompts is not None and batch.keys is not None:  # in the order of the anchors, of all processes
            prompts = self._distinct_rows(batch.keys, prompts[batch.text_ids])[1]
        rows: dict[str, Tensor] = {}
        if text_parts["texts"] is not None:
            rows["texts"] = text_parts["texts"][batch.text_ids]
        if adv_texts:
            rows["adv_texts"] = text_parts["adv_texts"][adv_text_ids]
            adv_text_features = adv_text_features[adv_text_ids]
        if frozen_texts:
            rows |= {"texts": batch.anchors[batch.anchor_ids]} if "texts" in views else {}
            prompts = batch.anchors if "prompts" in views else None
        return Embeddings(
            logit_scale=output.logit_scale,
            logit_bias=output.logit_bias,
            image_embeds=_gather(image_parts["images"]),
            adv_image_embeds=_gather(image_parts["adv_images"]),
            text_embeds=_gather(rows.get("texts")),
            adv_text_embeds=_gather(rows.get("adv_texts")),
            targets=class_targets(gather_rows(batch.groups)) if self.args.targets == "class" else None,
            prompt_embeds=prompts,
            labels=batch.anchor_ids,
            iterate_embeds=image_parts["iterates"].split(len(batch.images)) if images["iterates"] else [],
            image_features=image_features["images"],
            adv_image_features=image_features["adv_images"],
            adv_text_features=adv_text_features,
            patches=patches.get("images"),
            adv_patches=patches.get("adv_images"),
            **batch.teacher,
            **self._teach_attacked(adv_images),
        )

    def _token_shift(self, input_ids: Tensor, adv_texts: Sequence[_AttackedTexts]) -> Tensor | None:
        """What is added to the token embeddings of all texts of a forward, (texts, length, width): the attacked ones
        are the last."""
        if all(attacked.shift is None for attacked in adv_texts):
            return None
        width = encoding.token_table(self._encoder.model).shape[1]
        whole = torch.zeros(*input_ids.shape, width, device=input_ids.device)
        row = len(input_ids) - sum(len(attacked.texts) for attacked in adv_texts)
        for attacked in adv_texts:
            if attacked.shift is not None:
                whole[row : row + len(attacked.texts), : attacked.shift.shape[1]] = attacked.shift
            row += len(attacked.texts)
        return whole

    def _drawn_attack(self, number: int, batch_size: int) -> Tensor:
        """Which of several text attacks each sample's text suffers in this step, (batch,)."""
        seed = self._generator(3, self.state.global_step, self._batch_of_step[1]).initial_seed()
        drawn = torch.randint(number, (batch_size,), generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.args.device)

    # The frozen pretrained encoders

    def _take_teacher(self, model: nn.Module, args: MMCoAConfig) -> None:
        """Keep the model as it is now, or the teacher given, if the objective reads one."""
        reads = any(view.startswith("teacher") for view in self.objective.views)
        if not reads and self.objective.image_attack_target != "teacher":
            return
        # Weights that do not train are shared; not with several processes, where FSDP and DeepSpeed move them about.
        frozen = freezing.frozen_copy(model, share=args.world_size == 1)
        if self._given_teacher is not None:
            freezing.check_same_architecture(self._given_teacher, frozen)
            frozen = freezing.frozen_copy(self._given_teacher, share=False)
        self._teacher = DualEncoder(frozen.to(args.device), self._processor)  # type: ignore[arg-type]
        self._teacher_text_features: dict[str, Tensor] = {}

    def _teach(self, batch: _Batch) -> _Batch:
        """The batch with what the teacher says of it, in one forward of each of its towers that is read."""
        views, found = self.objective.views, {}
        if views & {"teacher_images", "teacher_patches"} or self.objective.image_attack_target == "teacher":
            found = self._teach_images(batch.images, "teacher_image_features", "teacher_patches")
        if "teacher_texts" in views:
            found["teacher_text_features"] = self._teacher_texts(batch.texts)[batch.text_ids]
        return replace(batch, teacher=found)

    def _teach_attacked(self, adv_images: Tensor | None) -> Mapping[str, Tensor]:
        """What the teacher says of the attacked images."""
        if not self.objective.views & {"teacher_adv_images", "teacher_adv_patches"} or adv_images is None:
            return {}
        return self._teach_images(adv_images, "teacher_adv_image_features", "teacher_adv_patches")

    def _teach_images(self, images: Tensor, features_name: str, patches_name: str) -> dict[str, Tensor]:
        assert self._teacher is not None
        with torch.no_grad(), self.accelerator.autocast():
            features, patches = self._teacher.image_features(images, patches_name in self.objective.views)
        return {features_name: features} | ({patches_name: patches} if patches is not None else {})

    def _teacher_texts(self, texts: list[str]) -> Tensor:
        """g0 of each text, (texts, dim); of class prompts computed once, for the teacher does not change."""
        assert self._teacher is not None
        known = self._teacher_text_features
        if not set(texts) <= known.keys():
            of_prompts = self.prompts is not None and set(texts) <= set(self.prompts)
            # All prompts at once: which of them a batch holds must not decide how their features are rounded, or a
            # resumed run would round them otherwise. Captions are too many to keep.
            new = list(dict.fromkeys(self.prompts if of_prompts and self.prompts else texts))
            with torch.no_grad(), self.accelerator.autocast():
                found = dict(zip(new, self._teacher.text_features(new), strict=True))
            if of_prompts:
                self._teacher_text_features = found
            known = found
        return torch.stack([known[text] for text in texts])

    # What a batch means

    def _read(self, inputs: Mapping[str, Any], own_texts: bool = True) -> _Batch:
        """The batch's distinct texts, which of them each sample has, and the anchors among which all are placed."""
        images, labels = inputs["images"], inputs.get("labels")
        encoding.check_images(images)
        texts = inputs.get("texts") if own_texts or self.prompts is None else None
        if texts is not None:
            distinct = sorted(set(texts), key=_digest)  # the order of the anchors
            index = {text: position for position, text in enumerate(distinct)}
            text_ids = torch.tensor([index[text] for text in texts], device=images.device)
            digests = torch.tensor([_digest(text) for text in distinct], device=images.device)
            keys, anchors = self._distinct_rows(digests[text_ids], self._encode_texts(distinct)[text_ids])
            text_anchor_ids = torch.searchsorted(keys, digests)
            groups = labels if labels is not None else digests[text_ids]
            own = (text_anchor_ids[text_ids], text_anchor_ids)
            return _Batch(images, distinct, text_ids, anchors, *own, groups, digests[text_ids])
        if self.prompts is None or labels is None:
            if own_texts and not self._reads_texts:  # FARE: nothing but images
                rows = torch.zeros(len(images), dtype=torch.long, device=images.device)
                anchor = torch.zeros(1, self._encoder.embed_dim, device=images.device)
                return _Batch(images, [], rows, anchor, rows, rows[:0], rows)
            raise ValueError(
                "the data set has neither a text column nor a label column with class names: images have nothing "
                "to match. Name the columns, or pass `class_names`."
            )
        classes, text_ids = torch.unique(labels, return_inverse=True)  # a sample's text is its class prompt
        distinct = [self.prompts[label] for label in classes.tolist()]
        return _Batch(images, distinct, text_ids, self._encode_prompts(), labels, classes, labels)

    @property
    def _reads_texts(self) -> bool:
        """Whether the objective, or its image attack, reads any text."""
        return self.objective.image_attack_target == "class" or bool(
            self.objective.views & {"texts", "adv_texts", "prompts", "teacher_texts"}
        )

    def _encode_prompts(self) -> Tensor:
        """Unit embeddings of all class prompts, (classes, dim); those of a frozen encoder are computed once."""
        assert self.prompts is not None
        if freezing.trains_text(self._encoder.model):
            return self._encode_texts(self.prompts)
        if self._frozen_prompts is None:
            self._frozen_prompts = self._encode_texts(self.prompts)
        return self._frozen_prompts

    def _distinct_rows(self, keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted distinct keys and a row of each: of the global batch in training, of this process's in evaluation."""
        if self._encoder.model.training:
            keys, rows = gather_rows(keys), gather_rows(rows)
        distinct, inverse = torch.unique(keys, return_inverse=True)
        places = torch.arange(len(keys), device=keys.device)
        first = torch.full_like(distinct, len(keys)).scatter_reduce(0, inverse, places, "amin")
        return distinct, rows[first]

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings of texts without gradient, (texts, dim), in the precision of training."""
        with torch.no_grad(), self.accelerator.autocast():
            return self._encoder.encode_texts(list(texts))

    def _encode_images(self, images: Tensor) -> Tensor:
        """Unit embeddings of images in [0, 1], (batch, dim), in the precision of training."""
        encoder = self._encoder
        encode = encoder.encode_images
        if self.args.compile_attack:
            if self._compiled is None or self._compiled[0] is not encoder:
                self._compiled = encoder, torch.compile(encode, fullgraph=True)
            encode = self._compiled[1]
        with self.accelerator.autocast():
            return encode(images)

    @property
    def _encoder(self) -> DualEncoder:
        """The unwrapped model and its processor: attacks run beside DDP and FSDP, not through them."""
        model = self.accelerator.unwrap_model(self.model)
        model = model if self._whole is None else self._whole.of(model)
        if self._cached_encoder is None or self._cached_encoder.model is not model:
            replaced = self._cached_encoder is not None
            self._cached_encoder = DualEncoder(model, self.processing_class)  # type: ignore[arg-type]
            if replaced and self._builds_text_attack:  # by `model_init`: CLIP's own neighbours are the new model's
                self.text_attack = self._build_word_attack()
        return self._cached_encoder

    def _generator(self, *key: int) -> torch.Generator:
        """Random numbers of one attack, a function of the seed and the key alone: a resumed run draws the same."""
        process = self.args.process_index if self._encoder.model.training else 0  # who evaluates a row does not matter
        seed = np.random.SeedSequence([self.args.seed, process, *key]).generate_state(1)
        return torch.Generator(self.args.device).manual_seed(int(seed[0]))

    def _text_generator(self, attack: int) -> torch.Generator:
        """Random numbers of a text attack: of this step in training, the same ones in every evaluation."""
        if not self._encoder.model.training:
            return self._generator(attack)
        return self._generator(attack, self.state.global_step, self._batch_of_step[1])

    def _training_generator(self) -> torch.Generator:
        step, (last_step, last_batch) = self.state.global_step, self._batch_of_step
        batch = last_batch + 1 if last_step == step else 0  # counts the batches that one optimizer step accumulates
        self._batch_of_step = (step, batch)
        return self._generator(0, step, batch)

    # Weights on several processes

    def whole_model(self) -> nn.Module:
        """The model with all of its weights on this process, as they are now.

        The unwrapped model itself; where FSDP or DeepSpeed ZeRO-3 spreads its weights, a plain copy that is brought up
        to date. Then every process must call it. This is what attacks and `evaluate_robustness` work on.
        """
        model = self.accelerator.unwrap_model(self.model)
        return model if self._whole is None else self._whole.updated(model)

    def _keep_whole(self) -> None:
        """Take a copy of weights that are going to be sharded, while they are not."""
        if check_sharding(self.accelerator):
            self._whole = WholeCopy(self.accelerator.unwrap_model(self.model), self.args.device)

    # Evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, with class prompts attacked once and not once a batch."""
        self._evaluation_texts = None
        self.whole_model()
        try:
            with left_unprepared(self.accelerator, self.model):  # type: ignore[arg-type]
                return super().evaluation_loop(*args, **kwargs)
        finally:
            self._evaluation_texts = None

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One batch under the training attack: the objective, and per sample whether each of `THREATS` leaves it right.

        Returns:
            Mean loss, scalar; outcomes 1 or 0, (batch, 4); row ids (batch,).
        """
        size = len(inputs["row_ids"])
        inputs = own_rows(self.accelerator, self._prepare_inputs(inputs))
        with torch.no_grad():
            batch = self._teach(self._read(inputs, own_texts=False))
            generator = self._generator(1, int(inputs["row_ids"][0]))
            views = self.objective.views
            adv_images, iterates = self._attack_images(batch, generator)
            features, patches = self._image_features(batch.images, "patches" in views)
            adv_features, adv_patches = self._image_features(adv_images, "adv_patches" in views)
            image, adv_image = F.normalize(features, dim=-1), F.normalize(adv_features, dim=-1)
            text, adv_anchors = batch.anchors, self._attacked_anchors(batch)
            # Each sample's loss is under one of the text attacks, in turn; its outcome is the worst over all of them.
            turn = inputs["row_ids"].to(batch.anchor_ids.device) % len(adv_anchors)
            adv_text_features = torch.stack(adv_anchors)[turn, batch.anchor_ids]
            embeds = Embeddings(
                logit_scale=self._encoder.logit_scale,
                logit_bias=self._encoder.logit_bias,
                image_embeds=image,
                adv_image_embeds=adv_image,
                text_embeds=text[batch.anchor_ids],
                adv_text_embeds=F.normalize(adv_text_features, dim=-1),
                targets=class_targets(batch.groups) if self.args.targets == "class" else None,
                prompt_embeds=text,
                labels=batch.anchor_ids,
                iterate_embeds=[self._encode_images(images) for images in iterates],
                image_features=features,
                adv_image_features=adv_features,
                adv_text_features=adv_text_features,
                patches=patches,  # type: ignore[arg-type]
                adv_patches=adv_patches,  # type: ignore[arg-type]
                **batch.teacher,
                **self._teach_attacked(adv_images),
            )
            loss, _ = self.objective(embeds)
            adv_texts = [F.normalize(features, dim=-1) for features in adv_anchors]

            def stand(images: Tensor, anchors: Sequence[Tensor]) -> Tensor:
                right = [(images @ each.T).argmax(1) == batch.anchor_ids for each in anchors]
                return torch.stack(right).all(0)

            clean, images = stand(image, [text]), stand(adv_image, [text])
            texts, both = stand(image, adv_texts), stand(adv_image, adv_texts)
            # Worst cases, as in `evaluate_robustness`: an attacker may leave the image, the text or both alone.
            right = [clean, clean & images, clean & texts, clean & images & texts & both]  # in the order of THREATS
        outcomes = torch.stack(right, dim=1).float()
        return loss.detach(), pad_rows(outcomes, size), pad_rows(inputs["row_ids"], size)

    def _image_features(self, images: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
        with self.accelerator.autocast():
            return self._encoder.image_features(images, patches)

    def _attacked_anchors(self, batch: _Batch) -> list[Tensor]:
        """Features of all anchors, (anchors, dim), under each text attack."""
        if self._evaluation_texts is not None:
            return self._evaluation_texts
        texts = batch.texts if self.prompts is None else self.prompts
        every = torch.arange(len(texts), device=batch.anchors.device)
        found = []
        for kind in self.args.text_attack.split("|"):
            attacked = self._attack_texts(kind, texts, batch.anchors, every)
            ids = self._encoder.tokenize(attacked.texts, truncation=True)["input_ids"]
            with self.accelerator.autocast():
                shifted = None
                if attacked.shift is not None:
                    shifted = encoding.token_embeddings(self._encoder.model, ids) + attacked.shift
                found.append(encoding.text_features(self._encoder.model, ids, inputs_embeds=shifted))
        if self.prompts is not None:
            self._evaluation_texts = found
        return found

    # The Trainer's own ways, with our data, terms and files

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The Trainer's, for a `datasets.Dataset` too."""
        return super().get_eval_dataloader(eval_dataset if isinstance(eval_dataset, str) else self._rows(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """The Trainer's, for a `datasets.Dataset` too."""
        return super().get_test_dataloader(self._rows(test_dataset))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; Ctrl-C and SIGTERM stop it after the step (docs/resume.md).

        Args:
            resume_from_checkpoint: a checkpoint, or True for the last complete one of `output_dir`.
            *args, **kwargs: the Trainer's.

        Raises:
            ValueError: if `resume_from_checkpoint` is no complete checkpoint; the last one is named.
            OSError: if `output_dir` cannot be written, before any training, or a checkpoint cannot.
            TrainingInterrupted: if a signal stopped it; there is a checkpoint to go on from.
        """
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, str(self.args.output_dir))
        check_writable(str(self.args.output_dir))
        self._start_counting()
        with self._stop_on_signal.listening() if self.stops_on_signals else nullcontext():
            return super().train(checkpoint, *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoints.folder(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer's, whole or not at all."""
        with self._checkpoints.writing(self, super()._get_output_dir(trial)):
            super()._save_checkpoint(model, trial)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The Trainer's, with the towers frozen that are not to train and a teacher taken where one is read."""
        model = _freeze(super().call_model_init(trial), self.args, self.objective)
        self._take_teacher(model, self.args)
        if self._whole is not None:  # of the model before
            self._whole = WholeCopy(model, self.args.device)
        return model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The Trainer's, with the temperature that lies beside an adapter: FSDP's own file of one holds layers only."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.is_fsdp_enabled and self.args.lora != "none":
            load_scalars(self.model, resume_from_checkpoint)  # type: ignore[arg-type]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The Trainer's without vectors such as the temperature: CLIP decays matrices only (arXiv:2103.00020, 2.5)."""
        vectors = {name for name, weight in model.named_parameters() if weight.ndim < 2}
        return [name for name in super().get_decay_parameter_names(model) if name not in vectors]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's, with the mean of every term of the objective since the last log."""
        if "loss" in logs:
            for name, total in self._term_sums.items():
                logs[name] = self.accelerator.reduce(total / self._terms_summed, reduction="mean").item()
            for name, figure in self._figure_sums.items():
                total, count = self.accelerator.reduce(figure, reduction="sum").tolist()
                if count:
                    logs[name] = total / count
            self._term_sums, self._terms_summed, self._figure_sums = {}, 0, {}
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The Trainer's, with the arguments as YAML that `hf-mmcoa train --config` reads instead of a pickle."""
        if self._whole is None:
            super()._save(output_dir, state_dict)
        else:  # names and shapes of the plain model
            trained, self.model = self.model, self.whole_model()
            try:
                super()._save(output_dir)
            finally:
                self.model = trained
        folder = Path(output_dir) if output_dir is not None else self._output_dir
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            settings = {**yaml.safe_load(self.args.to_yaml()), **self.run_settings}
            for name in ("push_to_hub", "resume_from_checkpoint", *(key for key in settings if key.startswith("hub_"))):
                settings.pop(name, None)  # who repeats the run starts from the beginning and publishes nothing
            (folder / ARGUMENTS_FILE).write_text(yaml.safe_dump(settings, sort_keys=True))

    def _start_counting(self) -> None:
        self._term_sums, self._terms_summed, self._batch_of_step = {}, 0, (-1, 0)
        self._figure_sums = {}
        self._frozen_prompts = None

    def _check_labels_for_objective(self, dataset: Any) -> None:
        if not self.objective.needs_labels or not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            return
        if self.prompts is None or resolve_columns(dataset).label is None:
            raise ValueError(
                f"the objective {type(self.objective).__name__} needs class labels, and the data set has "
                + ("no label column." if self.prompts is not None else "no class names.")
                + " Name the classes with `class_names` and the column `label`, or take an objective that needs none: "
                "mmcoa, clean, fare, leaf or fare+leaf."
            )

    def _rows(self, dataset: Any) -> Any:
        """A `datasets.Dataset`, or a dictionary of them, as decoded rows; anything else as it is."""
        if isinstance(dataset, dict):
            return {name: self._rows(part) for name, part in dataset.items()}
        if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            return dataset
        perturb_at = perturbation_size(self._perturb_setting, dataset, self._image_size)
        reader = ImageStream if isinstance(dataset, datasets.IterableDataset) else ImageRows
        rows = reader(dataset, perturb_at=perturb_at, image_size=self._image_size)
        if rows.columns.label is not None and self.class_names:
            feature = dataset.features[rows.columns.label]
            names = feature.names if isinstance(feature, datasets.ClassLabel) else self.class_names
            if not self._names_given and list(names) != self.class_names:
                raise ValueError(
                    f"the data sets differ in their class names: {self.class_names[:5]}... and {list(names)[:5]}... "
                    "Evaluate on other classes with `evaluate_robustness`, or pass `class_names` for all."
                )
            if isinstance(dataset, datasets.Dataset):
                check_labels(dataset, rows.columns.label, len(self.class_names))
        return rows

    def _build_word_attack(self) -> BertAttack:
        args = self.args
        source, encoder = self._given_candidates, self._encoder
        if source is None:
            source = candidate_source(
                args.candidates, encoder.model, encoder.tokenizer, args.masked_lm, args.align_to_cls
            )
        if not args.align_to_cls and not isinstance(source, MaskedLMCandidates):
            source = LeftNeighboursCandidates(source)
        return BertAttack(
            candidates=source,
            num_candidates=args.num_candidates,
            max_changes=args.max_changes,
            template=args.template if self.prompts else None,
            class_names=tuple(self.class_names or ()),
            protect_template=args.protect_template,
            forbid_class_names=args.forbid_class_names,
        )

    def _stop_non_finite(self, loss: Tensor, inputs: Mapping[str, Any]) -> None:
        step = self.state.global_step
        file = self._output_dir / f"non_finite_step_{step}_process_{self.args.process_index}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"step": step, "row_ids": inputs["row_ids"].tolist()}))
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step}; the row ids of its batch are in {file}. "
            "Lower `learning_rate` or `epsilon`, or look at those rows."
        )


@dataclass(frozen=True)
class _AttackedTexts:
    """What one text attack made of some texts."""

    kind: str
    sources: list[str]
    texts: list[str]
    shift: Tensor | None = None  # added to their token embeddings, (texts, length, width)


@dataclass(frozen=True)
class _Batch:
    """One process's batch: what it holds and among what it is placed."""

    images: Tensor  # (B, 3, H, W)
    texts: list[str]  # the distinct ones
    text_ids: Tensor  # (B,), a sample's row of `texts`
    anchors: Tensor  # (A, D), unit embeddings of all class prompts, or of `texts`
    anchor_ids: Tensor  # (B,), a sample's row of `anchors`
    text_anchor_ids: Tensor  # (len(texts),), a text's row of `anchors`
    groups: Tensor  # (B,), equal where two samples may exchange their texts
    keys: Tensor | None = None  # (B,), what a sample's own text is known by on every process; None for class prompts
    teacher: Mapping[str, Tensor] = field(default_factory=dict)  # fields of `Embeddings`, of the clean batch


def _first_model(model_init: Any) -> nn.Module:
    """A model to check processor and data against before the Trainer makes its own."""
    return model_init(None) if inspect.signature(model_init).parameters else model_init()


def _freeze(model: nn.Module, args: MMCoAConfig, objective: Objective) -> nn.Module:
    image = args.train_image_encoder and "image" in objective.trains
    text = args.train_text_encoder and "text" in objective.trains
    if not (image or text):
        raise ValueError(
            f"{type(objective).__name__} trains {' and '.join(sorted(objective.trains))}; with `train_image_encoder="
            f"{args.train_image_encoder}` and `train_text_encoder={args.train_text_encoder}` nothing would train."
        )
    scale = args.train_logit_scale and "logit_scale" in objective.trains
    model = freezing.set_trainable(model, image, text, scale)
    if args.last_blocks is not None:
        return freezing.train_last_blocks(model, args.last_blocks)
    if args.lora != "none":
        towers = [
            tower for tower, trains in (("image", image), ("text", text)) if trains and args.lora in (tower, "both")
        ]
        if not towers:
            raise ValueError(f'`lora="{args.lora}"`: {type(objective).__name__} does not train that tower.')
        return add_lora(
            model,  # type: ignore[arg-type]  # it refuses what is no CLIPModel
            "both" if len(towers) == 2 else towers[0],  # type: ignore[arg-type]
            args.lora_rank,
            args.lora_alpha,
            args.lora_dropout,
            args.lora_target_modules or TARGET_MODULES,
            train_logit_scale=scale,
            seed=args.seed,
            modules_to_save=args.lora_modules_to_save or (),
        )
    return model


class _ClampLogitScale(TrainerCallback):
    """Keep a CLIP's temperature at most ln 100 after every optimizer step, as CLIP does."""

    def on_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=towers_of(model).max_logit_scale)  # type: ignore[arg-type,union-attr,operator]


def _accuracies(prediction: EvalPrediction) -> dict[str, float]:
    outcomes = np.asarray(prediction.predictions)  # (N, 4)
    return {f"{threat}_accuracy": float(column.mean()) for threat, column in zip(THREATS, outcomes.T, strict=True)}


def _find_class_names(given: Sequence[str] | None, *data: Any) -> list[str] | None:
    """The names given, or those of the first data set's `ClassLabel`; None for captions."""
    if given is not None:
        return [str(name) for name in given]
    for dataset in data:
        if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            label = resolve_columns(dataset).label
            feature = dataset.features[label] if label is not None else None
            if isinstance(feature, datasets.ClassLabel):
                return list(feature.names)
    return None


def _objective(args: MMCoAConfig, image_size: int) -> Objective:
    """The objective that `args.objective` names, with the fields of `args` that are its own."""
    if args.objective == "mmcoa":
        return MMCoA(
            lambda_image=args.lambda_image,
            lambda_text=args.lambda_text,
            lambda_clean=args.lambda_clean,
            lambda_class=args.lambda_class,
            lambda_distill=args.lambda_distill or 0.0,
            accumulate_attack_gradients=args.accumulate_attack_gradients,
        )
    fare = FARE(clean_weight=args.clean_weight, trades=args.trades)
    named: dict[str, Objective] = {
        "clean": Clean(),
        "tecoa": TeCoA(),
        "fare": fare,
        "pmg-aft": PMGAFT(release_scaling=args.release_scaling),
        "tga-zsr": TGAZSR(image_size=image_size),
        "leaf": LEAF(),
        "fare+leaf": FAREAndLEAF(fare=fare),
    }
    return named[args.objective]


def _image_attack(args: MMCoAConfig) -> PGD:
    num_steps, step_size = args.attack_steps
    return PGD(
        epsilon=pixels("epsilon", args.epsilon),
        step_size=step_size,
        num_steps=num_steps,
        norm=args.norm,
        random_start=args.random_start,
    )


def _digest(text: str) -> int:
    """A number that the same caption has on every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _split(rows: Tensor, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Consecutive rows by name; None where a part has none. Rows after the last part belong to nobody."""
    parts = rows[: sum(sizes.values())].split(list(sizes.values()))
    return {name: part if len(part) else None for name, part in zip(sizes, parts, strict=True)}


def _gather(rows: Any) -> Any:
    return None if rows is None else gather_rows(rows)
