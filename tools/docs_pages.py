"""Sphinx extension: pages made from the package's flags, and links that also work on the code's host.

The pages under ``docs`` are read in two places, as files of the repository and as the site. Links from them to
files outside ``docs`` are right in the repository. On the site, a link to a document leads to its page, and one to
another file downloads it.
"""

import dataclasses
import importlib
import os
import re
import shutil
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sphinx.application import Sphinx

from surgvivqa.cli import COMMANDS
from surgvivqa.config import option

ROOT = Path(__file__).resolve().parents[1]
# Documents outside docs/ and the pages of the site that include them.
PAGES = {
    "README.md": "project/readme",
    "CONTRIBUTING.md": "project/contributing",
    "CHANGELOG.md": "project/changelog",
    "SECURITY.md": "project/security",
    "fine-tune/README.md": "project/fine-tune",
    **{
        f"benchmarks/results/{path.name}": f"results/{'index' if path.stem == 'README' else path.stem}"
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    },
}
_LINK = re.compile(r"\[(?P<text>[^\]\[]*(?:\[[^\]]*\])?[^\]\[]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("config-inited", lambda app, _: write_pages(Path(app.srcdir)))
    app.connect("source-read", _rewrite_links)
    return {"version": "1", "parallel_read_safe": True}


def write_pages(docs: Path) -> None:
    """Writes the pages that are made from the flags and from the documents outside ``docs``."""
    commands = docs / "reference" / "commands"
    shutil.rmtree(commands, ignore_errors=True)
    commands.mkdir(parents=True)
    for name in COMMANDS:
        (commands / f"{name.replace(' ', '-')}.md").write_text(build_command_page(name), encoding="utf-8")
    for source, page in PAGES.items():
        path = docs / f"{page}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text((ROOT / source).read_text(encoding="utf-8"), encoding="utf-8")
    with (docs / "results" / "index.md").open("a", encoding="utf-8") as file:
        file.write("\n```{toctree}\n:maxdepth: 1\n:glob:\n\n2*\n```\n")


def build_command_page(name: str) -> str:
    """The Markdown page of a command: what it does, and a table of its flags."""
    command = COMMANDS[name]
    module, _, attribute = command.config.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    rows = "\n".join(
        f"| `{option(flag)}` | {kind} | {default} | {_cell(text)} |" for flag, kind, default, text in _flags(cls)
    )
    description = re.sub(r"``([^`]*)``", r"`\1`", _dedent(cls.__doc__ or ""))
    resume = "\n\nA stopped command continues when it is run again." if command.resumable else ""
    return (
        f"# surgvivqa {name}\n\n{command.help[0].upper()}{command.help[1:]}.\n\n{description}{resume}\n\n"
        f"`--config FILE.yaml` reads the same names from a file; a flag on the command line wins.\n\n"
        f"| flag | value | default | meaning |\n| --- | --- | --- | --- |\n{rows}\n"
    )


def _flags(cls: type) -> list[tuple[str, str, str, str]]:
    """Name, kind of value, default and help of each flag of a config class, nested groups included."""
    hints, found = get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += _flags(hint)  # type: ignore[arg-type]
            continue
        found.append((field.name, _kind(hint), _default(field), field.metadata.get("help", "")))
    return found


def _kind(hint: Any) -> str:
    """What a flag's value is, for readers."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _kind(next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (list, tuple):
        return f"{_kind(arguments[0])} …"
    names = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "see right" if field.default_factory is not dataclasses.MISSING else "required"
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    return "" if field.default is None else f"`{field.default}`"


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table. Names in angle brackets and underscores are shown as they are."""
    return re.sub(r"([|<>*_\[\]$])", r"\\\1", " ".join(text.split()))


def _dedent(docstring: str) -> str:
    lines = docstring.strip().splitlines()
    return "\n".join(line.strip() for line in lines)


def _rewrite_links(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrites the links of a page to files outside ``docs``."""
    docs = Path(app.srcdir)
    original = next((ROOT / document for document, name in PAGES.items() if name == page), docs / f"{page}.md")
    folder, here = original.parent, (docs / page).parent

    def rewrite(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        if re.match(r"\w+:", target):
            return match[0]
        path = Path(os.path.normpath(folder / target))
        if path.is_dir():
            return text
        relative = path.relative_to(ROOT).as_posix()
        if relative in PAGES:
            path = docs / f"{PAGES[relative]}.md"
        return f"[{text}]({os.path.relpath(path, here)}{anchor})"

    source[0] = _LINK.sub(rewrite, source[0])
