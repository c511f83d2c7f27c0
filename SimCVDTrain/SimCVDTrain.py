"""SimCVD Train: outline a few scans, train a model on them in the background, and use it in SimCVD Segment."""

import contextlib
import json
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLTableNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)

from simcvd import __version__
from simcvd.errors import SimCVDError
from simcvd.models import find_model, is_name, load_card, model_folders
from simcvd.training.recipes import PUBLISHED
from SimCVDLib import (
    caseexport,
    caselist,
    caselook,
    cases,
    fitting,
    jobs,
    models,
    outcome,
    pytorch,
    runlist,
    runs,
    samples,
)
from SimCVDLib.caselist import ROLES, CaseList, roleName
from SimCVDLib.caseload import loadCase, newOutline
from SimCVDLib.caserank import Ranking
from SimCVDLib.panel import Panel
from SimCVDLib.runview import RunView
from SimCVDLib.trainstart import Start
from SimCVDLib.traintexts import bytesText, estimateText, percent

AUGMENTATIONS = ("", "strong", "varied", "robust", "published", "none")  # as in augmentationComboBox; "": the recipe's
DEVICES = ("auto", "cpu", "cuda", "mps")  # as the entries of deviceComboBox
METHODS = ("simcvd", "mean_teacher", "supervised", "action", "action++", "global_local")  # as in methodComboBox
MINUTES = (10, 60, 480, 0)  # as those of durationComboBox; 0 is the published schedule
SCRATCH = ""  # the start model of a training from scratch
RANK_HEIGHTS, TABLE_HEIGHTS = (60, 300), (80, 400)  # pixels, least and most
WHY, STRUCTURE = 3, 1  # columns of rankTree and resultTable that take what the others leave
# what else a run takes: settings that are neither the method's nor the optimizer's
RUN_SETTINGS = (
    *(key for key in PUBLISHED if key not in ("settings", "optimiser", "optimisers")),
    "patch",
    "precision",
    "threads",
)
RUN_SETTINGS += ("validate_percent", "checkpoint_seconds", "network", "minutes", "normalisation", "recipe")


class SimCVDTrain(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("SimCVD Train")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["SimCVDSegment", "Segmentations", "Volumes", "Tables", "Plots"]
        self.parent.contributors = ["SimCVD contributors"]
        self.parent.helpText = _(
            "Trains a model on a few scans with an outline and many without one, in the background. Add your scans, "
            "say which are outlined, and click Start training; the new model is then one click away in SimCVD Segment. "
            "Everything is computed on this computer. For research; not a medical device."
        )
        self.parent.acknowledgementText = _(
            "After You C, Zhou Y, Zhao R, Staib L, Duncan JS: SimCVD, simple contrastive voxel-wise representation "
            "distillation for semi-supervised medical image segmentation. IEEE Transactions on Medical Imaging 41(9), "
            "2022. An independent implementation."
        )
        slicer.app.connect("aboutToQuit()", stopTrainings)


def stopTrainings():
    """Called when the application quits: trainings that are not to go on stop at a point from which they can."""
    from SimCVDLib import runs  # the one in use: a reload brings another

    runs.stopAtQuit()


@parameterNodeWrapper
class SimCVDTrainParameterNode:
    """What is saved with the scene, beside the list of cases."""

    startModel: str = "left-atrium"
    minutes: Annotated[int, WithinRange(0, 480)] = 60
    device: str = "auto"
    name: str = "my-model"
    method: str = "simcvd"
    augmentation: str = ""
    spacing: Annotated[float, WithinRange(0.1, 10)] = 1.25
    seed: Annotated[int, WithinRange(0, 2147483647)] = 1337
    settings: str = ""
    rankModel: str = "left-atrium"
    leaveOut: bool = False
    run: str = ""
    caseNames: str = "{}"
    table: vtkMRMLTableNode


class SimCVDTrainWidget(Panel):
    """The panel: one handler per control; updateGui() derives from the state what is shown and what can be clicked."""

    def __init__(self, parent=None):
        Panel.__init__(self, parent)
        self._ranking = self._estimate = self._start = self._saving = None  # what runs
        self._list = self._looks = self._view = None  # the cases, those on disk that are looked at, and the runs
        self._outcome = self._judged = None  # of the run that is done; the folder of that run
        self._estimated = None  # what the estimate that is shown, or under way, was asked for

    # --- life

    def setup(self):
        """Build the panel; called when the module is opened for the first time."""
        Panel.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SimCVDTrain.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = SimCVDTrainLogic(self._onCases)
        self._looks = caselook.FileLooks(self._onSeen)
        self._list = CaseList(self.ui.caseTree, self.onCasesChosen, self.onCasesMoved, self._thumbnail)
        self._connectWidgets()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneChanged)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.ui.runsFolderButton.directory = str(runlist.runsFolder())
        self._sayNothing()
        self._view = RunView(self.ui, self.parent, self._showingErrors, self._chooseRun, self.showRun)
        self.initializeParameterNode()

    def _connectWidgets(self):
        ui = self.ui
        fitting.stretch(ui.rankTree.header(), WHY)
        fitting.fitHeight(ui.rankTree, *RANK_HEIGHTS)
        ui.resultTable.verticalHeader().setVisible(False)
        for button, slot in (
            (ui.addSceneButton, self.onAddScene),
            (ui.addFolderButton, self.onAddFolder),
            (ui.addListButton, self.onAddList),
            (ui.saveListButton, self.onSaveList),
            (ui.editOutlineButton, self.onEditOutline),
            (ui.removeCaseButton, self.onRemoveCase),
            (ui.rankButton, self.onRank),
            (ui.proposalButton, self.onProposal),
            (ui.estimateButton, self.onEstimate),
            (ui.installTorchButton, self.onInstallTorch),
            (ui.startButton, self.onStart),
            (ui.useButton, self.onUse),
            (ui.saveCsvButton, self.onSaveCsv),
            (ui.saveHtmlButton, self.onSaveHtml),
            (ui.exportButton, self.onExport),
            (ui.copyDetailsButton, self.onCopyDetails),
        ):
            button.connect("clicked(bool)", slot)
        ui.roleComboBox.connect("currentIndexChanged(int)", self.onRole)
        # not currentNodeChanged: the neighbour of a node that is removed becomes current by itself
        ui.outlineSelector.connect("nodeActivated(vtkMRMLNode*)", self.onOutline)
        ui.outlineSegmentComboBox.connect("currentIndexChanged(int)", self.onOutlineSegment)
        ui.rankTree.connect("itemDoubleClicked(QTreeWidgetItem*,int)", self.onProposal)
        ui.rankTree.connect("itemSelectionChanged()", self.updateGui)
        ui.rankModelComboBox.connect("currentIndexChanged(int)", self.onRankModel)
        ui.startComboBox.connect("currentIndexChanged(int)", self.onStartModel)
        ui.durationComboBox.connect("currentIndexChanged(int)", self.onDuration)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self.onDevice)
        ui.methodComboBox.connect("currentIndexChanged(int)", self.onMethod)
        ui.augmentationComboBox.connect("currentIndexChanged(int)", self.onAugmentation)
        ui.runsFolderButton.connect("directoryChanged(QString)", self.onRunsFolder)
        # a section that opens shows all it holds; what is of no use now is hidden again
        for section in (ui.nextCollapsibleButton, ui.runCollapsibleButton, ui.resultCollapsibleButton):
            section.connect("contentsCollapsed(bool)", self.updateGui)
        ui.logCollapsibleButton.connect("contentsCollapsed(bool)", self.updateGui)

    def exit(self):
        """Called each time the module is left: the panel no longer follows the scene; trainings go on."""
        self._disconnect()

    def cleanup(self):
        """Called before a reload and when the application ends; trainings go on."""
        self._list.close()
        self._looks.close()
        self._stop()
        self._view.close()
        self._setParameters(None)
        self.removeObservers()

    def onSceneStartClose(self, _caller, _event):
        """Nothing of the old scene is kept; trainings go on, and the latest of them is shown in the next scene."""
        self._stop()
        self._sayNothing()
        self._setParameters(None)
        self.logic.forget()

    def onSceneChanged(self, _caller, _event):
        self.logic.forget()
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, _caller, _event, node):
        """A case says so when its volume or segmentation has gone."""
        if self._parameters is not None and node.IsA("vtkMRMLStorableNode"):
            self._onCases()

    def _stop(self):
        """End what needs the scene."""
        for running in (self._ranking, self._estimate, self._start, self._saving):
            if running is not None:
                running.cancel()
        self._ranking = self._estimate = self._start = self._saving = None
        self._keepRanked([])
        self._view.release()

    # --- state

    def initializeParameterNode(self):
        """Connect the panel with the scene's state."""
        self._choices = models.choices()
        self._torch = pytorch.status()
        self._view.refresh()
        self._judged = self._outcome = None  # the table of its figures may be another in this scene
        self.logic.forget()  # a script may have changed the list meanwhile
        self._setParameters(self.logic.getParameterNode())
        if not self._parameters.run:
            self._chooseRun(self._view.living())

    def _fillModels(self):
        self._list.redraw()  # a name on the list may be another in this scene
        for combo, more in ((self.ui.startComboBox, [(_("From scratch"), SCRATCH)]), (self.ui.rankModelComboBox, [])):
            combo.clear()
            for title, name in [*((choice.title, choice.name) for choice in self._choices), *more]:
                combo.addItem(title, name)

    def _choice(self, name):
        """The model of this name, or None."""
        return next((choice for choice in self._choices if choice.name == name), None)

    def _set(self, **values):
        """Change the state, unless a control is only being shown."""
        if not self._updating and self._parameters is not None:
            with slicer.util.NodeModify(self._parameters.parameterNode):
                for name, value in values.items():
                    setattr(self._parameters, name, value)

    # --- cases

    def addCase(self, volumeNode, segmentationNode, segmentId):
        """Take a scan and its outline as a labelled case; SimCVD Segment calls it."""
        with self._showingErrors("cases"):
            row = self.logic.addLabelledCase(volumeNode, segmentationNode, segmentId)
            self._list.show(self.logic.table.rows)
            self._list.choose([row])

    def onAddScene(self):
        with self._showingErrors("cases"):
            if not self.logic.table.addVolumes():
                self._say("cases", _("There is no scan in the scene that is not on the list already."))

    def onAddFolder(self):
        self._add(qt.QFileDialog.getExistingDirectory(self.parent, _("Folder of the scans")), "addFolder")

    def onAddList(self):
        path = qt.QFileDialog.getOpenFileName(self.parent, _("List of cases"), "", _("List of cases (*.json)"))
        self._add(path, "addCaseList")

    def _add(self, path, how):
        if path:
            with self._showingErrors("cases"), slicer.util.WaitCursor():
                getattr(self.logic.table, how)(path)

    def onSaveList(self):
        """Copy the cases into a folder, or stop doing so."""
        if self._saving is not None:
            self._saving.cancel()
            return
        folder = qt.QFileDialog.getExistingDirectory(self.parent, _("Folder for the copies"))
        if folder:
            with self._showingErrors("cases"):
                saving = caseexport.Export(self.logic.table, folder, self._onSaving)
                saving.start()
                self._saving = saving
                self._say("cases", _("Copying the scans..."))
            self.updateGui()

    def _onSaving(self):
        saving = self._saving
        if saving is not None and saving.finished:
            self._saving = None
            ended = _("Stopped.") if saving.cancelled else _("Saved as {path}.").format(path=saving.caseList)
            named = _("{count} cases on disk were not copied: the list names them where they lie.")
            if saving.named and not saving.cancelled:
                ended = f"{ended} {named.format(count=saving.named)}"
            self._say("cases", saving.error or ended)
        self.updateGui()

    def onCasesChosen(self):
        """Other cases are chosen, or something was found out about them; the tree itself must stay as it is here."""
        if self._parameters is not None:
            with self._quietly():
                self._showChosen()
                self._showTraining()

    def onCasesMoved(self, rows, role):
        with self._showingErrors("cases"):
            self.logic.table.setRole(rows, role)
        self.updateGui()

    def onRole(self, index):
        if index >= 0 and not self._updating:
            self.onCasesMoved(self._list.chosen, ROLES[index])

    def onOutline(self, node):
        """All segments of the segmentation, also those that come later, until others are chosen."""
        if not self._isAsked():  # it is told of nodes that are only shown, too
            return
        with self._showingErrors("cases"):
            self.logic.table.setLabel(self._list.chosen[0], node)

    def onOutlineSegment(self, index):
        if index < 0 or self._updating:
            return
        node = self.ui.outlineSelector.currentNode()
        chosen = self.ui.outlineSegmentComboBox.itemData(index)
        with self._showingErrors("cases"):
            self.logic.table.setLabel(self._list.chosen[0], node, [chosen] if chosen else [])

    def onEditOutline(self):
        with self._showingErrors("cases"):
            row = self._list.chosen[0]
            volume, segmentation = self.logic.openCase(row), self.logic.outlineOf(row)
            slicer.util.setSliceViewerLayers(background=volume, fit=True)
            slicer.util.selectModule("SegmentEditor")
            editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
            editor.setSegmentationNode(segmentation)
            editor.setSourceVolumeNode(volume)

    def onRemoveCase(self):
        self.logic.table.remove(self._list.chosen)

    def _thumbnail(self, row):
        """Look at a case, of which its notes come, and draw it; called for one case at a time."""
        if row.isOnDisk and not row.isSeen:
            self._looks.ask(row)
            return caselist.LATER
        choice = self._choice(self._parameters.startModel) if self._parameters is not None else None
        with contextlib.suppress(SimCVDError):  # its notes say what is wrong with it
            self.logic.table.check(row, choice.card if choice else None)
            return self.logic.table.thumbnail(row)
        return None

    def _onSeen(self, files, seen):
        """The files of a case were looked at."""
        rows = [row for row in self.logic.table.rows if row.isOnDisk and caselook.filesOf(row) == files]
        for row in rows:
            row.seen = seen
        self._list.again(rows)

    def _onCases(self):
        """The list of cases changed."""
        if self._parameters is not None and not slicer.mrmlScene.IsClosing():
            self.updateGui()

    # --- which case next

    def onRankModel(self, index):
        if index >= 0:
            self._set(rankModel=self._choices[index].name)

    def onRank(self):
        """Start, or stop what runs."""
        if self._ranking is not None and not self._ranking.finished:
            self._ranking.cancel()
            return
        if not self._torchReady("rank"):
            return
        with self._showingErrors("rank"):
            self._ranking = Ranking(self.logic.table, self._choice(self._parameters.rankModel).folder, self._onRanking)
            self._ranking.start()
        self.updateGui()

    def _onRanking(self):
        if self._ranking is None:
            return
        tree, names = self.ui.rankTree, {row.id: row.name for row in self.logic.table.rows}
        tree.clear()
        for one in self._ranking.ranked:
            item = qt.QTreeWidgetItem(tree)
            item.setData(0, caselist.ID, one["case"])
            texts = (names.get(one["case"], ""), percent(one["uncertainty"]), percent(one["unlikeness"]), one["reason"])
            for column, text in enumerate(texts):
                item.setText(column, text)
                item.setToolTip(column, text)
        fitting.fitHeight(tree, *RANK_HEIGHTS)
        if self._ranking.finished and tree.topLevelItemCount:
            tree.setCurrentItem(tree.topLevelItem(0))
        self.updateGui()

    def _keepRanked(self, rows):
        """Leave only the lines of these cases; the number of one that was removed is given to another scan."""
        known = {(row.id, row.name) for row in rows}
        if self._ranking is not None:
            self._ranking.keep(known)
        tree = self.ui.rankTree
        blocked = tree.blockSignals(True)  # updateGui, which the chosen line's going would call, calls this
        for n in reversed(range(tree.topLevelItemCount)):
            line = tree.topLevelItem(n)
            if (line.data(0, caselist.ID), line.text(0)) not in known:
                tree.takeTopLevelItem(n)
        tree.blockSignals(blocked)

    def onProposal(self):
        """Open the case in SimCVD Segment and segment it there; its button Use as labelled case comes back here."""
        with self._showingErrors("rank"):
            item = self.ui.rankTree.currentItem()
            row = next((row for row in self.logic.table.rows if row.id == item.data(0, caselist.ID)), None)
            if row is None:
                raise SimCVDError(_("This scan is no longer on the list; rank the scans again."))
            slicer.modules.simcvdsegment.widgetRepresentation().self().checkIdle()  # before anything is opened
            volume = self.logic.openCase(row)
            self._openSegment(self._parameters.rankModel).propose(volume)

    def _openSegment(self, model):
        """SimCVD Segment with a model chosen."""
        slicer.util.setSliceViewerLayers(fit=True)
        slicer.util.selectModule("SimCVDSegment")
        segment = slicer.modules.simcvdsegment.widgetRepresentation().self()
        segment.ui.modelComboBox.currentIndex = segment.ui.modelComboBox.findData(model)
        return segment

    # --- training

    def onStartModel(self, index):
        if index >= 0 and not self._updating:
            self._set(startModel=self.ui.startComboBox.itemData(index))
            self._list.redraw()  # other scans may be unlike those that this model knows

    def onDuration(self, index):
        self._set(minutes=MINUTES[index])

    def onDevice(self, index):
        self._set(device=DEVICES[index])

    def onMethod(self, index):
        self._set(method=METHODS[index])

    def onAugmentation(self, index):
        self._set(augmentation=AUGMENTATIONS[index])

    def onRunsFolder(self, folder):
        runlist.setRunsFolder(folder)
        self.updateGui()

    def _plan(self):
        p = self._parameters
        return self.logic.plan(
            p.name,
            model=p.startModel or None,
            minutes=p.minutes or None,
            device=p.device,
            method=p.method,
            augmentation=p.augmentation or None,
            spacing=p.spacing,
            seed=p.seed,
            leaveOut=p.leaveOut and self._canLeaveOut(),
            settings=settingsOf(p.settings),
        )

    def onEstimate(self):
        """Start, or stop what runs."""
        if self._estimate is not None:
            self._estimate.cancel()
            return
        if not self._torchReady("estimate"):
            return
        with self._showingErrors("estimate"):
            self._estimated = self._question()  # first: what is refused is said until something is changed
            self._estimate = self.logic.estimate(self._plan(), self._onEstimate)
            self._say("estimate", _("Trying some steps; this takes about ten seconds..."))
        self.updateGui()

    def _onEstimate(self, event):
        if event["event"] == "progress" or self._estimate is None:  # of a scene that was closed, or a panel
            return
        self._estimate = None
        self._say("estimate", estimateText(event))
        self.updateGui()  # which takes it back where it is no longer what was asked for

    def _question(self):
        """What an estimate depends on."""
        p = self._parameters
        plan = (p.startModel, p.minutes, p.device, p.method, p.augmentation, p.spacing, p.leaveOut, p.settings)
        return plan, [(row.id, row.name, row.role) for row in self.logic.table.rows]

    def onStart(self):
        """Start the training, or stop before it has begun."""
        if self._start is not None:
            self._start.cancel()
            return
        if not self._torchReady("status"):
            return
        with self._showingErrors():
            self._start = self.logic.start(self._plan(), Path(self.ui.runsFolderButton.directory), self._onStarting)
            self._say("status", _("Copying the scans..."))
        self.updateGui()

    def _onStarting(self):
        start = self._start
        if start is None:
            return
        self.ui.progressBar.value = int(100 * start.fraction)
        if start.finished:
            self._start = None
            self._say("status", start.error or (_("Stopped before it began.") if start.run is None else ""))
            if start.run is not None:
                names = json.loads(self._parameters.caseNames) | {str(start.run.folder): start.names}
                self._view.refresh()
                self._set(
                    run=str(start.run.folder), caseNames=json.dumps(names), name=outcome.nextName(self._parameters.name)
                )
        self.updateGui()

    def _chooseRun(self, folder):
        self._set(run=folder)

    # --- result

    def onUse(self):
        with self._showingErrors("save"):
            folder = self._view.run.modelFolder
            name, wished = outcome.install(folder), load_card(folder)["name"]
            self._choices = models.choices()
            with self._quietly():
                self._fillModels()
            self.updateGui()
            self._openSegment(name)
            sentence = _("The model {name} is on the list in SimCVD Segment.")
            if name != wished:
                sentence = _("There is another model {wished} already: this one is {name} in SimCVD Segment.")
            self._say("save", sentence.format(name=name, wished=wished))

    def onSaveCsv(self):
        self._save("csv", _("Save the figures"), _("Table (*.csv)"))

    def onSaveHtml(self):
        self._save("html", _("Save the page"), _("Web page (*.html)"))

    def _save(self, kind, title, types):
        path = qt.QFileDialog.getSaveFileName(self.parent, title, f"{self._view.run.name}.{kind}", types)
        if path:
            with self._showingErrors("save"):
                self._say("save", _("Saved as {path}.").format(path=self._outcome.save(path)))

    def onExport(self):
        path = qt.QFileDialog.getSaveFileName(
            self.parent, _("Export the model"), f"{self._view.run.name}.zip", _("Model (*.zip)")
        )
        if path:
            with self._showingErrors("save"), slicer.util.WaitCursor():
                self._view.run.exportModel(path, overwrite=True)  # the dialog has asked
                self._say("save", _("Saved as {path}.").format(path=path))

    # --- log

    def _details(self):
        """What someone who is asked for help wants to know."""
        lines = [
            f"SimCVD {__version__}, 3D Slicer {slicer.app.applicationVersion}, {sys.platform}, Python {sys.version}",
            self._torch[1],
            f"Status: {self.ui.statusLabel.text}",
            "",
            *self._logLines(),
        ]
        return "\n".join(lines)

    def _logLines(self):
        return [*(self._view.run.log.splitlines() if self._view.run is not None else []), *jobs.worker().log]

    # --- showing the state

    def _say(self, place, sentence):
        """Show a sentence in one of the panel's lines: cases, rank, estimate, status or save."""
        label = getattr(self.ui, place + "Label")
        label.text = sentence
        label.visible = bool(sentence)

    def _sayNothing(self):
        for place in ("cases", "rank", "estimate", "status", "save"):
            self._say(place, "")

    @contextlib.contextmanager
    def _showingErrors(self, place="status", fresh=True):
        """A user's error becomes one sentence in the panel, in place of what stood there of an earlier click."""
        if fresh:
            self._say(place, "")
        try:
            yield
        except SimCVDError as error:
            self._say(place, str(error))

    def _onParameters(self, _caller=None, _event=None):
        """The state changed: bring the run and the panel in line with it."""
        if self._isAsked() and not slicer.mrmlScene.IsClosing():
            self._view.follow(self._parameters.run)
            self.updateGui()

    def updateGui(self):
        """Show the state: what is chosen, what can be clicked now, and what runs."""
        if self._parameters is not None:
            with self._quietly():
                self._showCases()
                self._showNext()
                self._showTraining()
            self.showRun()

    def _showCases(self):
        self._list.show(self.logic.table.rows)
        self._showChosen()

    def _showChosen(self):
        ui, chosen = self.ui, self._list.chosen
        roles = {row.role for row in chosen}
        ui.roleComboBox.currentIndex = ROLES.index(roles.pop()) if len(roles) == 1 else -1
        ui.roleComboBox.enabled = ui.removeCaseButton.enabled = bool(chosen)
        one = chosen[0] if len(chosen) == 1 else None
        ui.editOutlineButton.enabled = one is not None and hasattr(slicer.modules, "segmenteditor")
        ui.outlineSelector.enabled = one is not None and one.volume is not None
        ui.outlineSelector.setCurrentNode(one.segmentation if one else None)
        self._fillSegments(one)
        ui.saveListButton.text = _("Cancel") if self._saving is not None else _("Save list...")
        ui.saveListButton.enabled = bool(self.logic.table.rows)
        ui.summaryLabel.text = "\n".join(self._summary(one))

    def _fillSegments(self, row):
        combo, node = self.ui.outlineSegmentComboBox, row.segmentation if row else None
        combo.clear()
        combo.enabled = node is not None
        if node is not None:
            segmentation = node.GetSegmentation()
            combo.addItem(_("All segments"), "")
            for identifier in segmentation.GetSegmentIDs():
                combo.addItem(segmentation.GetSegment(identifier).GetName(), identifier)
            ids = list(row.segmentIds)
            combo.currentIndex = combo.findData(ids[0]) if len(ids) == 1 and combo.count > 2 else 0

    def _summary(self, one):
        """What to say below the list: the counts, what is worth knowing, and the notes of the case that is chosen."""
        table = self.logic.table
        if not table.rows:
            return [
                _(
                    "Add some scans: four that you have outlined, as many as you like without an outline, and, to see "
                    "how good the model becomes, one or two outlined ones for validation."
                )
            ]
        counts = [_("{role}: {count}").format(role=roleName(role), count=table.count(role)) for role in ROLES[:3]]
        choice = self._choice(self._parameters.startModel)
        odd = [] if self._list.isLooking else table.problems(choice.card if choice else None)
        sentences = [table.blocking(), *odd]
        notes = [f"{one.name}: {sentence}" for sentence in one.warnings] if one else []
        noted = sum(bool(row.warnings) and row is not one and row.role != cases.OUT for row in table.rows)
        if noted:
            notes.append(_("Cases with notes to read, by a click on each: {count}.").format(count=noted))
        return [", ".join(counts) + ".", *dict.fromkeys(filter(None, sentences)), *notes]

    def _showNext(self):
        p, ui = self._parameters, self.ui
        running = self._ranking is not None and not self._ranking.finished
        self._keepRanked(self.logic.table.rows)
        ui.rankModelComboBox.currentIndex = ui.rankModelComboBox.findData(p.rankModel)
        ui.rankButton.text = _("Cancel") if running else _("Rank the unlabelled scans")
        some = self.logic.table.count(cases.UNLABELLED) > 0
        ui.rankButton.enabled = running or (some and self._usable(p.rankModel))
        ui.rankProgressBar.visible = running
        ui.rankProgressBar.value = int(100 * self._ranking.fraction) if running else 0
        ui.proposalButton.enabled = bool(ui.rankTree.selectedItems()) and not running
        chosen = ui.rankTree.selectedItems()
        if self._ranking is not None:
            reason = [f"{chosen[0].text(0)}: {chosen[0].text(3)}"] if chosen else []
            self._say("rank", "\n".join([self._ranking.sentence, *reason]))
        elif not some:
            self._say("rank", _("There are no unlabelled scans on the list."))
        else:
            self._say("rank", "")

    def _usable(self, model):
        choice = self._choice(model)
        return choice is not None and choice.problem is None

    def _showTraining(self):
        p, ui, choice = self._parameters, self.ui, self._choice(self._parameters.startModel)
        ui.startComboBox.currentIndex = ui.startComboBox.findData(p.startModel)
        scratch = _("Nothing is known beforehand: plan for an hour or more, and for eight outlines or more.")
        missing = _("There is no model {name} here; choose another.").format(name=p.startModel)
        ui.startLabel.text = choice.about if choice else missing if p.startModel else scratch
        for combo, values, value in (
            (ui.durationComboBox, MINUTES, p.minutes),
            (ui.deviceComboBox, DEVICES, p.device),
            (ui.methodComboBox, METHODS, p.method),
            (ui.augmentationComboBox, AUGMENTATIONS, p.augmentation),
        ):
            # a scene of another version may hold what is not offered here; the training says so
            combo.currentIndex = values.index(value) if value in values else -1
        ui.spacingSpinBox.enabled = not p.startModel
        ui.leaveOutCheckBox.visible = self._canLeaveOut()
        ui.torchLabel.text = self._torch[1]
        ui.installTorchButton.visible = not self._torch[0]
        if self._estimate is None and self._estimated not in (None, self._question()):
            self._say("estimate", "")
            self._estimated = None
        ready = self.logic.table.blocking() is None and (not p.startModel or self._usable(p.startModel))
        ui.estimateButton.text = _("Cancel") if self._estimate is not None else _("Estimate")
        ui.estimateButton.enabled = self._estimate is not None or (ready and self._start is None)
        ui.startButton.text = _("Cancel") if self._start is not None else _("Start training")
        ui.startButton.enabled = self._start is not None or (ready and self._estimate is None)
        ui.progressBar.visible = self._start is not None
        if not self._list.isLooking:
            ui.diskLabel.text = self._diskText()

    def _canLeaveOut(self):
        table = self.logic.table
        return table.count(cases.VALIDATION) == 0 and table.count(cases.LABELLED) > 1

    def _spacing(self):
        """Of the model's grid, (x, y, z) mm."""
        choice = self._choice(self._parameters.startModel)
        return choice.card["grid"]["spacing"] if choice and choice.card else [self._parameters.spacing] * 3

    def _diskText(self):
        place = Path(self.ui.runsFolderButton.directory)
        try:
            while not place.exists() and place != place.parent:
                place = place.parent
            free = shutil.disk_usage(place).free
        except OSError:  # a drive or a share that is not there now
            return _("The folder for runs can't be reached; choose another.")
        need = self.logic.table.diskNeed(self._spacing())
        text = _("The run needs about {need}, {free} are free.") if need < free else _("{need} needed, {free} free.")
        return text.format(need=bytesText(need), free=bytesText(free))

    def showRun(self):
        """Show the runs and what came of the chosen one; called at every look at them too."""
        if self._parameters is None:
            return
        self._view.show()
        self._judge()
        ui, ready = self.ui, self._outcome is not None
        figures = ready and bool(self._outcome.rows)
        ui.useButton.enabled = ui.exportButton.enabled = ready
        ui.saveCsvButton.enabled = ui.saveHtmlButton.enabled = figures
        ui.resultLabel.text = self._outcome.sentence if ready else _("The result comes here when a training is done.")
        self._showFigures(self._parameters.table if figures else None)
        ui.resultTable.visible = figures and not ui.resultCollapsibleButton.collapsed
        if not ui.logCollapsibleButton.collapsed:
            lines = "\n".join(self._logLines())
            if ui.logText.plainText != lines:
                ui.logText.plainText = lines

    def _showFigures(self, tableNode):
        table = self.ui.resultTable
        if table.mrmlTableNode() is not tableNode:
            table.setMRMLTableNode(tableNode)
        if tableNode is not None and not self.ui.resultCollapsibleButton.collapsed:
            table.resizeRowsToContents()
            fitting.stretch(table.horizontalHeader(), STRUCTURE)
            fitting.fitHeight(table, *TABLE_HEIGHTS)

    def _judge(self):
        """The figures of the chosen run once it is done, which means that its model was read back."""
        run = self._view.run
        done = run is not None and run.state == runs.DONE and run.modelFolder is not None
        judged = str(run.folder) if done else None
        if judged == self._judged:
            return
        self._judged, self._outcome = judged, None
        if done:
            with self._showingErrors("save"):
                load_card(run.modelFolder)
                names = json.loads(self._parameters.caseNames).get(judged, {})
                self._outcome = outcome.Outcome(run, names)
                self._set(table=self._outcome.table())


class SimCVDTrainLogic(ScriptedLoadableModuleLogic):
    """What works without the panel.

    Args:
        onCases: called without arguments when the list of cases has changed.
    """

    def __init__(self, onCases=lambda: None):
        ScriptedLoadableModuleLogic.__init__(self)
        self._onCases = onCases
        self._table = None
        self._seen = {}  # what was seen of files on disk, by which they are not read again at each visit

    def getParameterNode(self):
        return SimCVDTrainParameterNode(super().getParameterNode())

    @property
    def table(self):
        """The list of cases of this scene, a cases.CaseTable."""
        if self._table is None:
            self._table = cases.CaseTable.load(self._onChange)
            for row in self._table.rows:
                row.seen = self._seen.get(caselook.filesOf(row)) if row.isOnDisk else None
        return self._table

    def forget(self):
        """The scene has changed: its list of cases is read anew."""
        for row in self._table.rows if self._table is not None else ():
            if row.isOnDisk and row.seen is not None:
                self._seen[caselook.filesOf(row)] = row.seen
        self._table = None

    def _onChange(self):
        if self._table is not None:
            self._table.save()
            self._onCases()

    def addLabelledCase(self, volumeNode, segmentationNode, segmentId=""):
        """Put a scan with its outline on the list; returns its row. Raises SimCVDError."""
        return self.table.addLabelledCase(volumeNode, segmentationNode, segmentId or None)

    def openCase(self, row):
        """The volume node of a case, which is loaded with its outline where it lies on disk. Raises SimCVDError."""
        if row.isGone:
            raise SimCVDError(
                _("{name} is no longer in the scene; load it or take it off the list.").format(name=row.name)
            )
        if row.volume is None:
            loadCase(self.table, row)
        return row.volume

    def outlineOf(self, row):
        """The segmentation node of a case; a new one with an empty segment where it has no outline."""
        if row.segmentation is None:
            self.table.setLabel(row, newOutline(self.table, row))
        return row.segmentation

    def plan(
        self,
        name,
        *,
        model="left-atrium",
        minutes=60,
        device="auto",
        method="simcvd",
        augmentation=None,
        spacing=1.25,
        seed=1337,
        leaveOut=False,
        settings=None,
    ):
        """What a training of the cases on the list is to be: a dictionary that `start` and `estimate` take.

        Args:
            name: of the new model.
            model: name or folder of the model to start from; None trains from scratch.
            minutes: how long, unless the settings name iterations; None is the published schedule of 6000 steps.
            device: "auto", "cpu", "cuda" or "mps".
            method: one of METHODS.
            augmentation: how scans are varied: one of AUGMENTATIONS; None leaves it to what is usual.
            spacing: of the model's grid in mm, from scratch; a model that is started from keeps its own.
            seed: the same seed gives the same model on the same computer.
            leaveOut: measure it by trainings that each leave out one labelled case, for want of validation cases.
            settings: other wishes as simcvd.training.setup.create_run takes them.

        Raises:
            SimCVDError: with one sentence that says what is wrong and what to do.
        """
        if self.table.blocking():
            raise SimCVDError(self.table.blocking())
        if not is_name(name):
            raise SimCVDError(_("The name must be of letters, digits, dots, dashes and underscores; give another."))
        if (model_folders()[0] / name).exists():
            raise SimCVDError(_("There is a model {name} already; give the new one another name.").format(name=name))
        described = {"name": name, "title": name}
        wishes = {"device": device, "seed": int(seed), "model": described}
        if minutes and "iterations" in (settings or {}):
            wishes["recipe"] = "short"  # so many steps of what the minutes would have been spent with
        elif minutes:
            wishes["minutes"] = minutes
        if augmentation:
            wishes["augmentation"] = augmentation
        if model:
            folder = find_model(model)
            card = load_card(folder)
            if sentence := self.table.mismatch(card):
                raise SimCVDError(sentence)
            wishes["from_model"] = str(folder)
            described |= self.table.otherStructure(card)
        elif segments := self.table.segments():  # of cases on disk nobody knows names: the training numbers them
            described["segments"] = segments
        if leaveOut:
            wishes["leave_one_out"] = True
        wishes |= settings or {}
        return {
            "method": method,
            "spacing": None if model else [float(spacing)] * 3,
            "wishes": wishes,
        }

    def estimate(self, plan, onEvent):
        """Find out how far a training gets on this computer; returns what has `cancel()`.

        Args:
            plan: as `plan` gives it.
            onEvent: called with the events; the last is "done" (see simcvd.training.estimate), "cancelled" or "error".
        """
        request = {"do": "estimate", "run": plan, "classes": max(1, self.table.structures()) + 1}
        jobId = jobs.worker().submit({**request, "cases": self.table.shapes()}, onEvent)
        return _WorkerJob(jobId)

    def start(self, plan, folder, onChange=lambda: None):
        """Copy the cases into a new run folder and start the training, without waiting for it.

        Args:
            plan: as `plan` gives it.
            folder: where the run folder is made, named as the model.
            onChange: called without arguments whenever something about the result has changed.

        Returns:
            the Start under way. Raises SimCVDError when it can't begin.
        """
        start = Start(self.table, plan, Path(folder), onChange)
        start.begin()
        return start

    def train(self, name, folder=None, **wishes):
        """Start a training and wait until its process runs; takes what `plan` takes and returns the runs.Run.

        The run goes on by itself: look at it with `run.poll()` and `run.state`. Raises SimCVDError.
        """
        start = self.start(self.plan(name, **wishes), Path(folder or runlist.runsFolder()))
        while not start.finished:
            slicer.app.processEvents()
            time.sleep(0.002)
        if start.run is None:
            raise SimCVDError(start.error)
        logging.info(f"SimCVD: training in {start.run.folder}")
        return start.run


class _WorkerJob:
    def __init__(self, jobId):
        self._id = jobId

    def cancel(self):
        jobs.worker().cancel(self._id)


def settingsOf(text):
    """The wishes of create_run that a line such as "lambda=0.25 threads=4" means; raises SimCVDError."""
    wishes = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise SimCVDError(_("The setting {part} is not NAME=VALUE; write lambda=0.25, say.").format(part=part))
        with contextlib.suppress(ValueError):
            value = json.loads(value)
        group = "optimiser" if key in PUBLISHED["optimiser"] else "settings"
        (wishes if key in RUN_SETTINGS else wishes.setdefault(group, {}))[key] = value
    return wishes


class SimCVDTrainTest(ScriptedLoadableModuleTest):
    """What "Reload and Test" runs: the sample comes on the list of cases with its outline, and leaves it again."""

    def runTest(self):
        self.test_sample()

    def test_sample(self):
        """A scan of the scene finds its outline."""
        volume, reference = samples.loadSample()
        logic = SimCVDTrainLogic()
        row = logic.addLabelledCase(volume, reference)
        self.assertEqual((row.role, logic.table.rows[-1]), ("labelled", row))
        logic.table.remove([row])
        self.delayDisplay(_("Test passed."))
