"""Models as folders: a card that says what a model is, and weights that can't run code."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simcvd.errors import SimCVDError
from simcvd.files import DEVICE_NAME, atomic_path, name_beside, patiently, read_json, sha256, write_json

FORMAT = 1
CARD = "card.json"
WEIGHTS = "weights.npz"
MAX_BYTES = 512 * 1024**2  # unpacked size of a model: more than twenty times the published network's
STRIDE = 16  # of the V-Net; here too, because reading a card must not load torch
NETWORK = ("n_classes", "in_channels", "n_filters", "dropout")  # what a V-Net is built from; dropout may be left out

_NAME = re.compile(rf"(?!{DEVICE_NAME})[A-Za-z0-9]([A-Za-z0-9._-]{{0,62}}[A-Za-z0-9_-])?")
_NAME_RULE = "letters, digits, dots, dashes and underscores, starting with a letter or digit, and no device such as con"
_DESCRIPTION = {
    "title": "",
    "description": "",
    "modality": "",
    "training": {},
    "quality": [],
    "licence": "",
    "data": "",
    "largest": False,  # whether each structure is in one piece, so that only its largest part is kept
    "scan_ml": None,  # the least and the greatest volume (ml) of the scans that the model learned from
}


class ModelError(SimCVDError):
    """A model that is missing, damaged, not allowed or doesn't fit."""

    kind = "model"


# --- the folder -----------------------------------------------------------------------------------------------------


def save_model(folder: str | os.PathLike, card: dict, state: dict[str, np.ndarray], overwrite: bool = False) -> None:
    """Write a model folder, which appears whole or not at all.

    Floating arrays of `state` are stored in half precision under their names, integer ones (counters of
    batch normalisation) are dropped. `format` and `sha256` of the card are filled in here.
    Raises ModelError, also where the folder is there already (unless it holds a model and `overwrite` is set).
    """
    folder = Path(folder)
    card = new_card(card, f"The card of the model for {folder}")
    with _new_folder(folder, overwrite) as temporary:
        np.savez(temporary / WEIGHTS, **_halved(state))
        write_json(temporary / CARD, {**card, "sha256": sha256(temporary / WEIGHTS)})


def is_name(text: str) -> bool:
    """Whether a model can be called so."""
    return bool(_NAME.fullmatch(text))


def new_card(card: dict, where: str) -> dict:
    """A card for weights yet to be written: what is missing of the description is empty, the format is set, segments
    stand in the order of their values.

    Raises ModelError, beginning with `where`, for a field that can't be.
    """
    card = {**_DESCRIPTION, **card, "format": FORMAT, "sha256": "0" * 64}
    _check_card(card, where)
    return _in_order(card)


def load_card(folder: str | os.PathLike) -> dict:
    """Read and check the card of a model folder; what only describes the model may be missing and is then empty.

    Its segments come in the order of their values, as maps of all classes do.
    """
    path = Path(folder) / CARD
    if not _has(Path(folder), CARD):
        raise ModelError(f"{folder} is no model folder: it has no {CARD}.")
    return _read_card(path, f"The model card {path}")


def _read_card(path: Path, where: str) -> dict:
    """The card in a file; errors begin with `where`, as users know that file."""
    try:
        card = read_json(path)
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{where} can't be read ({e}); get the model again.") from e
    if not isinstance(card, dict):
        raise ModelError(f"{where} is no JSON object; get the model again.")
    card = {**_DESCRIPTION, **card}
    _check_card(card, where)
    return _in_order(card)


def _in_order(card: dict) -> dict:
    return card | {"segments": sorted(card["segments"], key=lambda segment: segment["value"])}


def load_weights(folder: str | os.PathLike, card: dict) -> dict[str, np.ndarray]:
    """Read the weights as float32 after comparing their SHA-256 with the card's; nothing is unpickled."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ModelError(_without_weights(folder))
    return _read_weights(path, card, f"The weights {path}")


def _without_weights(folder: str | os.PathLike) -> str:
    return f"The model folder {folder} has no {WEIGHTS}; get the model again."


def _read_weights(path: Path, card: dict, where: str) -> dict[str, np.ndarray]:
    """The weights in a file; errors begin with `where`, as users know that file."""
    if sha256(path) != card["sha256"]:
        raise ModelError(f"{where} are damaged or not those of the card; get the model again.")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES >> 20} MB")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if any(a.dtype.kind != "f" for a in arrays.values()):
            raise ValueError("not all of it floating numbers")
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as e:
        raise ModelError(f"{where} can't be read ({e}); get the model again.") from e
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def network_settings(network: dict) -> dict:
    """What to build a V-Net with, of the network that a card or a run.json describes."""
    return {name: network[name] for name in NETWORK if network.get(name) is not None}


def build_network(folder: str | os.PathLike, device="cpu"):
    """Build the network of a model folder, float32 in evaluation mode on `device`; returns (VNet, card)."""
    import torch

    from simcvd.network import VNet
    from simcvd.tensors import tensor_of

    card = load_card(folder)
    weights = load_weights(folder, card)
    with torch.device("meta"):  # shapes only: nothing is allocated or initialised in vain
        network = VNet(**network_settings(card["network"]))
    expected = network.state_dict()
    shapes = {name: tuple(t.shape) for name, t in expected.items() if t.is_floating_point()}
    _check_fit(shapes, {name: array.shape for name, array in weights.items()}, folder)
    state = {
        name: tensor_of(weights[name]) if name in weights else torch.zeros(t.shape, dtype=t.dtype)
        for name, t in expected.items()
    }
    network.load_state_dict(state, assign=True)
    return network.to(device).eval(), card


# --- the places -----------------------------------------------------------------------------------------------------


def model_folders() -> list[Path]:
    """Where models are looked for: the user's folder ($SIMCVD_MODELS or the platform's place), then the shipped one."""
    return [_user_folder(), _shipped_folder()]


def list_models() -> list[tuple[str, Path, dict | None, str | None]]:
    """All models by name: (name, folder, card or None, problem or None); the user's hide shipped ones of that name."""
    found = {}
    for place in model_folders():
        for folder in sorted(place.iterdir()) if place.is_dir() else []:
            if folder.name in found or folder.name.startswith("."):
                continue
            try:
                if not _is_model(folder):
                    continue
                card = load_card(folder)
                if not (folder / WEIGHTS).is_file():
                    raise ModelError(_without_weights(folder))
                found[folder.name] = (folder.name, folder, card, None)
            except ModelError as e:
                found[folder.name] = (folder.name, folder, None, str(e))
    return [found[name] for name in sorted(found)]


def find_model(name_or_path: str | os.PathLike) -> Path:
    """Folder of the model with this name, or at this path; raises ModelError, which lists the names there are."""
    name = str(name_or_path)
    if _NAME.fullmatch(name):
        for place in model_folders():
            if _is_model_named(place, name):
                return place / name
    if name and _is_model(Path(name)):
        return Path(name)
    if name and (Path(name) / "run.json").is_file():
        model = Path(name) / "model"
        hint = f"its model is {model}" if _is_model(model) else "it has no model before it ends"
        raise ModelError(f"{name} is a run, not a model; {hint}.")
    raise ModelError(f"There is no model {name!r}; {_names_there_are()}.")


def delete_model(name: str) -> None:
    """Delete a model of the user's; shipped ones stay. Raises ModelError."""
    user, shipped = model_folders()
    folder = user / str(name)
    if not _NAME.fullmatch(str(name)) or not _is_model_named(user, name):
        if _NAME.fullmatch(str(name)) and _is_model_named(shipped, name):
            raise ModelError(f"The model {name} came with SimCVD and can't be deleted; only your own models can.")
        raise ModelError(f"You have no model {str(name)!r} to delete; {_names_there_are()}.")
    try:
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except OSError as e:
        raise ModelError(f"The model folder {folder} can't be deleted ({e.strerror or e}); delete it by hand.") from e


def _user_folder() -> Path:
    if chosen := os.environ.get("SIMCVD_MODELS"):
        return Path(chosen).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = home / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return data / "simcvd" / "models"


def _shipped_folder() -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "Models"
    return installed if installed.is_dir() else package.parents[1] / "Resources" / "Models"


def _is_model(folder: Path) -> bool:
    """Raises ModelError where that can't be seen."""
    return _has(folder, CARD) or _has(folder, WEIGHTS)


def _has(folder: Path, file: str) -> bool:
    try:
        return (folder / file).is_file()
    except PermissionError as e:
        reason = e.strerror or e
        raise ModelError(f"{folder} can't be read ({reason}); ask whoever made it for access.") from e


def _is_model_named(place: Path, name: str) -> bool:
    # some disks take left-atrium for Left-Atrium, whose owner would wonder
    return _is_model(place / name) and name in os.listdir(place)


def _names_there_are() -> str:
    names = [name for name, _, card, _ in list_models() if card]
    return f"there are {', '.join(names)}" if names else "no model is installed yet"


# --- zip files ------------------------------------------------------------------------------------------------------


def export_model(name_or_path: str | os.PathLike, zip_path: str | os.PathLike, overwrite: bool = False) -> None:
    """Pack a model that was checked first into one zip file.

    Raises ModelError, also where the file exists (unless `overwrite` is set).
    """
    folder, zip_path = find_model(name_or_path), Path(zip_path)
    card = load_card(folder)
    load_weights(folder, card)
    if zip_path.exists() and not overwrite:
        raise ModelError(f"{zip_path} exists already; choose another name or remove it first.")
    try:
        with atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for file in (CARD, WEIGHTS):
                archive.write(folder / file, f"{card['name']}/{file}")
    except OSError as e:
        raise ModelError(f"{zip_path} can't be written ({e.strerror or e}); choose another place.") from e


def import_model(zip_path: str | os.PathLike, overwrite: bool = False, name: str | None = None) -> Path:
    """Unpack a model from a zip file into the user's folder and return where it lies, named as its card or `name` says.

    Accepted are a card and weights, at the top or in one folder, of at most MAX_BYTES unpacked, and nothing else.
    Raises ModelError, and leaves nothing behind then.
    """
    if name is not None and not is_name(name):
        raise ModelError(f"A model can't be called {name!r}; take letters, digits, dots, dashes and underscores.")
    try:
        with zipfile.ZipFile(zip_path) as archive, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            members = _members(archive, Path(zip_path).name)
            _unpack(archive, {CARD: members[CARD]}, Path(scratch))
            card = _read_card(Path(scratch) / CARD, f"The model card in {zip_path}")
            folder = _user_folder() / (name or card["name"])
            if _is_model_named(model_folders()[1], folder.name) and not overwrite:
                raise ModelError(
                    f"A model {folder.name} came with SimCVD; this one would hide it: give it another name (--name)."
                )
            with _new_folder(folder, overwrite) as temporary:
                _unpack(archive, members, temporary)
                _read_weights(temporary / WEIGHTS, card, f"The weights in {zip_path}")
                if name:
                    write_json(temporary / CARD, {**read_json(temporary / CARD), "name": name})
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise ModelError(f"{zip_path} can't be read as a zip file ({e}); get it again.") from e
    return folder


def _members(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """The two entries of a model by file name, after refusing everything that is not exactly a model."""
    members, tops = {}, set()
    for entry in archive.infolist():
        if entry.filename.startswith("__MACOSX/") or entry.filename.rpartition("/")[2] == ".DS_Store":
            continue  # what a Mac adds; it is never unpacked
        top, slash, file = entry.filename.rpartition("/")
        link = stat.S_ISLNK(entry.external_attr >> 16)
        if link or (slash and not _NAME.fullmatch(top)) or (file not in (CARD, WEIGHTS) and not entry.is_dir()):
            raise ModelError(
                f"{name} holds {entry.filename!r}, which is no part of a model; import only exported models."
            )
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelError(f"{name} is encrypted or packed in a rare way; import only exported models.")
        tops.add(top)
        if file and members.setdefault(file, entry) is not entry:
            raise ModelError(f"{name} holds {file} twice; import only exported models.")
    if set(members) != {CARD, WEIGHTS} or len(tops) > 1:
        raise ModelError(f"{name} holds no model: {CARD} and {WEIGHTS} must lie in it, in one folder.")
    if sum(entry.file_size for entry in members.values()) > MAX_BYTES:
        raise ModelError(f"{name} would unpack to more than {MAX_BYTES >> 20} MB; that is no model for SimCVD.")
    return members


def _unpack(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path) -> None:
    for file, entry in members.items():
        # reading stops at the size that was checked, whatever the packed data would go on to give
        with archive.open(entry) as source, open(folder / file, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


# --- checks and helpers ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside `folder`, to be filled; it becomes `folder` on success and vanishes on failure."""
    if folder.exists() and not (overwrite and _is_model(folder)):
        allow = "allow overwriting (--overwrite) or " if _is_model(folder) else ""
        raise ModelError(f"{folder} exists already; {allow}choose another name (--name).")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = name_beside(folder)
        new, old = scratch / "new", scratch / "old"
        scratch.mkdir()
        try:
            new.mkdir()
            yield new
            try:
                if folder.exists():
                    patiently(lambda: os.rename(folder, old))
                patiently(lambda: os.rename(new, folder))
            except BaseException:  # Ctrl+C too
                if old.exists() and not folder.exists():
                    patiently(lambda: os.rename(old, folder))
                raise
        finally:
            if folder.exists() or not old.exists():  # else the old model is nowhere but there
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as e:
        raise ModelError(f"The model can't be written to {folder} ({e.strerror or e}); choose another place.") from e


def _halved(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(array) for name, array in state.items()}
    with np.errstate(over="ignore"):
        halves = {name: array.astype(np.float16) for name, array in arrays.items() if array.dtype.kind == "f"}
    for name, array in halves.items():
        if not np.isfinite(array).all():
            raise ModelError(f"The weights {name} are not finite in half precision; the training went astray.")
    return halves


def _check_fit(expected: dict[str, tuple], given: dict[str, tuple], folder) -> None:
    where = f"The weights of the model in {folder} don't fit the network of its card"
    for name in expected.keys() | given.keys():
        if name not in given:
            raise ModelError(f"{where}: {name} is missing; get the model again.")
        if name not in expected:
            raise ModelError(f"{where}: {name} is unknown; get the model again.")
        if given[name] != expected[name]:
            raise ModelError(
                f"{where}: {name} has the shape {given[name]} instead of {expected[name]}; get the model again."
            )


def _is_whole(value, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_row(value, length: int, fits) -> bool:
    return isinstance(value, list | tuple) and len(value) == length and all(fits(v) for v in value)


def _is_number(value, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_range(value) -> bool:
    return value is None or (_is_row(value, 2, lambda v: _is_number(v, 0, 1e6)) and value[0] <= value[1])


def _is_code(value) -> bool:
    return _is_row(value, 3, _is_text)


def _is_terminology(value) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(_is_code(value.get(key)) for key in ("category", "type"))
        and all(value.get(key) is None or _is_code(value[key]) for key in ("modifier", "region"))
    )


_FIELDS = {
    "format": (lambda v: v == FORMAT, f"{FORMAT}; a newer version of SimCVD may read it"),
    "name": (lambda v: _is_text(v) and bool(_NAME.fullmatch(v)), _NAME_RULE),
    "version": (lambda v: _is_text(v) and v != "", "a text"),
    **dict.fromkeys(("title", "description", "modality", "licence", "data"), (_is_text, "a text")),
    "training": (lambda v: isinstance(v, dict), "an object"),
    "quality": (lambda v: isinstance(v, list), "a list"),
    "largest": (lambda v: isinstance(v, bool), "true or false"),
    "scan_ml": (_is_range, "null or the least and the greatest volume (ml) of the scans that the model learned from"),
    "network.kind": (lambda v: v == "vnet", '"vnet"'),
    "network.n_classes": (lambda v: _is_whole(v, 2, 256), "a whole number from 2 to 256"),
    "network.in_channels": (lambda v: _is_whole(v, 1, 64), "a whole number from 1 to 64"),
    "network.n_filters": (lambda v: _is_whole(v, 1, 256), "a whole number from 1 to 256"),
    "network.dropout": (lambda v: v is None or (_is_number(v, 0, 1) and v < 1), "a rate from 0 to below 1, or missing"),
    "segments": (lambda v: isinstance(v, list) and all(isinstance(s, dict) for s in v), "a list of objects"),
    "grid.spacing": (lambda v: _is_row(v, 3, lambda s: _is_number(s, 1e-3, 1e3)), "three sizes (x, y, z) in mm"),
    "grid.axes": (lambda v: v == "LPS", '"LPS"'),
    "normalisation.kind": (_is_text, "a text"),
    "patch": (
        lambda v: _is_row(v, 3, lambda n: _is_whole(n, STRIDE, 4096) and n % STRIDE == 0),
        f"three multiples of {STRIDE} (K, J, I), at most 4096",
    ),
    "sha256": (lambda v: _is_text(v) and bool(re.fullmatch("[0-9a-f]{64}", v)), "64 hexadecimal digits"),
}

_SEGMENT_FIELDS = {
    "name": (lambda v: _is_text(v) and v != "", "a text"),
    "color": (lambda v: _is_row(v, 3, lambda c: _is_number(c, 0, 1)), "three numbers from 0 to 1"),
    "terminology": (_is_terminology, "null or an object with category and type, each [scheme, code, meaning]"),
    "volume_ml": (_is_range, "null or the least and the greatest volume (ml) that the model learned from"),
}


def _check_card(card: dict, where: str) -> None:
    """Raise ModelError, naming the first field that is missing or can't be."""
    for field, (fits, rule) in _FIELDS.items():
        value = card
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not fits(value):
            raise ModelError(f"{where} has no usable {field}: it must be {rule}.")
    for i, segment in enumerate(card["segments"], 1):
        for field, (fits, rule) in _SEGMENT_FIELDS.items():
            if not fits(segment.get(field)):
                raise ModelError(f"{where} has no usable {field} in segment {i}: it must be {rule}.")
    classes = card["network"]["n_classes"]
    values = [segment.get("value") for segment in card["segments"]]
    if not all(_is_whole(v, 1, 255) for v in values) or sorted(values) != list(range(1, classes)):
        raise ModelError(f"{where} has no usable segments: their values must be 1 to {classes - 1}, each once.")
