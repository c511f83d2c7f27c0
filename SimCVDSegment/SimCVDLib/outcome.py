"""What a training was good for: the validation cases before and after it, as a table node, a sentence and files."""

import contextlib
import csv
import html
import shutil
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.files import atomic_path, patiently, write_json
from simcvd.models import CARD, load_card, model_folders
from SimCVDLib.writing import writing

FIGURES = ("dice", "hd95")  # percent and mm
RUN = "SimCVD.Run"  # attribute of a table: the folder of the run whose figures it shows

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: right; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }} tr:last-child td {{ font-weight: bold; }}
</style></head><body><h1>{title}</h1>
<p>{sentence}</p>
<table><tr>{head}</tr>
{body}
</table>
<p>{definitions}</p></body></html>
"""


class Outcome:
    """The figures of a finished training.

    Args:
        run: a runs.Run that is done.
        names: {case id: what to call it}; ids that are not in it are shown as they are.

    Attributes:
        rows: one dictionary a case and structure: "case", "structure", and "before" and "after", each None or a
            dictionary of "dice" (percent) and "hd95" (mm), None where a mask was empty.
        sentence: what came out, in words.
    """

    def __init__(self, run, names=None):
        self.title = _("Model {name}").format(name=run.config["model"]["name"])
        self.start = run.config.get("from_model_name")
        self._folder = str(run.folder)
        self._leftOut = run.how is not None
        self.rows = [
            {
                "case": (names or {}).get(row["case"], row["case"]),
                "structure": run.structureName(row["label"]),
                "before": row["before"],
                "after": row["after"],
            }
            for row in run.comparison()
        ]
        self.sentence = self._sentence()

    def table(self):
        """The figures as a vtkMRMLTableNode, the means in the last line; the run's own in the scene, or a new one."""
        made = slicer.util.getNodesByClass("vtkMRMLTableNode")
        tableNode = next((node for node in made if node.GetAttribute(RUN) == self._folder), None)
        if tableNode is None:
            tableNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", self.title)
            tableNode.SetAttribute(RUN, self._folder)
        lines = [
            (scan, structure, self._pair(*figures[:2]), self._pair(*figures[2:]))
            for scan, structure, *figures in self._lines()
        ]
        heads = [_("Scan"), _("Structure"), _("Dice [%]"), _("95HD [mm]")]
        if self.start:
            heads[2:] = [_("Dice [%], before → now"), _("95HD [mm], before → now")]
        with slicer.util.NodeModify(tableNode):
            tableNode.RemoveAllColumns()
            for title, texts in zip(heads, zip(*lines, strict=True), strict=True):
                column = vtk.vtkStringArray()
                for text in texts:
                    column.InsertNextValue(text)
                tableNode.AddColumn(column)
                column.SetName(title)
            tableNode.SetUseColumnTitleAsColumnHeader(True)
            tableNode.SetLocked(True)  # a double click would let the figures be typed over
        return tableNode

    def save(self, path):
        """Write the figures to a .csv or .html file, which is replaced if it is there; returns the path.

        Raises SimCVDError when it can't be written.
        """
        path = Path(path)
        write = {".csv": self._writeCsv, ".html": self._writeHtml}.get(path.suffix.lower())
        if write is None:
            raise SimCVDError(_("{path} does not end in .csv or .html; choose one of these.").format(path=path))
        with writing(path), atomic_path(path) as temporary:
            write(temporary)
        return path

    def _pair(self, before, after):
        """Two figures in one cell, so that four numbers fit into the panel."""
        return f"{before} → {after}" if self.start else after

    def _sentence(self):
        if not self.rows:
            return _(
                "The model was saved, read back and works. There was no validation scan, so nothing measures how good "
                "it is; look at its result on a scan that it has not learned from."
            )
        count = len({row["case"] for row in self.rows})
        scans = _("1 validation scan") if count == 1 else _("{count} validation scans").format(count=count)
        if self._leftOut:
            scans = _("{count} labelled scans, each left out of a training once,").format(count=count)
        before, after = (_mean(self.rows, when, "dice") for when in ("before", "after"))
        if after is None:
            return _("On {scans} the model found nothing; train longer or with more outlines.").format(scans=scans)
        return " ".join(filter(None, [self._change(scans, before, after), self._missed()]))

    def _change(self, scans, before, after):
        if before is None and self.start:
            return _("On {scans}: nothing was found before ({start}), Dice {after:.1f} % now, which is better.").format(
                scans=scans, start=self.start, after=after
            )
        if before is None:
            return _("On {scans} the model agrees with the outlines to {after:.1f} % (Dice).").format(
                scans=scans, after=after
            )
        change = _("better") if after > before else _("worse") if after < before else _("the same")
        return _("On {scans}: Dice {before:.1f} % before ({start}), {after:.1f} % now, which is {change}.").format(
            scans=scans, before=before, start=self.start, after=after, change=change
        )

    def _missed(self):
        """What a mean over the structures that were found keeps quiet about, or None."""
        missed = sum((row["after"] or {}).get("dice") is None for row in self.rows)
        if not missed:
            return None
        return _("{missed} of {count} structures were not found at all and don't count in this mean.").format(
            missed=missed, count=len(self.rows)
        )

    def _heads(self):
        return [
            _("Scan"),
            _("Structure"),
            _("Dice before [%]"),
            _("Dice after [%]"),
            _("95HD before [mm]"),
            _("95HD after [mm]"),
        ]

    def _lines(self):
        columns = [(when, figure) for figure in FIGURES for when in ("before", "after")]
        lines = [
            [row["case"], row["structure"], *(_shown((row[when] or {}).get(figure)) for when, figure in columns)]
            for row in self.rows
        ]
        means = [_shown(_mean(self.rows, when, figure)) for when, figure in columns]
        return [*lines, [_("Mean"), "", *means]]

    def _writeCsv(self, path):
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([self._heads(), *self._lines()])

    def _writeHtml(self, path):
        cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in self._lines()]
        page = _PAGE.format(
            title=html.escape(self.title),
            sentence=html.escape(self.sentence),
            head="".join(f"<th>{html.escape(head)}</th>" for head in self._heads()),
            body="\n".join(f"<tr>{line}</tr>" for line in cells),
            definitions=html.escape(
                _(
                    "Dice is the overlap of model and outline: 100 % is the same. 95HD is the distance that 95 % of "
                    "the two surfaces keep within. Both are measured on the model's grid; - means that a mask was "
                    "empty or that there was no model before."
                )
            ),
        )
        Path(path).write_text(page, encoding="utf-8")


def install(folder):
    """Copy a model folder to the user's models; returns the name that it has there.

    That is the one on its card, or, where another model has that, the next that is free: my-model-2 after my-model.
    The same model again changes nothing. Raises SimCVDError where it can't be copied.
    """
    card = load_card(folder)
    place = model_folders()[0] / card["name"]
    while place.exists():
        with contextlib.suppress(SimCVDError):  # no model, or none that may be read: its name is taken
            if load_card(place)["sha256"] == card["sha256"]:
                return place.name
        place = place.with_name(nextName(place.name))
    temporary = place.with_name(f".{place.name}-new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary)
        if place.name != card["name"]:
            title = place.name if card["title"] == card["name"] else card["title"]
            write_json(temporary / CARD, {**card, "name": place.name, "title": title})
        patiently(lambda: temporary.rename(place))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SimCVDError(
            _("The model can't be copied to {place} ({reason}); make room or export it.").format(
                place=place, reason=error.strerror or error
            )
        ) from error
    return place.name


def nextName(name):
    """What to call a model after one of this name: my-model-2 after my-model."""
    stem, _dash, number = name.rpartition("-")
    return f"{stem}-{int(number) + 1}" if stem and number.isdecimal() else f"{name}-2"


def _mean(rows, when, figure):
    values = [row[when][figure] for row in rows if row[when] and row[when][figure] is not None]
    return sum(values) / len(values) if values else None


def _shown(value):
    return "-" if value is None else f"{value:.1f}"
