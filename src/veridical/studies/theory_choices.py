"""What one experiment on the theorems takes of the options: its own defaults, and no other's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.study_config import TheoryOptions

SHARED = ("noise", "radius", "deviation", "steps", "learning_rate", "inner_steps", "train_examples")
OWN = {
    "block-margin": ("width", "sweep_width", "test_examples"),
    "one-layer": ("weight", "data"),
}
"""Options that one experiment has and the other has not."""


def chosen(options: TheoryOptions, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment's options by name, with `defaults` where they were left out.

    Raises UsageError for an option of the other experiment.
    """
    experiment = options.experiment[0]
    for other, names in OWN.items():
        for name in names:
            if other != experiment and getattr(options, name) is not None:
                raise UsageError(f"{name}: {experiment} has no such option, {other} has.")
    found = {}
    for name, default in defaults.items():
        given = getattr(options, name)
        found[name] = default if given is None else given
        if found[name] == []:
            raise argument_error(name, [], "one or more numbers")
    return found


def seeds_of(options: TheoryOptions) -> tuple[int, ...]:
    """The seeds of the trainings of one kind."""
    return tuple(range(options.seed, options.seed + options.seeds))
