"""An HTTP service that searches an index with packs of many languages, as `hf-optical serve` starts it."""

from ..checks import import_optional


for _library in ("fastapi", "uvicorn", "prometheus_client"):
    import_optional(_library, "serve")

from .app import create_app  # noqa: E402
from .limits import Limits  # noqa: E402
from .server import serve  # noqa: E402


__all__ = ["Limits", "create_app", "serve"]
