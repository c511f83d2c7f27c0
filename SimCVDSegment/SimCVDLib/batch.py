"""Many volumes, one after the other: what is finished stays, and what fails is listed with its reason."""

import logging
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from SimCVDLib import jobs, segmentation
from SimCVDLib.nodes import stillThere

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"


def scansIn(folder):
    """Names and paths of the scans in a folder: image files, DICOM series, or <case>/image.* for each case.

    Raises SimCVDError when there are none.
    """
    from simcvd.scans import find_scans

    return find_scans([Path(folder)])


def rowText(name, state, sentence):
    """A line of the list."""
    word = {WAITING: _("waiting"), RUNNING: _("running"), DONE: _("done"), FAILED: _("failed"), STOPPED: _("stopped")}
    return f"{name}: {sentence or word[state]}" if state in (DONE, FAILED) else f"{name}: {word[state]}"


def _sentence(error):
    """What is said of a case that failed, for whatever reason: the others must have their turn."""
    if isinstance(error, (SimCVDError, OSError)):
        return str(error)
    logging.error("SimCVD: a case of several failed", exc_info=error)
    return _("The scan can't be segmented ({reason}); look at it by itself.").format(reason=error)


class LoadedCase:
    """A volume of the scene; its result is a new segmentation node beside it."""

    def __init__(self, volumeNode):
        self.name = volumeNode.GetName()
        self._volume = volumeNode.GetID()

    def check(self):
        """Nothing is in the way: a new node replaces nothing."""

    def start(self, model, settings, onEvent):
        """Begin; returns what `cancel()` can be called on. `onEvent` gets the job's events."""
        volume = stillThere(self._volume)
        if volume is None:
            raise SimCVDError(_("The volume is no longer in the scene."))
        return segmentation.startSegmentation(volume, model, onEvent, **settings)


class FileCase:
    """A scan on disk; its result is <name>.seg.nrrd in a folder, and the scene is not touched."""

    def __init__(self, name, path, folder):
        self.name, self.path = name, Path(path)
        self.output = Path(folder) / f"{name}.seg.nrrd"

    def check(self):
        """Raise SimCVDError when the result would replace a file."""
        if self.output.exists():
            raise SimCVDError(_("{path} is there already; choose another folder.").format(path=self.output))

    def start(self, model, settings, onEvent):
        """Begin; returns what `cancel()` can be called on. `onEvent` gets the job's events."""
        return _FileJob(self, model, settings, onEvent)


class _FileJob:
    def __init__(self, case, model, settings, onEvent):
        self._case, self._model, self._onEvent = case, model, onEvent
        self._scratch = jobs.scratchFolder()
        request = {
            "do": "segment",
            "image": str(case.path),
            "model": str(model),
            "output": str(self._scratch),
            "overwrite": True,
            **settings,
        }
        self._id = jobs.worker().submit(request, self._take)

    def cancel(self):
        jobs.worker().cancel(self._id)

    def _take(self, event):
        if event["event"] == "done":
            try:
                self._write(event)
            except Exception as error:
                event = {"event": "error", "message": _sentence(error)}
        if event["event"] in jobs.LAST:
            jobs.removeFolder(self._scratch)
        self._onEvent(event)

    def _write(self, event):
        from simcvd.images import read_geometry, write_segmentation
        from simcvd.models import load_card

        labels = np.load(event["files"]["labels"])
        self._case.output.parent.mkdir(parents=True, exist_ok=True)
        self._case.check()
        # the worker's arrays carry no geometry; the scan's own is read as the worker read it
        geometry = read_geometry(self._case.path)
        write_segmentation(self._case.output, labels, geometry, load_card(self._model)["segments"])


class Batch:
    """Runs cases one after the other on the one background process.

    Args:
        cases: LoadedCase and FileCase objects.
        model: folder of the model.
        onChange: called without arguments whenever `rows`, `fraction` or `finished` changed.
        settings: for every case: device and largest, as `segmentation.startSegmentation` takes them.

    Attributes:
        rows: one [name, state, sentence] per case, state being one of the constants above.
        finished: no case is waiting or running any more.
    """

    def __init__(self, cases, model, onChange, **settings):
        if not cases:
            raise SimCVDError(_("There is nothing to segment; check volumes in the list or choose a folder."))
        self._cases, self._model, self._onChange, self._settings = list(cases), model, onChange, settings
        self.rows = [[case.name, WAITING, ""] for case in cases]
        self.finished = False
        self._current, self._part, self._job = -1, 0.0, None

    @property
    def fraction(self):
        """How much is done, 0 to 1."""
        return min(1.0, (max(self._current, 0) + self._part) / len(self.rows))

    @property
    def sentence(self):
        """How it stands, for the user."""
        count = {state: sum(row[1] == state for row in self.rows) for state in (DONE, FAILED, STOPPED)}
        text = _("{done} of {all} done").format(done=count[DONE], all=len(self.rows))
        if count[FAILED]:
            text += _(", {failed} failed").format(failed=count[FAILED])
        if count[STOPPED]:
            text += _(", {stopped} stopped").format(stopped=count[STOPPED])
        return text + "."

    def start(self):
        """Begin with the first case."""
        self._next()

    def cancel(self):
        """Stop the case under way and leave out the others; what is finished stays."""
        for row in self.rows:
            if row[1] == WAITING:
                row[1] = STOPPED
        if self._job is not None:
            self._job.cancel()
        self._onChange()

    def _next(self):
        self._job, self._part = None, 0.0
        self._current += 1
        # a loop, not a recursion: a folder may hold hundreds of scans that fail at once
        while self._current < len(self.rows) and not self._begin(self._cases[self._current], self.rows[self._current]):
            self._current += 1
        self.finished = self._current >= len(self.rows)
        self._onChange()

    def _begin(self, case, row):
        if row[1] != WAITING:
            return False
        try:
            case.check()
            self._job = case.start(self._model, self._settings, self._take)
        except Exception as error:
            row[1:] = [FAILED, _sentence(error)]
            return False
        row[1] = RUNNING
        return True

    def _take(self, event):
        row, kind = self.rows[self._current], event["event"]
        if kind == "progress":
            self._part = event["fraction"]
            self._onChange()
        elif kind == "done":
            notes = [_("done in {seconds:.1f} s").format(seconds=event["seconds"]["total"]), *event.get("notes", [])]
            row[1:] = [DONE, "; ".join(notes)]
            self._next()
        elif kind == "cancelled":
            row[1:] = [STOPPED, ""]
            self._next()
        elif kind == "error":
            row[1:] = [FAILED, event["message"]]
            self._next()
