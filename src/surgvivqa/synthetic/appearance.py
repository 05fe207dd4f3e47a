"""The appearance of frames: colours, light, the endoscope's round view. As in SSG-QA, a component has one colour."""

from dataclasses import dataclass

from surgvivqa.data.vocabulary import COLORS

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Appearance:
    """How a frame is painted. Lengths are pixels at 430x240.

    Attributes:
        colors: each component's colour as a word.
        rgb: each component's colour, 0 to 255.
        tissue: colour of the background tissue, 0 to 255.
        tint: factor of each channel.
        light_falloff: how fast the light falls off towards the edges.
        view_radius: radius of the endoscope's round view.
        view_center: centre ``(x, y)`` of that view.
        tool_scale: factor of the size of tools.
    """

    colors: dict[str, str]
    rgb: dict[str, RGB]
    tissue: RGB = (132, 54, 50)
    tint: RGB = (1.0, 1.0, 1.0)
    light_falloff: float = 1.5
    view_radius: float = 208.0
    view_center: tuple[float, float] = (215.0, 120.0)
    tool_scale: float = 1.0


TARGET_APPEARANCE = Appearance(
    COLORS,
    {
        "abdominal_wall_cavity": (206, 92, 96),
        "liver": (116, 52, 38),
        "gut": (222, 170, 128),
        "omentum": (226, 184, 74),
        "gallbladder": (196, 206, 186),
        "cystic_plate": (172, 28, 36),
        "cystic_duct": (226, 214, 196),
        "grasper": (168, 172, 178),
        "hook": (238, 238, 232),
        "bipolar": (52, 96, 190),
        "scissors": (150, 152, 156),
        "clipper": (44, 120, 208),
        "irrigator": (186, 190, 196),
        "specimenbag": (232, 236, 240),
    },
)
