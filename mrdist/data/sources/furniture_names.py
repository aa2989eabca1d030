"""What furniture is called: from the names and tags of a library to a class and to captions."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A class and other words that its names may end with; all of them are true of every such thing, so that the class is a caption too. The
# longest ending wins, so a class of two words is safe from its second one.
CLASSES: dict[str, tuple[str, ...]] = {
    "armchair": (),
    "bathtub": ("bath", "bathtub jet system"),
    "bed": (),
    "bedside table": (),
    "bench": (),
    "bookcase": ("bookshelves",),
    "bottle": ("flacon",),
    "bowl": (),
    "box": ("chest", "trunk", "crate"),
    "cabinet": ("cupboard", "sideboard", "pantry", "drawers"),
    "car": ("sedan", "sedan sport", "suv", "chevrolet", "ford focus", "peugeot cc", "renault scenic", "seat leon", "beetle", "car model"),
    "chair": (),
    "clock": (),
    "cup": ("mug",),
    "desk": (),
    "door": ("doors", "door french style"),
    "dresser": (),
    "fan": (),
    "fence": ("fence picket", "fence grid"),
    "fireplace": (),
    "flower": ("flowers", "tulips", "orchids"),
    "glass": (),
    "ladder": (),
    "lamp": ("light", "lights", "lantern", "lamppost", "spotlight", "fluorescent strip", "lamp artwork"),
    "man": ("male",),
    "mirror": (),
    "outlet": ("plug", "socket"),
    "piano": (),
    "picture": ("frame",),
    "plant": ("ficus", "yucca", "spathiphyllum", "cactus", "bamboo"),
    "radiator": (),
    "railing": ("handrail", "iron rails"),
    "refrigerator": ("fridge",),
    "rug": ("carpet", "doormat", "bathmat"),
    "shelf": ("shelves", "shelving", "shelf unit"),
    "sink": ("washbasin",),
    "sofa": ("couch", "sofa bed", "sofa bz", "sofa seats", "couch seats"),
    "staircase": ("staircase ladder", "staircase samba", "staircase curved at top"),
    "stool": (),
    "stove": ("cooker", "hob", "cooktop", "cooker zones"),
    "switch": (),
    "table": (),
    "television": ("tv",),
    "toilet": ("toilet unit", "toilets unit"),
    "tree": ("pine", "poplar", "maple", "cypress", "willow", "acacia", "beech", "aspen", "tupelo", "sassafras", "peach blossom"),
    "vase": (),
    "wardrobe": (),
    "washing machine": (),
    "window": ("window panes", "window small panes", "picture window", "opening window"),
    "woman": ("female",),
}

# They end like a class and are something else, or would be a poor example of it.
OTHERS = (
    "abdominal bench", "baby bottle", "bonsai tree", "bread box", "changing table", "christmas tree", "cupboard mirror",
    "door glass", "dressing table", "fish bowl", "flower box", "football table", "frosted glass", "gas bottle", "gnome table",
    "letters box", "mannequin female", "mannequin male", "medicine box", "picnic table", "plant box", "pool table",
    "railing glass", "rice cooker", "shower door", "stain glass", "swinging chair", "table fan", "tissue box",
)  # fmt: skip

_PICTURES = ("framed", "picture")  # first words: "Picture portrait"
_SPELLING = {
    "antena tv": "tv antenna",
    "bended": "bent",
    "gaz": "gas",
    "hashtray": "ashtray",
    "mocassin": "moccasin",
    "refridgerator": "refrigerator",
    "teck": "teak",
    "trunck": "trunk",
    "hanged toilet": "wall-hung toilet",
}
_WOODS = ("cherry", "maple")
_NUMBERS = {"2": "two", "3": "three", "4": "four"}
_ROOMS = {"Bathroom": "bathroom", "Bedroom": "bedroom", "Kitchen": "kitchen", "Living room": "living room", "Office": "office"}
_EMPTY_TAGS = {"blend swap", "decoration", "adjustable", "four", "three", "human"}
_ENDINGS = {ending: label for label, endings in CLASSES.items() for ending in (label, *endings)} | dict.fromkeys(OTHERS, "")


def spoken(name: str) -> str:
    """A library's name as people would say it: no sizes, no counters, no product numbers; woods in front; lower case."""
    text = name.replace("-", " ").lower() if " - " in name else name.lower()
    for wrong, right in _SPELLING.items():
        text = re.sub(rf"\b{wrong}\b", right, text)
    text = re.sub(r"\b([234])(?= (seats|panes|zones))", lambda found: _NUMBERS[found[1]], text)
    text = re.sub(r"\bpart \d+", "", text)
    text = re.sub(r"^frame (?=\S)", "framed picture: ", text)
    words = [w for w in text.split() if not re.fullmatch(r"[\d.,]+([x×:°€%][\d.,]*)?", w)]
    if len(words) > 1 and words[-1] in _WOODS and words[0] not in ("japanese", "sycamore"):
        words = [f"{words[-1]} wood", *words[:-1]]
    return " ".join(words)


def label(name: str) -> str:
    """The class that a name says, or "" for the many things that have too few relatives."""
    words = re.split(r" (?:with|under|on|without|in) ", spoken(name))[0].split()
    words = [w for w in words if w not in _NUMBERS.values()] if words[-1:] in (["seats"], ["panes"], ["zones"]) else words
    for start in range(len(words)):
        if start == 1 and words[0] in _PICTURES:
            return "picture"
        if (found := _ENDINGS.get(" ".join(words[start:]))) is not None:
            return found
    return ""


def captions(name: str, tags: Sequence[str], category: str) -> tuple[str, ...]:
    """What the library says of a model, as phrases: its name, its class, its name with tags, its name with its room."""
    said, kind = spoken(name), label(name)
    if not said:
        return (a(kind),) if kind else ()
    known = {word.strip("s") for word in said.split()}
    fresh = [t.lower() for t in tags if not re.search(r"\d", t) and t.lower() not in _EMPTY_TAGS]
    fresh = [t for t in dict.fromkeys(fresh) if not {word.strip("s") for word in t.split()} <= known]
    phrases = [a(said), a(kind) if kind else ""]
    if fresh:
        phrases.append(f"{a(said)}{',' if ':' in said else ':'} {', '.join(fresh[:3])}")
    if category in _ROOMS:
        phrases.append(f"{a(said)} for the {_ROOMS[category]}")
    return tuple(dict.fromkeys(p for p in phrases if p))


def a(words: str) -> str:
    """Words with the article they ask for; plurals have none."""
    last = re.split(r":| (?:with|under|on|without|in|for) ", words)[0].split()[-1]
    if re.search(r"[^sui]s$", last):
        return words
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
