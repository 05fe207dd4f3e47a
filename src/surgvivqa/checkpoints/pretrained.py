"""``SurgViVQAModel`` as users import it: Hugging Face's ``from_pretrained`` and ``save_pretrained`` for our folders.

It is a subclass because these two methods read and write checkpoint folders, and the model's own file knows none. It
has the name of its base class because Hugging Face writes the class's name into ``config.json``.
"""

import os
from pathlib import Path
from typing import Any

from surgvivqa.checkpoints.checksums import verify_checksums
from surgvivqa.checkpoints.folders import holds_all_tensors, mark_complete
from surgvivqa.checkpoints.hub import fetch
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.settings import SETTINGS_FILE, read_settings
from surgvivqa.checkpoints.validation import check_model_folder, check_no_remote_code
from surgvivqa.config import ModelConfig
from surgvivqa.model import modeling
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.utils.errors import InputError, first_line

# Arguments that Hugging Face's Auto classes pass on after they have handled them.
_OF_AUTO_CLASSES = ("config", "_from_auto", "_commit_hash", "adapter_kwargs", "trust_remote_code", "revision")
_OF_THE_HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder")


class SurgViVQAModel(modeling.SurgViVQAModel):
    """``model.modeling.SurgViVQAModel`` with loading and saving of checkpoint folders."""

    @classmethod
    def from_model(cls, model: modeling.SurgViVQAModel) -> "SurgViVQAModel":
        """The same weights, shared and not copied, in eval mode; for models that ``load_checkpoint`` loads."""
        return cls(model.config, dict(model.named_children())).eval()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Loads a checkpoint folder or a model of the hub.

        A checkpoint with all tensors is loaded as Hugging Face loads any model, but only from safetensors. One that
        holds only the trained tensors, or only adapters, is loaded onto the published parts that it names; it takes no
        argument but ``dtype``.

        Raises:
            InputError: the folder is damaged or unsafe, or lacks a tensor of the model (none is left at random).
        """
        revision = kwargs.get("revision")
        if not Path(name).exists() and not {"token", "cache_dir", "local_files_only"} & kwargs.keys():
            name = fetch(f"{name}@{revision}" if revision else str(name), "from_pretrained")
        folder = Path(name)
        if folder.is_dir() and not holds_all_tensors(folder):
            return cls._load_trained_part(folder, args, kwargs)
        try:
            if folder.is_dir():
                check_model_folder(folder)
                saved = read_settings(folder) if (folder / SETTINGS_FILE).is_file() else None
                verify_checksums(folder, saved.checksums if saved else {})
            else:  # Hugging Face fetches it itself, with a token or into another cache
                where = {k: v for k, v in kwargs.items() if k in _OF_THE_HUB}
                check_no_remote_code(SurgViVQAConfig.get_config_dict(name, **where)[0])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{name} cannot be loaded ({first_line(error)}).") from error
        kwargs["use_safetensors"] = True  # never a pickle
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        missing = sorted(set(info["missing_keys"]) - set(model.all_tied_weights_keys))
        if missing or info["mismatched_keys"]:
            first = missing[0] if missing else "shapes differ"
            raise InputError(
                f"{name} lacks {len(missing)} tensors of the model (first: {first}), which would stay at random; it is "
                f"not a complete checkpoint."
            )
        return (model, info) if wants_info else model

    @classmethod
    def _load_trained_part(cls, folder: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "SurgViVQAModel":
        """A folder with the trained tensors or the adapters alone, loaded onto the parts that it names."""
        given = {k: v for k, v in kwargs.items() if k not in _OF_AUTO_CLASSES}
        dtype = given.pop("dtype", None)
        if args or given:
            raise InputError(
                f"{folder} holds only what was trained, so from_pretrained takes no argument but dtype, and not "
                f"{', '.join(given) or 'positional ones'}; write all tensors with surgvivqa convert."
            )
        model = cls.from_model(load_checkpoint(folder, ModelConfig()).model).requires_grad_(True)
        return model if dtype in (None, "auto") else model.to(dtype)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves all tensors as Hugging Face does, adapters in place.

        Files of an earlier checkpoint in the folder that would contradict them are updated or removed.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        mark_complete(Path(save_directory))
