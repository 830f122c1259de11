"""How a run differs from the published training of Chen et al. (2019), as a list that its result carries."""

from __future__ import annotations

from typing import Any

from veridical.training.recipes import USED, paper_row, recipe_values
from veridical.training.settings import Settings

_IN_PAPER = ("natural", "adversarial", "ig-norm", "ig-sum-norm")
_COPIES = {"gtsrb": 10_000, "flowers17": 1000}
"""Images a class of the authors' training data, originals and warped copies together (their code)."""


def deviations(settings: Settings) -> list[dict[str, Any]]:
    """Every difference from the authors' training, as {"what", "paper", "used"}; empty if there is none.

    The paper's values are those of its own row of the table, or of the row of like images for a data set that
    it does not have (which is itself the first difference).
    """
    if settings.objective not in _IN_PAPER:
        return [_difference("objective", f"one of {', '.join(_IN_PAPER)}", settings.objective)]
    name = settings.data["name"]
    row = paper_row(name, tuple(settings.data["shape"]))
    paper = recipe_values("paper", row, settings.objective)
    compared_with = "mnist" if row == "mnist-5k" else row
    found: list[dict[str, Any]] = []
    if name != compared_with:
        found.append(_difference("data", compared_with, name))
    if settings.model["name"] != paper["model"]:
        found.append(_difference("model", paper["model"], settings.model["name"]))
    weights = settings.model.get("options", {}).get("initialisation", "paper")
    if weights not in ("paper", 1.0):
        used = weights if isinstance(weights, str) else f"between He et al. (0) and the paper (1): {weights}"
        found.append(_difference("initial weights", "truncated normal, deviation 0.1", used))
    if settings.initial is not None:
        begun = f"those of a run, {settings.initial['objective']}, {settings.initial['epochs']:g} epochs"
        found.append(_difference("weights at the start", "fresh", begun))
    found += _settings(settings, paper)
    if "train_examples" in paper and settings.train_examples != paper["train_examples"]:
        found.append(_difference("training images", paper["train_examples"], settings.train_examples))
    if settings.bf16:
        found.append(_difference("precision", "float32", "bfloat16 products and convolutions in training"))
    found += _images(settings, paper, row)
    if row == "gtsrb":
        if not settings.data.get("options", {}).get("equalise", False):
            found.append(_difference("histogram", "equalised per channel", "as it is"))
        elif settings.augment != "none":
            found.append(_difference("histogram", "equalised after warping", "equalised before it"))
    return found


def _images(settings: Settings, paper: dict[str, Any], row: str) -> list[dict[str, Any]]:
    """Compare how training images are changed, and how often each class comes."""
    found = []
    if settings.augment != paper["augment"]:
        found.append(_difference("augment", paper["augment"], settings.augment))
    elif settings.augment == "warp":
        made = f"made once, {_COPIES[row]:,} images a class with the originals"
        found.append(_difference("warped images", made, "made anew in every step, by one interpolation"))
    if settings.balance != paper["balance"]:
        found.append(_difference("balance", paper["balance"], settings.balance))
    return found


def _settings(settings: Settings, paper: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare the options of objective and optimiser, each by its name."""
    found = []
    if settings.robust is not None:
        used = {name: getattr(settings.robust, name) for name in USED[settings.objective]}
        if settings.robust.norm != "linf":
            found.append(_difference("norm", "linf", settings.robust.norm))
        found += [_difference(key, paper[key], used[key]) for key in used if used[key] != paper[key]]
    optimise = settings.optimise
    for key in ("optimiser", "schedule", "learning_rate", "weight_decay", "batch_size", "steps"):
        if getattr(optimise, key) != paper[key]:
            found.append(_difference(key, paper[key], getattr(optimise, key)))
    if optimise.averaging:
        found.append(_difference("weight averaging", "none", f"exponential, decay {optimise.averaging}"))
    if optimise.reduction != paper["reduction"]:
        found.append(
            _difference("losses of a batch", f"their {paper['reduction']}", f"their {optimise.reduction}")
        )
    return found


def _difference(what: str, paper: object, used: object) -> dict[str, Any]:
    return {"what": what, "paper": paper, "used": used}
