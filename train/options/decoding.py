"""Which options work with the decoder that `loader.decode` names."""

from __future__ import annotations

from shared.errors import InputError
from train.options.config import AugmentConfig, LoaderConfig


def refuse_augmentation(augment: AugmentConfig, loader: LoaderConfig) -> None:
    """Refuse augmentation that needs pixels in the workers, where a GPU decodes them later.

    Raises:
        InputError: it names the option.
    """
    if loader.decode == "cpu":
        return
    for name in ("rand_layers", "erase_probability"):
        if found := getattr(augment, name):
            raise InputError(
                "option-conflict",
                f"augment.{name} is {found}, which changes frames in the workers, and with "
                "loader.decode = gpu the workers do not decode them; give --set "
                f"loader.decode=cpu, or --set augment.{name}=0",
            )
