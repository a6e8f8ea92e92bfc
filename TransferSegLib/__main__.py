"""``python -m TransferSegLib`` is the command ``transferseg``."""

from TransferSegLib.cli.main import run

run()
