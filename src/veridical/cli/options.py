"""From a frozen dataclass to a command's options: flags, `--config FILE.yaml` and `--print_config`.

Flags are spelt as people spell them. A field `data_root` is `--data-root` (an underscore is understood too).
A boolean field is a bare flag, `--short`, or `--no-short`, or `--short=false`. A field that holds several
values takes them apart, `--radius 0.1 0.2`, with commas, or as a list, `[0.1, 0.2]`. The keys of a
mapping are reached with a dot, `--model-options.width 8`. In files the names are the fields' own.

A field with the metadata POSITIONAL takes what stands without a flag: `report A B --out C`; one that holds a
single value, as `reproduce NAME`, takes one.
"""

import argparse
import contextlib
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from veridical.runtime.checking import as_path, check_value, option_hints
from veridical.runtime.errors import UsageError, argument_error, nearest, unknown_name_error
from veridical.runtime.registry import import_named

OptionsT = TypeVar("OptionsT")

_PRINT_CONFIG = "--print_config"
# What stands in a docstring for the names of a registry, those of installed packages included.
_NAMES = {
    "{attributions}": "veridical.attribution.registry:ATTRIBUTIONS",
    "{directions}": "veridical.attacks.directions:DIRECTIONS",
}
_OBJECTIVES = "veridical.training.penalties:OBJECTIVES"
# Of a file of options in YAML, and of the lists and mappings in each other there.
_MOST_BYTES, _DEEPEST = 100_000, 20


def parse_options(
    options: type[OptionsT], argv: Sequence[str], *, prog: str, description: str = ""
) -> OptionsT:
    """Parse a command line into an instance of the dataclass `options`.

    Help texts come from "Args:" in the docstrings of the class and of those that it inherits. Anything that
    cannot be used is a `UsageError` of one line; `--help` and `--print_config` print and raise SystemExit(0).
    """
    kind: Any = options
    hints, parser = get_type_hints(options), _build_parser(kind, prog, description)
    flags = {f"--{name.replace('_', '-')}": hint for name, hint in hints.items()}
    try:
        line = _normalise(argv, flags, _positional(options))
        _check_yaml(line, list(hints))
        parsed = parser.parse_args(line)
    except yaml.YAMLError as error:
        raise UsageError(f"config: {' '.join(str(error).split())}") from error
    except argparse.ArgumentError as error:
        raise UsageError(_readable(error, flags, option_hints(kind))) from error
    return options(**{name: parsed[name] for name in hints})


def _build_parser(options: Any, prog: str, description: str) -> ArgumentParser:
    """The parser of one command; errors are raised as `argparse.ArgumentError`, not printed."""
    parser = _OptionParser(
        prog=prog,
        usage=_usage(options, prog),
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", action="config", help="YAML file of options; later flags overrule it.")
    parser.add_class_arguments(options, as_group=False)
    _group_help(parser, options)
    return parser


def _group_help(parser: ArgumentParser, options: Any) -> None:
    """Let --help show what a command inherits below its own options, under the first words of its group."""
    # argparse's groups only arrange the help: parsing goes by another list of the same actions.
    shown = parser._optionals._group_actions
    for group in options.__mro__[1:]:
        inherited = [
            action
            for action in shown
            if action.dest in vars(group).get("__annotations__", {})
            and action.dest not in vars(options).get("__annotations__", {})
        ]
        if inherited:
            title = inspect.cleandoc(group.__doc__ or group.__name__).partition("\n")[0].rstrip(".")
            parser.add_argument_group(title)._group_actions.extend(inherited)
            shown[:] = [action for action in shown if action not in inherited]


def _usage(options: Any, prog: str) -> str:
    """Return the line above the list of options: those that must be given, and that there are more."""
    bare = _positional(options)
    required = [
        f"--{field.name.replace('_', '-')} {field.name.upper()}"
        for field in fields(options)
        if field.default is MISSING and field.default_factory is MISSING and field.name != bare
    ]
    several = bare is not None and _element_type(get_type_hints(options)[bare]) is not None
    shown = [f"{bare.upper()} ..." if several else bare.upper()] if bare else []
    return " ".join([prog, *shown, *required, "[options]"])


def _positional(options: Any) -> str | None:
    """The field that takes the values without a flag, or None."""
    return next((field.name for field in fields(options) if field.metadata.get("positional")), None)


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of a command's description, which shows whole command lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """The description, with a line for each objective where it lists them."""
        if "{objectives}" in text:
            known = import_named("help", _OBJECTIVES, "a registry").entries()
            text = text.replace("{objectives}", "\n  ".join(f"{one.name:<16}{one.summary}" for one in known))
        return super()._fill_text(text, width, indent)

    def _expand_help(self, action: argparse.Action) -> str:
        """What help says of an option: names of a registry filled in, and a type read as "int | null"."""
        text: str = super()._expand_help(action)
        for place, registry in _NAMES.items():
            if place in text:
                text = text.replace(place, ", ".join(import_named("help", registry, "a registry")))
        return re.sub(r"\(type: Optional\[(.*)\](?=, default)", r"(type: \1 | null", text)


class _OptionParser(ArgumentParser):
    """A jsonargparse parser with the spelling of this module's docstring."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add one option as jsonargparse does, with dashes in its flag, and bare if it is boolean."""
        # A list has a second spelling, which adds to it.
        if args and args[0].startswith("--") and args[0] != _PRINT_CONFIG:
            kwargs.setdefault("dest", args[0].removeprefix("--"))
            if kwargs.get("type") is bool:
                kwargs.update(nargs="?", const=True)
            args = tuple(one.replace("_", "-") for one in args)
        return super().add_argument(*args, **kwargs)


def _normalise(argv: Sequence[str], hints: Mapping[str, Any], bare: str | None = None) -> list[str]:
    """Rewrite a command line into the one spelling that the parser knows; `bare` gets what has no flag."""
    result: list[str] = []
    without_flag: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            (result if bare is None else without_flag).append(argument)
            continue
        # What stands behind "=" is a value, in which dashes and underscores stay as they are.
        flag, equals, value = argument.partition("=")
        flag = _respell(flag, hints)
        # --no-short is --short=false; the parser itself would not know it.
        switch = "--" + flag.removeprefix("--no-")
        if switch != flag and hints.get(switch) is bool and not equals:
            flag, equals, value = switch, "=", "false"
        element = _element_type(hints.get(flag))
        if element is not None:
            # Several values become one YAML list, since argparse could not tell where they end.
            values = [value] if equals else []
            while not equals and rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            if values:
                equals, value = "=", _as_list(values, text=element is str)
        result.append(flag + equals + value)
        if bare is not None and not equals and rest and _takes(flag, hints, rest[0]):
            result.append(rest.pop(0))
    if without_flag and _element_type(hints.get(f"--{bare}")) is None:
        if len(without_flag) > 1:
            raise argument_error(str(bare), " ".join(without_flag), "one value without a flag")
        result.append(f"--{bare}={without_flag[0]}")
    elif without_flag:
        # A comma is part of the value here, as in a path.
        result.append(f"--{bare}=[{', '.join(map(_quote, without_flag))}]")
    return result


def _check_yaml(line: Sequence[str], known: Sequence[str]) -> None:
    """Refuse files of options, and values, that would take long to read or in which something is dropped."""
    configs = [value for flag, value in pairwise([*line, ""]) if flag == "--config"]
    configs += [argument.partition("=")[2] for argument in line if argument.startswith("--config=")]
    for name in configs:
        path = as_path(name, "config")
        if not path.exists() and "\n" not in name and ":" not in name:
            raise argument_error("config", name, "a file of options in YAML")
        if path.exists() and not path.is_file():
            raise argument_error("config", name, "a file of options in YAML, no folder, device or pipe")
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise argument_error("config", name, f"a file of options of at most {_MOST_BYTES:,} bytes")
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else name
        except UnicodeDecodeError as error:
            raise argument_error("config", name, "a file of options in YAML, in UTF-8", f"{error}.") from None
        try:
            _check_bounds(f"config {name}", text)
            _check_keys(f"config {name}", text, known)
        except yaml.YAMLError as error:
            raise UsageError(f"config {name}: {' '.join(str(error).split())}") from error
    # Values are YAML too: of a mapping, say, or of a list.
    for argument in line:
        if any(sign in argument for sign in "[{&-?"):  # only these open a list or a mapping
            with contextlib.suppress(yaml.YAMLError):  # no YAML, or what its own type refuses
                _check_bounds("options", argument.partition("=")[2] or argument)


def _check_bounds(place: str, text: str) -> None:
    """Refuse YAML that is nested deeply, or in which a list or mapping can stand in many places at once."""
    # Events alone: nothing is built, however deep a text is or often an anchor repeats.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        opened = isinstance(event, yaml.CollectionStartEvent)
        depth += opened - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST or (opened and event.anchor):
            expected = f"values at most {_DEEPEST} levels deep, and no anchors"
            raise argument_error(place, f"{text[:40]}...", expected)


def _check_keys(place: str, text: str, known: Sequence[str]) -> None:
    # A loaded mapping would keep the last of two equal keys, without a word.
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        raise argument_error(place, text, "options and their values, as in `epochs: 3`")
    keys = [str(key.value) for key, _ in node.value]
    for key in keys:
        if key.split(".")[0] not in known:
            raise unknown_name_error(f"{place}: key", key, known)
        if keys.count(key) > 1:
            raise UsageError(f"{place}: {key} stands there {keys.count(key)} times. Give it once.")


def _takes(flag: str, hints: Mapping[str, Any], following: str) -> bool:
    """Whether what follows a flag is its value, which for a bare boolean only true and false can be."""
    if hints.get(flag) is bool:
        return following.lower() in ("true", "false")
    return flag != _PRINT_CONFIG and not following.startswith("--")


def _respell(flag: str, hints: Mapping[str, Any]) -> str:
    """Return the parser's spelling of a flag; the keys of a mapping, `--options.my_key`, stay as they are."""
    dashed = flag.replace("_", "-")
    if dashed == "--print-config":
        return _PRINT_CONFIG
    if dashed not in hints:
        for known in hints:
            if dashed.startswith(f"{known}."):
                return known + flag[len(known) :]
    return dashed


def _element_type(hint: Any) -> Any:
    """Return what a `tuple[X, ...]` or `list[X]` (or one of them or None) holds; None for any other hint."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [_element_type(member) for member in get_args(hint)]
        return next((member for member in members if member is not None), None)
    return get_args(hint)[0] if get_origin(hint) in (tuple, list) else None


def _as_list(values: Sequence[str], *, text: bool) -> str:
    """Write the values of one flag as the YAML that jsonargparse reads."""
    if len(values) == 1 and (values[0].lstrip().startswith("[") or values[0] == "null"):
        return values[0]
    parts = [part.strip() for value in values for part in value.split(",")]
    return f"[{', '.join(map(_quote, parts) if text else parts)}]"


def _quote(text: str) -> str:
    """Write a text as YAML."""
    return "'" + text.replace("'", "''") + "'"


def _readable(error: argparse.ArgumentError, hints: Mapping[str, Any], limited: Mapping[str, Any]) -> str:
    """Make one line of jsonargparse's message, in this project's words and without its internal keys."""
    line = " ".join(str(error).split())
    key = re.match(r'Parser key "([\w.]+)"', line)
    given = re.search(r"(?:Got|Given) value:(.*?)(?: (?:- Expected|Given value type:) .*)?$", line)
    flag = "--" + key[1].replace("_", "-") if key else ""
    if flag in hints and given:
        # Told by our own check, which knows the limits; the parser speaks of unions and validators.
        try:
            hint = limited[flag[2:].replace("-", "_")]
            check_value(flag, given[1].strip(" '\""), _element_type(hint) or hint)
        except UsageError as reason:
            return str(reason)
        expected = "values of the kind that --help shows, without control characters"
        return str(argument_error(flag, given[1].strip(), expected))
    line = re.sub(r'Parser key "([\w.]+)"', flag, line)
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", line)
    near = nearest(unknown[1], hints) if unknown else None
    return f"{line} (did you mean {near}?)" if near else line
