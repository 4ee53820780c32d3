"""What killed processes leave behind is swept by the next one; what lives stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nextbar.execution.worker import scratch
from nextbar.leftovers import owner
from nextbar.runs.files import reserve_timestamp, writable_folder

LEAVE = """
import os, signal, sys
from pathlib import Path
from nextbar.runs.files import reserve_timestamp, writable_folder
from nextbar.runs.files import write_bytes
from nextbar.execution.worker import scratch
from nextbar.leftovers import owner

folder = writable_folder(sys.argv[1])
with reserve_timestamp(folder) as stamp, scratch() as shared:
    (Path(shared) / "shared.pickle").write_bytes(b"bars")
    (folder / f".lstm_{stamp}.{owner()}.checkpoint.keras").touch()
    os.fsync = lambda _file: os.kill(os.getpid(), signal.SIGKILL)
    write_bytes(folder / "model.json", b"trees")
"""


@pytest.mark.skipif(os.name == "nt", reason="asks a POSIX system")
def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock, checkpoint, temporary file and the bars of a killed run go at the next start; another run's stay."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = tmp_path / "models"
    done = subprocess.run([sys.executable, "-c", LEAVE, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 3
    (shared,) = tmp_path.glob("nextbar-*")
    mine = [folder / f".x.{owner()}.tmp", folder / ".unknown", folder / f".{'0' * 8}-1.tmp"]
    for path in mine:
        path.touch()
    with reserve_timestamp(writable_folder(folder)) as stamp, scratch() as own:
        assert {path.name for path in folder.iterdir()} == {f".{stamp}.lock", *(path.name for path in mine)}
        writable_folder(folder)
        with scratch():
            assert Path(own).exists()
        assert (folder / f".{stamp}.lock").exists()
    assert not shared.exists()
