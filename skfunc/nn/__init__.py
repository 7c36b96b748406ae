"""Pure torch building blocks whose parameters may carry a leading member axis.

Networks of neural processes (`NEURAL_PROCESSES`) carry none: a batch of tasks is their
leading axis.
"""

from skfunc.nn._attention import AttentionBlock, InducingAttention, MultiHeadAttention
from skfunc.nn._channel_noise import ChannelNoise
from skfunc.nn._density_base import GaussianComponents, StackedComponents
from skfunc.nn._density_conditional import ConditionalFlow, FieldContext
from skfunc.nn._density_field import (
    SMOOTH_ACTIVATIONS,
    TraceField,
    field_with_trace,
    random_signs,
)
from skfunc.nn._density_flow import BaseRows, ContinuousFlow
from skfunc.nn._drifts import DRIFTS
from skfunc.nn._fields import ConvField, MLPField, UserField
from skfunc.nn._latent_ode import (
    LATENT_ENCODERS,
    LatentODENetwork,
    series_importance_bound,
    series_lower_bound,
)
from skfunc.nn._latent_ode_series import SeriesBatch
from skfunc.nn._layers import (
    ACTIVATIONS,
    Conv2d,
    GroupNorm,
    Linear,
    activation_function,
    draw_module,
)
from skfunc.nn._likelihood_bins import BinsLikelihood
from skfunc.nn._likelihoods import (
    CategoricalLikelihood,
    ContinuousLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixtureLikelihood,
)
from skfunc.nn._neural_process_attentive import AttentiveNeuralProcess
from skfunc.nn._neural_process_autoregression import (
    autoregressive_log_likelihood,
    autoregressive_sample,
)
from skfunc.nn._neural_process_base import MLP, DiagonalNormal, NeuralProcess
from skfunc.nn._neural_process_conditional import ConditionalNeuralProcess
from skfunc.nn._neural_process_convolutional import ConvolutionalNeuralProcess
from skfunc.nn._neural_process_grid import (
    ConvolutionalGridNeuralProcess,
    pixel_coordinates,
)
from skfunc.nn._neural_process_image import ImageNeuralProcess
from skfunc.nn._neural_process_inducing import InducingNeuralProcess
from skfunc.nn._neural_process_kernel import KernelNeuralProcess
from skfunc.nn._neural_process_labels import KernelLabelProcess
from skfunc.nn._neural_process_latent import LatentNeuralProcess
from skfunc.nn._neural_process_objectives import (
    conditional_log_likelihood,
    evidence_lower_bound,
    importance_weighted_log_likelihood,
    separate_log_likelihood,
)
from skfunc.nn._neural_process_transformer import TransformerNeuralProcess
from skfunc.nn._odenet import ODENet, SolverOptions
from skfunc.nn._sde_bnn import SDEBNN, PathOutputs, draw_sde_bnn
from skfunc.nn._task_batch import TaskBatch
from skfunc.nn._weight_process import PathOptions

# Networks by the names that estimators give them; on images "convcnp" is the image's.
NEURAL_PROCESSES: dict[str, type[NeuralProcess]] = {
    "anp": AttentiveNeuralProcess,
    "cnp": ConditionalNeuralProcess,
    "convcnp": ConvolutionalNeuralProcess,
    "convcnp_grid": ConvolutionalGridNeuralProcess,
    "convcnp_image": ImageNeuralProcess,
    "kernel": KernelNeuralProcess,
    "kernel_labels": KernelLabelProcess,
    "lbanp": InducingNeuralProcess,
    "np": LatentNeuralProcess,
    "tnp": TransformerNeuralProcess,
}

__all__ = [
    "ChannelNoise",
    "ACTIVATIONS",
    "AttentionBlock",
    "AttentiveNeuralProcess",
    "BaseRows",
    "BinsLikelihood",
    "CategoricalLikelihood",
    "ConditionalFlow",
    "ConditionalNeuralProcess",
    "ContinuousFlow",
    "ContinuousLikelihood",
    "Conv2d",
    "ConvField",
    "ConvolutionalGridNeuralProcess",
    "ConvolutionalNeuralProcess",
    "DiagonalNormal",
    "FieldContext",
    "GaussianComponents",
    "GaussianLikelihood",
    "GroupNorm",
    "ImageNeuralProcess",
    "InducingAttention",
    "InducingNeuralProcess",
    "KernelLabelProcess",
    "KernelNeuralProcess",
    "LATENT_ENCODERS",
    "LatentNeuralProcess",
    "LatentODENetwork",
    "Likelihood",
    "Linear",
    "MLP",
    "MLPField",
    "MixtureLikelihood",
    "MultiHeadAttention",
    "NEURAL_PROCESSES",
    "NeuralProcess",
    "ODENet",
    "SMOOTH_ACTIVATIONS",
    "SeriesBatch",
    "SolverOptions",
    "StackedComponents",
    "TaskBatch",
    "TraceField",
    "TransformerNeuralProcess",
    "UserField",
    "activation_function",
    "autoregressive_log_likelihood",
    "autoregressive_sample",
    "conditional_log_likelihood",
    "draw_module",
    "evidence_lower_bound",
    "field_with_trace",
    "importance_weighted_log_likelihood",
    "pixel_coordinates",
    "random_signs",
    "separate_log_likelihood",
    "series_importance_bound",
    "series_lower_bound",
    "DRIFTS",
    "SDEBNN",
    "PathOptions",
    "PathOutputs",
    "draw_sde_bnn",
]
