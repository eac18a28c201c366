"""A page to search and to look at alignments, also the Hub Space of `examples/space`."""

from ..checks import import_optional


for _library, _extra in (("gradio", "space"), ("matplotlib", "plots")):
    import_optional(_library, _extra)

from .app import open_page  # noqa: E402
from .short_pack import train_short_pack  # noqa: E402


__all__ = ["open_page", "train_short_pack"]
