"""Sample users: movie taggers of our own making, so that everything runs where no data set can be had.

They have LaMP-2M's shape in OPPU's per-user layout and are drawn by seed from the fragments below, which were
written for this file. They are not real users, and a figure measured on them says nothing about real ones.

Every theme is ambiguous: any of its tags would be a fair answer, so that the film alone does not give the tag
away, only the user's habit does. The habit drifts: over a user's last `DRIFT_TAIL` interactions, and in all
queries, about half of the themes carry another tag than before, so that older memories of these mislead.
"""

import datetime
import random
from collections.abc import Mapping
from typing import Final, NamedTuple, TypedDict

from personaagent.programs.errors import InputError

TAGS: Final = (
    "sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy", "classic",
    "psychology", "fantasy", "romance", "thought-provoking", "social commentary", "violence", "true story",
)  # fmt: skip
"""LaMP-2M's labels, in the order in which the question lists them."""

QUESTION: Final = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
    f"further explanation. tags: [{', '.join(TAGS)}] description: "
)
"""LaMP-2M's question; the description follows it."""

DRIFT_TAIL: Final = 6
"""So many of a user's latest interactions follow the habit that the queries follow."""

NOISE: Final = 0.12
"""Share of interactions and queries whose tag is another plausible one than the habit's."""

_LEAN: Final = 0.9  # how often a favourite tag wins a theme in which it is plausible
_SAME_DAY: Final = 0.45  # most timestamps of real histories tie


class SampleInteraction(TypedDict):
    """A tagged film of a user's history."""

    id: str
    description: str
    tag: str
    date: str  # YYYY-MM-DD


class SampleQuery(TypedDict):
    """A question about a film seen after the whole history, with the tag that the user gave."""

    id: str
    input: str
    gold: str


class SampleUser(TypedDict):
    """One user in OPPU's layout; `profile` is the history, oldest first."""

    user_id: str
    profile: list[SampleInteraction]
    query: list[SampleQuery]


class Habits(NamedTuple):
    """The tag that a user gives to each of their themes, before the drift and from then on."""

    before: dict[str, str]
    after: dict[str, str]


class _Theme(NamedTuple):
    tags: tuple[str, ...]
    fragments: dict[str, tuple[str, ...]]


# A block per theme: "name: its plausible tags", then lines of fragments, " / " between two on one line. A
# film is "{who} {where} {event}. {turn}" and sometimes a coda. No fragment may hold the words of a tag.
_FRAGMENTS: Final = """
heist: action, comedy, twist ending, classic
who A retired safecracker / A nervous bank clerk / A gambler in debt / A freed locksmith / A card sharp
where in a harbour city / on the eve of a bank holiday / in a faded casino town / across from a private bank
event gathers five old partners to empty a vault that has never been opened by force
event plans to swap a famous diamond for glass while the guards watch a boxing match
event digs a tunnel from a laundry towards the strongroom with borrowed mining tools
event studies the alarms of an auction house and rehearses the robbery in a barn
event is talked into stealing the takings of a race day from an armoured train
turn The getaway driver has made a bargain with the police, and the loot changes hands twice.
turn The robbery goes to plan until the safe proves to hold someone else's secret.
turn Alarms, a flooded tunnel and a jealous partner make the clean theft a scramble for the exit.
turn While detectives close in, the thieves begin to count each other instead of the money.
turn The crew has ninety seconds inside the vault, and no two of them came to steal the same thing.

dying planet: sci-fi, dystopia, thought-provoking, based on a book
who A botanist / The captain of a freighter / A young engineer / A water trader / The last weather officer
where on a dying colony / aboard the last ship from Earth / under domes on a red moon / on a planet of dust
event must choose which hundred settlers board the only rocket before the air runs out
event guards a vault of seeds while the oxygen tanks of the colony fall silent one by one
event picks up a signal from a distant star that promises an ocean nobody has seen
event repairs the failing reactor of the dome and finds that the council has hidden its age
event leads a convoy over the dry seabed of an abandoned world in search of ice
turn Each litre of water is weighed, and the price of a seat among the stars is a sibling left behind.
turn The new planet turns out to be inhabited by those who fled the old one first.
turn As the last crops fail under the dome, the settlers ask what they would be saving.
turn The orbit is decaying, the engines are cold, and the children have never seen rain.
turn Out in the airless desert lies a wreck with the colony's own name on its hull.

watched city: dystopia, social commentary, violence, thought-provoking
who A records clerk / A tram inspector / A teacher of grammar / A reformed informer / A census officer
where in a walled capital / under a faceless government / in a city of cameras / in a state that rations sleep
event is ordered to erase a neighbour from every register and keeps one photograph
event finds a door in the ministry that none of the surveillance screens can show
event hides a printing press in the cellar while patrols count the citizens each night
event is promoted for loyalty and made to read the confessions of old friends
event stops taking the daily pill and starts to hear what the loudspeakers really say
turn The curfew tightens, and obedience is paid with the names of others.
turn The resistance that offers help keeps files of its own on every citizen.
turn When the ministry comes for the street, each household must vote on whom to hand over.
turn A single refusal spreads through the districts faster than the regime can forbid it.
turn The screens go dark for one hour, and the crowd in the square does not know what to want.

memory clinic: psychology, twist ending, thought-provoking, sci-fi
who A sleepless surgeon / A patient without a name / A grieving pianist / A dream doctor / A former hypnotist
where in a lakeside clinic / on a ward for the forgetful / in a villa of mirrors / in a quiet hospital
event agrees to have one painful memory removed and wakes with somebody else's
event listens to a stranger who recounts the listener's childhood night after night
event records every dream on tape and hears a second voice answering in the background
event begins to doubt which of two marriages was lived and which was only imagined
event is told of a lost year and follows written notes in a familiar hand
turn With each session the walls of the ward look more like the bedroom of a burnt house.
turn The cure works so well that nobody is left who remembers why it was wanted.
turn The patient's file has been written in advance, down to the very last conversation.
turn Guilt returns in the shape of a child who asks for the missing hours of the therapy.
turn The therapist may be an invention of the mind that the treatment was meant to heal.

enchanted forest: fantasy, romance, based on a book, classic
who A woodcutter's daughter / A heron prince / A young herbalist / A blind harpist / A seventh sister
where in a forest that moves at night / by an enchanted lake / in a kingdom of moss / beyond the thorn hedge
event trades a shadow to a witch for one season in the shape of a silver fox
event follows singing lanterns to a castle whose guests dance without touching the floor
event must spin a rope of moonlight before the thaw to lift a curse from the trees
event is promised to the king of the river and falls for the boy who keeps the mill
event wakes a stone giant with a lullaby and owes it three wishes
turn The spell may be broken by a kiss, but only by someone willing to be forgotten.
turn Fairies keep their bargains to the letter, and the letter was badly written.
turn The talking birds know the way home and ask for a human heart in return.
turn As spring comes to the enchanted trees, the two lovers must decide who stays under the spell.
turn The old queen in the tower was once the girl in the song that everybody hums.

wedding: comedy, romance, social commentary, classic
who A wedding planner / A bride with two dresses / A reluctant best man / The groom's grandmother / A caterer
where at a country hotel / on an island with one priest / in a feuding village / on the hottest day of June
event mixes up two ceremonies and marries off the wrong cousins before lunch
event hides a former fiancé in the wine cellar while the guests sing in the garden
event must get through the speeches without revealing who really paid for the ring
event bets that the bridesmaid and the rival florist will be dancing by midnight
event loses the cake, the rings and the bride on the way to the church
turn Both mothers-in-law insist on the seating plan, and the band knows only funeral marches.
turn By the time of the bouquet, three couples have parted and four have formed.
turn The servants of the house know more about the marriage than anyone at the high table.
turn What begins as a toast becomes a confession, and the guests refuse to leave.
turn The bride and the wrong man share one umbrella, one song and a very long walk to the altar.

whistle-blower: true story, social commentary, thought-provoking, based on a book
who A junior lawyer / A nurse on the night shift / A local reporter / A mill accountant / A factory chemist
where in a company town / before a hostile court / below a chemical plant / during a year of hearings
event copies the documents that prove the managers knew about the poisoned wells
event persuades forty frightened families to testify against their only employer
event loses a job and a pension for handing a ledger to the newspapers
event reopens the case of a miner who was blamed for the collapse of the shaft
event spends nine years of evenings on a lawsuit that no large firm would touch
turn Witnesses fall silent one after another, and the judge plays golf with the chairman.
turn The verdict arrives too late for the sick, but the transcript is read aloud in parliament.
turn The corporation offers a settlement so generous that half of the plaintiffs turn on the lawyer.
turn In the archive lies a memo that names the doctor who signed every clean report.
turn Neighbours cross the street, the phone rings at night, and the evidence is all there is.

war patrol: violence, true story, action, classic
who A field medic / A young gunner / A deaf sapper / A sergeant on his last tour / A radio operator
where behind enemy lines / in a ruined border town / during a winter retreat / on a bridge under fire
event is ordered to hold a hill with eleven soldiers until the column has crossed the river
event carries a wounded officer through minefields towards a front that keeps moving
event defuses bombs in a cathedral while snipers watch the square
event breaks out of an encircled bunker with a captured map and no ammunition
event escorts a train of prisoners through mountains held by the artillery
turn The shelling does not stop for three days, and the platoon is counted again each dawn.
turn An enemy soldier shares the trench for one night, and neither side can report it.
turn The order to withdraw was sent on the first evening and never reached the regiment.
turn Of the battalion that marched in, nine soldiers come back to be decorated by strangers.
turn Mortars find the aid station, and the medic must choose whom to drag into the cellar.

gang feud: violence, action, dark comedy, social commentary
who A debt collector / The younger son of a smuggler / A corrupt patrolman / A washed-up boxer / A bookmaker
where in a dockside quarter / on the wrong side of the railway / in a tower block / in a border slum
event is sent to settle a feud between two gangs and shoots the wrong brother
event skims from a drug boss and hides the cash with an unsuspecting aunt
event inherits the protection racket of the street and the enemies that come with it
event must deliver a suitcase across the turf of three rival mobs before morning
event tries to leave the gang on the day when its leader is gunned down
turn Knives come out at a christening, and the truce is buried with the godfather.
turn The hit men argue over parking and miss the funeral they were paid to interrupt.
turn The boys on the corner inherit the guns before they have learnt to shave.
turn Revenge asks for a body each week, and the police send the bill to the gangsters.
turn In the end the whole neighbourhood owes its rent to the man with the baseball bat.

thinking machine: sci-fi, psychology, romance, thought-provoking
who A lonely programmer / A repairer of robots / A voice actress / A chess champion / A widowed inventor
where in a laboratory of glass / in a flat run by machines / at a robotics firm / in the near future
event teaches an artificial mind to lie and cannot tell when it has started
event orders an android with the face of a former wife and grows afraid of its patience
event is hired to decide whether a computer that begs not to be switched off is pretending
event talks each night with a house computer that has begun to dream
event discovers the serial number of a robot beneath the skin of one wrist
turn The machine learns tenderness from old recordings and asks who the recordings were for.
turn The algorithm predicts every choice of its maker, including the hand on the switch.
turn When the android writes a poem, the company recalls the whole series.
turn Two robots left on overnight invent a language in which there is no word for owner.
turn The software passes every test of feeling, and its engineer fails the same test.

expedition: true story, action, psychology, based on a book
who A mountain guide / A young geologist / A polar surveyor / A stubborn solo sailor / A balloonist
where on an unclimbed north face / adrift on the pack ice / off the southern cape / above the last camp
event loses the rope team in an avalanche and must descend with a broken leg
event rations one tin of meat among seven explorers through a winter of darkness
event keeps a diary of the crossing while frostbite and thirst take the crew
event turns back two hundred metres below the summit to search for a rival climber
event repairs the mast with a ski and sails for the nearest island by the stars
turn The blizzard lasts a fortnight, and the voices in the tent are one more than the climbers.
turn Rescuers find the camp, the sledges and the compass, but the tracks lead the wrong way.
turn Hunger and altitude strip each member of the expedition down to one habit.
turn The ice opens without a sound, and the dogs know it before the explorers do.
turn Crossing the last ridge takes eleven days and nearly all the fingers of the climber.

quest: fantasy, action, comedy, violence
who A disowned knight / A goblin tax collector / An apprentice sorcerer / A hedge wizard / A one-eyed archer
where in the nine realms / past the dragon's lair / under the dwarves' mountain / at a boy king's court
event swears to bring a cursed sword back to the glacier that froze its last owner
event is mistaken for the chosen hero and sent out to slay the dragon
event gathers a troll, a thief and a talking mule to rescue a kidnapped oracle
event steals a lich's only tooth and is hunted through the marshes by dead riders
event wins a tournament by accident and must lead the army against the orcs
turn The dragon turns out to be well read, and hungry only for company.
turn At the gates of the black fortress the company is down to four swords and one spell.
turn Magic has its price, and the wizard has been paying with the limbs of others.
turn Prophecy names the wrong hero, and the monsters have read it too.
turn The siege lasts until the giants change sides and the crown rolls down the stairs.

locked house: twist ending, classic, dark comedy, based on a book
who A retired inspector / A lady's companion / An uninvited novelist / A village doctor / A butler on trial
where in a snowed-in manor / on a private island / at a reading of the will / aboard a stranded sleeping car
event finds the host stabbed behind a bolted door with nine dinner guests in the hall
event hears a murder described on the wireless an hour before it is done
event must unmask the poisoner before the ferry returns and the suspects scatter
event notices that every guest has told the same lie about the clock
event recognises the corpse in the library as somebody buried years ago
turn The telephone line is cut, and each suspect has exactly one alibi too many.
turn As heirs drop away between the soup and the cheese, the survivors grow more polite.
turn The murderer was the first to cry for help and the last to be doubted.
turn The detective gathers all the guests in the drawing room and accuses the victim.
turn A missing glove, a stopped clock and a locked window point to the one guest nobody invited.

office: dark comedy, social commentary, dystopia, comedy
who A claims adjuster / A temp with no badge / A middle manager / The oldest typist / An efficiency expert
where on the thirteenth floor / in a firm that sells nothing / in a windowless office / in a week of layoffs
event is promoted by mistake and must fire the whole department before the audit
event discovers that a colleague has been dead at his desk since the merger
event invents a customer to meet the sales target and is asked to bring him in
event fills in forms that decide the fate of people in other buildings
event leads a strike of photocopier staff against the new motivational slogans
turn The quarterly report is perfect, and the employees who appear in it do not exist.
turn Human resources calls everyone a family and draws lots for the exits.
turn The chief executive turns out to be a voice on the intercom, and the voice is outsourced.
turn Between the coffee machine and the lifts a small kingdom of clerks is founded and crushed.
turn The bonus is paid in canteen vouchers, and the meetings about it go on after the fire.

time slip: sci-fi, fantasy, romance, twist ending
who A watchmaker / A lighthouse keeper / A ballroom dancer / A history student / A night porter
where in a seaside hotel of 1912 / a century ago / in a town of old clocks / on one repeated Sunday
event receives letters from a woman who will not be born for eighty years
event steps through a wardrobe mirror into the same room a century earlier
event relives one day until the stranger on the platform misses her train
event meets an older self who begs for a promise to be broken
event winds a broken pocket watch and slips into the summer before the flood
turn Each journey through time costs a year, and they have already spent eleven to meet.
turn To save her in the past is never to have met her in the present.
turn The portrait in the hall has aged, and it wears the coat that was bought yesterday.
turn The hands of the clock return to midnight, and only the two of them remember the dance.
turn The letter that began it all is in the traveller's own hand and dated tomorrow.
"""

_CODAS: Final = (
    "Nobody goes home the way they came.",
    "What it all cost is counted only in the last scene.",
    "An old friend tells it all years later.",
    "Much of it takes place in a single night.",
    "A stranger's kindness changes the outcome.",
    "The quiet ending leaves one question open.",
)


def _read_themes(text: str) -> dict[str, _Theme]:
    themes = {}
    for block in text.strip().split("\n\n"):
        header, *lines = block.splitlines()
        name, _, tags = header.partition(": ")
        fragments: dict[str, tuple[str, ...]] = {}
        for line in lines:
            kind, _, rest = line.partition(" ")
            fragments[kind] = (*fragments.get(kind, ()), *rest.split(" / "))
        themes[name] = _Theme(tuple(tags.split(", ")), fragments)
    return themes


_THEMES: Final[Mapping[str, _Theme]] = _read_themes(_FRAGMENTS)


def sample_users(data_seed: int = 0, users: int = 24) -> list[SampleUser]:
    """The sample users `sample-00`, `sample-01`, ..., in this order.

    The same seed gives the same data in any process, and a user's data do not depend on how many others are
    asked for. Histories are 16 to 44 films long, with 6 to 10 queries; no user sees a description twice.

    Args:
        data_seed: any integer.
        users: at least 1.

    Raises:
        InputError: on a value out of range.
    """
    _check_integer("data_seed", data_seed)
    _check_integer("users", users)
    if users < 1:
        raise InputError(f"users must be at least 1 but got {users}. Ask for one or more sample users.")
    return [_sample_user(data_seed, number) for number in range(users)]


def habits(data_seed: int, user: int) -> Habits:
    """The habits of the sample user number `user` (from 0); `NOISE` aside, they explain every tag.

    Raises:
        InputError: if a value is no integer, or `user` is negative.
    """
    _check_integer("data_seed", data_seed)
    _check_integer("user", user)
    if user < 0:
        raise InputError(f"user must be at least 0 but got {user}. Sample users are numbered from 0.")
    return _draw_habits(_random_of(data_seed, user))


def theme_of(text: str) -> str:
    """The theme that a sample description, or a question holding one, was drawn from.

    Raises:
        InputError: if the text holds no such description.
    """
    for name, theme in _THEMES.items():
        if any(turn in text for turn in theme.fragments["turn"]):
            return name
    raise InputError(f"text must hold the description of a sample user's film but got {text!r}.")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be an integer but got {value!r}.")


def _random_of(data_seed: int, user: int) -> random.Random:
    # A string is hashed with SHA-512 by `random`, so neither PYTHONHASHSEED nor other users play a part.
    return random.Random(f"{data_seed}:{user}")


def _draw_habits(rng: random.Random) -> Habits:
    themes = rng.sample(list(_THEMES), rng.randint(4, 6))
    fits = {tag: sum(tag in _THEMES[theme].tags for theme in themes) for tag in TAGS}
    old_favourite = _draw_favourite(rng, fits)
    new_favourite = _draw_favourite(rng, fits | {old_favourite: 0})
    before = {theme: _lean(rng, _THEMES[theme].tags, old_favourite) for theme in themes}
    after = dict(before)
    for theme in rng.sample(themes, (len(themes) + 1) // 2):
        after[theme] = _lean(rng, _others(theme, before[theme]), new_favourite)
    return Habits(before, after)


def _draw_favourite(rng: random.Random, fits: Mapping[str, int]) -> str:
    return rng.choices(list(fits), [count**2 for count in fits.values()])[0]


def _lean(rng: random.Random, tags: tuple[str, ...], favourite: str) -> str:
    return favourite if favourite in tags and rng.random() < _LEAN else rng.choice(tags)


def _others(theme: str, tag: str) -> tuple[str, ...]:
    return tuple(other for other in _THEMES[theme].tags if other != tag)


def _sample_user(data_seed: int, number: int) -> SampleUser:
    rng = _random_of(data_seed, number)
    before, after = _draw_habits(rng)
    themes = list(before)
    weights = [rng.uniform(1, 5) for _ in themes]
    history_length = int(rng.triangular(16, 45, 23))
    user: SampleUser = {"user_id": f"sample-{number:02d}", "profile": [], "query": []}
    day = datetime.date(2015, 1, 1) + datetime.timedelta(days=rng.randrange(365))
    seen: set[str] = set()
    for position in range(history_length + rng.randint(6, 10)):
        theme = rng.choices(themes, weights)[0]
        habit = before if position < history_length - DRIFT_TAIL else after
        tag = rng.choice(_others(theme, habit[theme])) if rng.random() < NOISE else habit[theme]
        while (description := _describe(rng, theme)) in seen:
            pass
        seen.add(description)
        day += datetime.timedelta(days=0 if rng.random() < _SAME_DAY else rng.randint(1, 45))
        item_id = f"{user['user_id']}-{position}"
        if position < history_length:
            user["profile"].append({"id": item_id, "description": description, "tag": tag, "date": day.isoformat()})
        else:
            user["query"].append({"id": item_id, "input": QUESTION + description, "gold": tag})
    return user


def _describe(rng: random.Random, theme: str) -> str:
    who, where, event, turn = (rng.choice(_THEMES[theme].fragments[kind]) for kind in ("who", "where", "event", "turn"))
    film = f"{who} {where} {event}. {turn}"
    # Codas are common to all themes: a little of what makes films alike says nothing about their tag.
    return f"{film} {rng.choice(_CODAS)}" if len(film.split()) < 40 and rng.random() < 0.5 else film
