"""Reports: self-contained, escaped, every block shown; sheets and charts."""

import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
import torch
from PIL import Image

from adjointdpm.errors import InvalidInput
from adjointdpm.report import (
    Chart,
    Code,
    Facts,
    Pictures,
    Section,
    Table,
    Text,
    bar_chart,
    curves,
    picture_sheet,
    render_report,
    to_pil,
)

RED, BLUE = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (300, 300), (0, 0, 255))


def report(**changes):
    blocks = [
        Text("A paragraph."),
        Facts([("steps", "10")]),
        Table(["effect", "share"], [["sepia", "83 %"]], "A table"),
        Pictures(["before", "after"], [[RED, BLUE]], ["apple"], "Pictures"),
        Chart(curves({"loss": {"": [1.0, 0.5]}}, "step"), "a falling curve"),
        Code("pipe(prompt_embeds=e)"),
    ]
    return render_report(**{"title": "T", "lead": "L", "sections": [Section("S", blocks)], "footer": "F"} | changes)


class Balanced(HTMLParser):
    void = frozenset({"meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_elsewhere():
    html = report()
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert len(parser.images) == 3
    assert all(image["src"].startswith("data:image/png;base64,") for image in parser.images)
    assert all(image["alt"] for image in parser.images)
    assert not re.search(r"https?://|<script|@import|<link", html)
    for text in ("A paragraph.", "83 %", "before", "apple", "pipe(prompt_embeds=e)", "F"):
        assert text in html


def test_small_pictures_are_enlarged_without_smoothing_and_large_ones_are_not():
    parser = Balanced()
    parser.feed(report())
    by_width = {image["width"]: image.get("class") for image in parser.images}
    assert by_width["8"] == "pixels"
    assert by_width["300"] is None
    assert "image-rendering: pixelated" in report()


def test_markup_in_prompts_shows_as_typed():
    hostile = '<script>alert("x")</script>'
    html = report(
        title=hostile,
        lead=hostile,
        sections=[Section(hostile, [Text(hostile), Pictures([hostile], [[RED]], [hostile])])],
    )
    assert "<script" not in html
    assert (
        html.count("&lt;script&gt;") == 9
    )  # title twice, lead, heading, paragraph, column, row, twice in the alternative text


def test_tables_and_grids_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="has 1 cells, its header 2"):
        Table(["a", "b"], [["x"]])
    with pytest.raises(InvalidInput, match="2 pictures under 1 columns"):
        Pictures(["a"], [[RED, RED]])
    with pytest.raises(InvalidInput, match="1 names for 2 rows"):
        Pictures(["a"], [[RED], [RED]], ["x"])


def test_tensors_become_the_pictures_that_they_mean():
    images = torch.zeros(2, 3, 4, 6)
    images[0, 0], images[1, 2] = 2.0, 0.5
    first, second = to_pil(images)
    assert first.size == (6, 4)
    assert first.getpixel((0, 0)) == (255, 0, 0)
    assert second.getpixel((5, 3)) == (0, 0, 128)
    with pytest.raises(InvalidInput, match=r"got \(1, 1, 4, 4\)"):
        to_pil(torch.zeros(1, 1, 4, 4))


def test_sheets_hold_every_picture_enlarged_in_its_place():
    green = Image.new("RGB", (8, 8), (0, 255, 0))
    sheet = picture_sheet([[RED, green], [green, RED]], ["before", "after the effect"], ["one", "two"], scale=4)
    colors = [color for _, color in sheet.getcolors(maxcolors=100000)]
    assert (255, 0, 0) in colors
    assert sum(n for n, c in sheet.getcolors(100000) if c == (0, 255, 0)) == 2 * 32 * 32
    bare = picture_sheet([[RED]], scale=4)
    assert bare.getpixel((10, 10)) == (255, 0, 0)
    assert bare.width < sheet.width
    with pytest.raises(InvalidInput, match="at least one picture"):
        picture_sheet([])


def test_charts_are_pictures_and_do_not_change_from_run_to_run():
    loss = curves({"loss": {"": [3.0, 1.0, 0.3]}, "gradient": {"a": [1.0, 2.0], "b": [0.0, -1.0]}}, "step")
    bars = bar_chart(
        ["sepia", "colour grade"], {"ours": [0.9, -0.4], "word": [0.5, 1.2]}, "share", "T", True, (-0.2, 1)
    )
    for png in (loss, bars, curves({"one point": {"": [1.0]}}, "step")):
        with Image.open(BytesIO(png)) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(100000)) > 3
    assert loss == curves({"loss": {"": [3.0, 1.0, 0.3]}, "gradient": {"a": [1.0, 2.0], "b": [0.0, -1.0]}}, "step")


@pytest.mark.parametrize("steps", [1, 3, 5, 50])
def test_steps_are_whole_numbers_on_the_axis(monkeypatch, steps):
    monkeypatch.setattr("adjointdpm.report.figures._png", lambda figure: figure)
    figure = curves({"loss": {"": [1.0 + k for k in range(steps)]}}, "step")
    figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
