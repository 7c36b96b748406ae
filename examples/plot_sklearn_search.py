"""
Search by the whole forecast, and watch a fit
=============================================

A search that looks at squared errors picks the best mean and is blind to the spread.
The scorers of `skfunc.metrics` judge the distribution that is predicted, for our
estimators and for any other with `predict(X, return_std=True)`.
"""

# %%
# A search with several scorers
# -----------------------------
# The strength of the L2 penalty is searched by three scores at once; the likelihood
# says which candidate is refitted on all rows.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skfunc import ODENetRegressor
from skfunc.metrics import get_scorer, neg_crps_scorer, neg_gaussian_nll_scorer

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
pipeline = make_pipeline(
    StandardScaler(), ODENetRegressor(n_members=4, max_iter=40, random_state=0)
)
alphas = [1e-2, 1.0, 1e2, 1e4]
scoring = {
    "likelihood": neg_gaussian_nll_scorer,
    "CRPS": neg_crps_scorer,
    "coverage error": get_scorer("neg_coverage_error", coverage=0.8),
}
search = GridSearchCV(
    pipeline,
    {"odenetregressor__alpha": alphas},
    scoring=scoring,
    refit="likelihood",
    cv=3,
).fit(X_train, y_train)
for name in scoring:
    scores = search.cv_results_[f"mean_test_{name}"]
    print(f"{name:<15}", np.round(scores, 3))
print("chosen:", search.best_params_)
print(f"on held-out rows: {neg_gaussian_nll_scorer(search, X_test, y_test):.3f}")

# %%
# Watch a fit
# -----------
# scikit-learn's callbacks hear of every epoch. `ScoringMonitor` scores what the fit
# would return if it ended there, on the training rows: the curve is flat once no member
# does better on the rows that were kept from it. `ProgressBar` works in the same way.
monitor = ScoringMonitor(scoring={"R2": "r2", "likelihood": neg_gaussian_nll_scorer})
model = ODENetRegressor(n_members=4, max_iter=40, random_state=0)
model.set_callbacks(monitor).fit(X_train, y_train)
log = monitor.get_logs().data_as_pandas.query("task_name == 'epoch'")
print(log[["task_id", "R2", "likelihood"]].tail(3).to_string(index=False))

# %%
# The picture
# -----------
# Left: scores of the candidates, each less its best. A penalty so strong that the
# network learns nothing covers as promised and predicts badly: coverage alone is no
# score. Right: two scores by epoch.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for name, marker in zip(scoring, "os^", strict=True):
    scores = search.cv_results_[f"mean_test_{name}"]
    spread = scores.max() - scores.min()
    axes[0].semilogx(
        alphas, (scores - scores.max()) / spread, marker=marker, label=name
    )
axes[0].set(xlabel="alpha", ylabel="Score below the best, over its range")
axes[0].legend(frameon=False)
epochs = np.arange(1, len(log) + 1)
axes[1].plot(epochs, log["R2"], color="#0072B2", label="R2")
axes[1].set(xlabel="Epoch", ylabel="R2 on the training rows")
twin = axes[1].twinx()
twin.plot(epochs, log["likelihood"], color="#D55E00")
twin.set_ylabel("Mean log-likelihood", color="#D55E00")
axes[1].yaxis.label.set_color("#0072B2")
plt.show()
