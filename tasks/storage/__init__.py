"""Where finished videos are stored: a local folder or a Bunny storage zone."""

from tasks.storage.base import Storage, Stored
from tasks.storage.open import check_storage, open_storage

__all__ = [
    "Storage",
    "Stored",
    "check_storage",
    "open_storage",
]
