"""The documentation is executed: every Python block of the tutorial, of four how-to pages and of the README."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nextbar.workflows.experiments import read_experiments

pytest.importorskip("bokeh_sampledata", reason="the sample bars are an extra: demo")
ROOT = Path(__file__).parents[1]
VERDICTS = {"EDGE", "NO EDGE", "INCONCLUSIVE"}


def blocks(page: str) -> list[str]:
    """Text of the ```python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def execute(page: str) -> dict[str, Any]:
    """Run the blocks of a page in order in one namespace, as in a notebook; give the namespace."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), space)
    return space


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Blocks run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
def test_the_tutorial_is_the_whole_job_in_under_40_lines(folder: Path) -> None:
    """Bars, three models, a walk-forward, figures, a verdict, a certificate, and the run again from its files."""
    lines = [line for block in blocks("docs/tutorial.md") for line in block.splitlines() if line.strip()]
    assert len(lines) < 40
    space = execute("docs/tutorial.md")
    assert [run.document.model for run in space["runs"]] == ["rf", "xgb", "lstm"]
    assert {"model", "always_long", "constant_exposure"} <= set(space["wf"].figures.index)
    assert space["lstm"].config.target == "return"
    assert space["price"].r2_zero is not None
    assert space["judged"].verdict in VERDICTS
    assert space["certificate"].passed
    pd.testing.assert_frame_equal(space["old"].rows, space["wf"].rows)
    assert space["again"].identical
    assert space["tomorrow"].index[0] == space["bars"]["AAPL"].index[-1]
    assert space["tomorrow"]["signal"].iloc[0] in (0, 1)
    assert space["page"].stat().st_size > 100_000
    assert {path.name for path in folder.iterdir()} == {"models", "results"}


@pytest.mark.thorough
def test_own_features_are_certified() -> None:
    """A function that a notebook defines is certified, reproduced, and refused where it looks ahead."""
    space = execute("docs/how-to/own-features.md")
    assert {"return_5", "return_21", "SMA_20"} <= set(space["run"].document.features.columns)
    assert space["certificate"].passed
    assert not space["refused"].passed
    assert "tomorrow" in str(space["refused"])
    assert space["again"].identical
    assert len(space["tomorrow"]) == 1


@pytest.mark.thorough
def test_own_models_are_models() -> None:
    """A pipeline and a class that a notebook defines are trained, certified, compared, saved and loaded."""
    space = execute("docs/how-to/own-model.md")
    assert space["certificate"].passed
    assert list(space["table"].index) == ["logit", "xgb", "always_long"]
    assert space["nb"].reproduce(space["old"], space["bars"], model=space["model"]).identical
    assert space["signal"] in (0, 1)
    assert space["constant"].figures.loc["model", "balanced_accuracy"] == pytest.approx(0.5, abs=0.02)


def test_a_holdout_is_opened() -> None:
    """A walk-forward ends before the day, its opening begins with it, and the verdict says that it is the first."""
    space = execute("docs/how-to/hold-out.md")
    assert str(space["wf"].rows["date"].max().date()) < "2012-01-03"
    assert str(space["opened"].rows["date"].min().date()) == "2012-01-03"
    assert space["judged"].tries.openings == 1


def test_own_signals_are_judged(folder: Path) -> None:
    """Signals have figures, a verdict and a page, and stand beside a model."""
    space = execute("docs/how-to/own-signals.md")
    assert space["nb"].verdict(space["own"]).verdict in VERDICTS
    assert list(space["table"].index) == ["signals", "xgb", "always_long"]
    assert len(set(space["table"]["days"])) == 1
    assert (folder / "page.html").exists()


@pytest.mark.thorough
def test_the_example_of_the_readme_is_a_script(folder: Path, child_env: dict[str, str]) -> None:
    """It runs as a file, without a main guard, and prints a verdict and a passed certificate."""
    script = folder / "example.py"
    script.write_text("\n".join(blocks("README.md")))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, env=child_env, check=False)
    assert ended.returncode == 0, ended.stderr
    assert any(word in ended.stdout for word in VERDICTS)
    assert "certified: True" in ended.stdout
    assert "identical: True" in ended.stdout


def test_the_reference_names_every_option() -> None:
    """The page of commands and options is what the commands say of themselves now; the script writes it again."""
    space = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))
    assert space["PAGE"].read_text() == space["reference"]()


def test_links_lead_somewhere() -> None:
    """A relative link of a page names a file, and a heading in it where it has an anchor."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]*(?:#[^)]*)?)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_run_file_of_the_page_is_the_example(folder: Path) -> None:
    """The page shows the file in examples/, which is understood: two models times two sets of features."""
    page = (ROOT / "docs/how-to/compare-experiments.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    example = ROOT / "examples" / "levels_and_relative.toml"
    assert tomllib.loads(shown) == tomllib.loads(example.read_text(encoding="utf-8"))
    items = read_experiments(example).items
    assert [item.name for item in items] == [
        f"{model}, features {features}" for model in ("rf", "xgb") for features in ("levels", "relative")
    ]
    assert all(item.state == "to run" for item in items)


def test_the_run_file_of_own_models_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models, two of them of the file beside it, times pooled or not, times two sets of features."""
    pytest.importorskip("lightgbm")
    monkeypatch.chdir(ROOT)
    items = read_experiments(ROOT / "examples" / "own_models.toml").items
    assert len(items) == 12
    assert {item.config.model for item in items} == {"xgb", "lightgbm", "logit"}
    assert {item.model.name for item in items if item.model is not None} == {"lightgbm", "logit"}
