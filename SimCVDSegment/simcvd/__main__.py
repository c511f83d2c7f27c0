"""`python -m simcvd` is the `simcvd` command."""

import sys

from .cli import main

sys.exit(main())
