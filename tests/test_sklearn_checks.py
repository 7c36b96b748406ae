"""Every public estimator passes every check of scikit-learn, none excepted."""

import os

# Before SciPy is imported: without it scikit-learn skips its array API checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

from sklearn.utils.estimator_checks import parametrize_with_checks

import skfunc

ESTIMATORS = [
    skfunc.CNFDensity(max_iter=2, max_components=2),
    skfunc.CNFDensity(base="normal", max_iter=2),
    skfunc.ConditionalCNFRegressor(),
    skfunc.FiniteEnsemble(),
    skfunc.ImageCompleter(max_iter=5),
    skfunc.InfiniteWidthClassifier(),
    skfunc.InfiniteWidthRegressor(),
    skfunc.LatentODE(),
    skfunc.LatentODE(max_iter=2, encoder="ode_rnn", poisson=True),
    # A fit at the defaults takes seconds, and there are sixty.
    skfunc.LatentODEClassifier(max_iter=5),
    skfunc.NeuralProcessClassifier(),
    skfunc.NeuralProcessClassifier("self", max_iter=20),
    skfunc.NeuralProcessMetaLearner(max_iter=5),
    skfunc.NeuralProcessRegressor(),
    skfunc.NeuralProcessRegressor("self", max_iter=20),
    skfunc.ODENetClassifier(),
    skfunc.ODENetRegressor(),
    skfunc.SDEBNNClassifier(),
    skfunc.SDEBNNRegressor(),
]


@parametrize_with_checks(ESTIMATORS)
def test_sklearn_check(estimator, check):
    check(estimator)
