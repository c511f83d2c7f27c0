"""The run folder: what one training needs, says and leaves behind.

run.json        the whole description; the same file gives the same model on the same machine (on a GPU up to rounding)
events.jsonl    what happened, one JSON object a line (simcvd.events)
log.txt         the same for people
checkpoint.pt   everything needed to go on exactly
control         "pause", "resume", "stop" or "finish" (end here, with the model as it is), written by whoever watches
lock            held by the running process
preview.png     a slice of one case with the outline as it is now
model/          the finished model folder
folds/          the runs of a leave-one-out (simcvd.training.folds)
plan.json       what a run is to become whose cases are not prepared yet (simcvd.training.plan)
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import time
from pathlib import Path

import torch

from ..errors import SimCVDError, is_out_of_memory
from ..events import EventLog
from ..files import atomic_path, patiently, read_json, read_word, write_json
from ..locks import claim


class TrainingError(SimCVDError):
    """A training that can't start or go on, and what to do about it."""


# what every version's run.json holds
NEEDED = ("method", "cases", "settings", "optimiser", "iterations", "batch", "patch", "spacing", "network", "device")


class RunFolder:
    """The files of one training; raises TrainingError when run.json is missing or unreadable.

    Args:
        config: what run.json will hold, for a run whose run.json is still to be made.
    """

    def __init__(self, path: str | os.PathLike, config: dict | None = None):
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.pt"
        self.control = self.path / "control"
        self.model = self.path / "model"
        self.preview = self.path / "preview.png"
        self._events = EventLog(self.path / "events.jsonl")
        self._lock = None
        if config is not None:
            self.config = config
            return
        try:
            self.config = read_json(self.path / "run.json")
        except OSError:
            raise TrainingError(f"{self.path} is no run folder: it has no run.json; start with simcvd train.") from None
        except ValueError as error:
            raise TrainingError(f"{self.path / 'run.json'} is damaged ({error}); restore it or start anew.") from None
        missing = [key for key in NEEDED if key not in self.config] if isinstance(self.config, dict) else NEEDED
        if missing:
            raise TrainingError(f"{self.path / 'run.json'} lacks {missing[0]}; restore it or start anew.")

    @classmethod
    def create(cls, path: str | os.PathLike, config: dict) -> RunFolder:
        """Make a new run folder; raises TrainingError when there is a run already."""
        path = Path(path)
        if (path / "run.json").exists():
            raise TrainingError(f"{path} holds a run already; go on with --resume or choose another folder.")
        write_json(path / "run.json", config)
        return cls(path)

    def save_config(self) -> None:
        """Write run.json anew, after a plan has changed."""
        write_json(self.path / "run.json", self.config)

    def lock(self) -> bool:
        """Claim the folder for this process until it ends; raises TrainingError when another one has it.

        False where the file system knows no locks, so that another one could be at work unseen.
        """
        self._lock = open(self.path / "lock", "a+")  # noqa: SIM115 - held until the process ends
        try:
            held = claim(self._lock)
        except OSError:
            self.unlock()
            raise TrainingError(
                f"A training is running in {self.path} already; wait for it or stop it first."
            ) from None
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return held

    def unlock(self) -> None:
        """Give the folder back."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def say(self, event: str, **fields) -> dict:
        """Append an event to events.jsonl, and to log.txt unless it is a mere step; returns it."""
        self._events.write(event, **fields)
        if event != "step":
            shown = ", ".join(f"{k} {v}" for k, v in fields.items() if not isinstance(v, list | dict))
            # it repeats the events for people to read: no training ends because one of them has it open
            with contextlib.suppress(PermissionError), open(self.path / "log.txt", "a", encoding="utf-8") as f:
                f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event}: {shown}\n")
        return {"event": event, **fields}

    def command(self) -> str | None:
        """The word in the control file, if there is one."""
        return read_word(self.control)

    def clear_command(self) -> None:
        """Forget a command once it is obeyed, so that a resumed run doesn't meet it again.

        A run that can't remove its file says nothing: what it was told is done, and no reason to fail.
        """
        try:
            patiently(lambda: self.control.unlink(missing_ok=True))
        except OSError:
            with contextlib.suppress(OSError):
                self.control.write_bytes(b"")  # no word either

    def save_checkpoint(self, state: dict) -> None:
        """Replace the checkpoint in one step: a killed process leaves the old one or the new one."""
        buffer = io.BytesIO()  # torch's own writing to a full disk ends in an error that doesn't say so
        torch.save(state, buffer)
        with atomic_path(self.checkpoint) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(self) -> dict | None:
        """The checkpoint, in the computer's own memory, or None when there is none yet.

        Raises TrainingError when it can't be read.
        """
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
            if is_out_of_memory(error):
                raise
            if isinstance(error, PermissionError):
                raise TrainingError(
                    f"{self.checkpoint} can't be opened ({error.strerror}); close what has it open, or ask for access."
                ) from error
            raise TrainingError(
                f"{self.checkpoint} can't be read; remove it to start this run from the beginning."
            ) from error
