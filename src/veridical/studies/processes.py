"""Pieces of a study in processes of their own, watched by what they leave in their folders."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from veridical.runtime.errors import RunError, VeridicalError

Piece = tuple[Callable[..., None], tuple[Any, ...]]
"""A function and its arguments."""


def run_side_by_side(pieces: Mapping[str, Piece], watch: Callable[[], None], every: float = 0.5) -> None:
    """Run each (function, arguments) in a fresh process at the same time; call `watch` every `every` seconds.

    Functions and arguments are pickled. When one raises, the others are stopped and its error is raised here:
    a VeridicalError as it is, anything else as a RunError with its traceback. A killed process is a RunError.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[str, BaseProcess] = {}
    answers: dict[str, Connection] = {}
    try:
        for name, (function, arguments) in pieces.items():
            receiver, sender = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(
                target=_answer, args=(sender, function, arguments), name=name, daemon=True
            )
            process.start()
            # The child has its own end; without closing this one its death would not be noticed.
            sender.close()
            processes[name], answers[name] = process, receiver
        while answers:
            for ready in wait(list(answers.values()), timeout=every):
                name = next(name for name, receiver in answers.items() if receiver is ready)
                _check(name, answers.pop(name), processes[name])
            watch()
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _answer(sender: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In the child: run, and send None or the error."""
    # Ctrl-C reaches all processes; the parent's answer to it ends the children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function(*arguments)
        sender.send(None)
    except VeridicalError as error:
        sender.send(error)
    except Exception:  # noqa: BLE001 - the parent raises it
        sender.send(traceback.format_exc())


def _check(name: str, receiver: Connection, process: BaseProcess) -> None:
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RunError(
            f"the process for {name} ended with exit code {process.exitcode} before it was done (killed, or "
            "out of memory). The same command continues where it was."
        ) from None
    if isinstance(answer, VeridicalError):
        raise answer
    if answer is not None:
        raise RunError(f"the process for {name} failed:\n{answer}")
