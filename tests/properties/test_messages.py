"""Messages with any characters in them."""

from hypothesis import given
from hypothesis import strategies as st

from ita.errors import one_line, shown

CONTROL = st.sampled_from("\n\r\t\0\x1b\x85\u2028\u202e")


@given(st.text(st.characters() | CONTROL))
def test_any_message_is_one_line_without_control_characters(text):
    line = one_line(f"cannot read {text}")
    assert len(line.splitlines()) == 1
    assert not any(c < " " or c in "\x1b\x7f\u202e" for c in line)
    assert one_line(line) == line


@given(st.text() | st.binary() | st.lists(st.integers()))
def test_a_value_is_shown_in_a_few_words(value):
    assert len(shown(value)) < 130
    assert len(shown(value).splitlines()) == 1
