"""Try a user's feature function in its own process, and find what it reads besides its bars.

An audit hook sees what Python opens. Libraries in C open files without an event, so the user's modules run once more
while no file can be opened, which makes no difference to code that reads nothing. This is a program, started for each
ticker, because a hook cannot be removed and a module is imported once.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import site
import sys
import sysconfig
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, all_suffixes
from importlib.util import spec_from_file_location
from itertools import islice
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.util

from nextbar.errors import NextbarError
from nextbar.evaluation.stages import Finding, digest_table
from nextbar.evaluation.truncation import Source, Truncation, truncate
from nextbar.features.spec import name_of as feature_name

try:
    import _posixsubprocess
    import resource
except ImportError:  # Windows
    _posixsubprocess = resource = None  # type: ignore[assignment]

PATHS = ("open", "os.listdir", "os.scandir", "sqlite3.connect", "ctypes.dlopen", "mmap.__new__", "nextbar.read")
"""Audit events whose first argument is a path or a file descriptor."""
ELSEWHERE = ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.send", "urllib.Request")
PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "subprocess.Popen")
OTHERS = (*ELSEWHERE, *PROCESSES, "nextbar.process")
"""How the names of other audit events begin by which data come in; an argument names an address or a program."""
SYSTEM = ("/etc", "/lib", "/lib64", "/proc", "/sys", "/usr/lib", "/usr/lib64", "/usr/share", *zoneinfo.TZPATH)
"""Folders of the machine's settings, certificates and time zones."""
MACHINE = ("subprocess.Popen uname", "subprocess.Popen /sbin/ldconfig")
"""What libraries run to learn about the machine."""
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom", "/dev/tty")
IMPORTERS = ("importlib", "_frozen_importlib_external", "zipimport", "pkg_resources", "linecache", "tokenize")
"""Modules that list folders and read code, to import it or to show a line of it."""
GRACE = 60
"""Seconds that the process may take longer than the calls before its last: to start, and for the last."""
NAMES_SHOWN = 3
NO_FILE = str(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
"""Error for want of descriptors that names no file: it is a pipe or a semaphore, which pools of threads need."""


VARIABLE = "data in the variable "
"""Stands before the name of a variable; a parameter's default has its number for a name."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a user's function reads besides its bars, also while its module is imported.

    Attributes:
        names: Paths, addresses and programs, by their audit events.
        held: Its variables that hold data, see `nextbar.evaluation.held`.
        without_descriptors: Whether it was also run without a free file descriptor.
        hidden: What went wrong then, because it opens something without an event; None if nothing did.
    """

    ticker: str
    names: Sequence[str] = ()
    held: Sequence[str] = ()
    without_descriptors: bool = False
    hidden: str | None = None

    def finding(self, allowed: Sequence[str]) -> Finding:
        """Return the finding for the certificate; ``allowed`` are files, folders and variables that may be read."""
        refused = [name for name in self.names if name not in allowed and not is_inside(name, _places(allowed))]
        refused += [VARIABLE + name for name in self.held if name not in allowed]
        note = "" if self.without_descriptors else "what is read without an event was not looked for"
        if refused:
            more = f" and {len(refused) - NAMES_SHOWN} more" if len(refused) > NAMES_SHOWN else ""
            names = ", ".join(refused[:NAMES_SHOWN]) + more
            typed = json.dumps([name.removeprefix(VARIABLE) for name in refused[:NAMES_SHOWN]], ensure_ascii=False)
            note = (
                f"the function reads {names}; that may hold the future: if it does not, use --allow-reads, in Python "
                f"allow_reads={typed}"
            )
        elif self.hidden is not None:
            note = (
                "the function opens something that Python does not report; when no file can be opened it "
                f"{self.hidden}; see --allow-reads"
            )
        column = "reads" if refused or self.hidden is not None else None
        return Finding(part="reads", stage="features", ticker=self.ticker, rows=1, column=column, note=note)


def main() -> None:
    """Do the job in the folder that the command line names: read ``job``, write ``answer``."""
    folder = Path(sys.argv[1])
    source, seconds, reads_allowed, path = pickle.loads((folder / "job").read_bytes())  # noqa: S301 - of our parent
    if hasattr(signal, "alarm"):  # a parent that was killed cannot end us
        signal.alarm(int(seconds) + 2 * GRACE)
    sys.path[:] = path
    answer = [asdict(each) for each in attempt(source, seconds, reads_allowed=reads_allowed)]
    (folder / "part").write_text(json.dumps(answer, allow_nan=False), encoding="utf-8")
    (folder / "part").rename(folder / "answer")
    os._exit(0)  # without the user's threads and exit handlers


def answer_of(answer: bytes) -> tuple[Truncation, Reads]:
    """Read what `main` wrote."""
    truncation, read = json.loads(answer)
    return Truncation(**truncation), Reads(**read)


def attempt(source: Source, seconds: float, *, reads_allowed: bool) -> tuple[Truncation, Reads]:
    """Leave bars out while the hook is there, then run once more without file descriptors.

    Where something may be read, or was, the second run says nothing new.
    """
    before, hook = set(sys.modules), Hook()
    announce_arrow()
    announce_processes()
    sys.addaudithook(hook)
    try:
        truncation = truncate(source, seconds=seconds)
    except (Exception, SystemExit) as error:
        return Truncation(ticker=source.ticker, reason=_message(error)), Reads(ticker=source.ticker, names=hook.names)
    seen = Reads(ticker=source.ticker, names=hook.names)
    if hook.names or reads_allowed or resource is None:
        return truncation, seen
    packages = {feature_name(function).partition(":")[0] for function in source.functions}
    again = _Again(own_modules(set(sys.modules) - before, packages))
    # Only where a run that can open files is as before, it is for want of descriptors that the next one is not.
    control = again.differs(source, truncation.features)
    with hook.no_descriptors():
        hidden = again.differs(source, truncation.features)
    if control is not None or hidden == NO_FILE:
        return truncation, seen
    return truncation, replace(seen, without_descriptors=True, hidden=hidden)


class Hook:
    """Note the ``names`` of all that is read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._folders = installation()
        self._starving = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what is read; what is no read may be opened even while nothing else can be."""
        if event.startswith(OTHERS):
            named = (each for each in arguments if isinstance(each, str | bytes | tuple | os.PathLike))
            name = " ".join([event, *map(_text, islice(named, 1))])
            if name not in MACHINE:
                self._note(name)
        elif event in PATHS:
            path, caller = name_of(event, arguments), str(sys._getframe(1).f_globals.get("__name__"))
            if path is not None and not is_inside(path, self._folders) and not is_import(event, path, caller):
                self._note(path)
            elif self._starving:  # it may: until the caller goes on
                _limit(self._soft)
                sys.setprofile(lambda *_: self._starve())

    def _note(self, name: str) -> None:
        if name not in self.names:
            self.names.append(name)

    @contextmanager
    def no_descriptors(self) -> Iterator[None]:
        """Let nothing be opened in the block but what is no read; what is open stays open."""
        self._soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._starving = True
        self._starve()
        try:
            yield
        finally:
            self._starving = False
            sys.setprofile(None)
            _limit(self._soft)

    def _starve(self) -> None:
        if self._starving:
            sys.setprofile(None)
            _limit(0)


def _limit(descriptors: int) -> None:
    """Forbid descriptors from this number on."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def announce_arrow() -> None:
    """Make Arrow's readers raise `nextbar.read`: they, and `pandas.read_parquet`, open files in C++ without an event.

    The paths of all but ``memory_map``, ``OSFile`` and ``LocalFileSystem`` go through one function.
    """
    whole: Any = getattr(pyarrow.util, "_stringify_path", None)

    def announced(path: Any) -> Any:
        sys.audit("nextbar.read", path)
        return whole(path)

    for module in list(sys.modules.values()):
        if whole is not None and getattr(module, "_stringify_path", None) is whole:
            module._stringify_path = announced  # type: ignore[attr-defined]


def announce_processes() -> None:
    """Make multiprocessing raise `nextbar.process`: it starts processes, which read on their own, without an event."""
    start: Any = getattr(_posixsubprocess, "fork_exec", None)

    def announced(command: Sequence[Any], *rest: Any) -> Any:
        if not any("resource_tracker" in _text(part) for part in command):
            sys.audit("nextbar.process", command[0])
        return start(command, *rest)

    if start is not None:
        _posixsubprocess.fork_exec = announced  # type: ignore[assignment]


def name_of(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the path or URL that is read; None where nothing is read that was there before."""
    value = arguments[0]
    if event == "open":
        flags = arguments[2]
        written = flags & os.O_ACCMODE == os.O_WRONLY or flags & (os.O_TRUNC | os.O_EXCL)
        if written or isinstance(value, int):  # a descriptor has had an event already
            return None
    if isinstance(value, int):
        return _file_of(value)
    if value is None:
        return None if event == "ctypes.dlopen" else str(Path.cwd())
    text = _text(value)
    if text.startswith("file:"):
        text = unquote(urlsplit(text).path)
    if text in ("", ":memory:", *DEVICES) or (event == "ctypes.dlopen" and Path(text).name == text):
        return None
    return text if "://" in text else os.path.normpath(Path(text).absolute())


def _file_of(descriptor: int) -> str | None:
    """Return the name of an open file; None for a negative descriptor, which maps no file."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()) if descriptor >= 0 else None
    except OSError:  # not Linux
        return f"descriptor {descriptor}"


def is_import(event: str, name: str, caller: str) -> bool:
    """Say whether Python looks for code, shows a line of it, or asks which packages there are."""
    path = Path(name)
    if path.parent.suffix in (".dist-info", ".egg-info"):
        return True
    return caller.partition(".")[0] in IMPORTERS and (event != "open" or path.suffix in all_suffixes())


def is_inside(name: str, folders: Iterable[str]) -> bool:
    """Say whether a path, as it is written or behind its links, is one of these places or inside one."""
    written = Path(name)
    real = written.resolve()
    return written.is_absolute() and any(each.is_relative_to(folder) for folder in folders for each in (written, real))


def _places(paths: Iterable[str]) -> list[str]:
    """Return paths as they are written, made absolute, and behind their links."""
    return [
        str(each) for path in paths for each in (Path(os.path.normpath(Path(path).absolute())), Path(path).resolve())
    ]


def installation() -> list[str]:
    """Return the folders of Python, of the packages installed in it, and of the system."""
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages(), *SYSTEM]
    for prefix in {sys.prefix, sys.base_prefix}:  # not the whole of it: /usr may hold /usr/src/app
        found += [str(Path(prefix) / name) for name in ("lib", "lib64", "share", "etc", "DLLs")]
    return _places(found)


def own_modules(imported: Iterable[str], functions: Iterable[str]) -> dict[str, ModuleSpec]:
    """Return the user's modules among those imported: the packages of the functions, and what is not installed."""
    folders, packages = installation(), {module.partition(".")[0] for module in functions}
    found = {}
    for name in imported:
        spec, package = getattr(sys.modules.get(name), "__spec__", None), name.partition(".")[0]
        own = package in packages or not is_inside(getattr(spec, "origin", None) or "", folders)
        if spec and (spec.origin or "").endswith(".py") and own and package != "nextbar":
            found[name] = spec
    return found


class _Again(Loader, MetaPathFinder):
    """Import the user's modules again from the code that they had, without opening a file."""

    def __init__(self, specs: Mapping[str, ModuleSpec]) -> None:
        self._specs = {name: spec for name, spec in specs.items() if hasattr(spec.loader, "get_code")}
        self._code: dict[str, CodeType] = {
            name: spec.loader.get_code(name)  # type: ignore[union-attr]
            for name, spec in self._specs.items()
        }
        sys.meta_path.insert(0, self)

    def differs(self, source: Source, features: str | None) -> str | None:
        """Say what the function does otherwise when its modules are new; None if nothing."""
        for name in self._code:
            sys.modules.pop(name, None)
        try:
            digest = digest_table(source.evidence())
        except (Exception, SystemExit) as error:
            return NO_FILE if str(error.__cause__ or error) == NO_FILE else f"raises {_message(error)}"
        return None if digest == features else "returns other values"

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name not in self._code:
            return None
        was = self._specs[name]
        places = was.submodule_search_locations
        return spec_from_file_location(name, was.origin, loader=self, submodule_search_locations=places)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code[module.__name__], module.__dict__)  # noqa: S102 - the user's module, as an import runs it


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, NextbarError) else f"{type(error).__name__}: {error}"


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)
