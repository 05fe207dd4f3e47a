"""The labels in groups of one kind, so that tables and matrices show like beside like."""

from surgvivqa.data.labels import LABELS

LABEL_GROUPS: dict[str, tuple[str, ...]] = {
    name: tuple(labels.split())
    for name, labels in {
        "yes/no": "True False",
        "count": "0 1 2 3 4 5 6 7 8 9 10",
        "kind": "instrument anatomy",
        "tool": "bipolar clipper grasper hook irrigator scissors specimenbag",
        "action": "aspirate clip coagulate cut dissect grasp irrigate pack retract",
        "target": "abdominal_wall_cavity adhesion blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate "
        "fluid gallbladder gut liver omentum peritoneum specimen_bag",
        "colour": "blue brown red silver white yellow",
    }.items()
}
GROUP_OF = {label: name for name, labels in LABEL_GROUPS.items() for label in labels}
_PLACE = {label: place for place, label in enumerate(label for labels in LABEL_GROUPS.values() for label in labels)}


def group_order(index: int) -> int:
    """The place of a label, by its index, where the labels are ordered by group."""
    return _PLACE[LABELS[index]]
