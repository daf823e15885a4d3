"""Names of strangers: whatever they hold, they are text wherever they are shown."""

from __future__ import annotations

import html
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from galleries import make_gallery
from huggingface_hub import ModelCard
from result_dicts import make_result

from hf_mmcoa import ZeroShotClassifier
from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.demo.panels import comparison_html, message_html
from hf_mmcoa.demo.side_by_side import Comparison, Reading
from hf_mmcoa.evaluation.evaluator import evaluate_robustness
from hf_mmcoa.evaluation.provenance import model_fingerprint
from hf_mmcoa.evaluation.results import load_result, save_result
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.hub.card import model_card
from hf_mmcoa.io import write_json
from hf_mmcoa.protocols.comparison import read_rows
from hf_mmcoa.protocols.grid_table import comparison_table, protocol_table
from hf_mmcoa.protocols.reading import read_protocol
from hf_mmcoa.report.gallery import gallery_path, save_gallery
from hf_mmcoa.report.markdown import escape_markdown
from hf_mmcoa.report.page import write_report
from hf_mmcoa.report.picture import save_picture
from hf_mmcoa.report.table import robustness_table

UNSEEN = "\x1b[2J\u202e\u2066\u200f\x00"
MARKUP = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
HOSTILE = f"{MARKUP} | pipe `code` [a](http://e.vil) www.e.vil a@e.vil\n---\nlicense: evil\n```\n# head {UNSEEN}"


class Tags(HTMLParser):
    """The elements of a page that is parsed as a browser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless(page: str) -> None:
    for tag, attributes in Tags(page).found:
        assert tag != "script" and not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("src") or "data:").startswith("data:"), attributes
    assert not set(UNSEEN) & set("\x1b\u202e\u2066\u200f\x00") & set(page)


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("accuracy_chart", "tradeoff_chart", "epsilon_chart"):
        monkeypatch.setattr(f"hf_mmcoa.report.page.{name}", lambda *args, **kwargs: b"PNG")


def hostile_result(**changes):
    """Hostile wherever a result holds text."""
    prompts = [f"a photo of a {HOSTILE}", "a photo of a dog"]
    return make_result(
        model=HOSTILE,
        dataset=f"{HOSTILE}/{HOSTILE}",
        template=f"{{}} {HOSTILE}",
        image_attacks=(HOSTILE,),
        candidates={HOSTILE: HOSTILE},
        class_names=[HOSTILE, "dog"],
        prompts=prompts,
        adv_prompts={"text/words/all": [f"x {HOSTILE}", HOSTILE]},
        sanity=[{"check": HOSTILE, "passed": False, "detail": HOSTILE}],
        versions={HOSTILE: HOSTILE},
        **changes,
    )


def test_reports_show_names_as_text(tmp_path: Path) -> None:
    write_json({HOSTILE: hostile_result(), "b": make_result()}, tmp_path / "r.json")
    save_gallery(make_gallery(HOSTILE), gallery_path(tmp_path / "r.json"))
    report = write_report([tmp_path / "r.json"], tmp_path / "out", title=HOSTILE)
    assert not report.left_out
    page = report.page.read_text(encoding="utf-8")
    assert_harmless(page)
    assert html.escape(MARKUP) in page.replace("&#34;", "&quot;")
    assert_markdown(report.markdown.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_picture_of_very_long_names_is_drawn_in_a_moment(tmp_path: Path) -> None:
    """Names are shortened letter by letter until they fit."""
    started = time.process_time()
    save_picture(make_gallery("m" * 100_000), tmp_path / "a.png")
    assert time.process_time() - started < 20 and (tmp_path / "a.png").stat().st_size < 400_000


def assert_markdown(text: str) -> None:
    """No element, link, heading, line or cell that a name has made."""
    assert text.isprintable() or not set("\x1b\u202e\u2066\u200f\x00") & set(text)
    for markup in ("<img", "<script", "[a", "`code", "| pipe", "# head"):
        assert not re.search(rf"(?<!\\){re.escape(markup)}", text), markup
    assert not re.search(r"http://|www\.e|a@e", text) and not re.search(r"^(---|```|license)", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("2) a", r"2\) a"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("https://a.b", r"https\://a.b"),
        ("www.a.b a@b.c", r"www\.a.b a\@b.c"),
        ("a\n\nb\u2028c", "a b c"),
        ("\x1b[1m", r"\\x1b\[1m"),
        ("4/255, -0.5, 5.5", "4/255, -0.5, 5.5"),
    ],
)
def test_markdown_is_escaped(text: str, expected: str) -> None:
    assert escape_markdown(text) == expected


def test_a_terminal_s_table_shows_names_and_obeys_none() -> None:
    table = robustness_table({HOSTILE: make_result(), "n" * 5000: make_result()}).partition("\n\n")[0]
    assert r"\x1b[2J" not in table.split("\n")[1] and "\x1b" not in table and len(table.split("\n")) == 6
    assert all(len(line) < 200 for line in table.split("\n"))
    assert "\x1b" not in robustness_table(
        {"a": {"text_\x1b[2J_accuracy": 0.5, "text_\x1b[2J_accuracy_interval": [0, 1]}}
    )


def test_a_card_shows_names_as_text(tiny_clip, tiny_processor, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    tiny_clip.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    marks = {"model": model_fingerprint(tiny_clip), "data": "squares"}
    write_json({"before": make_result(model=HOSTILE), "after": hostile_result(fingerprints=marks)}, folder / "r.json")
    arguments = {HOSTILE: HOSTILE, "dataset": HOSTILE, "model_name_or_path": HOSTILE, "run_name": HOSTILE}
    (folder / "training_args.yaml").write_text(yaml.safe_dump(arguments | {"template": HOSTILE}))
    card = model_card(folder, [folder / "r.json"], license="mit\n---\nlicense: evil", tags=[HOSTILE])
    text = str(card)
    assert not set("\x1b\u202e\u2066\u200f\x00") & set(card.text)
    outside = re.sub(r"^```(\w+)\n.*?\n```$", "", card.text, flags=re.MULTILINE | re.DOTALL)
    assert_harmless(re.sub(r"\\([<>])", lambda found: html.escape(found[1]), outside.replace("<details>", "")))
    (summary,) = re.findall(r"<summary>(.*?)</summary>", outside)  # HTML: a backslash there escapes nothing
    outside = outside.replace(summary, "")
    assert not re.search(r"(?<!\\)<(img|script)", outside) and "```" not in outside.replace(r"\`\`\`", "")
    assert "<" not in summary and MARKUP in html.unescape(summary)
    assert ModelCard(text).data.license == "mit\n---\nlicense: evil"  # one value, as it was given
    assert len(re.findall(r"^license:", text.split("\n---\n")[0], re.MULTILINE)) == 1


def test_tables_of_protocols_show_names_as_text(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump({"base": "digits", "name": MARKUP, "description": HOSTILE.replace(UNSEEN, "")})
    )
    protocol = read_protocol(tmp_path / "p.yaml")
    cells = protocol.cells()
    finished = [(cells[0], hostile_result())]
    assert_markdown(protocol_table(protocol, finished, {cells[1].name: HOSTILE}))
    save_result(hostile_result(), tmp_path / "theirs.json")
    (row,) = read_rows([f"<b>|*={tmp_path / 'theirs.json'}"], [])
    numbers = {
        "methods": {
            row.name: {"accuracies": {}, "seeds": [0], "steps": [], "objective": None, "files": {"0": HOSTILE}}
        },
        "columns": {"text_accuracy": f"text ({HOSTILE})"},
        "tests": {row.name: {"text_accuracy": None}},
        "best": {},
        "reference": HOSTILE,
    }
    text = comparison_table(protocol, numbers, finished, {})
    assert_markdown(text.replace("![accuracy of each method](comparison.png)", ""))


def test_the_demo_shows_names_as_text() -> None:
    reading = Reading(
        image=np.zeros((3, 4, 4), np.float32), perturbation=np.zeros((3, 4, 4), np.float32), label=0,
        clean=np.array([0.9, 0.1]), attacked=np.array([0.1, 0.9]), prompts=[f"a {HOSTILE}", "a dog"],
        adv_prompts=[f"an {HOSTILE} x", HOSTILE],
    )  # fmt: skip
    comparison = Comparison(
        readings={HOSTILE: reading},
        class_names=[HOSTILE, "dog"],
        attack="multimodal",
        budget=ThreatModel(),
        has_label=True,
    )
    for page in (comparison_html(comparison), message_html(HOSTILE)):
        assert_harmless(page)
        assert "&lt;img" in page


# Class names before a model sees them


@pytest.mark.parametrize("name", ["caf\udce9", "\ud83d", "a\udfff b"])
def test_a_name_that_is_no_unicode_is_refused_with_the_way_out(name: str, tiny_clip, tiny_processor) -> None:
    for use in (
        lambda: class_prompts([name, "dog"]),
        lambda: ZeroShotClassifier(tiny_clip, tiny_processor, [name, "dog"]),
    ):
        with pytest.raises(ValueError, match=r"is no Unicode text: its bytes were not UTF-8.*Rename it"):
            use()


@pytest.mark.parametrize("name", ["", " ", "\n\t", "___", "\u2028"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="empty after clean-up"):
        class_prompts([name, "dog"])


def test_a_very_long_name_is_refused_by_the_context(tiny_clip, tiny_processor) -> None:
    with pytest.raises(ValueError, match=r"the model's context holds 16\. Shorten the class name"):
        ZeroShotClassifier(tiny_clip, tiny_processor, ["cat " * 5000, "dog"])


@pytest.mark.parametrize("name", ["a\nb", UNSEEN, "\u0627\u0644\u0642\u0637", MARKUP, "{}", "%s", "$x$", "\U0001f408"])
def test_any_other_name_is_a_prompt_on_one_line(name: str, tiny_clip, tiny_processor) -> None:
    (prompt, _) = class_prompts([name, "dog"])
    assert prompt.startswith("This is a photo of a ") and "\n" not in prompt
    tiny_processor.tokenizer([prompt])
    attack = BertAttack(candidates=lambda texts, words, number: [{} for _ in texts], class_names=(name,))
    assert attack([prompt], lambda texts: torch.ones(len(texts), 2)) == [prompt]


def test_what_is_recorded_of_a_name_can_be_read_again(tiny_clip, tiny_processor, tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"image": [[[[0] * 3] * 32] * 32] * 2, "label": [0, 1]})
    evaluate_robustness(
        tiny_clip, tiny_processor, data, attacks=["clean"], class_names=["cat", "dog"], sanity=False, progress=False,
        threat_model="quick", output=tmp_path / "r.json", model_name="caf\udce9" + "m" * 5000, dataset_name=UNSEEN,
    )  # fmt: skip
    stored = load_result(tmp_path / "r.json")
    assert stored["model"].startswith(r"caf\udce9m") and len(stored["model"]) == 1000
    assert stored["dataset"] == r"\x1b[2J\u202e\u2066\u200f\x00"
