"""The command ``transferseg``: one file a verb."""
