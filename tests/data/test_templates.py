"""Prompt ensembles by name, from files, and as they are."""

from __future__ import annotations

import pytest

from hf_mmcoa.data.benchmarks import BENCHMARKS
from hf_mmcoa.data.templates import prompt_templates


def test_openai_means_the_ensemble_of_the_data_set():
    row = next(row for row in BENCHMARKS if row.name == "cifar10")
    assert len(prompt_templates("openai", row.name, row.templates)) == 18
    assert len(prompt_templates(["imagenet"])) == 80
    with pytest.raises(ValueError, match="no prompt ensemble for digits"):
        prompt_templates("openai", "digits", ("a {}",))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "a {}\n\nthe {}.\n"), ("a.yaml", "- a {}\n- the {}.\n"), ("a.json", '["a {}", "the {}."]')],
)
def test_a_file_of_any_usual_kind(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert prompt_templates(str(tmp_path / name)) == ("a {}", "the {}.")


def test_templates_as_they_are_and_what_is_wrong_with_others(tmp_path):
    assert prompt_templates(["a {}", "the {}."]) == ("a {}", "the {}.")
    for given, text in (
        ("imagnet", "Did you mean imagenet"),
        (["a {}", "a {}"], "each once"),
        (["a {}", "b"], "exactly one"),
    ):
        with pytest.raises(ValueError, match=text):
            prompt_templates(given)
    (tmp_path / "a.yaml").write_text("a: b")
    with pytest.raises(ValueError, match="list of templates"):
        prompt_templates(str(tmp_path / "a.yaml"))
