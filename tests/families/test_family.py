"""Every family: its parts share nothing and cover all, its texts keep the class, and what it writes by hand."""

from __future__ import annotations

import json
import unicodedata
from importlib.resources import files

import pytest
import torch

from hf_mmcoa.attacks import BertAttack, LevenshteinAttack, SynonymTable
from hf_mmcoa.attacks.exhaustive import attack_prompts
from hf_mmcoa.data.digits import CLASS_NAMES
from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE, class_prompts, clean_class_name
from hf_mmcoa.families import FAMILIES, PARTS, Family, WordFamily, chosen_families, divide, of_part, text_families
from hf_mmcoa.families.case_and_space import CaseAndSpace
from hf_mmcoa.families.homoglyphs import LOOK_ALIKES, Homoglyphs
from hf_mmcoa.families.meaning import SentenceSimilarity
from hf_mmcoa.families.parts import part_of_source
from hf_mmcoa.families.plural_and_article import PluralAndArticle
from hf_mmcoa.families.templates import PARAPHRASES, Affixes, TemplateSwaps, imagenet_templates
from hf_mmcoa.families.typos import NEIGHBOURS, CharacterEdits, KeyboardTypos
from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.substitutes.held_out import HalfOf


def wordnet_names(count: int = 100) -> list[str]:
    """The first names of ImageNet-1k's synsets, many of several words, each once."""
    synsets = json.loads(files("hf_mmcoa.data").joinpath("class_names.json").read_text(encoding="utf-8"))["synsets"]
    names = (clean_class_name(lemmas.split(",")[0]) for lemmas in synsets.values())
    return list(dict.fromkeys(names))[:count]


def every_name() -> dict[str, list[str]]:
    return {"digits": list(CLASS_NAMES), "wordnet": wordnet_names()}


NAMES = every_name()
CHECKED = [name for name in FAMILIES if name != "words"]


class Letters:
    """A source that is no table of synonyms: words made of the word's own letters."""

    def __call__(self, texts, words, num_candidates):
        return [
            {index: [f"{text.split()[index]}{letter}y" for letter in "bcdfghjklmnp"][:num_candidates] for index in own}
            for text, own in zip(texts, words, strict=True)
        ]


def table_of(kind: str) -> SynonymTable:
    if kind == "digits":
        return SYNONYMS
    words = dict.fromkeys(name.split()[-1] for name in NAMES[kind])
    return SynonymTable({word: [f"{word}{number}kind" for number in "abcdefgh"] for word in words})


def families_of(kind: str, part=None, source=None, **settings):
    attack = BertAttack(
        candidates=source or table_of(kind), num_candidates=10, template=DEFAULT_TEMPLATE, class_names=NAMES[kind]
    )
    made = text_families(
        class_names=NAMES[kind], words=attack, characters=LevenshteinAttack(alphabet="abxyz ,"), part=part, **settings
    )
    return {family.name: family for family in made}


def pools(family, prompts) -> list[set[str]]:
    listed = family.variants(prompts)
    assert [pool[0] for pool in listed] == prompts
    assert all(len(set(pool)) == len(pool) for pool in listed)
    return [set(pool[1:]) for pool in listed]


@pytest.mark.few(4)
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", CHECKED)
def test_parts_share_no_instance_and_no_text_and_cover_all(name, kind):
    whole = families_of(kind)[name]
    prompts = class_prompts(NAMES[kind])
    parts = of_part([whole] * 3, None)
    parts = [families_of(kind, part)[name] for part in PARTS]
    listed = [pools(family, prompts) for family in parts]
    for number, everything in enumerate(pools(whole, prompts)):
        found = [pool[number] for pool in listed]
        assert set.union(*found) == everything and sum(map(len, found)) == len(everything)
    assert all(any(pool) for pool in listed)  # no part is empty
    few = [each[:10] for each in listed]
    assert [pools(families_of(kind, part)[name], prompts[:10]) for part in PARTS] == few
    assert [pools(families_of(kind, part, seed=1)[name], prompts[:10]) for part in PARTS] != few


@pytest.mark.parametrize("name", [name for name in CHECKED if name != "synonyms"])
def test_every_instance_has_one_part_and_kinds_are_divided_alike(name):
    family = families_of("digits")[name]
    inventory = list(family.changes.inventory)
    assert set(family.parts) == set(inventory) and len(set(inventory)) == len(inventory)
    for kind in {kind for kind, _ in inventory}:
        members = [part for instance, part in family.parts.items() if instance[0] == kind]
        sizes = [members.count(part) for part in PARTS]
        assert sizes[0] == (len(members) + 1) // 2 and sizes[1] - sizes[2] in (0, 1) and sizes[2] > 0
    written = {instance for prompt in class_prompts(NAMES["wordnet"]) for instance, _ in family.changes(prompt)}
    assert written <= set(inventory)


def test_parts_of_words_share_no_substitute():
    for source in (SYNONYMS, Letters()):
        asked = (["this is four"], [[2]], 6)
        found = [set(part_of_source(source, part)(*asked)[0][2]) for part in PARTS]
        assert all(found) and not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    found = [set(part_of_source(SYNONYMS, part)(["four"], [[0]], 6)[0][0]) for part in PARTS]
    assert set.union(*found) == set(dict(SYNONYMS.table)["four"])
    known, _ = SYNONYMS.split(0)  # what `hf-mmcoa train` trains on: never the test part of the whole table
    assert not set(known(["four"], [[0]], 6)[0][0]) & found[2]


@pytest.mark.slow
def test_no_text_is_in_two_families():
    prompts = class_prompts(CLASS_NAMES, "a photo of a {}.")
    made = text_families(template="a photo of a {}.", characters=LevenshteinAttack(), class_names=CLASS_NAMES)
    alone = Family(name="characters", changes=CharacterEdits(LevenshteinAttack()))
    assert made[-1].name == "characters"
    for number, prompt in enumerate(prompts):
        listed = [pools(family, prompts)[number] for family in made]
        assert all(listed) and sum(map(len, listed)) == len(set.union(*listed))
        assert pools(alone, [prompt])[0] & set.union(*listed[:-1])  # `without` makes it so


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", CHECKED)
def test_no_text_is_or_names_another_class(name, kind):
    names, prompts = NAMES[kind], class_prompts(NAMES[kind])
    padded = [f" {each} " for each in names]
    for own, (prompt, pool) in enumerate(zip(prompts, families_of(kind)[name].variants(prompts), strict=True)):
        for text in pool[1:]:
            assert text.casefold() not in {each.casefold() for each in prompts} - {prompt.casefold()}
            words = f" {' '.join(text.casefold().replace('.', ' ').replace(',', ' ').split())} "
            assert not [
                each for each in padded if each in words and each not in padded[own] and each not in f"{prompt} "
            ]


def test_a_template_with_a_class_name_in_it_is_dropped_and_counted():
    prompts = class_prompts(["one", "two"])
    family = Family(name="t", changes=TemplateSwaps(templates=("one {}", "it is {}")), class_names=["one", "two"])
    listing = family.listing(prompts)
    assert listing.pools == [[prompts[0], "one one", "it is one"], [prompts[1], "it is two"]]
    assert (listing.num_other_class, listing.num_dissimilar) == (1, 0)
    assert Family(name="t", changes=family.changes).listing(prompts).num_other_class == 0  # no names, no check


def test_the_check_drops_and_counts_what_is_unlike():
    def encode(texts):
        return torch.tensor([[1.0, float("see" in text)] for text in texts])

    changes = Affixes(prefixes=("see: ", "look: "), suffixes=())
    family = Family(name="a", changes=changes, check=SentenceSimilarity(encode=encode, threshold=0.9))
    listing = family.listing(["a cat"])
    assert listing.pools == [["a cat", "look: a cat"]] and listing.num_dissimilar == 1
    generator = torch.Generator().manual_seed(0)
    assert family.draws(["a cat", "a dog"], [2, 0], generator) == [["look: a cat"], []]


@pytest.mark.parametrize("name", ["keyboard", "synonyms"])
def test_draws_are_legal_distinct_and_those_of_the_part(name):
    prompts = class_prompts(CLASS_NAMES)
    family = families_of("digits", "train")[name]
    drawn = family.draws(prompts, [2] * 9 + [0], torch.Generator().manual_seed(0))
    assert [len(set(each)) for each in drawn] == [2] * 9 + [0]
    assert all(set(each) <= pool for each, pool in zip(drawn, pools(family, prompts), strict=True))
    assert drawn == family.draws(prompts, [2] * 9 + [0], torch.Generator().manual_seed(0))
    assert drawn != family.draws(prompts, [2] * 9 + [0], torch.Generator().manual_seed(1))
    many = family.draws(prompts[:1], [10_000], torch.Generator())
    assert set(many[0]) == pools(family, prompts[:1])[0]


def test_draws_know_the_classes_too():
    family = Family(name="t", changes=TemplateSwaps(templates=("one {}", "it is {}")), class_names=["one", "two"])
    assert family.draws(["This is a photo of a two"], [5], torch.Generator()) == [["it is two"]]


def test_a_family_is_what_attack_prompts_lists(tiny_clip, tiny_processor, images):
    from hf_mmcoa.models.encoder import DualEncoder

    encoder = DualEncoder(tiny_clip, tiny_processor)
    prompts = ["This is a photo of a cat", "This is a photo of a dog"]
    family = text_families("affixes", class_names=["cat", "dog"])[0]
    with torch.no_grad():
        embeds = encoder.encode_images(images)
    found = attack_prompts(family, prompts, encoder.encode_texts, embeds, torch.tensor([0, 1, 0, 1]))
    assert found.pools == tuple(map(tuple, family.variants(prompts))) and found.search == "exhaustive"


# What each family writes


def written(changes, text):
    found = {}
    for instance, changed in changes(text):
        found.setdefault(changed, instance)
    return found


def test_slips_on_the_keyboard():
    found = written(KeyboardTypos(), "Go x")
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert (
        set(NEIGHBOURS["o"]) == set("ipkl") and set(NEIGHBOURS["q"]) == set("wa") and set(NEIGHBOURS["z"]) == set("xas")
    )
    assert all(a in NEIGHBOURS[b] for a, near in NEIGHBOURS.items() for b in near)
    assert found["Ho x"] == ("adjacent", "gh") and found["Gp x"] == ("adjacent", "op")
    assert found["Ggo x"] == ("doubled", "g") and found["o x"] == ("dropped", "g")
    assert found["oG x"] == ("transposed", "go")
    assert "Go " not in found  # a word of one letter is not dropped
    assert not list(KeyboardTypos()("42 !"))


def test_look_alikes_at_one_place_and_at_all():
    found = written(Homoglyphs(), "aha")
    assert found["\u0430ha"] == found["ah\u0430"] == found["\u0430h\u0430"] == ("homoglyph", "a\u0430")
    assert "\uff41ha" in found
    assert all(ord(letter) < 128 < code for letter, codes in LOOK_ALIKES.items() for code in codes)
    composed = [unicodedata.normalize("NFC", chr(code)) for codes in LOOK_ALIKES.values() for code in codes]
    assert not any(each.isascii() or each.lower().isascii() for each in composed)  # else CLIP would read the letter


def test_case_and_space():
    found = written(CaseAndSpace(), "a red cat")
    assert found["A RED CAT"] == ("style", "upper") and found["a  red  cat"] == ("style", "double blanks")
    assert found["ared cat"] == ("joined", "ar") and found["a r ed cat"] == ("broken", "re")


def test_templates_affixes_and_captions():
    swaps = TemplateSwaps(templates=("a {}!",), template="my {}.")
    assert list(swaps("My red cat.")) == [(("template", "a {}!"), "a red cat!")]
    assert list(swaps("a caption")) == []
    assert len(imagenet_templates()) == 80 and not set(imagenet_templates()) & set(PARAPHRASES)
    found = written(Affixes(), "a cat.")
    assert found["see: a cat."] == ("prefix", "see: ") and found["a cat, close up."] == ("suffix", ", close up")
    assert "a cat!." not in found and "a cat!" in found
    with pytest.raises(ValueError, match="exactly one"):
        TemplateSwaps(templates=("a cat",))


def test_plurals_and_articles():
    found = written(PluralAndArticle(template="a photo of a {}."), "a photo of a box.")
    assert found["a photo of boxes."] == ("plural", "") and found["a photo of an box."] == ("singular", "an")
    assert found["a photo of the boxs."] == ("plural with s", "the") and "a photo of a box's." in found
    bare = written(PluralAndArticle(template="{}"), "box")
    assert bare["the box"] == ("singular", "the")
    assert written(PluralAndArticle(), "the dog bit a man")["a dog bit a man"] == ("singular", "a")


def test_edits_by_kind_and_character():
    found = written(CharacterEdits(LevenshteinAttack(alphabet="abx")), "Aab")
    assert found["xAab"] == ("insert", "x") and found["Aaab"] == ("insert", "a") and found["Aabx"] == ("insert", "x")
    assert found["xab"] == ("substitute", "x") and found["Aa"] == ("delete", "b") and found["ab"] == ("delete", "other")


# Names and arguments


def test_names_choose_families():
    assert chosen_families() == FAMILIES
    assert chosen_families("affixes|keyboard", "keyboard") == ("affixes",)
    assert "homoglyphs" not in chosen_families("all", "homoglyphs")
    for given, message in (
        (("homoglyph",), "`families` must be all, or some of keyboard, homoglyphs.* got 'homoglyph'"),
        (("affixes|affixes",), "each once"),
        (("all", "typos"), "`leave_out_family` must be one of keyboard, homoglyphs.* got 'typos'"),
        (("affixes|keyboard", "homoglyphs"), "must be one of affixes, keyboard, got 'homoglyphs'"),
        (("affixes", "affixes"), "leaves no family"),
    ):
        with pytest.raises(ValueError, match=message):
            chosen_families(*given)


def test_families_need_their_attacks():
    assert "synonyms" not in [family.name for family in text_families()]
    assert "synonyms" in families_of("digits") and "words" not in families_of("digits")
    others = families_of("digits", source=Letters())
    assert "words" in others and "synonyms" not in others and isinstance(others["words"], WordFamily)
    half = HalfOf(source=SYNONYMS, part="known")
    assert "synonyms" in families_of("digits", source=half)
    for name in ("synonyms", "words", "characters"):
        with pytest.raises(ValueError, match=f"the family '{name}' needs"):
            text_families(name)
        with pytest.raises(ValueError, match=f"the family '{name}' needs"):
            text_families("all", name)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`part` must be one of train, validation, test, or None.*'dev'"):
        text_families("affixes", part="dev")
    with pytest.raises(ValueError, match="`texts` must be a sequence"):
        text_families("affixes")[0].variants("a cat")
    with pytest.raises(ValueError, match="`threshold` is a cosine"):
        SentenceSimilarity(encode=torch.tensor, threshold=2)


def test_a_kind_is_drawn_alone():
    first, both = (divide([(kind, each) for kind in kinds for each in "abcdefgh"]) for kinds in (("x",), ("x", "y")))
    assert first.items() <= both.items()
