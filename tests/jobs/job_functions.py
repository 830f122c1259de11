"""What the jobs of the tests do; imported by name, also in worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Values = dict[str, Any]
Where = dict[str, str]


def echo(values: Values, folder: Path, where: Where) -> Values:
    """Return what it was given; change it afterwards, which nobody may notice."""
    result = {"values": dict(values), "where": dict(where), "folder": folder.name, "pid": os.getpid()}
    print("echo of", values)
    values.clear()
    where.clear()
    return result


def steps(values: Values, folder: Path, where: Where) -> Values:
    """Take `count` steps of `seconds` each, continuing where an earlier attempt was."""
    done = folder / "steps.txt"
    taken = done.read_text().splitlines() if done.exists() else []
    for step in range(len(taken), values["count"]):
        time.sleep(values["seconds"])
        with done.open("a") as file:
            file.write(f"{step}\n")
    del where
    return {"sum": sum(map(int, done.read_text().split())) + values["seed"]}


def hold(values: Values, folder: Path, where: Where) -> Values:
    """Say in `started` that it runs, and wait until `go` exists."""
    del folder
    with Path(where["started"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    deadline = time.monotonic() + 60
    while not Path(where["go"]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return values


def leave_arrays(values: Values, folder: Path, where: Where) -> Values:
    """Leave arrays in the folder, whose sum is the result."""
    del where
    array = np.arange(values["count"] * 3.0)
    np.savez_compressed(folder / "arrays.npz", array=array, index=np.arange(values["count"]))
    return {"sum": float(array.sum()), "names": ["array", "index"]}


def environment(values: Values, folder: Path, where: Where) -> Values:
    """Return the variables that the values name."""
    del folder, where
    return {name: os.environ.get(name) for name in values["names"]}


def fail(values: Values, folder: Path, where: Where) -> Values:
    del folder, where
    print("last words")
    raise ValueError(values.get("message", "no good"))


def leave(values: Values, folder: Path, where: Where) -> Values:
    del values, folder, where
    sys.exit(3)


def return_text(values: Values, folder: Path, where: Where) -> Any:
    del values, folder, where
    return "text"


def return_unknown(values: Values, folder: Path, where: Where) -> Values:
    del values, folder, where
    return {"here": {"there": object()}}


def die(values: Values, folder: Path, where: Where) -> Values:
    """Kill the own process, the first `times` times."""
    del where
    deaths = folder / "deaths.txt"
    with deaths.open("a") as file:
        file.write("x")
    if len(deaths.read_text()) <= values["times"]:
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        os.kill(os.getpid(), getattr(signal, values.get("signal", "SIGKILL")))
        time.sleep(60)
    return {"deaths": values["times"]}


def lose_lease(values: Values, folder: Path, where: Where) -> Values:
    """Do as if another machine had taken the job over while this one slept."""
    del where
    (folder / "lease.json").write_text('{"token": "of another", "system": "another"}')
    return values


def raise_local() -> None:
    """Raise an error whose class nobody else can find."""

    class LocalError(Exception):
        pass

    raise LocalError("cannot travel")
