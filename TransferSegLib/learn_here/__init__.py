"""Learning from the corrected part of one scan, to redraw the rest of it."""
