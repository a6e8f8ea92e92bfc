"""The panel of the TransferSeg module: one file for each section and each thing that is shown or started.

Names follow Slicer and Qt (camelCase), not the style of the library.

The panel's state is the parameter node's texts and references, read and written by name. Slicer's
``parameterNodeWrapper`` was considered (sources of 5.10, 5.12 and main) and is not used: it writes booleans and lists
in another form than the scenes saved so far, raises for damaged values instead of using the default, and is not part of
the package ``slicer-core``, so that the tests could not run it.
"""
