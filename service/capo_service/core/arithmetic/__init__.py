"""The arithmetic that a text states, checked exactly; no model, no `eval`."""

from capo_service.core.arithmetic.parse import Equation, equations, false_equations

__all__ = ["Equation", "equations", "false_equations"]
