"""The list of a training's cases: scans and outlines of the scene or on disk, their roles, and what is odd about them.

A case is known by a number ("case-001"); names, which may tell who a patient is, stay in the application.
"""

import base64
import json
import re
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from SimCVDLib import filelook, nodes

LABELLED, UNLABELLED, VALIDATION, OUT = "labelled", "unlabelled", "validation", "out"
ROLES = (LABELLED, UNLABELLED, VALIDATION, OUT)
FORMAT = 1

LIST = "SimCVD.Cases"  # attribute of the text node that keeps the list with the scene: its format
ROWS = "SimCVD.Cases.Rows"  # and the list; scenes of earlier versions have it in the text
MAP = "SimCVD.Map.Kind"  # attribute of the volumes that SimCVDSegment makes
COARSER, FINER = 2.0, 4.0  # than the model's spacing: what is finer loses nothing but may be of another kind
CT_BELOW = -200  # an MR image has no such intensities, a CT has air
# what names of outlines add to names of scans
_MARKS = re.compile(r"(?i)[\s._-]*(label(map)?s?|seg(mentation)?s?|mask|outline|truth|gt|image|img|scan)(?=$|[\s._-])")


class CaseRow:
    """One case: a volume and maybe a segmentation of the scene, or files.

    Attributes:
        id: its number, under which the training knows it. name: what to show.
        role: one of the constants above.
        segmentIds: the outlined segments; all of the segmentation where empty.
        image, label: paths of a case on disk, or None.
        size, spacing: (i, j, k) and mm, once `CaseTable.check` has looked, or None; low, high: of its voxels, likewise.
        seen: of a case on disk: what filelook.look said of its files, or None.
        warnings: sentences, as of the last check.
    """

    def __init__(self, identifier, name, volumeNode=None, image=None, label=None):
        self.id, self.name = identifier, name
        self.role = UNLABELLED
        self.segmentIds = []
        self.image, self.label = image and Path(image), label and Path(label)
        self.size = self.spacing = self.direction = self.low = self.high = self.seen = None
        self.marked = None  # (when the volume was changed last, what an equal image shares with it)
        self.warnings = []
        self._volume = nodes.NodeReference(volumeNode) if volumeNode is not None else None
        self._segmentation = None

    @property
    def volume(self):
        """The volume node, or None once it is gone and for a case on disk."""
        return self._volume.get() if self._volume else None

    @property
    def segmentation(self):
        """The segmentation node with the outline, or None."""
        return self._segmentation.get() if self._segmentation else None

    @property
    def isGone(self):
        """Whether its volume has left the scene."""
        return self._volume is not None and self.volume is None

    @property
    def isBare(self):
        """Whether its volume has no voxels, as in a scene that was opened without its files."""
        return self.volume is not None and self.volume.GetImageData() is None

    @property
    def isSeen(self):
        """Whether its files were looked at as they are now."""
        # a look that came to nothing has no stamp, and would come to nothing again
        return self.seen is not None and self.seen.get("stamp") in (None, filelook.stamp(self.image, self.label))

    @property
    def isOnDisk(self):
        """Whether it was not loaded: its files are all there is of it."""
        return self._volume is None

    @property
    def hasLabel(self):
        """Whether it has an outline, empty or not."""
        return self.label is not None or bool(self.segments())

    @property
    def labelText(self):
        """Which outline it has, for the table."""
        if self.label is not None:
            return self.label.name
        if not self.hasLabel:
            return ""
        names = ", ".join(segment.GetName() for _id, segment in self.segments())
        return f"{self.segmentation.GetName()}: {names}"

    def segments(self):
        """[(ID, vtkSegment)] of the outline, in its order; those that are gone are left out."""
        node = self.segmentation
        if node is None:
            return []
        segmentation = node.GetSegmentation()
        chosen = self.segmentIds or segmentation.GetSegmentIDs()
        found = [(identifier, segmentation.GetSegment(identifier)) for identifier in chosen]
        return [(identifier, segment) for identifier, segment in found if segment is not None]

    def setSegmentation(self, segmentationNode, segmentIds=()):
        """Take some segments of a node as the outline, all of them where none is named; None takes it away."""
        self._segmentation = nodes.NodeReference(segmentationNode) if segmentationNode is not None else None
        self.segmentIds = list(segmentIds)


class CaseTable:
    """The list.

    Args:
        onChange: called without arguments whenever a row came, went or changed.
    """

    def __init__(self, onChange=lambda: None):
        self.rows = []
        self._onChange = onChange

    # --- rows

    def addVolumes(self, volumeNodes=None):
        """Add volumes, by default all scalar ones of the scene that are not there yet; returns the new rows.

        Each takes the segmentation that belongs to it as its outline: one made on it, its only neighbour in the subject
        hierarchy, or one of like name. Results of SimCVDSegment are no outlines, as nobody may have looked at them:
        `addLabelledCase` and `setLabel` take them.
        """
        if volumeNodes is None:
            volumeNodes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if _isScan(node)]
        known = [row.volume for row in self.rows]
        added = []
        for volume in volumeNodes:
            if volume in known:
                continue
            nodes.checkVolume(volume)
            row = CaseRow(self._freeId(), volume.GetName(), volume)
            if outline := _outlineOf(volume, volumeNodes):
                row.setSegmentation(outline)
                row.role = LABELLED
            added.append(row)
            self.rows.append(row)
        if added:
            self._onChange()
        return added

    def addLabelledCase(self, volumeNode, segmentationNode, segmentId=None):
        """Add a scan with its outline, or give the scan on the list this outline; returns the row. Raises SimCVDError.

        segmentId: one segment, or several as a list; all of the segmentation without it.
        """
        nodes.checkVolume(volumeNode)
        segmentIds = [segmentId] if isinstance(segmentId, str) else list(segmentId or [])
        row = next((row for row in self.rows if row.volume is volumeNode), None)
        new = row is None
        if new:
            row = CaseRow(self._freeId(), volumeNode.GetName(), volumeNode)
        self._setSegmentation(row, segmentationNode, segmentIds)
        row.role = LABELLED
        if new:
            self.rows.append(row)
        self._onChange()
        return row

    def addFolder(self, folder):
        """Add the scans of a folder: image files, DICOM series, or <case>/image.* with <case>/label.*.

        Beside image files, <name>-label.* (or seg, mask, segmentation) is the label of <name>. Returns the new rows;
        raises SimCVDError where there is no scan.
        """
        from simcvd.scans import find_scans

        found = find_scans([Path(folder)])
        return self._addFiles([(name, *files, LABELLED if files[1] else UNLABELLED) for name, files in _paired(found)])

    def addCaseList(self, path):
        """Add the cases of a cases.json; returns the rows. Raises SimCVDError.

        Cases of a role that is not known here are left out, and what has no label is unlabelled.
        """
        from simcvd.cases import read_cases

        found = []
        for case in read_cases(path):
            role = case.role if case.role in ROLES else OUT
            found.append((case.id, case.image, case.label, role if case.label or role == OUT else UNLABELLED))
        return self._addFiles(found)

    def _addFiles(self, found):
        known = {row.image for row in self.rows}
        added = []
        for name, image, label, role in found:
            if Path(image) in known:
                continue
            row = CaseRow(self._freeId(), name, image=image, label=label)
            row.role = role
            added.append(row)
            self.rows.append(row)
        if added:
            self._onChange()
        return added

    def remove(self, rows):
        """Take cases off the list; nodes and files stay."""
        self.rows = [row for row in self.rows if row not in rows]
        self._onChange()

    def clear(self):
        """Take all cases off the list."""
        self.rows = []
        self._onChange()

    def setRole(self, rows, role):
        """Give cases another role; raises SimCVDError where that needs an outline that one does not have: the others
        have their role then all the same."""
        if role not in ROLES:
            raise ValueError(f"no role {role!r}")
        bare = [row for row in rows if role in (LABELLED, VALIDATION) and not row.hasLabel]
        for row in rows:
            if row not in bare:
                row.role = role
        self._onChange()
        if bare:
            raise SimCVDError(
                _("{name} has no outline; give it one before it is labelled or measures.").format(name=bare[0].name)
            )

    def setLabel(self, row, segmentationNode, segmentIds=()):
        """Give a case of the scene an outline; None takes it away, and the case is unlabelled.

        Raises:
            SimCVDError: there is nothing in the outline, or the case lies on disk: its outline is a file.
        """
        if segmentationNode is None:
            row.setSegmentation(None)
            row.label = None
            row.role = UNLABELLED if row.role in (LABELLED, VALIDATION) else row.role
        elif row.isOnDisk:
            raise SimCVDError(
                _("{name} lies on disk with its own outline; load it to give it another.").format(name=row.name)
            )
        else:
            self._setSegmentation(row, segmentationNode, list(segmentIds))
            row.role = LABELLED if row.role == UNLABELLED else row.role
        self._onChange()

    def setVolume(self, row, volumeNode):
        """Let a case on disk be one of the scene from now on, after it was loaded."""
        nodes.checkVolume(volumeNode)
        row._volume = nodes.NodeReference(volumeNode)
        self._onChange()

    def row(self, identifier):
        """The row with this ID, or None."""
        return next((row for row in self.rows if row.id == identifier), None)

    def count(self, role):
        """How many cases have a role."""
        return sum(row.role == role for row in self.rows)

    def _setSegmentation(self, row, node, segmentIds):
        segmentation = node.GetSegmentation() if node is not None else None
        if segmentation is None or not segmentation.GetNumberOfSegments():
            raise SimCVDError(_("There is no outline yet; draw one or choose another segmentation."))
        if any(segmentation.GetSegment(identifier) is None for identifier in segmentIds):
            raise SimCVDError(_("{name} has no such segment (any more); choose another.").format(name=node.GetName()))
        row.setSegmentation(node, segmentIds)

    def _freeId(self):
        numbers = [int(row.id.rpartition("-")[2]) for row in self.rows]
        return f"case-{max(numbers, default=0) + 1:03d}"

    # --- classes

    def classNames(self):
        """Names of the outlined structures, in the order of their label values from 1 on.

        A single segment in every case is one class, whatever it is called from case to case; several are matched by
        name. Cases on disk say nothing of names.
        """
        named = [[segment.GetName() for _id, segment in row.segments()] for row in self._outlined()]
        named = [names for names in named if names]
        if not named:
            return []
        if all(len(names) == 1 for names in named):
            return named[0]
        return list({name.casefold(): name for names in reversed(named) for name in reversed(names)}.values())[::-1]

    def structures(self):
        """How many structures the outlines show; 0 where nobody has looked at them yet."""
        if names := self.classNames():
            return len(names)
        values = {value for row in self._outlined() if row.seen for value in row.seen.get("values", ())}
        return 1 if len(values) == 1 else max(values, default=0)

    def mismatch(self, card):
        """Why no training can start from the model of a card, or None."""
        known, drawn = len(card["segments"]), self.structures()
        if drawn in (0, known):
            return None
        return _(
            "The number of structures is {known} in the model and {drawn} in the outlines; start from another model or "
            "from scratch."
        ).format(known=known, drawn=drawn)

    def otherStructure(self, card):
        """What a model that starts from that of a card is to say of its structure, where the outlines show another.

        Names that nobody gave, as "Segment_1", are not taken for those of another structure; nor are several
        structures, which `problems` tells the user of.
        """
        names = self.classNames()
        if len(names) != 1 or len(card["segments"]) != 1 or re.fullmatch(r"(?i)segment[ _]?\d*", names[0]):
            return {}
        if names[0].casefold() == card["segments"][0]["name"].casefold():
            return {}
        told = _("Learned from the model {name} on, for another structure: {structure}.")
        about = {"description": told.format(name=card["name"], structure=names[0])}
        return {"segments": self.segments(), "scan_ml": None, **about}

    def values(self, card=None):
        """Label values by name in small letters; those of a model's card where it knows the same names."""
        names = self.classNames()
        known = {segment["name"].casefold(): segment["value"] for segment in card["segments"]} if card else {}
        if len(names) > 1 and len(names) == len(known) and all(name.casefold() in known for name in names):
            return known
        return {name.casefold(): value for value, name in enumerate(names, 1)}

    def segments(self):
        """The classes as a model card lists them: value, name, color and terminology."""
        found = {}
        for row in self._outlined():
            for _identifier, segment in row.segments():
                found.setdefault(segment.GetName().casefold(), segment)
        cards = []
        for value, name in enumerate(self.classNames(), 1):
            segment = found[name.casefold()]
            color = [round(float(c), 4) for c in segment.GetColor()]
            cards.append({"value": value, "name": name, "color": color, "terminology": _terminology(segment)})
        return cards

    def _outlined(self):
        rows = [row for row in self.rows if row.role in (LABELLED, VALIDATION)]
        return sorted(rows, key=lambda row: row.role != LABELLED)

    # --- what is odd

    def check(self, row, card=None):
        """Look at a case anew and return its warnings; reads the voxels of its outline, so one case at a time.

        All voxels of a case on disk are read where its `seen` is None; set that to None to have them read again.

        card: of the model to start from, or None.
        """
        row.warnings = []
        try:
            if row.isOnDisk:
                self._lookAtFiles(row)
            else:
                self._lookAtVolume(row)
        except (SimCVDError, OSError) as error:
            row.warnings.append(str(error))
            return row.warnings
        if row.role in (LABELLED, VALIDATION):
            row.warnings += _fileLabelWarnings(row) if row.isOnDisk else self._labelWarnings(row)
        if card:
            row.warnings += _modelWarnings(row, card)
        return row.warnings

    def _lookAtFiles(self, row):
        if not row.isSeen:
            row.seen = filelook.look(row.image, row.label)
        if "size" in row.seen:
            row.size, row.spacing, row.direction = (tuple(row.seen[name]) for name in ("size", "spacing", "direction"))
            row.low, row.high = row.seen["low"], row.seen["high"]
        if "error" in row.seen:
            raise SimCVDError(row.seen["error"])

    def _lookAtVolume(self, row):
        if row.isGone:
            raise SimCVDError(_("The volume is no longer in the scene; load it or remove the case."))
        nodes.checkVolume(row.volume)
        geometry = nodes.geometryOf(row.volume)
        row.size, row.spacing, row.direction = geometry.size, geometry.spacing, geometry.direction
        row.low, row.high = row.volume.GetImageData().GetScalarRange()
        if row.low == row.high:
            row.warnings.append(_("The image is constant: there is nothing to see in it."))

    def _labelWarnings(self, row):
        if not row.hasLabel:
            return [_("The outline is no longer in the scene; choose another.")]
        if not nodes.hasVoxels(row.segmentation, [identifier for identifier, _segment in row.segments()]):
            return [_("The outline is empty.")]
        if not readLabel(row, self.values()).any():
            return [_("The outline lies outside the image.")]
        if any(not nodes.sharesGrid(row.segmentation, identifier, row.volume) for identifier, _s in row.segments()):
            return [_("The outline has another grid than the image and will be resampled onto it.")]
        return []

    def problems(self, card=None):
        """What is odd about the list as a whole, one sentence each.

        card: of the model to start from, or None.
        """
        count = {role: self.count(role) for role in ROLES}
        found = []
        if count[LABELLED] == 1:
            found.append(_("Only one case is labelled; results vary much less from two on."))
        if count[LABELLED] and not count[UNLABELLED]:
            found.append(_("No case is unlabelled, so the training learns from the labelled ones alone."))
        if count[LABELLED] and not count[VALIDATION]:
            found.append(_("No case is for validation, so nothing will show how good the model becomes."))
        for first, second in self._twins():
            found.append(
                _("{first} and {second} are the same image; leave one of them out.").format(
                    first=first.name, second=second.name
                )
            )
        names = self.classNames()
        for row in self._outlined() if len(names) > 1 else []:
            missing = {n.casefold() for n in names} - {s.GetName().casefold() for _id, s in row.segments()}
            if row.segments() and missing:
                found.append(
                    _("{name} has no outline of: {missing}.").format(name=row.name, missing=", ".join(sorted(missing)))
                )
        if len(names) > 1 and any(row.label for row in self._outlined()):
            found.append(_("In label files {pairs}.").format(pairs=_pairs(range(1, len(names) + 1), names)))
        if card and (sentence := self.mismatch(card)):
            found.append(sentence)
        elif card and len(names) > 1 and not set(self.values()) <= {s["name"].casefold() for s in card["segments"]}:
            theirs = [segment["name"] for segment in sorted(card["segments"], key=lambda s: s["value"])]
            found.append(
                _("The model's structures have other names: {pairs}; rename the segments where that is wrong.").format(
                    pairs=_pairs(names, theirs)
                )
            )
        return found

    def incomplete(self):
        """What the cases lack to be written, one sentence, or None."""
        used = [row for row in self.rows if row.role != OUT]
        if gone := [row.name for row in used if row.isGone]:
            return _("{name} is no longer in the scene; load it or take it off the list.").format(name=gone[0])
        if void := [row.name for row in used if row.isBare]:
            return _("{name} has no voxels; load it again or take it off the list.").format(name=void[0])
        if bare := [row.name for row in used if row.role in (LABELLED, VALIDATION) and not row.hasLabel]:
            return _("{name} has no outline any more; give it one or make it unlabelled.").format(name=bare[0])
        return None

    def blocking(self):
        """Why no training can start, one sentence, or None."""
        if sentence := self.incomplete():
            return sentence
        if not self.count(LABELLED):
            return _("No case is labelled; outline the structure in at least two scans, better in four.")
        return None

    def _twins(self):
        seen = {}
        for row in self.rows:
            if row.role == OUT or row.isGone or row.isBare:
                continue
            twin = seen.setdefault(_fingerprint(row), row)
            if twin is not row:
                yield twin, row

    # --- for others

    def shapes(self):
        """The cases as the worker's request "estimate" wants them; cases that can't be read are left out."""
        found = []
        for row in self.rows:
            if row.role == OUT:
                continue
            if row.size is None:
                _measure(row)
            if row.size is not None:
                places = {"size": row.size, "spacing": row.spacing, "direction": row.direction}
                found.append({"role": row.role, **{name: list(place) for name, place in places.items()}})
        return found

    def diskNeed(self, spacing, nFilters=16):
        """Bytes a run of these cases takes at most, on a model's grid of (x, y, z) mm.

        Exported scans (which are removed once they are prepared), prepared ones, checkpoint and model.
        """
        prepared = exported = 0
        for case in self.shapes():
            voxels = float(np.prod(case["size"]))
            exported += 5 * voxels  # rarely more than four bytes, and the label
            prepared += 3 * voxels * np.prod(case["spacing"]) / np.prod(spacing)  # half precision, and the label
        parameters = 9.45e6 * (nFilters / 16) ** 2
        # student, teacher and momentum in the checkpoint, which is there twice while it is replaced; the model in half
        return int(exported + prepared + parameters * (2 * 12 + 2))

    def thumbnail(self, row, size=96):
        """A PNG of the middle outlined slice with its outline, as bytes.

        None for a case that is gone, that can't be read, or that lies on disk and was not looked at by `check` yet.
        """
        if row.isOnDisk:
            picture = (row.seen or {}).get("picture")
            return base64.b64decode(picture) if picture else None
        if row.volume is None or row.isBare:
            return None
        image = slicer.util.arrayFromVolume(row.volume)
        values = {segment.GetName().casefold(): i for i, (_id, segment) in enumerate(row.segments(), 1)}
        labels = readLabel(row, values) if values else np.zeros(image.shape, np.uint8)
        return filelook.thumbnail(image, labels, nodes.geometryOf(row.volume), size)

    # --- with the scene

    def save(self):
        """Keep the list in the scene."""
        node = _listNode() or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "SimCVD cases")
        node.SetAttribute(LIST, str(FORMAT))
        node.SetHideFromEditors(True)
        rows = []
        for row in self.rows:
            # references follow their nodes through another scene, IDs don't
            node.SetNodeReferenceID(f"{row.id}.volume", row.volume.GetID() if row.volume else None)
            node.SetNodeReferenceID(f"{row.id}.segmentation", row.segmentation.GetID() if row.segmentation else None)
            about = {"id": row.id, "name": row.name, "role": row.role, "segments": row.segmentIds}
            files = {"image": row.image and str(row.image), "label": row.label and str(row.label)}
            rows.append({**about, **files, "inScene": row._volume is not None})
        # an attribute, as long texts become files of their own, which take the place of those of other scenes
        node.SetAttribute(ROWS, json.dumps(rows))
        node.SetText("")

    @classmethod
    def load(cls, onChange=lambda: None):
        """The list that the scene keeps, or an empty one."""
        table, node = cls(onChange), _listNode()
        try:
            stored = json.loads(node.GetAttribute(ROWS) or node.GetText() or "[]") if node else []
            for about in stored:
                row = CaseRow(about["id"], about["name"], image=about["image"], label=about["label"])
                volume = node.GetNodeReference(f"{row.id}.volume")
                if about["inScene"]:
                    row._volume = nodes.NodeReference(volume)
                row.role = about["role"] if about["role"] in ROLES else OUT
                row.setSegmentation(node.GetNodeReference(f"{row.id}.segmentation"), about["segments"])
                table.rows.append(row)
        except (ValueError, TypeError, KeyError):  # damaged by hand or by another version: an empty list harms nothing
            table.rows = []
        return table


def readLabel(row, values):
    """The outline of a case of the scene as label values, uint8 (K, J, I), on its volume's grid.

    values: label values by segment name in small letters; a single segment is 1 whatever its name. Where segments
    overlap, the later one counts.
    """
    labels = np.zeros(nodes.shapeOf(row.volume), np.uint8)
    segments = row.segments()
    for identifier, segment in segments:
        value = 1 if len(values) == 1 and len(segments) == 1 else values.get(segment.GetName().casefold())
        if value is not None:
            labels[nodes.readSegment(row.segmentation, identifier, row.volume)] = value
    return labels


# --- finding outlines


def _isScan(node):
    """Whether a node is a scan a user would train from: visible, with voxels, and no map or label map."""
    image = node.GetImageData()
    return (
        node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and node.GetAttribute(MAP) is None
        and image is not None
        and image.GetNumberOfPoints() > 0
        and image.GetNumberOfScalarComponents() == 1
    )


def _outlineOf(volume, volumes):
    """The segmentation that belongs to a volume, or None."""
    drawn = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if _isOutline(node)]
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    references = [node.GetNodeReference(role) for node in drawn]
    made = [node for node, its in zip(drawn, references, strict=True) if its is volume]
    others = [node for node, its in zip(drawn, references, strict=True) if its is None]
    beside = [node for node in others if _parent(node) and _parent(node) == _parent(volume)]
    if sum(_parent(other) == _parent(volume) for other in volumes) > 1:
        beside = []
    alike = [node for node in others if _plain(node.GetName()) == _plain(volume.GetName())]
    return next(iter(made or beside or alike), None)


def _isOutline(node):
    """Whether a segmentation was drawn by somebody: it has segments, and not those of a result alone."""
    segmentation = node.GetSegmentation()
    if not segmentation.GetNumberOfSegments() or node.GetHideFromEditors():
        return False
    value = vtk.reference("")
    identifiers = segmentation.GetSegmentIDs()
    return not all(segmentation.GetSegment(identifier).GetTag(nodes.STRUCTURE, value) for identifier in identifiers)


def _parent(node):
    """The item a node lies in, where that is not the scene itself."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    return None if parent in (0, hierarchy.GetSceneItemID()) else parent


def _plain(name):
    """A name without what outlines add to it."""
    name = re.sub(r"(?i)\.(seg\.nrrd|nrrd|nii(\.gz)?|mha|mhd)$", "", name)
    return re.sub(r"[\s._-]+", "-", _MARKS.sub("", name)).strip("-").casefold() or name.casefold()


def _paired(found):
    """(name, (image, label)) of scans, of which some are labels of others or have a label beside them."""
    labels = {}
    for _name, path in found:
        if path.is_file() and re.search(r"(?i)[._-](label|seg|mask|segmentation)s?(\.|$)", path.name):
            labels[path.parent, _plain(path.name)] = path
    pairs = []
    for name, path in found:
        if path in labels.values():
            continue
        beside = None
        if re.match(r"(?i)image\.", path.name):
            beside = next((file for file in sorted(path.parent.glob("label.*")) if file.is_file()), None)
        pairs.append((name, (path, beside or labels.get((path.parent, _plain(path.name))))))
    return pairs


# --- looking closer


def _measure(row):
    """Find the size and spacing of a case alone, where that is possible."""
    from simcvd.images import read_geometry

    try:
        geometry = read_geometry(row.image) if row.isOnDisk else nodes.geometryOf(row.volume)
    except (SimCVDError, OSError, AttributeError):  # the last where its volume is gone or has no voxels
        return
    row.size, row.spacing, row.direction = geometry.size, geometry.spacing, geometry.direction


def _fileLabelWarnings(row):
    if not row.seen.get("values"):
        return [_("The outline is empty.")]
    if row.seen.get("outside"):
        return [_("The outline lies outside the image.")]
    if row.seen.get("resampled"):
        return [_("The outline has another grid than the image and will be resampled onto it.")]
    return []


def _modelWarnings(row, card):
    found = []
    ratios = [mine / its for mine, its in zip(sorted(row.spacing), sorted(card["grid"]["spacing"]), strict=True)]
    if max(ratios) > COARSER or min(ratios) < 1 / FINER:
        shown = " x ".join(f"{s:.2g}" for s in row.spacing)
        its = " x ".join(f"{s:.2g}" for s in card["grid"]["spacing"])
        found.append(
            _("The spacing ({spacing} mm) is far from the model's ({model} mm).").format(spacing=shown, model=its)
        )
    modality = card["modality"].upper()
    if "MR" in modality and row.low < CT_BELOW:
        found.append(
            _("The intensities (down to {low:.0f}) look like CT, and the model is for {modality}.").format(
                low=row.low, modality=card["modality"]
            )
        )
    if "CT" in modality and "MR" not in modality and row.low > CT_BELOW:
        found.append(
            _("The intensities (from {low:.0f} on) don't look like CT, and the model is for {modality}.").format(
                low=row.low, modality=card["modality"]
            )
        )
    return found


def _pairs(these, those):
    """ "1 is taken for Core, 2 is taken for Wall"."""
    return ", ".join(_("{this} is taken for {that}").format(this=a, that=b) for a, b in zip(these, those, strict=True))


def _fingerprint(row):
    """What two equal images share."""
    if row.isOnDisk:
        return (row.seen or {}).get("mark") or row.image
    changed = row.volume.GetImageData().GetMTime()
    if row.marked is None or row.marked[0] != changed:
        row.marked = changed, filelook.mark(slicer.util.arrayFromVolume(row.volume))
    return row.marked[1]


def _terminology(segment):
    """A segment's terminology as a model card has it, or None."""
    value = vtk.reference("")
    if not segment.GetTag(segment.GetTerminologyEntryTagName(), value):
        return None
    parts = [part.split("^") for part in str(value).split("~")]
    if len(parts) < 6 or not all(len(part) == 3 for part in parts[1:4]):
        return None
    coded = [part if len(part) == 3 and all(part) else None for part in (parts[1], parts[2], parts[3], parts[5])]
    if coded[0] is None or coded[1] is None:
        return None
    return dict(zip(("category", "type", "modifier", "region"), coded, strict=True))


def _listNode():
    found = [n for n in slicer.util.getNodesByClass("vtkMRMLTextNode") if n.GetAttribute(LIST) is not None]
    return found[0] if found else None
