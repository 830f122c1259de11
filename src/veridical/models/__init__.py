"""Networks by name, all fed images in [0, 1] and normalising them inside; importing this imports no torch."""

from veridical.models.registry import MODELS, ModelEntry, Option, build, model_config

__all__ = ["MODELS", "ModelEntry", "Option", "build", "model_config"]
