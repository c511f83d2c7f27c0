"""The one background process: kept warm, spoken to in JSON lines, and never able to take the application down.

Every job ends with exactly one event "done", "cancelled" or "error", whatever becomes of the process.
"""

import collections
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

PACKAGES = Path(__file__).resolve().parents[1]  # the folder that holds simcvd
GRACE_MS = 5000  # between asking a job to stop and ending the process
QUIT_MS = 3000
LOG_LINES = 500
LAST = ("done", "cancelled", "error")

_worker = None


def worker():
    """The application's one background process, which is closed when the application quits."""
    global _worker
    if _worker is None:
        _worker = Worker()
        slicer.app.connect("aboutToQuit()", closeWorker)
    return _worker


def closeWorker():
    """End the background process, if there is one; the next job starts a new one. Call it before a reload too."""
    global _worker
    if _worker is not None:
        slicer.app.disconnect("aboutToQuit()", closeWorker)
        _worker.close()
        _worker = None


def pythonCommand():
    """The interpreter to run, and its environment.

    Slicer's own interpreter where it is found: ending it ends the work, which ending its launcher would not. Outside
    Slicer this Python.
    """
    if real := shutil.which("python-real"):
        return real, dict(os.environ)
    if launcher := shutil.which("PythonSlicer"):
        return launcher, dict(slicer.util.startupEnvironment())  # the launcher adds Slicer's own paths
    return sys.executable, dict(os.environ)


def coreCommand(*arguments):
    """The command `python -m simcvd` with arguments, and the environment to run it in."""
    program, environment = pythonCommand()
    paths = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(PACKAGES)])
    environment["PYTHONSAFEPATH"] = "1"  # no module of the folder that the process happens to be in
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONIOENCODING"] = "utf-8"
    return [program, "-m", "simcvd", *arguments], environment


def scratchFolder():
    """A new empty folder for the files of one job, under the application's temporary folder."""
    Path(slicer.app.temporaryPath).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="SimCVD-", dir=slicer.app.temporaryPath))


def removeFolder(folder):
    """Remove a scratch folder with all it holds; what can't be removed is left to the system."""
    shutil.rmtree(folder, ignore_errors=True)


class Worker:
    """A process that takes one request after the other.

    Args:
        command: program and arguments instead of `python -m simcvd worker` (for tests of what can go wrong).

    Attributes:
        log: the last lines that the process and this class had to say, for "copy details".
    """

    def __init__(self, command=None):
        self.log = collections.deque(maxlen=LOG_LINES)
        self._command = command
        self._jobs = {}  # by ID, in the order of submission
        self._numbers = itertools.count(1)
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._onOutput)
        self._process.connect("readyReadStandardError()", self._onErrorOutput)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._out = self._err = b""
        self._saidBye = False
        self._worn = False  # where memory ran out once, PyTorch fails again, even when there is enough
        self._grace = qt.QTimer()
        self._grace.setSingleShot(True)
        self._grace.connect("timeout()", self._onGraceOver)
        self._later = qt.QTimer()  # failures at the start are told after submit() has returned
        self._later.setSingleShot(True)
        self._later.connect("timeout()", self._onStartFailed)

    @property
    def isRunning(self):
        """Whether the process is there, busy or not."""
        return self._process.state() != qt.QProcess.NotRunning

    @property
    def isBusy(self):
        """Whether a job has not ended yet."""
        return bool(self._jobs)

    def submit(self, request, onEvent):
        """Send a request, starting the process where it is not there.

        Args:
            request: a dictionary as `simcvd worker` takes it, without "id".
            onEvent: called with every event of this job, a dictionary, in the main thread.

        Returns:
            the ID of the job.
        """
        if self._worn and not self._jobs:
            self._endProcess()
        jobId = str(next(self._numbers))
        self._jobs[jobId] = _Job({**request, "id": jobId}, onEvent)
        if not self.isRunning:
            self._start()
        self._send(self._jobs[jobId].request)
        return jobId

    def cancel(self, jobId):
        """Ask a job to stop; a process that has not obeyed after five seconds is ended. No harm where it is over."""
        job = self._jobs.get(jobId)
        if job is None or job.cancelled:
            return
        job.cancelled = True
        self._send({"do": "cancel", "id": jobId})
        if not self._grace.isActive():
            self._grace.start(GRACE_MS)

    def close(self):
        """End the process, asking first; jobs under way get the event "cancelled"."""
        self._grace.stop()
        self._later.stop()
        for job in self._jobs.values():
            job.cancelled = True
        if self.isRunning:
            for jobId in list(self._jobs):
                self._send({"do": "cancel", "id": jobId})
            self._endProcess()
        self._endJobs()

    # --- the process

    def _endProcess(self):
        self._send({"do": "quit"})
        self._process.closeWriteChannel()
        if not self._process.waitForFinished(QUIT_MS):
            self._process.kill()
            self._process.waitForFinished(QUIT_MS)

    def _start(self):
        command, environment = coreCommand("worker")
        program, *arguments = self._command or command
        settings = qt.QProcessEnvironment()
        for key, value in environment.items():
            settings.insert(key, value)
        self._out = self._err = b""
        self._saidBye = self._worn = False
        self._process.setProcessEnvironment(settings)
        self.log.append(" ".join([program, *arguments]))
        self._process.start(program, arguments)

    def _send(self, request):
        if self.isRunning:
            self._process.write((json.dumps(request) + "\n").encode("utf-8"))

    def _onOutput(self):
        self._out += self._process.readAllStandardOutput().data()
        *lines, self._out = self._out.split(b"\n")
        for line in lines:
            self._take(line.decode("utf-8", "replace").strip())

    def _onErrorOutput(self):
        self._err += self._process.readAllStandardError().data()
        *lines, self._err = self._err.split(b"\n")
        self.log.extend(line.decode("utf-8", "replace").rstrip() for line in lines if line.strip())

    def _take(self, line):
        try:
            event = json.loads(line)
            kind, jobId = event["event"], event.get("id")
        except (ValueError, TypeError, KeyError, AttributeError):
            if line:
                self.log.append(line)
            return
        self._saidBye = self._saidBye or kind == "bye"
        if kind != "progress":
            self.log.append(line if len(line) < 2000 else line[:2000] + " ...")
        job = self._jobs.get(jobId)
        if job is None:
            return
        job.begun = True
        if kind in LAST:
            del self._jobs[jobId]
            if not any(other.cancelled for other in self._jobs.values()):
                self._grace.stop()
            self._worn = self._worn or event.get("kind") == "memory"
        _tell(job, event)

    def _onFinished(self, exitCode, exitStatus):
        self._onOutput()
        self._onErrorOutput()
        self._grace.stop()
        self.log.append(f"The background process ended with {exitCode}.")
        # it may have gone to rest in the moment a request came: that request goes to its successor
        untouched = [job for job in self._jobs.values() if not job.begun and not job.cancelled]
        if self._saidBye and untouched and len(untouched) == len(self._jobs):
            self._start()
            for job in untouched:
                self._send(job.request)
        else:
            self._endJobs()

    def _onProcessError(self, error):
        if error == qt.QProcess.FailedToStart:  # then there is no signal `finished`
            self.log.append(f"The background process can't be started: {self._process.errorString()}")
            self._later.start(0)

    def _onStartFailed(self):
        self._endJobs(_("The background process can't be started; reinstall SimCVD or see the log."))

    def _onGraceOver(self):
        if self.isRunning and any(job.cancelled for job in self._jobs.values()):
            self.log.append("The background process did not stop when asked and was ended.")
            self._process.kill()

    def _endJobs(self, sentence=None):
        """Tell every job that is left that it is over: cancelled where that was asked for, else with an error."""
        sentence = sentence or _(
            "The background process ended unexpectedly, maybe because memory ran out; close other programs or set a "
            "region, and try again."
        )
        details = "\n".join(list(self.log)[-20:])
        jobs, self._jobs = self._jobs, {}
        for jobId, job in jobs.items():
            if job.cancelled:
                _tell(job, {"event": "cancelled", "id": jobId})
            else:
                _tell(job, {"event": "error", "id": jobId, "kind": "process", "message": sentence, "details": details})


class _Job:
    def __init__(self, request, onEvent):
        self.request = request
        self.onEvent = onEvent
        self.begun = False
        self.cancelled = False


def _tell(job, event):
    try:
        job.onEvent(event)
    except Exception:  # one job's trouble must not stop the events of the others
        logging.exception("SimCVD: an event of a background job could not be handled")
