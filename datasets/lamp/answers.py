"""The kinds of answers that tasks ask for: how each is read, scored and criticised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import dspy

from personaagent.datasets.lamp import feedback, metrics
from personaagent.datasets.lamp.parse import parse_label, parse_rating, parse_text
from personaagent.programs.errors import InputError


class Answers(Protocol):
    """One kind of answer. A prediction is what `parse` returns: None is unparsable, which is answered and wrong."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The possible answers; empty for free text."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the official metrics, the first being the score."""

    @property
    def higher_is_better(self) -> bool:
        """Of the first metric."""

    def check(self, gold: str) -> None:
        """See that a user's own answer is one.

        Raises:
            InputError: saying what it must be.
        """

    def parse(self, raw: str) -> str | None:
        """The answer that an LM's text gives, or None."""

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        """The official metrics by name."""

    def score(self, gold: str, prediction: str | None) -> float:
        """The first metric of one sample: its mean over samples is the metric."""

    def goodness(self, gold: str, prediction: str | None) -> float:
        """From 0, as wrong as can be, to 1, right: what an optimizer maximises."""

    def feedback(self, gold: str, prediction: str | None) -> str:
        """How a prediction differs from what the user answered."""


@dataclass(frozen=True)
class LabelAnswers:
    """One of a list of labels; accuracy and macro-F1."""

    labels: tuple[str, ...]
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    higher_is_better: ClassVar[bool] = True

    def check(self, gold: str) -> None:
        if gold.strip() not in self.labels:
            raise InputError(f"{gold!r} is not a label: {', '.join(self.labels)}")

    def parse(self, raw: str) -> str | None:
        return parse_label(raw, self.labels)

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        return metrics.classification(golds, predictions, self.labels)

    def score(self, gold: str, prediction: str | None) -> float:
        return float(prediction is not None and prediction.strip() == gold.strip())

    def goodness(self, gold: str, prediction: str | None) -> float:
        return self.score(gold, prediction)

    def feedback(self, gold: str, prediction: str | None) -> str:
        return feedback.label_feedback(gold, prediction, self.labels)


@dataclass(frozen=True)
class RatingAnswers:
    """A number of stars from 1 to 5; MAE and RMSE."""

    labels: tuple[str, ...] = ("1", "2", "3", "4", "5")
    metrics: ClassVar[tuple[str, ...]] = ("mae", "rmse")
    higher_is_better: ClassVar[bool] = False

    def check(self, gold: str) -> None:
        if gold.strip() not in self.labels:
            raise InputError(f"{gold!r} is not a rating: {', '.join(self.labels)}")

    def parse(self, raw: str) -> str | None:
        return parse_rating(raw)

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        return metrics.regression(golds, predictions)

    def score(self, gold: str, prediction: str | None) -> float:
        return metrics.absolute_error(gold, prediction)

    def goodness(self, gold: str, prediction: str | None) -> float:
        return max(0.0, 1.0 - self.score(gold, prediction) / 4.0)

    def feedback(self, gold: str, prediction: str | None) -> str:
        return feedback.rating_feedback(gold, prediction)


@dataclass(frozen=True)
class TextAnswers:
    """Free text; ROUGE-1 and ROUGE-L."""

    labels: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rougeL")
    higher_is_better: ClassVar[bool] = True

    def check(self, gold: str) -> None:
        if not gold.strip():
            raise InputError("an empty text is no answer")

    def parse(self, raw: str) -> str | None:
        return parse_text(raw)

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        return metrics.rouge(golds, predictions)

    def score(self, gold: str, prediction: str | None) -> float:
        return metrics.rouge_of(gold, prediction)["rouge1"]

    def goodness(self, gold: str, prediction: str | None) -> float:
        return self.score(gold, prediction)

    def feedback(self, gold: str, prediction: str | None) -> str:
        return feedback.text_feedback(gold, prediction)


@dataclass(frozen=True)
class ScoredTask:
    """The part of a task (`datasets.task.Task`) that its kind of answers settles."""

    answers: Answers

    @property
    def labels(self) -> tuple[str, ...]:
        return self.answers.labels

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.answers.metrics

    @property
    def higher_is_better(self) -> bool:
        return self.answers.higher_is_better

    def parse(self, raw: str) -> str | None:
        return self.answers.parse(raw)

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        return self.answers.evaluate(golds, predictions)

    def score(self, gold: str, prediction: str | None) -> float:
        return self.answers.score(gold, prediction)

    def worst(self, gold: str) -> str | None:
        return None

    def metric(
        self, example: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> float | dspy.Prediction:
        gold, raw = str(example.answer), getattr(pred, "answer", None)
        prediction = None if raw is None else self.parse(str(raw))
        goodness = 0.0 if prediction is None else self.answers.goodness(gold, prediction)
        # BootstrapFewShot asks whether the metric is true, and every Prediction is.
        if trace is not None and pred_name is None:
            return goodness
        return dspy.Prediction(score=goodness, feedback=self.answers.feedback(gold, prediction))
