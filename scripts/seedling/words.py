"""Word lists the synthetic chat turns are made from; everyday words, written for this project."""

from __future__ import annotations


def words(text: str, mark: str | None = None) -> list[str]:
    """The words of a text."""
    return text.split(mark)


NAMES = words(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Karin Liam Maria Noah Olga Peter Rosa Samuel "
    "Tara Victor Wendy Yusuf Zoe Amara Bruno Chen Divya Elias Farah Gita Hugo Ines Jamal Kenji Leila Mateo "
    "Nadia Omar Priya Quinn Rafael Sofia Tomas Uma Vera Walter Xenia Yara Zane Alice Bob Carol Frank Julia"
)
TOWNS = words(
    "Oslo Lima Paris London Berlin Madrid Rome Vienna Prague Warsaw Dublin Lisbon Athens Cairo Nairobi "
    "Lagos Accra Tunis Delhi Mumbai Tokyo Osaka Seoul Hanoi Manila Jakarta Sydney Perth Auckland Toronto "
    "Montreal Boston Chicago Denver Seattle Austin Houston Miami Havana Bogota Quito Santiago Geneva "
    "Zurich Milan Turin Naples Porto Bergen Malmo Gdansk Riga Vilnius Tallinn Helsinki Stockholm "
    "Copenhagen Hamburg Munich Cologne"
)
KINDS: dict[str, list[str]] = {
    "animal": words(
        "cat dog horse cow sheep goat lion tiger bear wolf fox rabbit mouse rat bird eagle owl duck goose "
        "hen fish trout salmon whale dolphin frog snake lizard turtle ant bee spider camel donkey monkey "
        "elephant"
    ),
    "fruit": words(
        "apple pear plum cherry grape lemon lime orange banana mango peach melon fig date berry kiwi"
    ),
    "vegetable": words(
        "carrot onion potato tomato cabbage spinach bean pea pepper garlic leek radish pumpkin"
    ),
    "tool": words(
        "hammer saw drill wrench knife spoon fork shovel rake axe needle brush ladder broom file ruler"
    ),
    "vehicle": words(
        "car bus train truck bicycle boat ship plane tram van taxi ferry tractor scooter rocket"
    ),
    "colour": words("red blue green yellow black white brown grey purple pink orange silver gold violet"),
    "instrument": words("piano violin guitar flute drum trumpet harp cello horn organ banjo clarinet"),
    "job": words(
        "teacher doctor nurse farmer baker driver pilot sailor lawyer painter writer singer builder plumber "
        "engineer cook judge clerk soldier tailor"
    ),
    "place": words(
        "school hospital market museum library station airport harbour park garden farm factory bank "
        "hotel church castle bridge village office kitchen"
    ),
    "device": words(
        "phone camera printer laptop tablet screen keyboard speaker clock radio modem battery charger cable "
        "monitor headset scanner watch lamp heater"
    ),
    "clothing": words("shirt coat hat scarf glove sock shoe boot dress skirt belt jacket trousers sweater"),
    "weather": words("rain snow wind fog storm sunshine hail thunder frost cloud"),
}
NOUNS = [word for group in KINDS.values() for word in group] + words(
    "table chair door window house road river mountain lake forest field stone tree leaf flower seed box bag "
    "letter book page word name number list key value line file folder account order invoice payment message "
    "question answer problem answer report plan price cost day week month year hour minute morning evening "
    "night friend child man woman team group company customer delivery parcel package password login update "
    "error light water bread milk coffee tea sugar salt paper glass metal wood plastic ball game song story"
)
ADJECTIVES = words(
    "big small old new good bad long short high low hot cold warm cool fast slow loud quiet happy sad "
    "rich poor strong weak clean dirty heavy light dark bright easy hard early late open closed empty "
    "full round flat soft sharp smooth rough simple strange broken missing urgent normal quick careful "
    "angry calm brave gentle"
)
VERBS = words(
    "sees likes buys sells finds loses keeps brings takes sends wants needs makes breaks opens closes moves "
    "holds carries watches follows draws paints cleans washes repairs orders returns pays asks checks reads"
)
PLACES = words(
    "at home|in the garden|near the river|in town|on the table|by the door|at work|on the road", "|"
)
TIMES = words(
    "today|every day|in the morning|at night|last week|on Monday|in winter|after lunch|before noon", "|"
)
OPPOSITES = words(
    "big small|old new|good bad|long short|high low|hot cold|fast slow|loud quiet|happy sad|rich poor|"
    "strong weak|clean dirty|heavy light|dark bright|easy hard|early late|open closed|empty full|"
    "soft hard|up down|left right|in out|yes no|first last|day night|win lose|buy sell|give take|"
    "start stop|true false|more less|always never",
    "|",
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
NUMBER_WORDS = words("zero one two three four five six seven eight nine ten eleven twelve")
FIELDS = words(
    "name town colour size animal fruit tool job age weight height count price day month note code shape "
    "owner title page year host port path mode level kind part speed depth width author editor street "
    "floor room"
)
SYLLABLES = words(
    "ba be bo da de di do fa fe ga go ha he ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no nu pa "
    "pe po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo za zo en an in on or ar er al el is "
    "us ax"
)
DEFINITIONS: dict[str, str] = {
    "algorithm": "a list of steps that solves a problem",
    "adapter": "a small set of weights that changes what a frozen model says",
    "answer": "what is said in reply to a question",
    "bakery": "a shop that makes and sells bread",
    "bit": "the smallest unit of information, either zero or one",
    "bridge": "a structure that carries a road over a river or a valley",
    "byte": "a group of eight bits",
    "calendar": "a table of the days, weeks and months of a year",
    "castle": "a large old building with thick walls",
    "cloud": "a mass of small drops of water in the sky",
    "compass": "a tool that shows where north is",
    "computer": "a machine that follows instructions and works with data",
    "customer": "a person who buys something",
    "data": "facts that are written down so that they can be used",
    "dataset": "a file of examples that a model learns from",
    "dictionary": "a list of words with what they mean",
    "farm": "a place where food is grown and animals are kept",
    "file": "a named piece of data on a computer",
    "forest": "a large place full of trees",
    "friend": "a person you know well and like",
    "function": "a named piece of a program that can be called",
    "harbour": "a safe place for ships near the coast",
    "hospital": "a place where doctors and nurses help sick people",
    "invoice": "a list of what was sold and what must be paid",
    "island": "a piece of land with water on all sides",
    "job": "a piece of work that somebody does",
    "key": "a thing that opens a lock, or a name that finds a value",
    "lake": "a large body of water with land around it",
    "language": "a way of speaking and writing that people share",
    "letter": "a sign of the alphabet, or a written message",
    "library": "a place where books are kept and lent",
    "list": "a number of things written one after the other",
    "loop": "a part of a program that is repeated",
    "machine": "a thing with parts that does work",
    "map": "a drawing that shows where places are",
    "market": "a place where people buy and sell things",
    "model": "a program that has learned from examples",
    "module": "a file of code that other code can import",
    "month": "one of the twelve parts of a year",
    "mountain": "a very high piece of land",
    "museum": "a place where old or beautiful things are shown",
    "number": "a word or sign that says how many",
    "password": "a secret word that opens an account",
    "price": "the money that must be paid for a thing",
    "program": "a list of instructions for a computer",
    "question": "something that is asked",
    "rain": "water that falls from the clouds",
    "recipe": "a list of steps for making food",
    "river": "a stream of water that flows to the sea",
    "school": "a place where children learn",
    "seed": "the small part of a plant from which a new plant grows",
    "server": "a computer that answers requests from others",
    "string": "a piece of text in a program",
    "student": "a person who learns at a school",
    "sum": "what you get when you add numbers",
    "table": "a piece of furniture with a flat top, or rows and columns of data",
    "teacher": "a person who helps others to learn",
    "token": "a small piece of text that a model reads or writes",
    "train": "a line of wagons that runs on rails",
    "tree": "a large plant with a trunk and leaves",
    "variable": "a name that stands for a value in a program",
    "village": "a small group of houses in the country",
    "week": "a period of seven days",
    "winter": "the coldest part of the year",
    "word": "a group of letters that means something",
    "year": "a period of twelve months",
}
