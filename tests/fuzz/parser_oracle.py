"""An independent reader of question files, written from the format's description: the oracle of the fuzz test."""

import io
import itertools
from dataclasses import dataclass, field

WORDS = (
    "0 1 10 2 3 4 5 6 7 8 9 False True abdominal_wall_cavity adhesion anatomy aspirate bipolar blood_vessel blue brown "
    "clip clipper coagulate cut cystic_artery cystic_duct cystic_pedicle cystic_plate dissect fluid gallbladder grasp "
    "grasper gut hook instrument irrigate irrigator liver omentum pack peritoneum red retract scissors silver "
    "specimen_bag specimenbag white yellow"
).split()
# Every spelling of a label: the labels themselves, and four words in any case.
SPELLED = {word: index for index, word in enumerate(WORDS)} | {
    "".join(letters): WORDS.index(named)
    for word, named in (("yes", "True"), ("no", "False"), ("true", "True"), ("false", "False"))
    for letters in itertools.product(*((c, c.upper()) for c in word))
}
HOPS = {f"{hop}{end}": hop for hop in ("zero_hop", "one_hop", "single_and") for end in ("", ".json")}
KINDS = {"count", "exist", "query_color", "query_type", "query_component", "query_location"}
BLANKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000").union(
    map(chr, range(0x2000, 0x200B))
)
MOST_BYTES = 8_000_000
LINE_REASONS = ("summary", "no_pipe", "malformed", "comma_answer", "unknown_answer")
SUSPECT_REASONS = ("repeated", "contradiction", "no_summary")
STRICT_REASONS = ("too_large", "not_text", "no_pipe", "malformed", "unknown_answer", *SUSPECT_REASONS)
HEADS = ("Which anatomical structures are present?|", "Which tools are present?|")


@dataclass
class Expected:
    """The expected result for a file. A question is (line, question, answer, label, reasoning, type)."""

    questions: list[tuple[int, str, str, int, str | None, str | None]] = field(default_factory=list)
    reasons: list[tuple[str, int, str]] = field(default_factory=list)  # reason, line (0: the file), the line's text
    texts: list[str] = field(default_factory=list)


def strip_blanks(text: str) -> str:
    """The text without surrounding whitespace."""
    start, end = 0, len(text)
    while start < end and text[start] in BLANKS:
        start += 1
    while end > start and text[end - 1] in BLANKS:
        end -= 1
    return text[start:end]


def read_expected(raw: bytes, size: int) -> Expected:
    """Reads a file of these bytes, followed by NULs up to ``size``, by the format's description."""
    expected = Expected()
    if size > MOST_BYTES:
        expected.reasons.append(("too_large", 0, ""))
        return expected
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError:
        expected.reasons.append(("not_text", 0, ""))
        return expected
    if 0 in raw or size > len(raw):
        expected.reasons.append(("not_text", 0, ""))
        return expected
    count = summaries = 0
    earlier: list[str] = []
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(raw.removeprefix(b"\xef\xbb\xbf")), "utf-8"), 1):
        expected.texts.append(line)
        content = strip_blanks(line)
        if not content:
            continue
        count += 1
        pipes = content.count("|")
        question, _, rest = content.partition("|")
        answer, _, rest = rest.partition("|")
        question, written, answer = strip_blanks(question), answer, strip_blanks(answer)
        if count <= 2 and (content.startswith(HEADS[0]) or content.startswith(HEADS[1])):
            summaries += 1
            expected.reasons.append(("summary", number, content))
            continue
        if content in earlier:
            expected.reasons.append(("repeated", number, content))
        earlier.append(content)
        if pipes == 0:
            expected.reasons.append(("no_pipe", number, content))
        elif pipes not in (1, 2, 4) or question == "":
            expected.reasons.append(("malformed", number, content))
        elif written.count(","):
            expected.reasons.append(("comma_answer", number, content))
        elif answer not in SPELLED:
            expected.reasons.append(("unknown_answer", number, content))
        else:
            first = next(
                (label for _, asked, _, label, _, _ in expected.questions if asked == question), SPELLED[answer]
            )
            if first != SPELLED[answer]:
                expected.reasons.append(("contradiction", number, content))
            hop = kind = None
            if pipes == 4:
                third, fourth, _ = rest.split("|")
                hop, kind = HOPS.get(strip_blanks(third)), strip_blanks(fourth)
            expected.questions.append((number, question, answer, SPELLED[answer], hop, kind if kind in KINDS else None))
    if count == 0:
        expected.reasons.append(("empty_file", 0, ""))
    elif summaries < 2:
        expected.reasons.append(("no_summary", 0, ""))
    return expected
