"""simcvd models: what models there are, and how they come and go."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import models
from .console import Console

DESCRIPTION = """Models that came with SimCVD and your own. A model is a folder with card.json (what it segments, how it
was trained and how good it is) and weights.npz, which can't run code; between computers it travels as a zip file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    parsers = {
        name: actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        for name, text in {
            "list": "list all models",
            "show": "show a model's card",
            "import": "add a model from a zip file",
            "export": "pack a model into a zip file",
            "delete": "delete one of your own models",
        }.items()
    }
    for name in ("show", "export"):
        parsers[name].add_argument("name", help="name of a model or its folder, such as run/model")
    parsers["delete"].add_argument("name", help="name of the model")
    for name in ("import", "export"):
        parsers[name].add_argument("zip", type=Path, help="the zip file")
    parsers["import"].add_argument("--overwrite", action="store_true", help="replace your model of the same name")
    parsers["import"].add_argument("--name", help="what to call it here (default: as its card says)")
    for each in parsers.values():
        each.add_argument("--json", action="store_true", help="print one JSON value and nothing else")


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    return _ACTIONS[args.action](args, Console(args.json))


def _list(_args: argparse.Namespace, console: Console) -> int:
    found = models.list_models()
    console.result(
        [{"name": name, "folder": str(f), "card": card, "problem": problem} for name, f, card, problem in found]
    )
    if not found:
        console.say("No model is installed yet; train one (simcvd train) or import one (simcvd models import).")
    width = max((len(name) for name, *_ in found), default=0)
    for name, folder, card, problem in found:
        console.say(f"{name:{width}}  {_in_short(card) if card else f'unusable: {problem}'}  [{folder}]")
    return 0


def _show(args: argparse.Namespace, console: Console) -> int:
    folder = models.find_model(args.name)
    card = models.load_card(folder)
    console.result({"folder": str(folder), "card": card})
    console.say(f"{card['title'] or card['name']}, version {card['version']}  [{folder}]")
    for heading in ("description", "modality", "data", "licence"):
        if card[heading]:
            console.say(f"{heading.capitalize()}: {card[heading]}")
    segments = [f"{s['value']} {s['name']}" for s in card["segments"]]
    console.say(f"Segments: {', '.join(segments)}")
    console.say(f"Grid: {_spacing(card)}")
    for heading in ("training", "quality"):
        rows = card[heading].items() if heading == "training" else enumerate(card[heading], 1)
        if card[heading]:
            console.say(f"{heading.capitalize()}:")
        for key, value in rows:
            console.say(f"  {key}: {_plain(value)}")
    return 0


def _import(args: argparse.Namespace, console: Console) -> int:
    folder = models.import_model(args.zip, args.overwrite, args.name)
    console.result({"name": folder.name, "folder": str(folder)})
    console.say(f"Imported {folder.name}; use it with: simcvd segment SCAN --model {folder.name} --output out")
    return 0


def _export(args: argparse.Namespace, console: Console) -> int:
    models.export_model(args.name, args.zip)
    console.result({"zip": str(args.zip)})
    console.say(f"Exported to {args.zip}; on another computer: simcvd models import {args.zip.name}")
    return 0


def _delete(args: argparse.Namespace, console: Console) -> int:
    models.delete_model(args.name)
    console.result({"deleted": args.name})
    console.say(f"Deleted {args.name}.")
    return 0


_ACTIONS = {"list": _list, "show": _show, "import": _import, "export": _export, "delete": _delete}


def _in_short(card: dict) -> str:
    names = ", ".join(s["name"] for s in card["segments"])
    return f"{card['title'] or names}, {_spacing(card)}"


def _spacing(card: dict) -> str:
    return " x ".join(f"{s:g}" for s in card["grid"]["spacing"]) + " mm"


def _plain(value) -> str:
    """A value of a card for reading."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value)
    return str(value)
