"""What the panel of a training says: states, times and estimates in words."""

import time

from slicer.i18n import tr as _

from SimCVDLib import runs


def estimateText(event):
    """What an estimate found out, in words."""
    if event["event"] == "cancelled":
        return _("Stopped.")
    if event["event"] == "error":
        return event["message"]
    steps = event["minutes_plan"]
    text = _(
        "A step takes {seconds:.2f} s on {device}: {short} steps in 10 minutes, {hour} in an hour, {night} overnight."
    )
    fits = text.format(
        seconds=event["seconds_a_step"],
        device=deviceText(event["device"]),
        short=steps["10"],
        hour=steps["60"],
        night=steps["480"],
    )
    whole = _("This training: {steps} steps in about {time}.").format(
        steps=event["steps"], time=timeText(event["seconds"])
    )
    return f"{fits} {whole}"


def deviceText(device):
    return {"cpu": _("the processor")}.get(device, device)


def timeText(seconds):
    """A duration in words, rounded as people do."""
    if seconds < 90:
        return _("{seconds} s").format(seconds=round(seconds))
    if seconds < 5400:
        return _("{minutes} min").format(minutes=round(seconds / 60))
    return _("{hours:.1f} h").format(hours=seconds / 3600)


def bytesText(count):
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def percent(fraction):
    return "-" if fraction is None else f"{100 * fraction:.0f} %"


def stateText(run):
    """What state a run is in, in a word or two."""
    return {
        runs.NEW: _("new"),
        runs.PREPARING: _("preparing"),
        runs.RUNNING: _("running"),
        runs.PAUSED: _("paused"),
        runs.STOPPED: _("stopped"),
        runs.DONE: _("done"),
        runs.FAILED: _("failed"),
        runs.DIED: _("interrupted"),
        runs.GONE: _("removed"),
    }[run.state]


def progressText(run):
    """How a run stands: its steps and the time left, or why it does not go on."""
    parts = []
    if run.of:
        parts.append(_("Step {iteration} of {of}").format(iteration=run.iteration, of=run.of))
    if run.state == runs.RUNNING and run.secondsLeft is not None:
        parts.append(_("about {time} left").format(time=timeText(run.secondsLeft)))
    text = ", ".join(parts) + "." if parts else ""
    return " ".join(filter(None, [text, run.sentence]))


def messageText(seconds, sentence):
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + "  " + sentence
