"""The process that stays warm behind the Segment button: requests come in on stdin, events go out on stdout.

Both are JSON, one object a line. Requests wait in a queue and are done one after the other, while a thread of its own
goes on reading, so that `cancel` and `quit` are obeyed between two steps of the job that runs. Requests:

    {"do": "segment", "id": "7", "image": FILE, "model": NAME_OR_FOLDER, "output": FOLDER}
        and optionally "device": "auto", "largest": true, false or null (as the model says), "uncertainty": false,
        "roi": six bounds in mm (LPS) or null, "memory_limit_mb": number or null, "overwrite": true
    {"do": "evaluate", "id": "8", "output": FOLDER,
     "pairs": [{"case": NAME, "reference": FILE, "prediction": FILE, "image": FILE or null}]}
        and optionally "names": {"1": "Left atrium"}, "about": {"Reference": "..."} (lines for the report's head)
    {"do": "warm", "id": "9", "model": NAME_OR_FOLDER}   loads all that the first segmentation needs
    {"do": "rank", "id": "10", "model": NAME_OR_FOLDER, "cases": [{"id": NAME, "image": FILE}]}
        and optionally "labelled": as cases, "device": "auto"; see ranking.py
    {"do": "estimate", "id": "11", "run": {"method", "spacing", "recipe", "wishes"}, "classes": 2,
     "cases": [{"role", "size": [I, J, K], "spacing": [x, y, z], "direction": nine numbers (LPS)}]}
        how long such a training would take on this computer; see training/estimate.py
    {"do": "cancel", "id": "7"}                          also before its turn has come
    {"do": "quit"}

Events: `ready` once, before PyTorch is imported; then for each id any number of `progress` (fraction, stage: starting,
reading, segmenting, scoring, writing, ranking, measuring) and of `ranked` (case, uncertainty, unlikeness, reason), and
exactly one of `done` (see jobs.py), `cancelled` and `error` (kind, message in one sentence, details); `bye` (reason:
quit, idle, closed) at the end. A line that is no request gives an `error` of the kind "request", whose id is null where
none can be read. When stdin is closed, the application is gone, and so is this process. What libraries print goes to
stderr.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator

from . import __version__
from .errors import NotEnoughMemoryError, SimCVDError, is_out_of_memory
from .jobs import CancelledError, Jobs, Tell

IDLE_SECONDS = 600.0
GRACE_SECONDS = 10  # for a running step, when the application is gone


class RequestError(SimCVDError):
    """A line that asks for nothing this process can do."""

    kind = "request"


def serve(idle: float = IDLE_SECONDS) -> None:
    """Take requests from stdin until told to stop, until it is closed, or until `idle` seconds passed without one."""
    requests, events = _take_streams()
    worker = Worker(events)
    threading.Thread(target=_listen, args=(worker, requests), daemon=True).start()
    worker.work(Jobs(), idle)


class Worker:
    """The queue between the thread that listens and the one that works, and the one mouth of both."""

    def __init__(self, events: int):
        self._events = open(events, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 - open as long as the process
        self._speaking = threading.Lock()
        self._change = threading.Condition()
        self._waiting: dict[str, dict] = {}
        self._running: str | None = None
        self._unwanted = False
        self._ending: str | None = None
        self._say("ready", pid=os.getpid(), version=__version__, python=platform.python_version())

    def listen(self, lines: Iterable[bytes]) -> None:
        """Take in requests until there are no more, which ends the work."""
        try:
            for line in lines:
                if line.strip():
                    self._take(line)
        finally:
            self._end("closed")

    def work(self, do: Callable[[dict, Tell], dict], idle: float) -> None:
        """Call `do(request, tell)` for each request in turn and say how it ended.

        `tell(stage, fraction)` says how far it is and raises CancelledError when it is no longer wanted.
        """
        while (request := self._next(idle)) is not None:
            name = request["id"]
            try:
                outcome = "done", do(request, self._progress_of(name))
            except CancelledError:
                outcome = "cancelled", {}
            except Exception as error:
                outcome = "error", {**_explained(error), "details": traceback.format_exc()}
            with self._change:
                self._running = None
            self._say(outcome[0], id=name, **outcome[1])
        self._say("bye", reason=self._ending)

    def _take(self, line: bytes) -> None:
        """Obey or queue a request, or say what is wrong with it."""
        try:
            request = _parsed(line)
        except RequestError as error:
            return self._refuse(line, _id_in(line), error)
        if request["do"] == "quit":
            self._end("quit")
        elif request["do"] == "cancel":
            self._cancel(request["id"])
        elif not self._queue(request):
            # null, as an error with this id would be taken for the other's end
            self._refuse(line, None, RequestError(f"The id {request['id']} is in use; give each request its own."))

    def _refuse(self, line: bytes, name: str | None, error: RequestError) -> None:
        self._say("error", id=name, **_explained(error), details=line.decode("utf-8", "replace")[:1000])

    def _queue(self, request: dict) -> bool:
        """Let a request wait for its turn; False where its id is in use."""
        name = request["id"]
        with self._change:
            free = name not in self._waiting and name != self._running
            if free:
                self._waiting[name] = request
                self._change.notify_all()
        return free

    def _cancel(self, name: str) -> None:
        with self._change:
            waited = self._waiting.pop(name, None)
            self._unwanted |= name == self._running
        if waited:
            self._say("cancelled", id=name)

    def _end(self, reason: str) -> None:
        with self._change:
            self._ending = self._ending or reason
            self._change.notify_all()

    def _next(self, idle: float) -> dict | None:
        """The next request, waited for at most `idle` seconds; None when the end has come."""
        with self._change:
            self._change.wait_for(lambda: self._ending or self._waiting, min(idle, threading.TIMEOUT_MAX))
            if self._waiting and not self._ending:
                self._running = next(iter(self._waiting))
                self._unwanted = False
                return self._waiting.pop(self._running)
            self._ending = self._ending or "idle"
            left = list(self._waiting)
            self._waiting.clear()
        for name in left:
            self._say("cancelled", id=name)
        return None

    def _progress_of(self, name: str) -> Tell:
        def tell(stage: str, fraction: float, event: str = "progress", **fields) -> None:
            if self._unwanted or self._ending:
                raise CancelledError
            self._say(event, id=name, fraction=round(fraction, 4), stage=stage, **fields)

        return tell

    def _say(self, event: str, **fields) -> None:
        line = json.dumps({"event": event, **fields}, allow_nan=False) + "\n"
        try:
            with self._speaking:
                self._events.write(line)
                self._events.flush()
        except OSError:  # nobody reads any more
            self._end("closed")


# --- requests ---------------------------------------------------------------------------------------------------------


def _is_text(value) -> bool:
    return isinstance(value, str) and value != ""


def _is_flag(value) -> bool:
    return isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _is_pair(value) -> bool:
    files = ("case", "reference", "prediction")
    return (
        isinstance(value, dict)
        and value.keys() <= {*files, "image"}
        and all(_is_text(value.get(name)) for name in files)
        and (value.get("image") is None or _is_text(value["image"]))
    )


def _is_scan(value) -> bool:
    return isinstance(value, dict) and value.keys() == {"id", "image"} and all(map(_is_text, value.values()))


def _is_place(value) -> bool:
    lengths = {"size": 3, "spacing": 3, "direction": 9}
    return (
        isinstance(value, dict)
        and value.keys() == {"role", *lengths}
        and _is_text(value["role"])
        and all(
            isinstance(value[name], list) and len(value[name]) == n and all(map(_is_number, value[name]))
            for name, n in lengths.items()
        )
    )


def _is_run(value) -> bool:
    return isinstance(value, dict) and value.keys() <= {"method", "spacing", "recipe", "wishes"} and "method" in value


def _is_list_of(fits, value, least: int = 1) -> bool:
    return isinstance(value, list) and len(value) >= least and all(map(fits, value))


def _is_roi(value) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 6 and all(map(_is_number, value)))


def _is_texts(value) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_TEXT = _is_text, "a text"
_FLAG = _is_flag, "true or false"

# what each request has, apart from do and id: whether it must be there, whether the value fits, what would fit
_FIELDS = {
    "segment": {
        "image": (True, *_TEXT),
        "model": (True, *_TEXT),
        "output": (True, *_TEXT),
        "device": (False, *_TEXT),
        **dict.fromkeys(("uncertainty", "overwrite"), (False, *_FLAG)),
        "largest": (False, lambda v: v is None or _is_flag(v), "true, false or null"),
        "roi": (False, _is_roi, "six numbers or null"),
        "memory_limit_mb": (False, lambda v: v is None or (_is_number(v) and v > 0), "a positive number or null"),
    },
    "evaluate": {
        "pairs": (
            True,
            lambda v: isinstance(v, list) and v != [] and all(map(_is_pair, v)),
            "a list of objects with case, reference, prediction and image or null",
        ),
        "output": (True, *_TEXT),
        "names": (
            False,
            lambda v: _is_texts(v) and all(key.isdecimal() for key in v),
            "an object of names by label value",
        ),
        "about": (False, _is_texts, "an object of texts"),
    },
    "warm": {"model": (True, *_TEXT)},
    "rank": {
        "model": (True, *_TEXT),
        "cases": (True, lambda v: _is_list_of(_is_scan, v), "a list of objects with id and image"),
        "labelled": (False, lambda v: _is_list_of(_is_scan, v, 0), "a list of objects with id and image"),
        "device": (False, *_TEXT),
    },
    "estimate": {
        "run": (True, _is_run, "an object with method and maybe spacing, recipe and wishes"),
        "classes": (True, lambda v: _is_number(v) and v == int(v) and v >= 2, "a whole number from 2 on"),
        "cases": (True, lambda v: _is_list_of(_is_place, v), "a list of objects with role, size, spacing, direction"),
    },
    "cancel": {},
    "quit": {},
}


def _parsed(line: bytes) -> dict:
    """The request of a line; raises RequestError where it is none."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError("A request could not be read: it is no line of JSON.") from error
    if not isinstance(request, dict) or not _is_text(request.get("do")) or request["do"] not in _FIELDS:
        raise RequestError(f"A request must be an object whose do is one of {', '.join(_FIELDS)}.")
    fields = _FIELDS[request["do"]]
    if request["do"] != "quit" and not _is_text(request.get("id")):
        raise RequestError(f"The request {request['do']} has no usable id: it must be a text.")
    for name in request.keys() - fields - {"do", "id"}:
        raise RequestError(f"The request {request['do']} knows no {name}.")
    for name, (required, fits, rule) in fields.items():
        if (required or name in request) and not fits(request.get(name)):
            raise RequestError(f"The request {request['do']} has no usable {name}: it must be {rule}.")
    return request


def _id_in(line: bytes) -> str | None:
    """The id of a line that is no request, as far as there is one."""
    try:
        name = json.loads(line)["id"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return name if _is_text(name) else None


# --- what can go wrong ------------------------------------------------------------------------------------------------


def _explained(error: Exception) -> dict:
    """The kind of an error and one sentence for the user."""
    if isinstance(error, SimCVDError):
        return {"kind": error.kind, "message": str(error)}
    if is_out_of_memory(error):
        return _explained(NotEnoughMemoryError())
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return {
        "kind": "unexpected",
        "message": f"Something unexpected went wrong ({reason}); please report it with the details.",
    }


# --- streams ----------------------------------------------------------------------------------------------------------


def _take_streams() -> tuple[int, int]:
    """Descriptors of our own for requests and events; the usual ones then give nothing and go to stderr.

    Libraries print to stdout; and on Windows those that ask what stdin is, while a thread waits for it, wait as well.
    """
    requests, events = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, events


def _listen(worker: Worker, requests: int) -> None:
    worker.listen(_lines(requests))
    time.sleep(GRACE_SECONDS)
    os._exit(1)  # a step that takes longer than this is let go: nobody waits for it


def _lines(descriptor: int) -> Iterator[bytes]:
    # without Python's buffer, whose lock this thread would hold when the interpreter ends
    pending = b""
    while block := os.read(descriptor, 1 << 16):
        *lines, pending = (pending + block).split(b"\n")
        yield from lines
