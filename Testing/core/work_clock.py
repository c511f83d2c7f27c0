"""A clock for tests of plans and estimates."""

from simcvd.training import estimate as estimation
from simcvd.training import loop, validation
from simcvd.training.loop import Trainer


class WorkClock:
    """Stands for `time` in a training: it goes on by what work is said to cost, however busy this computer is.

    Args:
        step: seconds of a step by the training's progress; case: of segmenting a case; settling: of batch norm.
    """

    def __init__(self, monkeypatch, step, case, settling):
        self.now = 0.0
        for module in (loop, estimation):
            monkeypatch.setattr(module, "time", self)
        costs = {
            "_step": lambda trainer, _crops: step(trainer.iteration / trainer.config["iterations"]),
            "_settle": lambda *_: settling,
        }
        for name, cost in costs.items():
            monkeypatch.setattr(Trainer, name, self._costing(getattr(Trainer, name), cost))
        for module in (loop, estimation, validation):
            monkeypatch.setattr(module, "predict_cases", self._each(module.predict_cases, case))
        monkeypatch.setattr(loop, "predict_probabilities", self._each(loop.predict_probabilities, case))

    def perf_counter(self):
        return self.now

    monotonic = perf_counter

    def _costing(self, work, cost):
        def costing(*args):
            self.now += cost(*args)
            return work(*args)

        return costing

    def _each(self, work, cost):
        def costing(*args):
            for found in work(*args):
                self.now += cost
                yield found

        return costing
