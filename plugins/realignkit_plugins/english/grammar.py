"""Closed word classes of English, as far as image prompts need them: what starts, continues and ends a noun phrase."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """A class of words."""
    return frozenset(text.split())


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()) for name in text.split(","))


ARTICLES = words(
    """
    a an the
    """
)
POSSESSIVES = words(
    """
    my your his her its our their
    """
)
DEMONSTRATIVES = words(
    """
    this that these those
    """
)
QUANTIFIERS = words(
    """
    some any each every both all another other several many few more multiple various numerous no single lone
    assorted different such much most half
    """
)
DETERMINERS = ARTICLES | POSSESSIVES | DEMONSTRATIVES | QUANTIFIERS
_COUNTING = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
    """
NUMBERS = {word: value for value, word in enumerate(_COUNTING.split())}
NUMBERS |= {"dozen": 12, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100}

INTENSIFIERS = words(
    """
    very really quite rather so too extremely mostly partly all
    """
)

PREPOSITIONS = words(
    """
    of in on at by for from with without to into onto over under above below behind beside besides between among
    amongst against across along around near next inside outside through toward towards up down off out within
    beneath underneath atop upon amid past beyond via per during before after about like as than opposite
    alongside except versus vs nearby away
    """
)
NOT = words(
    """
    not never cannot
    """
)
NEGATIONS = NOT | words(
    """
    without isn't aren't wasn't weren't neither nor lacking excluding except minus sans avoid avoiding omit omitting
    """
)
"""Words right before what is not to be seen ("without a hat")."""
NEGATIVE_PAIRS = frozenset(
    (("instead", "of"), ("rather", "than"), ("free", "of"), ("devoid", "of"), ("lack", "of"), ("absence", "of"))
)
POSSESSION = words(
    """
    have has had contain contains include includes show shows hold holds wear wears
    """
)
CONJUNCTIONS = words(
    """
    and or but nor plus while where when because if then yet
    """
)
RELATIVES = words(
    """
    that which who whose whom what
    """
)
PRONOUNS = words(
    """
    i you he she it we they him them us me himself herself itself themselves there here someone somebody
    something everything nothing everyone anyone mine hers theirs ours yours others
    """
)
COPULAS = words(
    """
    is are was were be looks look appears seems being been am become becomes became
    """
)
AUXILIARIES = COPULAS | words(
    """
    has have had having do does did can could will would should may might must not never don't doesn't isn't
    aren't wasn't weren't let let's get gets got getting goes go went going gone make makes made making take
    takes taken took taking put puts set sat stood lay laid lain held hung rode ridden worn wore ate eaten ran
    flew flown drank drove driven seen saw shown found kept left-facing gave given brought caught threw thrown
    built surrounded filled covered topped written lying sitting standing
    """
)
ADVERBS = words(
    """
    also together just only now still even again alone apart maybe perhaps please always often outdoors indoors
    instead neither outside upward downward forward backward not else almost well side-by-side respectively ahead aside
    """
)
LY_NOUNS_AND_ADJECTIVES = words(
    """
    fly butterfly dragonfly firefly family jelly belly lily curly woolly ugly lovely friendly silly lonely holy
    elderly lively chilly hilly smelly bubbly wrinkly bully rally ally trolley italy ply doily costly deadly
    ghostly fluffly prickly
    """
)

COLOURS = words(
    """
    red orange yellow green blue purple violet pink brown black white gray grey gold golden silver beige tan
    turquoise teal cyan magenta maroon navy crimson scarlet indigo ivory cream bronze copper khaki olive
    lavender colorful colourful multicolored multicoloured rainbow blonde blond peach burgundy lilac aqua amber
    """
)
MATERIALS = words(
    """
    wood wooden metal metallic glass plastic leather paper cardboard stone brick concrete ceramic porcelain
    marble steel iron wool woolen cotton denim silk velvet rubber clay bamboo straw wicker fabric cloth chrome
    brass granite tile tiled crystal lego knitted fur hardwood aluminum aluminium foam linen lace
    """
)
PLAIN_ADJECTIVES = words(
    """
    big small large little tiny huge giant tall short long wide narrow thick thin fat skinny old new young
    ancient modern antique vintage rustic fluffy furry fuzzy hairy smooth rough soft hard round square
    rectangular triangular oval circular spherical cubic conical pentagonal hexagonal flat curved straight curly
    wavy shiny bright dark light pale vivid matte dull transparent clear striped spotted dotted checkered plaid
    floral patterned plain empty full open closed broken cracked dirty clean wet dry cute pretty beautiful ugly
    lovely happy sad angry sleepy wild tame fresh ripe rotten raw cooked hot cold warm frozen icy snowy sunny
    cloudy rainy stormy foggy rocky sandy grassy muddy dusty rusty spacious cozy busy crowded quiet electric
    double upper lower bare fancy simple nice good great bad same similar male female baby adult translucent
    neon sharp heavy fast slow strong soaked blurry high low asleep medium-sized medium main real fake whole
    sliced cheesy friendly elderly own
    """
)
ADJECTIVES = COLOURS | MATERIALS | PLAIN_ADJECTIVES
NOUNABLE = (
    MATERIALS - {"wooden", "metallic", "woolen", "tiled", "knitted"}
    | {"orange", "gold", "silver", "rainbow", "peach", "olive", "violet", "copper", "ivory", "cream", "baby", "adult"}
    | {"square", "light", "lavender", "giant"}
)
"""Adjectives that can head a noun phrase themselves ("an orange and a glass")."""

ADJECTIVE_ENDINGS = (
    "ous",
    "ful",
    "ish",
    "less",
    "ical",
    "-colored",
    "-coloured",
    "-shaped",
    "-sized",
    "-like",
    "-striped",
)
PREDICATE_PARTICIPLES = words(
    """
    colored coloured painted dyed tinted
    """
)

ING_NOUNS = words(
    """
    building painting ceiling clothing wedding evening morning string ring king wing swing railing thing spring
    sibling icing earring topping lighting dressing siding pudding living dining parking drawing awning sling
    frosting crossing landing bowling duckling dumpling sapling stocking viking wiring bedding flooring carving
    herring offspring lightning frying swimming shopping skiing surfing cutting washing dwelling opening ping
    bing ding wrapping stuffing seating landscaping baking hiking
    """
)
ED_NOUNS = words(
    """
    bed shed sled seed weed reed moped biped breed steed feed speed red
    """
)

_VERBS = """
    sit stand ride hold wear eat look run walk play lie lay fly jump sleep drive hang swim rest lean drink carry
    chase watch push pull throw catch pose smile stare face cross surround cover display feature contain feed
    bark graze climb read write say cook cut serve talk hug kiss kick hit swing surf ski skate perch float grow
    stretch peek approach follow touch pet sniff lick bite show appear remain stay bend cast reach enter leave
    prepare point use travel move pass line fill enjoy try want need scare abduct cling hover land wait work
    paint draw bathe
    """
VERBS_S = frozenset(
    f"{verb[:-1]}ies" if verb.endswith("ry") else f"{verb}es" if verb[-2:] in ("ch", "sh", "ss") else f"{verb}s"
    for verb in _VERBS.split()
)
VERBS_S |= words(
    """
    flies tries catches watches passes kisses crosses stretches
    """
)
VERBS_BASE = frozenset(_VERBS.split())

MEASURES = words(
    """
    group bunch pair couple collection pile stack row herd flock pack crowd lot lots variety assortment number
    set slice piece kind type cluster line series dozens hundreds heap swarm trio bundle handful sheet chunk
    school array plenty
    """
)
"""Nouns that only measure what follows "of": a *group* of people is people."""

DEPICTIONS = words(
    """
    photo photograph picture image painting drawing illustration sketch rendering render view shot close-up
    closeup portrait snapshot scene depiction cartoon print watercolor
    """
)
"""Nouns that only frame what follows "of": a *photo* of a dog shows a dog."""

POSITIONS = words(
    """
    left right top front side sides middle center centre bottom back background foreground edge corner shape
    form style distance end rear midst way air sale color colour colors colours texture hand upside day night
    left-hand right-hand opposite far each other lower upper display addition case
    """
)
"""Words that say where something is; a phrase of nothing else names no object ("on the left side of")."""

IDIOMS = (
    *(("back", "to", "back"), ("side", "by", "side"), ("face", "to", "face"), ("upside", "down"), ("close", "up")),
    *(("right", "side", "up"), ("on", "top", "of"), ("in", "front", "of"), ("next", "to")),
    *(("each", "other"), ("one", "another"), ("old", "fashioned"), ("up", "close"), ("made", "up", "of")),
)
"""Several words that work as one: an adjective, an adverb or a preposition."""
ADJECTIVE_IDIOMS = _names(
    """
    back to back, upside down, old fashioned, face to face, side by side
    """
)
