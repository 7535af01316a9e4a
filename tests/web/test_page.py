"""The page in a browser, as visitors use it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ita.web.examples import draw_examples

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

BROWSERS = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
BROWSER = next(filter(None, BROWSERS), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
# Milliseconds that an answer may take on a busy machine.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """A visitor with a browser profile of their own.

    Attributes:
        page: the page.
        problems: errors in the console, and requests to other servers.
    """

    def __init__(self, browser, address, width):
        self.page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.problems = []
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._note_request(request.url, address))
        self.page.goto(address)
        self.page.wait_for_selector(".ita-legend")

    def _note_message(self, message):
        if message.type == "error":
            self.problems.append(message.text)

    def _note_request(self, url, address):
        if not url.startswith((address, "data:", "blob:")):
            self.problems.append(url)

    def upload(self, path):
        self.page.set_input_files("#image input[type=file]", path)

    def ask(self, *classes):
        """Ask for these classes, by default for those on the page."""
        if classes:
            self.page.locator("#classes textarea").fill("\n".join(classes))
        self.page.get_by_role("button", name="Segment", exact=True).click()

    def expect_status(self, text):
        playwright.expect(self.page.locator("#status")).to_contain_text(text)

    def legend(self):
        """Texts of the legend: class -> area."""
        rows = self.page.locator(".ita-legend tbody tr").all()
        cells = [row.locator("th, td").all_inner_texts() for row in rows]
        return {row[0].strip(): row[-1] for row in cells}

    def point_at(self, mask):
        """Point at the middle pixel of a mask; the text that appears."""
        rows, columns = np.nonzero(mask)
        middle = len(rows) // 2
        box = self.page.locator(".ita-frame").bounding_box()
        height, width = mask.shape
        x = box["x"] + (columns[middle] + 0.5) / width * box["width"]
        self.page.mouse.move(x, box["y"] + (rows[middle] + 0.5) / height * box["height"])
        return self.page.inner_text(".ita-tip")


@pytest.fixture
def visit(browser, server):
    visitors = []

    def visit(width=1280):
        visitors.append(Visitor(browser, server, width))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.page.context.close()
        assert visitor.problems == []


def test_one_s_own_image_and_classes(visit, scene, tmp_path):
    path, masks = scene
    visitor = visit()
    visitor.upload(path)
    visitor.ask(*masks)
    visitor.expect_status("5 classes")
    playwright.expect(visitor.page.locator(".ita-legend")).to_contain_text("striped arrow")
    for name, mask in masks.items():
        assert float(visitor.legend()[name].strip("< %")) == pytest.approx(100 * mask.mean(), abs=2)
    playwright.expect(visitor.page.locator(".ita-dominant")).to_contain_text("%")
    assert visitor.point_at(masks["yellow star"]).startswith("yellow star, score ")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Label map (PNG)").click()
    assert download.value.suggested_filename == "my scene_labels.png"
    with Image.open(download.value.path()) as labels:
        star = np.asarray(labels) == list(masks).index("yellow star")
    expected = masks["yellow star"]
    assert (star & expected).sum() / (star | expected).sum() > 0.85
    # Other classes, on the image that was encoded before.
    visitor.ask("grass", "planks, wood floor")
    visitor.expect_status("2 classes")
    visitor.expect_status("the image was encoded before")
    assert set(visitor.legend()) == {"grass", "planks"}
    # In another mode, at once.
    visitor.page.get_by_label("panoptic").check()
    visitor.expect_status("segment")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Result (JSON)").click()
    content = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert {segment["name"] for segment in content["segments"]} == set(visitor.legend())


def test_bad_input_is_refused_in_words_and_leaves_the_answer(visit, scene, tmp_path):
    visitor = visit()
    before = visitor.legend()
    visitor.ask("")
    visitor.expect_status("no classes: type at least one")
    text = tmp_path / "letter.png"
    text.write_text("not an image")
    visitor.upload(text)
    visitor.ask("grass")
    visitor.expect_status("cannot read image letter.png: it is damaged or of an unknown format")
    large = tmp_path / "large.png"
    Image.new("L", (1200, 1000)).save(large)
    visitor.upload(large)
    visitor.expect_status("large.png has 1200 x 1000 pixels, more than 1 million; reduce it")
    visitor.ask(*["grass"] * 151)
    visitor.expect_status("more than 150 class names")
    assert "Traceback" not in visitor.page.inner_text("body")
    assert visitor.legend() == before
    # The missing preview of what is no image is the browser's.
    visitor.problems = [p for p in visitor.problems if "letter" not in p]


def test_a_file_that_is_too_large_is_refused_in_words(visit, tmp_path):
    visitor = visit()
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    visitor.upload(tmp_path / "noise.png")
    playwright.expect(visitor.page.locator("body")).to_contain_text("maximum allowed size")
    visitor.problems = [p for p in visitor.problems if "413" not in p]


def test_two_visitors_get_their_own_answers(visit, scene, tmp_path):
    """Although only one visitor's image is kept."""
    path, masks = scene
    other = draw_examples(tmp_path)[0]
    one, two = visit(), visit()
    one.upload(path)
    two.upload(other.image)
    one.ask(*masks)
    two.ask(*other.classes.splitlines())
    one.expect_status("5 classes")
    two.expect_status("7 classes")
    one.ask("yellow star", "water", "wood floor")
    two.ask("yellow cross", "water", "gravel")
    for visitor in (one, two):
        visitor.expect_status("3 classes")
    assert set(one.legend()) == {"yellow star", "water", "wood floor"}
    assert set(two.legend()) == {"yellow cross", "water", "gravel"}
    assert one.point_at(masks["yellow star"]).startswith("yellow star")


def test_examples_and_presets(visit, scene):
    visitor = visit()
    visitor.page.get_by_role("button", name="Example 2").click()
    visitor.expect_status("5 classes")
    assert set(visitor.legend()) == set(scene[1])
    visitor.page.get_by_label("Class list").click()
    visitor.page.get_by_role("option", name="cityscapes19").click()
    classes = visitor.page.locator("#classes textarea")
    playwright.expect(classes).to_have_value(re.compile(r"road.*\n(.*\n){17}bicycle"))
    # By the keyboard, and what was typed afterwards stays.
    visitor.page.get_by_label("Class list").press("ArrowUp")
    visitor.page.get_by_label("Class list").press("Enter")
    playwright.expect(classes).to_have_value(re.compile(r"^(?!road)"))
    classes.fill("grass")
    visitor.page.get_by_label("Class list").focus()
    visitor.ask()
    visitor.expect_status("1 class,")


def test_a_narrow_screen_and_the_keyboard(visit, scene):
    visitor = visit(width=400)
    page = visitor.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    focused = []
    for _ in range(25):
        page.keyboard.press("Tab")
        element = "document.activeElement"
        focused.append(page.evaluate(f"{element}.ariaLabel || {element}.innerText || {element}.id"))
        if "arrow keys" in focused[-1]:
            break
    assert {"Segment", "Upload file", "Example 1"} < set(focused)
    page.keyboard.press("ArrowUp")
    middle = page.inner_text(".ita-tip")
    for _ in range(30):
        page.keyboard.press("ArrowUp")
    assert "water, score" in page.inner_text(".ita-tip") != middle
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert page.locator(".ita-frame canvas").evaluate("canvas => canvas.style.opacity") == "0"
