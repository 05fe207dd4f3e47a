"""The documents name files and flags that exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "fine-tune/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ("src", "tests", "docs", "benchmarks", "experiments", "tools", "configs", "fine-tune", ".ci", ".github")
OF_OTHER_TOOLS = {"--standalone", "--nproc-per-node"}  # torchrun
WRITTEN_BY_COMMANDS = ("fine-tune/ckpt", "fine-tune/logs")


def names_in(document: Path) -> list[Path]:
    """The repository's paths that a document links to or has in backticks, with src/surgvivqa's written from there."""
    text = document.read_text(encoding="utf-8")
    links = [
        document.parent / link
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        if not re.match(r"\w+:", link)
    ]
    quoted = re.findall(r"`([\w./-]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    rooms = [p.name for p in (ROOT / "src" / "surgvivqa").iterdir() if p.is_dir() and p.name not in ("base", "splits")]
    repository = [ROOT / q for q in quoted if q.startswith(tuple(f"{f}/" for f in FOLDERS)) and "NAME" not in q]
    package = [
        ROOT / "src" / "surgvivqa" / q
        for q in quoted
        if q.endswith(".py") and q.partition("/")[0] in rooms and not (ROOT / q).exists()
    ]
    return links + [p for p in repository if not str(p.relative_to(ROOT)).startswith(WRITTEN_BY_COMMANDS)] + package


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_exists(document: Path) -> None:
    missing = [str(path) for path in names_in(document) if not path.exists()]
    assert not missing


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "fine-tune/README.md"])
def test_every_flag_exists(name: str) -> None:
    listed = {line.split()[1] for line in (ROOT / "tests" / "flags.txt").read_text().splitlines()}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", (ROOT / name).read_text(encoding="utf-8")))
    unknown = {flag for flag in named - listed - OF_OTHER_TOOLS if flag.replace("--no-", "--") not in listed}
    assert unknown <= {"--help", "--config"}


def commands_in(document: Path) -> list[list[str]]:
    """The words of each ``surgvivqa COMMAND`` line in a document's shell blocks, comments removed."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:^|\s|/)surgvivqa ([a-z]+ .*)", line) for line in lines]
    return [shlex.split(match[1].split(" > ")[0], comments=True) for match in found if match]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_flag_of_a_documented_command_is_a_flag_of_that_command(document: Path) -> None:
    listed = {tuple(line.split()[:2]) for line in (ROOT / "tests" / "flags.txt").read_text().splitlines()}
    for command, *words in commands_in(document):
        flags = [word.split("=")[0] for word in words if word.startswith("--")]
        known = {name for of, name in listed if of == command} | {"--config", "--help"}
        unknown = [flag for flag in flags if flag not in known and flag.replace("--no-", "--") not in known]
        assert not unknown, (command, unknown)


def test_the_citation_has_the_packages_version() -> None:
    from surgvivqa import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
