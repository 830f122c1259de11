"""`veridical COMMAND [options]`: find the command, parse its options, run it, turn errors into exit codes."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veridical._version import __version__
from veridical.cli.commands import COMMANDS, Command, options_of
from veridical.runtime.errors import UsageError, VeridicalError, unknown_name_error, visible

OK, FAILURE, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
_TRUST = "--trust-code"


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] = COMMANDS) -> int:
    """Run one command line and return its exit code: 0, 1 failure, 2 bad usage, 130 interrupted.

    An expected error is one line on stderr; with VERIDICAL_DEBUG=1 its traceback too. A defect of the program
    keeps its traceback.
    """
    if argv is None:  # a process of its own: none that it starts may look for modules in the current folder
        os.environ["PYTHONSAFEPATH"] = "1"
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    try:
        code = _run(name, arguments[1:], commands)
        sys.stdout.flush()  # so that a closed pipe shows here, not when the interpreter ends
        return code
    except SystemExit as stop:  # argparse's way to end after --help or --print_config
        return stop.code if isinstance(stop.code, int) else OK
    except BrokenPipeError:
        # Whoever read the output, as `head` does, has seen enough; the interpreter's last flush must not
        # fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        return _report(name, "interrupted", INTERRUPTED)
    except UsageError as error:
        return _report(name, str(error), BAD_USAGE)
    except (VeridicalError, OSError) as error:
        return _report(name, str(error), FAILURE)


def _run(name: str, arguments: list[str], commands: Mapping[str, Command]) -> int:
    """Import what does the command, and nothing of any other command, and run it."""
    if name in ("-h", "--help", "--version"):
        print(f"veridical {__version__}" if name == "--version" else _overview(commands))
        return OK
    if name not in commands:
        raise unknown_name_error("command", name, commands, "See `veridical --help`.")
    from veridical.cli.options import parse_options

    command = commands[name]
    # Before anything is imported: torchrun would start each of its processes into the same folder.
    processes = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    if processes != "1" and not command.is_shared:
        raise UsageError(f"{processes} processes cannot share this command. Start it without torchrun.")
    target: Any = command.load()
    prog = f"veridical {name}"
    if name == "run":  # the options are those of the study that is named first
        prog += f" {arguments[0] if arguments else ''}"
        target, arguments = _load_own(target, arguments)
    description = inspect.getdoc(target) or command.summary
    # All options are checked here, so that no folder is made for a line that is refused.
    options = parse_options(options_of(target), arguments, prog=prog, description=description)
    if isinstance(target, type):
        return _run_study(target, options)
    result: int | str = target(options)
    if isinstance(result, str):
        from veridical.cli.terminal import say

        say(result)
        return OK
    return result


def _load_own(load_study: Callable[..., Any], arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Import the study that the first argument names, "module:Study"; return it and its own arguments."""
    spec, *rest = arguments or [""]
    if not spec or spec.startswith("-"):
        raise UsageError(
            f"expected `veridical run module:Study {_TRUST} [options]`, the study first. "
            "--help behind it shows its options."
        )
    study = load_study(spec, trust_code=_TRUST in rest)
    if "trust_code" not in study.Options.__dataclass_fields__:
        rest = [argument for argument in rest if argument != _TRUST]  # it was for the import alone
    return study, rest


def _run_study(study: Any, options: Any) -> int:
    """Run a study, or continue it: a bar for each stage, then tables, findings and where the page is."""
    from veridical.cli.terminal import print_table, say, stage_jobs

    planned = study(options)
    forecast = planned.forecast()
    if forecast is not None:
        if not isinstance(forecast, str):
            print_table(forecast)
        say(forecast if isinstance(forecast, str) else forecast.caption)
        return OK
    if options.progress and (told := planned.announce()) is not None:
        say(told)
    with stage_jobs(shown=options.progress) as progress:
        result = planned.run(progress)
    # Read back from the folder, so that the terminal shows what a page drawn later would.
    for title, table in study.tables(result).items():
        if getattr(options, "markdown", False):
            say(f"{title}\n\n{table.to_markdown()}\n")
        else:
            print_table(table, title)
    for line in study.findings(result):
        say(line)
    say(f"report: {result.folder / 'report.html'}")
    return OK


def _overview(commands: Mapping[str, Command]) -> str:
    """Return what `veridical --help` prints."""
    width = max(map(len, commands), default=0)
    listed = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())
    return (
        "usage: veridical COMMAND [options]\n\n"
        "Train classifiers whose gradient explanations hold still, attack explanations, and measure them.\n\n"
        f"commands:\n{listed}\n\n"
        "options:\n  -h, --help  show this help\n  --version   show the version\n\n"
        "`veridical COMMAND --help` lists a command's options; they may also stand in a file (--config)."
    )


def _report(name: str, message: str, code: int) -> int:
    """Print an expected error, and its traceback where somebody asked for it; return the exit code."""
    if os.environ.get("VERIDICAL_DEBUG") == "1":
        traceback.print_exc()
    prefix = "veridical" if name.startswith("-") else f"veridical {name}"
    print(visible(f"{prefix}: {message}", keep="\n"), file=sys.stderr)
    return code
