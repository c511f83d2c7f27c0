"""The methods that train in stages: what each stage teaches whom, and what it remembers."""

import math
import subprocess

import pytest
import torch
from test_methods import batch, has_gradient, method
from test_training import (
    ALONE,
    SCRIPT,
    TWO_PROCESSES,
    assert_same_weights,
    last_step,
    names,
    train,
    train_in_pieces,
    weights,
)
from training_runs import ball_cases, small_run

from simcvd.events import read_events
from simcvd.network import VNet
from simcvd.training.loop import Trainer
from simcvd.training.methods import MethodError, make_method, make_method_settings
from simcvd.training.methods.action import patches, unsupervised_loss
from simcvd.training.methods.global_local import regions

STAGED = ("global_local", "action", "action++")
ACTIONS = ("action", "action++")
GLOBAL, LOCAL, FINE = 0.05, 0.2, 0.9  # moments; with these shares, of the stages of all
SHARES = {"global_share": 0.1, "local_share": 0.3}


def staged(name, n_classes=2, **settings):
    return method(name, n_classes, **SHARES, **settings)


def deep(progress, n_classes=2, seed=0, slices=32):
    """A batch of crops with room for slabs in different partitions."""
    b = batch(progress=progress, n_classes=n_classes, seed=seed)
    for name in ("labelled", "unlabelled", "label"):
        setattr(b, name, getattr(b, name).repeat_interleave(slices // 16, -3))
    return b


def step(m, b):
    """One optimiser step."""
    optimiser = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.01)
    m.zero_grad(set_to_none=True)
    terms = m(b)
    terms["total"].backward()
    optimiser.step()
    m.after_step(5)
    return terms


# --- stages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGED)
def test_stages_follow_from_the_progress(name):
    m = staged(name)
    assert [m.stage(t) for t in (0, 0.09, 0.1, 0.39, 0.41, 1)] == [
        *("global", "global", "local", "local", "fine-tuning", "fine-tuning")
    ]
    assert [share for share, _ in m.phases()] == pytest.approx([0.1, 0.3, 0.6])
    assert [m.stage(moment) for _, moment in m.phases()] == ["global", "local", "fine-tuning"]
    alone = make_method(name, VNet(n_filters=2), {"global_share": 0, "local_share": 0})
    assert alone.stage(0) == "fine-tuning" and len(alone.phases()) == 1


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("action", {"global_share": 0.6, "local_share": 0.4}, "nothing for fine-tuning"),
        ("action", {"queue": 1.5}, "queue is a whole number"),
        ("action", {"queries": 0}, "queries is a whole number"),
        ("action", {"tau_student": 0}, "tau_student is a number above 0"),
        ("action", {"zoom": 1.5}, "zoom is a share"),
        ("action++", {"tau_low": 0}, "tau_low is a number above 0"),
        ("action++", {"centre_rate": 2}, "centre_rate is at most 1"),
        ("action++", {"centres": "many"}, "one of adaptive, fixed, none"),
        ("global_local", {"slab": 20}, "slab is a multiple of 16"),
        ("global_local", {"local_blocks": 5}, "local_blocks is at most 4"),
        ("global_local", {"strategy": "all"}, "one of random, partition-, partition"),
    ],
)
def test_impossible_settings_are_refused_with_a_sentence(name, settings, words):
    with pytest.raises(MethodError, match=words):
        make_method_settings(name, settings)


def test_more_classes_than_a_centre_has_numbers_are_refused():
    with pytest.raises(MethodError, match="3 centres need"):
        make_method("action++", VNet(3, n_filters=2), {"head_width": 2})


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGED)
def test_stage_global_teaches_the_encoder_without_labels(name):
    m = staged(name)
    step(m, deep(GLOBAL))
    b = deep(GLOBAL, seed=1)
    b.label.fill_(1)
    terms = step(m, b)
    assert set(terms) == {"global", "total"} and terms["total"] > 0
    assert has_gradient(m.student.encoder) and has_gradient(m.student.downs)
    assert not any(has_gradient(part) for part in (m.student.decoder, m.student.ups, m.student.segmentation_head))
    heads = m.student_heads["crop"] if name in ACTIONS else m.global_head
    assert has_gradient(heads)
    if name in ACTIONS:
        assert not has_gradient(m.teacher) and not has_gradient(m.teacher_heads)
        assert has_gradient(m.predictors["crop"]) and not has_gradient(m.predictors["patch"])


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize(("moment", "term"), [(GLOBAL, "global"), (LOCAL, "local")])
def test_contrasts_without_labels_count_with_their_weight(name, moment, term):
    m = staged(name, contrast_weight=0.25)
    step(m, deep(moment))
    terms = m(deep(moment, seed=1))
    expected = terms.get("supervised", 0) + 0.25 * terms[term]
    assert terms[term] > 0 and terms["total"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ACTIONS)
def test_local_distillation_reaches_the_whole_student_and_not_the_teacher(name):
    m = staged(name)
    step(m, batch(progress=LOCAL))
    m.zero_grad(set_to_none=True)
    m(batch(progress=LOCAL, seed=1))["local"].backward()
    assert has_gradient(m.student.encoder) and has_gradient(m.student.segmentation_head)
    assert has_gradient(m.student_heads["patch"]) and has_gradient(m.predictors["patch"])
    assert not has_gradient(m.student.distance_head)
    assert not has_gradient(m.teacher) and not has_gradient(m.teacher_heads)


def test_stage_local_learns_from_labels_too_and_keeps_the_first_loss_where_asked():
    assert set(staged("action")(batch(progress=LOCAL))) == {"segmentation", "sdm", "supervised", "local", "total"}
    m = staged("action", global_in_local=True)
    step(m, batch(progress=LOCAL))
    terms = m(batch(progress=LOCAL, seed=1))
    expected = terms["supervised"] + terms["local"] + terms["global"]
    assert terms["global"] > 0 and terms["total"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_stage_local_teaches_the_first_decoder_blocks_alone(blocks):
    m = staged("global_local", local_blocks=blocks)
    m(deep(LOCAL))["total"].backward()
    assert not has_gradient(m.student.encoder) and not has_gradient(m.student.downs)
    assert [has_gradient(block) for block in m.student.decoder] == [n < blocks for n in range(4)]
    assert has_gradient(m.local_head) and has_gradient(m.region_head)


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_anatomical_contrast_reaches_student_and_head_and_not_the_teacher(name, n_classes):
    m = staged(name, n_classes, head_width=8)
    m(batch(progress=FINE, n_classes=n_classes))["anatomical"].backward()
    assert has_gradient(m.student.encoder) and all(has_gradient(block) for block in m.student.decoder)
    assert has_gradient(m.student_heads["voxel"]) and not has_gradient(m.student.segmentation_head)
    assert not has_gradient(m.teacher) and not has_gradient(m.teacher_heads)


@pytest.mark.parametrize("name", ACTIONS)
def test_pseudo_labels_reach_the_student_alone(name):
    m = staged(name, sure=0.4)
    m(batch(progress=FINE))["unsupervised"].backward()
    assert has_gradient(m.student.segmentation_head) and has_gradient(m.student.encoder)
    assert not has_gradient(m.student_heads) and not has_gradient(m.teacher)


def test_fine_tuning_terms_and_their_weighted_sum():
    m = staged("action", sure=0.4, anatomical=0.3, pseudo=0.7)
    terms = m(batch(progress=FINE))
    expected = terms["segmentation"] + 0.1 * terms["sdm"] + 0.7 * terms["unsupervised"] + 0.3 * terms["anatomical"]
    assert terms["unsupervised"] > 0 and terms["total"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not {"unsupervised", "anatomical"} & set(staged("action", anatomical=0, pseudo=0)(batch(progress=FINE)))


def test_fine_tuning_of_global_local_is_supervised():
    terms = staged("global_local")(batch(progress=FINE))
    assert terms["total"] is terms["supervised"] and not staged("global_local").uses_unlabelled(FINE)


@pytest.mark.parametrize("name", ACTIONS)
def test_teacher_and_its_heads_follow(name):
    m = staged(name, ema_decay=0.5)
    before = [p.clone() for p in (*m.teacher.parameters(), *m.teacher_heads.parameters())]
    step(m, batch(progress=FINE))
    theirs = (*m.teacher.parameters(), *m.teacher_heads.parameters())
    ours = (*m.student.parameters(), *m.student_heads.parameters())
    for old, student, teacher in zip(before, ours, theirs, strict=True):
        torch.testing.assert_close(teacher, 0.5 * old + 0.5 * student)


# --- the parts of ACTION --------------------------------------------------------------------------------------------


def test_memory_takes_in_what_the_teacher_saw():
    m = staged("action", queue=6)
    for seed, held in enumerate((4, 6, 6)):
        m(batch(progress=GLOBAL, seed=seed))
        assert m.memory["crop"].items.shape == (held, 1, 128)
    m(batch(progress=LOCAL))
    assert m.memory["patch"].items.shape == (4, 9, 128)
    torch.testing.assert_close(m.memory["patch"].items.norm(dim=-1), torch.ones(4, 9))


def test_patches_are_where_the_published_ones_are():
    assert patches(torch.zeros(1, 2, 80, 112, 112), 20).shape == (1, 700, 2 * 64)
    crop = torch.randn(2, 3, 32, 40, 40, generator=torch.Generator().manual_seed(0))
    found = patches(crop, 20).view(2, 2, 3, 3, 3, 64)  # batch, k, j, i, class, cell
    cube = torch.nn.functional.adaptive_avg_pool3d(crop[1:, :, 10:30, 0:20, 20:40], 4)
    torch.testing.assert_close(found[1, 1, 0, 2], cube[0].flatten(1))
    assert patches(torch.zeros(1, 2, 16, 16, 16), 20).shape == (1, 1, 2 * 64)


def test_unsupervised_loss_weighs_a_crop_by_its_share_of_sure_voxels():
    logits, pseudo = torch.zeros(2, 2, 1, 1, 4), torch.ones(2, 1, 1, 4, dtype=torch.uint8)
    sure = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]).view(2, 1, 1, 4)
    assert unsupervised_loss(logits, pseudo, sure).item() == pytest.approx(math.log(2) * 0.5 / 2)


def test_anatomical_contrast_of_voxels_all_alike_is_the_log_of_their_number():
    m, b = staged("action", 3, negatives=10), batch(n_classes=3)
    alike = torch.ones(3, 10, 4) / 2
    queries = {c: alike[c, :5] for c in range(3)}
    loss = m.anatomical(queries, alike, torch.ones(3, dtype=torch.bool), b)
    assert loss.item() == pytest.approx(3 * math.log(11), rel=1e-5)
    only = m.anatomical(queries, alike, torch.tensor([True, False, False]), b)
    assert only.item() == 0  # nothing to tell the one class from


def test_unlabelled_voxels_count_where_the_teacher_is_confident():
    m = staged("action", pseudo_threshold=1.0, cut_mix=False)
    seen = []
    m.keys = lambda maps, known, generator: seen.append(known) or type(m).keys(m, maps, known, generator)
    b = batch(progress=FINE)
    m(b)
    assert torch.equal(seen[0][:2], b.label) and (seen[0][2:] == 255).all()


def test_cut_mix_shows_the_student_parts_of_two_unlabelled_crops():
    m = staged("action", noise=0, intensity=0)
    seen = []
    m.student.encode = lambda images: seen.append(images) or VNet.encode(m.student, images)
    b = batch(progress=FINE)
    m(b)
    first, second = b.unlabelled
    assert torch.equal(seen[0][:2], b.labelled)
    for n, mix in enumerate(seen[0][2:]):
        own = b.unlabelled[n]
        assert ((mix == first) | (mix == second)).all() and not torch.equal(mix, own)


def test_class_means_and_voxels_of_action_plus_are_remembered():
    m = staged("action++", 3, queries=4, negatives=6, head_width=4, voxel_queue=10)
    keys = torch.nn.functional.normalize(torch.randn(3, 6, 4), dim=-1)
    m.remember(keys, torch.tensor([True, False, True]))
    assert m.memory["voxel_class"].items.tolist() == [0] * 4 + [2] * 4
    assert torch.equal(m.memory["voxel"].items, torch.cat([keys[0, :4], keys[2, :4]]))
    assert m.means.norm(dim=1).tolist() == pytest.approx([1, 0, 1])
    m.remember(keys, torch.tensor([False, True, False]))
    assert m.memory["voxel_class"].items.tolist() == [0] * 2 + [2] * 4 + [1] * 4


def test_centres_go_to_the_classes_nearest_to_them():
    m = staged("action++", 3)
    m.means = m.centres[[2, 0, 1]].clone()
    torch.testing.assert_close(m.centres_of_classes(), m.means)
    fixed = staged("action++", 3, centres="fixed")
    fixed.means = m.means
    assert torch.equal(fixed.centres_of_classes(), fixed.centres)


def test_action_plus_schedules_the_temperature_of_each_half():
    m = staged("action++")
    student = [m.temperatures(t)[0] for t in (0, 0.2, 0.399999)]
    assert student == pytest.approx([1, 0.1, 1], abs=1e-4) and m.temperatures(0.2)[1] == 0.01
    assert [m.scheduled(t, 7) for t in (0.4, 0.7, 1)] == pytest.approx([1, 0.1, 1], abs=1e-4)
    resting = staged("action++", tau_schedule="pretrain")
    assert resting.scheduled(0.7, 7) == 7 and resting.scheduled(0.2, 7) == pytest.approx(0.1)


# --- the parts of global_local --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "negatives", "views"), [("random", 30, 2), ("partition-", 36, 3)])
def test_global_contrast_of_slabs_all_alike_is_the_log_of_their_number(strategy, negatives, views):
    m = staged("global_local", strategy=strategy, partitions=4)
    torch.nn.init.zeros_(m.global_head[-1].weight)
    torch.nn.init.ones_(m.global_head[-1].bias)
    seen = []
    m.global_head.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    loss = m(deep(GLOBAL, slices=64))["global"]
    # four crops of four slabs; others of the slab's partition are no negatives, but with random
    assert seen == [16 * views] and loss.item() == pytest.approx(math.log(1 + negatives), rel=1e-4)


def test_each_slab_knows_its_image_and_its_scan():
    m, whos = staged("global_local", partitions=4), []
    m.loss = lambda vectors, who, pairs: whos.append(who) or vectors.sum()
    m(deep(GLOBAL, slices=64))
    (plain,) = (who for who in whos[0] if (who.view == 0).all())
    # four crops, slab by slab
    assert plain.image.tolist() == list(range(16)) and plain.scan.tolist() == [0, 1, 2, 3] * 4


@pytest.mark.parametrize("across", [False, True])
def test_local_contrast_of_regions_all_alike_is_the_log_of_their_number(across):
    m = staged("global_local", across=across, local_grid=2)
    torch.nn.init.zeros_(m.region_head.weight)
    torch.nn.init.ones_(m.region_head.bias)
    assert m(deep(LOCAL))["local"].item() == pytest.approx(math.log(1 + 2 * 7), rel=1e-4)


def test_regions_lie_from_corner_to_corner():
    cells = torch.arange(7 * 5 * 4.0).view(1, 1, 7, 5, 4)
    found = regions(cells, 3)
    assert found.shape == (1, 3 * 3 * 2, 27)  # four cells have room for two
    assert torch.equal(found[0, 0], cells[0, 0, :3, :3, :3].flatten())
    assert torch.equal(found[0, -1], cells[0, 0, -3:, -3:, -3:].flatten())
    assert regions(torch.zeros(2, 4, 2, 3, 1), 3).shape == (2, 1, 4 * 27)


def test_pretraining_wants_crops_as_they_lie_and_fine_tuning_varied_ones():
    m = staged("global_local")
    assert [m.aligned(t) for t in (GLOBAL, LOCAL, FINE)] == [True, True, False]
    assert not any(staged(name).aligned(t) for name in ACTIONS for t in (GLOBAL, LOCAL, FINE))


# --- whole runs -----------------------------------------------------------------------------------------------------

RUN = {"global_share": 0.34, "local_share": 0.34}
SMALL = {"head_width": 8}


def settings_of(name):
    return {**RUN, **SMALL, **({"queries": 16, "negatives": 16} if name in ACTIONS else {"global_hidden": 8})}


@pytest.mark.parametrize("name", STAGED)
def test_resume_in_every_stage_gives_the_unbroken_weights(tmp_path, name):
    cases = ball_cases(tmp_path / "cases", n_labels=2)
    for run in ("unbroken", "broken"):
        small_run(
            tmp_path / run, name, cases, settings_of(name), iterations=9, patch=[16, 32, 32], checkpoint_seconds=0
        )
    train(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    train_in_pieces(broken)
    assert names(broken).count("stopped") >= 8
    assert_same_weights(weights(tmp_path / "unbroken"), weights(broken))
    events, _ = read_events(tmp_path / "unbroken" / "events.jsonl")
    begun = [(e["iteration"], e["stage"]) for e in events if e["event"] == "stage"]
    assert begun == [(0, "global"), (4, "local"), (7, "fine-tuning")]
    for event in read_events(broken / "events.jsonl")[0]:
        if event["event"] == "stage":  # told anew by each process
            assert event["stage"] == (
                "global" if event["iteration"] < 4 else "local" if event["iteration"] < 7 else "fine-tuning"
            )
        if event["event"] == "step":
            assert event["stage"] == (
                "global" if event["iteration"] <= 4 else "local" if event["iteration"] <= 7 else "fine-tuning"
            )


@pytest.mark.parametrize("wishes", [{"unlabelled": 0}, {"batch": [2, 0]}])
def test_without_unlabelled_crops_there_are_no_stages(tmp_path, wishes):
    cases = ball_cases(tmp_path / "cases", unlabelled=wishes.pop("unlabelled", 2))
    small_run(tmp_path / "run", "action", cases, settings_of("action"), **wishes)
    train(tmp_path / "run")
    assert "stage" not in names(tmp_path / "run") and "stage" not in last_step(tmp_path / "run")


@pytest.mark.parametrize("name", STAGED)
def test_planning_by_minutes_leaves_the_memory_empty(tmp_path, name):
    run = small_run(tmp_path / "run", name, settings=settings_of(name), minutes=1.0)
    trainer = Trainer(run)
    trainer._prepare()
    fresh = make_method(name, VNet(n_filters=2), run.config["settings"]).state_dict()
    planned = trainer.method.state_dict()
    assert {k: v.shape for k, v in planned.items()} == {k: v.shape for k, v in fresh.items()}
    assert run.config["planned"] and run.config["iterations"] > 10


@pytest.mark.parametrize("name", STAGED)
def test_two_processes_hold_one_memory_and_one_model(tmp_path, name):
    wishes = {
        "iterations": 6,
        "precision": "float32",
        "network": {"n_filters": 2, "dropout": 0.0},
        "patch": [16, 32, 32],
    }
    cases = ball_cases(tmp_path / "cases")
    settings = {**settings_of(name), **({"cut_mix": False, "tau_teacher": 0.1} if name in ACTIONS else {})}
    for run in ("one", "two"):
        small_run(tmp_path / run, name, cases, settings, **wishes)
    train(tmp_path / "one")
    subprocess.run([*TWO_PROCESSES, SCRIPT, tmp_path / "two"], env=ALONE, check=True, timeout=240)
    assert names(tmp_path / "two")[-1] == "done"
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    if name in ACTIONS:
        # one after the other: labelled crops of all processes don't stand side by side
        mine, theirs = (w["memory.crop.items"][:, 0] for w in (one, two))
        assert mine.shape == theirs.shape and ((mine @ theirs.T).max(1).values > 0.999).all()
        assert one["memory.patch.items"].shape == two["memory.patch.items"].shape
    if name == "action++":
        assert len(two["memory.voxel.items"]) == len(two["memory.voxel_class.items"]) > 0
    losses = [last_step(tmp_path / run)["loss"] for run in ("one", "two")]
    assert losses[1]["segmentation"] == pytest.approx(losses[0]["segmentation"], rel=0.05)
