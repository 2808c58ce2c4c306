"""From an LM's text to an answer: tables of what LMs write, with what a person would say the answer is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp.parse import parse_label, parse_rating, parse_text
from personaagent.datasets.lamp.tasks import LAMP_2M_LABELS as MOVIES
from personaagent.datasets.lamp.tasks import LAMP_2N_LABELS as NEWS

REFERENCES = ("[1]", "[2]")

_MOVIE_ANSWERS: list[tuple[str, str | None]] = [
    # Bare, wrapped, led.
    ("comedy", "comedy"),
    ("Comedy.", "comedy"),
    (" sci fi ", "sci-fi"),
    ("SCI-FI", "sci-fi"),
    ("SCI_FI", "sci-fi"),
    ("Scifi", "sci-fi"),
    ("sci‑fi", "sci-fi"),
    ("dark-comedy", "dark comedy"),
    ("Based On A\nBook", "based on a book"),
    ("thought provoking!", "thought-provoking"),
    ("<answer>comedy</answer>", "comedy"),
    ("[[ ## answer ## ]]\ncomedy\n\n[[ ## completed ## ]]", "comedy"),
    ("```\ncomedy\n```", "comedy"),
    ('```json\n{"answer": "comedy"}\n```', "comedy"),
    ("***comedy***", "comedy"),
    ("\\boxed{comedy}", "comedy"),
    ("$\\boxed{\\text{dark comedy}}$", "dark comedy"),
    ("Answer - dark comedy", "dark comedy"),
    ("**Final Answer:**\n\ncomedy", "comedy"),
    ("Tag: **comedy**", "comedy"),
    ("My answer would be comedy", "comedy"),
    ("The most fitting tag for this movie is: comedy", "comedy"),
    ("Based on the user's history, the best tag is 'twist ending'.", "twist ending"),
    ("Sure! The tag for this movie would be **psychology**.", "psychology"),
    ("I'd go with romance.", "romance"),
    ("I think this user would tag the movie as dystopia.", "dystopia"),
    ("It is a dark  comedy of manners", "dark comedy"),
    ("- comedy", "comedy"),
    ("1. comedy", "comedy"),
    ("comedy 🎬", "comedy"),
    # JSON.
    ('{"answer": "comedy"}', "comedy"),
    ('["comedy"]', "comedy"),
    ('{"tag": "comedy", "reason": "has no action"}', "comedy"),
    ('{"reasoning": "a romance at first, then action", "answer": "Sci Fi"}', "sci-fi"),
    ('Here is the JSON:\n{"tag": "violence", "confidence": 0.8}', "violence"),
    ('{"answer": {"tag": "fantasy"}}', "fantasy"),
    ('["comedy","action"]', None),
    ('{"answer": ["comedy","action"]}', None),
    ('{"answer": ["comedy"]}', "comedy"),
    ('{"answer": null}', None),
    ('[{"tag": "comedy"}]', "comedy"),
    ("[]", None),
    ('{"comedy": 0.9, "action": 0.1}', None),
    # The label first, then an explanation.
    ("comedy. The user likes action films too.", "comedy"),
    ("comedy (not action)", "comedy"),
    ("comedy - because it is no drama", "comedy"),
    ("Comedy\n\nExplanation: though romance plays a part, the jokes come first.", "comedy"),
    ("**comedy**\n\nThe film mixes action and romance, but its tone is light.", "comedy"),
    ("comedy: the user tagged similar films as comedy, and one as romance", "comedy"),
    ("Answer: comedy\nReason: the action is a joke", "comedy"),
    ("Comedy, because the romance is only a side story.", "comedy"),
    ("true story — it follows the classic biopic pattern", "true story"),
    # Reasoning first, then the answer.
    ("comedy or action? I choose:\naction", "action"),
    ("The film has romance and violence in it, so the answer is **comedy**", "comedy"),
    ("Romance is present.\nAction is present.\n\nFinal answer: fantasy", "fantasy"),
    ("It could be comedy. It could be romance.\n\nromance", "romance"),
    ("<think>comedy? no, action. or romance</think>\n\ndystopia", "dystopia"),
    ("I considered action and violence. Therefore: violence.", "violence"),
    (
        "Step 1: there is romance.\nStep 2: there is a twist ending.\nTherefore, the tag should be twist ending.",
        "twist ending",
    ),
    ("Comedy might work, but action is the best fit.", "action"),
    ("Comedy is one option, but the answer is action", "action"),
    ("tags: [comedy, action, romance] description: two spies meet. Answer: action", "action"),
    # Rejected names.
    ("I would choose comedy over action", "comedy"),
    ("not comedy but action", "action"),
    ("It is action rather than comedy.", "action"),
    ("Instead of romance, this is a classic.", "classic"),
    ("more of a dark comedy than a comedy", "dark comedy"),
    ("It isn't comedy. It's action.", "action"),
    ("This isn't really a romance; violence is at its centre", "violence"),
    ("neither comedy nor romance, but action", "action"),
    ("Comedy does not fit, psychology does.", "psychology"),
    ("not only comedy but also action", None),
    ("neither comedy nor romance", None),
    ("not a comedy", None),
    # One label named as whole words.
    ("comedy, comedy and again comedy", "comedy"),
    ("This movie relates to social commentary", "social commentary"),
    ("romantic comedy", "comedy"),
    ("reaction", None),
    ("classical", None),
    ("comedies", None),
    ("comedy-drama", None),
    # Other languages.
    ("La respuesta es: comedy", "comedy"),
    ("Die Antwort lautet comedy.", "comedy"),
    ("答案是comedy。", "comedy"),
    ("Ответ: comedy", "comedy"),
    ("comedia", None),
    ("La etiqueta es comedia", None),
    # Ambiguous.
    ("comedy, action", None),
    ("comedy or romance", None),
    ("comedy / romance", None),
    ("comedy/romance", None),
    ("either comedy or action", None),
    ("comedy and romance", None),
    ("comedy, dark comedy", None),
    ("comedy & action", None),
    ("comedy as well as action", None),
    ("comedy\naction", None),
    ("- comedy\n- action", None),
    ("1. comedy\n2. action", None),
    ("Comedy: the jokes.\nAction: the fights.", None),
    ("Tags: comedy, action", None),
    ("The answer is comedy or action.", None),
    ("I cannot choose between comedy and action.", None),
    ("a true (based on a book) story and a romance", None),
    (", ".join(MOVIES), None),
    ("\n".join(MOVIES), None),
    ("tags: [" + ", ".join(MOVIES) + "]", None),
    # Nothing.
    ("", None),
    (" \n", None),
    ("...", None),
    ("Answer:", None),
    ("drama", None),
    ("I'm sorry, I can't help with that.", None),
    ("I'm sorry, but I cannot say whether this is a comedy.", None),
    ("There is not enough information to pick a tag.", None),
    ("None of the above", None),
    ("<think>comedy or action</think>", None),
]

_NEWS_ANSWERS: list[tuple[str, str | None]] = [
    ("science and technology", "science & technology"),
    ("Science & Technology", "science & technology"),
    ("science &amp; technology", "science & technology"),
    ("Category: Food and Drink", "food & drink"),
    ("culture & arts", "culture & arts"),
    ("Culture and Arts.", "culture & arts"),
    ("style and beauty, not women", "style & beauty"),
    ("healthy-living", "healthy living"),
    ("This article is about women in business. The category is politics.", "politics"),
    ("The article relates to the category 'women'.", "women"),
    ("politics, since the crime is only its occasion", "politics"),
    ("The author writes on travel and religion. This article fits best in religion.", "religion"),
    ("**Category:** sports\n\n**Reasoning:** the business side is minor.", "sports"),
    ("I would classify this article as entertainment", "entertainment"),
    ("Politics is the most relevant category, although crime is mentioned", "politics"),
    ("It is on violence against women.", "women"),
    ("business and politics", None),
    ("food & drink and travel", None),
    ("food", None),
    ("science", None),
    ("sportswear", None),
    ("parents or education", None),
    ("politics|crime", None),
]

_REFERENCE_ANSWERS: list[tuple[str, str | None]] = [
    ("[1]", "[1]"),
    (" [2]\n", "[2]"),
    ("1", "[1]"),
    ("2.", "[2]"),
    ("[1].", "[1]"),
    ("Reference 1", "[1]"),
    ("(2)", "[2]"),
    ("Option [2]", "[2]"),
    ('[1]: "Some title 2"', "[1]"),
    ("The answer is [2]", "[2]"),
    ("**[2]**", "[2]"),
    ('{"answer": "[1]"}', "[1]"),
    ('{"answer": 2}', "[2]"),
    ("\\boxed{[1]}", "[1]"),
    ("【2】", "[2]"),
    ("Reference [1] is more related than [2].", "[1]"),
    ("[2], because [1] is about graphs", "[2]"),
    ("[1] is not related, so it is [2].", "[2]"),
    ("I would choose [2] over [1].", "[2]"),
    ('The related reference is "Learning in 2 Steps", that is [1].', "[1]"),
    ('"Learning in 2 Steps" is related: reference 1', "[1]"),
    ("the second reference", "[2]"),
    ("The first one is more related.", "[1]"),
    ("[1] deals with graphs and [2] with trees.\n\nAnswer: [2]", "[2]"),
    ("Out of the 2 references, [1] is the closer one", "[1]"),
    ("[1] and [2]", None),
    ("[1] or [2]", None),
    ("[1], [2]", None),
    ("[1, 2]", None),
    ("1 or 2", None),
    ("Reference 1 and 2", None),
    ("both", None),
    ("neither [1] nor [2]", None),
    ("[3]", None),
    ("12", None),
    ("", None),
    ('[1]: "A study" [2]: "A survey"', None),
]


# Written when the parser was done, to see how it does on what it was not made for.
_FRESH_LABELS: list[tuple[tuple[str, ...], str, str | None]] = [
    (MOVIES, "**Tag:** sci-fi\n\n**Explanation:** The film is set in space with some action and a romance.", "sci-fi"),
    (
        MOVIES,
        'Based on the description, this movie would most likely be tagged as "psychology" by the user.',
        "psychology",
    ),
    (MOVIES, "The movie is best described as a thought-provoking film.", "thought-provoking"),
    (MOVIES, "Tag: Thought-Provoking", "thought-provoking"),
    (MOVIES, "Given the user's preference for action and sci-fi, I'd tag this as sci-fi.", "sci-fi"),
    (
        MOVIES,
        'The user has tagged many movies as "comedy" and "romance". For this one, the answer is: romance',
        "romance",
    ),
    (
        MOVIES,
        "Let me think.\n1. The plot is about a robot -> sci-fi\n2. There's a love story -> romance\n\n**sci-fi**",
        "sci-fi",
    ),
    (MOVIES, "violence.", "violence"),
    (MOVIES, 'The tag that best fits this movie is "true story" (it could also be "classic").', "true story"),
    (MOVIES, "true story (based on a book)", None),
    (MOVIES, "I believe the correct tag is dystopia rather than sci-fi.", "dystopia"),
    (MOVIES, "Both comedy and romance would fit, but romance fits better.", "romance"),
    (MOVIES, "dystopia, sci-fi, action", None),
    (MOVIES, "Answer: comedy, romance", None),
    (MOVIES, "The answer is: comedy (confidence: 80%)", "comedy"),
    (MOVIES, "comedy [because the user likes it]", "comedy"),
    (MOVIES, "comedy\n\nI hope this helps! Let me know if you need romance tags.", "comedy"),
    (MOVIES, "Output: comedy", "comedy"),
    (MOVIES, "> comedy", "comedy"),
    (MOVIES, "* comedy", "comedy"),
    (MOVIES, "tag=comedy", "comedy"),
    (MOVIES, "#comedy", "comedy"),
    (MOVIES, "The tag is not comedy. The tag is romance.", "romance"),
    (MOVIES, "comedy is the answer", "comedy"),
    (MOVIES, "`dark comedy`: it makes jokes of violence", "dark comedy"),
    (MOVIES, "I can't decide between comedy and romance, but if forced, comedy.", None),
    (
        MOVIES,
        "The user's profile suggests action. However, this film adapts a novel, so I'd say based on a book.",
        "based on a book",
    ),
    (MOVIES, "Le film est une comédie.", None),
    (MOVIES, "Je choisirais: fantasy", "fantasy"),
    (MOVIES, "Unknown", None),
    (MOVIES, "The final tag for this movie, considering the user's history of action films, is fantasy.", "fantasy"),
    (MOVIES, "Considering all: action 3/5, comedy 2/5. Tag: action", "action"),
    (MOVIES, "{'tag': 'comedy'}", "comedy"),
    (MOVIES, '{"tags": ["comedy"]}', "comedy"),
    (MOVIES, '{"result": "comedy"}', "comedy"),
    (MOVIES, '"comedy"\n\n"action"', None),
    (MOVIES, "sci-fi/action", None),
    (MOVIES, "sci-fi and not action", "sci-fi"),
    (MOVIES, "Comedy! Definitely comedy, no romance here.", "comedy"),
    (NEWS, "The article falls under the category of **healthy living**.", "healthy living"),
    (NEWS, "Category: politics\nConfidence: high\nOther candidates: crime, women", "politics"),
    (
        NEWS,
        "This article relates most closely to the category of education, since it is written for parents.",
        "education",
    ),
    (NEWS, "education.\n\nThe article targets parents, but the focus is schools.", "education"),
    (NEWS, "Among food & drink, sports, education, parents, religion, travel, the best match is travel.", "travel"),
    (NEWS, 'the most relevant category would be "culture & arts" or "entertainment"', None),
    (NEWS, "culture &arts", "culture & arts"),
    (NEWS, "Science/Technology", None),
    (NEWS, "As an AI language model, I cannot categorise this.", None),
    (NEWS, "It's about crime. Not politics.", "crime"),
    (NEWS, "Women's rights are its subject, so: women", "women"),
    (
        REFERENCES,
        'Answer: [2] because the user\'s paper with the title "X" deals with the same thing as [2], unlike [1].',
        "[2]",
    ),
    (REFERENCES, "I would go with reference [1].", "[1]"),
    (REFERENCES, "Reference 2 is related.", "[2]"),
    (REFERENCES, "[1]\n\nExplanation: [1] is about X and [2] is about Y", "[1]"),
    (REFERENCES, "Let's compare [1] and [2]. [1] covers X. [2] covers Y, as the author does. Therefore [2].", "[2]"),
    (REFERENCES, "Therefore, the related reference is [1].", "[1]"),
    (REFERENCES, "Title [2]", "[2]"),
    (REFERENCES, "The answer is 1", "[1]"),
    (REFERENCES, "It is the second.", "[2]"),
    (REFERENCES, '[2] "GPT-2 for 1 Shot"', "[2]"),
    (REFERENCES, "Neither of them", None),
    (REFERENCES, "I can't tell whether [1] or [2]", None),
    (REFERENCES, "option 1, not option 2", "[1]"),
    (REFERENCES, "Both [1] and [2] are relevant, but [1] is the most related.", "[1]"),
    (REFERENCES, "#2", "[2]"),
    (REFERENCES, "[1] is more relevant", "[1]"),
    (REFERENCES, "\\[1\\]", "[1]"),
    (REFERENCES, '{"reference": [1]}', "[1]"),
    (REFERENCES, "2)", "[2]"),
    # Not read, where a person may well say `dystopia`: None is the safer of the two mistakes.
    (MOVIES, "This could be either sci-fi or dystopia, but since the user often chooses dystopia, dystopia.", None),
    (NEWS, "politics (with elements of business)", "politics"),
]


# What a reviewer found to be read wrongly, or not at all.
_REVIEWED_LABELS: list[tuple[tuple[str, ...], str, str | None]] = [
    (MOVIES, "Most likely: psychology. Second choice: social commentary.", "psychology"),
    (MOVIES, "First choice: comedy. Second choice: romance.", "comedy"),
    (MOVIES, "Most likely tag: psychology. Runner-up tag: violence", "psychology"),
    (MOVIES, "Primary tag: action\nSecondary tag: violence", "action"),
    (MOVIES, "Answer: comedy. Wait, no: romance.", "romance"),
    (MOVIES, 'Action: recall["x"]', None),
    (MOVIES, "Action: wikipedia[dark comedy]", None),
    (MOVIES, "Action Input: a film of fights", None),
    (MOVIES, "Action Input: comedy", None),
    (MOVIES, "Thought: I know enough of the user.\nAction: finish", None),
    (REFERENCES, "Reference [2] is related because [1] is about something else.", "[2]"),
    (REFERENCES, "While [1] discusses graphs, [2] matches the author's work.", "[2]"),
    (REFERENCES, "[1] is unrelated. [2] is related.", "[2]"),
    (REFERENCES, "The former", "[1]"),
    (REFERENCES, "the latter.", "[2]"),
    (REFERENCES, "second", "[2]"),
    (MOVIES, "The user tags such films as sci-fi or as action, but the state rules all here, so: dystopia", "dystopia"),
    (NEWS, "Most of their articles are on travel and politics. This article: business.", "business"),
    (NEWS, "It is about women who run for office, i.e. politics.", "politics"),
    (MOVIES, "Science fiction", None),
]

# Of the same kinds, each written with its answer before it was read.
_FURTHER_LABELS: list[tuple[tuple[str, ...], str, str | None]] = [
    (MOVIES, "Best tag: fantasy. Alternative: romance.", "fantasy"),
    (MOVIES, "1st choice: action; 2nd choice: sci-fi", "action"),
    (MOVIES, "Top pick: dystopia\nBackup: sci-fi\nThird: action", "dystopia"),
    (MOVIES, "Secondary tag: violence\nPrimary tag: action", "action"),
    (MOVIES, "classic (second-best: romance)", "classic"),
    (MOVIES, "Tag: romance. Other possible tags: comedy, classic.", "romance"),
    (MOVIES, "I'd pick fantasy. The next best would be romance.", "fantasy"),
    (MOVIES, "comedy... no, wait, dark comedy", "dark comedy"),
    (MOVIES, "Answer: romance. Actually, the user prefers comedy, so comedy.", None),
    (MOVIES, "The tag is comedy. Correction: dark comedy.", "dark comedy"),
    (MOVIES, "romance. On second thought, it's a classic.", "classic"),
    (MOVIES, "Is it comedy? No, romance.", "romance"),
    (MOVIES, "Answer: comedy. Actually, the film has some romance too.", "comedy"),
    (MOVIES, "Answer: comedy. No action in it at all.", "comedy"),
    (MOVIES, "Tag: action. Wait, let me look at the history again.", None),
    (MOVIES, 'recall(query="dark comedy")', None),
    (MOVIES, '{"name": "recall", "arguments": {"query": "romance"}}', None),
    (MOVIES, "Thought: I should look up films with violence.\nAction: search\nAction Input: violence", None),
    (MOVIES, "Thought: The user likes jokes.\nAction: finish[comedy]", "comedy"),
    (
        MOVIES,
        '[[ ## next_thought ## ]]\nHm.\n[[ ## next_tool_name ## ]]\nrecall\n[[ ## next_tool_args ## ]]\n{"q":"comedy"}',
        None,
    ),
    (MOVIES, "Action: the film is full of fights.", "action"),
    (MOVIES, "The film mixes sci-fi and action. For this movie: sci-fi.", "sci-fi"),
    (MOVIES, "There is romance, and there is humour all over it, hence comedy.", "comedy"),
    (MOVIES, "It has elements of action, but I lean romance.", "romance"),
    (NEWS, "It covers schools and parents, that is, education.", "education"),
    (NEWS, "The author writes on crime. This one: politics", "politics"),
    (NEWS, "Although business is mentioned, politics dominates.", "politics"),
    (NEWS, "Primary category: sports (secondary: business)", "sports"),
    (REFERENCES, "[1] is irrelevant; [2] is relevant.", "[2]"),
    (REFERENCES, "[1] is related, while [2] is about a different topic.", "[1]"),
    (REFERENCES, "[1] is related to graphs and [2] is related to trees.", None),
    (REFERENCES, "[1] is unrelated, as is [2].", None),
    (REFERENCES, "[1] and [2] are both on graphs, but the latter is closer.", "[2]"),
    (REFERENCES, "Neither the former nor the latter", None),
    (REFERENCES, "First", "[1]"),
    (REFERENCES, "The second one.", "[2]"),
    (REFERENCES, "[2] aligns with the author's research, [1] concerns biology.", "[2]"),
    (REFERENCES, "If [1] matches the author's work, then [2] may too.", None),
    (REFERENCES, "1️⃣", "[1]"),
    (REFERENCES, "The second option, [2]", "[2]"),
    (REFERENCES, "Unlike [1], [2] is about parsing.", "[2]"),
    (MOVIES, "My top choice is dystopia, with sci-fi as a close second.", "dystopia"),
    (MOVIES, "The best tag is classic; another option would be romance.", "classic"),
    (MOVIES, "Compared to other tags such as action, romance fits the user best.", "romance"),
    (MOVIES, "comedy, second choice romance", "comedy"),
    (MOVIES, "fantasy (alternative: action)", "fantasy"),
    (MOVIES, "Main tag: violence. Secondary tags: action, classic.", "violence"),
    (MOVIES, "comedy\n\nWait, I should double-check. The plot is a love story, so romance.", "romance"),
    (MOVIES, "I'd say romance... actually, make that dark comedy.", "dark comedy"),
    (MOVIES, "Wait Until Dark was a classic.", "classic"),
    (MOVIES, "Tag: classic. Actually, this is a remake of a book.", "classic"),
    (MOVIES, "The answer is action. Sorry, I meant violence.", "violence"),
    (MOVIES, "Comedy? No. Romance? No. Psychology.", "psychology"),
    (MOVIES, "Thought: It is a comedy\nAction: Finish[romance]", "romance"),
    (
        MOVIES,
        "Action 1: Search[Blade Runner]\nObservation 1: a sci-fi film\nThought 2: I know.\nAction 2: Finish[sci-fi]",
        "sci-fi",
    ),
    (MOVIES, "I should call recall to see the user's action films.", None),
    (MOVIES, '**Action:** wikipedia("dystopia")', None),
    (MOVIES, '{"tool": "wikipedia", "input": "psychology"}', None),
    (MOVIES, 'Action Input: {"query": "fantasy"}\nObservation: none\nFinal Answer: fantasy', "fantasy"),
    (MOVIES, "Action. The film is one long chase.", "action"),
    (
        MOVIES,
        "It has violence, but it's not glorified; it asks hard questions, thus: thought-provoking.",
        "thought-provoking",
    ),
    (MOVIES, "It is set in the future, i.e., sci-fi or dystopia.", None),
    (NEWS, "Parents are mentioned; however, the article is mainly about schools, therefore education", "education"),
    (NEWS, "While politics plays a role, religion is the main theme.", "religion"),
    (NEWS, "While politics plays a role, religion is mentioned as well.", None),
    (NEWS, "Travel is secondary here; food & drink is at its heart.", "food & drink"),
    (NEWS, "Sports fits, as does business.", None),
    (REFERENCES, "Of [1] and [2], the first is more relevant.", "[1]"),
    (REFERENCES, "[1] deals with networks, whereas [2] is in line with the author's profile.", "[2]"),
    (REFERENCES, "[1] matches the author's work, but [2] does so even more.", None),
    (REFERENCES, "[1] is closely related; [2] is less relevant.", "[1]"),
    (REFERENCES, "[1] is related to the first topic, [2] to the second.", None),
    (REFERENCES, "Neither [1] nor [2] matches the author's work.", None),
    (REFERENCES, "both the first and the second", None),
    (REFERENCES, "Instead of [1], [2].", "[2]"),
    (REFERENCES, "Not [1]. Rather [2].", "[2]"),
    (MOVIES, "Is it action? No.", None),
    (REFERENCES, "[1] is relevant to the user, as is [2].", None),
    (MOVIES, "comedy. I was wrong about romance before.", None),
    (MOVIES, "Secondary elements include romance, but the tag is action.", "action"),
    (MOVIES, "The next tag: romance", "romance"),
    (MOVIES, "No other tag fits: comedy", "comedy"),
    (MOVIES, "Of all the other tags, comedy fits best", "comedy"),
    (MOVIES, "action\n\nThought: this suits the user.", "action"),
    (MOVIES, "Action: yes\nRomance: no", None),
    (MOVIES, "action (search for revenge)", "action"),
    (NEWS, "The second article is on crime. This article: sports", "sports"),
    (REFERENCES, "The second choice is related.", "[2]"),
    (REFERENCES, "My choice: the second", "[2]"),
    (REFERENCES, "[2], the second one, since the first author differs", "[2]"),
    (REFERENCES, "[1] suits the author, and [2] is similar.", None),
    # Not read, where a person may well name one: None is the safer of the two mistakes.
    (NEWS, "First: women. Second: politics.", None),
    (MOVIES, "Likely violence or action. Wait, the user never uses violence. Action.", None),
    (NEWS, "Sports dominates, but the user would file it under business.", None),
    (REFERENCES, "Option 2 is the alternative", None),
]


@pytest.mark.parametrize(("raw", "label"), _MOVIE_ANSWERS)
def test_a_movie_tag_as_a_person_would_read_it(raw: str, label: str | None) -> None:
    assert parse_label(raw, MOVIES) == label


@pytest.mark.parametrize(("raw", "label"), _NEWS_ANSWERS)
def test_a_news_category_as_a_person_would_read_it(raw: str, label: str | None) -> None:
    assert parse_label(raw, NEWS) == label


@pytest.mark.parametrize(("raw", "label"), _REFERENCE_ANSWERS)
def test_a_reference_as_a_person_would_read_it(raw: str, label: str | None) -> None:
    assert parse_label(raw, REFERENCES) == label


@pytest.mark.parametrize(("labels", "raw", "label"), _FRESH_LABELS + _REVIEWED_LABELS + _FURTHER_LABELS)
def test_fresh_answers_as_a_person_would_read_them(labels: tuple[str, ...], raw: str, label: str | None) -> None:
    assert parse_label(raw, labels) == label


@pytest.mark.parametrize("label", MOVIES)
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "  {}\n",
        "{}.",
        '"{}"',
        "**{}**",
        "`{}`",
        "“{}”",
        "[{}]",
        "Answer: {}",
        "**Answer:** {}",
        "Final answer: **{}**.",
        "The answer is {}.",
        "The tag is: {}",
        "tag - {}",
        "category = {}",
        "The film deals with many things.\nSo the tag is:\n{}",
        "I would tag it {} without a doubt.",
    ],
)
def test_a_label_is_found_in_what_is_around_it(text: str, label: str) -> None:
    assert parse_label(text.format(label), MOVIES) == label
    assert parse_label(text.format(label.upper()), MOVIES) == label


def test_a_label_is_not_put_together_from_what_surrounded_another() -> None:
    assert parse_label("true based on a book story, so to say", MOVIES) == "based on a book"


def test_a_text_that_is_a_label_is_that_label_whatever_else_it_resembles() -> None:
    assert parse_label(" Answer: b ", ("b", "Answer: b")) == "Answer: b"
    assert parse_label("Comedy", ("comedy", "Comedy")) == "Comedy"


def test_labels_with_signs_are_plain_text() -> None:
    assert parse_label("I like c++ (a lot)", ("c++", "c.*")) == "c++"


_PIECES = (
    "comedy|action|[1]|[2]|1|4|five|not |or |Answer: |Title: |\n|\n\n| |. |\"|'|**|`|```|{|}|[|]|(|)|★|/|-|:|"
    '{"answer": |“|”|<think>|</think>|# |Here is a title: |Explanation: |stars|I would choose |out of 5|'
    "[[ ## answer ## ]]|Wait, |no, |so |second choice: |Action: recall[|My Title: |I would title it |---|"
    "at least |the former|\u20e3"
).split("|")
_TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(_PIECES), max_size=20).map("".join))


@settings(deadline=None, max_examples=400)
@given(_TEXTS)
def test_every_text_gives_an_answer_or_none(raw: str) -> None:
    for labels in (MOVIES, NEWS, REFERENCES):
        label = parse_label(raw, labels)
        assert label is None or label in labels
    rating = parse_rating(raw)
    assert rating is None or parse_rating(rating) == rating == str(rating).strip()
    assert rating is None or float(rating) == float(rating)
    text = parse_text(raw)
    assert text is None or parse_text(text) == text == text.strip() != ""


@pytest.mark.parametrize("labels", [MOVIES, NEWS, REFERENCES])
def test_a_label_is_itself(labels: tuple[str, ...]) -> None:
    for label in labels:
        assert parse_label(label, labels) == label
        assert parse_label(f"\n {label}  ", labels) == label


@settings(deadline=None)
@given(st.lists(st.sampled_from(MOVIES), min_size=2, max_size=4, unique=True))
def test_two_labels_on_one_line_are_none(labels: list[str]) -> None:
    assert parse_label("either " + " or else ".join(labels) + " perhaps", MOVIES) is None


_UNITS = (
    "(|[|{|\"|'|*|`| |\n|comedy |not |answer is |1|4 |1, |★|a|answer: |Title: |not a |comedy or |4-|<|{}|"
    '{"a":|[[ ## |```\n|<think>|\\|I |wait, |no, |so comedy, |second choice: comedy |4 or more |'
    "Action: recall[|Action: a\nThought: b\n|I would title |unlike comedy, |[1] matches |[1] is |"
    'the first |Based on |My Title: "a\n|---\n|"a" because |comedy? no. '
).split("|")


@pytest.mark.parametrize("unit", _UNITS)
def test_a_very_long_answer_is_read_or_not_but_never_an_error(unit: str) -> None:
    raw = unit * (20_000 // len(unit))
    for text in (raw, raw + "comedy [1] 4", "comedy\n" + raw):
        parse_label(text, MOVIES)
        parse_label(text, REFERENCES)
        parse_rating(text)
        parse_text(text)
