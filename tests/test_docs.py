"""The documents name files, flags, functions and messages that exist, and their commands parse."""

import ast
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgvivqa import __version__
from surgvivqa.cli import COMMANDS, parse

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "fine-tune/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ("src", "tests", "docs", "benchmarks", "experiments", "tools", "configs", "fine-tune", ".ci", ".github")
WRITTEN_BY_COMMANDS = ("fine-tune/ckpt", "fine-tune/crossval", "fine-tune/logs")
FLAGS_OF_OTHER_TOOLS = {
    "torchrun": "--standalone --nproc-per-node --nnodes --rdzv-id --rdzv-backend --rdzv-endpoint --shutdown-timeout "
    "--signals-to-handle",
    "sbatch": "--gres --nodes --ntasks-per-node --parsable --dependency --array",
    "tensorboard, wandb": "--logdir --append",
    "pip": "--no-deps --wheel-dir --strict --skip-editable --progress-spinner --path",
    "git": "--sign --message",
    "hf": "--local-dir",
    "docker": "--shm-size --ipc",
    "scripts of this repository": "--kills --files --table --size --out --seed --data --count --fill",
}
NAMES_OF_OTHERS = {"video_02"}  # libraries, and examples


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _python_files() -> list[Path]:
    folders = ("src", "tests", "experiments", "benchmarks", "tools", "fine-tune")
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]


def paths_in(document: Path) -> list[Path]:
    """The paths that a document links to or has in backticks; `data/x.py` is in src/surgvivqa."""
    text = document.read_text(encoding="utf-8")
    links = [
        document.parent / link
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        if not re.match(r"\w+:", link)
    ]
    quoted = re.findall(r"`([\w./-]+)`", _without_blocks(text))
    layers = [p.name for p in (ROOT / "src" / "surgvivqa").iterdir() if p.is_dir() and p.name not in ("base", "splits")]
    repository = [ROOT / q for q in quoted if q.startswith(tuple(f"{f}/" for f in FOLDERS)) and "NAME" not in q]
    package = [
        ROOT / "src" / "surgvivqa" / q
        for q in quoted
        if q.endswith(".py") and q.partition("/")[0] in layers and not (ROOT / q).exists()
    ]
    return links + [p for p in repository if not str(p.relative_to(ROOT)).startswith(WRITTEN_BY_COMMANDS)] + package


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_path_exists(document: Path) -> None:
    missing = [str(path) for path in paths_in(document) if not path.exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_linked_heading_exists(document: Path) -> None:
    for name, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)]*)\)", document.read_text(encoding="utf-8")):
        target = document.parent / name if name else document
        headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_linked() -> None:
    linked = {path.resolve() for document in DOCUMENTS for path in paths_in(document) if path.suffix == ".md"}
    assert set(DOCUMENTS) - linked <= {ROOT / "README.md"}


def listed_flags() -> set[tuple[str, str]]:
    """The pairs of command and flag in tests/flags.txt, which test_flags.py compares with the commands."""
    lines = (ROOT / "tests" / "flags.txt").read_text(encoding="utf-8").splitlines()
    return {(line.split()[0], line.split()[1]) for line in lines}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_flag_exists(document: Path) -> None:
    known = {flag for _, flag in listed_flags()} | {"--help", "--config", "--version", "--question-root"}
    known |= {flag for flags in FLAGS_OF_OTHER_TOOLS.values() for flag in flags.split()}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", document.read_text(encoding="utf-8")))
    assert {flag for flag in named - known if flag.replace("--no-", "--") not in known} == set()


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after ``surgvivqa`` in the commands of a document: shell blocks, and backticks with a flag."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(surgvivqa [^`]* --[^`]*)`", _without_blocks(text))
    for line in lines:
        words = shlex.split(line, comments=True)
        if "surgvivqa" in words:
            command = words[words.index("surgvivqa") + 1 :]
            yield command[: command.index("&&")] if "&&" in command else command


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_command_parses(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # for configs/
    for command, *words in commands_in(document.read_text(encoding="utf-8")):
        if command not in ("--version", "COMMAND"):
            parse(command, pkgutil.resolve_name(COMMANDS[command].config), words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_name_of_code_exists(document: Path) -> None:
    source = set(re.findall(r"\w+", " ".join(path.read_text(encoding="utf-8") for path in _python_files())))
    quoted = re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", _without_blocks(document.read_text(encoding="utf-8")))
    names = {
        name.rpartition(".")[2]
        for name in quoted
        if not re.search(r"\.(py|md|json\w*|txt|yaml|pth|safetensors)$", name)
    }
    code = {name for name in names if "_" in name or re.search(r"[a-z][A-Z]", name)}
    assert code - source - NAMES_OF_OTHERS == set()


def package_strings() -> str:
    """The package's string literals, one per line; an f-string's fields are ``{}``."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
            elif isinstance(node, ast.Constant):
                texts.append(str(node.value))
    return "\n".join(texts)


@pytest.mark.parametrize("name", ["troubleshooting.md", "checkpoints.md"])
def test_every_message_of_a_troubleshooting_table_exists(name: str) -> None:
    table = (ROOT / "docs" / name).read_text(encoding="utf-8").partition("# Troubleshooting")[2]
    messages = re.findall(r"`([^`]*)`", " ".join(re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE)))
    assert messages
    placeholders = r"\.\.\.|\b[A-Z]\b|--[a-zA-Z-]+|VALUE|nan"
    phrases = [phrase.strip(" ,") for message in messages for phrase in re.split(placeholders, message)]
    strings = package_strings()
    assert [phrase for phrase in phrases if phrase not in strings] == []


def test_the_citation_has_the_packages_version() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
