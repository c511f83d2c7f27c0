import numpy as np
import pytest
from test_worker import talk  # noqa: F401 - a fixture
from training_runs import ball_cases, small_run

from simcvd.images import read_volume, write_volume
from simcvd.ranking import Rank, Ranker, boundary_uncertainty, in_words, order, rank_cases, unlikeness
from simcvd.training.loop import Trainer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that has learned balls, and scans: a ball, more like it, one in heavy noise."""
    folder = tmp_path_factory.mktemp("ranking")
    wishes = {"iterations": 150, "network": {"n_filters": 4}, "patch": [16, 32, 32], "validate_percent": 100}
    cases = ball_cases(folder / "cases", labelled=4, unlabelled=2, validation=0)
    Trainer(small_run(folder / "run", "supervised", cases, **wishes)).run()
    (folder / "run" / "model").rename(folder / "model")
    for name, number in (("ball", 0), ("second", 1), ("third", 2), ("fourth", 3), ("like", 4)):
        (folder / f"{name}.nrrd").write_bytes((folder / "cases" / f"{number}-image.nrrd").read_bytes())
    like = read_volume(folder / "like.nrrd")
    noise = np.random.default_rng(0).normal(0, 150, like.array.shape)
    write_volume(folder / "noisy.nrrd", (like.array + noise).astype(np.float32), like.geometry)
    return folder


def files(place, *names):
    return [(name, place / f"{name}.nrrd") for name in names]


def test_the_uncertain_and_the_unlike_come_first(place):
    ranker = Ranker(place / "model", "cpu")
    labelled = files(place, "ball", "second", "third", "fourth")
    ranks = list(rank_cases(ranker, files(place, "ball", "like", "noisy"), labelled))
    known, like, noisy = ranks
    assert 0 <= like.uncertainty < noisy.uncertainty <= 1
    assert known.unlikeness < 0.01 < min(like.unlikeness, noisy.unlikeness) < 1
    assert order(ranks) == ["noisy", "like", "ball"]


def test_a_case_that_can_not_be_read_has_a_sentence_and_comes_last(place, tmp_path):
    (tmp_path / "broken.nrrd").write_bytes(b"no image")
    cases = [("broken", tmp_path / "broken.nrrd"), *files(place, "like")]
    ranks = list(rank_cases(Ranker(place / "model", "cpu"), cases))
    assert ranks[0].uncertainty is None and "broken.nrrd" in ranks[0].reason
    assert order(ranks) == ["like", "broken"]


def test_uncertainty_counts_near_the_boundary_only():
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[5:15, 10:30, 10:30] = 1
    far = np.zeros(labels.shape)
    far[:, :4] = 1
    assert boundary_uncertainty(labels, far, (1, 1, 1)) == 0
    assert boundary_uncertainty(labels, np.full(labels.shape, 0.3), (1, 1, 1)) == pytest.approx(0.3)
    assert boundary_uncertainty(np.zeros_like(labels), far, (1, 1, 1)) == 1
    assert boundary_uncertainty(np.ones_like(labels), far, (1, 1, 1)) == pytest.approx(0.1)


def test_unlikeness_is_a_half_at_the_labelled_cases_own_distance():
    turned = lambda angle: np.array([np.cos(angle), np.sin(angle)])  # noqa: E731
    labelled = [turned(0), turned(0.2)]
    assert unlikeness(turned(0), labelled) == pytest.approx(0, abs=1e-6)
    assert unlikeness(turned(0.4), labelled) == pytest.approx(0.5)
    assert unlikeness(turned(1.5), labelled) > 0.9
    assert 0 < unlikeness(turned(0.1), labelled[:1]) < unlikeness(turned(0.3), labelled[:1]) < 1


def test_the_order_weighs_both_measures_and_says_why():
    ranks = [Rank("a", 0.2, 0.1, ""), Rank("b", 0.4, 0.9, ""), Rank("c", 0.3, 0.2, ""), Rank("d", None, None, "")]
    assert order(ranks) == ["b", "c", "a", "d"]
    words = {in_words(unsure, d, found=True) for unsure in (False, True) for d in (None, 0.1, 0.9)}
    words.add(in_words(True, None, found=False))
    assert len(words) == 7 and all(w.endswith(".") for w in words)


def test_through_the_worker(place, talk):  # noqa: F811
    one = talk()
    scans = [
        [{"id": name, "image": str(path)} for name, path in files(place, *names)]
        for names in (("like", "noisy"), ("ball", "second"))
    ]
    one.send("rank", id="1", model=str(place / "model"), cases=scans[0], labelled=scans[1], device="cpu")
    heard = one.until(lambda e: e["event"] in ("done", "error"))
    ranked = [e for e in heard if e["event"] == "ranked"]
    assert [e["case"] for e in ranked] == ["like", "noisy"] and {e["id"] for e in ranked} == {"1"}
    assert heard[-1]["order"] == ["noisy", "like"]
    wrong = one.ask("rank", id="2", model=str(place / "model"), cases=[{"id": "x"}])
    assert wrong["kind"] == "request"
    one.send("rank", id="3", model=str(place / "model"), cases=scans[0] * 50, device="cpu")
    one.until(lambda e: e["event"] == "ranked")
    one.send("cancel", id="3")
    assert one.ending("3")["event"] == "cancelled"


def test_an_estimate_through_the_worker(talk):  # noqa: F811
    one = talk()
    place = {"role": "labelled", "size": [48, 48, 32], "spacing": [2, 2, 2.5], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    run = {"method": "supervised", "wishes": {"network": {"n_filters": 2}, "iterations": 50}, "spacing": [2, 2, 2]}
    done = one.ask("estimate", run=run, classes=2, cases=[place] * 3)
    assert done["event"] == "done" and done["steps"] == 50 and done["seconds"] > 0
    assert done["minutes_plan"]["10"] < done["minutes_plan"]["480"]
    assert one.ask("estimate", id="2", run={**run, "method": "x"}, classes=2, cases=[place])["kind"] == "settings"
    assert one.ask("estimate", id="3", run=run, classes=2, cases=[{**place, "role": 3}])["kind"] == "request"
