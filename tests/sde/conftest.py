import numpy as np
import pytest

import skfunc

# Enough to have every part at work, and quick.
SMALL = {
    "hidden_layer_sizes": (5,),
    "state_size": 4,
    "n_members": 3,
    "n_predict_paths": 6,
    "max_iter": 5,
    "random_state": 0,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def labelled():
    """Return rows and string labels of three classes."""
    generator = np.random.default_rng(0)
    y = np.repeat(["ash", "beech", "cedar"], 20)
    centres = np.repeat(generator.normal(0.0, 1.5, (3, 4)), 20, axis=0)
    return 5.0 + 3.0 * (centres + generator.normal(size=(60, 4))), y


@pytest.fixture(scope="session")
def measured():
    """Return rows and one target whose noise depends on the row."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 3))
    noise = 0.1 + 0.3 * (X[:, 2] > 0)
    return X, 50 + 9 * (np.sin(X[:, 0]) + X[:, 1] + noise * generator.normal(size=60))


@pytest.fixture(scope="session")
def classifier():
    """Return what makes a small classifier."""
    return lambda **changes: skfunc.SDEBNNClassifier(**(SMALL | changes))


@pytest.fixture(scope="session")
def regressor():
    """Return what makes a small regressor."""
    return lambda **changes: skfunc.SDEBNNRegressor(**(SMALL | changes))


@pytest.fixture(scope="session")
def fitted_classifier(classifier, labelled):
    return classifier().fit(*labelled)


@pytest.fixture(scope="session")
def fitted_regressor(regressor, measured):
    return regressor().fit(*measured)


@pytest.fixture(scope="session")
def fitted_pair(regressor, measured):
    """Return a regressor of two targets."""
    X, y = measured
    return regressor().fit(X, np.column_stack([y, X[:, 0] - 2.0]))


@pytest.fixture(scope="session")
def fitted_tails(regressor, measured):
    """Return a regressor with Student-t noise."""
    return regressor(likelihood="student_t").fit(*measured)
