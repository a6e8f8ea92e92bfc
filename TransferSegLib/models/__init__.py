"""Models on disk: what they say of themselves, reading and writing them, and where they lie."""
