"""``slicer.app.coreIOManager()``: the part that ``slicer.util.loadVolume``, ``loadSegmentation`` and the like need."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk

_STORAGE = {
    "vtkMRMLSegmentationNode": ("SegmentationFile", "vtkMRMLSegmentationStorageNode"),
    "vtkMRMLScalarVolumeNode": ("VolumeFile", "vtkMRMLVolumeArchetypeStorageNode"),
    "vtkMRMLLabelMapVolumeNode": ("VolumeFile", "vtkMRMLVolumeArchetypeStorageNode"),
    "vtkMRMLTableNode": ("TableFile", "vtkMRMLTableStorageNode"),
}


class CoreIOManager:
    """Reads and writes files with MRML's own logics and storage nodes."""

    def fileType(self, path: str) -> str:
        name = path.lower()
        if ".seg." in name:
            return "SegmentationFile"
        return "TableFile" if name.endswith((".csv", ".tsv")) else "VolumeFile"

    def fileWriterFileType(self, node) -> str:
        return _STORAGE[node.GetClassName()][0]

    def loadNodes(self, fileType: str, properties: dict, collection=None, messages=None) -> bool:
        path = str(properties["fileName"])
        name = properties.get("name") or Path(path).name.split(".")[0]
        node = self._load(fileType, path, name, bool(properties.get("labelmap"))) if Path(path).is_file() else None
        if node is None:
            if messages is not None:
                messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"{path} cannot be read")
            return False
        if collection is not None:
            collection.AddItem(node)
        return True

    @staticmethod
    def _load(fileType: str, path: str, name: str, labelmap: bool):
        if fileType == "VolumeFile":
            return slicer.modules.volumes.logic().AddArchetypeVolume(path, name, 1 if labelmap else 0)
        if fileType == "SegmentationFile":
            return slicer.modules.segmentations.logic().LoadSegmentationFromFile(path, True, name)
        raise NotImplementedError(f"the test host reads no {fileType}")

    def saveNodes(self, fileType: str, properties: dict, messages=None) -> bool:
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        storage = node.GetStorageNode()
        if storage is None:
            storage = slicer.mrmlScene.AddNewNodeByClass(_STORAGE[node.GetClassName()][1])
            node.SetAndObserveStorageNodeID(storage.GetID())
        storage.SetFileName(str(properties["fileName"]))
        return bool(storage.WriteData(node))
