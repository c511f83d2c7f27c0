"""simcvd segment: scans in, segmentations and distance maps out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import SimCVDError
from ..files import patiently, remove_if_possible
from ..images import read_volume, write_segmentation, write_volume
from ..models import find_model, load_card
from ..pytorch import check_torch
from ..scans import find_scans
from .arguments import results_folder
from .console import Console, Interrupted, check_alone, pasted, stopping_at_sigterm

DEVICES = ("auto", "cpu", "cuda", "mps")

DESCRIPTION = """Segments scans. For each one it writes, on exactly the scan's own grid:
  <name>.seg.nrrd          the segmentation, which 3D Slicer opens with name, colour and terminology
  <name>.sdm.nrrd          signed distance to the boundary in mm (float32, negative inside)
  <name>.probability.nrrd  with --probability
  <name>.uncertainty.nrrd  with --uncertainty (0 to 1)
  <name>.model-sdm.nrrd    with --model-sdm: the distance that the model itself predicts, scaled to -1 to 1
A model with several segments writes one map of each kind per segment, as <name>.<segment>.sdm.nrrd; uncertainty is one.
A scan called image.* takes the name of its folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "input",
        nargs="+",
        type=Path,
        help="image files (NRRD, NIfTI, MHA), folders of them, DICOM folders, or folders laid out as <case>/image.*",
    )
    parser.add_argument("--model", required=True, help="name of a model (see simcvd models list) or its folder")
    parser.add_argument("--output", required=True, type=results_folder, metavar="FOLDER", help="where the results go")
    parser.add_argument("--probability", action="store_true", help="write the probability of each segment too")
    parser.add_argument(
        "--uncertainty", action="store_true", help="write the uncertainty too (takes about twice as long)"
    )
    parser.add_argument(
        "--model-sdm", action="store_true", help="write the distance map that the model itself predicts too"
    )
    parser.add_argument("--offset", type=float, default=0.0, metavar="MM", help="move the boundary out (negative: in)")
    parser.add_argument(
        "--largest",
        action=argparse.BooleanOptionalAction,
        help="keep only the largest connected part of each segment (default: as the model's card says)",
    )
    parser.add_argument(
        "--roi",
        type=float,
        nargs=6,
        metavar=("X0", "X1", "Y0", "Y1", "Z0", "Z1"),
        help="segment within this box only: bounds in mm in LPS (x to the left, y to the back, z up), "
        "as image files have them; Slicer shows R and A, which are -x and -y",
    )
    parser.add_argument(
        "--axes",
        metavar="LETTERS",
        help="where the image's i, j and k lead to in the patient, LPS for example, when its header is wrong; "
        "the results lie where the header says",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
    parser.add_argument(
        "--windows", action="store_true", help="windows of the model's crop, as in training, in place of one pass"
    )
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--overwrite", action="store_true", help="replace results that are there")
    there.add_argument(
        "--skip-existing", action="store_true", help="leave out scans whose results are there, as after an interruption"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    """Segment everything; 1 when some of the scans failed."""
    check_torch()
    check_alone("segment")
    console = Console(args.json)
    scans = find_scans(args.input)
    model = find_model(args.model)
    card = load_card(model)
    outputs = {name: _outputs(args.output, name, card, args) for name, _ in scans}
    if args.skip_existing:
        left = [(name, path) for name, path in scans if not all(file.exists() for file in outputs[name].values())]
        console.say(f"{len(scans) - len(left)} of {len(scans)} scans have their results already.")
        scans, outputs = left, {name: outputs[name] for name, _ in left}
    if not args.overwrite:
        refuse_existing(file for files in outputs.values() for file in files.values())

    from ..segmentation import Segmenter, Settings, check

    segmenter = Segmenter(model, args.device)
    roi = tuple(args.roi) if args.roi else None
    settings = Settings(
        windows=args.windows,
        uncertainty=args.uncertainty,
        model_sdm=args.model_sdm,
        offset=args.offset,
        largest=args.largest,
        roi=roi,
        axes=args.axes,
    )
    check(settings)
    args.output.mkdir(parents=True, exist_ok=True)
    replaced = {name: _old_maps(args.output, name, card, outputs[name]) for name, _ in scans}
    with stopping_at_sigterm():
        done, failed = segment_scans(segmenter, scans, outputs, settings, console, replaced if args.overwrite else None)
    console.result({"model": card["name"], "scans": done, "failed": failed})
    where = f"; the results are in {args.output}" if done else ""
    console.say(f"{len(done)} of {len(scans)} scans segmented{where}.")
    _tell_failed(failed, console)
    return 1 if failed else 0


def _old_maps(folder: Path, name: str, card: dict, files: dict[str, Path]) -> list[Path]:
    """Where maps of an earlier result may lie that are not asked for now: they belong to what is replaced."""
    return [file for file in outputs_for(folder, name, card, True, True, True).values() if file not in files.values()]


def _remove_old(file: Path, console: Console) -> None:
    try:
        patiently(lambda: file.unlink(missing_ok=True))
    except OSError as error:
        reason = error.strerror or error
        console.warn(f"{file} is of the earlier result and can't be removed ({reason}); remove it by hand.")


def _tell_failed(failed: Sequence[dict], console: Console) -> None:
    for failure in failed:
        console.warn(f"{failure['name']} failed: {failure['reason']}")


def segment_scans(
    segmenter,
    scans: Sequence[tuple[str, Path]],
    outputs: dict[str, dict[str, Path]],
    settings,
    console: Console,
    replaced: dict[str, list[Path]] | None = None,
) -> tuple[list[dict], list[dict]]:
    """Segment scans (name, path) into their output files; what was done, and what failed with the reason.

    Where earlier results are replaced, `replaced` names the files of each scan that go with them. Raises Interrupted at
    Ctrl+C, which says how to go on.
    """
    done, failed = [], []
    for i, (name, path) in enumerate(scans):

        def tell(fraction: float, i=i, name=name) -> None:
            console.progress((i + fraction) / len(scans), name)

        try:
            volume = read_volume(path)
            result = segmenter.segment(volume, settings, tell)
            write_result(result, outputs[name], segmenter.card)
        except (SimCVDError, OSError, MemoryError) as error:
            failed.append({"name": name, "input": str(path), "reason": str(error) or type(error).__name__})
            continue
        except KeyboardInterrupt:
            console.finish()
            _tell_failed(failed, console)
            left = "the same command with --skip-existing goes on"
            if replaced is not None:
                left = f"segment the others to go on: {pasted(str(p) for _, p in scans[i:])}"
            raise Interrupted(f"{len(done)} of {len(scans)} scans are done; {left}") from None
        for file in (replaced or {}).get(name, ()):
            _remove_old(file, console)
        report = _report(name, path, result, outputs[name], segmenter.card)
        done.append(report)
        console.say(_line(report))
    console.finish()
    return done, failed


def outputs_for(
    folder: Path, name: str, card: dict, probability: bool = False, uncertainty: bool = False, model_sdm: bool = False
) -> dict[str, Path]:
    """The files of one scan by kind; maps of several segments are called after them."""
    segments = card["segments"]
    slugs = [re.sub(r"[^\w]+", "-", s["name"]).strip("-").lower() or str(s["value"]) for s in segments]
    slugs = [
        s if slugs.count(s) == 1 else f"{s}-{segment['value']}" for s, segment in zip(slugs, segments, strict=True)
    ]
    parts = [""] if len(segments) == 1 else [f".{s}" for s in slugs]
    files = {"segmentation": folder / f"{name}.seg.nrrd"}
    for kind in ["sdm"] + ["probability"] * probability + ["model-sdm"] * model_sdm:
        files |= {f"{kind}{part}": folder / f"{name}{part}.{kind}.nrrd" for part in parts}
    if uncertainty:
        files["uncertainty"] = folder / f"{name}.uncertainty.nrrd"
    return files


def write_result(result, files: dict[str, Path], card: dict) -> None:
    """Write what `files` (see outputs_for) asks for; when one of them fails, none that is new is left."""
    classes = len(card["segments"])
    maps = {
        "sdm": iter(result.sdm.reshape(classes, *result.labels.shape)),
        "probability": iter(result.probability),
        "model-sdm": iter(() if result.model_sdm is None else result.model_sdm),
    }
    new = []
    try:
        for kind, path in files.items():
            if not path.exists():
                new.append(path)
            if kind == "segmentation":
                write_segmentation(path, result.labels, result.geometry, card["segments"])
            elif kind == "uncertainty":
                write_volume(path, result.uncertainty, result.geometry)
            else:
                write_volume(path, next(maps[kind.partition(".")[0]]), result.geometry)
    except BaseException:  # Ctrl+C too: half a result would stand in the way of the next attempt
        remove_if_possible(*new)
        raise


def refuse_existing(files) -> None:
    """Raise SimCVDError when one of the files is there already."""
    there = [file for file in files if file.exists()]
    if there:
        others = f" and {len(there) - 1} more results" if len(there) > 1 else ""
        raise SimCVDError(f"{there[0]}{others} would be replaced; choose another --output or add --overwrite.")


def _outputs(folder: Path, name: str, card: dict, args: argparse.Namespace) -> dict[str, Path]:
    return outputs_for(folder, name, card, args.probability, args.uncertainty, args.model_sdm)


def _report(name: str, path: Path, result, files: dict[str, Path], card: dict) -> dict:
    ml = result.geometry.voxel_volume / 1000
    return {
        "name": name,
        "input": str(path),
        "files": {kind: str(file) for kind, file in files.items()},
        "volume_ml": {s["name"]: round(float((result.labels == s["value"]).sum() * ml), 3) for s in card["segments"]},
        "seconds": {part: round(seconds, 3) for part, seconds in result.seconds.items()},
        "notes": result.notes,
    }


def _line(report: dict) -> str:
    volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in report["volume_ml"].items())
    return " ".join([f"{report['name']}: {volumes} in {report['seconds']['total']:.1f} s.", *report["notes"]])
