"""The only file that imports a private scikit-learn name."""

from collections.abc import Callable, Iterable
from typing import Any

from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = ["UnroutedOptionsMixin", "check_sample_weight"]


class UnroutedOptionsMixin:
    """Keep the options of a prediction out of metadata routing.

    They say how to predict and are no data. The class attribute that scikit-learn has
    for this cannot tell `predict` from `predict_proba`, so the options are left out
    where the methods' signatures are read.
    """

    _unrouted_options = ("return_std", "return_cov", "rtol", "n_steps", "training_time")

    @classmethod
    def _get_class_level_metadata_request_values(
        cls,
        method_name: str,
        method: Callable[..., Any] | None = None,
        ignore_params: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        ignored = {*cls._unrouted_options, *(ignore_params or ())}
        return super()._get_class_level_metadata_request_values(  # type: ignore[misc]
            method_name, method=method, ignore_params=ignored
        )
