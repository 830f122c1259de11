"""Pieces of running text that both kinds of page use."""

from collections.abc import Sequence
from typing import Protocol


class Titled(Protocol):
    """What has a name for a reader."""

    @property
    def title(self) -> str:
        """The name."""


def quoted(section: Titled) -> str:
    """A title in typographic quotes, as running text needs it."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{section.title}\N{RIGHT DOUBLE QUOTATION MARK}"


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
