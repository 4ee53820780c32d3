"""Feature columns: indicators, the built-in set ``relative``, and the recipe of a feature matrix."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextbar.features.scale_free import relative

__all__ = ["relative"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        from nextbar.words import nearest

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name, __all__)}")
    from nextbar.features.scale_free import relative  # pandas, where it is used

    return relative


def __dir__() -> list[str]:
    return sorted(__all__)
