"""The cases of a training as a tree: one group for each role, between which cases are dragged."""

import qt
from slicer.i18n import tr as _

from SimCVDLib.fitting import fitHeight

ROLES = ("labelled", "unlabelled", "validation", "out")  # the groups, from above
WIDTHS = (190, 120)  # pixels of the first columns; the notes take the rest
LEAST, MOST = 150, 380  # pixels of height: as many cases as there are
LATER = object()  # what a case gives that is looked at elsewhere
ID = 0x0100  # Qt::UserRole: which case, or which role, an item stands for


def roleName(role):
    """What a role is called in the panel."""
    return {
        "labelled": _("Labelled"),
        "unlabelled": _("Unlabelled"),
        "validation": _("Validation"),
        "out": _("Left out"),
    }[role]


class CaseList:
    """Shows cases in a QTreeWidget with the columns case, outline and notes.

    Args:
        tree: the widget.
        onChosen: called without arguments when other cases are chosen.
        onMoved: called with a list of cases and their new role when they were dragged there.
        draw: called with a case that is new or changed, looks at it and gives its thumbnail as the bytes of a PNG, or
            None; for one case in a turn of the event loop, so that the application stays responsive. Where that takes
            long it gives LATER, and `again` is called when the case can be looked at.
    """

    def __init__(self, tree, onChosen, onMoved, draw):
        self._tree, self._onChosen, self._onMoved, self._draw = tree, onChosen, onMoved, draw
        self._rows, self._shown, self._filling = {}, None, False  # cases by id; what the tree says of them
        self._icons, self._wanted = {}, []  # by case id: (whose outline it shows, icon); ids that are still to be drawn
        self._elsewhere = set()  # ids of those that gave LATER
        self._later = _singleShot(self._readBack)
        self._drawing = _singleShot(self._drawNext)
        root = tree.invisibleRootItem()
        root.setFlags(qt.Qt.ItemIsEnabled)  # nothing is dropped between the groups
        tree.header().setStretchLastSection(True)
        for column, width in enumerate(WIDTHS):
            tree.setColumnWidth(column, width)
        tree.model().connect("rowsInserted(QModelIndex,int,int)", self._onInserted)
        tree.connect("itemSelectionChanged()", self._onSelection)

    @property
    def chosen(self):
        """The cases that are chosen, in the order of the tree."""
        ids = [item.data(0, ID) for item in self._items() if item.isSelected()]
        return [self._rows[identifier] for identifier in ids if identifier in self._rows]

    @property
    def isLooking(self):
        """Whether there are cases that were not looked at yet."""
        return bool(self._wanted or self._elsewhere)

    def choose(self, rows):
        """Choose these cases and no others."""
        ids = {row.id for row in rows}
        before, self._filling = self._filling, True
        for item in self._items():
            item.setSelected(item.data(0, ID) in ids)
        self._filling = before
        self._onSelection()

    def show(self, rows):
        """Show these cases (cases.CaseRow), where anything about them has changed."""
        chosen, self._rows = self.chosen, {row.id: row for row in rows}
        shown = self._said()
        if shown == self._shown:
            return
        self._shown, self._filling = shown, True
        self._tree.clear()
        self._icons = {identifier: kept for identifier, kept in self._icons.items() if identifier in self._rows}
        for role in ROLES:
            self._addGroup(role, [row for row in rows if row.role == role])
        self._filling = False
        self.choose(chosen)
        drawn = {
            identifier
            for identifier, (label, _icon) in self._icons.items()
            if self._rows[identifier].labelText == label
        }
        self._wanted = [row.id for row in rows if row.id in self._wanted or row.id not in drawn]
        self._elsewhere &= self._rows.keys()
        self._drawing.start(0)
        fitHeight(self._tree, LEAST, MOST)

    def redraw(self):
        """Draw all thumbnails anew: outlines may have been edited."""
        self._wanted = list(self._rows)
        self._drawing.start(0)

    def again(self, rows):
        """Draw these cases, which can be looked at now."""
        for row in rows:
            self._elsewhere.discard(row.id)
            if row.id in self._rows and row.id not in self._wanted:
                self._wanted.append(row.id)
        self._drawing.start(0)

    def close(self):
        """Draw no more."""
        self._later.stop()
        self._drawing.stop()

    # --- the tree

    def _addGroup(self, role, rows):
        group = qt.QTreeWidgetItem(self._tree)
        group.setText(0, _("{role} ({count})").format(role=roleName(role), count=len(rows)))
        group.setData(0, ID, role)
        group.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsDropEnabled)
        group.setFirstColumnSpanned(True)
        for row in rows:
            item = qt.QTreeWidgetItem(group)
            item.setData(0, ID, row.id)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsDragEnabled)
            self._write(item, row)
            if row.id in self._icons:
                item.setIcon(0, self._icons[row.id][1])
        group.setExpanded(True)

    def _said(self):
        """All that the tree says."""
        return [(row.id, row.role, *self._texts(row)) for row in self._rows.values()]

    @staticmethod
    def _texts(row):
        outline = row.labelText.replace(": ", "\n", 1) or "-"
        return f"{row.name}\n{sizeText(row)}".strip(), outline, " ".join(row.warnings)

    def _write(self, item, row):
        for column, text in enumerate(self._texts(row)):
            item.setText(column, text)
            item.setToolTip(column, text)

    def _items(self):
        groups = [self._tree.topLevelItem(n) for n in range(self._tree.topLevelItemCount)]
        return [group.child(n) for group in groups for n in range(group.childCount())]

    def _onSelection(self):
        if not self._filling:
            self._onChosen()

    def _onInserted(self, _parent, _first, _last):
        if not self._filling:
            self._later.start(0)  # the drop is not over yet

    def _readBack(self):
        """What was dragged where."""
        moved = {}
        for item in self._items():
            row, role = self._rows[item.data(0, ID)], item.parent().data(0, ID)
            if row.role != role:
                moved.setdefault(role, []).append(row)
        self._shown = None  # the tree differs from what was shown last
        for role, rows in moved.items():
            self._onMoved(rows, role)

    # --- looking at the cases

    def _drawNext(self):
        if not self._wanted:
            return
        try:
            self._drawOne(self._wanted.pop(0))
        finally:  # one that can't be drawn keeps none of the others waiting
            if self._wanted:
                self._drawing.start(0)
        if not self._wanted and not self._elsewhere:
            fitHeight(self._tree, LEAST, MOST)  # with their thumbnails
            self._onChosen()  # there is more to say of the cases now

    def _drawOne(self, identifier):
        row = self._rows[identifier]
        picture = self._draw(row)
        if picture is LATER:
            self._elsewhere.add(identifier)
            picture = None
        else:  # also a case that was loaded meanwhile: nobody will look at its files for it
            self._elsewhere.discard(identifier)
        item = next(item for item in self._items() if item.data(0, ID) == identifier)
        self._write(item, row)
        self._shown = self._said()
        if picture is not None:
            pixmap = qt.QPixmap()
            pixmap.loadFromData(qt.QByteArray(picture))
            self._icons[identifier] = (row.labelText, qt.QIcon(pixmap))
            item.setIcon(0, self._icons[identifier][1])


def sizeText(row):
    """Size and spacing of a case in two lines, or nothing where they are not known."""
    if not row.size or not row.spacing:
        return ""
    size = " x ".join(str(n) for n in row.size)
    even = len({f"{mm:.3g}" for mm in row.spacing}) == 1
    spacing = f"{row.spacing[0]:.3g}" if even else " x ".join(f"{mm:.3g}" for mm in row.spacing)
    return _("{size} voxels\n{spacing} mm").format(size=size, spacing=spacing)


def _singleShot(slot):
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.connect("timeout()", slot)
    return timer
