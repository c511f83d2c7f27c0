"""A case as one PNG picture, with the outlines of reference and prediction: four telling slices, or a single one."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from simcvd.boxes import bounding_box

# two colours of Okabe and Ito's palette, told apart with any colour vision and on any grey
REFERENCE_COLOUR = (86, 180, 233)
PREDICTION_COLOUR = (230, 159, 0)
PANEL = 384
GAP = 8
MARGIN_MM = 12.0
# fewer greys than a byte holds: an image is noisy anyway, and the picture takes half the bytes
GREYS = 96
_REFERENCE, _PREDICTION = GREYS, GREYS + 1
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DESCRIPTION = b"Description\0"
_PLANES = ("axial", "coronal", "sagittal")


def case_picture(
    image: np.ndarray | None, reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]
) -> bytes:
    """Draw one case as a PNG: the central axial, coronal and sagittal slice and the worst axial slice, side by side.

    All arrays are (K, J, I), the masks or label maps zero outside; axes in LPS order stand upright. Without an image
    the outlines stand on plain grey. `spacing` is (x, y, z) in mm. The picture's text says which slices it shows:
    `picture_description` reads it. Raises MetricsError for shapes that differ.
    """
    reference, prediction = np.asarray(reference), np.asarray(prediction)
    image = np.zeros(reference.shape, np.float32) if image is None else np.asarray(image)
    if not reference.shape == prediction.shape == image.shape or reference.ndim != 3:
        from simcvd.metrics import MetricsError  # brings SciPy, which a slice's picture does without

        raise MetricsError("Image, reference and prediction must have the same shape; bring them onto one grid first.")
    box = _view_box(reference, prediction, spacing)
    slices, words = _slices_to_show(reference, prediction, spacing)
    greys = _greys(image, box)
    step = max((box[a].stop - box[a].start) * spacing[2 - a] for a in range(3)) / PANEL
    panels = [_panel(greys, reference, prediction, axis, index, box, spacing, step) for axis, index in slices]
    height = max(panel.shape[0] for panel in panels)
    row = [np.pad(p, _centring(p, height)) for p in panels]
    gap = np.full((height, GAP), GREYS // 2, np.uint8)
    pixels = np.hstack([part for panel in row for part in (panel, gap)][:-1])
    return write_png(pixels, _palette(), f"From left to right: {', '.join(words)}.")


def slice_picture(
    image: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    reference: np.ndarray | None = None,
    size: int = PANEL,
) -> bytes:
    """Draw one axial slice as a PNG of at most `size` pixels a side: the middle one of what is outlined.

    Arrays, spacing and colours are those of `case_picture`. With a reference the slice is the middle one of it, and the
    picture keeps to its surroundings, so that pictures of one training can be compared; else it shows all of the slice.
    """
    shown = prediction if reference is None else reference
    box = bounding_box(shown)
    middle = (box[0].start + box[0].stop - 1) // 2 if box else shown.shape[0] // 2
    if box is None or reference is None:
        view = tuple(slice(0, n) for n in shown.shape)
    else:
        view = _widened(box, 2 * MARGIN_MM, spacing, shown.shape)
    step = max((view[a].stop - view[a].start) * spacing[2 - a] for a in (1, 2)) / size
    greys = _greys(image[middle : middle + 1], (slice(None), *view[1:]))
    flat = (np.zeros_like(prediction) if reference is None else reference, prediction)
    panel = _panel(greys, *(m[middle : middle + 1] for m in flat), 0, 0, view, spacing, step)
    return write_png(panel, _palette(), f"Axial slice {middle}.")


def write_png(pixels: np.ndarray, palette: np.ndarray, description: str) -> bytes:
    """Encode colour indices (rows, columns) uint8 and a palette (n, 3) uint8 as a PNG that carries a description."""
    rows, columns = pixels.shape
    # each row as its difference from the row above: smooth pictures shrink to half
    above = np.vstack((np.zeros((1, columns), np.uint8), pixels[:-1]))
    filtered = np.hstack((np.full((rows, 1), 2, np.uint8), pixels - above))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", np.ascontiguousarray(palette, np.uint8).tobytes()),
        (b"tEXt", _DESCRIPTION + description.encode("latin-1", "replace")),
        (b"IDAT", zlib.compress(filtered.tobytes(), 6)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def picture_description(png: bytes) -> str:
    """The text that a PNG of `write_png` carries, or an empty text."""
    position = len(_SIGNATURE)
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        content = png[position + 8 : position + 8 + length]
        if kind == b"tEXt" and content.startswith(_DESCRIPTION):
            return content[len(_DESCRIPTION) :].decode("latin-1")
        position += length + 12
    return ""


def worst_slice(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> tuple[int, str] | None:
    """The axial slice with the largest distance error, and why; None when reference and prediction agree everywhere.

    For label maps the label with the largest error decides. Where no distance exists since one of the two is empty, it
    is the slice with the largest disagreement.
    """
    if not np.any(reference != prediction):
        return None
    worst = (0.0, 0)
    for value in sorted((set(np.unique(reference).tolist()) & set(np.unique(prediction).tolist())) - {0}):
        worst = max(worst, _largest_error(reference == value, prediction == value, spacing))
    if worst[0] > 0:
        return worst[1], f"a surface is {worst[0]:.1f} mm from the other there"
    return int(np.argmax((reference != prediction).sum(axis=(1, 2)))), "largest area of disagreement"


def _largest_error(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> tuple[float, int]:
    from simcvd.metrics import surface, surface_distances

    box = bounding_box(reference | prediction)
    reference, prediction = reference[box], prediction[box]
    found = []
    for mask, distances in zip((prediction, reference), surface_distances(reference, prediction, spacing), strict=True):
        furthest = int(np.argmax(distances))
        found.append((float(distances[furthest]), box[0].start + int(np.argwhere(surface(mask))[furthest][0])))
    return max(found)


def _slices_to_show(reference, prediction, spacing) -> tuple[list[tuple[int, int]], list[str]]:
    """(axis, index) of every panel and the words for it."""
    box = bounding_box(reference) or bounding_box(prediction) or tuple(slice(0, n) for n in reference.shape)
    slices = [(axis, (box[axis].start + box[axis].stop - 1) // 2) for axis in range(3)]
    words = [f"central {plane} slice ({index})" for plane, (_, index) in zip(_PLANES, slices, strict=True)]
    worst = worst_slice(reference, prediction, spacing)
    if worst:
        slices.append((0, worst[0]))
        words.append(f"worst axial slice ({worst[0]}: {worst[1]})")
    return slices, words


def _view_box(reference, prediction, spacing) -> tuple[slice, slice, slice]:
    """The box around both masks with a margin, within the array; all of it where both are empty."""
    box = bounding_box((reference != 0) | (prediction != 0))
    if box is None:
        return tuple(slice(0, n) for n in reference.shape)
    return _widened(box, MARGIN_MM, spacing, reference.shape)


def _widened(box, margin: float, spacing, shape) -> tuple[slice, slice, slice]:
    """A box with a margin in mm on every side, within the array."""
    margins = [math.ceil(margin / spacing[2 - axis]) for axis in range(3)]
    return tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margins, shape, strict=True))


def _greys(image: np.ndarray, box) -> np.ndarray:
    """The image as grey levels 0..GREYS-1 between the 1st and 99th percentile inside the box; mid-grey if constant."""
    low, high = np.percentile(image[box], (1, 99)).astype(float)
    if high <= low:
        return np.full(image.shape, GREYS / 3, np.float32)
    return ((np.clip(image, low, high) - low) * ((GREYS - 1) / (high - low))).astype(np.float32)


def _panel(greys, reference, prediction, axis, index, box, spacing, step) -> np.ndarray:
    """One slice as colour indices, `step` mm a pixel, with the outlines on it."""
    sides = [a for a in range(3) if a != axis]
    cut = tuple(index if a == axis else box[a] for a in range(3))
    size = [max(1, round((box[a].stop - box[a].start) * spacing[2 - a] / step)) for a in sides]
    upright = slice(None, None, -1) if axis else slice(None)
    picture = np.rint(_enlarge_smooth(greys[cut][upright], size)).astype(np.uint8)
    # a broad line under a thin one: where they coincide, both still show
    picture[_outline(_enlarge_sharp(reference[cut][upright], size), broad=True)] = _REFERENCE
    picture[_outline(_enlarge_sharp(prediction[cut][upright], size), broad=False)] = _PREDICTION
    return picture


def _enlarge_smooth(slice_: np.ndarray, size: Sequence[int]) -> np.ndarray:
    for axis, n in enumerate(size):
        old = slice_.shape[axis]
        place = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        low = np.minimum(place.astype(int), max(old - 2, 0))
        part = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, old - 1)
        slice_ = slice_.take(low, axis) * (1 - part) + slice_.take(high, axis) * part
    return slice_


def _enlarge_sharp(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows.astype(int), columns.astype(int))]


def _outline(labels: np.ndarray, broad: bool) -> np.ndarray:
    """The border of a label map: the pixels on both sides of it, and, when broad, one more on either side."""
    padded = np.pad(labels, 1, mode="edge")
    neighbours = [padded[1 + y : -1 + y or None, 1 + x : -1 + x or None] for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    line = np.any([labels != other for other in neighbours], axis=0)
    if not broad:
        return line
    thick = np.pad(line, 1)
    shifts = [thick[1 + y : -1 + y or None, 1 + x : -1 + x or None] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return np.any(shifts, axis=0)


def _centring(panel: np.ndarray, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    missing = height - panel.shape[0]
    return (missing // 2, missing - missing // 2), (0, 0)


def _palette() -> np.ndarray:
    greys = np.repeat(np.rint(np.linspace(0, 255, GREYS))[:, None], 3, axis=1)
    return np.vstack((greys, REFERENCE_COLOUR, PREDICTION_COLOUR)).astype(np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
