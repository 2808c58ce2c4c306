"""Cells: the points of a study, and how its axes span them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from personaagent.programs.errors import InputError

PAPER_BATCH_SIZE, PAPER_ITERATIONS, PAPER_MEMORIES = 3, 1, 4
"""n, E and K of App. F: the centre around which one axis at a time is varied."""


@dataclass(frozen=True, order=True)
class Cell:
    """One configuration. The fields are the axes of every study."""

    task: str
    method: str
    lm: str
    batch_size: int
    iterations: int
    memories: int
    history: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        # n = 0 implies E = 0 and the other way round: no alignment is one cell.
        if self.batch_size == 0 or self.iterations == 0:
            object.__setattr__(self, "batch_size", 0)
            object.__setattr__(self, "iterations", 0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Axes:
    """The values that were asked for, in the order given."""

    batch_sizes: tuple[int, ...]
    iterations: tuple[int, ...]
    memories: tuple[int, ...]

    @property
    def centre(self) -> tuple[int, int, int]:
        """(n, E, K): the paper's value where it is listed, else the first one listed."""

        def choose(values: Sequence[int], paper: int) -> int:
            return paper if paper in values else values[0]

        return (
            choose(self.batch_sizes, PAPER_BATCH_SIZE),
            choose(self.iterations, PAPER_ITERATIONS),
            choose(self.memories, PAPER_MEMORIES),
        )

    def around_centre(self, base: Cell) -> list[Cell]:
        """Each axis varied with the others at the centre; every cell once."""
        n, e, k = self.centre
        points = [
            *((value, e, k) for value in self.batch_sizes),
            *((n, value, k) for value in self.iterations),
            *((n, e, value) for value in self.memories),
        ]
        return _cells(base, points)

    def left_out(self) -> list[str]:
        """Listed values that no cell around the centre has, as `E=2`: without alignment there is no E."""
        cells = self.around_centre(Cell("", "", "", 0, 0, 0))
        return [f"E={value}" for value in self.iterations if value and value not in {c.iterations for c in cells}]

    def grid(self, base: Cell) -> list[Cell]:
        """The product of the axes; every cell once."""
        return _cells(base, list(product(self.batch_sizes, self.iterations, self.memories)))


def _cells(base: Cell, points: Sequence[tuple[int, int, int]]) -> list[Cell]:
    made = [replace(base, batch_size=n, iterations=e, memories=k) for n, e, k in points]
    return list(dict.fromkeys(made))


def parse_axis(option: str, text: str, most: int = 10_000) -> tuple[int, ...]:
    """Values of an axis from `0,1,3`; repeated ones count once.

    Raises:
        InputError: on anything but integers from 0 to `most`, naming the option and the value.
    """
    values = []
    for part in str(text).split(","):
        where = repr(part.strip()) + (f" in {text!r}" if not part.strip() else "")
        try:
            value = int(part.strip())
        except ValueError:
            raise InputError(
                f"{option}: {where} is not an integer; write whole numbers from 0, such as 0,1,3"
            ) from None
        if value < 0:
            raise InputError(f"{option}: {value} is negative; write whole numbers from 0, such as 0,1,3")
        if value > most:
            raise InputError(f"{option}: {value} is more than {most:,}, the most there can be")
        values.append(value)
    return tuple(dict.fromkeys(values))
