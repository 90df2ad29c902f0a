"""What the lexical scorer knows about objects: other names, kinds, scenery, and what usually goes with what.

A small table of our own, for the vocabulary of taggers (COCO's classes and everyday words). No downloads.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()) for name in text.split(","))


COMPOUNDS = _names(
    """
    cell phone, mobile phone, teddy bear, hot dog, fire hydrant, stop sign, traffic light, dining table,
    parking meter, wine glass, tennis racket, baseball bat, baseball glove, sports ball, potted plant,
    polar bear, living room, dining room, bath tub, swimming pool, picture frame, flower pot, sea horse,
    coffee cup, coffee table, street light, street sign, street lamp, hair drier, hair dryer, pick up,
    rubber duck, guinea pig, sea lion, ice cream, tea pot, toilet paper, paper towel, laptop computer,
    remote control, motor bike, motor cycle, school bus, fire truck, pickup truck, race car, sports car,
    counter top, shower curtain, tooth brush, wrist watch, alarm clock, wall clock, clock tower, gummy bear,
    air plane, hot air balloon, bird cage, dog house, bird house, dog bed, cat bed, orange juice, apple tree,
    banana peel, book shelf, book case, book shop, chair lift, boat house, train station, train track, car seat,
    cup holder, cup cake, pan cake, horse shoe, frying pan, light bulb, stuffed animal, tennis ball,
    tennis court, soccer ball, parking lot, stuffed bear, bear cub, surf board, snow board
    """
)
"""Nouns written as several words."""

OTHER_THINGS = {
    "teddy bear": "toy",
    "gummy bear": "candy",
    "stuffed bear": "toy",
    "hot dog": "food",
    "sea horse": "fish",
    "sea lion": "seal",
    "guinea pig": "rodent",
    "rubber duck": "toy",
    "hot air balloon": "balloon",
    "cup cake": "cake",
    "pan cake": "pancake",
    "horse shoe": "horseshoe",
    "light bulb": "bulb",
    "chair lift": "lift",
    "stuffed animal": "toy",
}
"""Compounds that are not a kind of their last word (a teddy bear is no bear), with what they are."""

_SYNONYMS = (
    ("bicycle", "bike", "pushbike"),
    ("motorcycle", "motorbike", "motor bike", "motor cycle"),
    ("tv", "television", "tv set", "television set", "tv screen"),
    ("phone", "cell phone", "mobile phone", "cellphone", "smartphone", "telephone", "mobile", "iphone"),
    ("sofa", "couch", "settee", "loveseat"),
    ("airplane", "aeroplane", "plane", "aircraft", "jet", "air plane"),
    ("car", "automobile", "auto"),
    ("person", "human", "human being", "individual"),
    ("man", "gentleman", "guy"),
    ("woman", "lady"),
    ("child", "kid"),
    ("dog", "doggy", "hound"),
    ("cat", "kitty"),
    ("puppy", "pup"),
    ("bird", "birdie"),
    ("horse", "stallion", "mare"),
    ("cow", "cattle", "ox"),
    ("sheep", "lamb", "ewe"),
    ("suitcase", "luggage", "baggage"),
    ("backpack", "rucksack", "knapsack", "back pack"),
    ("boat", "rowboat", "motorboat"),
    ("cup", "mug", "coffee cup", "teacup"),
    ("glass", "drinking glass"),
    ("wine glass", "wineglass"),
    ("refrigerator", "fridge"),
    ("stove", "cooker"),
    ("hair dryer", "hair drier", "hairdryer", "blow dryer"),
    ("donut", "doughnut"),
    ("hamburger", "burger"),
    ("hat", "cap"),
    ("sneaker", "trainer"),
    ("pants", "trousers"),
    ("eyeglasses", "spectacles"),
    ("laptop", "laptop computer", "notebook computer"),
    ("remote", "remote control"),
    ("dining table", "dinner table"),
    ("picture frame", "photo frame"),
    ("truck", "lorry"),
    ("pickup truck", "pickup"),
    ("bookshelf", "book shelf", "bookcase", "book case"),
    ("countertop", "counter top", "counter"),
    ("bathtub", "bath tub", "tub"),
    ("rug", "carpet"),
    ("curtain", "drape"),
    ("street", "road", "roadway"),
    ("sidewalk", "pavement"),
    ("sea", "ocean"),
    ("rock", "stone", "boulder"),
    ("forest", "woods", "woodland"),
    ("lawn", "grass"),
    ("traffic light", "stoplight", "traffic signal"),
    ("fire truck", "fire engine", "firetruck"),
    ("potted plant", "houseplant"),
    ("teddy bear", "teddy", "stuffed bear"),
    ("vase", "flower vase"),
    ("bench", "park bench"),
    ("toilet", "toliet"),
    ("pen", "ballpoint", "ballpoint pen"),
    ("basket", "hamper"),
    ("scarf", "shawl"),
    ("robot", "android"),
    ("flower", "blossom", "bloom"),
    ("ship", "vessel"),
    ("skateboard", "skate board"),
    ("surfboard", "surf board"),
    ("snowboard", "snow board"),
    ("toothbrush", "tooth brush"),
    ("watch", "wristwatch", "wrist watch"),
)
CANONICAL: dict[str, str] = {name: group[0] for group in _SYNONYMS for name in group}
"""Every known name of a thing -> the one used for comparing."""

_KINDS = {
    "person": (
        "man woman child boy girl baby adult teenager player skier surfer rider worker chef singer dancer soldier "
        "farmer policeman doctor nurse student teacher king queen astronaut cowboy clown musician tourist skateboarder"
    ),
    "child": "boy girl toddler",
    "dog": "puppy poodle labrador corgi beagle bulldog dachshund husky terrier",
    "cat": "kitten",
    "bird": (
        "eagle parrot duck owl penguin seagull pigeon chicken hen rooster flamingo swan goose crow sparrow peacock"
    ),
    "horse": "pony foal zebra",
    "cow": "calf bull",
    "bear": "panda",
    "animal": (
        "dog cat bird horse cow sheep bear elephant giraffe pig goat lion tiger rabbit monkey fox deer zebra fish wolf "
        "mouse frog turtle snake camel kangaroo squirrel hedgehog"
    ),
    "vehicle": "car truck bus train motorcycle bicycle van taxi tractor airplane boat",
    "car": "taxi jeep suv convertible sedan limousine",
    "boat": "ship sailboat canoe kayak ferry yacht",
    "fruit": "apple banana orange pear peach grape strawberry lemon lime mango pineapple watermelon cherry kiwi",
    "vegetable": "carrot broccoli tomato potato onion cucumber lettuce pepper pumpkin eggplant",
    "food": "fruit vegetable cake pizza sandwich hamburger donut bread cheese salad soup pasta sushi cookie",
    "furniture": "chair table desk sofa bed bench bookshelf cabinet dresser stool",
    "chair": "armchair stool",
    "table": "desk",
    "bag": "backpack handbag purse suitcase",
    "flower": "rose tulip sunflower daisy lily orchid",
    "tree": "palm oak pine",
    "shoe": "sneaker boot sandal",
    "hat": "beanie helmet fedora sombrero",
    "toy": "doll",
    "clock": "watch",
    "building": "house church tower skyscraper castle barn",
    "plant": "tree flower bush cactus",
    "street": "highway",
    "ball": "football basketball baseball",
}
KIND_OF: dict[str, frozenset[str]] = {}
"""Thing -> the more general things that it is, one step up."""
for _general, _members in _KINDS.items():
    for _member in _members.split():
        KIND_OF[_member] = KIND_OF.get(_member, frozenset()) | {_general}

SCENERY = _words(
    """
    desk table countertop shelf floor wall ceiling room bedroom kitchen bathroom window door curtain rug
    tablecloth grass lawn field meadow ground dirt sand beach soil snow ice water sea lake river pond sky cloud
    sun sunset sunrise moon star tree bush forest leaf branch mountain hill rock street sidewalk path asphalt
    city town building house fence garden park yard background shadow horizon landscape scenery outdoors indoors
    nature studio air wood pavement platform shore coast desert jungle savanna valley gravel
    surface backdrop highway pasture plain prairie farm village dust fog mist smoke rain weather
    daylight night day evening office hallway corner bridge wave
    """
)
"""Where things stand and what surrounds them: always possible, whatever the prompt."""

OBJECTS = _names("dog house, bird house, boat house, coffee table, shower curtain, doll house")
"""Things that only sound like scenery."""

_COMPANIONS = {
    "book": "pen pencil paper page notebook bookmark eyeglasses bookshelf cover text library",
    "pen": "paper notebook pencil ink book",
    "car": "wheel tire headlight windshield license-plate driver bumper mirror parking-lot tyre",
    "bicycle": "wheel tire helmet rider pedal handlebar basket",
    "motorcycle": "wheel tire helmet rider headlight",
    "bus": "wheel tire driver windshield bus-stop",
    "truck": "wheel tire driver headlight windshield",
    "train": "track railway rail station train-track train-station locomotive rail-track",
    "airplane": "wing runway airport engine propeller",
    "boat": "sail oar mast dock harbor rope pier paddle",
    "dog": "collar leash tail paw nose ear fur tongue puppy",
    "cat": "collar tail paw whisker ear fur eye",
    "bird": "beak wing feather nest tail perch",
    "horse": "saddle bridle mane tail rider rein stable barn hoof",
    "cow": "horn tail barn ear",
    "sheep": "wool barn",
    "elephant": "trunk tusk ear",
    "giraffe": "neck spot horn",
    "bear": "fur paw",
    "person": (
        "face hair hand arm leg head shirt pants shoe hat clothes dress jacket eyeglasses coat jeans eye smile "
        "skirt tie"
    ),
    "clock": "number hand dial clock-face tower",
    "cake": "plate candle frosting icing cream fork knife cake-stand",
    "bowl": "spoon fruit soup food",
    "cup": "coffee tea saucer spoon drink handle",
    "wine glass": "wine bottle",
    "plate": "fork knife food napkin",
    "pizza": "cheese plate tomato tray",
    "banana": "peel bunch fruit",
    "apple": "stem fruit",
    "vase": "flower bouquet stem",
    "suitcase": "handle strap wheel",
    "backpack": "strap zipper",
    "chair": "cushion leg seat pillow",
    "sofa": "cushion pillow blanket",
    "bed": "pillow blanket sheet headboard bedding",
    "toilet": "sink mirror tile bathtub toilet-paper",
    "sink": "faucet mirror tap",
    "laptop": "keyboard screen mouse",
    "tv": "screen tv-stand remote",
    "kitchen": "stove oven refrigerator sink cabinet",
    "flower": "petal stem pot",
    "skateboard": "skateboarder ramp wheel",
    "surfboard": "surfer foam",
    "umbrella": "rain handle",
    "street": "car traffic-light lane crosswalk street-light",
    "house": "roof chimney porch",
}
COMPANIONS: dict[str, frozenset[str]] = {
    thing: frozenset(word.replace("-", " ") for word in words.split()) for thing, words in _COMPANIONS.items()
}
"""Named thing -> its parts and usual company: possible when the prompt names the thing."""

NO_ARTICLE = _words(
    """
    grass water sky snow sand dirt soil ice air nature asphalt gravel scenery wood daylight weather sunlight
    food hair fur clothing clothes pants jeans shorts paper wool luggage furniture rain fog mist smoke text wine
    coffee tea cheese outdoors indoors eyeglasses glasses scissors broccoli bread traffic lawn-grass fruit
    frosting icing foam soup bedding
    """
)
"""Mass and plural-only nouns, captioned without "a"."""

INVARIANT = _words(
    """
    glasses eyeglasses sunglasses scissors jeans pants shorts clothes goggles headphones trousers news canvas
    christmas lens atlas series species chess tennis sheep deer fish bus gas iris iphone mars paris texas swiss
    mattress compass pliers tongs binoculars headquarters outdoors indoors opera agenda
    """
)
IRREGULAR = {"cattle": "cow", "dice": "dice", "emojis": "emoji", "hoodies": "hoodie", "safaris": "safari"}
IRREGULAR |= {"oxen": "ox", "selfies": "selfie", "taxis": "taxi"}
