"""Image files of a command line."""

from pathlib import Path

import pytest

from ita.data.image_files import find_files
from ita.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b10.png", "b9.png", "a.JPEG", "c.txt", "inside/d.png", "odd[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["."], ["a.JPEG", "b9.png", "b10.png", "odd[1].png"]),
        (["b*.png", "a.JPEG", "."], ["b9.png", "b10.png", "a.JPEG", "odd[1].png"]),
        (["**/d.*"], ["inside/d.png"]),
        ([Path("inside"), Path("missing.png")], ["inside/d.png", "missing.png"]),
        (["odd[1].png"], ["odd[1].png"]),
        (["c.txt", "missing.png"], ["c.txt", "missing.png"]),
    ],
)
def test_words_become_files(folder, words, found):
    assert [str(path) for path in find_files(words)] == found


def test_words_without_images_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for word, message in (
        ("empty", "empty contains no file of a known format"),
        ("*.tif", r"no file .* matches \*"),
    ):
        with pytest.raises(UserError, match=message):
            find_files([word])
