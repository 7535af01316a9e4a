"""Class names of the toy world and their split into seen and unseen classes.

An object is named by two words, coat and shape, such as "striped triangle". Every word occurs in
some seen class, but two in five word pairs are held out from the training annotations, half of
them for validation, half for test.
"""

# Word -> synonym.
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
# Only in the captions of the toy CLIP; no scene of a data set shows them.
OTHER_COATS = {"green": "emerald", "black": "dark"}
OTHER_SHAPES = {"flower": "blossom", "drop": "teardrop"}
OTHER_GROUNDS = {"snow": "ice", "lava": "magma"}

# (i + 2 j) mod 5 assigns the pair of i-th coat and j-th shape to a split, which spreads every word
# evenly over the splits.
_MODULUS = 5
_VAL, _TEST = 0, 2


def _pairs(coats: dict[str, str], shapes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{coat} {shape}" for shape in shapes for coat in coats)


def _held_out(residue: int) -> tuple[str, ...]:
    return tuple(
        f"{coat} {shape}"
        for j, shape in enumerate(SHAPES)
        for i, coat in enumerate(COATS)
        if (i + 2 * j) % _MODULUS == residue
    )


THINGS = _pairs(COATS, SHAPES)
STUFF = tuple(GROUNDS)
VAL_UNSEEN, TEST_UNSEEN = _held_out(_VAL), _held_out(_TEST)
SEEN_THINGS = tuple(name for name in THINGS if name not in VAL_UNSEEN + TEST_UNSEEN)
DISTRACTOR_THINGS = _pairs(OTHER_COATS, SHAPES) + _pairs(COATS | OTHER_COATS, OTHER_SHAPES)
DISTRACTOR_STUFF = tuple(OTHER_GROUNDS)

_SYNONYMS = COATS | SHAPES | GROUNDS | OTHER_COATS | OTHER_SHAPES | OTHER_GROUNDS


def synonym(name: str) -> str:
    """Replace every word by its synonym: "striped triangle" -> "stripy wedge"."""
    if name in _SYNONYMS:
        return _SYNONYMS[name]
    coat, shape = name.split()
    return f"{_SYNONYMS[coat]} {_SYNONYMS[shape]}"
