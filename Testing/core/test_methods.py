import dataclasses

import numpy as np
import pytest
import torch

from simcvd.network import VNet
from simcvd.training.copy_paste import believed, guess_of, labelled_places, mixed, pseudo_labels
from simcvd.training.methods import METHODS, Batch, MethodError, make_method
from simcvd.training.methods.base import distance_maps

SMALL_HEAD = {"pool_size": 16, "head_hidden": 16, "head_width": 8}


def batch(unlabelled=2, progress=0.5, n_classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(2, 16, 32, 32, dtype=torch.uint8)
    for value in range(1, n_classes):
        label[:, 4:12, 8:24, 8 * value : 8 * value + 8] = value
    return Batch(
        labelled=torch.randn(2, 1, 16, 32, 32, generator=generator),
        label=label,
        unlabelled=torch.randn(unlabelled, 1, 16, 32, 32, generator=generator) if unlabelled else torch.empty(0),
        progress=progress,
        generator=generator,
        axial=torch.tensor([[0.0, 1.0]]).expand(2 + unlabelled, 2),
    )


def method(name, n_classes=2, **settings):
    torch.manual_seed(0)
    head = SMALL_HEAD if name == "simcvd" else {}
    return make_method(name, VNet(n_classes, n_filters=2), {**head, **settings}).train()


def has_gradient(module):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_simcvd_terms_and_their_weighted_sum():
    m = method("simcvd")
    terms = m(batch())
    ramp = 0.2865
    expected = (
        terms["segmentation"]
        + 0.1 * terms["sdm"]
        + ramp * (0.5 * terms["contrast"] + 0.1 * terms["distillation"] + 0.1 * terms["consistency"])
    )
    assert terms["total"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_the_student_and_never_the_teacher(name):
    m = method(name)
    m(batch())["total"].backward()
    assert has_gradient(m.student.encoder) and has_gradient(m.student.segmentation_head)
    assert has_gradient(m.student.distance_head)
    for part in ("teacher", "teacher_head", "teacher_heads"):
        if hasattr(m, part):
            assert not has_gradient(getattr(m, part))


def test_contrast_reaches_distance_head_encoder_and_student_head():
    m = method("simcvd")
    m(batch())["contrast"].backward()
    assert has_gradient(m.student.distance_head) and has_gradient(m.student.encoder) and has_gradient(m.student_head)
    assert not has_gradient(m.student.segmentation_head)


def test_without_the_distance_map_contrast_goes_through_the_probability():
    m = method("simcvd", use_sdm_in_contrast=False)
    m(batch())["contrast"].backward()
    assert has_gradient(m.student.segmentation_head) and not has_gradient(m.student.distance_head)


def test_distillation_reaches_the_encoder_only():
    m = method("simcvd")
    m(batch())["distillation"].backward()
    assert has_gradient(m.student.encoder) and not has_gradient(m.student.decoder)


@pytest.mark.parametrize(
    ("setting", "term"), [("lambda", "contrast"), ("beta", "distillation"), ("gamma", "consistency"), ("alpha", "sdm")]
)
def test_a_weight_of_zero_leaves_the_term_out(setting, term):
    m = method("simcvd", **{setting: 0})
    assert term not in m(batch())
    assert setting != "lambda" or not hasattr(m, "student_head")


@pytest.mark.parametrize("name", METHODS)
def test_only_labelled_cases_is_supervised_training(name):
    m = method(name, alpha=0.1)
    terms = m(batch(unlabelled=0))
    assert terms["total"].item() == pytest.approx(terms["supervised"].item())
    terms["total"].backward()
    assert has_gradient(m.student)


def test_unsupervised_terms_alone_train_the_student():
    m = method("simcvd")
    terms = m(batch())
    (terms["total"] - terms["supervised"]).backward()
    assert has_gradient(m.student)


def test_ramp_on_consistency_only():
    assert method("simcvd", ramp_on="con").weights(0.0) == pytest.approx(
        {"contrast": 0.5, "distillation": 0.1, "consistency": 0.1 * 0.0067379}, rel=1e-3
    )


def test_ramp_length_is_a_share_of_the_training():
    m = method("mean_teacher", ramp_length=0.5)
    assert m.ramp(0.25) == pytest.approx(method("mean_teacher").ramp(0.5))
    assert m.ramp(0.8) == 1


def test_contrast_over_some_slices():
    few = method("simcvd", contrast_slices=4)(batch())["contrast"]
    many = method("simcvd")(batch())["contrast"]
    assert few < many


def test_pool_kinds_differ_and_both_work():
    values = {kind: method("simcvd", pool=kind)(batch())["contrast"].item() for kind in ("avg", "max")}
    assert values["avg"] != values["max"]


def test_pd_sum_is_mean_times_voxels():
    mean, total = (method("simcvd", pd_reduction=r)(batch())["distillation"] for r in ("mean", "sum"))
    assert total.item() == pytest.approx(mean.item() * 1 * 2 * 2, rel=1e-4)


def test_noise_is_clipped_and_differs_between_the_two_networks():
    m, b = method("mean_teacher"), batch()
    first, second = (m.noise_for(b.unlabelled, b.generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert first.abs().max() <= 0.2
    assert first.std().item() == pytest.approx(0.1, abs=0.01)


def test_teacher_follows_the_student_with_its_head():
    m = method("simcvd", ema_decay=0.5)
    optimiser = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1)
    m(batch())["total"].backward()
    before = [p.clone() for p in (*m.teacher.parameters(), *m.teacher_head.parameters())]
    optimiser.step()
    m.after_step(100)
    students = (*m.student.parameters(), *m.student_head.parameters())
    teachers = (*m.teacher.parameters(), *m.teacher_head.parameters())
    for old, student, teacher in zip(before, students, teachers, strict=True):
        torch.testing.assert_close(teacher, 0.5 * old + 0.5 * student)


def test_teacher_without_dropout_is_deterministic():
    b = batch()
    quiet, noisy = method("mean_teacher", teacher_dropout=False, noise=0), method("mean_teacher", noise=0)
    first, second, third, fourth = (m.teach(b.generator, b.unlabelled).logits for m in (quiet, quiet, noisy, noisy))
    assert torch.equal(first, second)
    assert not torch.equal(third, fourth)


def test_deployed_network():
    m = method("simcvd")
    assert m.deployed is m.student
    m = method("simcvd", deploy="teacher")
    assert m.deployed is m.teacher


@pytest.mark.parametrize("name", METHODS)
def test_two_foreground_classes(name):
    m = method(name, n_classes=3)
    terms = m(batch(n_classes=3))
    assert torch.isfinite(terms["total"])
    assert distance_maps(batch(n_classes=3).label, 2).shape == (2, 2, 16, 32, 32)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lamda": 1}, "no setting 'lamda'"),
        ({"pool": "mean"}, "one of avg, max"),
        ({"beta": "much"}, "a number"),
        ({"beta": True}, "a number"),
        ({"tau": float("nan")}, "a number"),
        ({"use_sdm_in_contrast": 1}, "true or false"),
        ({"tau": 0}, "tau is a number above 0"),
        ({"pool_size": 32.5}, "pool_size is a whole number from 1 on"),
        ({"head_hidden": 0}, "head_hidden is a whole number from 1 on"),
        ({"contrast_slices": 1.5}, "contrast_slices is a whole number from 0 on"),
        ({"head_dropout": 1}, "head_dropout is a number from 0 to below 1"),
        ({"ema_decay": 1.5}, "ema_decay is a number from 0 to below 1"),
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(settings, words):
    with pytest.raises(MethodError, match=words):
        make_method("simcvd", VNet(n_filters=2), settings)


@pytest.mark.parametrize("method", METHODS.values())
def test_settings_are_explained_and_those_that_need_others_exist(method):
    assert set(method.meanings) == set(method.defaults)
    assert {*method.needs, *method.needs.values()} <= set(method.defaults)
    assert method.idle(method.defaults, method.checked({})) in ({}, {"pseudo": ["mix"], "guess_every": ["terms_every"]})


def test_unknown_method_is_refused_with_the_names_there_are():
    with pytest.raises(MethodError, match="supervised, mean_teacher, simcvd"):
        make_method("magic", VNet(n_filters=2), {})


def test_copy_paste_shows_both_crops():
    shape = (2, 12, 12, 12)
    true = labelled_places(shape, torch.Generator().manual_seed(1), torch.device("cpu"))
    # an unlabelled box of two thirds a side in the first crop, a labelled one in the second
    assert (~true[0]).sum() == 8**3 and true[1].sum() == 8**3
    label, pseudo = torch.full(shape, 1), torch.full(shape, 2)
    label_of_mix = mixed(true, label, pseudo)
    assert (label_of_mix[true] == 1).all() and (label_of_mix[~true] == 2).all()
    channels = mixed(true, label[:, None].expand(-1, 3, -1, -1, -1), pseudo[:, None].expand(-1, 3, -1, -1, -1))
    assert torch.equal(channels[:, 2], label_of_mix)


def test_mixing_a_coarse_grid_takes_the_side_of_the_cells_centres():
    true = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    true[0, :, :, 2:] = True
    found = mixed(true, torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2))
    assert found[0, 0, :, :, 0].sum() == 0 and found[0, 0, :, :, 1].sum() == 4


def test_copy_paste_shows_the_teacher_whole_crops_and_the_student_mixes():
    m = method("simcvd", pseudo=1.0, noise=0)
    seen = {}
    for name in ("teacher", "student"):
        getattr(m, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    b = batch()
    m(b)
    assert torch.equal(seen["teacher"], torch.cat([b.labelled, b.unlabelled]))
    both = (seen["student"] == b.labelled) | (seen["student"] == b.unlabelled)
    assert both.all() and len(seen["student"]) == len(b.labelled)


def test_guesses_are_due_at_the_end_of_pretraining_and_from_then_on():
    m = method("simcvd", pretrain=0.4, pseudo=0.5, guess_every=0.2)
    assert [t for t in range(11) if m.guesses_due(t, 10)] == [4, 6, 8, 10]
    m = method("simcvd", pretrain=0.0, pseudo=0.5, guess_every=0.3)
    assert [t for t in range(10) if m.guesses_due(t, 10)] == [0, 3, 6, 9]
    assert not any(method(name).guesses_due(0, 10) for name in METHODS)


def test_guesses_tell_how_sure_they_are_until_they_are_read():
    # C - 1 = 2 classes over four voxels: sure of the first, unsure of it, unsure of nothing, sure of the second
    probability = np.array([[0.9, 0.6, 0.3, 0.0], [0.0, 0.3, 0.1, 0.8]], np.float32).reshape(2, 1, 1, 4)
    guess = guess_of(probability, largest=False, threshold=0.7)
    assert guess.ravel().tolist() == [1, 4, 3, 2] and guess.dtype == np.uint8
    classes, sure = believed(torch.from_numpy(guess), 3)
    assert classes.ravel().tolist() == [1, 1, 0, 2] and sure.ravel().tolist() == [1, 0, 0, 1]
    assert guess_of(probability, largest=True, threshold=0.0).ravel().tolist() == [1, 1, 0, 2]


def test_what_the_teacher_is_unsure_of_in_a_scan_teaches_no_classes():
    m = method("simcvd", pseudo=1.0, mix=False, ramp_length=0, guess_every=0.5, alpha=0.0)
    losses = []
    for guess in (0, 1, 2, 3):  # sure of nothing, sure of all, unsure of either
        torch.manual_seed(1)
        b = dataclasses.replace(batch(), guess=torch.full_like(batch().label, guess), iteration=1)
        losses.append(m(b)["segmentation"].item())
    assert losses[2] == losses[3] and len({round(x, 6) for x in losses}) == 3


def test_guesses_of_too_many_classes_are_refused():
    with pytest.raises(MethodError, match="at most 128 classes"):
        make_method("simcvd", VNet(129, n_filters=1), {"pseudo": 1, "guess_every": 0.5, "pseudo_threshold": 0.5})


def test_guesses_take_the_place_of_the_teachers_word_on_crops():
    m = method("simcvd", pseudo=0.5, ramp_length=0, guess_every=0.5, terms_every=2)
    looks = []
    m.teacher.register_forward_hook(lambda *_: looks.append(1))
    b = dataclasses.replace(batch(), guess=torch.ones_like(batch().label), iteration=2)
    assert {"contrast", "distillation", "consistency"} <= set(m(b)) and len(looks) == 1
    b = dataclasses.replace(b, iteration=3, generator=torch.Generator().manual_seed(3))
    terms = m(b)
    assert not {"contrast", "distillation", "consistency"} & set(terms) and len(looks) == 1
    assert torch.equal(terms["total"], terms["supervised"])


def test_without_mixing_crops_stand_side_by_side():
    m = method("simcvd", pseudo=0.5, mix=False, noise=0)
    seen = {}
    for name in ("teacher", "student"):
        getattr(m, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    b = batch()
    terms = m(b)
    both = torch.cat([b.labelled, b.unlabelled])
    assert torch.equal(seen["teacher"], both) and torch.equal(seen["student"], both)
    assert {"supervised", "contrast", "distillation", "consistency"} <= set(terms)


def test_pseudo_labels_count_from_a_confidence_on():
    logits = torch.tensor([[[[[0.0, 4.0]]], [[[0.4, 0.0]]]]])
    classes, counts = pseudo_labels(logits, 0.9, largest=False)
    assert classes.flatten().tolist() == [1, 0]
    assert counts.flatten().tolist() == [0, 1]


def test_pseudo_labels_of_the_largest_part_only():
    foreground = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    logits = torch.stack([1 - foreground, foreground])[None, :, None, None] * 5
    assert pseudo_labels(logits, 0.0, largest=False)[0].flatten().tolist() == [1, 0, 1, 1, 0]
    assert pseudo_labels(logits, 0.0, largest=True)[0].flatten().tolist() == [0, 0, 1, 1, 0]


def test_copy_paste_trains_without_a_ramp_problem():
    m = method("simcvd", pseudo=0.5)
    terms = m(batch(progress=0.0))
    terms["total"].backward()
    assert torch.isfinite(terms["total"]) and has_gradient(m.student)


@pytest.mark.parametrize("name", ["mean_teacher", "simcvd"])
def test_pretraining_learns_from_labelled_crops_and_hands_the_student_over(name):
    m = method(name, pretrain=0.5)
    terms = m(batch(progress=0.4))
    assert "consistency" not in terms and terms["total"].item() == pytest.approx(terms["supervised"].item())
    torch.optim.SGD(list(m.student.parameters()), lr=0.1).step()
    m.after_step(1)
    theirs = m.student.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in m.teacher.state_dict().items())
    assert "consistency" in m(batch(progress=0.5))
    assert m.ramp(0.5) == pytest.approx(method(name).ramp(0)) and m.ramp(0.75) == pytest.approx(method(name).ramp(0.5))


def smallest_batch(m, labelled, unlabelled, progress):
    """Crops of 16 voxels a side, of which batch norm at the bottom needs two, as the training loop draws them."""
    share = m.share_of_batch(progress)
    labelled, unlabelled = (max(1, int(n * share)) for n in (labelled, unlabelled))
    unlabelled *= m.uses_unlabelled(progress)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(labelled + unlabelled, 1, 16, 16, 16, generator=generator)
    return Batch(
        labelled=image[:labelled],
        label=(image[:labelled, 0] > 1).byte(),
        unlabelled=image[labelled:] if unlabelled else torch.empty(0),
        progress=progress,
        generator=generator,
        guess=(image[labelled:, 0] > 1).byte(),
        axial=torch.tensor([[0.0, 1.0]]).expand(len(image), 2),
    )


@pytest.mark.parametrize("crops", [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4)], ids=str)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("supervised", {}),
        ("mean_teacher", {}),
        ("mean_teacher", {"pretrain": 0.5}),
        ("simcvd", {}),
        ("simcvd", {"pretrain": 0.5}),
        ("simcvd", {"halve": True}),
        ("simcvd", {"halve": True, "pretrain": 0.5}),
        ("simcvd", {"pseudo": 1.0}),
        ("simcvd", {"pseudo": 1.0, "mix": False}),
        ("simcvd", {"pseudo": 1.0, "mix": False, "halve": True, "pretrain": 0.5, "guess_every": 0.5}),
        ("global_local", {}),
        ("global_local", {"global_share": 0.0, "local_share": 0.0}),
        ("action", {}),
        ("action++", {"pseudo": 0.0}),
    ],
)
def test_passes_tell_whether_the_smallest_crops_suffice_for_batch_norm(name, settings, crops):
    m = method(name, **settings)
    if settings.get("pseudo") and m.settings.get("mix") and crops[0] != crops[1]:
        return  # mixing pairs crops, and is refused for that
    enough = True
    for progress in (0.0, 0.3, 0.7):
        try:
            m(smallest_batch(m, *crops, progress))["total"].backward()
        except ValueError as error:
            assert "more than 1 value per channel" in str(error)
            enough = False
    assert (min(m.passes(m.settings, *crops)) > 1) == enough


def another(method_class, setting):
    """A value of a setting that is neither its default nor off."""
    default = method_class.defaults[setting]
    if choices := method_class.choices.get(setting):
        return next(choice for choice in choices if choice not in (default, "none"))
    if isinstance(default, bool):
        return not default
    return default / 2 or 1.0 if isinstance(default, float) else 2 * default or 1


@pytest.mark.parametrize(
    ("name", "setting", "needed"),
    [(name, *need) for name, m in METHODS.items() if name != "action" for need in m.needs.items()],
)
def test_settings_that_are_told_to_do_nothing_change_no_loss(name, setting, needed):
    default = METHODS[name].defaults[needed]
    off = {needed: "none" if isinstance(default, str) else type(default)(0)}
    if needed == "guess_every":
        off |= {"pseudo": 1.0, "mix": False}
    plain, changed = (method(name, **off, **more) for more in ({}, {setting: another(METHODS[name], setting)}))
    state = changed.state_dict()  # heads that nothing uses may have another size, and the same chance for all others
    same = {key: value for key, value in plain.state_dict().items() if key in state and value.shape == state[key].shape}
    changed.load_state_dict({**state, **same})
    for progress in (0.05, 0.2, 0.9):
        losses = []
        for m in (plain, changed):
            torch.manual_seed(1)
            seen = dataclasses.replace(batch(progress=progress), guess=batch().label)
            losses.append(m(seen)["total"].item())
        assert losses[0] == losses[1]
