import numpy as np
import pytest

import skfunc

# Enough to have every part at work, and quick.
SMALL = {
    "hidden_size": 16,
    "n_layers": 2,
    "n_heads": 2,
    "batch_size": 4,
    "random_state": 0,
    "device": "cpu",
}
VARIANTS = ("anp", "cnp", "convcnp", "kernel", "lbanp", "np", "tnp")
LATENT = ("anp", "np")


def waves(n_tasks=30, n_points=20, seed=0):
    """Return tasks: sine waves of random phase, (n_tasks, n_points, 1) and y."""
    generator = np.random.default_rng(seed)
    X = generator.uniform(-2.0, 2.0, size=(n_tasks, n_points, 1))
    y = 3.0 + 2.0 * np.sin(2 * X[..., 0] + generator.uniform(0, 6, size=(n_tasks, 1)))
    return X, y


@pytest.fixture(scope="session")
def learner():
    """Return what makes a small meta-learner."""
    defaults = SMALL | {"context_size": (1, 10), "target_size": 10, "max_iter": 10}
    return lambda **changes: skfunc.NeuralProcessMetaLearner(**(defaults | changes))


@pytest.fixture(scope="session")
def priors(learner):
    """Return a prior of every variant, hardly trained, by name."""
    tasks = list(zip(*waves(), strict=True))
    return {name: learner(variant=name).fit(tasks).prior_ for name in VARIANTS}


@pytest.fixture(scope="session")
def smooth_prior(learner):
    """Return a prior that has learned sine waves of any phase."""
    settings = {
        "variant": "tnp",
        "hidden_size": 32,
        "max_iter": 300,
        "batch_size": 16,
        "learning_rate_init": 3e-3,
    }
    tasks = list(zip(*waves(300, 30), strict=True))
    return learner(**settings).fit(tasks).prior_


@pytest.fixture(scope="session")
def measured():
    """Return rows and one target."""
    X, y = waves(1, 25, seed=1)
    return X[0], y[0]


@pytest.fixture(scope="session")
def labelled():
    """Return rows and string labels of three classes."""
    generator = np.random.default_rng(0)
    y = np.repeat(["ash", "beech", "cedar"], 20)
    centres = np.repeat(generator.normal(0.0, 2.0, (3, 2)), 20, axis=0)
    return centres + generator.normal(size=(60, 2)), y
