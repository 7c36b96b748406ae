"""Array types with named dimensions, checked at run time in tests only.

jaxtyping is a test dependency; without it the names stand for anything, so that
annotations such as ``Float[Tensor, "rows features"]`` cost nothing in use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = _Unchecked

__all__ = ["Bool", "Float", "Int"]
