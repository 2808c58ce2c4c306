"""The figures of a study, for papers: .png, .svg or .pdf by the file's name."""

from personaagent.experiments.harness.figures.comparison import draw_comparison
from personaagent.experiments.harness.figures.histories import draw_histories
from personaagent.experiments.harness.figures.scaling import draw_scaling
from personaagent.experiments.harness.figures.style import About, FigureTask

__all__ = ["About", "FigureTask", "draw_comparison", "draw_histories", "draw_scaling"]
