"""The label files of CholecT50 and CholecT45."""

import json
from pathlib import Path

import pytest

from surgvivqa.data.triplets import Triplet, find_label_files, read_triplets
from surgvivqa.utils.errors import InputError
from tests.helpers.triplet_labels import write_cholect45, write_cholect50

LABELS = {3: ["hook,dissect,gallbladder", "grasper,null_verb,null_target"], 4: [], 12: ["clipper,clip,cystic_duct"]}
EXPECTED = {
    3: [Triplet("hook", "dissect", "gallbladder"), Triplet("grasper", None, None)],
    4: [],
    12: [Triplet("clipper", "clip", "cystic_duct")],
}


def test_cholect50s_files_are_read(tmp_path: Path) -> None:
    write_cholect50(tmp_path / "labels", "VID02", LABELS)
    for folder in (tmp_path, tmp_path / "labels"):
        files = find_label_files(folder)
        assert list(files) == ["VID02"]
        assert read_triplets(files["VID02"]) == EXPECTED


def test_categories_may_be_a_list_of_mappings(tmp_path: Path) -> None:
    path = write_cholect50(tmp_path, "VID02", LABELS)
    content = json.loads(path.read_text())
    content["categories"] = [{kind: names} for kind, names in content["categories"].items()]
    path.write_text(json.dumps(content))
    assert read_triplets(path) == EXPECTED


def test_cholect45s_files_are_read(tmp_path: Path) -> None:
    write_cholect45(tmp_path, {"VID02": LABELS, "VID110": {0: []}})
    files = find_label_files(tmp_path)
    assert list(files) == ["VID02", "VID110"]
    found = read_triplets(files["VID02"])
    assert {frame: set(triplets) for frame, triplets in found.items()} == {f: set(t) for f, t in EXPECTED.items()}
    assert find_label_files(tmp_path / "triplet") == files


def test_folders_without_labels_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_label_files(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"neither CholecT50's labels/VIDxx\.json nor CholecT45's"):
        find_label_files(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content.pop("categories"), "KeyError: 'categories'"),
        (lambda content: content["annotations"]["3"][0].pop(), "an instance has 14 numbers, not 15"),
        (lambda content: content["annotations"]["3"][0].__setitem__(1, 77), "KeyError: 77"),
        (lambda content: content.__setitem__("annotations", []), "its annotations are not a mapping"),
    ],
)
def test_other_json_is_an_error(change: object, message: str, tmp_path: Path) -> None:
    path = write_cholect50(tmp_path, "VID02", LABELS)
    content = json.loads(path.read_text())
    assert callable(change)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"is not a label file of CholecT50 .*{message}"):
        read_triplets(path)


def test_other_text_is_an_error(tmp_path: Path) -> None:
    write_cholect45(tmp_path, {"VID02": LABELS})
    path = tmp_path / "triplet" / "VID02.txt"
    path.write_text("0,1,0\n")
    with pytest.raises(InputError, match=r"VID02\.txt:1 .*it has 2 columns after the frame, not 100"):
        read_triplets(path)
    (tmp_path / "dict" / "triplet.txt").write_text("0:grasper,dissect,cystic_plate\n")
    with pytest.raises(InputError, match="does not name the triplets 0 to 99"):
        read_triplets(path)
    (tmp_path / "dict" / "triplet.txt").write_text("grasper\n")
    with pytest.raises(InputError, match=r"triplet\.txt:1 is not a triplet such as"):
        read_triplets(path)
