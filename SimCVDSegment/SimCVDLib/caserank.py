"""Which unlabelled case to outline next: the cases go to the background process, which asks a model about each."""

from slicer.i18n import tr as _

from simcvd.cases import read_cases
from simcvd.errors import SimCVDError
from SimCVDLib import jobs
from SimCVDLib.caseexport import Export


class Ranking:
    """One ranking under way.

    Args:
        table: the cases.CaseTable.
        model: folder of the model that is asked.
        onChange: called without arguments whenever an attribute changed.

    Attributes:
        ranked: dictionaries of "case" (id), "uncertainty" and "unlikeness" (0 to 1, or None) and "reason" (a sentence),
            those that would teach the model most first once it is finished.
        fraction: 0 to 1.
        finished: nothing is under way any more.
        sentence: how it stands or ended.
    """

    def __init__(self, table, model, onChange):
        self.ranked, self.fraction, self.finished = [], 0.0, False
        self.sentence = _("Reading the scans...")
        self._model, self._onChange, self._id = model, onChange, None
        self._folder = jobs.scratchFolder()
        self._export = Export(table, self._folder, self._onExport)
        self._asked = set(self._export.names.items())

    def start(self):
        """Begin; nothing is waited for. Without scans that can be read it has finished, and `sentence` says why."""
        try:
            self._export.start()
        except SimCVDError as error:
            self._end(str(error))

    def cancel(self):
        """Stop; `finished` follows."""
        if self._id is not None:
            jobs.worker().cancel(self._id)
        else:
            self._export.cancel()

    def keep(self, known):
        """Say no more of cases whose (id, name) is not among these."""
        self._asked &= known
        self.ranked = [one for one in self.ranked if self._isAsked(one)]

    def _isAsked(self, one):
        return (one["case"], self._export.names.get(one["case"])) in self._asked

    def _onExport(self):
        self.fraction = 0.3 * self._export.fraction
        if self._export.finished and self._id is None and not self.finished:
            if self._export.error:
                self._end(self._export.error)
            elif self._export.cancelled:
                self._end(_("Stopped."))
            else:
                try:
                    self._ask()
                except SimCVDError as error:
                    self._end(str(error))
        self._onChange()

    def _ask(self):
        found = read_cases(self._export.caseList)
        asked = {
            role: [{"id": case.id, "image": str(case.image)} for case in found if case.role == role]
            for role in ("unlabelled", "labelled")
        }
        self._count = len(asked["unlabelled"])
        self.sentence = _("The model looks at the scans...")
        request = {"do": "rank", "model": str(self._model), "cases": asked["unlabelled"], "labelled": asked["labelled"]}
        self._id = jobs.worker().submit(request, self._take)

    def _take(self, event):
        kind = event["event"]
        if kind == "ranked" and self._isAsked(event):
            self.ranked.append({key: event[key] for key in ("case", "uncertainty", "unlikeness", "reason")})
        elif kind == "progress":
            self.fraction = max(self.fraction, 0.3 + 0.7 * event["fraction"])
        elif kind == "done":
            self.ranked.sort(key=lambda one: event["order"].index(one["case"]))
            self._end(_("The first scan would teach the model most. Double-click it to correct the model's proposal."))
        elif kind == "cancelled":
            self._end(_("Stopped."))
        elif kind == "error":
            self._end(event["message"])
        self._onChange()

    def _end(self, sentence):
        self.sentence, self.finished, self.fraction = sentence, True, 1.0
        jobs.removeFolder(self._folder)
