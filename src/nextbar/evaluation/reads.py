"""Try a user's feature function in a process of its own, and find what it reads besides its bars.

An audit hook hears what Python opens. Libraries in C open files without an event. Therefore the user's modules run once
more while no file can be opened, which code that reads nothing does not notice. A hook cannot be removed and a module
is imported once. Therefore this is a program, which is started for each ticker.
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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, all_suffixes
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow.util

from nextbar.datasets.assemble import build_table
from nextbar.errors import NextbarError
from nextbar.evaluation.evidence import Finding
from nextbar.evaluation.truncation import Truncation, choose_cuts, truncate
from nextbar.features.spec import FeatureSpec
from nextbar.types import FloatArray, JsonDict

try:
    import _posixsubprocess
    import resource
except ImportError:  # Windows
    _posixsubprocess = resource = None  # type: ignore[assignment]

PATHS = ("open", "os.listdir", "os.scandir", "sqlite3.connect", "ctypes.dlopen", "mmap.__new__", "nextbar.read")
"""Audit events whose first argument is a path or a file descriptor."""
OTHERS: Mapping[str, int] = {
    "socket.connect": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "urllib.Request": 0,
    "subprocess.Popen": 0,
    "os.system": 0,
    "os.exec": 0,
    "os.posix_spawn": 0,
    "os.spawn": 1,
    "os.startfile": 0,
    "os.fork": 0,
    "os.forkpty": 0,
    "nextbar.process": 0,
}
"""Other audit events by which data can come in, and the argument that says from where; a fork has no argument."""
SYSTEM = ("/etc", "/lib", "/lib64", "/proc", "/sys", "/usr/lib", "/usr/lib64", "/usr/share", *zoneinfo.TZPATH)
"""Folders in which libraries look for the machine's settings, certificates and time zones."""
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """One ticker, on which a user's function is tried.

    Attributes:
        ticker: Its name.
        frame: Its bars.
        spec: The features.
        max_gap_days: As in the configuration.
        seconds: Most time for the calls.
        reads_allowed: Something may be read: then the function is not run without file descriptors.
        path: Folders in which the parent finds modules, without the working folder.
    """

    ticker: str
    frame: pd.DataFrame
    spec: FeatureSpec
    max_gap_days: int
    seconds: float
    reads_allowed: bool
    path: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a user's function reads besides its bars, also while its module is imported.

    Attributes:
        ticker: On whose bars it was tried.
        names: Paths, addresses and programs, by their audit events.
        without_descriptors: Whether it was also run without a free file descriptor.
        hidden: What went wrong then: it opens something without an event. None if nothing did.
    """

    ticker: str
    names: Sequence[str] = ()
    without_descriptors: bool = False
    hidden: str | None = None

    def finding(self, allowed: Sequence[str]) -> Finding:
        """For the certificate.

        Args:
            allowed: Files and folders that may be read.
        """
        refused = [name for name in self.names if name not in allowed and not is_inside(name, _places(allowed))]
        note = "" if self.without_descriptors else "what is read without an event was not looked for"
        if refused:
            more = f" and {len(refused) - NAMES_SHOWN} more" if len(refused) > NAMES_SHOWN else ""
            names = ", ".join(refused[:NAMES_SHOWN]) + more
            note = f"the function reads {names}; that may hold the future: if it does not, use --allow-reads"
        elif self.hidden is not None:
            note = (
                f"the function opens something unheard; when no file can be opened it {self.hidden}; see --allow-reads"
            )
        column = "reads" if refused or self.hidden is not None else None
        return Finding(part="reads", stage="features", ticker=self.ticker, rows=1, column=column, note=note)


def main() -> None:
    """Do the job that lies in the folder of the command line as ``job`` and leave the answer there as ``answer``."""
    folder = Path(sys.argv[1])
    job: Job = pickle.loads((folder / "job").read_bytes())  # noqa: S301 - written by our own parent a moment ago
    if hasattr(signal, "alarm"):  # a parent that was killed cannot end us
        signal.alarm(int(job.seconds) + 2 * GRACE)
    sys.path[:] = job.path
    truncation, reads = attempt(job)
    answer = json.dumps({"truncation": asdict(truncation), "reads": asdict(reads)}, allow_nan=False)
    (folder / "part").write_text(answer, encoding="utf-8")
    (folder / "part").rename(folder / "answer")
    os._exit(0)  # the user's threads and exit handlers have nothing more to say


def answer_of(answer: bytes) -> tuple[Truncation, Reads]:
    """What `main` wrote."""
    told: JsonDict = json.loads(answer)
    return Truncation(**told["truncation"]), Reads(**told["reads"])


def attempt(job: Job) -> tuple[Truncation, Reads]:
    """Leave bars out while the hook listens, then run once more without file descriptors."""
    assert job.spec.function is not None
    before = set(sys.modules)
    hook = Hook()
    announce_arrow()
    announce_processes()
    sys.addaudithook(hook)
    try:
        cuts = choose_cuts(job.frame, job.spec.warmup)
        truncation, table = truncate(job.ticker, job.frame, job.spec, job.max_gap_days, cuts=cuts, seconds=job.seconds)
    except (Exception, SystemExit) as error:
        return Truncation(ticker=job.ticker, reason=_told(error)), Reads(ticker=job.ticker, names=hook.names)
    if hook.names or job.reads_allowed or resource is None:
        return truncation, Reads(ticker=job.ticker, names=hook.names)
    again = _Again(own_modules(set(sys.modules) - before, job.spec.function.partition(":")[0]))
    # Only a run that can open files tells that it is for want of descriptors that the next one goes wrong.
    control = again.differs(job, table.features)
    with hook.no_descriptors():
        hidden = again.differs(job, table.features)
    if control is not None or hidden == NO_FILE:
        return truncation, Reads(ticker=job.ticker, names=hook.names)
    return truncation, Reads(ticker=job.ticker, names=hook.names, without_descriptors=True, hidden=hidden)


class Hook:
    """Hears what is read.

    Attributes:
        names: All that was.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._folders = installation()
        self._starving = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what is read; let what is no read be opened also while nothing else can be."""
        if event in OTHERS:
            told = " ".join([event, *map(_text, arguments[OTHERS[event] :][:1])])
            if told not in MACHINE:
                self._note(told)
        elif event in PATHS:
            name, caller = name_of(event, arguments), str(sys._getframe(1).f_globals.get("__name__"))
            if name is not None and not is_inside(name, self._folders) and not is_import(event, name, caller):
                self._note(name)
            elif self._starving:  # it may: until the caller goes on
                _limit(self._soft)
                sys.setprofile(lambda *_: self._starve())

    def _note(self, name: str) -> None:
        if name not in self.names:
            self.names.append(name)

    @contextmanager
    def no_descriptors(self) -> Iterator[None]:
        """In the block nothing can be opened but what is no read; what is open stays open."""
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
    """Let no descriptor be opened from this number on."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def announce_arrow() -> None:
    """Have Arrow's readers raise `nextbar.read`: they, and `pandas.read_parquet`, open files in C++ without an event.

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
    """Have multiprocessing raise `nextbar.process`: it starts processes, which read on their own, without an event."""
    start: Any = getattr(_posixsubprocess, "fork_exec", None)

    def announced(command: Sequence[Any], *rest: Any) -> Any:
        if not any("resource_tracker" in _text(part) for part in command):
            sys.audit("nextbar.process", command[0])
        return start(command, *rest)

    if start is not None:
        _posixsubprocess.fork_exec = announced  # type: ignore[assignment]


def name_of(event: str, arguments: tuple[Any, ...]) -> str | None:
    """What is read: a path or a URL; None where nothing is that was there before."""
    value = arguments[0]
    if event == "open" and (isinstance(value, int) or _is_new(arguments[2])):
        return None  # a descriptor has had an event already
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
    """Name of an open file; none is mapped where there is no descriptor."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()) if descriptor >= 0 else None
    except OSError:  # not Linux
        return f"descriptor {descriptor}"


def _is_new(flags: int) -> bool:
    """Whether a file is opened for writing alone, made, or emptied."""
    return flags & os.O_ACCMODE == os.O_WRONLY or bool(flags & (os.O_TRUNC | os.O_EXCL))


def is_import(event: str, name: str, caller: str) -> bool:
    """Whether Python looks for code, or shows a line of it, or asks which packages there are."""
    path = Path(name)
    if path.parent.suffix in (".dist-info", ".egg-info"):
        return True
    return caller.partition(".")[0] in IMPORTERS and (event != "open" or path.suffix in all_suffixes())


def is_inside(name: str, folders: Iterable[str]) -> bool:
    """Whether a path, as it is written or behind its links, is one of some places or lies in it."""
    written = Path(name)
    real = written.resolve()
    return written.is_absolute() and any(each.is_relative_to(folder) for folder in folders for each in (written, real))


def _places(paths: Iterable[str]) -> list[str]:
    """Paths as they are written, made absolute, and behind their links."""
    return [
        str(each) for path in paths for each in (Path(os.path.normpath(Path(path).absolute())), Path(path).resolve())
    ]


def installation() -> list[str]:
    """Folders of Python, of the packages installed in it, and of the system."""
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages(), *SYSTEM]
    for prefix in {sys.prefix, sys.base_prefix}:  # not the whole of it: /usr may hold /usr/src/app
        found += [str(Path(prefix) / name) for name in ("lib", "lib64", "share", "etc", "DLLs")]
    return _places(found)


def own_modules(imported: Collection[str], function_module: str) -> dict[str, ModuleType]:
    """The user's modules among those imported: the function's package, and what is not installed."""
    folders, package = installation(), function_module.partition(".")[0]
    found = {}
    for name in imported:
        origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) or ""
        own = name.partition(".")[0] == package or not is_inside(origin, folders)
        if origin.endswith(".py") and own and name.partition(".")[0] != "nextbar":
            found[name] = sys.modules[name]
    return found


class _Again(Loader, MetaPathFinder):
    """Imports the user's modules again from the code that they had, without opening a file."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._specs = {name: module.__spec__ for name, module in modules.items() if module.__spec__ is not None}
        self._code: dict[str, CodeType] = {
            name: spec.loader.get_code(name)  # type: ignore[union-attr]
            for name, spec in self._specs.items()
            if hasattr(spec.loader, "get_code")
        }
        sys.meta_path.insert(0, self)

    def differs(self, job: Job, features: FloatArray) -> str | None:
        """What the function does otherwise when its modules are new; None if nothing."""
        for name in self._code:
            sys.modules.pop(name, None)
        try:
            table = build_table(job.ticker, job.frame, job.spec, job.max_gap_days)
        except (Exception, SystemExit) as error:
            return NO_FILE if str(error.__cause__ or error) == NO_FILE else f"raises {_told(error)}"
        return None if np.array_equal(table.features, features, equal_nan=True) else "returns other values"

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name not in self._code:
            return None
        was = self._specs[name]
        places = was.submodule_search_locations
        return spec_from_file_location(name, was.origin, loader=self, submodule_search_locations=places)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code[module.__name__], module.__dict__)  # noqa: S102 - the user's module, as an import runs it


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, NextbarError) else f"{type(error).__name__}: {error}"


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)
