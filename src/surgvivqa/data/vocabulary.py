"""The words of SSG-QA's questions and scene graphs (Yuan et al., 2024), and the scale of the graphs."""

WIDTH, HEIGHT = 430, 240  # of a frame in the scene graphs, px

# The components of the scene graphs with the colours that the questions give them; the graphs hold no colours.
ANATOMIES: dict[str, str] = {
    "abdominal_wall_cavity": "red",
    "liver": "brown",
    "gut": "yellow",
    "omentum": "yellow",
    "gallbladder": "white",
    "cystic_plate": "red",
    "cystic_duct": "white",
}
INSTRUMENTS: dict[str, str] = {
    "grasper": "silver",
    "hook": "white",
    "bipolar": "blue",
    "scissors": "silver",
    "clipper": "blue",
    "irrigator": "silver",
    "specimenbag": "white",
}
COMPONENTS: tuple[str, ...] = (*ANATOMIES, *INSTRUMENTS)
COLORS: dict[str, str] = ANATOMIES | INSTRUMENTS
COLOR_NAMES: tuple[str, ...] = tuple(sorted(set(COLORS.values())))
LOCATIONS = tuple(f"{row}-{column}" for row in ("top", "bottom") for column in ("left", "mid", "right"))
RELATION_PHRASES = {
    "left": ("to the left of", "on the left side of", "left of"),
    "right": ("to the right of", "on the right side of", "right of"),
    "above": ("above",),
    "below": ("below",),
    "within": ("within",),
}
# The labels that are verbs, with the participles of "Which target is being dissected in the scene?".
PARTICIPLES = {
    "aspirate": "aspirated",
    "clip": "clipped",
    "coagulate": "coagulated",
    "cut": "cut",
    "dissect": "dissected",
    "grasp": "grasped",
    "irrigate": "irrigated",
    "pack": "packed",
    "retract": "retracted",
}
