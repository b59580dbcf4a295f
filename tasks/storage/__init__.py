"""Where finished videos are stored: a local folder, a Bunny storage zone, a bucket."""

from tasks.storage.base import Storage, Stored
from tasks.storage.open import check_storage, delivered_to, open_storage

__all__ = [
    "Storage",
    "Stored",
    "check_storage",
    "delivered_to",
    "open_storage",
]
