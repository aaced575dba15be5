"""Exact checks of the arithmetic in a text; no model, no `eval`."""

from capo_service.core.arithmetic.parse import Equation, equations, false_equations

__all__ = ["Equation", "equations", "false_equations"]
