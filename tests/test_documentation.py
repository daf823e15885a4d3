"""What the documentation says is run, resolved or compared with the code; `python tests/test_documentation.py` writes
the tables that are made from it.
"""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import linecache
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

import hf_mmcoa
from hf_mmcoa import attacks, data, evaluation, objectives, protocols
from hf_mmcoa.attacks.factory import candidate_sources
from hf_mmcoa.data.benchmarks import BENCHMARKS
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.evaluation import ThreatModel, evaluate_retrieval, evaluate_robustness, sanity_images
from hf_mmcoa.evaluation.threat_model import BEYOND_ATTACKS, IMAGE_ATTACKS, MULTIMODAL_ATTACKS, PRESETS, TEXT_ATTACKS
from hf_mmcoa.report.conditions import fraction

ROOT = Path(__file__).resolve().parents[1]
DOCS = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
OPTIONAL = ("foolbox", "art", "pyautoattack")  # packages of extras: their names are resolved where they are installed
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]


class Block(NamedTuple):
    """One fenced block: its language, text, first line, and the marker comment on the line before."""

    language: str
    text: str
    line: int
    marker: str


def blocks(page: Path) -> list[Block]:
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            marker = re.fullmatch(r"<!-- (.*) -->", lines[start - 1]) if start else None
            text = "\n".join(lines[start + 1 : number])
            found.append(Block(lines[start][3:], text, start + 2, marker[1] if marker else ""))
            start = None
    assert start is None, f"{page.name}: the block of line {start} is not closed"
    return found


def table_after(page: str, marker: str) -> str:
    """The first table that follows some text of a page of docs/."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8").split(marker, 1)[1].split("\n\n|", 1)[1].split("\n\n")[0]


def first_column(table: str) -> list[str]:
    return [line.strip("| ").split("|")[0].strip() for line in table.strip().splitlines()[2:]]


# Code


@pytest.mark.few(3)
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_marked_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """The blocks of one page, one after the other in one namespace, as a reader would type them."""
    runnable = [block for block in blocks(page) if block.language == "python" and block.marker == "run"]
    if not runnable:
        pytest.skip("nothing here runs offline")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = type(sys)("documentation")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "documentation", module)
    for block in runnable:
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_name_what_exists(page):
    """Imports resolve and our functions take the keywords that they are given, also where a block cannot be run."""
    for block in blocks(page):
        if block.language != "python":
            continue
        assert page not in DOCS or re.match(r"run$|norun: .", block.marker), f"{page.name}:{block.line}"
        tree = ast.parse(block.text)
        names: dict[str, Any] = {}
        for node in ast.walk(tree):
            names |= imported(node)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            target = names.get(call.func.id) if isinstance(call.func, ast.Name) else None
            if not getattr(target, "__module__", "").startswith("hf_mmcoa"):
                continue
            parameters = inspect.signature(target).parameters
            given = [keyword.arg for keyword in call.keywords if keyword.arg]
            if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
                assert set(given) <= set(parameters), f"{page.name}:{block.line}: {target.__name__}"


def imported(node: ast.AST) -> dict[str, Any]:
    """The names that an import statement brings, as objects."""
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [str(node.module)]
    else:
        return {}
    for name in modules:
        top = name.partition(".")[0]
        if top in OPTIONAL and importlib.util.find_spec(top) is None:
            return {}
        importlib.import_module(name)
    if isinstance(node, ast.Import):
        return {}
    module = importlib.import_module(str(node.module))
    return {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_parse(page):
    """`hf-mmcoa COMMAND ...` in shell blocks and in running text; `train` reads its options by another parser."""
    from hf_mmcoa.cli import build_parser

    parser = build_parser()
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.text.splitlines()]
    lines += re.findall(r"`(hf-mmcoa \w+ [^`]*--[^`]*)`", text)
    for line in lines:
        _, found, rest = re.sub(r"\$\(which hf-mmcoa\)", "hf-mmcoa", line).partition("hf-mmcoa ")
        if found and not rest.startswith("train") and "..." not in rest:
            parser.parse_args(shlex.split(rest))  # exits with status 2, which fails, if it cannot


def modules() -> list[str]:
    return [found.name for found in pkgutil.walk_packages(hf_mmcoa.__path__, "hf_mmcoa.")]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    linecache.clearcache()  # the debugger that doctest makes looks for every file of the cache
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# Links


def links() -> list[tuple[Path, str]]:
    found = []
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)\)", text)
        found += [(page, target) for target in dict.fromkeys(targets) if not re.match(r"[a-z]+:", target)]
    return found


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda one: one.name if isinstance(one, Path) else one)
def test_links_lead_somewhere(page, target):
    path, _, anchor = target.partition("#")
    destination = (page.parent / path).resolve() if path else page
    assert destination.exists(), f"{page.name} links to {target}"
    if anchor:
        headings = re.findall(r"^#+ (.*)$", destination.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{page.name} links to {target}; there are {slugs}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page):
    for name in set(re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|json|md))`", page.read_text(encoding="utf-8"))):
        assert (ROOT / name).exists() or (ROOT / "hf_mmcoa" / name).exists(), f"{page.name} names {name}"


# The site


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_server(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    for name, page in pages.items():
        page = re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"(\w+:)?//|<link[^>]* href=\"(\w+:)?//", page)
        assert not fetched, f"{name} fetches from another server"
        for target in re.findall(r"<a [^>]*href=\"([^\"#?]+)", page):
            if name == "404.html" or re.match(r"\w+:", target):  # the first may be shown at any depth
                continue
            there = (tmp_path / name).parent / unquote(target)
            assert (there / "index.html" if there.is_dir() else there).exists(), f"{name} links to {target}"
    for module in (hf_mmcoa, attacks, objectives, data, evaluation, protocols):
        reference = pages[f"api/{module.__name__.rpartition('.')[2]}/index.html"]
        for each in set(module.__all__) - {"__version__"}:
            assert re.search(rf'id="{module.__name__}\.(\w+\.)?{each}"', reference), f"{module.__name__}.{each}"
    assert "Radius of the image perturbation" in pages["api/hf_mmcoa/index.html"]  # a field's help


# Tables


def preset_table() -> str:
    """Every field of every preset."""
    presets = {name: ThreatModel.preset(name) for name in PRESETS}

    def cell(spec: ThreatModel, name: str) -> str:
        value = getattr(spec, name)
        if name == "step_size" and value == ThreatModel(epsilon=spec.epsilon, num_steps=spec.num_steps).step_size:
            return "2.5 `epsilon` / `num_steps`"
        if name in ("epsilon", "step_size"):
            return fraction(float(value))
        if isinstance(value, tuple):
            return ", ".join(value)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is None:
            return {"template": "the benchmark's", "attacker_template": "the evaluator's"}.get(name, "none")
        return str(value)

    header = ["field", *(f"`{name}`" for name in presets)]
    rows = [
        [f"`{field.name}`", *(cell(spec, field.name) for spec in presets.values())]
        for field in dataclasses.fields(ThreatModel)
    ]
    return as_markdown(header, rows)


def benchmark_table() -> str:
    """One line a row of `BENCHMARKS`."""
    rows = []
    for row in BENCHMARKS:
        first, *others = row.sources
        counts = [first.counts.get(split) for split in first.splits["test"]]
        rows.append(
            [
                f"`{row.name}`",
                first.hub_id + (" (gated)" if first.gated else ""),
                others[0].hub_id if others else "-",
                str(row.num_classes),
                row.template,
                row.perturb_at,
                "-" if None in counts else f"{sum(filter(None, counts)):,}",
                str(len(row.templates)),
            ]
        )
    header = ["name", "source", "fallback", "classes", "prompt", "budget at", "test rows", "templates"]
    return as_markdown(header, rows)


def as_markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "presets": ("evaluation.md", preset_table),
    "benchmarks": ("data.md", benchmark_table),
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tables_equal_the_code(name):
    page, make = GENERATED[name]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(f"<!-- generated:{name} -->\n(.*)\n<!-- /generated -->", text, re.DOTALL)
    assert found and found[1] == make(), f"docs/{page} is stale: run python tests/test_documentation.py"


def test_every_attack_and_every_name_is_in_the_table():
    attack_rows, source_rows = table_after("attacks.md", "# Attacks"), table_after("attacks.md", "## Where substitutes")
    exported = {name for name in attacks.__all__ if dataclasses.is_dataclass(getattr(attacks, name))}
    sources = {name for name in exported if name.endswith("Candidates")} | {"SynonymTable"}
    wanted = exported - sources - {"AdversarialPairs"}
    assert {name.strip("`") for name in first_column(attack_rows)} - {"the evaluator's"} == wanted
    assert {name.strip("`") for name in first_column(source_rows)} == sources
    names = re.findall(r"`([\w-]+)`", " ".join(line.split("|")[-2] for line in attack_rows.splitlines()[2:]))
    assert sorted(names) == sorted([*IMAGE_ATTACKS, *TEXT_ATTACKS, *MULTIMODAL_ATTACKS, *BEYOND_ATTACKS])


def test_the_names_of_sources_are_those_that_build_them(tiny_clip, tiny_processor):
    from hf_mmcoa.models.encoder import DualEncoder

    lines = table_after("attacks.md", "## Where substitutes").splitlines()[2:]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]
    offline = [(row[0], row[-1]) for row in rows if row[-1] and row[0] != "MaskedLMCandidates"]
    assert len(offline) == 3
    for kind, name in offline:
        spec = ThreatModel(candidates=name)
        (source,) = candidate_sources(None, spec.candidates, DualEncoder(tiny_clip, tiny_processor)).values()
        assert type(source).__name__ == kind


def test_threat_model_fields_are_all_explained():
    lines = table_after("evaluation.md", "## The threat model").splitlines()[2:]
    fields = re.findall(r"`(\w+)`", " ".join(lines))
    assert sorted(fields) == sorted(field.name for field in dataclasses.fields(ThreatModel))


# What results hold


@pytest.fixture(scope="module")
def digits_clip():
    from hf_mmcoa.testbed.digits import vocabulary
    from hf_mmcoa.testbed.tiny_clip import tiny_clip

    return tiny_clip(vocabulary(), image_size=8, patch_size=2, width=16)


def patterns(marker: str) -> list[str]:
    """The fields of a table as regular expressions; `<threat>` and the like stand for any text."""
    cells = first_column(table_after("evaluation.md", f"<!-- {marker} -->"))
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    return [re.sub(r"<k>", r"\\d+", re.sub(r"<(?:threat|name)>", ".+", name)) for name in names]


@pytest.mark.filterwarnings("ignore")
def test_result_fields_are_all_explained(digits_clip):
    from hf_mmcoa.substitutes.digits import SYNONYMS

    known, unseen = SYNONYMS.split(0)
    result = evaluate_robustness(
        *digits_clip,
        load_benchmark("digits"),
        threat_model=ThreatModel.preset("standard", num_steps=1, restarts=1, num_text_steps=1),
        candidates={"known": known, "unseen": unseen},
        max_samples=4,
        sanity=False,
        progress=False,
    )
    check_fields(result, patterns("fields:robustness"))


@pytest.mark.filterwarnings("ignore")
def test_retrieval_fields_are_all_explained(digits_clip):
    from hf_mmcoa.testbed.digits import load_captioned_digits

    spec = ThreatModel.preset("quick", num_steps=1)
    result = evaluate_retrieval(*digits_clip, load_captioned_digits(), spec, max_samples=6, progress=False)
    check_fields(result, patterns("fields:retrieval"))
    section = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").partition("## Retrieval")[2]
    assert all(f"`{name}`" in section for name in MULTIMODAL_ATTACKS)


def check_fields(result: dict[str, Any], documented: list[str]) -> None:
    unexplained = [key for key in result if not any(re.fullmatch(pattern, key) for pattern in documented)]
    assert not unexplained
    absent = [pattern for pattern in documented if not any(re.fullmatch(pattern, key) for key in result)]
    assert not absent


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sanity_checks_are_all_explained(digits_clip):
    result = evaluate_robustness(
        *digits_clip,
        load_benchmark("digits"),
        threat_model=ThreatModel.preset("strong", num_steps=1, restarts=1, num_text_steps=1),
        max_samples=20,
        progress=False,
    )
    found = {re.sub(r"^(?:image|text|multimodal)/\S+: ", "", finding["check"]) for finding in result["sanity"]}
    assert set(first_column(table_after("evaluation.md", "<!-- checks -->"))) == {
        check for check in found if not check.startswith("legal texts: ")
    }
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert f"{sanity_images.SAMPLES} correctly classified" in page and f"at most {sanity_images.STEPS} steps" in page


def write() -> None:
    """Put every generated table in its place."""
    for name, (page, make) in GENERATED.items():
        path = ROOT / "docs" / page
        pattern = f"(<!-- generated:{name} -->\n).*?(<!-- /generated -->)"
        new = re.sub(
            pattern,
            lambda found, make=make: f"{found[1]}{make()}\n{found[2]}",
            path.read_text(encoding="utf-8"),
            flags=re.DOTALL,
        )
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    write()
