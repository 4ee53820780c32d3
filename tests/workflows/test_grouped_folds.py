"""On an accelerator the folds of a walk-forward are trained in one program. Here it runs on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from nextbar.config import WalkForwardConfig
from nextbar.errors import ArtifactError
from nextbar.evaluation.group import FoldGroup, run_group
from nextbar.evaluation.walkforward import FoldResult
from nextbar.execution.worker import has_accelerator
from nextbar.runs.document import Document
from nextbar.runs.fit import Group
from nextbar.types import Silent
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.reproduce import reproduce
from nextbar.workflows.training import Experiment, groups_of, make_plan
from nextbar.workflows.universe import load_universe
from nextbar.workflows.walkforward import WalkForwardResult, walk

OPTIONS: dict[str, Any] = {
    "model": "lstm",
    "ticker": "AAA,BBB",
    "train_years": 1,
    "val_months": 3,
    "test_months": 3,
    "step_months": 6,
    "warmup": 60,
    "sequence_length": 8,
    "epochs": 2,
    "batch_size": 128,
    "ensemble": 2,
}


pytestmark = pytest.mark.usefixtures("inline_module")


def experiment_of(db: Path, **options: Any) -> Experiment:
    config = WalkForwardConfig(**{**OPTIONS, "db": str(db), **options})
    return Experiment.of(config, load_universe(config))


@pytest.fixture(scope="module")
def one_by_one(market_db: Path) -> WalkForwardResult:
    return walk(replace(experiment_of(market_db), accelerated=False), Silent())


@pytest.fixture(scope="module")
def together(market_db: Path) -> WalkForwardResult:
    return walk(replace(experiment_of(market_db), accelerated=True), Silent())


def losses(document: Document) -> np.ndarray:
    """[fits, networks, epochs, 2] losses on train and validation."""
    return np.array(
        [
            [[(epoch["loss"], epoch["val_loss"]) for epoch in one["history"]] for one in fit.details["networks"]]
            for _, fit in document.fits
        ]
    )


def test_the_result_is_that_of_one_fold_at_a_time(one_by_one: Any, together: Any) -> None:
    """The same folds, days and losses, to the tolerance of floats; every other stage has the same digest."""
    alone, grouped = one_by_one.document, together.document
    np.testing.assert_allclose(losses(grouped), losses(alone), rtol=1e-3)
    one, other = one_by_one.run.rows, together.run.rows
    same = ["date", "ticker", "fold", "next_return"]
    pd.testing.assert_frame_equal(one[same], other[same])
    np.testing.assert_allclose(one["predicted_close"], other["predicted_close"], rtol=1e-3)
    for (_, ours), (_, theirs) in zip(alone.fits, grouped.fits, strict=True):
        stages = ("bars", "features", "splits", "scalers", "params")
        assert [ours.digests[name] for name in stages] == [theirs.digests[name] for name in stages]


def test_device_and_group_are_recorded(one_by_one: Any, together: Any) -> None:
    """Each fit says on which device, with how many networks and with which folds it was trained; alone it says none."""
    folds = [number for number, _ in together.document.fits]
    assert len(folds) > 1
    expected = Group(device="cpu", networks=2 * len(folds), folds=folds)
    assert [fit.group for _, fit in together.document.fits] == [expected] * len(folds)
    assert all(fit.group is None for _, fit in one_by_one.document.fits)


@pytest.mark.thorough
def test_a_group_is_reproduced_and_certified_as_it_was(together: Any, market_db: Path, tmp_path: Path) -> None:
    """Training again uses the recorded group, and gives the same bits; a certificate does not take it for another."""
    run = together.run.write(tmp_path, "20260102_030405", everything=False)
    assert reproduce(run.mark, Silent(), db=str(market_db)).identical
    (certificate,) = certify_runs([run.mark], Silent(), db=str(market_db))
    assert certificate.passed, certificate.failures


@pytest.mark.parametrize(
    "group",
    [
        Group(device="cpu", networks=10**9, folds=[0, 1]),
        Group(device="cpu", networks=2, folds=[0, 0]),
        Group(device="cpu", networks=2, folds=[0, 1, 7]),
        Group(device="cpu", networks=2, folds=[]),
    ],
    ids=["too many networks", "a fold twice", "a fold that is not there", "no fold"],
)
def test_a_group_that_cannot_be_is_refused(group: Group, together: Any, market_db: Path) -> None:
    """A file that names other folds than it has, or more networks than it can have, is refused before anything runs."""
    experiment = experiment_of(market_db)
    tasks = make_plan(experiment).tasks[:2]
    fold = together.document.folds[0]
    fits = [msgspec.structs.replace(fold.tasks[0], group=group) for _ in tasks]
    folds = [msgspec.structs.replace(fold, number=number, tasks=[fit]) for number, fit in enumerate(fits)]
    document = msgspec.structs.replace(together.document, folds=folds)
    with pytest.raises(ArtifactError, match="do not trust it"):
        groups_of(document, experiment.model, tasks)


@pytest.mark.thorough
def test_a_fold_that_cannot_be_trained_leaves_the_others(market_db: Path) -> None:
    """Its reason stands in its place, and the group trains without it."""
    experiment = experiment_of(market_db, epochs=1, ensemble=1)
    first, second = make_plan(experiment).tasks[:2]
    broken = replace(first, borders={name: replace(own, val=own.train + 1) for name, own in first.borders.items()})
    told, found = run_group(FoldGroup(tasks=[broken, second]), experiment.universe.bars, lambda _line: None)
    assert isinstance(told, str)
    assert "no usable row in train" in told
    assert isinstance(found, FoldResult)
    assert found.facts["group"]["folds"] == [second.fold]


@pytest.mark.parametrize(
    ("options", "grouped"),
    [({}, True), ({"model": "xgb"}, False), ({"engine": "dask", "scheduler": "tcp://there:1"}, False)],
    ids=["lstm", "xgb", "foreign workers"],
)
def test_only_networks_on_our_own_device_are_grouped(options: dict[str, Any], grouped: bool, market_db: Path) -> None:
    """Trees are not, nor what runs on workers whose devices are unknown; without an accelerator nothing is."""
    experiment = experiment_of(market_db, **options)
    assert replace(experiment, accelerated=True).grouped is grouped
    assert not replace(experiment, accelerated=False).grouped


def test_where_jax_is_told_to_use_the_cpu_there_is_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's word is enough; no process is started to ask."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr("subprocess.run", lambda *_args, **_options: pytest.fail("a process was started"))
    assert not has_accelerator()
