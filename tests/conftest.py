import os

# scikit-learn's array API checks are skipped unless this is set before SciPy's import.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# The shapes in annotations are checked where `make test` asks for it: the checks cost
# more than the small tensors that they look at.
if os.environ.get("SKFUNC_CHECK_SHAPES"):
    from jaxtyping import install_import_hook

    floors = ["nn", "training._loop", "training._optimizer", "training._stack"]
    install_import_hook([f"skfunc.{floor}" for floor in floors], "beartype.beartype")
