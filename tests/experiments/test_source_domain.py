"""The source domain: its questions, what they refer to, its appearances, and the classes of patches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.build_base.attention_supervision import LAYERS, source_batch
from experiments.build_base.patch_heads import word_groups
from experiments.build_base.source_domain import SourceDomain, source_appearance
from experiments.build_base.source_frames import SourceFrame, SourceFrames, patch_offsets, read_source_frames
from experiments.build_base.source_questions import WORDINGS, SourceQuestion, Wording, source_questions
from surgvivqa.data.vocabulary import LOCATIONS
from surgvivqa.synthetic.appearance import TARGET_APPEARANCE
from surgvivqa.synthetic.questions import SceneIndex
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene, scene_graph
from surgvivqa.synthetic.tokenizer import train_tokenizer
from surgvivqa.synthetic.write import SynthConfig, write_synthetic
from tests.helpers.templates import named

SEED = 5


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[SourceFrame]:
    root = tmp_path_factory.mktemp("source")
    write_synthetic(SynthConfig(out=root, videos=3, frames_per_video=6, seed=SEED, workers=1), SourceDomain)
    return [f for v in ("VID04", "VID01", "VID02") for f in read_source_frames(root, v, SEED, 112, 14)]


def asked_of(frame: SourceFrame, speaker: int, count: int = 60) -> list[SourceQuestion]:
    return source_questions(frame.scene_index, Wording(speaker), np.random.default_rng([speaker, frame.second]), count)


def test_answers_agree_with_the_objects_that_are_referred_to(frames: list[SourceFrame]) -> None:
    numbers = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    seen = set()
    for frame in frames:
        for speaker in range(WORDINGS):
            for q in asked_of(frame, speaker):
                meant = [m.objects for m in q.mentions if m.role == "target"]
                if q.kind in ("exist", "count"):
                    count = len(meant[0])
                    truth = (
                        {str(count > 0), "yes" if count else "no"}
                        if q.kind == "exist"
                        else {str(count), numbers[count]}
                    )
                    assert q.answer in truth, q
                    seen.add((q.kind, q.answer))
                objects: list[Any] = list(frame.scene_index.objects)
                if q.kind in ("component", "color", "type", "place"):
                    (only,) = meant[0]
                    expected = {
                        "component": Wording(speaker).component(objects[only]["component"]),
                        "type": objects[only]["type"],
                        "color": objects[only]["color"], "place": objects[only]["location"],
                    }  # fmt: skip
                    assert q.answer == expected[q.kind], q
                if q.kind == "action":
                    (end,) = [m.objects for m in q.mentions if m.role in ("target", "end")]
                    names = {Wording(speaker).component(objects[i]["component"]) for i in end}
                    verbs = {
                        v
                        for t, v, o in frame.scene_index.triplets
                        if names & {Wording(speaker).component(n) for n in (t, o)}
                    }
                    assert q.answer in names | verbs, q
                    seen.add(("action", str(q.answer in verbs)))
    assert {a for k, a in seen if k == "action"} == {"True", "False"}
    assert {a for k, a in seen if k == "exist"} == {"True", "False", "yes", "no"}


def test_phrases_refer_to_the_objects_that_an_independent_reader_finds(frames: list[SourceFrame]) -> None:
    """In the first wording; colours are compared with the video's palette."""
    colors = set(TARGET_APPEARANCE.colors.values())
    checked = 0
    for frame in frames:
        for q in asked_of(frame, 0):
            for mark in q.mentions:
                word = q.text[mark.start : mark.end]
                objects: list[Any] = list(frame.scene_index.objects)
                if mark.role != "word":
                    continue
                if word in colors:
                    found = [i for i, o in enumerate(objects) if o["color"] == word]
                else:
                    things = (
                        named(word if word in LOCATIONS else word.removesuffix("s"), objects)
                        if word != "scissors"
                        else named(word, objects)
                    )
                    found = [i for i, o in enumerate(objects) if any(o is t for t in things)]
                assert list(mark.objects) == found, (q.text, word)
                checked += 1
    assert checked > 300


def test_a_source_colour_does_not_follow_from_the_component() -> None:
    shades: dict[str, set[str]] = {}
    for video in range(6):
        appearance = source_appearance(SEED, video, 0)
        for component, color in appearance.colors.items():
            shades.setdefault(component, set()).add(color)
            red, green, blue = appearance.rgb[component]
            assert {"blue": blue > red, "red": red > 1.5 * green, "yellow": green > 1.3 * blue}.get(color, True)
    assert sum(len(s) > 1 for s in shades.values()) > 8
    assert source_appearance(SEED, 3, 0) == source_appearance(SEED, 3, 5) != source_appearance(SEED, 3, 6)


def test_tools_move_during_some_actions_only() -> None:
    moved: dict[str, list[float]] = {"retract": [], "grasp": [], "dissect": [], "coagulate": []}
    for video in range(90):
        first, second = (generate_scene(SEED, video, t) for t in (0, 1))
        for tool, verb, _ in first.actions:
            if verb in moved:
                a, b = first.objects[tool], second.objects[tool]
                moved[verb].append(float(np.hypot(a.x - b.x, a.y - b.y)))
    assert min(moved["retract"]) > 10 > 3 > max(moved["grasp"] + moved["coagulate"])
    assert np.mean(moved["dissect"]) > 6
    assert all(len(m) > 4 for m in moved.values())


def test_patches_belong_to_the_object_drawn_there(frames: list[SourceFrame]) -> None:
    hits = []
    for frame in frames:
        offsets = (patch_offsets(frame) + 1) * np.array([215, 120])
        for patch in np.flatnonzero(frame.owner >= 0):
            thing = frame.scene_index.objects[frame.owner[patch]]
            assert np.allclose(offsets[patch], thing["center"], atol=0.01)
            x, y = (patch % 8 + 0.5) * 430 / 8, (patch // 8 + 0.5) * 240 / 8
            x1, y1, x2, y2 = thing["bbox"]
            hits.append(x1 - 27 <= x <= x2 + 27 and y1 - 15 <= y <= y2 + 15)
    assert all(hits) and len(hits) > 200


def test_attention_targets_are_the_tokens_of_their_words(frames: list[SourceFrame]) -> None:
    data = SourceFrames(frames)
    texts = [q.text for f in frames for s in range(WORDINGS) for q in asked_of(f, s)]
    tokenizer = train_tokenizer(texts)
    batch = source_batch(data, tokenizer, np.random.default_rng(0), frames=4, questions=5, mask="prefix", layers=4)
    words = {o["component"].split("_")[-1] for f in frames for o in f.scene_index.objects}
    attention_targets = batch.attention_targets
    spoken = [tokenizer.decode(int(batch.packed.input_ids[p])).strip() for p in attention_targets.positions]
    checked = 0
    for number, word in enumerate(spoken):
        frame = frames[int(batch.chosen[attention_targets.frames[number]])]
        first = attention_targets.layers[number].nonzero()[:, 0].tolist() == list(LAYERS["word"])
        if first and word in words:
            mine = {i for i, o in enumerate(frame.scene_index.objects) if o["component"].endswith(word)}
            shown = np.isin(frame.owner, list(mine))
            expected = shown if shown.any() else frame.owner < 0
            assert (attention_targets.patches[number].numpy() == expected).all(), word
            checked += 1
    assert checked > 3
    assert {":"} <= set(spoken)  # the prompt's last token attends to the queried object


def test_a_token_of_two_classes_is_left_out(frames: list[SourceFrame]) -> None:
    tokenizer = train_tokenizer([q.text for f in frames for s in range(WORDINGS) for q in asked_of(f, s)])
    for group in word_groups(tokenizer):
        assert len(set(group.tokens.tolist())) == len(group.tokens)
        assert set(group.classes.tolist()) == set(range(1, int(group.classes.max()) + 1))


def test_under_the_causal_mask_a_phrase_has_no_target_that_depends_on_later_words(frames: list[SourceFrame]) -> None:
    data = SourceFrames(frames)
    tokenizer = train_tokenizer([q.text for f in frames for s in range(WORDINGS) for q in asked_of(f, s)])
    marks = {}
    for mask in ("prefix", "causal"):
        batch = source_batch(data, tokenizer, np.random.default_rng(1), 6, 12, mask, 4)
        late = batch.attention_targets.layers[:, 2]
        marks[mask] = int(late.sum())
        related = sum(any(m.role == "referent" for m in q.mentions) for q in batch.questions if q.kind != "action")
    assert 0 < marks["prefix"] - marks["causal"] <= related


def test_verbs_are_queried_for_moving_clips_only(frames: list[SourceFrame]) -> None:
    verbs = {v for frame in frames for _, v, _ in frame.scene_index.triplets}
    for moving in (False, True):
        asked = [
            q.answer
            for f in frames
            for q in source_questions(f.scene_index, Wording(0), np.random.default_rng(f.second), 60, moving)
            if q.kind == "action"
        ]
        assert bool(verbs & set(asked)) == moving and asked


def test_colours_of_a_scene_come_from_its_appearance() -> None:
    appearance = source_appearance(SEED, 2, 0)
    scene = generate_scene(SEED, 2, 0, 2, appearance.tool_scale)
    _, _, boxes = render(scene, appearance)
    scene_index = SceneIndex(scene_graph(scene, boxes, "x"), appearance.colors)
    assert [o["color"] for o in scene_index.objects] == [appearance.colors[o["component"]] for o in scene_index.objects]


def test_a_source_set_contains_questions_with_answers(tmp_path: Path) -> None:
    write_synthetic(SynthConfig(out=tmp_path, videos=3, frames_per_video=1, seed=SEED, workers=1), SourceDomain)
    lines = (tmp_path / "ssg-qa" / "VID02" / "0.txt").read_text().splitlines()
    assert len(lines) > 10 and all(line.count("|") == 1 for line in lines)
