"""What can be said of a case on disk, and its thumbnail: reads all of its voxels, so beside the application.

`python -m SimCVDLib.filelook` takes a JSON object a line, {"image", "label", "size"}, and answers each with a line. It
needs nothing of Slicer: `caselook` runs it, and `look` is the same in a script's own process.
"""

import base64
import json
import os
import sys
import zlib

import numpy as np

from simcvd.errors import SimCVDError
from simcvd.grid import Volume, same_geometry, upright

SAME_GRID = 0.01  # voxels by which the corners of image and label may differ
VOXELS = 1 << 21  # of a thumbnail's volume: more are thinned out


def look(image, label=None, size=96):
    """Look at a scan and its label map.

    Args:
        image: path of the scan, a file or a DICOM folder.
        label: path of its label map, or None.
        size: of the thumbnail, in pixels.

    Returns:
        a dictionary that JSON can hold: "stamp" (see `stamp`), "size", "spacing" and "direction" of the scan, "low" and
        "high" of its voxels, "mark" (what two equal images share), "picture" (a PNG in base64) and, where there is a
        label, "values" (the label values in it), "outside" (none of them lies in the image) and "resampled" (it has
        another grid). Where one of the two can't be read, "error" is a sentence, and of the scan there may be nothing.
    """
    from simcvd.images import read_volume

    found = {"stamp": stamp(image, label)}
    try:
        scan = read_volume(image)
    except (SimCVDError, OSError) as error:
        return {**found, "error": str(error)}
    geometry = scan.geometry
    found |= {"size": list(geometry.size), "spacing": list(geometry.spacing), "direction": list(geometry.direction)}
    found |= {"low": float(scan.array.min()), "high": float(scan.array.max()), "mark": mark(scan.array)}
    outline = np.zeros(scan.array.shape, np.uint8)
    if label:
        try:
            about, outline = _outline(label, geometry)
            found |= about
        except (SimCVDError, OSError) as error:
            found["error"] = str(error)
    return {**found, "picture": base64.b64encode(thumbnail(scan.array, outline, geometry, size)).decode()}


def stamp(image, label):
    """When the files of a case were changed last: other numbers mean that they are to be looked at again."""
    times = []
    for path in filter(None, (image, label)):
        try:
            times.append(os.stat(path).st_mtime_ns)
        except OSError:
            times.append(None)
    return times


def _outline(label, geometry):
    """What is to be said of a label map, and its voxels on the grid of the scan."""
    from simcvd.images import read_labels, resample_labels

    labels = read_labels(label)
    values = np.unique(labels.array)
    about = {"values": values[values != 0].tolist(), "outside": False}
    about["resampled"] = not same_geometry(labels.geometry, geometry, SAME_GRID)
    if not about["resampled"]:
        return about, labels.array
    outline = resample_labels(Volume(labels.array, labels.geometry), geometry)
    return {**about, "outside": bool(about["values"]) and not outline.any()}, outline


def thumbnail(image, labels, geometry, size=96):
    """A PNG of the middle outlined slice with its outlines, as bytes; arrays are (K, J, I)."""
    from simcvd.pictures import slice_picture

    step = max(1, round((image.size / VOXELS) ** (1 / 3)))
    thin = (slice(None, None, step),) * 3
    labels, spacing = upright(labels[thin], geometry)
    return slice_picture(upright(image[thin], geometry)[0], labels, spacing, size=size)


def mark(array):
    """What two equal images share; a part of the voxels tells scans apart."""
    sample = np.ascontiguousarray(array[::3, ::5, ::7])
    return f"{array.shape} {zlib.crc32(sample)}"


def main():
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = look(request["image"], request["label"], request["size"])
        except Exception as error:  # one strange file must not cost the others their thumbnails
            answer = {"error": f"{request['image']}: {type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
