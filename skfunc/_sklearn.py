"""The only file that imports a private scikit-learn name."""

from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = ["check_sample_weight"]
