"""Volumes in files: read them with every check that a user's file needs, and write them whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import locale
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simcvd.errors import is_out_of_memory
from simcvd.files import atomic_path
from simcvd.grid import MAX_VOXELS, Geometry, Grid, ImageError, Volume, normalise, same_geometry
from simcvd.nrrd import PlainFile, look

__all__ = [
    "MAX_VOXELS",
    "Geometry",
    "Grid",
    "ImageError",
    "Volume",
    "dicom_series",
    "image_name",
    "normalise",
    "odd_letters",
    "read_geometry",
    "read_labels",
    "read_volume",
    "resample_labels",
    "same_geometry",
    "write_segmentation",
    "write_volume",
]

SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd")
# the maps that `simcvd segment` writes beside its labels end so
MAP_KINDS = (".sdm", ".probability", ".uncertainty", ".model-sdm")
WRITABLE = (".nrrd", ".nii.gz", ".nii", ".mha")
_ON_WINDOWS = os.name == "nt"
# a direction matrix further than this from orthonormal bends distances by about a percent
_SHEAR_TOLERANCE = 0.01


def _sitk():
    try:
        import SimpleITK
    except ImportError as error:
        raise ImageError(
            "Reading and writing images needs SimpleITK: install it with 'pip install SimpleITK'."
        ) from error
    _open_any_name()
    return SimpleITK


@functools.cache
def _open_any_name() -> None:
    """Let ITK open files in folders such as that of a user Jürgen on Windows, where it takes names for UTF-8 only so.

    Slicer's application does without, the Python that comes with it does not (SimpleITK's FAQ on special characters).
    """
    if _ON_WINDOWS:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, ".UTF-8")


def _check_name(path: Path) -> None:
    """Raise ImageError for a name that is no text, on which ITK would end the whole process."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "replace").decode()
        raise ImageError(f"{shown} has letters in its path that can't be read here; rename it.") from None


def odd_letters(path: Path) -> str:
    """What to add to a complaint on Windows, where letters beyond the system's own may be what is wrong."""
    strange = "".join(dict.fromkeys(c for c in str(path) if not c.isascii()))
    return f" (on Windows {strange!r} in its path may be the reason)" if _ON_WINDOWS and strange else ""


# --- reading


def read_volume(path: str | os.PathLike, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a scan from an image file or from a folder with one DICOM series, in its stored scalar type.

    Raises ImageError for anything but one finite, varying, scalar 3-D volume of at most `max_voxels` voxels; the header
    is checked before any voxel is loaded.
    """
    path = Path(path)
    _check_name(path)
    image = _read_series(path, max_voxels) if path.is_dir() else _read_file(path, max_voxels)
    volume = _to_volume(image, path)
    low, high = volume.array.min(), volume.array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{path} has voxels that are not finite numbers (NaN or infinity); replace them first.")
    if low == high:
        raise ImageError(f"{path} is constant (every voxel is {low}): there is nothing to see in it; check the export.")
    return volume


def read_geometry(path: str | os.PathLike) -> Geometry:
    """Where the voxels of a scan lie, from the header of its file (a DICOM folder is read whole); raises ImageError."""
    path = Path(path)
    if path.is_dir():
        return read_volume(path).geometry
    _check_name(path)
    if plain := _plain(path, MAX_VOXELS):
        return plain.geometry
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return read_volume(path).geometry  # which says in a sentence what is wrong
    _check_header(reader, path, MAX_VOXELS, layers=False)
    if reader.GetDimension() > 3:  # with one voxel along the fourth axis, which is left out on reading
        return read_volume(path).geometry
    return _geometry_of(reader, path)


def read_labels(path: str | os.PathLike, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a label map, or a .seg.nrrd of one or several layers as Slicer writes it, as label values (int16 or wider).

    Layers are laid over each other in the order of the segments; where several segments share one label value, all
    segments are numbered 1, 2, ... in their order instead. Raises ImageError, also where a value is no whole number.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give the file that holds the labels.")
    image = _read_file(path, max_voxels, layers=True)
    array = _flatten_layers(image, path) if image.GetNumberOfComponentsPerPixel() > 1 else _to_volume(image, path).array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or np.any(array != np.rint(array)):
            raise ImageError(f"{path} has values that are no whole numbers, so it is not a label map; give the labels.")
        array = array.astype(np.int32)
    elif array.dtype.itemsize == 1:
        array = array.astype(np.int16)
    return Volume(array, _geometry_of(image, path), image_name(path))


def image_name(path: str | os.PathLike) -> str:
    """The file's or folder's name without the suffixes of image formats."""
    name = Path(path).resolve().name if str(path) in (".", "..") else Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return Path(name).stem if Path(name).suffix.lower() in (".dcm", ".ima", ".gipl", ".vtk") else name


def _read_file(path: Path, max_voxels: int, layers: bool = False):
    sitk = _sitk()
    _check_name(path)
    if not path.is_file():
        raise ImageError(f"{path} does not exist; check the path.")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{path} may not be read by you; ask for the right to read it.")
    if plain := _plain(path, max_voxels):
        with _whole(path):
            return _placed(sitk.GetImageFromArray(plain.read()), plain.geometry)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageError(
            f"{path} cannot be read as an image: it is damaged or not NRRD, NIfTI, MHA or DICOM{odd_letters(path)}; "
            "check the file."
        ) from error
    _check_header(reader, path, max_voxels, layers)
    with _whole(path):
        if path.name.lower().endswith((".nii", ".nii.gz")):
            _check_nifti_length(path)
        image = reader.Execute()
    while image.GetDimension() > 3:
        image = image[..., 0]
    return image


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What goes wrong with the voxels behind a readable header, as one sentence."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        if is_out_of_memory(error):
            raise ImageError(f"{path} does not fit into memory; crop it or close other programs.") from error
        raise ImageError(
            f"{path} has a readable header but not all of its voxels: it is damaged or cut short; export it again."
        ) from error


def _plain(path: Path, max_voxels: int) -> PlainFile | None:
    """What can be read without ITK, within the limit: beyond it ITK's way has the sentence."""
    plain = look(path) if path.suffix.lower() == ".nrrd" else None
    return plain if plain and math.prod(plain.geometry.size) <= max_voxels else None


def _check_nifti_length(path: Path) -> None:
    """Raise EOFError for a NIfTI file shorter than its header says, which ITK would fill up with zeros unasked."""
    with open(path, "rb") as f:
        zipped = f.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else open(path, "rb") as f:
        header = f.read(540)
        length = len(header)
        while block := f.read(1 << 20):
            length += len(block)
    if header[:1] in (b"\x5c", b"\x1c"):
        order = "<"
    elif header[3:4] in (b"\x5c", b"\x1c"):
        order = ">"
    else:
        return
    if struct.unpack_from(order + "i", header)[0] == 348:
        dims, bits, start = (struct.unpack_from(order + f, header, at) for f, at in (("8h", 40), ("h", 72), ("f", 108)))
    else:
        dims, bits, start = (struct.unpack_from(order + f, header, at) for f, at in (("8q", 16), ("h", 14), ("q", 168)))
    if length < start[0] + math.prod(dims[1 : 1 + dims[0]]) * bits[0] // 8:
        raise EOFError(f"{length} bytes")


def _check_header(reader, path: Path, max_voxels: int, layers: bool) -> None:
    sitk = _sitk()
    size = reader.GetSize()
    voxels = math.prod(size)
    shown = "x".join(str(n) for n in size)
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise ImageError(f"{path} has complex voxels; save its magnitude and use that.")
    components = reader.GetNumberOfComponents()
    if components > 1 and not (layers and path.name.lower().endswith(".nrrd")):
        raise ImageError(
            f"{path} has {components} values a voxel (vectors or colours); save one of them as a scalar image."
        )
    if len(size) > 3 and math.prod(size[3:]) > 1:
        raise ImageError(f"{path} is a {len(size)}-D series ({shown}); save the one 3-D volume to use.")
    if voxels == 1 and layers:
        raise ImageError(
            f"{path} is a segmentation without any voxel, as Slicer saves an empty one; draw the segments."
        )
    if len(size) < 3 or min(size[:3]) < 2:
        raise ImageError(f"{path} is a 2-D image ({shown}); a 3-D volume of at least two slices each way is needed.")
    if voxels * components > max_voxels:
        raise ImageError(
            f"{path} has {voxels * components / 1e6:.0f} million voxels ({shown}), more than the limit of "
            f"{max_voxels / 1e6:.0f} million; crop it or resample it to larger voxels."
        )


def dicom_series(folder: Path) -> dict[str, tuple[str, ...]]:
    """The files of each DICOM series in a folder, in their order along it, by the UID of the series."""
    sitk = _sitk()
    _check_name(folder)
    warnings = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warnings)
    return {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}


def _read_series(folder: Path, max_voxels: int):
    sitk = _sitk()
    series = dicom_series(folder)
    if not series:
        raise ImageError(
            f"{folder} holds no DICOM series{odd_letters(folder)}; give an image file or a folder with one series."
        )
    if len(series) > 1:
        listed = ", ".join(f"{uid} ({len(names)} files)" for uid, names in series.items())
        raise ImageError(
            f"{folder} holds {len(series)} DICOM series: {listed}; put the one to use into a folder of its own."
        )
    (names,) = series.values()
    if len(names) == 1:
        return _read_file(Path(names[0]), max_voxels)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    try:
        _check_slices(names, folder, max_voxels)
        return reader.Execute()
    except RuntimeError as error:
        raise ImageError(
            f"{folder} cannot be read as one DICOM volume (its files differ or are damaged); export it again."
        ) from error


def _check_slices(names, folder: Path, max_voxels: int) -> None:
    """Refuse a series whose slices do not lie one equal step after the other."""
    sitk = _sitk()
    reader = sitk.ImageFileReader()
    origins = []
    for name in names:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin()[:3])
        if reader.GetNumberOfComponents() > 1:
            raise ImageError(f"{folder} has several values a voxel (colours); export a series of scalar images.")
    columns, rows = reader.GetSize()[:2]
    if columns * rows * len(names) > max_voxels:
        raise ImageError(
            f"{folder} has {columns * rows * len(names) / 1e6:.0f} million voxels, more than the limit of "
            f"{max_voxels / 1e6:.0f} million; crop it or resample it to larger voxels."
        )
    steps = np.diff(np.array(origins), axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    if np.abs(steps - steps.mean(axis=0)).max() > 0.1 * np.median(lengths) or lengths.min() == 0:
        raise ImageError(
            f"{folder} has slices at unequal steps ({lengths.min():.2f} to {lengths.max():.2f} mm): "
            "slices are missing or several volumes are mixed; export one complete volume."
        )
    normal = np.reshape(reader.GetDirection(), (3, 3))[:, 2]
    if abs(steps.mean(axis=0) @ normal) < (1 - _SHEAR_TOLERANCE) * np.median(lengths):
        raise ImageError(
            f"{folder} has slices that are not stacked at right angles (a tilted gantry); resample it onto a "
            "straight grid."
        )


def _to_volume(image, path: Path) -> Volume:
    sitk = _sitk()
    return Volume(sitk.GetArrayFromImage(image), _geometry_of(image, path), image_name(path))


def _geometry_of(image, path: Path) -> Geometry:
    direction = image.GetDirection()
    numbers = (*image.GetSpacing(), *image.GetOrigin(), *direction)
    if not np.isfinite(numbers).all() or min(image.GetSpacing()) <= 0:
        raise ImageError(f"{path} has a header whose spacing, origin or directions are no usable numbers; correct it.")
    matrix = np.reshape(direction, (3, 3))
    if np.abs(matrix.T @ matrix - np.eye(3)).max() > _SHEAR_TOLERANCE:
        raise ImageError(
            f"{path} has axes that are not at right angles (a sheared grid); resample it onto a straight grid."
        )
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), direction)


def _flatten_layers(image, path: Path) -> np.ndarray:
    sitk = _sitk()
    layers = sitk.GetArrayViewFromImage(image)
    segments = []
    for n in itertools.count():
        if not image.HasMetaDataKey(f"Segment{n}_LabelValue"):
            break
        keys = (f"Segment{n}_Layer", f"Segment{n}_LabelValue")
        segments.append(tuple(int(image.GetMetaData(key)) if image.HasMetaDataKey(key) else 0 for key in keys))
    if not segments:
        raise ImageError(f"{path} has several values a voxel but names no segments; give a label map or a .seg.nrrd.")
    values = [value for _, value in segments]
    if len(set(values)) < len(values):
        values = range(1, len(values) + 1)
    labels = np.zeros(layers.shape[:3], np.int16 if max(values) < 2**15 else np.int32)
    for (layer, stored), value in zip(segments, values, strict=True):
        if layer >= layers.shape[3]:
            raise ImageError(
                f"{path} names a segment in layer {layer} but has {layers.shape[3]} layers; save it again."
            )
        labels[layers[..., layer] == stored] = value
    return labels


def resample_labels(labels: Volume, geometry: Geometry) -> np.ndarray:
    """Bring labels onto another grid: (K, J, I) in their own type, 0 where they have nothing to say.

    Each value is interpolated linearly on its own and the largest share wins; nearest neighbour would leave steps.
    """
    sitk = _sitk()
    grid = _placed(sitk.Image(*geometry.size, sitk.sitkUInt8), geometry)
    result = np.zeros(geometry.shape, labels.array.dtype)
    best = np.zeros(geometry.shape, np.float32)
    for value in sorted(set(np.unique(labels.array).tolist()) | {0}, key=abs):
        share = _to_image((labels.array == value).astype(np.float32), labels.geometry)
        outside = float(value == 0)
        share = sitk.GetArrayFromImage(sitk.Resample(share, grid, sitk.Transform(), sitk.sitkLinear, outside))
        wins = share > best
        best[wins] = share[wins]
        result[wins] = value
    return result


# --- writing


def write_volume(path: str | os.PathLike, array: np.ndarray, geometry: Geometry) -> None:
    """Write an array (K, J, I) compressed and atomically, in its own scalar type; the suffix says the format."""
    _write(path, _to_image(array, geometry))


def write_segmentation(path: str | os.PathLike, labels: np.ndarray, geometry: Geometry, segments: list[dict]) -> None:
    """Write labels (K, J, I) as a .seg.nrrd that Slicer opens with names, colours and terminology.

    `segments`: {"value", "name", "color": [r, g, b] in 0..1, "terminology": dict as in a model card, or None}.
    Keys as in Slicer's vtkMRMLSegmentationStorageNode. Raises ImageError.
    """
    if not str(path).lower().endswith(".seg.nrrd"):
        raise ImageError(f"{path} does not end in .seg.nrrd; a segmentation for Slicer needs that ending.")
    image = _to_image(labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int16, copy=False), geometry)
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    # Slicer up to 5.2 looks for the first of these two names, later ones for the second
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_SourceRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    for n, segment in enumerate(segments):
        values = {
            "ID": f"Segment_{segment['value']}",
            "Name": segment["name"],
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{c:.6g}" for c in segment["color"]),
            "ColorAutoGenerated": "0",
            "LabelValue": str(segment["value"]),
            "Layer": "0",
            "Extent": " ".join(str(n) for n in _extent(labels == segment["value"])),
            "Tags": _tags(segment.get("terminology")),
        }
        for key, value in values.items():
            image.SetMetaData(f"Segment{n}_{key}", value)
    _write(path, image)


def _to_image(array: np.ndarray, geometry: Geometry):
    sitk = _sitk()
    if array.shape != geometry.shape:
        raise ValueError(f"array of shape {array.shape} for an image of shape {geometry.shape}")
    return _placed(sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array), geometry)


def _placed(image, geometry: Geometry):
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _write(path: str | os.PathLike, image) -> None:
    sitk = _sitk()
    _check_name(Path(path))
    if not str(path).lower().endswith(WRITABLE):
        raise ImageError(f"{path} does not end in {', '.join(WRITABLE)}; choose one of these formats.")
    try:
        with atomic_path(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            if not temporary.stat().st_size:  # ITK wrote to another name: see _open_any_name
                raise ImageError(f"{path} cannot be written{odd_letters(path)}; choose another place.")
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or "the disk is full or the format cannot hold these voxels"
        raise ImageError(f"{path} cannot be written ({reason}); choose another place or make room.") from error


def _extent(mask: np.ndarray) -> list[int]:
    """First and last index of the mask along i, j and k; 0 -1 when empty, as in VTK."""
    extent = []
    for axis in (2, 1, 0):
        hits = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        extent += [int(hits[0]), int(hits[-1])] if hits.size else [0, -1]
    return extent


def _tags(terminology: dict | None) -> str:
    """Slicer's serialised terminology entry: context, category, type, modifier, anatomic context, region, modifier."""
    terminology = terminology or {}
    category, kind, modifier, region = (
        "^".join(terminology.get(key) or ("", "", "")) for key in ("category", "type", "modifier", "region")
    )
    if not terminology:
        return ""
    context = "Segmentation category and type - 3D Slicer General Anatomy list"
    return f"TerminologyEntry:{context}~{category}~{kind}~{modifier}~Anatomic codes - DICOM master list~{region}~^^|"
