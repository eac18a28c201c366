"""Batched optimal transport between token sets: costs and masses in, transport plans out."""

from .plan import SOLVERS, TransportDiagnostics, transport_plan


__all__ = ["SOLVERS", "TransportDiagnostics", "transport_plan"]
