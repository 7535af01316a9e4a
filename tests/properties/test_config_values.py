"""Overrides of any key with any value."""

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ita.config import load_config
from ita.config.keys import KEYS, get_value
from ita.errors import UserError

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


def load(path, overrides=()):
    """The config, or None if it is refused."""
    try:
        return load_config(path, overrides, lambda line: None)
    except UserError:
        return None


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
