"""Networks by name, all fed images in [0, 1] and normalising them inside.

Importing this package does not import torch: the command line needs the names at once, the networks later.
"""

from typing import TYPE_CHECKING, Any

from veridical.models.registry import MODELS, ModelEntry, Option, build, model_config

if TYPE_CHECKING:
    from veridical.models.layers import Normalized

__all__ = ["MODELS", "ModelEntry", "Normalized", "Option", "build", "model_config"]


def __getattr__(name: str) -> Any:
    if name != "Normalized":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from veridical.models.layers import Normalized

    return Normalized
