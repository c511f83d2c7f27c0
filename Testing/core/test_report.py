"""report.py and pictures.py: the rows come back out whole, the page stands alone, the pictures show the outlines."""

import csv
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from simcvd.errors import SimCVDError
from simcvd.metrics import DEFINITIONS, compare
from simcvd.pictures import PREDICTION_COLOUR, REFERENCE_COLOUR, picture_description, worst_slice
from simcvd.report import case_picture, format_table, summary, write_csv, write_html, write_json_report

SPACING = (0.6, 0.8, 2.5)


def ball(radius: float, centre=(8, 20, 24), shape=(16, 40, 48)) -> np.ndarray:
    distance = sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True))
    return distance <= radius**2


def row(case="la001", label="Left atrium", radius=5.0) -> dict:
    prediction = ball(radius) if radius else np.zeros((16, 40, 48), bool)
    return {"case": case, "label": label, **compare(ball(6), prediction, SPACING)}


@pytest.fixture
def rows() -> list[dict]:
    return [row("a", radius=5), row("b", radius=4), row("c", radius=6), row("d", radius=0)]


def pixels_of(png: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(png)).convert("RGB"))


def has_colour(pixels: np.ndarray, colour) -> bool:
    return bool((pixels == colour).all(axis=-1).any())


def test_summary_counts_empties_and_leaves_them_out_of_the_figures(rows):
    dice = [r["dice"] for r in rows[:3]]
    found = summary(rows)["Left atrium"]["dice"]
    assert found["mean"] == pytest.approx(np.mean(dice))
    assert found["sd"] == pytest.approx(np.std(dice, ddof=1))
    assert found["median"] == pytest.approx(np.median(dice))
    assert (found["n"], found["empties"]) == (3, 1)


def test_summary_at_the_borders():
    one = summary([row()])["Left atrium"]["asd"]
    assert one["sd"] is None and one["mean"] == one["median"] is not None
    none = summary([row(radius=0)])["Left atrium"]["asd"]
    assert none == {"mean": None, "sd": None, "median": None, "n": 0, "empties": 1}
    assert summary([]) == {}


def test_summary_keeps_labels_apart():
    found = summary([row(label="Anterior", radius=6), row(label="Posterior", radius=4)])
    assert list(found) == ["Anterior", "Posterior"]
    assert found["Anterior"]["dice"]["mean"] == 100 > found["Posterior"]["dice"]["mean"]


def test_csv_gives_the_rows_back(tmp_path, rows):
    path = tmp_path / "new folder" / "report.csv"
    rows[0]["case"] = 'a, "quoted" Ä'
    write_csv(path, rows)
    with open(path, encoding="utf-8", newline="") as f:
        back = list(csv.DictReader(f))
    assert [r["case"] for r in back] == [r["case"] for r in rows]
    assert float(back[0]["hd95"]) == rows[0]["hd95"]
    assert back[3]["dice"] == "" and back[3]["note"] == "the prediction is empty"


def test_json_gives_rows_summary_and_definitions(tmp_path, rows):
    write_json_report(tmp_path / "report.json", rows, {"model": "left-atrium"})
    back = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert back["rows"] == rows
    assert back["summary"] == summary(rows)
    assert back["meta"] == {"model": "left-atrium"}
    assert set(DEFINITIONS) <= set(back["definitions"])


def test_table_shows_every_case_the_summary_and_the_definitions(rows):
    text = format_table(rows)
    lines = text.splitlines()
    assert sum(line.startswith(tuple("abcd")) for line in lines) >= 4
    assert f"{rows[1]['dice']:.2f}" in text
    assert "d, Left atrium: the prediction is empty" in lines
    assert re.search(r"Dice \[%\] .* ± .* 3 +1", text)
    assert DEFINITIONS["asd"] in lines


def test_table_of_nothing_is_still_a_table():
    assert "Dice" in format_table([])


class Outside(html.parser.HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")]
        self.found += [tag] if tag in ("script", "link", "iframe", "object") else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(tmp_path, rows, meta=None, pictures=None) -> str:
    write_html(tmp_path / "report.html", rows, meta or {}, pictures)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_stands_alone_and_its_tags_close(tmp_path, rows):
    page = page_of(tmp_path, rows, {"notes": ["n"], "model": "m"}, {"a": case_picture(None, ball(6), ball(5), SPACING)})
    reader = Outside()
    reader.feed(page)
    assert reader.found == [] and reader.open == []
    assert "http://" not in page and "https://" not in page and "url(" not in page


def test_page_says_all(tmp_path, rows):
    page = page_of(tmp_path, rows, {"title": "Ten atria", "model": "left-atrium", "notes": ["One file was missing."]})
    assert "<title>Ten atria</title>" in page
    for text in ("left-atrium", "One file was missing.", "the prediction is empty", f"{rows[0]['assd']:.2f}"):
        assert text in page
    for definition in DEFINITIONS.values():
        assert definition.replace("'", "&#x27;") in page


def test_page_shows_names_as_text(tmp_path):
    name = '<script>alert("x")</script> & {braces}'
    page = page_of(
        tmp_path, [row(case=name, label=name)], {name: name}, {name: case_picture(None, ball(6), ball(5), SPACING)}
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_plots_hold_one_dot_for_every_case_with_a_number(tmp_path, rows):
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page_of(tmp_path, rows), re.DOTALL)]
    assert [len(plot.findall("circle")) for plot in plots] == [3] * 5
    for plot in plots:
        width = float(plot.get("viewBox").split()[2])
        assert all(0 <= float(dot.get("cx")) <= width for dot in plot.findall("circle"))
        assert len(plot.findall("text")) >= 3


@pytest.mark.parametrize("radii", [(6,), (6, 6, 6), (0,), ()])
def test_page_of_few_equal_or_no_numbers_is_written(tmp_path, radii):
    page = page_of(tmp_path, [row(case=str(n), radius=r) for n, r in enumerate(radii)])
    assert not re.search(r"\b(nan|inf|None)\b", re.sub("<style.*</style>", "", page, flags=re.DOTALL))
    assert page.count("<svg") == (5 if any(radii) else 0)


def test_pictures_come_with_the_lowest_dice_first(tmp_path, rows):
    picture = case_picture(None, ball(6), ball(5), SPACING)
    page = page_of(tmp_path, rows, {}, dict.fromkeys("abcd", picture))
    assert re.findall(r"<figcaption><strong>(\w)", page) == ["d", "b", "a", "c"]
    assert picture_description(picture) in page


def test_picture_is_a_png_with_both_outlines_on_the_image():
    image = np.random.default_rng(0).normal(size=(16, 40, 48)).astype(np.float32)
    pixels = pixels_of(case_picture(image, ball(6), ball(4), SPACING))
    assert pixels.shape[1] >= 4 * 256
    assert has_colour(pixels, REFERENCE_COLOUR) and has_colour(pixels, PREDICTION_COLOUR)


def test_picture_shows_both_outlines_where_they_coincide():
    pixels = pixels_of(case_picture(None, ball(6), ball(6), SPACING))
    assert has_colour(pixels, REFERENCE_COLOUR) and has_colour(pixels, PREDICTION_COLOUR)


def test_picture_keeps_millimetres_square():
    # a box of 20 mm by 20 mm by 20 mm in anisotropic voxels
    mask = np.zeros((16, 60, 60), bool)
    mask[4:12, 10:35, 10:50] = True
    pixels = pixels_of(case_picture(None, mask, np.zeros_like(mask), (0.5, 0.8, 2.5)))
    blue = (pixels == REFERENCE_COLOUR).all(axis=-1)
    columns = np.flatnonzero(blue.any(axis=0))
    panels = np.split(columns, np.flatnonzero(np.diff(columns) > 20) + 1)
    for panel in panels:
        rows = np.flatnonzero(blue[:, panel].any(axis=1))
        assert abs((rows[-1] - rows[0]) - (panel[-1] - panel[0])) <= 4


def test_coronal_slices_stand_with_the_last_slice_on_top():
    image = np.zeros((16, 40, 48), np.float32)
    image[12:] = 1
    empty = np.zeros(image.shape, bool)
    pixels = pixels_of(case_picture(image, empty, empty, (1, 1, 1)))
    column = pixels[:, pixels.shape[1] // 2, 0]
    lit = np.flatnonzero(column > 200)
    # 16 slices in the middle of the height of 40 rows, the upper four of them bright
    assert lit.min() == pytest.approx(len(column) * 12 / 40, abs=2)
    assert lit.max() == pytest.approx(len(column) * 16 / 40, abs=8)


def test_picture_says_which_slices_it_shows():
    prediction = ball(6)
    prediction[13, 5, 5] = True
    text = picture_description(case_picture(None, ball(6), prediction, SPACING))
    assert "central axial slice (8)" in text and "central sagittal slice (24)" in text
    assert "worst axial slice (13:" in text


def test_worst_slice_is_where_the_distance_is_largest():
    prediction = ball(6)
    prediction[2:5, 18:22, 22:26] = True
    prediction[13, 20, 24] = prediction[15, 20, 47] = True
    index, why = worst_slice(ball(6), prediction, SPACING)
    assert index == 15 and "mm" in why


def test_worst_slice_of_label_maps_and_of_an_empty_prediction():
    reference = ball(6) * 1
    reference[0, 0, 0] = reference[3, 0, 0] = 2
    prediction = ball(6) * 1
    prediction[3, 0, 0] = 2
    assert worst_slice(reference, prediction, SPACING)[0] == 0
    assert worst_slice(ball(6), np.zeros_like(ball(6)), SPACING)[0] == 8
    assert worst_slice(ball(6), ball(6), SPACING) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (30, 1, 2)])
def test_pictures_of_thin_volumes_and_constant_images_are_drawn(shape):
    full = np.ones(shape, bool)
    assert pixels_of(case_picture(np.ones(shape), full, full, (1, 1, 1))).size
    assert pixels_of(case_picture(None, ~full, ~full, (1, 1, 1))).size
    assert pixels_of(case_picture(None, full, ~full, (1, 1, 1))).size


def test_picture_of_different_shapes_is_refused():
    with pytest.raises(SimCVDError, match="same shape"):
        case_picture(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), (1, 1, 1))
