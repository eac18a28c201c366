"""Cards of models and packs, and uploads to the Hub."""

from ..storage.publishing import create_repository, upload_folder
from .cards import write_card


__all__ = ["create_repository", "upload_folder", "write_card"]
