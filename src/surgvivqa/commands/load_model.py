"""Loads a checkpoint for eval, predict and convert, and applies the model flags of the command line."""

import logging
from collections.abc import Collection
from pathlib import Path

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import PART_FLAGS, ModelConfig, OptionalModelConfig, given_flags, option
from surgvivqa.data.labels import LabelSet
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")
OVERRIDABLE = ("prompt_mode", "mask", "max_length")
_LEAK = (
    "The mask of this model is bidirectional: each label is scored by states that have seen it. Use it only to "
    "reproduce published figures."
)


def load_model(
    checkpoint: Path,
    flags: OptionalModelConfig,
    overridable: Collection[str] = OVERRIDABLE,
    *,
    verify: bool = True,
) -> ModelBundle:
    """Loads a checkpoint in eval mode.

    A checkpoint without settings, such as a lone ``.pth``, is read with the given flags. A checkpoint with settings
    keeps them, except for the ``overridable`` ones, which the flags can change with a warning.

    Args:
        checkpoint: a run folder, its ``best/``, a file, a hub name, or ``tiny``.
        flags: the model flags.
        overridable: names of the flags that may differ from the checkpoint's settings.
        verify: verify the checkpoint's checksums first.

    Raises:
        InputError: the checkpoint cannot be loaded, or a flag contradicts it.
    """
    given = given_flags(flags)
    bundle = load_checkpoint(checkpoint, ModelConfig(**given), verify=verify)
    settings = bundle.settings
    saved = vars(settings) | {"num_frames": bundle.model.config.video_config.num_frames}
    for name, value in given.items():
        if value == saved[name]:
            continue
        if name in PART_FLAGS:  # the checkpoint provides the part
            log.warning("%s %s is not used: the checkpoint has %s.", option(name), value, saved[name])
        elif name not in overridable:
            raise InputError(
                f"{option(name)} {value} contradicts {checkpoint}, which has {saved[name]}; leave the flag out."
            )
        else:
            if name != "max_length":
                log.warning("The checkpoint was trained with %s %s, not %s.", option(name), saved[name], value)
            setattr(settings, name, value)
    bundle.apply_settings()
    if bundle.run.config.blank_video:
        log.warning("This model was trained on black pictures (--blank-video): it answers from the question alone.")
    if settings.mask == "bidirectional":
        log.warning(_LEAK)
    return bundle


def adopt_labels(bundle: ModelBundle, label_set: LabelSet) -> None:
    """Makes a model choose from the labels of the data that it is evaluated on, with a warning if it learned others."""
    if bundle.label_set.labels != label_set.labels:
        log.warning(
            "The model learned the %d labels of %s; here it chooses from the %d of %s.",
            len(bundle.label_set),
            bundle.label_set.name,
            len(label_set),
            label_set.name,
        )
    bundle.use_labels(label_set)
