"""README and docs: links lead somewhere, and every command of sparsemm is one."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsemm import cli
from sparsemm.cli.multirun import choices, configurations
from tests.pages import ROOT, blocks, prose

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every ``sparsemm VERB …`` in fenced blocks, launchers and variables before it left out."""
    for block in blocks(page, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"^(?:\$ |\w+=\S+ |torchrun .*-m )*sparsemm (.*)", line):
                words = shlex.split(found[1], comments=True)
                if "…" not in words:
                    yield words


TRIED = ("adding-a-method.md", "adding-a-task.md")
"""Pages that bring what their commands name: tests of their own run them."""

COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}")
    for page in PAGES
    if page.name not in TRIED
    for words in commands(page)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra composes all jobs of a verb; of a verb that takes a path, there is at least the verb."""
    verb, *options = words
    if verb not in cli.HYDRA_VERBS:
        assert verb in cli.PATH_VERBS
        return
    if "-m" in options:  # who would run the jobs may not be installed here
        assert configurations(verb, choices([one for one in options if not one.startswith("hydra")]))
        return
    jobs: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.HYDRA_VERBS, verb, jobs.append)
    monkeypatch.setattr(cli, "show", lambda verb, results: 0)
    assert cli.main([verb, *options]) == 0, capsys.readouterr().err
    assert jobs


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 30


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((\w[\w-]*\.md)\)", index)
    assert sorted(named) == sorted(page.name for page in ROOT.glob("docs/*.md") if page.name != "index.md")


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
