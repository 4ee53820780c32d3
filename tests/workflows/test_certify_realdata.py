"""No false alarm on real bars: forty tickers, every border, every way of changing what follows."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from nextbar.config import CertifyConfig
from nextbar.market.ingest import ingest
from nextbar.market.sources.files import read_files
from nextbar.types import Silent
from nextbar.workflows.certify import certify

read_parquet = partial(read_files, kind="parquet")

NAME = "us40_raw_adj_1999_2021.parquet"


@pytest.mark.slow
@pytest.mark.realdata
def test_forty_tickers_pass(tmp_path: Path) -> None:
    """XGBoost without tuning on all of `us40` (measured: 105 s of processor time, 6752 comparisons)."""
    folder = os.environ.get("NEXTBAR_REAL_DATA")
    if not folder or not (Path(folder) / NAME).exists():
        pytest.skip(f"NEXTBAR_REAL_DATA names no folder with {NAME}")
    db = tmp_path / "us40.db"
    ingest(read_parquet(Path(folder) / NAME, Silent()), db, progress=Silent())
    config = CertifyConfig(model="xgb", no_tune=True, db=str(db), save_dir=str(tmp_path))
    certificates = certify(config, Silent()).certificates
    assert len(certificates) == 40
    assert [certificate.name for certificate in certificates if not certificate.passed] == []
    assert min(certificate.truncations[0].tried for certificate in certificates) > 200
