"""From a case list and a few wishes to a run folder that fully describes a training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cases import Case, check_cases, count_classes, load_prepared, prepare_cases
from ..models import NETWORK, STRIDE, load_card, new_card
from .checks import check_values
from .methods import METHODS, make_method_settings
from .recipes import RECIPES, default_patch, recipe
from .run_folder import RunFolder, TrainingError

NORMALISATION = {"kind": "zscore"}
COLOURS = ([0.86, 0.37, 0.34], [0.35, 0.66, 0.40], [0.30, 0.51, 0.80], [0.93, 0.73, 0.29], [0.62, 0.44, 0.73])

# What a run takes besides the recipe's settings; None is filled in from the cases or the recipe.
COMMON = {
    "seed": 1337,
    "patch": None,
    "minutes": None,
    "planned": False,
    "device": "auto",
    "precision": "auto",
    "threads": None,
    "validate_percent": 10,
    "checkpoint_seconds": 60,
    "from_model": None,
    "from_model_name": None,
    "leave_one_out": False,
    "normalisation": None,
    "warnings": [],
}
FAR_LARGER, LARGE_PATCH = 3, 64  # times the largest case; voxels that any computer pads to
NOTED = {"planned", "from_model_name", "warnings"}  # what a training itself writes down, and nobody can wish for


def create_run(
    path: str | os.PathLike,
    cases: Sequence[Case],
    method: str,
    spacing: Sequence[float] | None = None,
    recipe_name: str | None = None,
    wishes: dict | None = None,
    cache: str | os.PathLike | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    processes: int = 1,
) -> tuple[RunFolder, list[str]]:
    """Check and prepare the cases, settle every setting and write run.json.

    Args:
        spacing: (x, y, z) mm of the model's grid; taken from `from_model` when there is one.
        recipe_name: "published" or "short"; by default short where minutes are given, else published.
        wishes: settings that stand above the recipe's, among them "settings" of the method, "optimiser",
            "network" (n_filters and dropout, for a model from scratch) and "model" (what its card says).
        cache: folder for prepared cases, so that runs share them; by default within the run folder.
        processes: in which the run is to be started, between which a batch is shared.

    Returns:
        The run folder and warnings about the cases.

    Raises:
        SimCVDError: an impossible case list or setting.
    """
    if (Path(path) / "run.json").exists():
        raise TrainingError(f"{path} holds a run already; go on with --resume or choose another folder.")
    warnings = check_cases(cases)
    n_classes = count_classes(cases)
    config = settle(method, spacing, recipe_name, wishes, n_classes)
    check_share(config, processes)
    if config["leave_one_out"]:
        _check_folds(cases)
    folder = Path(cache) if cache else Path(path) / "cases"
    prepared = prepare_cases(cases, tuple(config["spacing"]), n_classes, folder, config["normalisation"], progress)
    loaded = [load_prepared(p) for p in prepared]
    for case, content in zip(cases, loaded, strict=True):
        warnings += [f"{case.id}: {note}" for note in content["notes"]]
        if "label" in content and not content["label"].any():
            warnings.append(f"{case.id}: The label is empty.")
    if config["patch"] is None:
        config["patch"] = default_patch([content["image"].shape for content in loaded], config["spacing"])
    _check_patch(config["patch"], [content["image"].shape for content in loaded])
    has_unlabelled = any(case.role == "unlabelled" for case in cases)
    _check_batch(config, has_unlabelled)
    warnings += _notes_on_slabs(config) + _notes_on_idle(config, wishes or {}, has_unlabelled)
    config["cases"] = [
        {"id": c.id, "role": c.role, "prepared": _relative(p, Path(path))} for c, p in zip(cases, prepared, strict=True)
    ]
    config["warnings"] = warnings
    return RunFolder.create(path, config), warnings


def settle(
    method: str, spacing: Sequence[float] | None, recipe_name: str | None, wishes: dict | None, n_classes: int
) -> dict:
    """Every setting of a run but its cases and, where nothing names it, its patch; arguments as of `create_run`.

    A wrong setting is told here, before minutes go into preparation, and hours into training.
    """
    wishes = dict(wishes or {})
    config = {"format": 1, "method": method, **_settled(method, recipe_name, wishes)}
    config |= _grid(config, spacing, n_classes, wishes)
    config["settings"] = make_method_settings(method, config["settings"])
    check_values(config)
    new_card(card_of(config), "The description of the model")
    return config


def card_of(config: dict) -> dict:
    """What run.json says of the model that the training will give."""
    return config["model"] | {
        "grid": {"spacing": config["spacing"], "axes": "LPS"},
        "normalisation": config["normalisation"],
        "patch": config["patch"] or [STRIDE] * 3,
        "network": {k: v for k, v in config["network"].items() if k in ("kind", *NETWORK)},
    }


def _settled(method: str, recipe_name: str | None, wishes: dict) -> dict:
    """Common settings, recipe and wishes, the later ones above; raises TrainingError for what nobody knows."""
    if method not in METHODS:
        raise TrainingError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    named = wishes.pop("recipe", None)
    recipe_name = recipe_name or named or ("short" if wishes.get("minutes") else "published")
    if recipe_name not in RECIPES:
        raise TrainingError(f"There is no recipe {recipe_name!r}; choose one of {', '.join(RECIPES)}.")
    config = {**COMMON, **recipe(recipe_name, method)}
    known = set(config) - NOTED
    unknown = sorted(set(wishes) - known - {"model", "network"})
    if unknown:
        raise TrainingError(f"A training has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    if wishes.get("minutes") and wishes.get("iterations"):
        raise TrainingError("A training goes on for some minutes or for some iterations; leave one of the two out.")
    for key, value in wishes.items():
        if key in ("settings", "optimiser"):
            config[key] = {**config[key], **value}
        elif key not in ("model", "network"):
            config[key] = value
    return config


def _check_network(wishes: dict) -> None:
    fits = {
        "n_filters": lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 256,
        "dropout": lambda v: isinstance(v, int | float) and 0 <= v < 1,
    }
    for key, value in wishes.items():
        if key not in fits or not fits[key](value):
            raise TrainingError(
                f"The network takes n_filters from 1 to 256 and dropout from 0 to 1, not {key} {value!r}."
            )


def _grid(config: dict, spacing: Sequence[float] | None, n_classes: int, wishes: dict) -> dict:
    """Grid, normalisation, network and the card's description: from the model to start from, or fresh."""
    model, network = wishes.get("model", {}), wishes.get("network", {})
    _check_network(network)
    if config["from_model"]:
        card = load_card(config["from_model"])
        if card["network"]["n_classes"] != n_classes:
            raise TrainingError(
                f"The model {card['name']} has {card['network']['n_classes'] - 1} classes and the labels have "
                f"{n_classes - 1}; start from another model or from scratch."
            )
        if spacing and list(spacing) != card["grid"]["spacing"]:
            raise TrainingError(f"The model {card['name']} works at {card['grid']['spacing']} mm; leave out --spacing.")
        if network:
            raise TrainingError(f"The network is that of the model {card['name']}; leave its settings out.")
        kept = ("title", "description", "modality", "segments", "licence", "data", "largest", "scan_ml")
        return {
            "spacing": card["grid"]["spacing"],
            "normalisation": wishes.get("normalisation") or card["normalisation"],
            "network": card["network"],
            "from_model_name": card["name"],
            "model": {"name": "own-model", "version": "1", **{k: card[k] for k in kept}, **model},
        }
    segments = [
        {"value": v, "name": f"Class {v}", "color": COLOURS[(v - 1) % len(COLOURS)], "terminology": None}
        for v in range(1, n_classes)
    ]
    return {
        "spacing": [float(s) for s in spacing or (0.625, 0.625, 0.625)],
        "normalisation": config["normalisation"] or NORMALISATION,
        "network": {"kind": "vnet", "in_channels": 1, "n_filters": 16, **network, "n_classes": n_classes},
        "model": {"name": "own-model", "version": "1", "segments": segments, **model},
    }


def check_share(config: dict, processes: int) -> None:
    """Raise TrainingError for a batch that so many processes can't share evenly."""
    batch, halve = config["batch"], bool(config["settings"].get("halve"))
    shared = [*batch, *(max(1, n // 2) for n in batch if n)] if halve else batch
    if any(n % processes for n in shared):
        fits = ",".join(str(processes * (1 + halve)) if n else "0" for n in batch)
        half = ", of which half is taken later (halve)," if halve else ""
        raise TrainingError(
            f"{processes} processes can't share a batch of {batch[0]},{batch[1]}{half} evenly; give --batch {fits}."
        )


def _check_batch(config: dict, has_unlabelled: bool) -> None:
    """Raise TrainingError for a batch that the method or batch norm can't take."""
    labelled, unlabelled = config["batch"]
    settings, passes = config["settings"], [labelled]
    if has_unlabelled and unlabelled:
        if settings.get("pseudo") and settings.get("mix") and labelled != unlabelled:
            raise TrainingError(
                "Mixing pairs crops: give as many labelled as unlabelled ones with --batch, such as 2,2."
            )
        passes = METHODS[config["method"]].passes(settings, labelled, unlabelled)
    if min(passes) * math.prod(n // STRIDE for n in config["patch"]) < 2:
        raise TrainingError(
            "One crop of 16 voxels a side is too little for batch norm; take a larger --patch or --batch."
        )


def _check_patch(patch: Sequence[int], shapes: Sequence[Sequence[int]]) -> None:
    """Raise TrainingError for crops so much larger than every case that padding would only eat the memory."""
    for side, largest in zip(patch, map(max, zip(*shapes, strict=True)), strict=True):
        if side > max(FAR_LARGER * largest, LARGE_PATCH):
            raise TrainingError(
                f"A crop of {side} voxels is far larger than the largest case, {largest} along that side; take a "
                "smaller --patch."
            )


def _notes_on_slabs(config: dict) -> list[str]:
    """What to say of crops so flat that all their slabs lie in one part of the scan's height."""
    settings = config["settings"]
    if settings.get("strategy", "random") == "random" or config["patch"][0] > settings["slab"]:
        return []
    return [
        f"Crops of {config['patch'][0]} slices hold one slab, so stage global has nothing to tell apart; take a larger "
        "--patch, or --strategy random."
    ]


def _notes_on_idle(config: dict, wishes: dict, has_unlabelled: bool) -> list[str]:
    """What to say of wishes that change nothing, one sentence for each reason."""
    optimiser, method = config["optimiser"], config["method"]
    idle = METHODS[method].idle(wishes.get("settings", {}), config["settings"])
    reasons = [(names, f"while {needed} is off") for needed, names in idle.items()]
    given = wishes.get("optimiser", {})
    if optimiser["kind"] == "adamw":
        reasons.append(([key for key in ("momentum",) if key in given], "with the optimiser adamw"))
    if optimiser["schedule"] == "poly":
        reasons.append(([key for key in ("step_every", "step_factor") if key in given], "with the schedule poly"))
    notes = [
        f"Setting {names[0]} does nothing {why}." if len(names) == 1 else f"Settings {_listed(names)} do nothing {why}."
        for names, why in reasons
        if names
    ]
    if has_unlabelled and not config["batch"][1] and method != "supervised":
        notes.append(f"A step takes no unlabelled crop (--batch), so {method} trains as the supervised one does.")
    if has_unlabelled and config["batch"][1] == 1 and config["settings"].get("cut_mix"):
        notes.append("A step takes one unlabelled crop (--batch), so cut_mix has nothing to mix it with.")
    return notes


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def _check_folds(cases: Sequence[Case]) -> None:
    """Raise TrainingError where leaving out one labelled case after the other makes no sense."""
    if any(case.role == "validation" for case in cases):
        raise TrainingError("Leave-one-out is for runs without validation cases; leave one or the other out.")
    if sum(case.role == "labelled" for case in cases) < 2:
        raise TrainingError("Leave-one-out needs at least two labelled cases; label another one.")


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()  # as every computer reads it
    except ValueError:  # on another Windows drive
        return str(path.resolve())
