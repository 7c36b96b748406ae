"""Neural processes: distributions over functions, learned from tasks."""

from skfunc.neural_process import priors
from skfunc.neural_process._meta_learner import NeuralProcessMetaLearner
from skfunc.neural_process._prior import NeuralProcessPrior

__all__ = ["NeuralProcessMetaLearner", "NeuralProcessPrior", "priors"]
