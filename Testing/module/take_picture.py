"""Take the picture of the docs: the panel after segmenting the bundled sample with the bundled model.

QT_QPA_PLATFORM=offscreen VTK_DEFAULT_OPENGL_WINDOW=vtkEGLRenderWindow python Testing/module/take_picture.py FILE.png
"""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "Testing"))


def main(file: Path) -> None:
    """Load the sample, click Segment, wait, show the slices through what was found."""
    import slicer
    from slicerhost.window import Host

    host = Host()
    ui = host.loadModule(TOP / "TransferSeg" / "TransferSeg.py").ui
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.models.locate import bundled_sample

    sample = read_dataset(bundled_sample()).cases[0]
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(sample.image), "CT head and neck", 0)
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled, seconds=3600)
    print(ui.segmentStatusLabel.text)
    node = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
    segmentation = node.GetSegmentation()
    for view, structure in (("Red", "left parotid gland"), ("Yellow", "spinal cord"), ("Green", "left parotid gland")):
        center = node.GetSegmentCenterRAS(segmentation.GetSegmentIdBySegmentName(structure))
        host.slices[view].view.show(volume, center)
    host.screenshot(file)
    host.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
