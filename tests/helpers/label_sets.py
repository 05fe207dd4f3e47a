"""A label set of another data set than SSG-QA."""

from surgvivqa.data.labels import LabelSet

SEVEN = LabelSet(
    "colon", ("yes", "no", "0", "2", "cold snare", "polyp", "polyp with a clip"), {"true": "yes", "none": "no"}
)
"""Two of the labels are a beginning of others, in words and in characters, and one is one of SSG-QA's."""
