"""Verdicts and reports of ``ita reproduce``."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ita.reports.published import PublishedResult
from ita.reports.reproduction import (
    Measurement,
    NotEvaluated,
    Reproduction,
    Verdict,
    conclusion,
    format_html,
    format_markdown,
    format_text,
)

SET = Measurement(
    title="A-150",
    metrics={"mIoU": 34.10, "PQ": 26.5},
    published=PublishedResult({"mIoU": 34.0658, "PQ": 26.7882}, "list.txt"),
    images=2000,
    expected_images=2000,
    class_list="/data/lists/list.txt",
    list_difference="",
    precision="float32",
    seconds_per_image=0.25,
)
ABSENT = NotEvaluated("COCO", "not found", required=False)
RUN = Reproduction("FC-CLIP <large>", [SET], [ABSENT], [("config", "a & b.yaml")])


@pytest.mark.parametrize(
    ("published", "measured", "verdict"),
    [
        (34.0, 34.2, Verdict.REPRODUCED),
        (34.2, 34.0, Verdict.REPRODUCED),
        (34.0, 34.2001, Verdict.DIFFERS),
        (34.0, 33.79, Verdict.DIFFERS),
        (34.0, None, Verdict.DIFFERS),
        (None, 34.0, Verdict.UNPUBLISHED),
    ],
)
def test_verdict_of_a_difference(published, measured, verdict):
    theirs = {} if published is None else {"mIoU": published}
    ours = {} if measured is None else {"mIoU": measured}
    measurement = replace(SET, metrics=ours, published=PublishedResult(theirs, "list.txt"))
    assert measurement.verdict == verdict
    run = replace(RUN, measurements=[measurement])
    assert run.successful == (verdict == Verdict.REPRODUCED)
    assert conclusion(run).startswith("REPRODUCED" if run.successful else "NOT REPRODUCED")


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"images": 1999}, Verdict.OTHER_IMAGES, "; A-150 has 1,999 of 2,000 images"),
        ({"images": 2001}, Verdict.OTHER_IMAGES, "; A-150 has 2,001, not 2,000 images"),
        (
            {"list_difference": "class list is b.txt"},
            Verdict.OTHER_LIST,
            "; A-150: class list is b",
        ),
        ({"metrics": {}}, Verdict.DIFFERS, "; A-150 has no mIoU"),
        ({"metrics": {"mIoU": 30.0}}, Verdict.DIFFERS, "; A-150 differs by -4.07 mIoU"),
    ],
)
def test_one_bad_set_is_enough(change, verdict, reason):
    other = replace(SET, title="PC-59")
    run = replace(RUN, measurements=[other, replace(SET, **change)])
    assert run.measurements[1].verdict == verdict
    assert not run.successful
    assert reason in conclusion(run)


def test_equal_reasons_are_given_once():
    other = "training class list is a.txt"
    sets = [replace(SET, title=title, list_difference=other) for title in ("A-150", "PC-59")]
    assert conclusion(replace(RUN, measurements=sets)).endswith(f"; A-150, PC-59: {other}")


def test_what_is_not_published_does_not_count():
    other = replace(SET, title="Own", published=PublishedResult({}, ""))
    assert replace(RUN, measurements=[SET, other]).successful
    run = replace(RUN, measurements=[other])
    assert not run.successful
    assert "there is no published mIoU to compare with" in conclusion(run)


def test_required_sets_must_be_evaluated():
    assert RUN.successful
    run = replace(RUN, not_evaluated=[replace(ABSENT, required=True)])
    assert not run.successful
    assert "COCO was not evaluated" in conclusion(run)
    assert not replace(RUN, measurements=[]).successful


@pytest.mark.parametrize("form", [format_text, format_markdown, format_html])
def test_every_form_has_the_same_content(form):
    text = form(RUN)
    for cell in ("34.10", "34.07", "+0.03", "reproduced", "2,000 of 2,000", "list.txt", "float32",
                 "0.25", "26.50", "26.79", "-0.29", "COCO", "not found"):  # fmt: skip
        assert cell in text
    assert "/data/lists" not in text


def test_html_is_valid_and_refers_to_nothing():
    class Parser(HTMLParser):
        """Checks that tags are closed, and collects attributes."""

        def __init__(self):
            super().__init__()
            self.open, self.attributes = [], []

        def handle_starttag(self, tag, attrs):
            self.attributes += [name for name, _ in attrs]
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    page = format_html(RUN)
    parser = Parser()
    parser.feed(page)
    assert parser.open == []
    assert not {"src", "href"} & set(parser.attributes)
    assert not re.search(r"https?:|url\(|@import|<script", page)
    assert "FC-CLIP &lt;large&gt;" in page
    assert "a &amp; b.yaml" in page


def test_markdown_keeps_its_columns():
    text = format_markdown(replace(RUN, measurements=[replace(SET, title="a|b")]))
    assert "a\\|b" in text
