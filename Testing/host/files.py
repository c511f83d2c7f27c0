"""slicer.app.coreIOManager(): reads and writes nodes through MRML's own storage nodes."""

import os
import tempfile
import zipfile
from pathlib import Path

import slicer
import vtk

TYPES = {  # file type -> (node class, suffixes)
    "VolumeFile": ("vtkMRMLScalarVolumeNode", ".nrrd .nhdr .nii .nii.gz .mha .mhd .tif"),
    "SegmentationFile": ("vtkMRMLSegmentationNode", ".seg.nrrd .seg.nhdr"),
    "ModelFile": ("vtkMRMLModelNode", ".vtk .vtp .stl .ply .obj"),
    "TransformFile": ("vtkMRMLTransformNode", ".h5 .tfm .mat"),
    "TableFile": ("vtkMRMLTableNode", ".tsv .csv"),
    "MarkupsFile": ("vtkMRMLMarkupsFiducialNode", ".mrk.json .fcsv"),
    "ColorTableFile": ("vtkMRMLColorTableNode", ".ctbl .cxml"),
    "TextFile": ("vtkMRMLTextNode", ".txt"),
    "SceneFile": (None, ".mrml .mrb"),
}
SUFFIXES = {suffix: kind for kind, (_, suffixes) in TYPES.items() for suffix in suffixes.split()}


class Files:
    def __init__(self, scene, logics, appLogic):
        self._scene, self._logics, self._appLogic = scene, logics, appLogic

    # ---------------------------------------------------------------- reading

    def fileType(self, path):
        return SUFFIXES.get(_suffix(path), "NoFile")

    def loadNodes(self, kind, properties, collection, messages=None):
        path = str(properties["fileName"])
        try:
            if not Path(path).is_file():
                raise RuntimeError(f"File does not exist: {path}")
            node = getattr(self, "_load" + kind, self._loadOther)(kind, path, properties)
        except RuntimeError as error:
            if messages is not None:
                messages.AddMessage(vtk.vtkCommand.ErrorEvent, str(error))
            return False
        if isinstance(node, slicer.vtkMRMLNode):
            if properties.get("name"):
                node.SetName(self._scene.GetUniqueNameByString(properties["name"]))
            collection.AddItem(node)
        return bool(node)

    def _loadVolumeFile(self, _kind, path, properties):
        flags = {"labelmap": 1, "center": 2, "singleFile": 4, "autoWindowLevel": 8, "discardOrientation": 16}
        chosen = {"autoWindowLevel": True} | properties
        options = sum(bit for name, bit in flags.items() if chosen.get(name))
        node = self._logics["Volumes"].AddArchetypeVolume(path, _stem(path), options)
        if node is not None and properties.get("show", True):
            selection = self._appLogic.GetSelectionNode()
            isLabel = node.IsA("vtkMRMLLabelMapVolumeNode")
            (selection.SetActiveLabelVolumeID if isLabel else selection.SetActiveVolumeID)(node.GetID())
            self._appLogic.PropagateVolumeSelection()
        return node

    def _loadSegmentationFile(self, _kind, path, _properties):
        storage = slicer.vtkMRMLSegmentationStorageNode()  # reads plain label images too
        node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", _stem(path))
        self._scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        return self._read(node, storage, path)

    def _loadMarkupsFile(self, _kind, path, _properties):
        return self._scene.GetNodeByID(self._logics["Markups"].LoadMarkups(path, _stem(path)) or "")

    def _loadSceneFile(self, kind, path, properties):
        if path.lower().endswith(".mrb"):
            with tempfile.TemporaryDirectory() as folder:
                zipfile.ZipFile(path).extractall(folder)
                return self._loadSceneFile(kind, str(next(Path(folder).rglob("*.mrml"))), properties)
        self._scene.SetURL(path)
        self._scene.SetRootDirectory(os.path.dirname(path))
        return self._scene.Connect() if properties.get("clear") else self._scene.Import()

    def _loadOther(self, kind, path, _properties):
        node = self._scene.AddNewNodeByClass(TYPES[kind][0], _stem(path))
        node.AddDefaultStorageNode(path)
        return self._read(node, node.GetStorageNode(), path)

    def _read(self, node, storage, path):
        storage.SetFileName(path)
        if not storage.ReadData(node):
            self._scene.RemoveNode(storage)
            self._scene.RemoveNode(node)
            return None
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
        return node

    # ---------------------------------------------------------------- writing

    def fileWriterFileType(self, node, _format=""):
        return next((kind for kind, (cls, _) in TYPES.items() if cls and node.IsA(cls)), "NoFile")

    def fileWriterExtensions(self, node):
        formats = self._newStorage(node).GetSupportedWriteFileTypes()
        return [formats.GetValue(i) for i in range(formats.GetNumberOfValues())]

    def extractKnownExtension(self, path, node):
        suffix = slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString
        known = (suffix(each) for each in self.fileWriterExtensions(node))
        return max((each for each in known if str(path).lower().endswith(each.lower())), key=len, default="")

    def exportNodes(self, nodeIds, paths, properties, _hardenTransforms=False, _messages=None):
        if isinstance(nodeIds, str):
            nodeIds, paths = [nodeIds], [paths]
        nodes = [self._scene.GetNodeByID(nodeId) for nodeId in nodeIds]
        return all(
            self._write(node, self._newStorage(node), path, properties) for node, path in zip(nodes, paths, strict=True)
        )

    def saveNodes(self, kind, properties, _messages=None):
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self._saveScene(path)
        node = self._scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(path)
        return self._write(node, node.GetStorageNode(), path, properties)

    def _saveScene(self, path):
        self._scene.SetURL(path)
        if path.endswith(".mrb"):
            return bool(self._scene.WriteToMRB(path))
        self._scene.SetRootDirectory(os.path.dirname(path))
        return bool(self._scene.Commit(path))

    def _newStorage(self, node):
        storage = node.CreateDefaultStorageNode()
        if not node.IsA(
            "vtkMRMLSegmentationNode"
        ):  # it would look for its own, still missing ID in the scene, and crash
            storage.SetScene(self._scene)  # knows the formats
        return storage

    @staticmethod
    def _write(node, storage, path, properties):
        storage.SetFileName(str(path))
        if "useCompression" in properties:
            storage.SetUseCompression(int(bool(properties["useCompression"])))
        return bool(storage.WriteData(node))


def _suffix(path):
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def _stem(path):
    name = Path(path).name
    return name[: len(name) - len(_suffix(path))] or name
