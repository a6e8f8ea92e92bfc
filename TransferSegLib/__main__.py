"""``python -m TransferSegLib`` is the command ``transferseg``."""

import sys

from TransferSegLib.cli.main import main

sys.exit(main())
