"""The wheel works without the source tree."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Python of an environment that has nextbar from its wheel and the libraries from ours, not its source."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", tmp_path / "dist", ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    place = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (wheel,) = (tmp_path / "dist").glob("nextbar-*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place]
    subprocess.run([*command, wheel], check=True)
    # A folder that is named in a .pth file is searched, but its own .pth files, ours among them, are not read.
    (place / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return tmp_path / "env" / "bin" / "python"


def test_the_wheel_runs_from_another_folder(installed: Path, tmp_path: Path, child_env: dict[str, str]) -> None:
    """Bars are read, a model is trained and its page is made, with the code and the templates of the wheel."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def run(*words: str) -> str:
        command = [str(installed), *words]
        ended = subprocess.run(command, cwd=folder, env=child_env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    place = run("-c", "import nextbar; print(nextbar.__file__)")
    assert Path(place.strip()).is_relative_to(tmp_path)
    run("-m", "nextbar", "ingest", "sample")
    run("-m", "nextbar", "train", "xgb", "--ticker", "AAPL", "--no-tune")
    (document,) = folder.glob("models/*_metadata.json")
    run("-m", "nextbar", "report", str(document))
    (page,) = folder.glob("models/*_report.html")
    assert "AAPL" in page.read_text()
