"""What a copy of a compressed model has for a handle."""

from typing import Any

from thinwire.errors import Unsupported


class DetachedHandle:
    """In place of a handle in a copy of a model: the copy trains as plain DDP, if at all."""

    replaceable = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unsupported(
            "this is a copy of a compressed model, which exchanges nothing; call compress() on it"
        )
