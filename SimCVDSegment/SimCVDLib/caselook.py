"""Looks at cases on disk in a process of its own, one after the other: large files never hold up the application."""

import contextlib
import json

import qt
from slicer.i18n import tr as _

from SimCVDLib import jobs

LONGEST_MS = 120000  # for one case: a network drive that hangs must not keep the others waiting
SIZE = 96  # pixels of a thumbnail


def filesOf(row):
    """The files of a case, by which it is known here: a scene that comes back has other case objects."""
    return str(row.image), str(row.label) if row.label else None


class FileLooks:
    """Cases that are to be looked at; the process is there only while there are any.

    Args:
        onSeen: called with the files of a case, as `filesOf` gives them, and what `filelook.look` says of them.
    """

    def __init__(self, onSeen):
        self._onSeen = onSeen
        self._waiting = []  # files of cases; the first are those under way
        self._out = b""
        self._process = self._resting = None
        self._limit = qt.QTimer()
        self._limit.setSingleShot(True)
        self._limit.connect("timeout()", self._onLost)

    def ask(self, row):
        """Look at a case (cases.CaseRow) when its turn comes, and only once."""
        files, begin = filesOf(row), not self._waiting
        if files not in self._waiting:
            self._waiting.append(files)
        if begin:
            self._askNext()

    def close(self):
        """Look at nothing any more."""
        self._waiting = []
        self._rest()
        self._end(self._resting)
        self._resting = None

    def _askNext(self):
        if not self._waiting:
            self._rest()
            return
        self._limit.start(LONGEST_MS)
        if self._process is None:
            self._start()
        image, label = self._waiting[0]
        request = json.dumps({"image": image, "label": label, "size": SIZE})
        self._process.write(f"{request}\n".encode())

    def _start(self):
        (program, *_core), environment = jobs.coreCommand()
        settings = qt.QProcessEnvironment()
        for key, value in environment.items():
            settings.insert(key, value)
        self._out = b""
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(settings)
        self._process.connect("readyReadStandardOutput()", self._onOutput)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process.start(program, ["-m", "SimCVDLib.filelook"])

    def _onOutput(self):
        if self._process is None:
            return
        self._out += self._process.readAllStandardOutput().data()
        *lines, self._out = self._out.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # a library may print something too
                answer = json.loads(line.decode("utf-8", "replace"))
                if isinstance(answer, dict):
                    self._answer(answer)

    def _onProcessError(self, error):
        if error == qt.QProcess.FailedToStart:  # then there is no signal `finished`
            self._limit.start(0)

    def _onFinished(self, _exitCode, _exitStatus):
        self._limit.start(0)  # not at once: the process is still busy telling this, and nobody else holds it

    def _onLost(self):
        """It crashed over a case, or takes too long over it: its successor looks at the others."""
        if self._process is not None:
            process, self._process = self._process, None
            self._end(process)
            self._answer({"error": _("The files could not be looked at; check that they can be read.")})

    def _answer(self, seen):
        self._limit.stop()
        if self._waiting:
            self._onSeen(self._waiting.pop(0), seen)
        self._askNext()

    def _rest(self):
        """Let the process end by itself, without waiting for it."""
        self._limit.stop()
        if self._process is not None:
            self._end(self._resting)
            self._resting, self._process = self._process, None
            self._resting.disconnect("finished(int,QProcess::ExitStatus)", self._onFinished)
            self._resting.closeWriteChannel()

    def _end(self, process):
        if process is not None and process.state() != qt.QProcess.NotRunning:
            process.kill()
            process.waitForFinished(1000)
