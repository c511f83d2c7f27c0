"""The panel's lists and pictures fit what they show, and the sentences say what the figures leave out."""

from types import SimpleNamespace

import pytest
import qt

import host
from SimCVDLib import outcome
from SimCVDLib.eventtexts import eventText
from SimCVDLib.fitting import fitHeight, fitPicture, stretch


def tree(lines):
    made = qt.QTreeWidget()
    made.setHeaderLabels(["Case", "Why"])
    for n in range(lines):
        item = qt.QTreeWidgetItem(made)
        item.setText(0, f"scan {n}")
        item.setText(1, "a long reason that does not fit into the column, whatever its width may be")
    stretch(made.header(), 1)
    made.resize(300, 200)
    return made


@pytest.mark.parametrize(("lines", "scrolls"), [(1, False), (8, False), (80, True)])
def test_a_tree_shows_all_its_lines_up_to_a_limit(lines, scrolls):
    made = tree(lines)
    fitHeight(made, 40, 300)
    made.show()
    host.processEvents()
    bar, last = made.verticalScrollBar(), made.topLevelItem(lines - 1)
    assert (bar.maximum > 0) == scrolls and made.height <= 300
    assert scrolls or lines == 1 or made.height < made.visualItemRect(last).bottom() + 60
    assert made.header().length() == made.viewport().width  # nothing is unused, nothing sticks out
    assert made.columnWidth(0) < made.columnWidth(1)
    made.close()


def test_a_picture_takes_the_width_in_its_own_shape():
    small = qt.QPixmap(40, 80)
    small.fill(qt.QColor(255, 0, 0))
    wide, high = fitPicture(small, 100, 1000), fitPicture(small, 1000, 400)
    assert (wide.width(), wide.height()) == (100, 200) and (high.width(), high.height()) == (200, 400)
    large = fitPicture(qt.QPixmap(800, 400), 300, 400)
    assert (large.width(), large.height()) == (300, 150)


def test_enlarged_pixels_stay_crisp():
    image = qt.QImage(2, 1, qt.QImage.Format_RGB32)
    image.setPixel(0, 0, 0xFF000000)
    image.setPixel(1, 0, 0xFFFFFFFF)
    grown = fitPicture(qt.QPixmap.fromImage(image), 40, 40).toImage()
    colors = {grown.pixel(x, 5) & 0xFFFFFF for x in range(40)}
    assert colors == {0, 0xFFFFFF}


def figures(*dices):
    return [None if dice is None else {"dice": dice, "hd95": 1.0} for dice in dices]


def judged(before, after):
    rows = [
        {"case": f"case-{n:03d}", "label": 1, "before": old, "after": new}
        for n, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    config = {"model": {"name": "m", "segments": [{"value": 1, "name": "Ball"}]}, "from_model_name": "start"}
    run = SimpleNamespace(folder="run", config=config, how=None, comparison=lambda: rows, structureName={1: "Ball"}.get)
    return outcome.Outcome(run, {"case-000": "Jane"})


def test_a_mean_says_what_it_leaves_out():
    whole = judged(figures(70.0, 80.0), figures(80.0, 90.0))
    assert "Dice 75.0 % before (start), 85.0 % now, which is better." in whole.sentence
    assert "found at all" not in whole.sentence and whole.rows[0]["case"] == "Jane"
    part = judged(figures(70.0, 80.0), [*figures(80.0), {"dice": None, "hd95": None}])
    assert part.sentence.endswith("1 of 2 structures were not found at all and don't count in this mean.")
    none = judged(figures(None, None), [{"dice": None, "hd95": None}] * 2)
    assert "the model found nothing" in none.sentence and "mean" not in none.sentence


def test_a_validation_that_found_nothing_is_told_in_words():
    empty = {"event": "validation", "iteration": 5, "dice": None, "hd95": None}
    assert eventText(empty) == "Step 5: the model finds nothing in the validation scans."
    assert eventText({**empty, "dice": 81.25, "hd95": None}) == "Step 5: Dice 81.2 %, 95HD - mm."
    done = {"event": "done", "rows": [1], "dice": 90.0, "hd95": 2.0}
    assert eventText(done) == "Done: the model was saved and read back; Dice 90.0 %, 95HD 2.0 mm."
    assert eventText({"event": "done", "rows": []}) == "Done: the model was saved and read back."


def test_an_error_that_nobody_knows_is_told_with_what_to_do():
    said = eventText({"event": "error", "message": "Unexpected: unexpected pos 3"})
    assert "(unexpected pos 3)" in said and "Resume" in said
    assert eventText({"event": "error", "message": "The loss is no number."}) == "The loss is no number."
