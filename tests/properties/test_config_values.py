"""Overrides of any key with any value."""

import sys

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ita.config import load_config
from ita.config.keys import KEYS, get_value
from ita.config.ranges import Integer, Number, OneOf, Switch
from ita.errors import UserError

TOY = "configs/toy/ita_tiny.yaml"
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["cuda:1", "1e-3", "None", "[", "(1, 2)"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
SETTINGS = st.dictionaries(st.sampled_from(sorted(KEYS)), VALUES, max_size=2)
# Keys that others limit besides their range, or whose values name things that must be there.
RELATED = (
    "DATALOADER.",
    "DATASETS.",
    "INPUT.MAX_SCALE",
    "INPUT.MIN_SCALE",
    "MODEL.META_ARCHITECTURE",
    "MODEL.MASK_FORMER.",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM",
    "SOLVER.",
)


@st.composite
def allowed_settings(draw):
    """A key with a value of its range."""
    names = [name for name in sorted(KEYS) if not name.startswith(RELATED)]
    key = KEYS[draw(st.sampled_from(names))]
    of_key = key.range
    if isinstance(of_key, Integer):
        value = draw(st.integers(of_key.minimum, of_key.maximum))
        value -= value % of_key.multiple_of
    elif isinstance(of_key, Number):
        minimum = of_key.minimum or sys.float_info.min * (not of_key.zero)
        value = draw(st.floats(minimum, min(of_key.maximum, 1e9)))
    elif isinstance(of_key, OneOf):
        value = draw(st.sampled_from(of_key.choices))
    elif isinstance(of_key, Switch):
        value = draw(st.booleans())
    else:
        value = get_value(load_config(TOY), key.name)
    return key.name, value


def load(path, overrides=()):
    """The config, or None if it is refused."""
    try:
        return load_config(path, overrides, lambda line: None)
    except UserError:
        return None


@given(allowed_settings())
def test_values_of_the_range_are_taken_from_files_and_command_lines(tmp_path, setting):
    name, value = setting
    base = "DATASETS.TRAIN: [toy_train]\n"
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(base)
    second.write_text(base + yaml.safe_dump({name: value}), encoding="utf-8")
    for cfg in (load_config(first, [name, str(value)]), load_config(second)):
        assert get_value(cfg, name) == value
        assert get_value(cfg, name) in KEYS[name].range


@given(SETTINGS)
def test_a_config_is_in_all_ranges_and_can_be_read_again(tmp_path, settings):
    path = tmp_path / "config.yaml"
    base = {"DATASETS.TRAIN": ["toy_train"]}
    path.write_text(yaml.safe_dump(base | settings), encoding="utf-8")
    overrides = [str(part) for pair in settings.items() for part in pair]
    for cfg in (load(path), load(path, overrides)):
        if cfg is None:
            continue
        assert all(get_value(cfg, key.name) in key.range for key in KEYS.values())
        (tmp_path / "again.yaml").write_text(cfg.dump(), encoding="utf-8")
        again = load_config(tmp_path / "again.yaml", (), lambda line: None)
        for name in KEYS:
            assert get_value(again, name) == get_value(cfg, name)


@given(st.dictionaries(st.text(), VALUES, max_size=3), st.lists(st.text(), max_size=4))
def test_any_keys_and_words(tmp_path, content, words):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    load(path)
    path.write_text("DATASETS: {TRAIN: [toy_train]}\n", encoding="utf-8")
    load(path, words)


@given(st.binary(max_size=200) | st.text(alphabet="{}[]&*a:- \n'\"!<", max_size=60).map(str.encode))
def test_any_bytes(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    load(path)
