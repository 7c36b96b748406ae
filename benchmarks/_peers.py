"""Peers: each regressor predicts a mean and a standard deviation, alone or wrapped."""

from __future__ import annotations

import warnings
from contextlib import redirect_stdout
from itertools import product

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.model_selection import (
    KFold,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from _dropout import MCDropoutRegressor
from _ensemble import DeepEnsembleRegressor

PROBABILITY_FLOOR = 1e-6


def align_classes(probabilities, classes, all_classes):
    """Spread probability columns over all classes, 0 for those never seen."""
    aligned = np.zeros((len(probabilities), len(all_classes)))
    aligned[:, np.searchsorted(all_classes, classes)] = probabilities
    return aligned


def log_loss(y, probabilities, classes):
    """Mean negative log probability of the label, clipped at 1e-6."""
    at_label = probabilities[np.arange(len(y)), np.searchsorted(classes, y)]
    return -np.log(np.clip(at_label, PROBABILITY_FLOOR, 1.0)).mean()


class ConstantStdRegressor(RegressorMixin, BaseEstimator):
    """A regressor with the standard deviation of its out-of-sample residuals.

    Parameters
    ----------
    estimator : regressor
        Predicts the mean; with ``oob_score=True`` its own out-of-bag residuals are
        used, otherwise those of a cross-validation in five folds.
    """

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        """Fit the regressor and measure its residuals."""
        self.estimator_ = clone(self.estimator).fit(X, y)
        held_out = getattr(self.estimator_, "oob_prediction_", None)
        if held_out is None:
            folds = KFold(5, shuffle=True, random_state=0)
            held_out = cross_val_predict(self.estimator, X, y, cv=folds)
        self.std_ = np.sqrt(np.mean((y - held_out) ** 2))
        return self

    def predict(self, X, return_std=False):
        """Mean, and the one standard deviation for every row."""
        mean = self.estimator_.predict(X)
        return (mean, np.full(len(mean), self.std_)) if return_std else mean


class NGBoostRegressor(RegressorMixin, BaseEstimator):
    """Natural-gradient boosting of a Gaussian.

    Parameters
    ----------
    early_stopping : bool, default=False
        Whether a tenth of the rows decides on the number of trees (at most 2000)
        instead of the fixed 500.
    random_state : int, default=0
        Seed.
    """

    def __init__(self, early_stopping=False, random_state=0):
        self.early_stopping = early_stopping
        self.random_state = random_state

    def fit(self, X, y):
        """Boost the mean and the log standard deviation."""
        from ngboost import NGBRegressor

        settings = {"random_state": self.random_state, "verbose": False}
        if self.early_stopping:
            X, X_valid, y, y_valid = train_test_split(
                X, y, test_size=0.1, random_state=self.random_state
            )
            model = NGBRegressor(
                n_estimators=2000, early_stopping_rounds=50, **settings
            )
            # It prints a line per fit, verbose or not.
            with redirect_stdout(None):
                self.model_ = model.fit(X, y, X_val=X_valid, Y_val=y_valid)
        else:
            self.model_ = NGBRegressor(n_estimators=500, **settings).fit(X, y)
        return self

    def predict(self, X, return_std=False):
        """Mean and standard deviation of the Gaussian."""
        best = getattr(self.model_, "best_val_loss_itr", None)
        gaussian = self.model_.pred_dist(X, max_iter=best)
        return (gaussian.loc, gaussian.scale) if return_std else gaussian.loc


class GridByLogLoss(ClassifierMixin, BaseEstimator):
    """The candidate with the best log-loss in three folds, fitted on all rows.

    Parameters
    ----------
    candidates : list of classifiers
        What is compared.
    """

    def __init__(self, candidates):
        self.candidates = candidates

    def fit(self, X, y):
        """Compare the candidates, then fit the best one."""
        self.classes_ = np.unique(y)
        losses = [
            self._held_out_loss(candidate, X, y) if len(self.candidates) > 1 else 0.0
            for candidate in self.candidates
        ]
        self.best_estimator_ = clone(self.candidates[int(np.argmin(losses))]).fit(X, y)
        return self

    def predict_proba(self, X):
        """Class probabilities of the best candidate."""
        return self.best_estimator_.predict_proba(X)

    def _held_out_loss(self, candidate, X, y):
        losses = []
        for train, valid in folds(y, 3):
            fitted = clone(candidate).fit(X[train], y[train])
            proba = align_classes(
                fitted.predict_proba(X[valid]), fitted.classes_, self.classes_
            )
            losses.append(log_loss(y[valid], proba, self.classes_))
        return np.mean(losses)


class TunedSVC(ClassifierMixin, BaseEstimator):
    """An RBF machine with C and gamma by accuracy, and sigmoid calibration."""

    def fit(self, X, y):
        """Search the grid, then calibrate the winner in five folds."""
        self.classes_ = np.unique(y)
        X = self._scaler(X)
        variance = X.var() or 1.0
        splits = folds(y, 5)
        best, best_accuracy = None, -1.0
        for C, factor in product((1, 10, 100, 1000), (0.1, 1.0, 10.0)):
            machine = SVC(C=C, gamma=factor / (X.shape[1] * variance))
            accuracy = np.mean(
                [
                    machine.fit(X[train], y[train]).score(X[valid], y[valid])
                    for train, valid in splits
                    if len(np.unique(y[train])) > 1
                ]
            )
            if accuracy > best_accuracy:
                best, best_accuracy = clone(machine), accuracy
        self.model_ = CalibratedClassifierCV(best, ensemble=False, cv=splits).fit(X, y)
        return self

    def predict_proba(self, X):
        """Calibrated class probabilities."""
        return self.model_.predict_proba(self._scaler_.transform(X))

    def _scaler(self, X):
        self._scaler_ = StandardScaler().fit(X)
        return self._scaler_.transform(X)


class MLPEnsembleClassifier(ClassifierMixin, BaseEstimator):
    """Mean probability of networks that differ in their seed.

    Parameters
    ----------
    n_members : int, default=5
        Number of networks.
    random_state : int, default=0
        Seed of the first.
    """

    def __init__(self, n_members=5, random_state=0):
        self.n_members = n_members
        self.random_state = random_state

    def fit(self, X, y):
        """Fit the members one after the other."""
        seeds = self.random_state * self.n_members + np.arange(self.n_members)
        self.members_ = [
            MLPClassifier(random_state=int(seed)).fit(X, y) for seed in seeds
        ]
        self.classes_ = self.members_[0].classes_
        return self

    def predict_proba(self, X):
        """Mean of the members' probabilities."""
        return np.mean([member.predict_proba(X) for member in self.members_], axis=0)


def folds(y, n_folds):
    """Shuffled folds, stratified as far as rare classes allow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _, counts = np.unique(y, return_counts=True)
        n_folds = min(n_folds, counts.max())
        splitter = StratifiedKFold(n_folds, shuffle=True, random_state=0)
        return list(splitter.split(y, y))


def _gaussian_process(length_scale):
    kernel = ConstantKernel(1.0) * RBF(length_scale) + WhiteKernel(1.0)
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel))


def _forest_grid(seed):
    return [
        RandomForestClassifier(
            300, max_features=features, min_samples_leaf=leaf, random_state=seed
        )
        for features, leaf in product(("sqrt", 0.5), (1, 3))
    ]


# Each peer is built from the number of features and the seed.
REGRESSORS = {
    "BayesianRidge": lambda d, seed: make_pipeline(StandardScaler(), BayesianRidge()),
    "GP-RBF": lambda d, seed: _gaussian_process(1.0),
    "GP-ARD": lambda d, seed: _gaussian_process(np.ones(d)),
    "RandomForest": lambda d, seed: ConstantStdRegressor(
        RandomForestRegressor(300, oob_score=True, random_state=seed)
    ),
    "HistGradientBoosting": lambda d, seed: ConstantStdRegressor(
        HistGradientBoostingRegressor(random_state=seed)
    ),
    "MLP": lambda d, seed: ConstantStdRegressor(
        make_pipeline(StandardScaler(), MLPRegressor(random_state=seed))
    ),
    "NGBoost": lambda d, seed: NGBoostRegressor(random_state=seed),
    "NGBoost-stopped": lambda d, seed: NGBoostRegressor(
        early_stopping=True, random_state=seed
    ),
    "DeepEnsemble": lambda d, seed: DeepEnsembleRegressor(random_state=seed),
    "DeepEnsemble-stopped": lambda d, seed: DeepEnsembleRegressor(
        max_iter=1000, early_stopping=True, random_state=seed
    ),
    "MCDropout": lambda d, seed: MCDropoutRegressor(random_state=seed),
}

CLASSIFIERS = {
    "LogisticRegression": lambda d, seed: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000)
    ),
    "RandomForest": lambda d, seed: RandomForestClassifier(300, random_state=seed),
    "RandomForest-tuned": lambda d, seed: GridByLogLoss(_forest_grid(seed)),
    "SVC-tuned": lambda d, seed: TunedSVC(),
    "HistGradientBoosting": lambda d, seed: HistGradientBoostingClassifier(
        random_state=seed
    ),
    "MLP": lambda d, seed: make_pipeline(
        StandardScaler(), MLPClassifier(random_state=seed)
    ),
    "MLPEnsemble": lambda d, seed: make_pipeline(
        StandardScaler(), MLPEnsembleClassifier(random_state=seed)
    ),
}
