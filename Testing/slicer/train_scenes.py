"""Small trainings for the tests: balls in noise as scans, their outlines, and a plan that takes seconds."""

import contextlib
import os
import signal

import numpy as np
import slicer
import slicer.util

import host
from SimCVDLib import caseexport, cases, nodes, runs

SPACING = 2.0
SHAPE = (16, 32, 32)
ONE = ({"value": 1, "name": "Ball", "color": [0.9, 0.3, 0.2], "terminology": None},)
TWO = (*ONE, {"value": 2, "name": "Core", "color": [0.2, 0.3, 0.9], "terminology": None})


def scan(number, name=None):
    """A volume node of a bright ball in noise, and its label values: 1 for the ball, 2 for its core."""
    rng = np.random.default_rng(number)
    center = rng.integers([6, 10, 10], [10, 22, 22]).reshape(3, 1, 1, 1)
    distance = np.sqrt(((np.indices(SHAPE) - center) ** 2).sum(0))
    labels = (distance < 6).astype(np.uint8) + (distance < 3)
    array = 100 + 80.0 * (labels > 0) + 60 * (labels > 1) + rng.normal(0, 20, SHAPE)
    matrix = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    node = slicer.util.addVolumeFromArray(array.astype(np.int16), ijkToRAS=matrix, name=name or f"Scan{number}")
    node.CreateDefaultDisplayNodes()
    return node, labels


def outline(volume, labels, segments=ONE, name="Outline"):
    """A segmentation as somebody draws it, with a segment for each of `segments`."""
    node = nodes.newSegmentation(volume, [], name)
    for segment in segments:
        identifier = node.GetSegmentation().AddEmptySegment("", segment["name"], segment["color"])
        nodes.writeSegment(node, identifier, labels >= 1 if len(segments) == 1 else labels == segment["value"], volume)
    return node


def ballTable(labelled=2, unlabelled=2, validation=1, segments=ONE):
    """A list of balls in the scene in all three roles."""
    table = cases.CaseTable()
    for number in range(labelled + unlabelled + validation):
        volume, labels = scan(number)
        if labelled <= number < labelled + unlabelled:
            table.addVolumes([volume])
        else:
            row = table.addLabelledCase(volume, outline(volume, labels, segments))
            if number >= labelled:
                table.setRole([row], cases.VALIDATION)
    return table


def plan(**wishes):
    """What takes some seconds."""
    head = {"pool_size": 16, "head_hidden": 16, "head_width": 8}
    small = {"network": {"n_filters": 2}, "patch": [16, 16, 16], "threads": 1, "settings": head, "iterations": 6}
    return {"method": "simcvd", "spacing": [SPACING] * 3, "recipe": "published", "wishes": {**small, **wishes}}


def exported(table, folder):
    """The list written into a folder."""
    export = caseexport.Export(table, folder)
    export.start()
    host.processEvents(until=lambda: export.finished, seconds=30)
    assert export.finished and export.error is None
    return export


def ballRun(folder, table=None, **wishes):
    """A run with its cases written, not yet started."""
    exported(table or ballTable(), folder / "source")
    return runs.Run.create(folder, plan(**wishes))


def polled(run, until, seconds=90):
    """Poll a run until something is so; gives the events that came meanwhile."""
    events = []

    def look():
        events.extend(run.poll())
        return until(run)

    try:
        host.processEvents(until=look, seconds=seconds)
    except TimeoutError:
        raise AssertionError(f"{run.state}: {run.sentence}\n{run.log}") from None
    return events


@contextlib.contextmanager
def held(process):
    """Keep a process of this one from going on, so that there is time to see what it was told and hasn't done yet."""
    os.kill(process, signal.SIGSTOP)
    os.waitpid(process, os.WUNTRACED)  # a signal takes its time
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
