"""Data sets in their own formats become frames with questions; what cannot be used is counted with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.data.ssgqa import FrameQuestions, ReadReport
from surgvivqa.datasets.opening import Dataset, open_dataset
from surgvivqa.utils.errors import InputError

INSTRUCTION = "<image>\nYou are an assistant with surgical expertise. Given a surgical scene, answer the question in "


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def surgcheck_line(image: str, question: str, answer: str, task: str = "Action", cue: str = "No_Cue") -> str:
    turns = [{"from": "human", "value": f"{INSTRUCTION}1-5 words. {question}"}, {"from": "gpt", "value": answer}]
    base = "_".join(image.split(".")[0].split("_")[:2]) + ".jpg"
    line = {"image": image, "conversations": turns, "ori_img_tag": base, "main_tag": "Visual_QA"}
    return json.dumps(line | {"sub_sub_tag": task, "sub_tag": cue})


def write_surgcheck(root: Path) -> Path:
    for number in range(1, 12):
        for wording in ("original", "less_biased"):
            path = root / f"train_{wording}.jsonl"
            with path.open("a") as file:
                file.write(surgcheck_line(f"{number}_25.jpg", "How many tools?", "one" if number % 2 else "two") + "\n")
    box = "170_100_bbox_lt.jpg"
    original = [
        surgcheck_line("170_100.jpg", "How many tools?", "two"),
        surgcheck_line(box, "Is the hook cutting?", "one"),
    ]
    other = [
        surgcheck_line("170_100.jpg", "How many tools?", "two"),
        surgcheck_line(box, "Is the tool cutting?", "one"),
    ]
    write(root / "test_original.jsonl", *original)
    write(root / "test_less_biased.jsonl", *other)
    return root


def read(dataset: Dataset, split: str = "test", strict: bool = False) -> tuple[list[FrameQuestions], ReadReport]:
    frames, report = dataset.questions(dataset.splits.videos(split), strict=strict)
    return list(frames), report


def test_surgchecks_lines_become_paired_questions(tmp_path: Path) -> None:
    dataset = open_dataset("surgcheck", write_surgcheck(tmp_path))
    assert dataset.label_set.labels == ("one", "two") and dataset.label_set.name == "surgcheck"
    assert dataset.splits.test == ("170",) and len(dataset.splits.val) == 1 and len(dataset.splits.train) == 10
    frames, report = read(dataset)
    assert [len(frame.questions) for frame in frames] == [2, 2] and report.questions == 4
    first, second = frames[1].questions
    assert (first.question, second.question) == ("Is the hook cutting?", "Is the tool cutting?")
    assert first.pair_id == second.pair_id is not None
    assert (first.wording, second.wording) == ("original", "less_biased")
    assert (first.type, first.reasoning, first.image) == ("Action", "No_Cue", "170_100_bbox_lt.jpg")
    assert {frame.frame for frame in frames} == {0, 1}, "one frame in two pictures: running numbers"


def test_real_colons_clips_keep_their_frames_and_long_answers(tmp_path: Path) -> None:
    for number, video in enumerate(["002-001", "002-005", "002-006"]):
        frames = [f"{video}_{1000 + 4 * i}" for i in range(8)]
        line: dict[str, Any] = {"id": f"qa_{number}", "video_id": video, "frames": frames, "question_type": "dye"}
        line |= {"frame_numbers": [1000 + 4 * i for i in range(8)], "support_ratio": 1.0}
        line |= {"question": "Is dye visible?", "answer": "No, it is not.", "short_answer": "no"}
        for file in ("in_template.jsonl", "out_template.jsonl"):
            with (tmp_path / file).open("a") as opened:
                opened.write(json.dumps(line) + "\n")
    splits = tmp_path / "splits"
    for split, video in (("train", "002-001"), ("val", "002-005"), ("test", "002-006")):
        write(splits / f"{split}_videos.json", json.dumps([video]))
    dataset = open_dataset("real-colon-vqa", tmp_path, splits)
    (frame,), _ = read(dataset)
    question = frame.questions[0]
    assert (frame.frame, question.answer, question.long_answer) == (1028, "no", "No, it is not.")
    assert question.pair_id == frame.questions[1].pair_id
    files = dataset.picture_files
    assert files is not None
    paths = [files.path("002-006", number) for number in files.clips["002-006", 1028]]
    assert paths == [f"002-006_frames/002-006_{1000 + 4 * i}.jpg" for i in range(8)]


def test_lines_with_bars_are_found_by_the_pattern_of_their_path(tmp_path: Path) -> None:
    for sequence in (1, 2, 15):
        folder = tmp_path / f"seq_{sequence}" / "vqa" / "Classification"
        for frame in ("frame000", "frame900"):
            write(folder / f"{frame}_QA.txt", "What is the state of needle_driver?|Idle", "", "Where is it?|left-top")
    splits = tmp_path / "splits"
    for split, number in (("train", 2), ("val", 15), ("test", 1)):
        write(splits / f"{split}_videos.json", json.dumps([f"seq_{number}"]))
    dataset = open_dataset("endovis18-vqa", tmp_path, splits)
    frames, report = read(dataset)
    assert [frame.frame for frame in frames] == [0, 900] and report.files == 6
    assert [(q.type, q.label) for q in frames[0].questions] == [("state", 1), ("location", 14)]
    assert dataset.picture_files is not None
    assert dataset.picture_files.path("seq_1", 900) == "seq_1/left_frames/frame900.png"


def test_cholec80_takes_every_hundredth_frame(tmp_path: Path) -> None:
    description = load_mapping("cholec80-vqa")
    assert description["every"] == 100
    for video in ("1", "38", "5"):
        for frame in (100, 150, 1200):
            write(tmp_path / "Classification" / video / f"{frame}_QA.txt", "what is the phase of image?|preparation")
    for split, video in (("train", "1"), ("val", "38"), ("test", "5")):
        write(tmp_path / "splits" / f"{split}_videos.json", json.dumps([video]))
    frames, report = read(open_dataset("cholec80-vqa", tmp_path, tmp_path / "splits"))
    assert [frame.frame for frame in frames] == [100, 1200] and report.skipped["dropped"] == 1


def load_mapping(name: str) -> dict[str, Any]:
    from surgvivqa.datasets.description import load_description

    return load_description(name).model_dump()


def csv_set(folder: Path, *lines: str, extra: str = "") -> tuple[str, Path]:
    """The description and the root of a table with the given lines."""
    write(folder / "questions.csv", "video,frames,question,answer,type,split", *lines)
    return str(write(folder / "mine.yaml", "name: mine", "files: questions.csv", extra)), folder


GOOD = ("a,a/1.jpg,Is it red?,yes,colour,train", "a,a/2.jpg,Is it red?,no,colour,train", "b,b/1.jpg,Red?,no,,test")


def test_a_table_of_ones_own_needs_two_lines_of_yaml(tmp_path: Path) -> None:
    dataset = open_dataset(*csv_set(tmp_path, *GOOD))
    assert dataset.label_set.labels == ("no", "yes")
    frames, _ = read(dataset, "train")
    assert [frame.questions[0].image for frame in frames] == ["a/1.jpg", "a/2.jpg"]
    assert dataset.splits.train == ("a",) and dataset.splits.val == () and dataset.splits.test == ("b",)
    alone, _ = read(open_dataset(str(tmp_path / "mine.yaml"), tmp_path / "questions.csv"), "train")
    assert alone == frames, "the root may be the file"


def test_a_field_of_several_lines_keeps_its_words_apart(tmp_path: Path) -> None:
    frames, _ = read(open_dataset(*csv_set(tmp_path, *GOOD, 'b,b/2.jpg,"Is it', 'red?",no,,test')))
    assert frames[1].questions[0].question == "Is it red?"


def test_all_lines_of_a_quote_that_is_not_closed_are_counted(tmp_path: Path) -> None:
    lost = ('b,b/2.jpg,"Red?,no,,test', "b,b/3.jpg,Red?,no,,test", "b,b/4.jpg,Red?,no,,test")
    _, report = read(open_dataset(*csv_set(tmp_path, *GOOD, *lost)))
    assert report.skipped["malformed"] == 3 and "questions.csv:5 is not CSV" in report.examples["malformed"][0]


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    name, root = csv_set(tmp_path)
    write(root / "questions.csv", "video,frames,question,answer,answer,split", "a,a/1.jpg,Red?,yes,no,train")
    with pytest.raises(InputError, match="has the column 'answer' more than once; rename or remove one of them"):
        open_dataset(name, root)


@pytest.mark.parametrize("delimiter, advice", [(";", "write them separated by ','"), ("\t", "rename it to .tsv")])
def test_fields_separated_otherwise_are_refused(delimiter: str, advice: str, tmp_path: Path) -> None:
    name, root = csv_set(tmp_path)
    lines = ("video,frames,question,answer,type,split", "a,a/1.jpg,Red?,yes,,train")
    write(root / "questions.csv", *(line.replace(",", delimiter) for line in lines))
    with pytest.raises(InputError, match=f"has one column, .*{advice}"):
        open_dataset(name, root)


def test_a_video_that_the_rows_test_is_not_trained_on(tmp_path: Path) -> None:
    lines = ("a,a/1.jpg,Red?,yes,,", "b,b/1.jpg,Red?,no,,test", "c,c/1.jpg,Red?,no,,test", "d,d/1.jpg,Red?,no,,val")
    splits = open_dataset(*csv_set(tmp_path, *lines, extra="splits: {test: [b]}")).splits
    assert (splits.train, splits.val, splits.test) == (("a",), ("d",), ("b",))


def test_a_synthetic_set_is_known_by_its_file_too(tmp_path: Path) -> None:
    name, root = csv_set(tmp_path / "questions", *GOOD)
    assert not open_dataset(name, root).is_synthetic
    write(tmp_path / "synthetic.json", "{}")
    assert open_dataset(name, root).is_synthetic and open_dataset(name, root / "questions.csv").is_synthetic


def test_a_json_list_reads_like_the_table(tmp_path: Path) -> None:
    names = ("video", "frames", "question", "answer", "type", "split")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in GOOD]
    (tmp_path / "questions.json").write_text(json.dumps({"data": rows}))
    path = write(tmp_path / "mine.yaml", "name: mine", "files: questions.json")
    expected, _ = read(open_dataset(*csv_set(tmp_path / "csv", *GOOD)), "train")
    found, _ = read(open_dataset(str(path), tmp_path), "train")
    assert [q.question for f in found for q in f.questions] == [q.question for f in expected for q in f.questions]


@pytest.mark.parametrize(
    ("line", "reason", "what"),
    [
        ("b,b/2.jpg,Red?,maybe,,test", "unknown_answer", "has the answer 'maybe', which is not one of the 2 labels"),
        ("b,b/2.jpg,,no,,test", "malformed", "has no question"),
        ("b,b/2.jpg,Red?,,,test", "malformed", "has no answer"),
        ("b,../b.jpg,Red?,no,,test", "malformed", "is not a path below --image-root"),
        ("b/c,b/2.jpg,Red?,no,,test", "malformed", "a name has letters, digits, - and _ only"),
        ("b,b/2.jpg,Red?,no", "malformed", "has 4 fields, but the header 6"),
        ("b,b/2.jpg,Red?,no,,tset", "malformed", "has the split 'tset'"),
    ],
)
def test_a_line_that_cannot_be_used_is_counted_or_an_error(tmp_path: Path, line: str, reason: str, what: str) -> None:
    name, root = csv_set(tmp_path, *GOOD, line)
    frames, report = read(open_dataset(name, root))
    assert len(frames) == 1 and report.skipped[reason] == 1
    assert f"{root / 'questions.csv'}:5" in report.examples[reason][0] and what in report.examples[reason][0]
    with pytest.raises(InputError) as raised:
        read(open_dataset(name, root, strict=True), strict=True)
    assert f"{root / 'questions.csv'}:5" in str(raised.value) and "leave out --strict" in str(raised.value)


def test_lines_of_json_that_are_broken_are_counted(tmp_path: Path) -> None:
    root = write_surgcheck(tmp_path)
    with (root / "test_original.jsonl").open("a") as file:
        file.write('{"image": \n[1, 2]\n')
    _, report = read(open_dataset("surgcheck", root))
    assert report.skipped["malformed"] == 2
    assert f"{root / 'test_original.jsonl'}:3 is not JSON" in report.examples["malformed"][0]
    assert "is not a JSON object" in report.examples["malformed"][1]
    _, of_train = read(open_dataset("surgcheck", root), "train")
    assert not of_train.skipped, "a fault of a test file does not count for training"


def test_repeated_and_contradicting_lines_are_reported(tmp_path: Path) -> None:
    name, root = csv_set(tmp_path, *GOOD, "b,b/1.jpg,Red?,no,,test", "b,b/1.jpg,Red?,yes,,test")
    _, report = read(open_dataset(name, root))
    assert report.suspect["repeated"] == 1 and report.suspect["contradiction"] == 1


def test_splits_that_share_a_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The train and test splits of mine share a, so figures would be about videos"):
        open_dataset(*csv_set(tmp_path, *GOOD, "a,a/9.jpg,Is it red?,no,,test"))


def test_a_set_without_splits_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mine has no splits; add splits with the names of its videos"):
        open_dataset(*csv_set(tmp_path, "a,a/1.jpg,Is it red?,no,,"))


def test_the_description_may_name_the_test_videos_only(tmp_path: Path) -> None:
    lines = [f"{video},{video}/1.jpg,Is it red?,no,," for video in "abcdefghij"]
    dataset = open_dataset(*csv_set(tmp_path, *lines, extra="splits: {test: [c, d], val: 0.25}"))
    assert dataset.splits.test == ("c", "d") and len(dataset.splits.val) == 2 and len(dataset.splits.train) == 6
    again = open_dataset(str(tmp_path / "mine.yaml"), tmp_path)
    assert again.splits == dataset.splits


def test_a_split_names_a_video_without_questions(tmp_path: Path) -> None:
    dataset = open_dataset(*csv_set(tmp_path, *GOOD, extra="splits: {test: [b, x]}"))
    with pytest.raises(InputError, match=r"has no question about 1 of the split's 2 videos \(x\)"):
        dataset.questions(dataset.splits.test)


def test_a_missing_file_names_where_it_should_be(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "name: mine", "files: other.csv")
    with pytest.raises(InputError, match=r"other\.csv does not exist; mine has its questions there"):
        open_dataset(str(tmp_path / "mine.yaml"), tmp_path)


def test_triplets_become_questions(tmp_path: Path) -> None:
    categories: dict[str, Any] = {"instrument": {"0": "grasper", "1": "hook"}, "verb": {"0": "retract"}}
    categories |= {"target": {"0": "liver"}, "phase": {"0": "preparation"}, "triplet": {}}
    acts = [7, 0, 1, -1, -1, -1, -1, 0, 0, 1, -1, -1, -1, -1, 0]
    annotations: dict[str, Any] = {"0": [], "12": [acts], "13": [[1, 2]]}
    content = {"video": 4, "categories": categories, "annotations": annotations}
    for video in ("VID04", "VID01", "VID02"):
        write(tmp_path / "labels" / f"{video}.json", json.dumps(content))
    for split, video in (("train", "VID04"), ("val", "VID01"), ("test", "VID02")):
        write(tmp_path / "splits" / f"{split}_videos.json", json.dumps([video]))
    dataset = open_dataset("cholect50-generated", tmp_path, tmp_path / "splits")
    frames, report = read(dataset)
    assert report.skipped["malformed"] == 3, "frame 13 of each file has an instance of 2 numbers"
    asked = {q.question: q.answer for q in frames[1].questions}
    assert frames[1].frame == 12 and asked == {
        "What is the phase of the operation?": "preparation",
        "How many tools are visible?": "1",
        "Is a grasper visible?": "yes",
        "Is a hook visible?": "no",
        "What is the grasper doing?": "retract",
        "What does the grasper act on?": "liver",
    }
    assert dataset.picture_files is not None and dataset.picture_files.path("VID02", 12) == "VID02/000012.png"


def test_boxes_become_questions(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "7_25.jpg", "width": 300, "height": 200}
    categories = [{"id": 1, "name": "cystic_duct"}, {"id": 2, "name": "tool"}]
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [210, 10, 60, 40]}]
    for split, video in (("train", 1), ("val", 130), ("test", 170)):
        content = {"categories": categories, "annotations": boxes, "images": [image | {"file_name": f"{video}_25.jpg"}]}
        write(tmp_path / split / "annotation_coco.json", json.dumps(content))
    dataset = open_dataset("endoscapes-generated", tmp_path)
    (frame,), _ = read(dataset)
    assert {q.question: q.answer for q in frame.questions} == {
        "Is the cystic duct visible?": "yes",
        "Where is the cystic duct?": "top-right",
        "Is the tool visible?": "no",
        "How many tools are visible?": "0",
    }
    assert frame.questions[0].image == "test/170_25.jpg"


def test_labels_of_broken_pictures_are_counted_or_kept_inside(tmp_path: Path) -> None:
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [-500, 0, 10, 10]}]
    boxes.append({"image_id": 2, "category_id": 1, "bbox": [1e308, 0, 1e308, 10]})
    images = [{"id": number, "file_name": f"1_{number}.jpg", "width": 100, "height": 100} for number in (1, 2)]
    content = {"categories": [{"id": 1, "name": "tool"}], "annotations": boxes, "images": images}
    write(tmp_path / "a.json", json.dumps(content))
    path = write(tmp_path / "mine.yaml", "name: mine", "reader: coco", "files: {path: a.json, split: train}")
    frames, report = read(open_dataset(str(path), tmp_path), "train")
    assert [q.answer for q in frames[0].questions if q.type == "location"] == ["top-left"]
    assert report.skipped["malformed"] == 1


def test_a_triplet_of_no_number_is_counted(tmp_path: Path) -> None:
    names = {kind: {"0": "name"} for kind in ("instrument", "verb", "target", "phase")}
    good = [0] * 15
    frames = {"1": [good], "\u00b2": [good], "3": [[*good[:14], "HUGE"]]}
    write(tmp_path / "VID01.json", json.dumps({"categories": names, "annotations": frames}).replace('"HUGE"', "1e400"))
    path = write(tmp_path / "mine.yaml", "name: mine", "reader: cholect50", "files: {path: '*.json', split: train}")
    _, report = read(open_dataset(str(path), tmp_path), "train")
    assert report.skipped["malformed"] >= 1


def test_a_share_for_validation_leaves_a_video_to_train_on(tmp_path: Path) -> None:
    lines = ("a,a/1.jpg,Red?,yes,,", "b,b/1.jpg,Red?,no,,")
    splits = open_dataset(*csv_set(tmp_path, *lines, extra="splits: {val: 0.9}")).splits
    assert len(splits.train) == len(splits.val) == 1
