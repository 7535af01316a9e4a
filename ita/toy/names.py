"""Words of the toy world, and which of its classes training sees.

An object is called by two words, "striped triangle": what covers it and its shape. Every word
occurs in some seen class, but two pairs in five are kept from training's annotations, half of
them for choices (validation), half for reports (test).
"""

# Each word with another one for the same thing.
COATS = {
    "red": "crimson",
    "yellow": "golden",
    "blue": "azure",
    "purple": "violet",
    "white": "pale",
    "striped": "stripy",
    "dotted": "spotted",
    "checkered": "chequered",
}
SHAPES = {
    "circle": "disc",
    "square": "box",
    "triangle": "wedge",
    "ring": "hoop",
    "star": "pentagram",
    "cross": "plus",
    "heart": "valentine",
    "moon": "crescent",
    "arrow": "pointer",
    "bar": "stick",
}
GROUNDS = {
    "grass": "lawn",
    "water": "sea",
    "sand": "desert",
    "brick wall": "bricks",
    "gravel": "pebbles",
    "wood floor": "planks",
}
# In the CLIP's captions only: no scene of a data set shows them.
OTHER_COATS = {"green": "emerald", "black": "dark"}
OTHER_SHAPES = {"flower": "blossom", "drop": "teardrop"}
OTHER_GROUNDS = {"snow": "ice", "lava": "magma"}

# Of the pairs (i-th coat, j-th shape), (i + 2 j) mod 5 says whose they are: each word has a fair
# share of every part.
_PARTS = 5
_VAL, _TEST = 0, 2


def _pairs(coats: dict[str, str], shapes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{coat} {shape}" for shape in shapes for coat in coats)


def _part(number: int) -> tuple[str, ...]:
    return tuple(
        f"{coat} {shape}"
        for j, shape in enumerate(SHAPES)
        for i, coat in enumerate(COATS)
        if (i + 2 * j) % _PARTS == number
    )


THINGS = _pairs(COATS, SHAPES)
STUFF = tuple(GROUNDS)
VAL_UNSEEN, TEST_UNSEEN = _part(_VAL), _part(_TEST)
SEEN_THINGS = tuple(name for name in THINGS if name not in VAL_UNSEEN + TEST_UNSEEN)
DISTRACTOR_THINGS = _pairs(OTHER_COATS, SHAPES) + _pairs(COATS | OTHER_COATS, OTHER_SHAPES)
DISTRACTOR_STUFF = tuple(OTHER_GROUNDS)

_OTHER_WORD = COATS | SHAPES | GROUNDS | OTHER_COATS | OTHER_SHAPES | OTHER_GROUNDS


def synonym(name: str) -> str:
    """The same class in other words: "striped triangle" -> "stripy wedge"."""
    if name in _OTHER_WORD:
        return _OTHER_WORD[name]
    coat, shape = name.split()
    return f"{_OTHER_WORD[coat]} {_OTHER_WORD[shape]}"
