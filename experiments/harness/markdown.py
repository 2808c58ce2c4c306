"""OUT/report.md: a study in words and tables, GitHub-flavoured Markdown, to be read without anything else at hand.

Names, paths, error texts and settings are data: whatever they hold, they stay in their cell and are shown as they are.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from personaagent.experiments.harness.comparison import Verdict
from personaagent.experiments.harness.markdown_text import Column, code, code_block, plain, sentence, table_block
from personaagent.experiments.harness.overview import INCOMPLETE, incomplete, overview
from personaagent.experiments.harness.paper import paper_figures, paper_table
from personaagent.experiments.harness.statistics import (
    DRAWS,
    EXACT_USERS,
    FEW_CLUSTERS,
    MOST_USERS,
    fewest_users,
)
from personaagent.experiments.harness.tables import (
    ALPHA,
    CENTRE,
    ERRORS,
    Line,
    Table,
    estimate_text,
    metric_title,
    number_text,
)
from personaagent.programs.lm.make import OFFLINE

SCRIPT_TITLES: Mapping[str, str] = {
    "compare": "Methods compared (the paper's Tables 2 and 4)",
    "ablate": "Ablation (the paper's Table 3)",
    "cold_start": "Cold start (the paper's Table 6)",
    "scale": "Test-time scaling (the paper's section 3.5)",
}
CONTROLS: Mapping[str, str] = {
    "swap": "each user is served with another user's history, profile and persona",
}
"""What a control does, in words, unless `About.controls` says it otherwise."""

_INCOMPLETE = f"{INCOMPLETE}: some of its questions failed or wait, and are in no score; see Answers and cost."

MOST_REASONS = 10
"""Reasons of failure that are listed of one row, the most frequent first."""
REASON_CHARS = 300


@dataclass(frozen=True)
class Run:
    """One run of a study and what it really spent, failed attempts included."""

    command: tuple[str, ...]
    """As in `About.command`."""
    lm_calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class About:
    """What a report says beside its tables. Markdown in it is escaped, but for code between backticks in sentences.

    Nothing of it may hold a secret.
    """

    script: str
    """`compare`, `ablate`, `cold_start` or `scale`; another has itself as its title, and no figures of the paper."""
    command: tuple[str, ...]
    """The words of the command line that made the report, the program first, such as
    ("python", "experiments/compare.py", "--users", "20"); shown quoted for a shell."""
    lms: Mapping[str, str] = field(default_factory=dict)
    """{model: title}; a model that is not in it is its own title."""
    centre: tuple[int, int, int] = CENTRE
    """(n, E, K) of the row that the others are held against."""
    method_titles: Mapping[str, str] = field(default_factory=dict)
    """{method: title}; a method that is not in it is its own title."""
    methods: Mapping[str, str] = field(default_factory=dict)
    """{method: what it has and what it lacks}; shown of those that have a row."""
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{method: sentences} on what a method did otherwise in this study than its name says."""
    notes: Sequence[str] = ()
    """Sentences on the study as a whole."""
    controls: Mapping[str, str] = field(default_factory=dict)
    """{control: what it does, in words}, beside `CONTROLS`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    spent: Sequence[Run] = ()
    """All runs of the study, in order."""
    walk_forward: int | None = None
    """So many of each user's newest interactions were asked about, in place of the queries."""
    replayed_from: str | None = None
    """File of recorded calls that answered in the LM's place."""
    also_asked: bool = False
    """Whether the LM itself has answered, too, in another run."""


def report(about: About, made: Sequence[Table]) -> str:
    """The whole of report.md, ending with a newline. The same arguments give the same text.

    Args:
        about: what stands beside the tables.
        made: of `tables.tables`; without one the report says that there are no results.
    """
    parts = [
        *_opening(about, made),
        *_overview(about, made),
        *(part for table in made for part in _section(about, made, table)),
        *_failures(about, made),
        *_costs(about),
        *_methods(about, made),
        *_remarks(about, made),
        *_how(made),
        *_settings(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# -- the sections -------------------------------------------------------------------------------------


def _opening(about: About, made: Sequence[Table]) -> list[str]:
    lms = list(dict.fromkeys(table.lm for table in made)) or list(about.lms)
    names = _joined([_lm(about, lm) for lm in lms])
    title = f"# {SCRIPT_TITLES.get(about.script, plain(about.script))}" + (f": {names}" if names else "")
    command = ["The command that made this report:", code_block(shlex.join(about.command))]
    if not made:
        return [title, "No row has a result yet.", *command]
    lines = [line for table in made for line in table.lines]
    who = _joined([_method(about, method) for method in dict.fromkeys(line.method for line in lines)])
    kind = "the" if lms == [OFFLINE] else "the LM" if len(lms) == 1 else "the LMs"
    words = [f"{who} ({_count(len(lines), 'row')}), answered by {kind} {names}.", _replay(about, lms)]
    if about.walk_forward is not None:
        words.append(
            f"The questions are the last {_count(about.walk_forward, 'interaction')} of each user, one after the "
            f"other: each was answered by what came before it."
        )
    words += [_control(about, lines), _undone(lines), _spent_in_words(about)]
    parts = [title, " ".join(word for word in words if word)]
    if OFFLINE in lms:
        parts.append(
            "**The offline reader is no language model: its figures show that information about a user reaches the "
            "prompt. They say nothing about language models and do not compare with the paper's.**"
        )
    return [*parts, "\n".join(f"- {_of_a_table(about, made, table)}" for table in made), *command]


def _of_a_table(about: About, made: Sequence[Table], table: Table) -> str:
    info = table.info
    labels = f", {info.labels} possible answers" if info.labels else ""
    size = f"{_count(info.users, 'user')}, {_count(info.queries, 'query', 'queries')}{labels}"
    apart = f"{_apart_of(table)} of rows can be told apart" if table.users > 1 else "no pair of rows can be judged"
    return f"{_heading(about, made, table)}: {size}, data: {code(info.source)}; {apart}."


def _replay(about: About, lms: Sequence[str]) -> str:
    if about.replayed_from is not None and about.also_asked:
        return f"A part of the answers is replayed from {code(about.replayed_from)}."
    if about.replayed_from is not None:
        return f"No LM was asked: the answers are replayed from {code(about.replayed_from)}."
    return "" if list(lms) == [OFFLINE] else "No answer is a replay."


def _control(about: About, lines: Sequence[Line]) -> str:
    controls = dict.fromkeys(line.control for line in lines)
    words = {**CONTROLS, **about.controls}
    named = [f"{code(c)} ({sentence(words[c])})" if c in words else code(c) for c in controls if c != "none"]
    if not named:
        return "There is no control: each user is served with their own data."
    return f"Control{'' if 'none' not in controls else ', in rows that say so'}: {_joined(named)}."


def _undone(lines: Sequence[Line]) -> str:
    asked = _count(sum(line.total("queries") for line in lines), "question")
    failed, waiting = sum(line.total("failed") for line in lines), sum(line.waiting for line in lines)
    failures = f"**{failed:,} of {asked} failed**" if failed else f"None of {asked} failed"
    waits = f"**{waiting:,} {'waits' if waiting == 1 else 'wait'} for another run**" if waiting else "none is waiting"
    return f"{failures}, and {waits}."


def _spent_in_words(about: About) -> str:
    if not about.spent:
        return ""
    calls, prompt, completion, seconds = _spent(about.spent)
    runs = _count(len(about.spent), "run")
    return f"Spent: {calls} LM calls, {prompt} prompt and {completion} completion tokens, {seconds} seconds in {runs}."


def _overview(about: About, made: Sequence[Table]) -> list[str]:
    found = overview(made, lambda method: _method(about, method), lambda lm: _lm(about, lm))
    if not found:
        return []
    words = "The score of each row, with its 95 % interval; what can be told apart is said of each table by itself."
    if any(incomplete(line) for table in made for line in table.lines):
        words += f" {_INCOMPLETE}"
    return [part for heading, block in found for part in (f"## {heading}", block)] + [words]


def _section(about: About, made: Sequence[Table], table: Table) -> list[str]:
    return [
        f"## {_heading(about, made, table)}",
        _scores(about, table),
        _legend(about, table),
        "### What can be told apart",
        *_apart(about, table),
        "### Answers and cost",
        *_answers(about, table),
    ]


def _scores(about: About, table: Table) -> str:
    lines, metrics = table.lines, table.info.metrics[:2]
    columns = [Column("#", "right", [str(index + 1) for index in range(len(lines))])]
    if len({line.method for line in lines}) > 1:
        marks = [("†" if about.remarks.get(line.method) else "") + incomplete(line) for line in lines]
        names = [_method(about, line.method) + mark for line, mark in zip(lines, marks, strict=True)]
        columns.append(Column("method", "left", names))
    for place, axis in enumerate("nEK"):
        columns.append(Column(axis, "right", [str(line.setting[place]) for line in lines]))
    if table.histories != ("all",):
        columns.append(Column("history", "right", [plain(line.cell.history) for line in lines]))
    if len({line.control for line in lines}) > 1:
        columns.append(Column("control", "left", [plain(line.control) for line in lines]))
    if any(len(line.rows) > 1 for line in lines):
        columns.append(Column("seeds", "right", [_ranges(line.seeds) for line in lines]))
    for place, metric in enumerate(metrics):
        found = [(line.score, line.second)[place] for line in lines]
        columns.append(Column(_metric_heading(metric), "right", [estimate_text(one, metric) for one in found]))
    paper, figures = paper_table(about.script, table.task), [_paper(about, table, line) for line in lines]
    if paper is not None and any(figures):
        heading = f"paper, {paper.source}" + (", not comparable" if table.lm == OFFLINE else "")
        columns.append(Column(heading, "right", [figure or "-" for figure in figures]))
    if table.users > 1:
        columns.append(Column("told apart from", "left", [_told_apart(table, index) for index in range(len(lines))]))
    return table_block(columns)


def _legend(about: About, table: Table) -> str:
    words = [
        "n: interactions that the persona is aligned to; E: iterations of that; K: memories recalled. In brackets: "
        "95 % intervals, clustered by user; `[-]`: all users are alike, which gives none."
    ]
    if table.users > 1:
        words.append("Told apart from: `> 1` is better than row 1, `< 1` worse than row 1, after Holm's correction.")
    methods = {line.method for line in table.lines}
    if len(methods) > 1 and any(about.remarks.get(method) for method in methods):
        words.append("†: see Remarks.")
    if len(methods) > 1 and any(incomplete(line) for line in table.lines):
        words.append(_INCOMPLETE)
    if "f1" in table.info.metrics[:2]:
        words.append("Macro-F1 is the official one: over all possible answers, also those that do not occur here.")
    paper = paper_table(about.script, table.task)
    if paper is not None and any(_paper(about, table, line) for line in table.lines):
        words.append(
            f"The paper's column: {' / '.join(map(metric_title, table.info.metrics[:2]))} of its Table {paper.number}, "
            "of its own users and without intervals, so that nothing is tested against it."
        )
    users = len({user for line in table.lines for user, _ in line.scores})
    if users == 1:
        words.append("**Of one user there is no interval.**")
    elif users and users < FEW_CLUSTERS:
        words.append(f"**With {users} users, fewer than {FEW_CLUSTERS}, the intervals are not to be relied on.**")
    return " ".join(words)


def _apart(about: About, table: Table) -> list[str]:
    if table.users < 2:
        return [
            "Nothing is judged: that takes two rows of one history with answers to questions of the same two users or "
            "more."
        ]
    judged = [verdict for verdict in table.verdicts if verdict.difference.users > 1]
    rest, untold = sum(not verdict.separable for verdict in judged), len(table.verdicts) - len(judged)
    noise = f"; {rest:,} cannot be told from noise" if rest else ""
    noise += f"; {untold:,} cannot be judged, for want of questions that both answered" if untold else ""
    metric = plain(metric_title(table.info.metrics[0]))
    return [
        f"{_apart_of(table)} of rows can be told apart by {metric} at {_level(ALPHA)} after Holm's correction over the "
        f"pairs of this table (one task, one LM){noise}. All are in `pairs.csv`.",
        _hopeless(table),
        *_against(about, table),
    ]


def _against(about: About, table: Table) -> list[str]:
    """The pairs of the reference row, or of that of each history."""
    references = [table.reference(history, about.centre) for history in table.histories]
    found = [(r, other, verdict) for r in references if r is not None for other, verdict in table.against(r)]
    if not found:
        return []
    metric, first = table.info.metrics[0], found[0][0]
    who, better = f"Row {_row(about, table, first)}, against the others", f"row {first + 1}"
    columns = []
    if len({r for r, _, _ in found}) > 1:
        who, better = "The reference of each history, against the others of it", "the row named first"
        columns.append(Column("row", "left", [_row(about, table, r) for r, _, _ in found]))
    turned = "" if table.info.higher_is_better else " (turned round: less is better)"
    words = (
        f"{who}. A difference is in {plain(metric_title(metric))}{turned}, over the queries that both answered; where "
        f"it is positive, {better} is better. Intervals are not corrected for the number of pairs."
    )
    verdicts = [verdict for _, _, verdict in found]
    differences = [verdict.difference for verdict in verdicts]
    intervals = [estimate_text(one.interval, metric, difference=True) for one in differences]
    needed = [f"{_needed(v.users_needed)} / {_needed(v.users_needed_in_table)}" for v in verdicts]
    columns += [
        Column("against", "left", [_row(about, table, other) for _, other, _ in found]),
        Column("difference [95 % interval]", "right", intervals),
        Column("queries", "right", [f"{one.queries:,}" for one in differences]),
        Column("p", "right", [_p(one.test.p) for one in differences]),
        Column("p, Holm", "right", [_p(verdict.p_holm) for verdict in verdicts]),
        Column("verdict", "left", [_verdict(verdict) for verdict in verdicts]),
        Column("users needed, alone / in this table", "right", needed),
    ]
    return [words, table_block(columns), _power(table, found)]


def _hopeless(table: Table) -> str:
    """That no scores at all could have made a pair of the table separable, where this is so."""
    pairs = len(table.verdicts)
    least = fewest_users(ALPHA / pairs)
    if table.users < least:
        return (
            f"**With {table.users} users no pair of this table can be separable, whatever the scores: among "
            f"{_count(pairs, 'pair')} that takes {least} users or more.**"
        )
    if ALPHA / pairs < 1 / (1 + DRAWS):
        return (
            f"**Among {pairs:,} pairs none in which more than {EXACT_USERS} users differ can be separable, whatever "
            f"the scores: {DRAWS:,} draws cannot reach {_level(ALPHA)} / {pairs:,}. Fewer rows would.**"
        )
    return ""


def _power(table: Table, found: Sequence[tuple[int, int, Verdict]]) -> str:
    """The last column in words, with the nearest pair that is not separable as an example."""
    words = (
        "Users needed: with so many, drawn alike, a difference of this size would be separable with 80 % power at "
        f"{_level(ALPHA)}, were it the only pair / as one of {_count(len(table.verdicts), 'pair')}. It is a size to "
        f"plan the next study by; `-`: none up to {MOST_USERS:,}."
    )
    nearest = [
        (v.users_needed, v.users_needed_in_table, reference + 1, other + 1)
        for reference, other, v in found
        if not v.separable and v.users_needed is not None and v.users_needed_in_table is not None
    ]
    if not nearest:
        return words
    alone, together, row, other = min(nearest)
    return (
        f"{words} The nearest pair: with 80 % power at {_level(ALPHA)}, about {alone:,} users would separate row {row} "
        f"from row {other} (this pair alone), about {together:,} within this table."
    )


def _answers(about: About, table: Table) -> list[str]:
    lines = table.lines
    columns = [
        Column("row", "left", [_row(about, table, index) for index in range(len(lines))]),
        Column("answered", "right", [f"{line.total('answered'):,} / {line.total('queries'):,}" for line in lines]),
        Column("unparsed", "right", [f"{line.total('unparsable'):,}" for line in lines]),
        Column("failed", "right", [f"{line.total('failed'):,}" for line in lines]),
    ]
    if any(line.waiting for line in lines):
        columns.append(Column("waiting", "right", [f"{line.waiting:,}" for line in lines]))
    if any(line.total("failed") for line in lines):
        worst = [line.mean("score_failed_as_worst") for line in lines]
        heading = f"{plain(metric_title(table.info.metrics[0]))}, failed as worst"
        columns.append(Column(heading, "right", ["-" if one is None else number_text(one) for one in worst]))
    calls = [[line.total(f"{phase}_lm_calls") for phase in ("profile", "align", "serve")] for line in lines]
    summed = [" + ".join(f"{count:,}" for count in one) + f" = {sum(one):,}" for one in calls]
    tokens = [f"{line.total('prompt_tokens'):,} + {line.total('completion_tokens'):,}" for line in lines]
    columns.append(Column("LM calls: learning + alignment + answers", "right", summed))
    columns.append(Column("tokens: prompt + completion", "right", tokens))
    seeds = " Of several seeds, all together." if any(len(line.rows) > 1 for line in lines) else ""
    words = (
        "Unparsed answers count as wrong, failed questions have no score. Calls and tokens are of all that a row rests "
        f"on: what rows share is counted in each, and once under Costs.{seeds}"
    )
    return [table_block(columns), words]


def _failures(about: About, made: Sequence[Table]) -> list[str]:
    if not made:
        return []
    found: list[tuple[Table, int, str, int]] = []
    for table in made:
        for index, line in enumerate(table.lines):
            reasons = list(line.failures.items())
            found += [(table, index, code(_shortened(reason)), count) for reason, count in reasons[:MOST_REASONS]]
            if rest := reasons[MOST_REASONS:]:
                found.append((table, index, _count(len(rest), "other reason"), sum(count for _, count in rest)))
    words = "No question failed."
    if found:
        columns = [
            Column("row", "left", [_row(about, table, index) for table, index, _, _ in found]),
            Column("reason", "left", [reason for _, _, reason, _ in found]),
            Column("questions", "right", [f"{count:,}" for _, _, _, count in found]),
        ]
        if len(made) > 1:
            columns.insert(0, Column("table", "left", [_heading(about, made, table) for table, _, _, _ in found]))
        words = table_block(columns)
    waiting = sum(line.waiting for table in made for line in table.lines)
    waits = f"{_count(waiting, 'question')} left for another run: the same command goes on there." if waiting else ""
    return ["## Failures", words, waits]


def _costs(about: About) -> list[str]:
    if not about.spent:
        return ["## Costs", "No run is on record."]
    lines = [[str(number), *_spent([run]), code(shlex.join(run.command))] for number, run in enumerate(about.spent, 1)]
    if len(lines) > 1:
        lines.append(["all", *_spent(about.spent), ""])
    headings = ("run", "LM calls", "prompt tokens", "completion tokens", "seconds", "command")
    columns = [
        Column(heading, "left" if heading == "command" else "right", cells)
        for heading, cells in zip(headings, zip(*lines, strict=True), strict=True)
    ]
    words = "What the runs of this study really spent, failed attempts included."
    return ["## Costs", words, table_block(columns)]


def _spent(runs: Sequence[Run]) -> list[str]:
    """LM calls, prompt tokens, completion tokens and seconds."""
    counts = [sum(getattr(run, name) for run in runs) for name in ("lm_calls", "prompt_tokens", "completion_tokens")]
    return [*(f"{count:,}" for count in counts), f"{math.fsum(run.seconds for run in runs):,.0f}"]


def _methods(about: About, made: Sequence[Table]) -> list[str]:
    methods = dict.fromkeys(line.method for table in made for line in table.lines)
    lines = [f"- {_method(about, name)}: {sentence(about.methods[name])}" for name in methods if name in about.methods]
    return ["## Methods", "\n".join(lines)] if lines else []


def _remarks(about: About, made: Sequence[Table]) -> list[str]:
    methods = dict.fromkeys(line.method for table in made for line in table.lines)
    lines = [
        f"- {_method(about, method)}: {' '.join(map(sentence, about.remarks[method]))}"
        for method in methods
        if about.remarks.get(method)
    ]
    lines += [f"- {sentence(note)}" for note in about.notes]
    return ["## Remarks", "\n".join(lines)] if lines else []


def _how(made: Sequence[Table]) -> list[str]:
    if not made:
        return []
    words = [
        "Metrics are the task's official ones over answered questions; an unparsable answer is answered and wrong.",
        "Intervals take users as clusters: t with G - 1 degrees of freedom for G users (Miller 2024, arXiv "
        "2411.00640; Cameron and Miller 2015); for macro-F1 and RMSE by leaving out one user at a time (jackknife). "
        "Bounds are shown clipped to what the metric can be.",
        "Differences are paired, over the queries that both rows answered, each weighing the same.",
        f"p is of the two-sided sign-flip test over users: exact where up to {EXACT_USERS} users differ "
        f"(2^{EXACT_USERS} flips), else over {DRAWS:,} draws with a fixed seed.",
        f"Separable: p at most {_level(ALPHA)} after Holm's correction over all pairs of one table, that is of one "
        "task and LM. Only rows of the same history are paired.",
    ]
    if any(len(line.rows) > 1 for table in made for line in table.lines):
        words.append(
            "Of several seeds, a question's score is its mean over those that answered it; the second metric is the "
            "mean over seeds, without an interval."
        )
    return ["## How these figures are made", "\n".join(f"- {word}" for word in words)]


def _settings(about: About) -> list[str]:
    lines = [
        f"- {title}: " + ", ".join(code(f"{name}{sign}{value}") for name, value in values.items())
        for title, sign, values in (("Settings", "=", about.settings), ("Versions", " ", about.versions))
        if values
    ]
    return ["## Settings and versions", "\n".join(lines)] if lines else []


# -- words and numbers --------------------------------------------------------------------------------


def _heading(about: About, made: Sequence[Table], table: Table) -> str:
    """A table's task, with the LM where there are several."""
    several = len({one.lm for one in made}) > 1
    return plain(table.info.title) + (f", {_lm(about, table.lm)}" if several else "")


def _lm(about: About, lm: str) -> str:
    title = about.lms.get(lm, lm)
    return plain(title) if lm == OFFLINE else code(title)


def _method(about: About, method: str) -> str:
    return plain(about.method_titles.get(method, method))


def _row(about: About, table: Table, index: int) -> str:
    """A row by number, method, and what tells it from others of its method, which alone may do."""
    line = table.lines[index]
    alone = line.detail and len({one.method for one in table.lines}) == 1
    detail = f" ({plain(line.detail)})" if line.detail else ""
    return f"{index + 1}{'' if alone else f' {_method(about, line.method)}'}{detail}"


def _metric_heading(metric: str) -> str:
    lower = ", lower is better" if metric in ERRORS else ""
    return f"{plain(metric_title(metric))}{lower} [95 % interval]"


def _paper(about: About, table: Table, line: Line) -> str:
    """The paper's figures of a row's cell, or nothing."""
    if line.control != "none" or any(row.values.get("profile") == "off" for row in line.rows):
        return ""
    if about.walk_forward is not None:  # other questions than the paper's
        return ""
    figures = paper_figures(about.script, line.cell)
    return " / ".join(number_text(figures[metric]) for metric in table.info.metrics[:2] if metric in figures)


def _told_apart(table: Table, index: int) -> str:
    better, worse = table.told_apart(index)
    parts = [f"{sign} {_ranges([i + 1 for i in found])}" for sign, found in ((">", better), ("<", worse)) if found]
    return "; ".join(parts) or "none"


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, three or more that follow each other as a range: 1-3, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(number) for number in run] for run in runs]
    return ", ".join(text for part in parts for text in part)


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _level(value: float) -> str:
    """0.05 as .05."""
    return f"{value:g}".removeprefix("0")


def _verdict(verdict: Verdict) -> str:
    better = "better" if verdict.difference.interval.estimate > 0 else "worse"
    return f"separable, {better}" if verdict.separable else "not separable from noise"


def _needed(users: int | None) -> str:
    return "-" if users is None else f"{users:,}"


def _apart_of(table: Table) -> str:
    apart = sum(verdict.separable for verdict in table.verdicts)
    return f"{apart:,} of {_count(len(table.verdicts), 'pair')}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _joined(texts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_CHARS else text[: REASON_CHARS - 1] + "…"
