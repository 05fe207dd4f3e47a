"""Makes a folder of links in the layout that is read, to files that lie or are named otherwise.

``DIR/ssg-qa/<VIDxx>/<frame>.txt``, ``DIR/frames/<VIDxx>/<frame padded to 6>.png`` and ``DIR/scene_graph``. A picture of
another format keeps its content: frames are read by content, whatever their ending.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from surgvivqa.downloads.graph_tree import GraphTree
from surgvivqa.downloads.progress import CountProgress
from surgvivqa.downloads.timing import Timing
from surgvivqa.downloads.tree import Tree, scan_tree
from surgvivqa.downloads.verification import Verification, frames_by_second
from surgvivqa.utils.atomic_files import remove_folder
from surgvivqa.utils.errors import InputError, RunError, first_line

LinkKind = Literal["symlink", "hardlink", "copy"]
MARKER = "LINKS.json"
QUESTIONS, FRAMES, GRAPHS = "ssg-qa", "frames", "scene_graph"
_MAKE: dict[LinkKind, Callable[[Path, Path], object]] = {
    "symlink": os.symlink,
    "hardlink": os.link,
    "copy": shutil.copyfile,
}


def check_target(to: Path, found: Verification) -> None:
    """Checks that a folder may be written.

    Raises:
        InputError: it holds something else than links of an earlier call, lies within a root, or holds the data.
    """
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise InputError(f"--link-to {to} is a file or a link; give a new folder.")
    if to.is_dir() and any(to.iterdir()) and not (to / MARKER).is_file():
        raise InputError(f"--link-to {to} holds other files; give a new folder.")
    for tree in (found.questions, found.frames):
        if to.resolve().is_relative_to(tree.given.resolve()):
            raise InputError(f"--link-to {to} is within {tree.given}; give a folder beside it.")
    for place in _places(found):
        if place.resolve().is_relative_to(to.resolve()):  # it would be removed: links of an earlier call may be copies
            raise InputError(f"--link-to {to} holds {place}, which the links would lead to; give another folder.")


def _places(found: Verification) -> Iterator[Path]:
    """The folders that the links lead to, or to whose files they lead."""
    for tree in (found.questions, found.frames):
        yield from (tree.given, tree.root, *(video.folder for video in tree.videos.values()))
    if found.graphs is not None:
        yield from (found.graphs.given, found.graphs.root)


def write_links(to: Path, found: Verification, kind: LinkKind) -> dict[str, Path]:
    """Makes the folder of links, whole or not at all; an earlier one is replaced.

    Args:
        to: the folder.
        found: what there is.
        kind: symbolic links; hard links, within one disk; or copies.

    Returns:
        The flags that use it, with their values.

    Raises:
        InputError: the folder may not be written.
        RunError: a link cannot be made.
    """
    check_target(to, found)
    temporary = to.with_name(f".{to.name}.writing")
    flags = {"--ssgvqa-root": to / QUESTIONS, "--image-root": to / FRAMES}
    pairs = _question_links(found.questions, kind) + _frame_links(found.frames, found.timings, kind)
    if found.graphs is not None:
        pairs += _graph_links(found.graphs, kind)
        flags["--scene-graph-root"] = to / GRAPHS
    try:
        remove_folder(temporary)
        for name in (path.name for path in flags.values()):
            (temporary / name).mkdir(parents=True)
        with CountProgress("linking", len(pairs)) as progress:
            for name, target in pairs:
                path = temporary / name
                path.parent.mkdir(exist_ok=True)
                _MAKE[kind](target, path)
                progress.add()
        synthetic = found.questions.root.parent / "synthetic.json"
        if synthetic.is_file():  # it marks the questions' origin, beside their root
            shutil.copyfile(synthetic, temporary / synthetic.name)
        roots = {"questions": str(found.questions.root), "frames": str(found.frames.root)}
        (temporary / MARKER).write_text(json.dumps({"kind": kind, "links": len(pairs), **roots}, indent=2) + "\n")
        remove_folder(to)
        temporary.replace(to)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"--link-to {to} cannot be written ({first_line(error)}); {_advise(error, kind)}.") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _check(to, found)
    return flags


def _advise(error: OSError, kind: LinkKind) -> str:
    if kind == "symlink" and error.errno in (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
        return "if this disk has no symbolic links, use --link-kind hardlink or copy"
    if kind == "hardlink" and error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK):
        return "hard links stay within one disk, so give a folder on that of the data, or use --link-kind copy"
    return "choose another folder"


def _question_links(tree: Tree, kind: LinkKind) -> list[tuple[str, Path]]:
    """Names below the folder, and what they are to be."""
    pairs = []
    for video, found in tree.videos.items():
        if kind == "symlink" and not found.name_faults() and found.files:
            pairs.append((f"{QUESTIONS}/{video}", found.folder.resolve()))
        else:
            pairs += [(f"{QUESTIONS}/{video}/{n}.txt", file.path.resolve()) for n, file in found.files.items()]
    return pairs


def _frame_links(tree: Tree, timings: dict[str, Timing], kind: LinkKind) -> list[tuple[str, Path]]:
    pairs = []
    by_second = frames_by_second(tree, timings)
    for video, found in tree.videos.items():
        if kind == "symlink" and not found.name_faults() and timings[video] == Timing() and found.files:
            pairs.append((f"{FRAMES}/{video}", found.folder.resolve()))
        else:
            pairs += [(f"{FRAMES}/{video}/{s:06d}.png", path.resolve()) for s, path in by_second[video].items()]
    return pairs


def _graph_links(graphs: GraphTree, kind: LinkKind) -> list[tuple[str, Path]]:
    return [(f"{GRAPHS}/{video}_{n}.json", path.resolve()) for (video, n), path in graphs.files.items()]


def _check(to: Path, found: Verification) -> None:
    """Checks that the links are found where they are read.

    Raises:
        RunError: they are not.
    """
    for name, tree in ((QUESTIONS, found.questions), (FRAMES, found.frames)):
        linked = scan_tree(to / name, tree.kind, list(tree.videos))
        if linked.missing or not linked.reads_at(to / name):
            raise RunError(
                f"The links in {to / name} are not read as they should be; remove the folder and report this."
            )
