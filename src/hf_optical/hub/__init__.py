from .cards import write_card


__all__ = ["write_card"]
