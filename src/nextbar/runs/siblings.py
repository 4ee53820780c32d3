"""The files of a run beside its document, which lists them with their digests: written before it, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from nextbar.errors import ArtifactError, OutputError
from nextbar.runs.document import Document, parse_json
from nextbar.runs.extend import made_digests
from nextbar.runs.files import (
    CERTIFICATE,
    MOST_BYTES,
    MOST_FILE_BYTES,
    SUFFIX,
    digest_file,
    mark_of,
    read_limited,
    remove_files,
    save_bytes,
    write_bytes,
)
from nextbar.types import JsonDict
from nextbar.untrusted import MOST_JSON_BYTES, refusing
from nextbar.words import brief


def read_siblings(
    mark: Path, stem: str, listed: Mapping[str, str], suffixes: Collection[str] | None = None
) -> dict[str, bytes]:
    """Check the digest of every file that a document lists, and read some, or all: suffix → content."""
    found = {}
    for name in _names(mark, stem, listed):
        suffix = name.removeprefix(stem)
        wanted = suffixes is None or suffix in suffixes
        content = _check(mark.with_name(name), listed[name], read=wanted)
        if wanted:
            found[suffix] = content
    return found


def check_siblings(mark: Path, stem: str, listed: Mapping[str, str]) -> None:
    """Check those files that lie beside the document."""
    for name in _names(mark, stem, listed):
        if os.path.lexists(mark.with_name(name)):
            _check(mark.with_name(name), listed[name])


def _names(mark: Path, stem: str, listed: Mapping[str, str]) -> Iterable[str]:
    """Names of the files, which are in the folder of the document and begin with the stem."""
    if not listed:
        raise ArtifactError(f"{mark} lists no files; train again")
    for name in listed:
        if not name.startswith(stem) or not SUFFIX.fullmatch(name[len(stem) :]):
            raise ArtifactError(f"{mark} lists {brief(name)}, which is not a file of this run; do not trust it")
    return listed


def _check(path: Path, digest: str, *, read: bool = False) -> bytes:
    """Refuse a file with another digest than the document says; give its content if it is to be read."""
    content = read_limited(path, MOST_BYTES.get(path.suffix, MOST_FILE_BYTES)) if read else b""
    found = hashlib.sha256(content).hexdigest() if read else digest_file(path, MOST_FILE_BYTES)
    if found != digest:
        raise ArtifactError(
            f"{path} is damaged or was changed: its sha256 is {found[:12]}…, the metadata says {digest[:12]}…; "
            "fetch it again or train again"
        )
    return content


def write_run(
    folder: Path, stem: str, files: Mapping[str, bytes], document: Document, certificates: Iterable[JsonDict] = ()
) -> Document:
    """Write `<stem><suffix>` for every file, then the document, with sha256 and path of each; return the document.

    A certificate is written after it, because it names the digest of the document.

    Without the document there is no run: an interruption leaves at most siblings that nothing lists, an error nothing.
    """
    siblings = {stem + suffix: hashlib.sha256(content).hexdigest() for suffix, content in files.items()}
    whole = msgspec.structs.replace(document, files=siblings, paths={name: f"./{name}" for name in siblings})
    contents = {**{stem + suffix: content for suffix, content in files.items()}, mark_of(stem): whole.to_json_bytes()}
    written: list[Path] = []
    try:  # one after the other: a run whose document is there is whole
        for name, content in contents.items():
            written.append(folder / name)
            write_bytes(written[-1], content)
    except BaseException as error:
        remove_files(written)
        if isinstance(error, OSError):
            raise OutputError(
                f"{written[-1]}: cannot be written ({error.strerror}); nothing of this run was kept"
            ) from error
        raise
    for certificate in certificates:
        write_certificate(folder / mark_of(stem), stem, certificate)
    return whole


class ReadsRecord(msgspec.Struct, frozen=True):
    """Whether it was looked for what a function reads without an event."""

    without_descriptors: bool = False


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a certificate: its verdict, its files, and which reads of the user's functions were checked."""

    verdict: Literal["", "PASS", "FAIL", "INCOMPLETE"] = ""
    certifies: dict[str, str] = {}
    reads: list[ReadsRecord] = []
    allow_reads: list[str] = []


def write_certificate(mark: Path, stem: str, content: JsonDict) -> Path:
    """Write a certificate beside a run, with the digest of the document that it is about."""
    _, made, _ = made_digests(mark, stem)
    path = mark.with_name(stem + CERTIFICATE)
    text = json.dumps(content | {"certifies": {mark.name: made}}, indent=1, allow_nan=False)
    save_bytes(path, text.encode(), "change its permissions")
    return path


def renew_certificate(mark: Path, stem: str) -> bool:
    """Let a certificate name the run without a refit, before that is replaced; return whether there is a certificate.

    One that names the document with its refit would be about other files then. One that is about other files, or
    damaged, stays as it is.
    """
    path = mark.with_name(stem + CERTIFICATE)
    with suppress(ArtifactError):
        found, (now, made, _) = read_certificate(mark, stem), made_digests(mark, stem)
        if found is not None and found.certifies == {mark.name: now} and now != made:
            write_certificate(mark, stem, parse_json(read_limited(path, MOST_JSON_BYTES), str(path)))
    return path.exists()


def read_certificate(mark: Path, stem: str) -> CertificateRecord | None:
    """Return what the certificate beside a run says, if there is one; without a verdict if it is about other files."""
    path = mark.with_name(stem + CERTIFICATE)
    if not (path.exists() and mark.exists()):
        return None
    with refusing(str(path)):
        found = msgspec.convert(parse_json(read_limited(path, MOST_JSON_BYTES), str(path)), CertificateRecord)
    own = any(found.certifies == {mark.name: digest} for digest in made_digests(mark, stem))
    return found if own else CertificateRecord()
