"""Registries, one per kind of thing that people add (data sets, models, measures ...), and code by its name.

An entry is a frozen dataclass: its name, a factory and its facts. It comes from one of three places:

1. Veridical's own table, or `Registry.register` in this process.
2. An installed package, through an entry point of the registry's group, whose object is an entry::

       [project.entry-points."veridical.models"]
       my-net = "my_package.nets:ENTRY"

3. "package.module:callable", which the registry wraps in an entry; it needs trust_code (--trust-code).
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from veridical.runtime.errors import UsageError, argument_error, unknown_name_error

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

TRUST_HINT = "Foreign code runs only with trust_code (--trust-code)."


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


class Registry(Generic[Entry]):
    """Entries by name; iterating gives the names, and only `get` imports what an entry point names.

    kind: what one entry is called, and the argument that messages name. group: of the entry points.
    wrap: makes an entry of a spec "package.module:callable" and its callable, which has to take the arguments
    `positional` and `named`; None: this kind has no such names. hint, more: of the error for an unknown name,
    see `unknown_name_error`.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        entry_type: type[Entry],
        entries: Iterable[Entry] = (),
        *,
        wrap: Callable[[str, Callable[..., Any]], Entry] | None = None,
        positional: Sequence[str] = (),
        named: Sequence[str] = (),
        hint: str = "",
        more: str = "",
    ) -> None:
        self.kind, self.group, self.entry_type = kind, group, entry_type
        self._wrap, self._positional, self._named = wrap, positional, named
        self._hint, self._more = hint, more
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            self.register(entry)

    def register(self, entry: Entry) -> Entry:
        """Add an entry for this process (not for its workers) and return it; its name must be free."""
        if not isinstance(entry, self.entry_type):
            raise argument_error(self.kind, entry, f"a {self.entry_type.__name__}")
        if entry.name in self._entries:
            raise argument_error(self.kind, entry.name, "a name that is not taken")
        if not entry.name or ":" in entry.name:
            raise argument_error(self.kind, entry.name, "a name without a colon")
        self._entries[entry.name] = entry
        return entry

    @contextmanager
    def registered(self, entry: Entry) -> Iterator[Entry]:
        """As `register`, while the block lasts: for what exists in this process's memory alone."""
        self.register(entry)  # one that is refused takes nothing away
        try:
            yield entry
        finally:
            del self._entries[entry.name]

    def names(self) -> tuple[str, ...]:
        """All names: the registered ones in their order, then those of installed packages."""
        return (*self._entries, *sorted(self._plugins.keys() - self._entries.keys()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plugins

    def entries(self) -> list[Entry]:
        """All entries in the order of `names`; a package's that is broken is left out with a warning."""
        result = []
        for name in self:
            try:
                result.append(self.get(name))
            except UsageError as error:
                warnings.warn(str(error), stacklevel=2)
        return result

    def get(self, name: str, *, trust_code: bool = False, argument: str = "") -> Entry:
        """The entry of a name or, with trust_code, of "package.module:callable".

        argument: what the name was given for, where that is not `kind`. Raises UsageError for a name that
        nobody has, which suggests the nearest, for a package's entry that is broken, and for code that is
        not trusted or not of the form.
        """
        argument = argument or self.kind
        # Our own first: a package can add names, not change what ours mean, nor slow them down.
        if name in self._entries:
            return self._entries[name]
        if name in self._plugins:
            return self._load(argument, name)
        if self._wrap is not None and ":" in name:
            function = import_trusted(
                argument, name, trust_code=trust_code, positional=self._positional, named=self._named
            )
            return self._wrap(name, function)
        raise self.unknown_error(name, argument)

    def unknown_error(self, name: object, argument: str = "") -> UsageError:
        """Build (not raise) the error for a name that is none of these."""
        more = self._more + (" or package.module:callable" if self._wrap is not None else "")
        return unknown_name_error(argument or self.kind, name, self, self._hint, more=more)

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        """The entry points of the group by name; read once, when a name is asked for that is not ours."""
        from importlib.metadata import entry_points

        points: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            points.setdefault(point.name, []).append(point)
        return points

    def _load(self, argument: str, name: str) -> Entry:
        points = self._plugins[name]
        packages = " and ".join(sorted({point.dist.name if point.dist else "?" for point in points}))
        if len({point.value for point in points}) > 1:
            raise UsageError(f"{argument}: {name} is ambiguous: {packages} each bring one along.")
        try:
            entry = points[0].load()
        except Exception as error:  # whatever the package's own code raises
            raise UsageError(
                f"{argument}: {name} of the installed package {packages} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(entry, self.entry_type) or entry.name != name:
            expected = f"a {self.entry_type.__name__} of that name behind {points[0].value} ({packages})"
            raise argument_error(f"{argument} {name}", entry, expected)
        return entry


def load_factory(factory: str | Callable[..., Any]) -> Callable[..., Any]:
    """The factory of an entry, imported now if it is given as "package.module:attribute"."""
    if callable(factory):
        return factory
    imported: Callable[..., Any] = import_named("factory", factory, "a name that the module has")
    return imported


def import_named(argument: str, name: str, expected: str) -> Any:
    """Import what "package.module:attribute" names; it was given for `argument`.

    Whether that code is trusted is for the caller to ask first. Raises UsageError where the module cannot be
    imported, or does not have `expected`, in words.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ModuleNotFoundError, TypeError, ValueError) as error:  # the others: a relative name
        raise UsageError(
            f"{argument}: {name} cannot be imported here ({error}). Put its module where Python looks for "
            "modules (PYTHONPATH), on every machine that takes part."
        ) from error
    except AttributeError:
        raise argument_error(argument, name, expected) from None
    except Exception as error:  # whatever the module's own code raises
        raise UsageError(f"{argument}: {name} cannot be imported: {type(error).__name__}: {error}") from error


def import_extra(module: str, extra: str) -> Any:
    """Import an optional library; a UsageError that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} is not installed ({error}): pip install 'veridical[{extra}]'.") from error


def import_trusted(
    argument: str,
    spec: str,
    *,
    trust_code: bool,
    positional: Sequence[str] | None = (),
    named: Sequence[str] = (),
) -> Callable[..., Any]:
    """Import the callable "package.module:name", given for `argument`, if its code is trusted.

    positional, named: the arguments that it has to take; None for positional are any. Raises UsageError where
    the code is not trusted, cannot be imported, or is no callable of that form.
    """
    module, colon, attribute = spec.partition(":")
    if not (module and colon and attribute):
        raise argument_error(argument, spec, 'a name of the form "package.module:callable"')
    if not trust_code:
        raise argument_error(argument, spec, "a name that Veridical knows", TRUST_HINT)
    function = import_named(argument, spec, f"a name that {module} has")
    if not callable(function):
        raise argument_error(argument, spec, f"a callable; it is a {type(function).__name__}")
    if positional is not None:
        check_signature(argument, spec, function, positional, named)
    return function  # type: ignore[no-any-return]


def check_signature(
    argument: str,
    spec: str,
    function: Callable[..., Any],
    positional: Sequence[str] = (),
    named: Sequence[str] = (),
) -> None:
    """Raise a UsageError unless the callable takes these arguments."""
    try:
        inspect.signature(function).bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        form = ", ".join([*positional, *(f"{one}=..." for one in named)])
        raise argument_error(argument, spec, f"a callable that is called as ({form})", f"{error}.") from None
    except ValueError:
        pass  # a builtin whose parameters Python cannot tell


def source_digest(code: object) -> str | None:
    """SHA-256 of the source of a function, a class or an object's class; None where there is no source."""
    subject = code if inspect.isroutine(code) or inspect.isclass(code) else type(code)
    try:
        return hashlib.sha256(inspect.getsource(subject).encode()).hexdigest()
    except (OSError, TypeError):
        return None
