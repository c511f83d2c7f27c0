"""simcvd segment | train | evaluate | models | demo: the parser, and what an error looks like."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from . import __version__
from .commands.console import INTERRUPTED, Interrupted
from .errors import SimCVDError

COMMANDS = {
    "segment": "segment scans with a model",
    "train": "train a model, or go on with a run",
    "evaluate": "score segmentations against references",
    "models": "list, show, import, export and delete models",
    "demo": "the whole story on synthetic scans, in about two minutes",
    "worker": None,  # for programs, and so not in the help
}
DESCRIPTION = "Segments medical volumes, and learns to from few outlines and many scans (SimCVD). For research only."
FAILED, UNUSABLE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0: done; 1: some of the scans failed, or an unexpected error; 2: it can't be done, as one sentence on stderr
        says; 130: stopped by Ctrl+C or through the control file.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if hasattr(sys.stdout, "reconfigure"):
        # a name that a file or a Windows terminal has no letters for is no reason to lose the rest
        sys.stdout.reconfigure(errors="replace")
    try:
        args = _parser(argv).parse_args(argv)
        return args.run(args)
    except SystemExit as stop:  # argparse has spoken
        return stop.code if isinstance(stop.code, int) else UNUSABLE
    except SimCVDError as error:
        return _complain(str(error), UNUSABLE)
    except Interrupted as stop:
        return _complain(f"stopped; {stop}", INTERRUPTED)
    except KeyboardInterrupt:
        return _complain("stopped", INTERRUPTED)
    except BrokenPipeError:  # `simcvd models list | head`
        sys.stderr.close()
        return FAILED
    except OSError as error:
        place, reason = error.filename or "A file", error.strerror or error
        return _complain(f"{place} can't be written or read ({reason}); choose another place or make room.", UNUSABLE)
    except Exception:
        traceback.print_exc()
        return _complain("unexpected error, please report it with the lines above", FAILED)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the wanted command's options are declared, as some of them take seconds to import."""
    parser = argparse.ArgumentParser("simcvd", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"simcvd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        shown = {"help": summary} if summary else {}
        sub = commands.add_parser(
            name, **shown, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == wanted:
            command = importlib.import_module(f".commands.{name}", __package__)
            sub.description = command.DESCRIPTION
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return parser


def _complain(sentence: str, code: int) -> int:
    print(f"simcvd: {sentence}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
