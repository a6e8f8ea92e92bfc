"""A host in which Slicer modules run without 3D Slicer: real MRML, PySide6 like PythonQt. See README.md."""
