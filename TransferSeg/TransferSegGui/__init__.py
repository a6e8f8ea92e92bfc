"""What the TransferSeg module's panel is made of; names follow Slicer and Qt (camelCase), not the library's style."""
