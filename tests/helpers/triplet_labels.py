"""Labels in the formats of CholecT50 and CholecT45, made from the scene graphs of the synthetic set."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from surgvivqa.data.triplets import LABELLED_TARGETS, LABELLED_TOOLS
from surgvivqa.data.vocabulary import PARTICIPLES

VERBS = tuple(PARTICIPLES)
# By frame, triplets such as ``hook,dissect,gallbladder``; an idle hook is ``hook,null_verb,null_target``.
Labels = dict[int, list[str]]


def labels_of_graphs(root: Path, video: str) -> Labels:
    """The labels that people would give the frames of a video of the synthetic set.

    CholecT50 has no specimen bag among its instruments, so frames in which one acts are left out.
    """
    labels: Labels = {}
    for path in sorted((root / "scene_graph").glob(f"{video}_*.json")):
        graph = json.loads(path.read_text())
        triplets = list(graph["info"]["triplet"])
        tools = [item["component"] for item in graph["scenes"][0]["objects"] if item["type"] == "instrument"]
        acting = {triplet.partition(",")[0] for triplet in triplets}
        idle = [tool for tool in tools if tool in LABELLED_TOOLS and tool not in acting]
        if "specimenbag" not in acting:
            labels[int(path.stem.partition("_")[2])] = [*triplets, *(f"{tool},null_verb,null_target" for tool in idle)]
    return labels


def write_cholect50(folder: Path, video: str, labels: Mapping[int, Sequence[str]]) -> Path:
    """Writes a label file of CholecT50; a frame without a triplet has one row, as there."""
    verbs, targets = (*VERBS, "null_verb"), (*LABELLED_TARGETS, "null_target")
    categories = {"instrument": LABELLED_TOOLS, "verb": verbs, "target": targets, "triplet": (), "phase": ()}
    annotations = {}
    for frame, triplets in labels.items():
        rows = []
        for triplet in triplets:
            tool, verb, target = triplet.split(",")
            numbers = [LABELLED_TOOLS.index(tool), verbs.index(verb), targets.index(target)]
            rows.append([0, numbers[0], 1, -1, -1, -1, -1, *numbers[1:], -1, -1, -1, -1, -1, 3])
        annotations[str(frame)] = rows or [[-1] * 14 + [3]]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{video}.json"
    content = {
        "video": int(video.removeprefix("VID")),
        "fps": 1,
        "categories": {kind: {str(n): name for n, name in enumerate(names)} for kind, names in categories.items()},
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return path


def write_cholect45(folder: Path, labels: Mapping[str, Mapping[int, Sequence[str]]]) -> Path:
    """Writes ``triplet/VIDxx.txt`` for each video, and ``dict/triplet.txt`` with 100 triplets."""
    names = sorted({t for frames in labels.values() for triplets in frames.values() for t in triplets})
    names += ["scissors,cut,adhesion"] * (100 - len(names))
    for part in ("triplet", "dict"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    table = [f"{number}:{name}" for number, name in enumerate(names)]
    (folder / "dict" / "triplet.txt").write_text("\n".join(table) + "\n-1:null,null,null\n")
    for video, frames in labels.items():
        rows = [[frame, *(int(name in triplets) for name in names)] for frame, triplets in frames.items()]
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        (folder / "triplet" / f"{video}.txt").write_text(text)
    return folder
