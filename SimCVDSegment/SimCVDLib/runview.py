"""The section Run of the training panel: all runs, whoever started them, and how the chosen one goes."""

import qt
import slicer
from slicer.i18n import tr as _

from simcvd.errors import SimCVDError
from SimCVDLib import runs
from SimCVDLib.caselist import ID
from SimCVDLib.curves import Curves
from SimCVDLib.fitting import fitHeight, fitPicture, stretch
from SimCVDLib.traintexts import messageText, percent, progressText, stateText

POLL_MS = 500
LIST_EVERY = 6  # polls between two looks at the runs that are not chosen
PREVIEW_HEIGHT = 420  # pixels at most
FOLDER = 3  # column of the list of runs
LIST_HEIGHTS = (44, 160)  # pixels, least and most
PLOT = "SimCVDTrain"  # singleton tag of the plot view node


class RunView:
    """Watches runs.

    Args:
        ui: the widgets of the panel.
        parent: what owns the timer.
        showingErrors: context manager that shows a user's error; fresh=False leaves what is shown where there is none.
        onChosen: called with the folder of the run that was chosen, "" for none.
        onChanged: called without arguments after every look at the runs.

    Attributes:
        run: the runs.Run that is watched, or None.
    """

    def __init__(self, ui, parent, showingErrors, onChosen, onChanged):
        self._ui, self._parent, self._showingErrors = ui, parent, showingErrors
        self._onChosen, self._onChanged = onChosen, onChanged
        self.run, self._runs, self._curves = None, [], None
        self._discarded = []  # runs that nobody looks at any more, to be removed once their process has stopped
        self._seen = self._drawn = None  # how many messages are shown, and which picture
        self._polls, self._showing = 0, False
        self._view = slicer.qMRMLPlotView()  # not in the .ui, where the application has no plugin to make one
        self._view.setMRMLScene(slicer.mrmlScene)
        ui.plotFrame.layout().addWidget(self._view)
        for button, slot in (
            (ui.pauseButton, self.onPause),
            (ui.stopButton, self.onStop),
            (ui.discardButton, self.onDiscard),
            (ui.showChartButton, self.onShowChart),
            (ui.openFolderButton, self.onOpenFolder),
            (ui.attachButton, self.onAttach),
        ):
            button.connect("clicked(bool)", slot)
        stretch(ui.runTree.header(), FOLDER)
        ui.runTree.textElideMode = qt.Qt.ElideLeft  # the end of a path tells the most
        ui.chartComboBox.connect("currentIndexChanged(int)", self.show)
        ui.runTree.connect("itemSelectionChanged()", self.onRunChosen)
        ui.keepRunningCheckBox.connect("toggled(bool)", self.onKeepRunning)
        self._timer = qt.QTimer(parent)
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.poll)
        self._timer.start()

    def refresh(self):
        """Look for runs that came or went."""
        self._runs = runs.knownRuns()

    def living(self):
        """Folder of the latest run that is under way, "" where there is none."""
        return next((str(run.folder) for run in self._runs if run.isAlive), "")

    def follow(self, folder):
        """Watch the run in this folder; "" for none."""
        if (str(self.run.folder) if self.run else "") == folder:
            return
        self.release()
        if any(str(run.folder) == folder for run in self._runs):
            self.run = self._takeDiscarded(folder) or runs.Run(folder)  # a new one: the curves begin at the beginning
            self._curves = Curves(self.run.name, self.run.structureName)
            self.poll()

    def release(self):
        """Watch no run; its curves leave the scene."""
        if self._curves is not None:
            self._curves.close()
        self._removePlotView()
        if self.run is not None and self.run.wasDiscarded and not self.run.isGone:
            self._discarded.append(self.run)
        self.run = self._curves = self._seen = self._drawn = None

    def _takeDiscarded(self, folder):
        """The run in this folder that is to be removed, to be watched again, or None."""
        found = next((run for run in self._discarded if str(run.folder) == folder), None)
        if found is not None:
            self._discarded.remove(found)
        return found

    def close(self):
        """Watch nothing any more."""
        self._timer.stop()
        self.release()

    def poll(self):
        """Take in what is new."""
        self._polls += 1
        self._pollDiscarded()
        if self.run is not None:
            with self._showingErrors(fresh=False):
                self._curves.add(self.run.poll())
            if self.run.hasMore:
                qt.QTimer.singleShot(0, self.poll)
            if self._curves.isGone:  # somebody removed the plots
                folder = str(self.run.folder)
                self.release()
                self.follow(folder)
                return
            if self.run.isGone:
                self._onGone()
        if self._polls % LIST_EVERY == 0:
            self.refresh()
        self._onChanged()

    def _pollDiscarded(self):
        for run in list(self._discarded):
            with self._showingErrors(fresh=False):
                run.poll()
            if run.isGone or not run.wasDiscarded:
                self._discarded.remove(run)
                self.refresh()

    def _onGone(self):
        run = self.run
        self.release()
        self.refresh()
        self._onChosen("")
        if not run.wasDiscarded:
            with self._showingErrors():
                raise SimCVDError(
                    _("The folder {folder} was removed, and the run with it; start the training again.").format(
                        folder=run.folder
                    )
                )

    # --- clicks

    def onRunChosen(self):
        item = self._ui.runTree.currentItem()
        if not self._showing and item is not None and item.isSelected():
            self._onChosen(item.data(0, ID))

    def onPause(self):
        """Pause, or go on: after a pause, a stop, a crash or a power cut."""
        with self._showingErrors():
            if self.run.canPause:
                self.run.pause()
            elif self.run.canResume:
                self.run.resume()
            else:
                self.run.start()
        self.poll()

    def onStop(self):
        with self._showingErrors():
            self.run.finish()
        self.poll()

    def onDiscard(self):
        question = _("Delete the run {name} with its folder {folder}? Its model is lost unless you use or export it.")
        if slicer.util.confirmOkCancelDisplay(
            question.format(name=self.run.name, folder=self.run.folder), windowTitle=_("Discard the run")
        ):
            with self._showingErrors():
                self.run.discard()
            self.poll()

    def onKeepRunning(self, checked):
        if not self._showing and self.run is not None:
            with self._showingErrors():
                self.run.staysAfterQuit = checked

    def onShowChart(self):
        slicer.modules.plots.logic().ShowChartInLayout(self._chart())

    def onOpenFolder(self):
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.run.folder)))

    def onAttach(self):
        folder = qt.QFileDialog.getExistingDirectory(self._parent, _("Run folder"))
        if folder:
            with self._showingErrors():
                run = runs.attach(folder)
                self.refresh()
                self._onChosen(str(run.folder))

    # --- showing

    def show(self):
        """Show how the runs stand."""
        before, self._showing = self._showing, True
        try:
            self._showList()
            self._showControls()
            self._showProgress()
        finally:
            self._showing = before

    def _showList(self):
        tree = self._ui.runTree
        chosen = str(self.run.folder) if self.run else ""
        known = [self.run if str(run.folder) == chosen else run for run in self._runs]
        while tree.topLevelItemCount > len(known):
            tree.takeTopLevelItem(len(known))
        for n, run in enumerate(known):
            item = tree.topLevelItem(n) or qt.QTreeWidgetItem(tree)
            item.setData(0, ID, str(run.folder))
            for column, text in enumerate((run.name, stateText(run), percent(run.fraction), str(run.folder))):
                if item.text(column) != text:
                    item.setText(column, text)
                    item.setToolTip(column, text)
            item.setSelected(str(run.folder) == chosen)
        fitHeight(tree, *LIST_HEIGHTS)

    def _showControls(self):
        ui, run = self._ui, self.run
        there = run is not None
        goesOn = there and (run.canResume or run.canStart)
        ui.pauseButton.text = _("Resume") if goesOn else _("Pause")
        ui.pauseButton.enabled = there and (run.canPause or goesOn)
        ui.stopButton.enabled = there and run.canFinish
        ui.discardButton.enabled = ui.openFolderButton.enabled = ui.showChartButton.enabled = there
        ui.keepRunningCheckBox.enabled = there and run.isAlive and run.startedHere
        ui.keepRunningCheckBox.checked = there and run.staysAfterQuit

    def _showProgress(self):
        ui, run = self._ui, self.run
        shown = run is not None and not ui.runCollapsibleButton.collapsed
        for widget in (ui.runProgressBar, ui.progressLabel, ui.plotFrame, ui.messagesText):
            widget.visible = shown
        if run is None:
            self._showPicture(None)
            return
        ui.runProgressBar.value = int(100 * run.fraction)
        ui.progressLabel.text = progressText(run)
        if not self._curves.isGone:
            self._plotView().SetPlotChartNodeID(self._chart().GetID())
        if self._seen != len(run.messages):
            self._seen = len(run.messages)
            ui.messagesText.plainText = "\n".join(messageText(*message) for message in run.messages)
            ui.messagesText.moveCursor(qt.QTextCursor.End)
        self._showPicture(run.preview if shown else None)

    def _showPicture(self, path):
        """The picture as wide as the panel; drawn anew where it or the panel has changed."""
        ui = self._ui
        ui.previewLabel.visible = ui.previewCaption.visible = path is not None
        if path is None:
            return
        drawn = (str(path), path.stat().st_mtime, ui.previewCaption.width)
        if drawn != self._drawn:
            self._drawn = drawn
            pixmap = qt.QPixmap(drawn[0])
            if not pixmap.isNull():
                ui.previewLabel.setPixmap(fitPicture(pixmap, drawn[2], PREVIEW_HEIGHT))

    def _chart(self):
        """The chart node that is chosen for the plot."""
        curves = self._curves
        return (curves.qualityChart, curves.structureChart, curves.lossChart)[self._ui.chartComboBox.currentIndex]

    def _plotView(self):
        """The node of the plot view in the panel, which is none of the layout's."""
        node = slicer.mrmlScene.GetSingletonNode(PLOT, "vtkMRMLPlotViewNode")
        if node is None:
            owner = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", PLOT)
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLPlotViewNode")
            node.UnRegister(None)
            node.SetSingletonTag(PLOT)
            node.SetLayoutName(PLOT)
            node.SetName(PLOT)
            node.SetAndObserveParentLayoutNodeID(owner.GetID())  # else the layout would make a view for it
            node.SetDoPropagatePlotChartSelection(False)  # charts that the user shows elsewhere stay there
            for each in (owner, node):
                each.SetSaveWithScene(False)
                each.SetHideFromEditors(True)
            node = slicer.mrmlScene.AddNode(node)
        self._view.setMRMLPlotViewNode(node)  # the same one changes nothing
        return node

    def _removePlotView(self):
        """A scene that is closed would leave the node without its owner, and then the layout makes a view for it."""
        node = slicer.mrmlScene.GetSingletonNode(PLOT, "vtkMRMLPlotViewNode")
        if node is None:
            return
        self._view.setMRMLPlotViewNode(None)
        owner = node.GetParentLayoutNode()
        for each in (node, owner):
            if each is not None:
                slicer.mrmlScene.RemoveNode(each)
