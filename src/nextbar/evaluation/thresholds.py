"""Choose the one decision threshold of a pooled model on validation."""

from __future__ import annotations

from collections.abc import Sequence

from nextbar.datasets.samples import Splits
from nextbar.evaluation.series import Terms
from nextbar.models.base import Fitted
from nextbar.scoring.threshold import ThresholdChoice, Validation, tune_pooled_threshold


def pooled_threshold(fitted: Fitted, panel: Sequence[Splits], terms: Terms, *, balanced: bool) -> ThresholdChoice:
    """Tune one threshold on the validation of all tickers."""
    validation = [
        Validation(
            dates=data.val.dates,
            probability=fitted.predict(data.table, data.val.rows),
            next_returns=data.val.next_returns,
            truth=data.val.y,
        )
        for data in panel
    ]
    return tune_pooled_threshold(
        validation,
        balanced=balanced,
        cost_bps=terms.cost_bps,
        risk_free=terms.risk_free,
        periods=terms.periods,
    )
