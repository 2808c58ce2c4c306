"""What a critic is told of an answer: how it differs from what the user really wrote."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from personaagent.datasets.lamp.metrics import absolute_error, number

MAX_WORDS = 12
"""Words that a line lists at most; how many more there are is said."""

_FIRST_PERSON = frozenset({"i", "me", "my", "mine", "myself", "we", "us", "our", "ours", "ourselves"})
_SECOND_PERSON = frozenset({"you", "your", "yours", "yourself", "yourselves"})


def label_feedback(gold: str, prediction: str | None, labels: Sequence[str]) -> str:
    """Whether the label is the user's, and if not, which one the user chose.

    Compared as the metric does, exactly after stripping. One line; the labels are listed only if the
    answer is none of them.
    """
    gold = gold.strip()
    if prediction is None or prediction.strip() not in labels:
        given = "named none of the labels, or several" if prediction is None else f"{prediction.strip()!r} is no label"
        return f"Wrong: the answer {given}; the user chose {gold!r}. It must be one of: {', '.join(labels)}."
    if prediction.strip() == gold:
        return f"Right: the user chose {gold!r} too."
    return f"Wrong: the answer is {prediction.strip()!r}, but the user chose {gold!r}."


def rating_feedback(gold: str, prediction: str | None) -> str:
    """Whether the rating is too high or too low, and by how much.

    What is no number is said to be that. One line.

    Raises:
        InputError: if gold is no finite number.
    """
    gold, error = gold.strip(), absolute_error(gold, prediction)
    given = None if prediction is None else number(prediction)
    if given is None:
        shown = "" if prediction is None else f" ({prediction.strip()!r})"
        return f"Wrong: the answer{shown} is no single number; the user gave {gold}. Answer with the number alone."
    if error == 0:
        return f"Right: the user gave {gold} too."
    way = "high" if given > float(gold) else "low"
    return f"Too {way} by {error:g}: the answer is {given:g}, but the user gave {gold}."


def text_feedback(gold: str, prediction: str | None) -> str:
    """How a text differs from the user's in wording, length and style, in at most seven lines.

    The two texts come first. Words are compared without regard to case, in order of appearance, at most
    `MAX_WORDS` a line; a word that one text has more often is not listed as a difference. What does not
    differ in style is left out. The same two texts give the same lines.
    """
    gold = gold.strip()
    given = "" if prediction is None else prediction.strip()
    if not given:
        return f"The answer is empty.\nThe user wrote: {gold}"
    if given == gold:
        return f"Right, word for word: the user wrote: {gold}"
    theirs, ours = _words(gold), _words(given)
    lines = [
        f"The user wrote: {gold}",
        f"The answer was: {given}",
        f"Words in both: {_listed(word for word in theirs if word in ours)}.",
        f"Words only in the user's: {_listed(word for word in theirs if word not in ours)}.",
        f"Words only in the answer: {_listed(word for word in ours if word not in theirs)}.",
        f"Length: {_length(sum(ours.values()), sum(theirs.values()))}.",
    ]
    style = [
        f"{name}: the user's {user}, the answer's {answer}"
        for (name, user), answer in zip(_style(gold).items(), _style(given).values(), strict=True)
        if user != answer
    ]
    lines.append(f"Style: {'; '.join(style)}." if style else "Style: no difference in case, punctuation or person.")
    return "\n".join(lines)


def _words(text: str) -> Counter[str]:
    # A Counter keeps the order of first appearance.
    return Counter(re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.replace("’", "'").casefold()))


def _listed(words: Iterable[str]) -> str:
    found = list(words)
    if not found:
        return "none"
    more = f" and {len(found) - MAX_WORDS} more" if len(found) > MAX_WORDS else ""
    return ", ".join(found[:MAX_WORDS]) + more


def _length(ours: int, theirs: int) -> str:
    text = f"the user's has {theirs} word{'s' * (theirs != 1)}, the answer {ours}"
    return f"{text} ({ours / theirs:.2f} times as many)" if theirs else text


def _style(text: str) -> dict[str, str]:
    words = set(_words(text))
    return {
        "case": _case(text),
        "question mark": _yes("?" in text),
        "exclamation mark": _yes("!" in text),
        "colon": _yes(":" in text),
        "quotation": _yes(re.search(r"[\"“”«»]|(?<!\w)['‘]\w[^'’]*['’](?!\w)", text) is not None),
        "number": _yes(re.search(r"\d", text) is not None),
        "first person": _yes(bool(words & _FIRST_PERSON)),
        "second person": _yes(bool(words & _SECOND_PERSON)),
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _case(text: str) -> str:
    """Title Case if of the longer words after the first all but a quarter begin with a capital."""
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text)
    letters = [word for word in words if word.upper() != word.lower()]
    if not letters:
        return "none"
    if all(word == word.upper() for word in letters) and any(len(word) > 1 for word in letters):
        return "ALL CAPS"
    if all(word == word.lower() for word in letters):
        return "lower case"
    later = [word for word in letters[1:] if len(word) > 3]
    if later and sum(word[0].isupper() for word in later) >= 0.75 * len(later):
        return "Title Case"
    return "sentence case"
