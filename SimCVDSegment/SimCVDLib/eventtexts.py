"""What the events of a training mean to the user."""

from slicer.i18n import tr as _

UNEXPECTED = "Unexpected: "  # so begins the message of an error that the training does not know


def eventText(event):
    """What an event means to the user, or None for one that the progress bar tells."""
    kind = event["event"]
    if kind == "preparing":
        return _("Preparing {total} cases.").format(total=event["total"]) if event["done"] == 0 else None
    if kind == "start":
        return _(
            "Training on {device}: {labelled} labelled, {unlabelled} unlabelled and {validation} validation cases, "
            "{of} steps, from step {iteration} on."
        ).format(**{k: event[k] for k in ("device", "labelled", "unlabelled", "validation", "of", "iteration")})
    if kind == "validation":
        return _("Step {iteration}: {figures}.").format(iteration=event["iteration"], figures=figuresText(event))
    if kind in ("warning", "error"):
        return errorText(event["message"])
    if kind == "stage":
        return _("From step {iteration} on: {stage}.").format(
            iteration=event["iteration"], stage=_stageText(event["stage"])
        )
    if kind == "done":
        figures = f"; {figuresText(event)}" if event.get("rows") else ""
        return _("Done: the model was saved and read back{figures}.").format(figures=figures)
    sentences = {
        "paused": _("Paused."),
        "resumed": _("Resumed."),
        "stopped": _("Stopped; what was learned is kept."),
        "finishing": _("Ending here, as asked."),
    }
    return sentences.get(kind)


def errorText(message):
    """What the training says of itself; an error that it does not know, with what to do."""
    if not message.startswith(UNEXPECTED):
        return message
    return _(
        "The training ended with an error that it does not know ({reason}); click Resume to go on from its last "
        "checkpoint, and where that does not help, send us the details of the log."
    ).format(reason=message.removeprefix(UNEXPECTED).strip())


def _stageText(stage):
    return {
        "global": _("learning what whole scans are like, without outlines"),
        "local": _("learning what the places of a scan are like"),
        "fine-tuning": _("learning from the outlines"),
    }.get(stage, stage)


def figuresText(event):
    """The means of a validation in one line; "-" for what could not be measured."""
    if event.get("dice") is None:
        return _("the model finds nothing in the validation scans")
    shown = {name: "-" if event.get(name) is None else f"{event[name]:.1f}" for name in ("dice", "hd95")}
    return _("Dice {dice} %, 95HD {hd95} mm").format(**shown)
