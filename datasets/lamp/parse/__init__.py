"""From an LM's text to the answer that the official metric compares. A step of its own, before the metric.

Each parser first applies the official rule, and then reads the text as a person would who is asked what the
answer is. What a person would call ambiguous is None, never a guess.
"""

from personaagent.datasets.lamp.parse.labels import parse_label
from personaagent.datasets.lamp.parse.ratings import parse_rating
from personaagent.datasets.lamp.parse.texts import parse_text

__all__ = ["parse_label", "parse_rating", "parse_text"]
