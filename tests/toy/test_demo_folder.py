"""The demo deletes only in folders that a demo has written."""

import pytest

from ita.errors import UserError
from ita.toy import demo


def test_other_content_is_left_alone(tmp_path):
    kept = tmp_path / "datasets" / "coco" / "image.jpg"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(UserError, match="has other content"):
        demo.demo(tmp_path, iterations=2, test=1)
    assert kept.exists()


def test_an_earlier_demo_is_replaced(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise UserError("far enough")

    monkeypatch.setattr(demo, "make_toy_dataset", stop)
    output = tmp_path / "demo"
    for _ in range(2):
        with pytest.raises(UserError, match="far enough"):
            demo.demo(output, iterations=2, test=1)
        (output / "run").mkdir()
    assert {path.name for path in output.iterdir()} == {demo.MARKER, "run"}
