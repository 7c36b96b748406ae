"""The training loop that every estimator shares."""

from skfunc.training._devices import (
    member_seeds,
    one_thread,
    resolve_device,
    thread_limits,
)
from skfunc.training._folds import held_out_fraction, row_folds
from skfunc.training._loop import TrainingOptions, TrainingResult, train
from skfunc.training._optimizer import MemberAdam, schedule_factor
from skfunc.training._stack import MemberStack
from skfunc.training._stream import StreamOptions, StreamTrainer

__all__ = [
    "MemberAdam",
    "MemberStack",
    "StreamOptions",
    "StreamTrainer",
    "TrainingOptions",
    "TrainingResult",
    "held_out_fraction",
    "member_seeds",
    "one_thread",
    "resolve_device",
    "row_folds",
    "schedule_factor",
    "thread_limits",
    "train",
]
