"""Veridical: train classifiers whose gradient explanations hold still, attack explanations, and measure both.

The public names below are imported when they are first used, so that `import veridical`, and with it
`veridical --help`, does not wait for torch.
"""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # `python -m veridical` puts the current folder first: a json.py there would be taken for Python's own.
    # The command `veridical` does without it. Code that is trusted may lie there, and comes last.
    sys.path[:] = sys.path[1:] + sys.path[:1] * ("--trust-code" in sys.orig_argv)

from importlib import import_module
from typing import TYPE_CHECKING, Any

from veridical._version import __version__

if TYPE_CHECKING:
    from veridical import (
        attacks,
        attribution,
        data,
        faithfulness,
        jobs,
        metrics,
        models,
        report,
        studies,
        training,
    )
    from veridical.attacks.ascent import pgd
    from veridical.attacks.attribution import AttackResult, attack
    from veridical.attacks.ball import L2, Linf
    from veridical.attacks.directions import MassCentre, RandomSign, TargetRegion, TopK
    from veridical.attribution.captum_adapter import CaptumAttribution
    from veridical.attribution.methods import (
        ExpectedGradients,
        GradientTimesInput,
        InputGradient,
        IntegratedGradients,
        RandomAttribution,
        SmoothGrad,
    )
    from veridical.data import load
    from veridical.faithfulness.diffroar import diffroar
    from veridical.faithfulness.result import DiffRoarResult
    from veridical.models import build
    from veridical.models.networks import Normalized
    from veridical.runtime.errors import DataError, RunError, UsageError, VeridicalError
    from veridical.runtime.options import TrainOptions
    from veridical.studies.audit import AuditReport, audit
    from veridical.training.loop import train
    from veridical.training.run import Run

__all__ = [
    "L2",
    "AttackResult",
    "AuditReport",
    "CaptumAttribution",
    "DataError",
    "DiffRoarResult",
    "ExpectedGradients",
    "GradientTimesInput",
    "InputGradient",
    "IntegratedGradients",
    "Linf",
    "MassCentre",
    "Normalized",
    "RandomAttribution",
    "RandomSign",
    "Run",
    "RunError",
    "SmoothGrad",
    "TargetRegion",
    "TopK",
    "TrainOptions",
    "UsageError",
    "VeridicalError",
    "__version__",
    "attack",
    "attacks",
    "attribution",
    "audit",
    "build",
    "data",
    "diffroar",
    "faithfulness",
    "jobs",
    "load",
    "metrics",
    "models",
    "pgd",
    "report",
    "studies",
    "train",
    "training",
]

_PACKAGES = (
    "attacks",
    "attribution",
    "data",
    "faithfulness",
    "jobs",
    "metrics",
    "models",
    "report",
    "studies",
    "training",
)
_HOMES = {
    "attacks.ascent": ("pgd",),
    "attacks.attribution": ("AttackResult", "attack"),
    "attacks.ball": ("L2", "Linf"),
    "attacks.directions": ("MassCentre", "RandomSign", "TargetRegion", "TopK"),
    "attribution.captum_adapter": ("CaptumAttribution",),
    "attribution.methods": (
        "ExpectedGradients",
        "GradientTimesInput",
        "InputGradient",
        "IntegratedGradients",
        "RandomAttribution",
        "SmoothGrad",
    ),
    "data": ("load",),
    "faithfulness.diffroar": ("diffroar",),
    "faithfulness.result": ("DiffRoarResult",),
    "models": ("build",),
    "models.networks": ("Normalized",),
    "runtime.options": ("TrainOptions",),
    "runtime.errors": ("DataError", "RunError", "UsageError", "VeridicalError"),
    "training.loop": ("train",),
    "studies.audit": ("AuditReport", "audit"),
    "training.run": ("Run",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
