"""The cases of a list as files for a training, written while the application goes on."""

import contextlib
import logging
from pathlib import Path

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.files import is_empty
from SimCVDLib import cases, nodes
from SimCVDLib.writing import writing

BLOCK_BYTES = 1 << 23  # written in one turn of the event loop


class Export:
    """Writes the cases of a list for a training, a block at a time, so that the application stays usable.

    Scans are written as they are stored, in their own frame; labels on the grid of their scan, wherever the nodes'
    transforms put them. Files are named after the case's number and carry nothing but geometry and voxels. Cases on
    disk stay where they are. Of what could not be finished nothing is left.

    Args:
        table: the CaseTable; it is read once, at the start.
        folder: where to; cases.json is written last.
        onChange: called without arguments whenever something below has changed.
        card: of the model to start from, whose label values are then used.

    Attributes:
        fraction: how much is done, 0 to 1.
        finished, cancelled: whether it has ended, and whether by `cancel`.
        error: None, or one sentence.
        caseList: the path of cases.json.
        names: {case ID: name in the application}.
        notes: sentences about what had to be done to a label.
        named: how many cases lie on disk and are only named in the list.
    """

    def __init__(self, table, folder, onChange=lambda: None, card=None):
        self.folder = Path(folder)
        self.caseList = self.folder / "cases.json"
        self.fraction, self.finished, self.cancelled, self.error = 0.0, False, False, None
        self.notes = []
        self._table, self._card, self._onChange = table, card, onChange
        self._rows = [row for row in table.rows if row.role != cases.OUT]
        self.names = {row.id: row.name for row in self._rows}
        self.named = sum(row.isOnDisk for row in self._rows)
        self._steps = None
        self._paths, self._made = [], False  # of what was written, and whether the folder was made here
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._onTurn)

    def start(self):
        """Begin. Raises SimCVDError when a case is incomplete or the folder is not empty."""
        if sentence := self._table.incomplete():
            raise SimCVDError(sentence)
        with writing(self.folder):
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            if not is_empty(self.folder):
                raise SimCVDError(_("{folder} is not empty; choose a new one.").format(folder=self.folder))
        self._steps = self._write()
        self._timer.start()

    def cancel(self):
        """Stop; what was written is removed. Nothing happens to the folder of an export that didn't start."""
        if self._steps is not None and not self.finished:
            self.cancelled = True
            self._end()

    def _onTurn(self):
        if self.finished:
            return
        try:
            self.fraction = next(self._steps)
        except StopIteration:
            self.fraction = 1.0
            self._end()
        except Exception as error:  # whatever it is: cases that are not all there must not pass for a list
            self.error = self._sentence(error)
            self._end()
        else:
            self._onChange()

    def _sentence(self, error):
        if isinstance(error, SimCVDError):
            return str(error)
        if isinstance(error, OSError):
            return _("The cases can't be written to {folder} ({reason}); make room there.").format(
                folder=self.folder, reason=error.strerror or error
            )
        logging.error("SimCVD: the cases of a list could not be written", exc_info=error)
        return _(
            "The cases can't be written ({reason}); look at their notes, and leave out what can't be read."
        ).format(reason=error)

    def _end(self):
        self._timer.stop()
        self.finished = True
        if self.cancelled or self.error:
            self._steps.close()
            self._removeWritten()
        self._onChange()

    def _removeWritten(self):
        """Remove what was written and nothing else: the folder may be one that somebody keeps other files in."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if self._made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _write(self):
        """Write block by block, giving the fraction done after each."""
        from simcvd.cases import Case, write_cases

        values = self._table.values(self._card)
        written = []
        for i, row in enumerate(self._rows):
            image, label = row.image, row.label if row.role in (cases.LABELLED, cases.VALIDATION) else None
            if row.volume is not None:
                image = self.folder / f"{row.id}.nrrd"
                yield from self._blocks(image, slicer.util.arrayFromVolume(row.volume), row, i, 0.0)
            elif row.isGone:
                raise SimCVDError(_("{name} has left the scene meanwhile; load it again.").format(name=row.name))
            if row.role in (cases.LABELLED, cases.VALIDATION) and row.label is None:
                label = self.folder / f"{row.id}-label.nrrd"
                labels = self._label(row, values)
                yield (i + 0.5) / len(self._rows)
                yield from self._blocks(label, labels, row, i, 0.5)
            written.append(Case(row.id, image, label, row.role))
        self._paths.append(self.caseList)
        write_cases(self.caseList, written)

    def _label(self, row, values):
        if not row.segments():
            raise SimCVDError(_("The outline of {name} has left the scene meanwhile.").format(name=row.name))
        if any(not nodes.sharesGrid(row.segmentation, identifier, row.volume) for identifier, _s in row.segments()):
            self.notes.append(
                _("The outline of {name} has another grid than the image and was resampled onto it.").format(
                    name=row.name
                )
            )
        labels = cases.readLabel(row, values)
        if not labels.any():
            self.notes.append(_("The outline of {name} is empty or outside the image.").format(name=row.name))
        return labels

    def _blocks(self, path, array, row, place, begun):
        """Write an array block by block."""
        array = np.ascontiguousarray(array)
        data = array.reshape(-1).view(np.uint8)
        self._paths.append(path)
        with open(path, "wb") as file:
            file.write(nodes.nrrdHeader(array, nodes.ijkToRas(row.volume)))
            for start in range(0, len(data), BLOCK_BYTES):
                file.write(data[start : start + BLOCK_BYTES].data)
                yield (place + begun + 0.5 * min(1.0, (start + BLOCK_BYTES) / len(data))) / len(self._rows)
