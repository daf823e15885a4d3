"""Makes the repository's links work on the site: pages link to files beside docs/, which a site does not hold.

What is linked is copied: README, CONTRIBUTING, CHANGELOG and the benchmarks' README become pages, any other file
comes along under `repository/`, and a folder becomes a page that lists its files. So every page is written once, and
reads on GitHub and here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
# A link of one line, or code, which is left as it is.
LINK = re.compile(r"```.*?^ *```|`[^`\n]+`(?!\])|(!?\[[^\]]*\]\()([^)\s:]+)\)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add what is linked, and what that links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_read(source)))
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        source = _source(page)
        if not (ROOT / source).is_file():
            continue  # a listing
        for target in (found[2] for found in LINK.finditer(_read(source)) if found[2]):
            there, _ = _resolve(source, target)
            if there is None or files.get_file_from_path(place := _place(there)) is not None:
                continue
            if (ROOT / there).is_dir():
                files.append(File.generated(config, place, content=_listing(there)))
                for each in _files_of(there):
                    if files.get_file_from_path(_place(each)) is None:
                        files.append(File.generated(config, _place(each), abs_src_path=str(ROOT / each)))
            else:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / there)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point each link of a page at the place that its target has on the site."""
    here = page.file.src_uri
    source = _source(here)
    if not (ROOT / source).is_file():
        return markdown

    def moved(found: re.Match[str]) -> str:
        if not found[2]:
            return found[0]
        there, anchor = _resolve(source, found[2])
        if there is None:
            return found[0]
        return f"{found[1]}{posixpath.relpath(_place(there), posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(moved, markdown)


def _source(page: str) -> str:
    """Where a page of the site lies in the repository."""
    made = {place: source for source, place in PAGES.items()}
    return made.get(page, f"docs/{page}")


def _place(source: str) -> str:
    """Where a file or folder of the repository lies on the site."""
    if source in PAGES:
        return PAGES[source]
    inside = source.removeprefix("docs/") if source.startswith("docs/") else f"repository/{source}"
    return f"{inside}/index.md" if (ROOT / source).is_dir() else inside


def _resolve(source: str, target: str) -> tuple[str | None, str]:
    """What a link of a file means, relative to the repository, and its anchor; None within the page itself."""
    path, mark, anchor = target.partition("#")
    if not path:
        return None, ""
    there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if there.startswith("..") or not (ROOT / there).exists():
        raise PluginError(f"{source} links to {target}: there is no such file in the repository")
    return there, mark + anchor


def _files_of(folder: str) -> list[str]:
    return sorted(each.relative_to(ROOT).as_posix() for each in (ROOT / folder).rglob("*") if each.is_file())


def _listing(folder: str) -> str:
    names = [each.removeprefix(f"{folder}/") for each in _files_of(folder)]
    return "\n".join([f"# {folder}", "", *(f"- [{name}]({name})" for name in names), ""])


def _read(source: str) -> str:
    return (ROOT / source).read_text(encoding="utf-8")
