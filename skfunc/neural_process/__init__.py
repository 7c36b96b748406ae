"""Neural processes: distributions over functions, learned from tasks."""

from skfunc.neural_process import priors
from skfunc.neural_process._classifier import NeuralProcessClassifier
from skfunc.neural_process._image_completer import ImageCompleter
from skfunc.neural_process._meta_learner import NeuralProcessMetaLearner
from skfunc.neural_process._prior import NeuralProcessPrior
from skfunc.neural_process._regressor import NeuralProcessRegressor

__all__ = [
    "ImageCompleter",
    "NeuralProcessClassifier",
    "NeuralProcessMetaLearner",
    "NeuralProcessPrior",
    "NeuralProcessRegressor",
    "priors",
]
