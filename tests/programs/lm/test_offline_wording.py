"""Which names a line speaks for, and which against: the offline reader's reading of wordings."""

from __future__ import annotations

import pytest

from personaagent.programs.lm.offline import mentions

TAGS = ("sci-fi", "comedy", "dark comedy", "romance", "action", "horror", "war", "true story", "musical", "mystery")

# --- mentions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a dark comedy, please", {"dark comedy": 1}),
        ("dark comedy and comedy", {"dark comedy": 1, "comedy": 1}),
        ("SCI FI or Dark-Comedy", {"sci-fi": 1, "dark comedy": 1}),
        ("a romantic warrior in a mysterious musicality", {}),
        ("never horror", {"horror": -1}),
        ("does not like horror, war or comedy", {"horror": -1, "war": -1, "comedy": -1}),
        ("doesn’t like 'horror' and “war”", {"horror": -1, "war": -1}),
        ("cannot abide horror", {"horror": -1}),
        ("not horror but war", {"horror": -1, "war": 1}),
        ("war, not horror", {"war": 1, "horror": -1}),
        ("neither war nor horror", {"war": -1, "horror": -1}),
        ("prefers war over horror", {"war": 1, "horror": -1}),
        ("takes war rather than horror", {"war": 1, "horror": -1}),
        ("war more than any other, more than anything war", {"war": 1}),
        ("not only war", {"war": 1}),
        ("It is not easy. War it is.", {"war": 1}),
        ("If there is no hope left, horror", {"horror": 1}),
        ("Unlike most people, she says musical", {"musical": 1}),
        ("Dislikes: horror", {"horror": -1}),
        ("prefers sci-fi over action", {"sci-fi": 1, "action": -1}),
        ("rather mystery than sci-fi", {"mystery": 1, "sci-fi": -1}),
        ("prefers war to horror", {"war": 1, "horror": -1}),
        ("war instead of horror or comedy", {"war": 1, "horror": -1, "comedy": -1}),
        ("says war far more often than horror", {"war": 1, "horror": -1}),
        ("likes war no less than horror", {"war": 1, "horror": 1}),
        ("loves comedy; nothing more than horror", {"comedy": 1, "horror": 1}),
        ("prefers war over horror, comedy over romance", {"war": 1, "horror": -1, "comedy": 1, "romance": -1}),
        ("dislikes horror and romance", {"horror": -1, "romance": -1}),
        ("hates horror films and comedies", {"horror": -1, "comedy": -1}),
        ("hates horror but loves war", {"horror": -1, "war": 1}),
        ("hates horror, loves war", {"horror": -1, "war": 1}),
        ("hates comedy but not dark comedy", {"comedy": -1, "dark comedy": 1}),
        ("Unlike horror, war appeals to her", {"horror": -1, "war": 1}),
        ("Instead of comedy, she says war", {"comedy": -1, "war": 1}),
        ("She avoids horror, and comedy is her favourite", {"horror": -1, "comedy": 1}),
        ("war and horror are not for him", {"war": -1, "horror": -1}),
        ("likes war, horror is not for him", {"war": 1, "horror": -1}),
        ("likes: war, comedy; dislikes: horror, romance", {"war": 1, "comedy": 1, "horror": -1, "romance": -1}),
        ('{"likes": ["war"], "avoids": ["horror", "romance"]}', {"war": 1, "horror": -1, "romance": -1}),
        ("never comedy, always war", {"comedy": -1, "war": 1}),
        ("comedy never, war always", {"comedy": -1, "war": 1}),
        ("does not say horror when it is war", {"horror": -1, "war": 1}),
        ("comedies, romances and mysteries", {"comedy": 1, "romance": 1, "mystery": 1}),
        ("scifi, true stories and a Darkcomedy", {"sci-fi": 1, "true story": 1, "dark comedy": 1}),
        ('2001 «a horror of a war» -> "comedy"', {"comedy": 1}),
        ("the dystopia of it all", {}),
        ("", {}),
    ],
)
def test_mentions(line: str, found: dict[str, int]) -> None:
    assert dict(mentions(line, TAGS)) == found


_FOR = """
Over the years she has tagged nearly all films {t}
Over 80% of the answers were {t}
She can't get enough of {t}
He never misses a chance to say {t}
More often than not the tag is {t}
No doubt: {t}
Without exception tags films as {t}
Without fail, answers {t}
There is no tag he uses more often than {t}
Do not choose anything other than {t}
He isn't picky: {t} fits all
He wouldn't call it anything else: {t}
Nothing but {t} will do
Nobody loves {t} more
Not once has the user skipped a {t} film
Doesn't care for anything except {t}
Has a soft spot for {t}, no matter what it is about
Prefers {t} over everything else
Unlike most people, picks {t}
Instead of thinking, says {t}
He never tires of {t}
Cannot resist {t}
Cannot go a day without {t}
Does not hesitate to answer {t}
If not sure, says {t}
She doesn't like to overthink it and says {t}
Hates long answers; always {t}
Someone who hates noise and says {t}
No one else uses {t} as often
There is hardly a film she doesn't call {t}
Never met a {t} he didn't like
He does not dislike {t}
Never says no to {t}
Why not {t}?
At the very least, {t}
Likes nothing so much as {t}
He never uses a tag unless it is {t}
Hates everything that isn't {t}
Avoids everything but {t}
{t} is never far from her answers
{t} is not the only tag he gives
{t} never gets old
No. 1 tag: {t}
Refuses to use any tag but {t}
You cannot show her a film that she would not file as {t}
Won't hear a word against {t}
{t}, nothing else
{t}, not because it fits but because he loves it
"""
_AGAINST = """
Avoids {t}
He never tags anything {t}
Never tags a film as {t}
Hates {t} with a passion
Not a fan of {t}
Isn't a {t} fan
Has never been a fan of {t}
{t} is not for him
{t} films aren't her thing
{t} leaves her cold
He can't stand {t}
Has no time for {t}
Has little patience for {t}
Isn't into {t}
Not interested in {t}
They don’t like “{t}” much
Refuses to call anything {t}
Never uses the tag {t}
Never picks {t}
Never chooses {t}
Never answers {t}
Rarely says {t}
Steers clear of {t}
No {t}, please
Anything but {t}
Everything except {t}
Prefers anything over {t}
Disliked genres: {t}
Not for her: {t}
Hates nothing more than {t}
Her least favourite tag is {t}
Whatever you do, don't say {t}
Not once has he said {t}
{t}? Never.
{t}, which she hates
{t} should be avoided
Watches a lot, though never {t}
Neither likes nor uses {t}
He never, ever says {t}
Says no to {t}
Would rather quit than say {t}
Hates gore and {t}
"""
_WORDINGS = [(w, sign) for text, sign in ((_FOR, 1), (_AGAINST, -1)) for w in text.strip().splitlines()]


@pytest.mark.parametrize(("wording", "sign"), _WORDINGS)
def test_a_name_counts_for_unless_the_wording_clearly_rejects_it(wording: str, sign: int) -> None:
    for tag, written in (("comedy", "comedy"), ("true story", "TRUE STORY"), ("musical", "musicals")):
        assert list(mentions(wording.replace("{t}", written), TAGS)) == [(tag, sign)]


def test_names_with_signs_of_their_own_are_found() -> None:
    assert dict(mentions("rated C++ or R&B (live)", ("c", "r&b", "(live)", "***"))) == {"c": 1, "r&b": 1, "(live)": 1}


def test_a_short_name_or_a_number_has_no_plural_and_is_not_joined() -> None:
    assert dict(mentions("cs 1s 12 ii", ("c", "1", "1-2", "i"))) == {}


@pytest.mark.parametrize("text", ["not ", "hates ", "not a ", "more than ", "war, ", "hates war more ", "'", " "])
def test_a_name_at_the_end_of_a_long_line_is_found(text: str) -> None:
    assert list(mentions(text * 2000 + "war", TAGS))
