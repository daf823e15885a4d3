"""Each defence inside the trainer: the weights that train, the attacks that run, and the cost of the teacher."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_trainer import batch_of, changed_parameters, make, picture_rows, snapshot  # noqa: F401 (a fixture)

from hf_mmcoa import MMCoAConfig
from hf_mmcoa.attacks import PGD, LevenshteinAttack, SynonymTable
from hf_mmcoa.attacks.perturbed_texts import DistanceAttacker, EmbeddingAttacker
from hf_mmcoa.models import encoding
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.objectives import FARE, Clean, Embeddings, MMCoA, Objective
from hf_mmcoa.testbed.tiny_clip import tiny_clip as build_tiny_clip

IMAGE = ("vision_model.", "visual_projection.")
TEXT = ("text_model.", "text_projection.")
NAMES = ["tecoa", "fare", "pmg-aft", "tga-zsr", "leaf", "fare+leaf"]


def train(make, **config):  # noqa: F811
    """Two steps with the trainer's own attacks."""
    trainer = make(trainer={"text_attack": None}, **config)
    trainer.train()
    return trainer


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NAMES)
def test_only_the_parts_that_the_paper_trains_move(make, tiny_clip, name):  # noqa: F811
    before = snapshot(tiny_clip)
    train(make, objective=name)
    moved = changed_parameters(before, tiny_clip)
    parts = IMAGE * (name != "leaf") + TEXT * ("leaf" in name)
    assert {name for name in before if name.startswith(parts)} >= moved != set()
    for part in parts:
        assert any(each.startswith(part) for each in moved)


@pytest.mark.parametrize("name", ["tecoa", "fare", "leaf"])
def test_the_configuration_may_freeze_more(make, tiny_clip, name):  # noqa: F811
    tower = "train_text_encoder" if name == "leaf" else "train_image_encoder"
    with pytest.raises(ValueError, match=f"{tower}.*nothing would train"):
        make(objective=name, **{tower: False})


def test_fare_moves_images_away_from_the_teachers_features(make):  # noqa: F811
    trainer = make(objective="fare", random_start=False, num_steps=3)
    with torch.no_grad():
        trainer.model.visual_projection.weight.mul_(1.01)  # as after some steps: else nothing would differ at the start
    inputs = batch_of(trainer)
    loss, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    student, teacher = trainer.attacker.encoder.dual, trainer.teacher
    clean = teacher.encoder.image_features(inputs["images"])[0]

    def distance(images):
        return (student.image_features(images)[0] - clean).square().sum(1)

    args = trainer.args
    attack = PGD(epsilon=args.epsilon, step_size=args.step_size, num_steps=3, random_start=False)
    attacked = distance(attack(inputs["images"], distance))
    assert torch.allclose(embeds.teacher_image_features, clean, atol=1e-5)
    assert loss.item() == pytest.approx(attacked.mean().item(), rel=1e-4)
    assert loss > 1.5 * distance(inputs["images"]).mean()


def test_fare_needs_neither_texts_nor_labels(make):  # noqa: F811
    rows = picture_rows().remove_columns("label")
    trainer = make(trainer={"train_dataset": rows, "eval_dataset": None}, objective="fare")
    trainer.train()
    assert trainer.state.global_step == 2


def test_leaf_replaces_characters_away_from_the_teachers_features(make):  # noqa: F811
    trainer = make(trainer={"text_attack": None}, objective="leaf")
    assert trainer.attacker.character_attack == LevenshteinAttack(
        max_edits=1, dictionary=frozenset({"cat", "dog", "red", "car"})
    )
    inputs = batch_of(trainer)
    seen = []
    attack = trainer.attacker.character_attack.__call__

    def watched(texts, encode, **kwargs):
        attacked = attack(texts, encode, **kwargs)
        assert torch.allclose(
            kwargs["reference_encode"](texts), trainer.teacher.encoder.text_features(texts), atol=1e-6
        )
        seen.append((texts, attacked, encode(attacked), trainer.teacher.encoder.text_features(texts)))
        return attacked

    class Watched(LevenshteinAttack):
        __call__ = staticmethod(watched)

    trainer.attacker.text_attacks["characters"] = DistanceAttacker(Watched())
    loss, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    ((texts, attacked, features, clean),) = seen
    assert len(texts) == 3 and all(a != b for a, b in zip(texts, attacked, strict=True))
    distance = (features - clean).square().sum(1)
    rows = [texts.index(trainer.prompts[label]) for label in inputs["labels"].tolist()]
    assert loss.item() == pytest.approx(distance[rows].mean().item(), rel=1e-4)
    assert embeds.adv_text_features.requires_grad


def test_pmg_aft_as_released_attacks_plain_cosines(make):  # noqa: F811
    scales = {}
    for release in (False, True):
        trainer = make(objective="pmg-aft", release_scaling=release)
        scales[release] = trainer.attacker.attacked_scale.item()
    assert scales[True] == 1.0 and scales[False] == pytest.approx(trainer.model.logit_scale.exp().item())


def test_tga_zsr_reads_the_patches_of_both_encoders(make):  # noqa: F811
    trainer = make(objective="tga-zsr")
    _, embeds = trainer.compute_loss(trainer.model, batch_of(trainer), return_outputs=True)
    assert embeds.patches.shape == embeds.adv_patches.shape == embeds.teacher_patches.shape == (6, 16, 32)
    assert torch.allclose(embeds.patches, embeds.teacher_patches, atol=1e-5)  # before the first step
    assert embeds.adv_patches.requires_grad and not embeds.teacher_patches.requires_grad
    assert trainer.objective.image_size == 32


# The frozen encoders


@pytest.mark.parametrize("name", ["fare", "fare+leaf"])
def test_the_teacher_shares_memory_with_nothing_that_trains(make, tiny_clip, name):  # noqa: F811
    trainer = make(trainer={"text_attack": None}, objective=name)
    teacher = dict(trainer.teacher.encoder.model.named_parameters())
    before = {each: weight.clone() for each, weight in teacher.items()}
    for each, weight in tiny_clip.named_parameters():
        assert (teacher[each].data_ptr() == weight.data_ptr()) == (not weight.requires_grad), each
    trainer.train()
    assert all(torch.equal(before[each], weight) and not weight.requires_grad for each, weight in teacher.items())


def test_the_teacher_is_never_saved(make, tmp_path):  # noqa: F811
    train(make, objective="fare", save_strategy="steps", save_steps=1)
    weights = load_file(tmp_path / "out" / "checkpoint-2" / "model.safetensors")
    assert set(weights) == set(make().model.state_dict())


def test_a_resumed_run_has_the_pretrained_teacher_and_not_the_checkpoint(make, tiny_clip, tmp_path):  # noqa: F811
    start = copy.deepcopy(tiny_clip)
    train(make, objective="fare", save_strategy="steps", save_steps=1)
    whole = snapshot(tiny_clip)
    again = make(model=start, objective="fare", save_strategy="steps", save_steps=1)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert not changed_parameters(whole, again.model)


def test_a_teacher_may_be_given(make, tiny_clip):  # noqa: F811
    other = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        other.visual_projection.weight.mul_(2)
    trainer = make(trainer={"teacher": other}, objective="fare")
    _, embeds = trainer.compute_loss(trainer.model, batch_of(trainer), return_outputs=True)
    own = make(objective="fare").compute_loss(trainer.model, batch_of(trainer), return_outputs=True)[1]
    assert torch.allclose(embeds.teacher_image_features, 2 * own.teacher_image_features, atol=1e-5)


def test_a_teacher_of_another_architecture_is_refused(make):  # noqa: F811
    other, _ = build_tiny_clip(["a cat"], image_size=32, patch_size=8, width=48)
    with pytest.raises(ValueError, match=r"another architecture.*\(16, 48\) in the teacher and \(16, 32\)"):
        make(trainer={"teacher": other}, objective="fare")


def test_the_teacher_of_adapters_is_the_model_without_them(make, tiny_clip):  # noqa: F811
    plain = copy.deepcopy(tiny_clip)
    adapted = get_peft_model(tiny_clip, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    trainer = make(model=adapted, objective="fare")
    inputs = batch_of(trainer)
    _, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    expected = DualEncoder(plain, trainer.processing_class).image_features(inputs["images"])[0]
    assert torch.allclose(embeds.teacher_image_features, expected, atol=1e-5)


class Calls:
    """Counts the forwards of modules."""

    def __init__(self, **modules):
        self.count = dict.fromkeys(modules, 0)
        for name, module in modules.items():
            module.register_forward_hook(lambda *_, name=name: self.count.update({name: self.count[name] + 1}))


@pytest.mark.parametrize(
    ("name", "image", "text"), [("fare", 1, 0), ("pmg-aft", 1, 0), ("tga-zsr", 1, 0), ("leaf", 0, None)]
)
def test_a_teacher_costs_one_forward_a_step(make, name, image, text):  # noqa: F811
    trainer = make(trainer={"text_attack": None}, objective=name)
    inputs, teacher = batch_of(trainer), trainer.teacher.encoder.model
    calls = Calls(image=teacher.vision_model, text=teacher.text_model)
    trainer.compute_loss(trainer.model, inputs)
    first = dict(calls.count)
    trainer.compute_loss(trainer.model, inputs)
    assert first["image"] == image and calls.count["image"] == 2 * image
    if text is None:  # class prompts: once for the whole training
        assert first["text"] == calls.count["text"] == 1


def test_prompts_of_a_frozen_text_encoder_are_encoded_once(make):  # noqa: F811
    trainer = make(objective="tecoa")
    inputs, calls = batch_of(trainer), Calls(text=trainer.model.text_model)
    trainer.compute_loss(trainer.model, inputs)
    first = calls.count["text"]
    trainer.compute_loss(trainer.model, inputs)
    assert calls.count["text"] - first == 1  # the forward's stand-in of one word, and no prompt
    assert first == 2


def test_frozen_texts_are_those_of_the_encoder(make):  # noqa: F811
    trainer = make(train_text_encoder=False)
    inputs = batch_of(trainer)
    _, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    prompts = trainer.attacker.encoder.dual.encode_texts(
        [trainer.prompts[label] for label in inputs["labels"].tolist()]
    )
    assert torch.allclose(embeds.text_embeds, prompts, atol=1e-6)


# What an objective needs


@pytest.mark.parametrize("name", ["tecoa", "pmg-aft", "tga-zsr"])
def test_objectives_that_need_labels_say_which_do_not(make, name):  # noqa: F811
    captions = picture_rows(text=True).remove_columns("label")
    data = {"train_dataset": captions, "eval_dataset": None, "class_names": ["cat", "dog", "car"]}
    message = "needs class labels, and the data set has no label column.*mmcoa, clean, fare, leaf, fare[+]leaf, mat"
    with pytest.raises(ValueError, match=message):
        make(trainer=data, objective=name)
    for other in ("mmcoa", "fare", "leaf"):
        trainer = make(trainer=data, objective=other)
        assert torch.isfinite(trainer.compute_loss(trainer.model, batch_of(trainer)))


def test_class_objectives_read_class_prompts_where_rows_have_captions_too(make):  # noqa: F811
    trainer = make(trainer={"train_dataset": picture_rows(text=True)}, objective="tecoa")
    inputs = batch_of(trainer)
    _, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert len(embeds.prompt_embeds) == 3 and torch.equal(embeds.labels, inputs["labels"])


def test_a_users_own_objective_is_an_object_that_they_pass(make, tiny_clip):  # noqa: F811
    class Repel(Objective):
        trains = frozenset({"image"})

        @property
        def views(self):
            return frozenset({"images"})

        def __call__(self, embeds: Embeddings):
            loss = F.relu(embeds.image_features).sum()
            return loss, {"loss_repel": loss}

    before = snapshot(tiny_clip)
    trainer = make(trainer={"objective": Repel()})
    trainer.train()
    assert all(name.startswith(IMAGE) for name in changed_parameters(before, tiny_clip))
    assert "loss_repel" in trainer.state.log_history[0]


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NAMES)
def test_every_defence_is_evaluated_under_its_training_attack(make, name):  # noqa: F811
    characters = LevenshteinAttack(num_samples=None, alphabet="x") if "leaf" in name else None
    batch = {"per_device_eval_batch_size": 12, "random_start": False}
    trainer = make(trainer={"text_attack": characters}, objective=name, **batch)
    with torch.no_grad():  # as after some steps: the teacher is another model by now
        trainer.model.visual_projection.weight.mul_(1.1)
        trainer.model.text_projection.weight.mul_(1.1)
    metrics = trainer.evaluate()
    assert {"eval_clean_accuracy", "eval_multimodal_accuracy"} <= set(metrics)
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_eval_dataloader())))
    assert loss > 0 and metrics["eval_loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_defences_log_their_terms(make):  # noqa: F811
    trainer = train(make, objective="fare+leaf", clean_weight=0.5)
    logged = trainer.state.log_history[0]
    expected = 0.5 * logged["loss_image"] + 0.5 * logged["loss_clean"] + logged["loss_text"]
    assert logged["loss"] == pytest.approx(expected, rel=1e-4)


def test_an_objective_is_not_mistaken_for_another(make):  # noqa: F811
    assert isinstance(make(objective="clean").objective, Clean)
    assert make(objective="fare", clean_weight=0.2, trades=True).objective == FARE(clean_weight=0.2, trades=True)


def test_misaligned_candidates_are_those_of_the_word_before(make):  # noqa: F811
    table = SynonymTable({"cat": ("feline",), "dog": ("hound",), "of": ("banana",)})
    given = {"text_attack": None, "candidates": table}
    texts = ["This is a photo of cat"]
    attacked = {}
    for aligned in (True, False):
        trainer = make(trainer=given, align_to_cls=aligned, template="This is a photo of {}")
        attacked[aligned] = trainer.attacker.word_attack(texts, trainer.attacker.encoder.encode_texts)
    assert attacked == {True: ["This is a photo of feline"], False: ["This is a photo of banana"]}


def test_each_text_suffers_one_of_several_attacks_drawn_anew(make, images):  # noqa: F811
    trainer = make(text_attack="words|embedding|characters", per_device_train_batch_size=12)
    attack = trainer.attacker.text_attacks["embedding"].attack
    attack = replace(attack, random_start=False)  # to find the same point twice
    trainer.attacker.text_attacks["embedding"] = EmbeddingAttacker(attack)
    inputs = batch_of(trainer)
    batch = trainer._read(inputs)
    words, embedding, characters = (
        trainer.attacker.attack_texts(kind, batch.texts, batch.anchors, batch.text_anchor_ids)
        for kind in ("words", "embedding", "characters")
    )
    assert words.shift is characters.shift is None
    assert embedding.texts == batch.texts and embedding.shift.abs().sum() > 0
    assert words.texts == trainer.attacker.word_attack(batch.texts, trainer.attacker.encoder.encode_texts)
    assert all(a != b for a, b in zip(characters.texts, batch.texts, strict=True))
    tokens = [trainer.attacker.encoder.dual.tokenize(attacked.texts)["input_ids"] for attacked in (words, embedding)]
    encode = encoding.text_embeds
    moved = encoding.token_embeddings(trainer.model, tokens[1]) + embedding.shift
    expected = torch.stack([encode(trainer.model, tokens[0]), encode(trainer.model, tokens[1], inputs_embeds=moved)])
    drawn = []
    for _ in range(2):
        _, embeds = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
        which = trainer.attacker.drawn_attacks(12)
        for row in range(12):
            if which[row] < 2:
                found = expected[which[row], batch.text_ids[row]]
                assert torch.allclose(embeds.adv_text_embeds[row], found, atol=1e-5)
        drawn.append(which)
    assert set(drawn[0].tolist()) == {0, 1, 2} and not torch.equal(*drawn)


def test_a_text_is_attacked_only_as_was_drawn_for_it(make):  # noqa: F811
    trainer = make(text_attack="words|embedding|characters", per_device_train_batch_size=12)
    batch = trainer._read(batch_of(trainer))
    trainer.attacker.generator("images")
    which = trainer.attacker.drawn_attacks(12)
    attacked, rows = trainer.attacker.attack_drawn_texts(batch)
    sources = [(one.kind, text) for one in attacked for text in one.sources]
    kinds = ("words", "embedding", "characters")
    assert [sources[row] for row in rows] == [
        (kinds[kind], batch.texts[text]) for kind, text in zip(which, batch.text_ids, strict=True)
    ]
    assert len(sources) == len(set(sources)) == len(set(zip(which.tolist(), batch.text_ids.tolist(), strict=True)))


def test_by_itself_mmcoa_is_the_papers_form(make, tmp_path):  # noqa: F811
    def form(**settings):
        args = MMCoAConfig(output_dir=str(tmp_path), **settings)
        return args.text_attack, args.rho, args.lambda_distill

    assert form() == form(text_attack="words") == form(objective="tecoa") == ("words", 1.0, 0.0)
    assert form(objective="leaf") == ("characters", 1.0, 0.0)
    given = make().args  # an attack that is given is the only one
    assert (given.text_attack, given.rho, given.lambda_distill) == ("words", 1.0, 0.0)
    given = make(max_changes=2, lambda_distill=0.2).args
    assert (given.text_attack, given.max_changes, given.lambda_distill) == ("words", 2, 0.2)
    assert make(trainer={"text_attack": None, "objective": MMCoA()}).args.text_attack == "words"
    assert make(trainer={"text_attack": None}).args.text_attack == "words"


@pytest.mark.parametrize("adversary", ["own", "all"])
def test_the_text_term_may_see_every_legal_text(make, adversary):  # noqa: F811
    table = SynonymTable({"cat": ["feline"], "car": ["wagon", "automobile"]})
    trainer = make(
        text_adversary=adversary, lambda_image=0, template="a {}", trainer={"text_attack": None, "candidates": table}
    )
    pools = trainer.attacker.text_pools
    assert sorted(zip(pools.classes, pools.texts, strict=True)) == [
        (0, "a cat"),
        (0, "a feline"),
        (1, "a dog"),
        (2, "a red automobile"),
        (2, "a red car"),
        (2, "a red wagon"),
    ]
    assert pools.texts[:3] == trainer.prompts
    loss, embeds = trainer.compute_loss(trainer.model, batch_of(trainer), return_outputs=True)
    assert 3 < len(embeds.pool_embeds) <= len(pools.texts)  # the prompts, and the chosen texts alone
    cosines = F.normalize(embeds.image_features, dim=-1) @ trainer.attacker.encoder.encode_texts(pools.texts).T
    worst = embeds.logit_scale * torch.stack(
        [
            torch.stack(
                [
                    row[[i for i, owner in enumerate(pools.classes) if owner == each]].min()
                    if each == label
                    else row[[i for i, owner in enumerate(pools.classes) if owner == each]].max()
                    if adversary == "all"
                    else row[each]
                    for each in range(3)
                ]
            )
            for row, label in zip(cosines, embeds.labels.tolist(), strict=True)
        ]
    )
    assert loss.item() == pytest.approx(0.5 * 2 * F.cross_entropy(worst, embeds.labels).item(), rel=1e-4)
    assert trainer.train().training_loss > 0 and math.isfinite(trainer.evaluate()["eval_loss"])


def test_an_objective_that_is_given_chooses_its_own_texts(make):  # noqa: F811
    class ReadsAll(MMCoA):
        text_adversary = None

        def __init__(self):
            pass

        views = frozenset({"text_pools", "images"})

    table = SynonymTable({"cat": ["feline", "kitty"], "dog": ["hound", "pup"], "car": ["wagon", "automobile"]})
    chosen = {}
    for name, objective in {
        "own": MMCoA(lambda_image=0, text_adversary="own"),
        "all": MMCoA(lambda_image=0, text_adversary="all"),
        "its own": ReadsAll(),
    }.items():
        trainer = make(template="a {}", trainer={"objective": objective, "text_attack": None, "candidates": table})
        batch = trainer.reader.read(batch_of(trainer), own_texts=False)
        chosen[name] = trainer.attacker.worst_texts(batch)
        cosines = (
            trainer.attacker.encoder.encode_images(batch.images)
            @ trainer.attacker.encoder.encode_texts(trainer.attacker.text_pools.texts).T
        )
        if name == "all":  # the nearest text of every other class is among them
            for row, label in zip(cosines, batch.anchor_ids.tolist(), strict=True):
                for other in {0, 1, 2} - {label}:
                    texts = [i for i, owner in enumerate(trainer.attacker.text_pools.classes) if owner == other]
                    nearest = max(texts, key=lambda place: row[place].item())
                    assert trainer.attacker.text_pools.texts[nearest] in chosen["all"].texts
    assert len(chosen["its own"].texts) == 9 >= len(chosen["all"].texts) >= len(chosen["own"].texts) >= 3


def test_an_attack_without_a_list_of_texts_is_refused_by_name(make):  # noqa: F811
    trainer = make(text_adversary="all", trainer={"text_attack": lambda texts, encode: texts})
    with pytest.raises(ValueError, match="`text_adversary` needs a text attack that lists its texts"):
        trainer.train()


def test_evaluation_takes_the_worst_of_several_text_attacks(make):  # noqa: F811
    alone = {}
    for kind in ("words", "embedding", "words|embedding"):
        trainer = make(text_attack=kind, epsilon=0)
        inputs = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))
        batch = trainer.reader.read(inputs, own_texts=False)
        alone[kind] = trainer._monitor.evaluate(batch, inputs["row_ids"])[3]
    assert torch.equal(alone["words|embedding"], torch.minimum(alone["words"], alone["embedding"]))


def test_a_teachers_features_of_prompts_do_not_depend_on_the_batch(make, tiny_clip):  # noqa: F811
    """Bit for bit: a resumed run first meets other prompts than the run that it goes on with."""
    prompts = make(lambda_distill=0.1).prompts
    first, second = (make(lambda_distill=0.1, model=copy.deepcopy(tiny_clip)) for _ in range(2))
    alone, last = first.teacher.texts(prompts[:1]), second.teacher.texts(prompts[2:])
    assert torch.equal(alone, second.teacher.texts(prompts[:1]))
    assert torch.equal(last, first.teacher.texts(prompts[2:]))
