import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from training_runs import SPACING, ball_cases, small_run
from work_clock import WorkClock

from simcvd import files, locks, models
from simcvd.cases import load_prepared
from simcvd.errors import SimCVDError
from simcvd.events import read_events
from simcvd.files import write_json
from simcvd.images import read_volume
from simcvd.network import VNet
from simcvd.segmentation import Segmenter
from simcvd.training import distributed, loop, run_folder, setup
from simcvd.training.ahead import Ahead
from simcvd.training.batch_norm import settle_batch_norm
from simcvd.training.loop import Stopped, Trainer
from simcvd.training.methods import METHODS
from simcvd.training.optimiser import learning_rate
from simcvd.training.recipes import PUBLISHED, RECIPES, default_patch, recipe
from simcvd.training.run_folder import RunFolder, TrainingError
from simcvd.training.setup import settle
from simcvd.training.validation import validate

SCRIPT = Path(__file__).with_name("training_runs.py")
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def train(folder, on_event=None):
    Trainer(RunFolder(folder), on_event).run()


def train_in_pieces(folder):
    """Train to the end, with a stop at every checkpoint."""
    run = RunFolder(folder)

    def stop_always(event):
        if event["event"] == "checkpoint":
            run.control.write_text("stop")

    while "done" not in names(folder):
        with contextlib.suppress(Stopped):
            train(folder, stop_always)


def names(folder):
    return [e["event"] for e in read_events(folder / "events.jsonl")[0]]


def last_step(folder):
    return [e for e in read_events(folder / "events.jsonl")[0] if e["event"] == "step"][-1]


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["method"]


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An unbroken run of twelve steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    small_run(folder, iterations=12)
    train(folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_run_ends_with_a_model_that_segments(tmp_path, method):
    folder = tmp_path / "run"
    small_run(folder, method)
    train(folder)
    events, _ = read_events(folder / "events.jsonl")
    assert events[0]["event"] == "start" and events[-1]["event"] == "done"
    assert {"step", "validation", "checkpoint"} <= set(names(folder))
    last = last_step(folder)
    assert last["iteration"] == last["of"] == 6 and np.isfinite(last["loss"]["total"])
    card = models.load_card(folder / "model")
    assert card["training"]["method"] == method and card["grid"]["spacing"] == [2.0, 2.0, 2.0]
    volume = read_volume(tmp_path / "cases" / "0-image.nrrd")
    assert Segmenter(folder / "model", "cpu").segment(volume).labels.shape == volume.array.shape


def test_training_learns(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, "supervised", iterations=150, network={"n_filters": 4}, patch=[16, 32, 32])
    train(folder)
    done = read_events(folder / "events.jsonl")[0][-1]
    assert done["dice"] > 80


def test_same_seed_same_model_other_seed_another(tmp_path, finished):
    for name, seed in (("again", 1337), ("other", 1)):
        small_run(tmp_path / name, iterations=12, seed=seed)
        train(tmp_path / name)
    assert_same_weights(weights(finished), weights(tmp_path / "again"))
    other = weights(tmp_path / "other")
    assert any(not torch.equal(v, other[k]) for k, v in weights(finished).items())


def test_stop_and_resume_give_the_unbroken_weights(tmp_path, finished):
    folder = tmp_path / "run"
    run = small_run(folder, iterations=12)

    def stop_at_five(event):
        if event["event"] == "step" or event.get("iteration", 0) >= 5:
            run.control.write_text("stop")

    with pytest.raises(Stopped):
        train(folder, stop_at_five)
    assert names(folder)[-1] == "stopped" and not run.control.exists() and not run.model.exists()
    train(folder)
    assert names(folder)[-1] == "done"
    assert_same_weights(weights(finished), weights(folder))


def test_resume_keeps_what_the_teacher_found_in_the_unlabelled_scans(tmp_path):
    settings = {"pretrain": 0.3, "pseudo": 0.5, "guess_every": 0.3, "terms_every": 2}
    cases = ball_cases(tmp_path / "cases")
    for name in ("unbroken", "broken"):
        small_run(tmp_path / name, cases=cases, iterations=10, settings=settings, checkpoint_seconds=0)
    train(tmp_path / "unbroken")
    train_in_pieces(tmp_path / "broken")
    for name in ("unbroken", "broken"):
        events, _ = read_events(tmp_path / name / "events.jsonl")
        assert [e["iteration"] for e in events if e["event"] == "guess"] == [3, 6, 9]
    assert names(tmp_path / "broken")[-1] == "done"
    assert_same_weights(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))


def test_the_teacher_labels_the_scans_also_where_the_student_becomes_the_model(tmp_path):
    settings = {"pretrain": 0.0, "pseudo": 0.5, "guess_every": 0.5, "deploy": "student"}
    trainer = Trainer(small_run(tmp_path / "run", iterations=2, settings=settings, settle_batch_norm=1))
    trainer._prepare()
    with torch.no_grad():  # a teacher that sees the structure everywhere, and a student that sees it nowhere
        for network, sign in ((trainer.method.teacher, 1), (trainer.method.student, -1)):
            network.segmentation_head.weight.zero_()
            network.segmentation_head.bias.copy_(torch.tensor([-9.0, 9.0]) * sign)
    norm = trainer.method.student.encoder[0][0][1]
    before = norm.running_mean.clone()
    trainer._guess()
    assert all(case.label.all() for case in trainer.unlabelled)
    assert torch.equal(norm.running_mean, before)  # it is the teacher that is made ready for whole scans


def test_crops_drawn_further_ahead_are_the_same_crops(tmp_path, monkeypatch):
    settings = {"pretrain": 0.3, "pseudo": 0.5, "guess_every": 0.3}  # what is drawn depends on the last guesses
    cases, weights_of = ball_cases(tmp_path / "cases"), []
    for count in (1, 5):
        run = small_run(tmp_path / f"run{count}", cases=cases, iterations=10, settings=settings)
        monkeypatch.setattr(Trainer, "_drawn_ahead", lambda self, count=count: Ahead(self._crops, count))
        train(run.path)
        weights_of.append(weights(run.path))
    assert_same_weights(*weights_of)


def test_what_is_ahead_is_drawn_once_and_forgotten_when_told():
    calls, version = [], 1

    def draw(iteration):
        calls.append(iteration)
        return iteration, version

    with Ahead(draw, 3) as ahead:
        assert [ahead.take(n) for n in range(4)] == [(n, 1) for n in range(4)]
        ahead.forget()
        assert len(calls) == len(set(calls)) and max(calls) <= 6
        version = 2
        assert ahead.take(4) == (4, 2) and ahead.take(5) == (5, 2)


def test_half_the_crops_are_drawn_once_unlabelled_ones_join(tmp_path):
    settings = {"pretrain": 0.5, "pseudo": 1.0, "mix": False, "halve": True, "guess_every": 0.5}
    run = small_run(tmp_path / "run", iterations=4, settings=settings)
    trainer, drawn = Trainer(run), []
    draw = trainer._batch
    trainer._batch = lambda crops: drawn.append([len(part) for part in crops]) or draw(crops)
    trainer.run()
    assert drawn == [[2, 0], [2, 0], [1, 1], [1, 1]]


def test_without_unlabelled_scans_no_crop_is_spared_and_nothing_guessed(tmp_path):
    settings = {"pretrain": 0.5, "pseudo": 1.0, "mix": False, "halve": True, "guess_every": 0.5}
    cases = ball_cases(tmp_path / "cases", unlabelled=0)
    run = small_run(tmp_path / "run", cases=cases, iterations=4, settings=settings)
    trainer, drawn = Trainer(run), []
    draw = trainer._batch
    trainer._batch = lambda crops: drawn.append([len(part) for part in crops]) or draw(crops)
    trainer.run()
    assert drawn == [[2, 0]] * 4 and "guess" not in names(run.path)


@pytest.mark.parametrize("threshold", [0.0, 0.75])
def test_a_scan_in_which_nothing_is_found_teaches_nothing(tmp_path, monkeypatch, threshold):
    settings = {"pseudo": 0.5, "guess_every": 0.5, "pseudo_threshold": threshold}
    run = small_run(tmp_path / "run", iterations=4, settings=settings)
    trainer = Trainer(run)

    def something_in_the_second(_predictor, cases, _patch):
        for n, case in enumerate(cases):
            probability = np.zeros((1, *case.image.shape), np.float32)
            probability[0, 4:12, 8:18, 8:18] = 0.7 * n
            yield probability

    monkeypatch.setattr("simcvd.training.loop.predict_probabilities", something_in_the_second)
    trainer.run()
    label = trainer.unlabelled[1].label
    assert np.bincount(label.ravel(), minlength=4)[3 if threshold else 1] == 8 * 10 * 10 and label.max() < 4
    guesses = [e for e in read_events(run.path / "events.jsonl")[0] if e["event"] == "guess"]
    assert [(e["iteration"], e["left_out"]) for e in guesses] == [(0, ["ball2"]), (2, ["ball2"])]
    assert [case.id for case in trainer.sampler.streams[1]] == ["ball3"]


def test_the_network_in_use_has_the_batch_norm_statistics_of_plain_crops():
    torch.manual_seed(0)
    network = VNet(n_filters=2).train()
    batches = [5 + 3 * torch.randn(2, 1, 16, 16, 16) for _ in range(4)]
    settle_batch_norm(network, iter(batches))
    first = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d))
    entering = []
    first.register_forward_pre_hook(lambda _, given: entering.append(given[0]))
    for batch in batches:
        network(batch)
    means = torch.stack([x.mean((0, 2, 3, 4)) for x in entering])
    torch.testing.assert_close(first.running_mean, 0.9**4 * means.mean(0) + _momentum_mean(means), atol=1e-4, rtol=1e-4)
    assert network.training and first.momentum == 0.1


def _momentum_mean(means):
    """What four passes in training mode add to running statistics, at the momentum that settling has to give back."""
    return sum(0.1 * 0.9 ** (3 - i) * mean for i, mean in enumerate(means))


def test_settling_changes_what_is_used_and_not_what_is_learned(tmp_path):
    cases = ball_cases(tmp_path / "cases")
    for name, count in (("plain", 0), ("settled", 2)):
        small_run(tmp_path / name, "supervised", cases=cases, settle_batch_norm=count)
        train(tmp_path / name)
    plain, settled = weights(tmp_path / "plain"), weights(tmp_path / "settled")
    same = {key: torch.equal(plain[key], settled[key]) for key in plain}
    assert all(same[key] for key in same if key.endswith(("weight", "bias")))
    assert not any(same[key] for key in same if key.endswith(("running_mean", "running_var")))


def start_of(folder, cases, **wishes):
    """A run that learned nothing, with the segmentation head that it began with."""
    run = small_run(folder, "supervised", cases=cases, iterations=1, optimiser={"lr": 0.0}, **wishes)
    train(folder)
    found = weights(folder)
    return run, found["student.segmentation_head.weight"], found["student.segmentation_head.bias"]


def test_several_structures_start_from_their_shares(tmp_path):
    run, _, bias = start_of(tmp_path / "run", ball_cases(tmp_path / "cases", n_labels=2), head_start=True)
    labelled = [case for case in run.config["cases"] if case["role"] == "labelled"]
    labels = np.stack([load_prepared(run.path / case["prepared"])["label"] for case in labelled])
    shares = torch.from_numpy(np.bincount(labels.ravel()) / labels.size)
    torch.testing.assert_close(bias.exp(), shares.float(), rtol=1e-4, atol=0)


def told_volumes(model):
    return [segment["volume_ml"] for segment in models.load_card(model)["segments"]]


def test_the_card_tells_the_volumes_that_were_learned_from(tmp_path):
    cases = ball_cases(tmp_path / "cases", n_labels=2)
    run, *_ = start_of(tmp_path / "run", cases)
    labelled = [case for case in run.config["cases"] if case["role"] == "labelled"]
    labels = [load_prepared(run.path / case["prepared"])["label"] for case in labelled]
    expected = [[(label == value).sum() * 8 / 1000 for label in labels] for value in (1, 2)]
    for told, volumes in zip(told_volumes(run.model), expected, strict=True):
        assert told == pytest.approx([min(volumes), max(volumes)])
    card = models.load_card(run.model)
    sizes = [load_prepared(run.path / case["prepared"])["image"].size * 8 / 1000 for case in labelled]
    assert card["scan_ml"] == pytest.approx([min(sizes), max(sizes)])
    card["segments"][0]["volume_ml"], card["scan_ml"] = [0.5, 900.0], [0.25, 9000.0]
    write_json(run.model / "card.json", card)
    on, *_ = start_of(tmp_path / "on", cases, from_model=str(run.model), network={})
    assert told_volumes(on.model)[0] == [0.5, 900.0]
    assert models.load_card(on.model)["scan_ml"] == [0.25, 9000.0]


def test_one_structure_starts_at_random(tmp_path):
    cases = ball_cases(tmp_path / "cases")
    plain, ahead = (start_of(tmp_path / str(on), cases, head_start=on)[1] for on in (False, True))
    assert torch.equal(plain, ahead)


def test_a_start_model_keeps_its_head(tmp_path):
    cases = ball_cases(tmp_path / "cases", n_labels=2)
    run, first, _ = start_of(tmp_path / "first", cases)
    more = {"from_model": str(run.model), "network": {}, "head_start": True}
    torch.testing.assert_close(start_of(tmp_path / "second", cases, **more)[1], first, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("when", [0.0, 0.3])
def test_kill_9_and_resume_give_the_unbroken_weights(tmp_path, finished, when):
    folder = tmp_path / "run"
    small_run(folder, iterations=12, checkpoint_seconds=0)
    process = subprocess.Popen([sys.executable, SCRIPT, folder], env=ALONE)
    wait_for(lambda: "checkpoint" in names(folder), process)
    time.sleep(when)
    process.kill()
    process.wait()
    assert not (folder / "model").exists() or names(folder)[-1] == "done"
    done = subprocess.run([sys.executable, SCRIPT, folder], env=ALONE)
    assert done.returncode == 0 and names(folder)[-1] == "done"
    assert_same_weights(weights(finished), weights(folder))


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)


def test_interrupt_leaves_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, iterations=100_000)
    process = subprocess.Popen([sys.executable, SCRIPT, folder], env=ALONE, stderr=subprocess.DEVNULL)
    wait_for(lambda: "step" in names(folder), process)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert names(folder)[-1] == "stopped" and (folder / "checkpoint.pt").exists()


def test_pause_and_resume(tmp_path):
    folder = tmp_path / "run"
    run = small_run(folder, iterations=100_000)
    process = subprocess.Popen([sys.executable, SCRIPT, folder], env=ALONE, stderr=subprocess.DEVNULL)
    wait_for(lambda: "step" in names(folder), process)
    run.control.write_text("pause")
    wait_for(lambda: names(folder)[-1] == "paused", process)
    count = len(names(folder))
    time.sleep(0.5)
    assert len(names(folder)) == count
    run.control.write_text("resume")
    wait_for(lambda: "resumed" in names(folder), process)
    run.control.write_text("stop")
    process.wait(60)
    assert names(folder)[-1] == "stopped"


def test_a_second_start_on_the_same_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    run = small_run(folder, iterations=100_000)
    process = subprocess.Popen([sys.executable, SCRIPT, folder], env=ALONE, stderr=subprocess.DEVNULL)
    wait_for(lambda: "step" in names(folder), process)
    with pytest.raises(TrainingError, match=r"running in .* already"):
        train(folder)
    run.control.write_text("stop")
    process.wait(60)


def test_a_finished_run_stays_finished(finished):
    before = weights(finished)
    train(finished)
    assert names(finished)[-1] == "done"
    assert_same_weights(before, weights(finished))


def test_two_processes_match_one_with_the_same_global_batch(tmp_path):
    # without dropout, whose masks belong to a process; with every phase and term
    settings = {"head_dropout": 0, "pretrain": 0.3, "pseudo": 0.5, "ramp_length": 0.1}
    network = {"n_filters": 2, "dropout": 0.0}
    wishes = {"iterations": 3, "precision": "float32", "network": network, "patch": [16, 32, 32]}
    cases = ball_cases(tmp_path / "cases")
    for name in ("one", "two"):
        small_run(tmp_path / name, cases=cases, settings=settings, **wishes)
    train(tmp_path / "one")
    subprocess.run([*TWO_PROCESSES, SCRIPT, tmp_path / "two"], env=ALONE, check=True, timeout=120)
    assert names(tmp_path / "two")[-1] == "done" and names(tmp_path / "two").count("start") == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    torch.manual_seed(1337)
    start = VNet(n_filters=2).state_dict()
    learned = [k for k in start if k.endswith(("weight", "bias"))]
    moved = sum((one[f"student.{k}"] - start[k]).square().sum() for k in learned).sqrt()
    apart = sum((one[f"student.{k}"] - two[f"student.{k}"]).square().sum() for k in learned).sqrt()
    # batch norm over a handful of voxels makes much of rounding, and so do pseudo-labels, which are one class or the
    # other; other batches would move elsewhere altogether
    assert moved > 0.01 and apart < 0.2 * moved
    losses = [last_step(tmp_path / name)["loss"] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, "supervised", iterations=200, optimiser={"lr": 1e20})
    with pytest.raises(TrainingError, match=r"no longer .*lower learning rate"):
        train(folder)
    assert names(folder)[-1] == "error" and not (folder / "model").exists()
    if (folder / "checkpoint.pt").exists():
        assert all(v.isfinite().all() for v in weights(folder).values() if v.is_floating_point())


def test_out_of_memory_ends_the_run_with_a_sentence(tmp_path):
    folder = tmp_path / "run"
    run = small_run(folder)
    run.config["patch"] = [16, 2**17, 2**17]
    run.save_config()
    with pytest.raises(TrainingError, match="out of memory"):
        train(folder)
    assert names(folder)[-1] == "error"


def test_processes_agree_on_what_to_say_though_their_clocks_differ(tmp_path):
    small_run(tmp_path / "run", "supervised", iterations=60, precision="float32")
    script = "import sys; sys.path.insert(0, sys.argv[1]); import training_runs; from simcvd.training import loop; "
    script += "loop.STEP_EVENT_SECONDS = 0.01; loop.Trainer(training_runs.RunFolder(sys.argv[2])).run()"
    (tmp_path / "script.py").write_text(script)
    command = [*TWO_PROCESSES, tmp_path / "script.py", SCRIPT.parent, tmp_path / "run"]
    subprocess.run(command, env=ALONE, check=True, timeout=120)
    assert names(tmp_path / "run")[-1] == "done"


def test_processes_agree_on_steps_to_plan_by_though_their_clocks_differ(tmp_path):
    small_run(tmp_path / "run", "supervised", precision="float32")
    (tmp_path / "script.py").write_text("""
import sys, time
sys.path.insert(0, sys.argv[1])
import torch, training_runs
from simcvd.training import distributed, loop
trainer = loop.Trainer(training_runs.RunFolder(sys.argv[2]))
trainer.device = distributed.start(torch.device("cpu"))
trainer._prepare()
time.sleep(0.7 * distributed.rank())  # by which the other has waited as its first step ends
assert trainer._pace(0.0, 1.0, lambda fraction: None) > 0
distributed.stop()
""")
    command = [*TWO_PROCESSES, tmp_path / "script.py", SCRIPT.parent, tmp_path / "run"]
    subprocess.run(command, env=ALONE, check=True, timeout=60)


def test_neighbours_are_those_of_the_global_batch(tmp_path):
    assert torch.equal(distributed.neighbours(torch.arange(3)), torch.tensor([2, 0, 1]))
    (tmp_path / "script.py").write_text("""
import torch
from simcvd.training import distributed
distributed.start(torch.device("cpu"))
mine = torch.full((1, 2), distributed.rank(), dtype=torch.uint8)
assert torch.equal(distributed.neighbours(mine), 1 - mine)
distributed.stop()
""")
    subprocess.run([*TWO_PROCESSES, tmp_path / "script.py"], env=ALONE, check=True, timeout=60)


def test_validation_leaves_the_training_as_it_was(tmp_path):
    trainers = [Trainer(small_run(tmp_path / n, cases=ball_cases(tmp_path / "c"))) for n in ("a", "b")]
    for trainer in trainers:
        trainer._prepare()
        trainer._step(trainer._crops(0))
    trainers[0]._validate()
    for trainer in trainers:
        assert all(m.training for m in trainer.method.student.modules())
        trainer._step(trainer._crops(1))
    assert_same_weights(*(t.method.state_dict() for t in trainers))


def test_a_removed_folder_ends_the_run_with_a_sentence(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, iterations=100_000)

    def remove(event):
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(TrainingError, match="can't be written"):
        train(folder, remove)


def test_damaged_checkpoint_and_foreign_checkpoint(tmp_path):
    folder = tmp_path / "run"
    run = small_run(folder)
    run.checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="can't be read"):
        train(folder)
    run.save_checkpoint({"iteration": 3, "method": {}, "optimiser": {}})
    with pytest.raises(TrainingError, match="other settings"):
        train(folder)


@pytest.mark.parametrize(
    "change, words",
    [(lambda c: c["optimiser"].update(lr="x"), "lr must be a number"), (lambda c: c.pop("device"), "lacks device")],
)
def test_a_run_that_was_changed_by_hand_is_checked(tmp_path, change, words):
    run = small_run(tmp_path / "run")
    change(run.config)
    write_json(run.path / "run.json", run.config)
    with pytest.raises(TrainingError, match=words):
        train(run.path)


def test_minutes_that_hold_hardly_a_step_are_warned_of(tmp_path):
    run = small_run(tmp_path / "run", "supervised", minutes=1e-4)
    train(run.path)
    said = [e["message"] for e in read_events(run.path / "events.jsonl")[0] if e["event"] == "warning"]
    assert any("10 steps don't fit into 0.0001 minutes" in sentence for sentence in said)


def test_folder_without_a_run_and_with_a_damaged_one(tmp_path):
    with pytest.raises(TrainingError, match=r"no run\.json"):
        RunFolder(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match="damaged"):
        RunFolder(tmp_path)


def test_an_existing_run_is_not_overwritten(tmp_path):
    small_run(tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already"):
        small_run(tmp_path / "run")


def test_a_recipe_can_be_wished_for_by_name(tmp_path):
    config = settle("simcvd", SPACING, None, {"recipe": "short", "iterations": 7}, 2)
    assert config["recipe"] == "short" and config["iterations"] == 7
    expected = recipe("short", "simcvd")
    assert config["augmentation"] == expected["augmentation"] and config["optimiser"] == expected["optimiser"]
    # what is named beside the settings stands above them, as options on the command line do
    assert settle("simcvd", SPACING, "published", {"recipe": "short"}, 2)["augmentation"] == "published"
    with pytest.raises(TrainingError, match="no recipe 'long'"):
        settle("simcvd", SPACING, None, {"recipe": "long"}, 2)


def test_planned_minutes_leave_room_for_every_picture(tmp_path, monkeypatch):
    """Without validation cases, too, the network is made ready and shown at every round."""
    cases = ball_cases(tmp_path / "cases", validation=0)
    WorkClock(monkeypatch, lambda progress: 0.1, case=0.25, settling=0.5)

    def planned(name, **wishes):
        run = small_run(tmp_path / name, "supervised", cases, minutes=1.0, **wishes)
        Trainer(run)._prepare()
        return json.loads((run.path / "run.json").read_text())["iterations"]

    # a round takes three quarters of a second, and there is one more at the end
    assert planned("seldom", validate_percent=50) == int((60 - 3 * 0.75) / 0.1)
    assert planned("often", validate_percent=10) == int((60 - 11 * 0.75) / 0.1)
    assert planned("folds", validate_percent=50, leave_one_out=True) == int((30 - 3 * 0.75) / 0.1)


def test_a_word_to_a_run_is_understood_in_any_encoding(tmp_path):
    run = RunFolder(tmp_path, {})
    assert run.command() is None
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        run.control.write_bytes("stop\r\n".encode(encoding))
        assert run.command() == "stop"
    run.control.write_bytes(b"\xff\xfe\n")
    assert run.command() is None


def test_a_word_that_can_not_be_removed_is_emptied(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, {})
    run.control.write_text("stop")

    def refuse(*_, **__):
        raise PermissionError(13, "in use")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        run.clear_command()
    assert run.control.exists() and run.command() is None


def test_a_checkpoint_or_a_log_that_somebody_has_open_ends_no_training(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "supervised", iterations=6, checkpoint_seconds=0)
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    save, refusals = run.save_checkpoint, [PermissionError(13, "in use")] * 2

    def open_but_the_log(path, *rest, **more):
        if Path(path).name == "log.txt":
            raise PermissionError(13, "in use")
        return open(path, *rest, **more)

    def save_the_third_time(state):
        if refusals:
            raise refusals.pop()
        save(state)

    monkeypatch.setattr(run_folder, "open", open_but_the_log, raising=False)
    monkeypatch.setattr(run, "save_checkpoint", save_the_third_time)
    Trainer(run).run()
    said = [e["message"] for e in read_events(run.path / "events.jsonl")[0] if e["event"] == "warning"]
    assert len(said) == 2 and "in use and was not replaced" in said[0]
    assert names(run.path)[-1] == "done" and run.checkpoint.exists()


def test_a_checkpoint_that_may_not_be_written_or_read_is_told_at_once(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "supervised", iterations=6, checkpoint_seconds=0)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(run, "save_checkpoint", refuse)
        with pytest.raises(TrainingError, match="can't be written"):
            Trainer(run).run()
    assert read_events(run.path / "events.jsonl")[0][-1]["iteration"] == 1
    run.checkpoint.touch()
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(TrainingError, match=r"can't be opened .* close what has it open"):
        run.load_checkpoint()


def test_a_run_names_its_cases_as_every_computer_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(setup.os.path, "relpath", lambda *_: str(PureWindowsPath("cases") / "a.npz"))
    monkeypatch.setattr(setup, "Path", PureWindowsPath)
    assert setup._relative(tmp_path, tmp_path) == "cases/a.npz"


def test_a_folder_on_a_file_system_without_locks_can_be_trained_in(tmp_path, monkeypatch):
    def unknown(file):
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(locks, "_claim", unknown)
    run = small_run(tmp_path / "run", "supervised", iterations=1)
    train(run.path)
    assert not locks.is_claimed(run.path / "lock")
    said = [e["message"] for e in read_events(run.path / "events.jsonl")[0] if e["event"] == "warning"]
    assert "never train in it twice at once" in said[0] and names(run.path)[-1] == "done"


def test_minutes_plan_the_schedule(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, minutes=0.05)
    train(folder)
    config = json.loads((folder / "run.json").read_text())
    assert config["planned"] and config["recipe"] == "published" and 10 <= config["iterations"] < 10**4
    done = read_events(folder / "events.jsonl")[0][-1]
    assert done["event"] == "done" and done["iteration"] == config["iterations"]


def test_two_classes(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, cases=ball_cases(tmp_path / "cases", n_labels=2))
    train(folder)
    rows = next(e for e in read_events(folder / "events.jsonl")[0] if e["event"] == "validation")["rows"]
    assert [r["label"] for r in rows] == [1, 2]
    assert models.load_card(folder / "model")["network"]["n_classes"] == 3


def test_without_unlabelled_or_validation_cases(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, cases=ball_cases(tmp_path / "cases", unlabelled=0, validation=0))
    train(folder)
    assert names(folder)[-1] == "done" and "validation" not in names(folder)


def test_starting_from_a_model(tmp_path, finished):
    folder = tmp_path / "run"
    small_run(folder, cases=None, from_model=str(finished / "model"), patch=None, network={}, optimiser={"lr": 0.0})
    train(folder)
    before, after = (models.load_weights(f / "model", models.load_card(f / "model")) for f in (finished, folder))
    kernel = "encoder.0.0.0.weight"
    np.testing.assert_array_equal(before[kernel], after[kernel])


def test_each_model_is_measured_with_its_own_crop(tmp_path, finished, monkeypatch):
    start = shutil.copytree(finished / "model", tmp_path / "start")
    card = models.load_card(start)
    write_json(start / "card.json", {**card, "patch": [64, 64, 64]})
    run = small_run(tmp_path / "run", from_model=str(start), patch=None, network={}, iterations=2, validate_percent=100)
    shapes = [load_prepared(run.path / case["prepared"])["image"].shape for case in run.config["cases"]]
    expected = default_patch(shapes, run.config["spacing"])
    patches = []

    def measured(predictor, cases, spacing, patch, *rest):
        patches.append(list(patch))
        return validate(predictor, cases, spacing, patch, *rest)

    monkeypatch.setattr(loop, "validate", measured)
    train(run.path)
    assert patches == [[64, 64, 64], expected, expected] and expected != [64, 64, 64]
    assert models.load_card(run.model)["patch"] == run.config["patch"] == expected


def test_another_number_of_classes_than_the_model_is_refused(tmp_path, finished):
    with pytest.raises(TrainingError, match="1 classes and the labels have 2"):
        small_run(
            tmp_path / "run", cases=ball_cases(tmp_path / "cases", n_labels=2), from_model=str(finished / "model")
        )


def test_unknown_settings_are_refused_before_anything_is_made(tmp_path):
    for wishes, words in (({"itterations": 3}, "no setting 'itterations'"), ({"settings": {"x": 1}}, "no setting 'x'")):
        with pytest.raises(Exception, match=words):
            small_run(tmp_path / "run", **wishes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"iterations": "many"}, "iterations must be a whole number"),
        ({"batch": [2]}, "batch must be two whole numbers"),
        ({"patch": [16, 16, 20]}, "patch must be three multiples of 16"),
        ({"optimiser": {"lr": -1}}, "lr must be a number"),
        ({"optimiser": {"rate": 1}}, "no setting 'rate'"),
        ({"optimiser": {"step_every": 0}}, "needs step_every"),
        ({"batch": [3, 2], "settings": {"pseudo": 0.5}}, "as many labelled as unlabelled"),
        ({"settings": {"guess_every": 0.1}}, "guess_every needs pseudo above 0"),
        ({"settings": {"terms_every": 0}}, "terms_every is a whole number"),
        ({"batch": [1, 1]}, "too little for batch norm"),
        ({"settings": {"halve": True}}, "too little for batch norm"),
        ({"patch": [16, 16, 512]}, "crop of 512 voxels is far larger than the largest case, 32 along"),
        ({"model": {"name": "no good name"}}, "description of the model has no usable name"),
        ({"network": {"filters": 3}}, "not filters 3"),
        ({"minutes": 5, "iterations": 6}, "some minutes or for some iterations"),
        ({"planned": True}, "no setting 'planned'"),
        ({"augmentation": "wild"}, "one of published, strong, varied, robust, none"),
    ],
)
def test_impossible_settings_are_refused_with_a_sentence(tmp_path, wishes, words):
    with pytest.raises(SimCVDError, match=words):
        small_run(tmp_path / "run", **wishes)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("wishes", "notes"),
    [
        (
            {"settings": {"mix": True, "pseudo_largest": True}},
            ["Settings mix and pseudo_largest do nothing while pseudo"],
        ),
        ({"settings": {"terms_every": 4}}, ["Setting terms_every does nothing while guess_every is off."]),
        (
            {"optimiser": {"kind": "adamw", "momentum": 0.5}},
            ["Setting momentum does nothing with the optimiser adamw."],
        ),
        (
            {"optimiser": {"schedule": "poly", "step_every": 5}},
            ["Setting step_every does nothing with the schedule poly."],
        ),
        (
            {"batch": [2, 0]},
            ["A step takes no unlabelled crop (--batch), so simcvd trains as the supervised one does."],
        ),
        ({"settings": {"mix": False, "pd_reduction": "sum"}, "optimiser": {"momentum": 0.5}}, []),
    ],
)
def test_wishes_that_change_nothing_are_told(tmp_path, wishes, notes):
    told = small_run(tmp_path / "run", **wishes).config["warnings"]
    assert [told_note.startswith(note) for told_note, note in zip(told, notes, strict=True)] == [True] * len(notes)


def test_learning_rates():
    step = PUBLISHED["optimiser"]
    assert [learning_rate(step, i, 6000) for i in (0, 2999, 3000, 5999)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    poly = {**step, "schedule": "poly", "warm_up": 9}
    assert learning_rate(poly, 0, 100) == pytest.approx(0.001)
    assert learning_rate(poly, 50, 100) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(poly, 120, 100) == 0  # where a probe of the speed looks beyond a short training


def test_default_patches_and_recipes():
    assert default_patch([(88, 140, 183)], (0.625,) * 3) == [80, 112, 112]
    assert default_patch([(44, 70, 92)], (1.25,) * 3) == [48, 64, 64]
    assert default_patch([(36, 50, 35)], (1.0,) * 3) == [48, 64, 48]
    assert recipe("published", "simcvd")["settings"] == {}
    assert recipe("short", "simcvd")["settings"]["pseudo"] > 0
    assert recipe("short", "supervised")["settings"] == {}


def test_methods_in_stages_keep_their_rate_where_fine_tuning_begins():
    rates = {}
    for method in METHODS:
        optimiser = recipe("published", method)["optimiser"]
        rates[method] = [learning_rate(optimiser, i, 6000) for i in (0, 2999, 3000)]
    assert rates["simcvd"] == rates["supervised"] == pytest.approx([0.01, 0.01, 0.001])
    assert rates["action"] == rates["action++"] == pytest.approx([0.01, 0.005, 0.005], rel=0.1)
    assert rates["global_local"] == [1e-3] * 3
    assert recipe("published", "action")["optimiser"]["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_suits_every_method(name, method):
    assert settle(method, (1.0, 1.0, 1.0), name, {}, n_classes=3)["recipe"] == name


@pytest.mark.parametrize("largest", [False, True])
def test_a_run_measures_as_its_card_says(tmp_path, monkeypatch, largest):
    def with_a_speck(predictor, cases, patch):
        for case in cases:
            found = case.label.copy()
            found[0, 0, 0] = 1
            yield found

    monkeypatch.setattr("simcvd.training.validation.predict_cases", with_a_speck)
    run = small_run(tmp_path / "run", "supervised", iterations=1, model={"largest": largest})
    train(run.path)
    done = read_events(run.path / "events.jsonl")[0][-1]
    assert (done["dice"] == 100.0) == largest
