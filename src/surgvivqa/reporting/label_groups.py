"""The labels in groups of one kind, so that tables and matrices show like beside like."""

from surgvivqa.data.labels import LabelSet

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
OTHER = "other"
GROUP_OF = {label: name for name, labels in LABEL_GROUPS.items() for label in labels}
_PLACE = {label: place for place, label in enumerate(label for labels in LABEL_GROUPS.values() for label in labels)}


def group_of(label: str, label_set: LabelSet) -> str:
    """The group of a label: of SSG-QA's, or of yes, no and numbers in another set."""
    if label_set.is_ssg_qa:
        return GROUP_OF[label]
    if label.isdecimal():
        return "count"
    return "yes/no" if label.lower() in ("yes", "no", "true", "false") else OTHER


def group_order(index: int, label_set: LabelSet) -> tuple[int, int]:
    """The place of a label, by its index, where the labels are ordered by group; within it in the set's order."""
    label = label_set.labels[index]
    if label_set.is_ssg_qa:
        return 0, _PLACE[label]
    group = group_of(label, label_set)
    return ("yes/no", "count", OTHER).index(group), int(label) if group == "count" and len(label) < 10 else index
