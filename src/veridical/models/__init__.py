"""Networks by name, all fed images in [0, 1] and normalising them inside.

Importing this package does not import torch: the command line needs the names at once, the networks later.
"""

from typing import TYPE_CHECKING, Any

from veridical.models.registry import MODELS, ModelEntry, Option, build, model_config

if TYPE_CHECKING:
    from veridical.models.cnn import PaperCNN
    from veridical.models.mlp import MLP
    from veridical.models.normalized import Normalized
    from veridical.models.rar_resnet import RARResNet
    from veridical.models.resnet18 import ResNet18

__all__ = [
    "MLP",
    "MODELS",
    "ModelEntry",
    "Normalized",
    "Option",
    "PaperCNN",
    "RARResNet",
    "ResNet18",
    "build",
    "model_config",
]

_HOMES = {
    "PaperCNN": "cnn",
    "MLP": "mlp",
    "Normalized": "normalized",
    "RARResNet": "rar_resnet",
    "ResNet18": "resnet18",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
