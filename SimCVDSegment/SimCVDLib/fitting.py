"""Lists and pictures that take the room they need: no scroll bar over a few lines, no empty lines below them."""

import qt


def fitHeight(view, least, most):
    """Make a tree or table as high as its lines, within these limits in pixels."""
    table = hasattr(view, "horizontalHeader")
    header = view.horizontalHeader() if table else view.header()
    lines = sum(view.rowHeight(row) for row in range(view.model().rowCount())) if table else _treeHeight(view)
    height = _hint(header).height() + 2 * view.frameWidth + lines
    if view.horizontalScrollBar().maximum:
        height += _hint(view.horizontalScrollBar()).height()
    view.setFixedHeight(int(max(least, min(most, height))))


def stretch(header, column):
    """Make the columns as wide as what they hold, and let this one take the rest."""
    header.setStretchLastSection(False)
    for n in range(header.count()):
        header.setSectionResizeMode(n, qt.QHeaderView.Stretch if n == column else qt.QHeaderView.ResizeToContents)


def fitPicture(pixmap, width, most):
    """A picture as wide as `width` pixels and at most `most` high, in its own shape; enlarged pixels stay crisp."""
    crisp = pixmap.width() <= width and pixmap.height() <= most
    how = qt.Qt.FastTransformation if crisp else qt.Qt.SmoothTransformation
    return pixmap.scaled(width, most, qt.Qt.KeepAspectRatio, how)


def _treeHeight(tree):
    item, height = tree.topLevelItem(0), 0
    while item is not None:
        height += tree.visualItemRect(item).height()
        item = tree.itemBelow(item)
    return height


def _hint(widget):
    """The size a widget would like: a property, unless a class of its own overrides the method."""
    hint = widget.sizeHint
    return hint if hasattr(hint, "height") else hint()
