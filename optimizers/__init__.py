"""What improves a persona."""

from personaagent.optimizers.alignment import AlignmentStep, PersonaAlignment, Simulation

__all__ = ["AlignmentStep", "PersonaAlignment", "Simulation"]
