"""Mutated question files: file N of a seed is always the same bytes."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.parser_oracle import KINDS, MOST_BYTES, WORDS


def well_formed_lines() -> list[str]:
    """Well-formed lines of every kind, some with non-ASCII letters."""
    rng, lines = random.Random(0), []
    things = [w for w in WORDS if not w.isdigit() and w not in ("True", "False")]
    places = ["top-left", "top-mid", "top-right", "bottom-left", "bottom-mid", "bottom-right"]
    aside = ["", "", "", "", "", " (gallbladder\u2019s)", " naïve", " 胆嚢", " \U0001f52a", " ½"]
    for _ in range(400):
        a, b, place, odd = rng.choice(things), rng.choice(things), rng.choice(places), rng.choice(aside)
        lines += [
            f"Which tool is operating on {a}{odd}|{b}",
            f"What is the action being performed on {a}{odd}?|{b}",
            f"What anatomy is at the {place} of the frame{odd} ?|{a}|[{rng.randrange(430)}.0, 60.5]",
            f"How many {place} instruments are there{odd}?|{rng.randrange(11)}|zero_hop.json|count|NA",
            f"Is there a {a} left of the {b}{odd}?|{rng.choice(['True', 'False'])}|one_hop.json|exist|relate_spatial",
            f"The {a} within the {b} is what color{odd}?|red|single_and.json|query_color|NA",
            f"There is a {a}{odd}?; what name is it?|{b}|one_hop.json|query_component|relate_spatial",
            f"What kind is the {place} {a}{odd}?|anatomy|zero_hop.json|{rng.choice(sorted(KINDS))}|NA",
        ]
    return lines


def read_lines(folder: Path) -> list[str]:
    """The lines of the question files under a folder, ordered by path."""
    return [line for path in sorted(folder.rglob("*.txt")) for line in path.read_text("utf-8").splitlines() if line]


ODD_CHARACTERS = "\0\x01\t\v\f\r\n\x1a\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u061c\u1680\u180e\u200b\u200f\u2028\u2029\u202f"
ODD_CHARACTERS += "\u3000\ufeff\ufffe\ud800\udfff\U000e0041|｜¦,，;?\"'\\/{}[]%"
ODD_BLANKS = ["", "", " ", *"\t\f\v\x1c\x85\xa0\u2028\u2029\u3000\ufeff\u200b", " \t "]
DIGITS = "0123456789٠١٢٣٤٥٦٧٨٩０１２３４５６７８９²³¹½Ⅻ𝟘𝟙①"
WRONG = ["", "big liver", "specimen bag", *"liver. livers 11 01 1.0 -1 +1 NA None tru ja ＹＥＳ Kelvin".split()]
ENDS = ["\n", "\r\n", "\r", "\n\r", "\r\r\n", "\n\n", "\f", "\u2028", "\x85", "\x1e", ""]
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis", "utf-7", "utf-8-sig"]
SEQUENCES = [
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xc0\x80", b"\xf4\x90\x80\x80"),
    *(b"\0", b"\0\0", b"\x80", b"\xff", b"\xe2\x80\xa8", b"\xe2\x80", b"\r", b"\n", b"\r\n", b"|", b"|||", b"\x0c"),
]


def mutate_answer(rng: random.Random, lines: list[str], at: int) -> None:
    fields = lines[at].split("|")
    if len(fields) < 2:
        return
    answer = fields[1]
    change = rng.randrange(9)
    if change == 0:
        answer = rng.choice([answer.upper(), answer.title(), answer.swapcase(), answer.capitalize()])
    elif change == 1:
        answer = rng.choice(ODD_BLANKS) + answer + rng.choice(ODD_BLANKS)
    elif change == 2:
        answer = rng.choice([f"{answer}, {rng.choice(WORDS)}", f",{answer}", f"{answer},", ",", f"{answer}，{answer}"])
    elif change == 3:
        answer = rng.choice(DIGITS) + rng.choice(["", "", rng.choice(DIGITS)])
    elif change == 4:
        answer = "".join(rng.choice((c, c.upper())) for c in rng.choice(("yes", "no", "true", "false")))
    elif change == 5:
        answer = rng.choice(WRONG)
    elif change == 6:
        answer = rng.choice(WORDS)
    elif change == 7:
        answer = answer[: rng.randrange(len(answer) + 1)]
    else:
        answer = answer.replace("_", rng.choice([" ", "-", "", "__", "\u0332"])).replace("i", rng.choice("iıİí"))
    fields[1] = answer
    lines[at] = "|".join(fields)


def mutate_fields(rng: random.Random, lines: list[str], at: int) -> None:
    fields = lines[at].split("|")
    change = rng.randrange(8)
    if change == 0:
        fields.insert(rng.randrange(len(fields) + 1), rng.choice(["", " ", rng.choice(WORDS), "NA"]))
    elif change == 1:
        del fields[rng.randrange(len(fields))]
    elif change == 2:
        rng.shuffle(fields)
    elif change == 3:
        fields[0] = rng.choice(ODD_BLANKS)
    elif change == 4 and len(fields) > 2:
        hop = rng.choice(
            ["zero_hop", "one_hop.json", "single_and.json.json", "ZERO_HOP.json", "two_hop.json", " one_hop "]
        )
        fields[2] = hop + rng.choice(ODD_BLANKS)
    elif change == 5 and len(fields) > 3:
        fields[3] = rng.choice(["Count", "exist ", "query", "", "query_location", "query_color\u200b", "\tcount"])
    elif change == 6:
        lines[at] = rng.choice(["||", "｜", "\\|", " | "]).join(fields)
        return
    else:
        fields = fields[:1] + fields[1:] * rng.randrange(4)
    lines[at] = "|".join(fields)


def mutate_characters(rng: random.Random, lines: list[str], at: int) -> None:
    line = lines[at]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(line) + 1)
        line = line[:place] + rng.choice(ODD_CHARACTERS) + line[place + rng.randrange(2) :]
    lines[at] = line


def mutate_lines(rng: random.Random, lines: list[str], at: int) -> None:
    change, other, line = rng.randrange(8), rng.randrange(len(lines)), lines[at]
    if change == 0:
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    elif change == 1:
        place = rng.randrange(len(line) + 1)
        lines[at : at + 1] = [line[:place], line[place:]]
    elif change == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif change == 3:
        lines.insert(other, line)
    elif change == 4:
        del lines[at]
    elif change == 5:
        lines[at:at] = [rng.choice(ODD_BLANKS) for _ in range(rng.choice((1, 1, 2, 6)))]
    elif change == 6:
        lines[at] = rng.choice(ODD_BLANKS) + line + rng.choice(ODD_BLANKS)
    else:
        rng.shuffle(lines)


def mutate_length(rng: random.Random, lines: list[str], at: int) -> None:
    """Rare, since such a file costs as much as a hundred others."""
    many = rng.choice((1000, 10_000, 100_000))
    if rng.random() < 0.8:
        many = rng.choice((40, 300))
    change, fields = rng.randrange(4), lines[at].split("|")
    if change == 0:
        fields[0] += " very" * many
        lines[at] = "|".join(fields)
    elif change == 1:
        lines[at] += "|" * (min(many, 10_000) - len(fields))
    elif change == 2:
        lines[at] += " " * many
    else:
        lines[at] = fields[0] + "|" + ", ".join(WORDS[:40]) * (many // 40)


def mutate_bytes(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    change = rng.randrange(9)
    if change == 0 and raw:
        flipped = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if change == 1:
        return raw[:at] + raw[at + rng.choice((1, 1, 2, 30)) :]
    if change == 2:
        return raw[:at] + rng.randbytes(rng.choice((1, 1, 2, 30))) + raw[at:]
    if change == 3:
        return raw[:at]
    if change == 4:
        end = at + rng.randrange(60)
        return raw[:end] + raw[at:]
    if change == 5:
        return raw[at:] + raw[:at]
    if change == 6 and raw:
        return raw[:at] + bytes([rng.randrange(32, 127)]) + raw[at + 1 :]
    return raw[:at] + rng.choice(SEQUENCES) + raw[at + rng.randrange(2) :]


LINE_CHANGES: list[Callable[[random.Random, list[str], int], None]] = [
    *(mutate_answer, mutate_answer, mutate_fields, mutate_fields, mutate_characters, mutate_lines, mutate_lines),
]


def make_file(rng: random.Random, seed: int, number: int, pool: Sequence[str]) -> tuple[bytes, int]:
    """File ``number`` of a seed: its bytes, and its size, which is larger for a sparse file that ends in NULs."""
    rng.seed(f"{seed}/{number}")
    lines = ["Which anatomical structures are present?|liver, gut", "Which tools are present?|hook"]
    lines += rng.choices(pool, k=rng.choice((0, 1, 3, 5, 6, 8, 10, 20)))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        change = mutate_length if rng.random() < 0.01 else rng.choice(LINE_CHANGES)
        change(rng, lines, rng.randrange(len(lines)))
        if not lines:
            break
    style = rng.randrange(16)
    if style < 10:
        text = "\n".join(lines)
    elif style < 13:
        text = ENDS[style - 9].join(lines)
    else:
        text = "".join(line + (rng.choice(ENDS) if rng.random() < 0.3 else "\n") for line in lines)
    if rng.random() < 0.5:
        text += rng.choice(ENDS)
    draw = rng.random()
    if draw < 0.06:
        raw = text.encode(rng.choice(ENCODINGS), "replace")
    else:
        raw = text.encode("utf-8", "surrogatepass")
    if draw > 0.6:
        for _ in range(rng.choice((1, 1, 2, 4))):
            raw = mutate_bytes(rng, raw)
    rare = rng.random()
    if rare < 0.004:
        raw = rng.choice(
            (b"", b"\n", b" \n\t\r\n", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef", b"\r", raw[:3], rng.randbytes(60))
        )
    size = len(raw)
    if rare > 0.9999:
        size = max(size, rng.choice((size + 1, 1_000_000, MOST_BYTES, MOST_BYTES + 1, 10**8, 10**12)))
    return raw, size
