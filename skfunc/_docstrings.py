"""Text that estimators of one family document alike."""

from __future__ import annotations

from collections.abc import Callable


def fill_docstrings(**parts: str) -> Callable[[type], type]:
    """Return a decorator that puts parts where a class's docstrings name them.

    Parameters
    ----------
    **parts : str
        Text for every mark; ``{parameters}`` in a docstring stands for the part
        `parameters`.

    Returns
    -------
    callable
        Decorator of classes.
    """

    def fill(cls: type) -> type:
        for documented in (cls, *vars(cls).values()):
            text = getattr(documented, "__doc__", None)
            if isinstance(text, str) and "{" in text:
                for name, part in parts.items():
                    text = text.replace("{" + name + "}", part)
                documented.__doc__ = text
        return cls

    return fill
