"""The way from a list of cases to a training that runs, without waiting for it."""

from simcvd.errors import SimCVDError
from simcvd.models import load_card
from SimCVDLib import jobs, runlist, runs
from SimCVDLib.caseexport import Export


class Start:
    """The way from the list of cases to a training that runs.

    Attributes:
        fraction: of the copying, 0 to 1.
        finished: it runs, failed or was cancelled.
        error: None, or one sentence.
        run: the runs.Run, once it runs.
        names: {case id in the run: what the case is called in the scene}.
    """

    def __init__(self, table, plan, folder, onChange):
        self.folder = runlist.freeFolder(plan["wishes"]["model"]["name"], folder)
        self.finished, self.error, self.run, self.names = False, None, None, {}
        self._plan, self._onChange = plan, onChange
        model = plan["wishes"].get("from_model")
        self._export = Export(table, self.folder / "source", self._onExport, load_card(model) if model else None)

    @property
    def fraction(self):
        return self._export.fraction

    def begin(self):
        """Begin to copy."""
        try:
            self._export.start()
        except BaseException:
            jobs.removeFolder(self.folder)
            raise

    def cancel(self):
        """Stop copying; nothing is left."""
        self._export.cancel()

    def _onExport(self):
        if self._export.finished and not self.finished:
            self.finished = True
            if self._export.error or self._export.cancelled:
                self.error = self._export.error
                jobs.removeFolder(self.folder)
            else:
                self._launch()
        self._onChange()

    def _launch(self):
        self.names = dict(self._export.names)
        try:
            run = runs.Run.create(self.folder, self._plan)
            run.start()
            self.run = run
        except SimCVDError as error:
            self.error = str(error)
