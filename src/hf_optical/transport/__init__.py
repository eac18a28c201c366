"""Batched optimal transport between token sets: costs and masses in, transport plans out."""

from .plan import TransportDiagnostics, transport_plan
from .solvers import SOLVERS, Exact, Partial, Proximal, Sinkhorn, Solver, Unbalanced, make_solver


__all__ = [
    "SOLVERS",
    "Exact",
    "Partial",
    "Proximal",
    "Sinkhorn",
    "Solver",
    "TransportDiagnostics",
    "Unbalanced",
    "make_solver",
    "transport_plan",
]
