"""Trainings as processes of their own: start one, watch any, tell it to pause, stop or end; whoever started it.

A run is its folder. What it does is read from its events and from its lock, which the system frees when its process
ends, however it ends; what it is to do is written into its control file. So a run outlives this object, the module, the
scene and, where the user wants it, the application.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from simcvd.events import read_events
from simcvd.files import is_empty, is_in_use, read_json, read_word, write_json
from simcvd.locks import is_claimed
from SimCVDLib import jobs, runlist
from SimCVDLib.eventtexts import errorText, eventText
from SimCVDLib.writing import writing

NEW, PREPARING, RUNNING, PAUSED = "new", "preparing", "running", "paused"
STOPPED, DONE, FAILED, DIED, GONE = "stopped", "done", "failed", "died", "gone"
STOPPED_CODE = 130  # exit code of a process that stopped as asked
ENDINGS = ("stopped", "error", "done")  # events after which a process only tidies up
ALIVE = (PREPARING, RUNNING, PAUSED)

BYTES_A_POLL = 1 << 17  # some hundred events, a few milliseconds
PEEK_BYTES = 1 << 15
PATIENCE = 20  # polls for which a file of a run that is discarded may be in use
LOOKS = 2  # so often must a process be missing: between preparing and training it lets the lock go for a moment
FILES = (
    "output.txt",  # first: on Windows the process has it open until its very end
    *("events.jsonl", "log.txt", "checkpoint.pt", "control", "preview.png"),
    *("source", "cases", "model", "folds", "lock"),
    *("plan.json", "run.json"),  # last: by them a run that could only be removed in part is found again
)

_started = {}  # folder -> process: those that this application has started


# --- the runs there are


def knownRuns():
    """The runs this application has seen, the newest first; folders that are gone are left out."""
    return [Run(folder) for folder in reversed(runlist.listed()) if _isRun(folder)]


def attach(folder):
    """The run in a folder, which is then listed; raises SimCVDError where there is none."""
    if not _isRun(Path(folder)):
        raise SimCVDError(_("{folder} holds no training; choose the folder of a run.").format(folder=folder))
    runlist.remember(folder)
    return Run(folder)


def stopAtQuit():
    """Ask every run that this application has started to stop with a checkpoint, unless it stays; returns at once."""
    for folder, process in list(_started.items()):
        try:
            run = Run(folder)
            # one that was told to end with its model does so, and is none to go on with
            if process.poll() is None and not run.staysAfterQuit and run.wish != "finish" and run.folder.is_dir():
                run.stop()
        except (SimCVDError, OSError):  # a drive that is gone: the others are told all the same
            logging.exception("SimCVD: a training could not be told to stop")


def _isRun(folder):
    try:
        return any((folder / name).is_file() for name in ("run.json", "plan.json"))
    except OSError:  # it lies where nothing can be reached now
        return False


# --- one run


class Run:
    """One training, watched by `poll`.

    Attributes:
        folder: where all of it lies.
        state: one of the constants above, as of the last poll.
        hasMore: the last poll left events unread; poll again soon.
        iteration, of: steps done and planned; secondsLeft: as the training judges it, or None.
        folds: of a leave-one-out, which follows the training where there are no validation cases; 0 without one.
        foldsDone: how much of them is done, 0 to 1; leftOut: the case that is left out now, or None.
        prepared: (done, total) cases, while it is preparing.
        device, method: of the process that was last seen starting.
        validations: the events "validation", in order; one of iteration 0 measured the start model.
        messages: [(time in seconds since 1970, sentence)] of what happened.
    """

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self._process = _started.get(self.folder)
        self._problem = None
        self._outputBefore = 0
        self._discarding = self._ending = False
        self._removals = 0  # tries to remove what is still in use
        self._missing = LOOKS
        self.state = NEW
        self.hasMore = False
        self._forgetEvents()
        self._peek()
        self._look()

    @classmethod
    def create(cls, folder, plan):
        """A new run of a plan: {"method", "wishes", and maybe "spacing", "recipe"}; its cases lie in source/cases.json.

        Nothing is started. Raises SimCVDError where the folder holds a run or can't be written.
        """
        folder = Path(folder)
        if _isRun(folder):
            raise SimCVDError(_("{folder} holds a training already; choose another.").format(folder=folder))
        fixed = {"cases": "source/cases.json", "temporary": "source"}
        with writing(folder):
            write_json(folder / "plan.json", {**fixed, **plan})
        runlist.remember(folder)
        return cls(folder)

    # --- what it is

    @property
    def config(self):
        """What run.json says, or before it is made, what plan.json wishes."""
        for name in ("run.json", "plan.json"):
            try:
                return read_json(self.folder / name)
            except (OSError, ValueError):
                continue
        return {}

    @property
    def name(self):
        """The name of the model to be, or of the folder."""
        config = self.config
        card = config.get("model") or config.get("wishes", {}).get("model") or {}
        return card.get("title") or card.get("name") or self.folder.name

    def structureName(self, value):
        """What the structure with this label value is called; the value itself before run.json says it."""
        segments = self.config.get("model", {}).get("segments", [])
        return next((segment["name"] for segment in segments if segment["value"] == value), str(value))

    @property
    def isAlive(self):
        """Whether a process is at work or waits."""
        return self.state in ALIVE

    @property
    def isGone(self):
        """Whether its folder was removed."""
        return self.state == GONE

    @property
    def wasDiscarded(self):
        """Whether it was `discard` that removed its folder, or will."""
        return self._discarding

    @property
    def startedHere(self):
        """Whether this application has started its process."""
        return self.folder in _started

    @property
    def fraction(self):
        """How much of the training is done, 0 to 1; of the preparation, while it is preparing."""
        done, total = self.prepared if self.state == PREPARING else (self.iteration, self.of)
        part = min(1.0, done / total) if total else 0.0
        if self.folds and self.state not in (PREPARING, DONE):
            return (part + self.foldsDone) / 2  # they take as long as the training itself
        return part

    @property
    def wish(self):
        """The word that was said and is not yet obeyed: "pause", "resume", "stop", "finish" or None."""
        word = read_word(self.folder / "control")
        obeyed = not self.isAlive or (self.state == PAUSED and word == "pause")
        return None if obeyed else word

    @property
    def sentence(self):
        """How it stands, for the user."""
        sentences = {
            NEW: _("The training is prepared and was not started yet."),
            PREPARING: _("The cases are being prepared."),
            RUNNING: _("The training is running."),
            PAUSED: _("The training is paused."),
            STOPPED: _("The training is stopped; it can go on from there."),
            DONE: _("The training is done."),
            DIED: _(
                "The training process ended unexpectedly (a crash, a power cut, or the system ended it); "
                "start it again to go on from its last checkpoint."
            ),
            GONE: _("The folder of the training was removed."),
            FAILED: self._problem or self._error,
        }
        wishes = {
            "pause": _("The training pauses after this step."),
            "resume": _("The training goes on."),
            "stop": _("The training stops after this step."),
            "finish": _("The training ends after this step; the model is kept."),
        }
        if self._problem and self.state != FAILED:
            return self._problem
        if self._ending:
            return _("The training is ending.")
        if self.leftOut and self.state == RUNNING and not self.wish:
            return _("The model is learned. To measure it, it is learned again without {case}.").format(
                case=self.leftOut
            )
        return wishes.get(self.wish) or sentences[self.state] or _("The training failed; see its log.")

    @property
    def how(self):
        """How the figures of the finished model were measured where not on validation cases (in English), or None."""
        return (self._done or {}).get("how")

    @property
    def before(self):
        """The event "validation" of the start model, or None."""
        return next((event for event in self.validations if event["iteration"] == 0), None)

    @property
    def after(self):
        """The event "done" with the figures of the finished model, or None where it is not done or was not measured."""
        return self._done if self._done and self._done.get("rows") else None

    @property
    def preview(self):
        """The picture of a case with its outline as it is now, or None."""
        path = self.folder / "preview.png"
        return path if path.is_file() else None

    @property
    def modelFolder(self):
        """The finished model, or None."""
        folder = self.folder / "model"
        return folder if self.state == DONE and folder.is_dir() else None

    @property
    def staysAfterQuit(self):
        """Whether the run goes on when the application quits."""
        return runlist.stays(self.folder)

    @staysAfterQuit.setter
    def staysAfterQuit(self, stays):
        runlist.setStays(self.folder, stays)

    @property
    def log(self):
        """The last lines of what the run and its process had to say, for "copy details"."""
        return "\n".join(_tail(self.folder / name) for name in ("log.txt", "output.txt")).strip()

    def diskUse(self):
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def comparison(self):
        """Rows {"case", "label", "before", "after"} with the figures of the start model and of the finished one.

        "before" and "after" are dictionaries of dice (percent), hd95 and asd (mm), or None where nothing was measured.
        """
        rows = {}
        before = (self.before or {}).get("rows") or (self._done or {}).get("before_rows") or []
        after = (self.after or _last(self.validations) or {}).get("rows", [])
        for moment, found in (("before", before), ("after", after)):
            for row in found:
                place = rows.setdefault((row["case"], row["label"]), {"before": None, "after": None})
                place[moment] = {name: row[name] for name in ("dice", "hd95", "asd")}
        return [{"case": case, "label": label, **found} for (case, label), found in rows.items()]

    # --- what can be asked for

    @property
    def canStart(self):
        """Whether it can be started or go on: it is not alive, not done, and there."""
        return self.state in (NEW, STOPPED, FAILED, DIED) and not self._discarding

    @property
    def _isFree(self):
        """Whether it is not on its way to an end; the word to stop is gone a moment before its process is."""
        return not (self._ending or self._discarding)

    @property
    def canPause(self):
        """Whether it runs and was not told to do something else."""
        return self.state == RUNNING and self.wish is None and self._isFree

    @property
    def canResume(self):
        """Whether it waits."""
        return self.state == PAUSED and self.wish is None

    @property
    def canStop(self):
        """Whether it is alive and was not told to stop yet."""
        return self.isAlive and self.wish not in ("stop", "finish") and self._isFree

    @property
    def canFinish(self):
        """Whether it can end here with the model as it is."""
        return self.state in (RUNNING, PAUSED) and self.canStop

    def start(self):
        """Start the training, or go on after a stop, an error or a crash, as a process that outlives the application.

        Raises SimCVDError when it can't be started; what goes wrong later is told by `state` and `sentence`.
        """
        if self._process is not None and self._process.poll() is None:
            raise SimCVDError(_("This training is running already."))
        self._problem = None
        command, environment = jobs.coreCommand("train", str(self.folder), "--background")
        own = {"start_new_session": True}
        if os.name == "nt":
            # whoever works at this computer goes first, which --background sees to elsewhere
            calm = subprocess.BELOW_NORMAL_PRIORITY_CLASS
            own = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP | calm}
        try:
            if not is_claimed(self.folder / "lock"):
                (self.folder / "control").unlink(missing_ok=True)  # words for a process that is no more
            with open(self.folder / "output.txt", "ab") as output:
                self._outputBefore = output.tell()
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=self.folder.parent,  # not the extension's folder: Windows would keep that from being updated
                    **own,
                )
        except OSError as error:
            raise SimCVDError(
                _("The training can't be started ({reason}); check its folder {folder}.").format(
                    reason=error.strerror or error, folder=self.folder
                )
            ) from error
        _started[self.folder] = self._process
        self._saidBefore = _sizeOf(self.folder / "events.jsonl")
        runlist.remember(self.folder)
        self._look()

    def pause(self):
        """Ask it to wait after the step under way."""
        self._say("pause")

    def resume(self):
        """Let a paused run go on; one whose process has ended is started again."""
        if self.isAlive:
            self._say("resume")
        else:
            self.start()

    def stop(self):
        """Ask it to stop with a checkpoint, from which it can go on."""
        self._say("stop")

    def finish(self):
        """Ask it to end here and to keep the model as it is."""
        self._say("finish")

    def discard(self):
        """Remove the run with all its files, and nothing else in its folder.

        One that is alive is asked to stop first and removed by a later `poll`; `isGone` says when.
        """
        if self.isAlive:
            self._say("stop")
        self._discarding = True  # not before the word is said: a run that can't be told stays
        if not self.isAlive:
            self._remove()

    def useModel(self, overwrite=False):
        """Put a copy of the finished model among the user's models; returns its folder. Raises SimCVDError."""
        from simcvd.models import export_model, import_model

        with tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch) / "model.zip"
            export_model(self._finishedModel(), packed)
            return import_model(packed, overwrite)

    def exportModel(self, path, overwrite=False):
        """Pack the finished model into a zip file. Raises SimCVDError."""
        from simcvd.models import export_model

        export_model(self._finishedModel(), path, overwrite)

    # --- watching

    def poll(self):
        """Take in what happened since the last poll; returns the new events, the oldest first.

        Meant for a timer: it takes some milliseconds at most, and a long file is read in several polls (`hasMore`).
        """
        path = self.folder / "events.jsonl"
        size = _sizeOf(path)
        if size < self._offset:
            self._forgetEvents()  # begun anew
        events, offset = read_events(path, self._offset, BYTES_A_POLL)
        self.hasMore = self._offset < offset < size
        self._offset = offset
        for event in events:
            self._take(event)
        if not self.hasMore:
            self._look()
        if self._discarding and not self.isAlive and self.state != GONE:
            self._remove()
        return events

    def _forgetEvents(self):
        self._offset = self._saidBefore = 0
        self._last = self._lastTime = self._error = self._done = None
        self.iteration = self.of = 0
        self.secondsLeft = self.device = self.method = None
        self.prepared = (0, 0)
        self.folds, self.foldsDone, self.leftOut = 0, 0.0, None
        self.validations, self.messages = [], []

    def _peek(self):
        """Look at the last events alone, so that a list of runs says at once how each of them stands."""
        path = self.folder / "events.jsonl"
        events, _offset = read_events(path, max(0, _sizeOf(path) - PEEK_BYTES))
        for event in events:
            self._note(event)

    def _note(self, event):
        kind = event["event"]
        if kind not in ("warning", "checkpoint", "guess", "stage"):
            self._last, self._lastTime = kind, event["time"]
        self.iteration = event.get("iteration", self.iteration)
        self.of = event.get("of", self.of)
        self.secondsLeft = event.get("seconds_left", self.secondsLeft)
        if kind == "error":
            self._error = errorText(event["message"])
        elif kind == "start":
            self._error = None

    def _take(self, event):
        self._note(event)
        kind = event["event"]
        take = getattr(self, f"_on_{kind}", None)
        if take:
            take(event)
        if sentence := eventText(event):
            self.messages.append((event["time"], sentence))

    def _on_preparing(self, event):
        self.prepared = (event["done"], event["total"])

    def _on_start(self, event):
        self.device, self.method = event["device"], event["method"]
        self._done = self.leftOut = None
        self.folds = event.get("folds", 0)
        # what was done after the last checkpoint is done again
        self.validations = [v for v in self.validations if v["iteration"] <= event["iteration"]]
        if not event["iteration"]:
            self.validations = []

    def _on_fold(self, event):
        self.leftOut = event["case"]
        self.foldsDone = (event["fold"] - 1 + event["step"] / event["steps"]) / event["folds"]

    def _on_validation(self, event):
        self.validations.append(event)

    def _on_done(self, event):
        self._done, self.secondsLeft, self.leftOut = event, 0.0, None

    def _look(self):
        """Find out how it stands."""
        if not _isRun(self.folder):
            self.state = GONE
            return
        ours = self._process is not None and self._process.poll() is None
        there = is_claimed(self.folder / "lock")
        self._missing = 0 if ours or there else self._missing + 1
        if self._process is not None and not ours:
            self._onProcessEnded()
        if ours or self._missing < LOOKS:
            self.state = self._stateAlive(ours, there)
        else:
            self.state = self._stateOver()

    def _stateAlive(self, ours, there):
        began = self._saidNothing() if ours else self._last in ENDINGS and self._isNewer()
        self._ending = self._last in ENDINGS and not began
        if self._last in (None, "preparing") or began:
            return PREPARING
        return PAUSED if self._last == "paused" else RUNNING

    def _saidNothing(self):
        """Whether the process that was started here has not said anything yet."""
        return _sizeOf(self.folder / "events.jsonl") <= self._saidBefore

    def _isNewer(self):
        """Whether the lock was taken after the last event."""
        try:
            return (self.folder / "lock").stat().st_mtime > self._lastTime
        except OSError:
            return False

    def _stateOver(self):
        self._ending = False
        if self._last == "done":
            return DONE
        if self._problem or self._last == "error":
            return FAILED
        return {None: NEW, "stopped": STOPPED}.get(self._last, DIED)

    def _onProcessEnded(self):
        """Keep what a process said that can't say it in the events, such as that PyTorch is missing."""
        if self._process.returncode not in (0, STOPPED_CODE):
            said = _tail(self.folder / "output.txt", self._outputBefore).splitlines()
            said = [line.removeprefix("simcvd: ") for line in said if line.startswith("simcvd: ")]
            # what is said of an unexpected error is for those who see the lines above it
            known = said and not (self._error and said[-1].startswith("unexpected error"))
            self._problem = said[-1].strip() if known else None
        self._process = None
        _started.pop(self.folder, None)

    # --- hands

    def _say(self, word):
        with writing(self.folder):
            (self.folder / "control").write_text(word, encoding="utf-8")

    def _finishedModel(self):
        if self.modelFolder is None:
            raise SimCVDError(_("This training has no finished model yet; let it end first."))
        return self.modelFolder

    def _remove(self):
        for name in FILES:
            path = self.folder / name
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                if is_in_use(error) and self._removals < PATIENCE:
                    self._removals += 1  # the next poll tries again
                    return
                self._discarding, self._removals = False, 0
                raise SimCVDError(
                    _("{path} can't be removed ({reason}); remove it by hand.").format(
                        path=path, reason=error.strerror or error
                    )
                ) from error
        if is_empty(self.folder):
            with contextlib.suppress(OSError):  # somebody stands in it; what was in it is gone
                for path in self.folder.iterdir():
                    path.unlink()
                self.folder.rmdir()
        runlist.forget(self.folder)
        self.state = GONE


def _last(items):
    return items[-1] if items else None


def _sizeOf(path):
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(path, begin=0, length=8000):
    """The last bytes of a file as text, none of them before `begin`."""
    try:
        with open(path, "rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - length))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
