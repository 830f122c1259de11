"""One thread per process that keeps all of its claims alive: a short job costs no thread of its own."""

from __future__ import annotations

import math
import os
import threading
from typing import Protocol


class Beating(Protocol):
    """Something that has to be touched every `every` seconds or sooner."""

    every: float

    def beat(self) -> None:
        """Touch it; called in the heart's thread."""


class Heart:
    """Calls `beat` of all that were added, as often as the most demanding one asks."""

    def __init__(self) -> None:
        self._members: set[Beating] = set()
        self._changed = threading.Condition()
        self._pause = math.inf
        threading.Thread(target=self._run, name="heartbeats", daemon=True).start()

    def add(self, member: Beating) -> None:
        """Let it beat from now on."""
        with self._changed:
            self._members.add(member)
            # A thread that wakes up soon enough by itself is left asleep: that makes short jobs cheap.
            if member.every < self._pause:
                self._changed.notify()

    def remove(self, member: Beating) -> None:
        """Let it beat no more, but for a beat that has begun."""
        with self._changed:
            self._members.discard(member)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._pause = min((member.every for member in self._members), default=math.inf)
                self._changed.wait(None if math.isinf(self._pause) else self._pause)
                members = list(self._members)
            for member in members:
                member.beat()


_hearts: dict[int, Heart] = {}
_making = threading.Lock()


def heart() -> Heart:
    """Return this process's heart; a forked process has no threads of its parent, so it gets its own."""
    with _making:
        if os.getpid() not in _hearts:
            _hearts.clear()
            _hearts[os.getpid()] = Heart()
        return _hearts[os.getpid()]
