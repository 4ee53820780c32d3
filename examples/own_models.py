"""Two models of your own for nextbar. A factory is a function without arguments that returns a model.

nextbar walkforward --model examples.own_models:lightgbm --ticker AAPL
nextbar train estimator --model examples.own_models:logit --ticker AAPL
"""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nextbar as nb


def logit() -> nb.Estimator:
    """Logistic regression on standardised columns; the scaler is fitted on train, because it is in the pipeline."""
    return nb.Estimator(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), label="logit")


def lightgbm() -> nb.Estimator:
    """LightGBM with about the parameters that `nextbar.XGBoost` has without a search; validation stops it."""
    from lightgbm import LGBMClassifier  # noqa: PLC0415 - the other models do not need it

    trees = LGBMClassifier(
        n_estimators=300,
        learning_rate=0.05,
        num_leaves=8,
        max_depth=3,
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.8,
    )
    return nb.Estimator(trees, label="lightgbm")
