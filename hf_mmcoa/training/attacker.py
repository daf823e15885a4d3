"""The attacks of training: images and texts moved away from what the objective says, on the model as it is now.

Attack objects are built from the arguments when training or evaluation starts, and whenever an argument was changed, so
that it has its effect. Random numbers are a function of the seed, the process and the step: a resumed run draws
the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks import factory
from ..attacks.contracts import ImageAttack, TextAttack
from ..attacks.engine import Victim, climb
from ..attacks.enumeration import legal_texts
from ..attacks.image_losses import log_odds_loss
from ..attacks.out_of_memory import HalvingOnOutOfMemory
from ..attacks.perturbed_texts import PerturbedTexts, TextAttacker, TextVictim
from ..attacks.settings import AttackSettings
from ..config import MMCoAConfig
from ..data.prompts import class_prompts
from ..losses import chosen_texts, zero_shot_logits
from ..objectives import Objective
from ..substitutes.masked_lm import MaskedLMCandidates
from ..substitutes.misaligned import LeftNeighboursCandidates
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from .batch import Batch
from .live_encoder import LiveEncoder
from .shared_step import SharedStep, noise_radius
from .teacher import Teacher
from .victims import image_victim

MAX_POOLED = 20_000
"""Texts that a step encodes at most: a thousand classes with twenty substitutes each."""
STREAMS = {"images": 0, "evaluated images": 1, "characters": 2, "choice": 3, "embedding": 4, "families": 5, "check": 6}
"""Numbers of the random streams: each kind of draw has its own."""


@dataclass(frozen=True)
class TextPools:
    """The legal texts of all classes.

    Args:
        texts: the class prompts in their order, then all others.
        classes: class of each text.
    """

    texts: list[str]
    classes: list[int]


@dataclass(frozen=True)
class Adversarial:
    """A batch after the attacks.

    Args:
        images: adversarial images, (batch, 3, height, width); None where the objective reads none.
        step: makes them within the forward of the loss, in the place of `images`; None under other schedules.
        iterates: the points at which the image attack took its gradients, where the objective reads them.
        texts: perturbed texts, one entry per kind of text attack that was drawn.
        text_ids: a sample's row among all perturbed texts, (batch,); None where the objective reads none.
        pools: the legal texts that the objective reads, see `Attacker.worst_texts`.
        more_captions: the attacked texts of the second and every further caption, as those of the first.
    """

    images: Tensor | None = None
    step: SharedStep | None = None
    iterates: list[Tensor] = field(default_factory=list)
    texts: Sequence[PerturbedTexts] = ()
    text_ids: Tensor | None = None
    pools: TextPools | None = None
    more_captions: Sequence[Adversarial] = ()

    @property
    def caption_sets(self) -> tuple[Adversarial, ...]:
        """Return the batch with the texts of each sample's first caption, then with its second, and so on."""
        return (self, *self.more_captions)

    def finished(self) -> Adversarial:
        """Return the batch with the images that `step` made, once the forward of the loss has run."""
        return self if self.step is None else replace(self, images=self.step.images, step=None)


class Attacker:
    """Attacks batches as the arguments say.

    Args:
        args: the configuration, read again at every `start`.
        encoder: the model under training.
        objective: what is attacked, and what is read.
        class_names: all classes; None for captions.
        image_attack: replaces PGD.
        text_attack: replaces the attack on words, or what its `changes` says: characters, families.
        candidates: where words take their substitutes from; what `args` name when None.
        auto_kind: the only kind of text attack where `args.text_attack` is "auto"; what "auto" stands for when None.
        templates: of the class prompts that are a sample's further captions.
    """

    def __init__(
        self,
        args: MMCoAConfig,
        encoder: LiveEncoder,
        objective: Objective,
        class_names: Sequence[str] | None,
        image_attack: ImageAttack | None = None,
        text_attack: TextAttack | None = None,
        candidates: CandidateSource | None = None,
        auto_kind: str | None = None,
        templates: Sequence[str] = (),
    ) -> None:
        self.args, self.encoder, self.objective, self.templates = args, encoder, objective, templates
        self.class_names = tuple(class_names or ())
        self.teacher: Teacher | None = None
        self._given = {"image": image_attack, getattr(text_attack, "changes", "words"): text_attack}
        self._given_candidates, self._auto_kind = candidates, auto_kind
        self._source: tuple[Any, CandidateSource] | None = None
        self._halving = HalvingOnOutOfMemory()
        self.step, self.batch_of_step = -1, 0
        self.step_factor = 1
        """How many steps, each as much shorter, the image attack takes in place of one (`AttackCheck`)."""
        self.start()

    def start(self) -> None:
        """Build the attacks from the arguments as they are now, on the model as it is now."""
        settings = self.args.attack_settings
        self.image_attack: Any = self._given["image"] or factory.training_image_attack(self.image_settings)
        self.text_attacks = self._text_attackers(settings)
        self._text_attacks_in = {
            template: self._text_attackers(replace(settings, template=template)) for template in self.templates
        }
        self._model = self.encoder.dual.model
        self._pools: TextPools | None = None

    @property
    def builds_image_attack(self) -> bool:
        """Return whether the image attack is the arguments', and not an object that was given."""
        return self._given["image"] is None

    @property
    def image_settings(self) -> AttackSettings:
        """Return the settings of the image attack, in as many steps as it takes now."""
        settings, (num_steps, step_size) = self.args.attack_settings, self.args.attack_steps
        return replace(settings, num_steps=num_steps * self.step_factor, step_size=step_size / self.step_factor)

    def _text_attackers(self, settings: AttackSettings) -> dict[str, TextAttacker]:
        """Return the text attacks by kind; attacks on words know class prompts by the template of the settings."""
        characters: Any = self._given.get("characters") or factory.character_attack(
            settings, self.class_names, exhaustive=False
        )
        named = self.args.text_attack
        if self._auto_kind is not None and self.args.text_attack_is_auto:
            named = self._auto_kind
        kinds = [] if named == "none" else named.split("|")
        words: Any = self._given.get("words")
        if words is None and any("words" in kind for kind in kinds):
            words = factory.word_attack(settings, self._candidates(), self.class_names)
        families: Any = self._given.get("families")
        if families is None and "families" in kinds:
            families = factory.family_attack(
                settings,
                self._candidates(),
                self.class_names,
                families=self.args.families,
                leave_out=self.args.leave_out_family,
                num_variants=self.args.num_variants,
            )
        if settings.template == self.args.template:
            self.word_attack, self.character_attack, self.family_attack = words, characters, families
        return {kind: factory.text_attacker(kind, settings, words, characters, families) for kind in kinds}

    def _candidates(self) -> CandidateSource:
        args, source, encoder = self.args, self._given_candidates, self.encoder.dual
        if source is None:
            asked = (args.candidates, args.masked_lm, args.align_to_cls, id(encoder.model))
            if self._source is None or self._source[0] != asked:  # a masked language model takes seconds to load
                named = candidate_source(
                    args.candidates, encoder.model, encoder.tokenizer, args.masked_lm, args.align_to_cls
                )
                self._source = asked, named
            source = self._source[1]
        if not args.align_to_cls and not isinstance(source, MaskedLMCandidates):
            source = LeftNeighboursCandidates(source)
        return source

    def attack(self, batch: Batch) -> Adversarial:
        """Attack what the objective reads of a training batch."""
        if self.encoder.dual.model is not self._model:  # `model_init` made another: its neighbours are other words
            self.start()
        views = self.objective.views
        attacked = Adversarial()
        if "adv_images" in views and self.shares_forward:
            attacked = Adversarial(step=self.shared_step(batch))
        elif "adv_images" in views:
            images, iterates = self.attack_images(batch, self.generator("images"))
            attacked = Adversarial(images=images, iterates=iterates)
        if "text_pools" in views:
            attacked = replace(attacked, pools=self.worst_texts(batch))
        if "adv_texts" not in views:
            return attacked
        found = [self.attack_drawn_texts(each, number) for number, each in enumerate(batch.caption_sets)]
        (texts, rows), *others = found
        more = [Adversarial(texts=texts, text_ids=rows) for texts, rows in others]
        return replace(attacked, texts=texts, text_ids=rows, more_captions=more)

    # Images

    def attack_images(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Return images moved away from what the objective says, and the points at which gradients were taken."""
        iterates: list[Tensor] = []
        adv_images, _ = climb(
            self.image_attack,
            batch.images,
            self.victim(batch),
            generator,
            stop=self.args.attack_early_stop,
            batch_size=self.args.attack_batch_size,
            halving=self._halving,
            iterates=iterates if "attack_iterates" in self.objective.views else None,
        )
        return adv_images, iterates

    @property
    def shares_forward(self) -> bool:
        """Return whether images are attacked within the forward of the loss; not once the attack was lengthened."""
        return self.args.attack_schedule == "shared" and self.step_factor == 1

    @property
    def image_attack_description(self) -> str:
        """Return what attacks the images of training, as an object's `repr`."""
        if not self.shares_forward:
            return repr(self.image_attack)
        pgd = factory.pgd(self.image_settings)
        return f"SharedStep(epsilon={pgd.epsilon}, norm={pgd.norm!r}, noise={noise_radius(pgd)})"

    def shared_step(self, batch: Batch) -> SharedStep:
        """Return the one step of `attack_schedule="shared"` on a batch, for `encode_views`."""
        dual = self.encoder.dual
        pgd = factory.pgd(self.image_settings)
        return SharedStep(batch, pgd, self.attacked_scale, dual.pixel_values, self.generator("images"))

    def victim(self, batch: Batch) -> Victim:
        """Return what the image attack on a batch is run against."""
        return image_victim(self.objective, self.encoder, batch, self.attacked_scale)

    @property
    def attacked_scale(self) -> Tensor:
        """Return the factor of the cosines inside an attack, scalar."""
        temperature = self.args.attack_settings.temperature if self.objective.attack_with_logit_scale else 1.0
        return self.encoder.dual.attacked_scale(temperature)

    # Texts

    def attack_drawn_texts(self, batch: Batch, number: int = 0) -> tuple[list[PerturbedTexts], Tensor]:
        """Attack each sample's text by one of the attacks that `text_attack` names, drawn anew in each step.

        A text is attacked only in the ways that were drawn for it.

        Args:
            batch: the batch, with one caption of each sample.
            number: which one of its captions it is.

        Returns:
            The perturbed texts, and each sample's row among all of them, (batch,).
        """
        of_class_prompts = number and batch.keys is None
        attacks = self._text_attacks_in[self.templates[number - 1]] if of_class_prompts else self.text_attacks
        drawn = self.drawn_attacks(len(batch.images))
        found, rows, first = [], torch.zeros_like(batch.text_ids), 0
        for place, kind in enumerate(attacks):
            samples = drawn == place
            used = torch.unique(batch.text_ids[samples])
            texts = [batch.texts[row] for row in used.tolist()]
            if texts:
                found.append(self.attack_texts(kind, texts, batch.anchors, batch.text_anchor_ids[used], attacks))
                rows[samples] = first + torch.searchsorted(used, batch.text_ids[samples])
            first += len(texts)
        return found, rows

    @property
    def text_pools(self) -> TextPools:
        """Return every text that the attack on words may put in the place of a class prompt; listed once a `start`.

        Raises:
            ValueError: if the attack cannot list its texts, or they are more than `MAX_POOLED`.
        """
        if self._pools is None:
            if not hasattr(self.word_attack, "variants"):
                raise ValueError(
                    f"`text_adversary` needs a text attack that lists its texts (`variants`); "
                    f"{type(self.word_attack).__name__} does not: take BertAttack, or `text_adversary=blind`."
                )
            prompts = class_prompts(self.class_names, self.args.template)
            listed = legal_texts(self.word_attack, prompts, max_texts=MAX_POOLED).pools
            others = [(text, number) for number, pool in enumerate(listed) for text in pool[1:]]
            texts = [pool[0] for pool in listed] + [text for text, _ in others]
            self._pools = TextPools(texts, [*range(len(prompts)), *(number for _, number in others)])
        return self._pools

    def worst_texts(self, batch: Batch) -> TextPools:
        """Return the class prompts and those legal texts that the objective's adversary chooses for an image.

        All legal texts are encoded without gradient, so that a step keeps the graph of the chosen ones alone. An
        objective that reads them and names no adversary gets all.
        """
        pools, adversary = self.text_pools, getattr(self.objective, "text_adversary", None)
        if adversary is None:
            return pools
        with torch.no_grad():
            chosen = chosen_texts(
                self.encoder.encode_images(batch.images),
                self.encoder.encode_texts(pools.texts),
                batch.anchor_ids.new_tensor(pools.classes),
                batch.anchor_ids,
                every_class=adversary == "all",
            )
        chosen[: len(self.class_names)] = True
        rows = chosen.nonzero()[:, 0].tolist()
        return TextPools([pools.texts[row] for row in rows], [pools.classes[row] for row in rows])

    def attack_texts(
        self,
        kind: str,
        texts: list[str],
        anchors: Tensor,
        anchor_ids: Tensor,
        attacks: Mapping[str, TextAttacker] | None = None,
    ) -> PerturbedTexts:
        """Attack texts in one way, without any image.

        Args:
            kind: of `text_attack`.
            texts: distinct texts.
            anchors: unit embeddings, (anchors, dim); the embedding attack moves a text away from its own.
            anchor_ids: each text's own, (texts,).
            attacks: by kind; `text_attacks` when None.
        """
        scale = self.attacked_scale

        def loss_fn(embeds: Tensor) -> Tensor:
            with torch.autocast(embeds.device.type, enabled=False):  # the encoder in bf16, the attack's loss in fp32
                return log_odds_loss(zero_shot_logits(embeds, anchors, scale), anchor_ids)

        teacher = self.teacher if "teacher_texts" in self.objective.views else None
        victim = TextVictim(
            encoder=self.encoder.dual,
            encode=self.encoder.encode_texts,
            distance_encode=self.encoder.text_features,
            reference_encode=None if teacher is None else teacher.texts,
            embedding_loss=loss_fn,
            generator=self.generator,
            precision=self.encoder.autocast,
        )
        return (attacks or self.text_attacks)[kind](texts, victim)

    def drawn_attacks(self, batch_size: int) -> Tensor:
        """Return which text attack each sample's text suffers in this step, (batch,)."""
        generator = torch.Generator().manual_seed(self.generator("choice").initial_seed())
        drawn = torch.randint(len(self.text_attacks), (batch_size,), generator=generator)
        return drawn.to(self.args.device)

    # Random numbers

    def generator(self, stream: str, *key: int) -> torch.Generator:
        """Return the random numbers of one attack: of this step in training, the same ones in every evaluation.

        Args:
            stream: one of `STREAMS`.
            *key: in evaluation, what they depend on beside the seed.
        """
        training = self.encoder.training
        process = self.args.process_index if training else 0  # who evaluates a row does not matter
        if training or stream in ("images", "choice"):
            key = (self.step, self.batch_of_step)
        seed = np.random.SeedSequence([self.args.seed, process, STREAMS[stream], *key]).generate_state(1)
        return torch.Generator(self.args.device).manual_seed(int(seed[0]))
