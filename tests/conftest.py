import os

# scikit-learn's array API checks are skipped unless this is set before SciPy's import.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
