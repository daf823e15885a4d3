"""What holds for any input: of attacks, losses and parsers. An example that found something stays as `@example`.

Derandomised, so that a run tests what the run before tested; `HYPOTHESIS_EXAMPLES=1000` looks further.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_mmcoa.attacks import APGD, PGD, BertAttack, Diversity, LevenshteinAttack, Momentum, Restarts
from hf_mmcoa.attacks.settings import pixels
from hf_mmcoa.config import _check_text_attack
from hf_mmcoa.data.prompts import check_template, class_prompts, clean_class_name
from hf_mmcoa.demo import parse_class_names
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.io import parse_json, parse_yaml, printable
from hf_mmcoa.losses import class_targets, contrastive_loss, sigmoid_loss
from hf_mmcoa.protocols.cell import Method
from hf_mmcoa.protocols.reading import _protocol
from hf_mmcoa.protocols.values import field_values
from hf_mmcoa.report.markdown import escape_markdown
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.substitutes.words import WORD, changed_words, replace_word, split_words

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "25"))
searched = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 25,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TEXT = st.text(max_size=30)  # any Unicode, half surrogates left out: nothing that came in by UTF-8 has them
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

# Image attacks


@st.composite
def image_cases(draw: Callable[..., Any]) -> tuple[Tensor, Any, float, str, int]:
    """Images in [0, 1], an attack on them, its radius, norm, and the seed of the loss."""
    norm = draw(st.sampled_from(["linf", "l2"]))
    epsilon = draw(st.sampled_from([0.0, 1e-30, 1 / 255, 1.0]) | st.floats(0, 1 if norm == "linf" else 50))
    step = draw(st.sampled_from([0.0, 1 / 255, 1e6]) | st.floats(0, 10))
    steps = draw(st.integers(0, 3))
    pgd = PGD(epsilon=epsilon, step_size=step, num_steps=steps, norm=norm, random_start=draw(st.booleans()))
    attack = draw(
        st.sampled_from(
            [
                pgd,
                APGD(epsilon=epsilon, num_steps=steps, norm=norm),
                Restarts(pgd, times=2),
                Momentum(pgd, decay=draw(st.floats(0, 2))),
                Diversity(pgd, probability=draw(st.floats(0, 1)), smallest=draw(st.floats(0.05, 1))),
            ]
        )
    )
    seed = draw(st.integers(0, 2**16))
    shape = (draw(st.integers(1, 3)), 3, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    kind = draw(st.sampled_from(["any", "black", "white", "0 or 1"]))
    images = {"any": images, "black": images * 0, "white": images * 0 + 1, "0 or 1": images.round()}[kind]
    return images, attack, epsilon, norm, seed


@searched
@given(image_cases())
def test_an_image_attack_stays_inside_the_ball_and_the_range(case: tuple[Tensor, Any, float, str, int]) -> None:
    images, attack, epsilon, norm, seed = case
    weights = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=images.dtype)
    before = images.clone()
    attacked = attack(
        images, lambda given: (given * weights).sum((1, 2, 3)).tanh(), torch.Generator().manual_seed(seed)
    )
    assert attacked.shape == images.shape and attacked.dtype == images.dtype and not attacked.requires_grad
    assert images.equal(before) and attacked.min() >= 0 and attacked.max() <= 1
    lengths = (attacked - images).flatten(1).norm(p=math.inf if norm == "linf" else 2, dim=1)
    assert lengths.max() <= epsilon * (1 + 1e-4) + 1e-6  # a float32 pixel near 1 is known to 6e-8
    if epsilon == 0:
        assert attacked.equal(images)


@searched
@given(st.floats(), st.floats(), st.integers(-3, 3), st.sampled_from(["linf", "l2", "l1"]))
@example(math.nan, 0.1, 1, "linf")  # was taken
@example(0.1, math.nan, 1, "l2")
@example(math.inf, 0.1, 1, "l2")
def test_an_image_attack_without_sense_is_refused(epsilon: float, step: float, steps: int, norm: Any) -> None:
    sound = 0 <= epsilon <= (1 if norm == "linf" else 1e308) and 0 <= step < math.inf and steps >= 0 and norm != "l1"
    try:
        PGD(epsilon=epsilon, step_size=step, num_steps=steps, norm=norm)
    except ValueError:
        assert not sound
    else:
        assert sound


# Text attacks


def hashed(texts: list[str]) -> Tensor:
    """Any deterministic unit embedding."""
    sums = [
        [sum(ord(letter) * (place + factor) for place, letter in enumerate(text)) for factor in (1, 2, 5)]
        for text in texts
    ]
    return torch.nn.functional.normalize(torch.tensor(sums, dtype=torch.float64).reshape(-1, 3).sin() + 0.1, dim=-1)


def distance(one: str, other: str) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@searched
@given(st.lists(ANY_TEXT, max_size=4), st.integers(0, 2), st.sampled_from([None, 1, 5]), st.integers(1, 3))
def test_typing_errors_keep_their_budget(texts: list[str], edits: int, samples: int | None, slots: int) -> None:
    attack = LevenshteinAttack(max_edits=edits, num_samples=samples, num_slots=slots, alphabet="ab ")
    attacked = attack(texts, hashed)
    assert len(attacked) == len(texts) and attacked == attack(texts, hashed)
    assert all(distance(*pair) <= edits for pair in zip(texts, attacked, strict=True))
    assert (edits > 0) or attacked == texts
    moved = [(hashed([a]) - hashed([b])).norm() for a, b in zip(texts, attacked, strict=True)]
    assert all(length > 0 or a == b for length, a, b in zip(moved, texts, attacked, strict=True))


@searched
@given(st.lists(ANY_TEXT | st.sampled_from(["a cat", "the cat, a dog", "CAT's"]), max_size=4), st.integers(0, 2))
@example(["\u0130stanbul cat"], 1)
def test_exchanged_words_keep_their_budget(texts: list[str], changes: int) -> None:
    attack = BertAttack(candidates=SynonymTable({"cat": ("feline", "tom"), "dog": ("hound",)}), max_changes=changes)
    attacked = attack(texts, hashed)
    assert len(attacked) == len(texts) and attacked == attack(texts, hashed)
    for before, after, variants in zip(texts, attacked, attack.variants(texts), strict=True):
        assert after in variants and variants[0] == before
        pairs = changed_words(before, after)
        assert len(pairs) <= changes and {new for _, new in pairs} <= {"feline", "tom", "hound"}
        assert len(split_words(after)) == len(split_words(before))


@searched
@given(ANY_TEXT, st.sampled_from(["cat", "don't", "Straße", "\u732b"]), st.integers(-2, 12))
@example("a'b", "cat", 0)
@example("cat\u0301", "dog", 0)
def test_a_word_is_replaced_and_put_back(text: str, word: str, index: int) -> None:
    spans = split_words(text)
    assert [text[start:end] for start, end in spans] == WORD.findall(text)
    if not 0 <= index < len(spans):
        with pytest.raises(IndexError, match="is not a word"):
            replace_word(text, index, word)
        return
    original = text[slice(*spans[index])]
    replaced = replace_word(text, index, word)
    assert len(split_words(replaced)) == len(spans) and replace_word(replaced, index, original) == text
    assert changed_words(text, replaced) == ([(original, word)] if original != word else [])


# Losses


@st.composite
def embeddings(draw: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit image and text embeddings, labels, and an order."""
    batch, dim = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    pair = torch.nn.functional.normalize(torch.randn(2, batch, dim, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.tensor(draw(st.lists(st.integers(-5, 5), min_size=batch, max_size=batch)))
    return pair[0], pair[1], labels, torch.randperm(batch, generator=generator)


@searched
@given(embeddings(), st.sampled_from([0.0, 1e-3, 1.0, 100.0, 1e4]) | st.floats(0, 1000))
def test_losses_know_no_order_and_no_negative_value(given: tuple[Tensor, ...], scale: float) -> None:
    images, texts, labels, order = given
    s, bias = torch.tensor(scale, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
    targets = class_targets(labels).double()
    torch.testing.assert_close(targets, targets.T)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(labels), dtype=torch.float64), rtol=1e-6, atol=1e-6)
    for loss in (
        lambda a, b, t=None: contrastive_loss(a, b, s, t),
        lambda a, b, t=None: sigmoid_loss(a, b, s, bias, t),
    ):
        for own in (None, targets):
            value = loss(images, texts, own)
            assert value.isfinite() and value >= -1e-9
            swapped = None if own is None else own[order][:, order]
            torch.testing.assert_close(loss(images[order], texts[order], swapped), value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(contrastive_loss(texts, images, s), contrastive_loss(images, texts, s))
    if len(set(labels.tolist())) == len(labels):  # distinct classes: sharing among one is no sharing
        torch.testing.assert_close(contrastive_loss(images, texts, s, targets), contrastive_loss(images, texts, s))
        torch.testing.assert_close(sigmoid_loss(images, texts, s, bias, targets), sigmoid_loss(images, texts, s, bias))
    if scale == 0:  # every column is as likely as another
        assert math.isclose(contrastive_loss(images, texts, s), 2 * math.log(len(labels)), abs_tol=1e-9)


# Parsers: a value, or a ValueError

NUMBER = st.from_regex(r"[-+]?\d{0,4}(\.\d{0,3})?(e-?\d{1,3})?(/-?\d{0,4}(\.\d)?)?", fullmatch=True)


@searched
@given(ANY_TEXT | NUMBER | st.floats() | st.integers() | st.none() | VALUES)
@example("1/0")
@example("1e400/1e400")
@example(10**400)  # float() of the number itself overflows
@example("\u0661/\u0662")  # Arabic digits: Python reads them
def test_a_length_in_pixels_is_a_number_or_refused(value: Any) -> None:
    try:
        assert isinstance(pixels("epsilon", value), float)
    except ValueError as error:
        assert "`epsilon` must be a number or text" in str(error)


@searched
@given(
    ANY_TEXT
    | st.lists(st.sampled_from(["words", "embedding", "words+embedding", "characters", ""]), max_size=4).map("|".join)
)
@example("")
@example("|")
@example("words|words")
def test_text_attacks_are_known_or_refused(value: str) -> None:
    known = {"words", "embedding", "words+embedding", "characters"}
    kinds = value.split("|")
    sound = value in ("auto", "none") or (set(kinds) <= known and len(set(kinds)) == len(kinds))
    try:
        _check_text_attack(value)
    except ValueError as error:
        assert not sound and "`text_attack` must be" in str(error)
    else:
        assert sound


@searched
@given(ANY_TEXT | st.lists(st.sampled_from(["{}", "{", "}", "a ", "{0}"]), max_size=5).map("".join), ANY_TEXT)
@example("{}", "{}")
@example("{{}}", "a")
def test_a_template_takes_any_name_or_is_refused(template: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_template(template)
            prompts = class_prompts([name, "dog"], template)
        except ValueError:
            surrogate = re.search("[\ud800-\udfff]", clean_class_name(name))
            assert template.count("{}") != 1 or not clean_class_name(name) or surrogate
        else:
            before, after = template.split("{}")
            assert prompts[0] == before + clean_class_name(name) + after and len(prompts) == 2


@searched
@given(ANY_TEXT)
@example("a\u0130")  # its lower case has two letters
def test_cleaning_a_name_twice_changes_nothing(name: str) -> None:
    once = clean_class_name(name)
    assert clean_class_name(once) == once and once == " ".join(once.split())


@searched
@given(ANY_TEXT | st.lists(st.sampled_from(["cat", "Dog", "red_panda", " "]), max_size=5).map(",".join))
def test_typed_class_names_can_be_told_apart_or_are_refused(text: str) -> None:
    try:
        names = parse_class_names(text)
    except ValueError:
        return
    assert len({clean_class_name(name) for name in names}) == len(names) >= 2 and all(map(clean_class_name, names))


@searched
@given(ANY_TEXT | st.sampled_from(["", "[", "&a [*a]", "!!timestamp x", "!!int ''", "a: 1e-3", "? [a]", "- - -", "%"]))
def test_a_document_is_plain_or_refused_by_name(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            value = parse(text, "here")
        except ValueError as error:
            assert str(error).startswith("here ")
        else:
            str(value).encode()


PROTOCOL_FIELDS = [
    "name", "description", "task", "datasets", "train_on", "evaluate_on", "shots", "objectives", "seeds", "model",
    "tiny", "training", "threat_model", "candidates", "max_test_samples", "batch_size", "unequal_steps",
    "data_dir", "base", "word_splits", "unseen_words", "measure",
]  # fmt: skip
NEAR = st.sampled_from(
    [["none", "mmcoa"], ["digits"], [{"name": "digits"}], [0, 1], ["full", 4], "iid", "ood", "digits", {"num_steps": 2},
     {"preset": "quick"}, {"image_size": 8, "patch_size": 2, "epochs": 1}, [{"objective": "tecoa", "num_steps": 1}], 5]
)  # fmt: skip


@searched
@given(st.dictionaries(st.sampled_from(PROTOCOL_FIELDS), NEAR | VALUES, max_size=3))
def test_a_protocol_is_one_or_refused(content: dict[str, Any]) -> None:
    from pathlib import Path

    try:
        cells = _protocol({"base": "digits", **content}, Path("/nowhere"), "p", None, {}).cells()
    except (ValueError, FileNotFoundError):  # FileNotFoundError: a file of substitutes that is not there
        return
    assert all("/" not in cell.name and cell.name not in (".", "..") for cell in cells)


@searched
@given(TEXT | st.sampled_from(["mmcoa,targets=class", "a=b,c=[1]", ",", "=", "a=b=c,d=e=f", "x=mmcoa,a=&a [*a]"]))
def test_a_method_is_one_or_refused(text: str) -> None:
    try:
        method = Method.parse(text)
    except ValueError:
        return
    assert method.folder and "/" not in method.folder and method.folder not in (".", "..")
    field_values([], "here")


@searched
@given(st.dictionaries(st.sampled_from(sorted(ThreatModel.__dataclass_fields__)), VALUES, max_size=2))
@example({"epsilon": 10**400})
@example({"num_steps": math.nan})
@example({"candidates": {"a": None}})
@example({"image_attacks": 5})
def test_a_threat_model_is_one_or_refused(changes: dict[str, Any]) -> None:
    try:
        spec = ThreatModel.from_dict({**ThreatModel().to_dict(), **changes})
    except ValueError:
        return
    assert ThreatModel.from_dict(spec.to_dict()) == spec and len(spec.fingerprint()) == 16


@searched
@given(ANY_TEXT)
def test_shown_text_is_one_line_without_commands(text: str) -> None:
    assert all(letter.isprintable() or letter in "\n\t" for letter in printable(text))
    assert printable(printable(text)) == printable(text)
    line = escape_markdown(text)
    assert line.isprintable() and not re.search(r"(?<!\\)(?:\\\\)*[<>|`\[\]*_@]", line)
    assume("\\" not in text and text.isprintable())
    assert re.sub(r"\\(.)", r"\1", line) == " ".join(text.split())
