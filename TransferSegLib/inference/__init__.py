"""Plan tiles for a memory budget, run them, put the answer on the scan's own grid."""
