"""Refinement: the boundary goes where it was asked to go, in a box, and comes back when it was asked to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from simcvd.distance import signed_distance
from simcvd.refinement import Point, Refinement, free_of

SPACING = (0.8, 1.0, 2.0)  # x, y, z
HALF = 0.4
SHAPE = (30, 60, 70)
CENTRE = (15, 30, 30)


def ball(radius=14.0, centre=CENTRE, shape=SHAPE, spacing=SPACING) -> np.ndarray:
    """A ball of a radius in mm, as a mask."""
    offsets = [(g - c) * s for g, c, s in zip(np.indices(shape), centre, spacing[::-1], strict=True)]
    return sum(o**2 for o in offsets) <= radius**2


def refinement(mask=None, spacing=SPACING) -> Refinement:
    return Refinement(signed_distance(ball() if mask is None else mask, spacing), spacing)


def parts(mask) -> int:
    return ndimage.label(mask)[1]


# --- offset -----------------------------------------------------------------------------------------------------------


def test_nothing_asked_gives_the_segment_itself():
    mask = ball()
    edited = refinement(mask)
    assert np.array_equal(edited.mask, mask)
    change = edited.update()
    assert change.box is None and change.mask is None
    assert np.array_equal(edited.mask, mask)


@pytest.mark.parametrize("offset", [-50.0, -6.0, -0.5, 0.0, 0.7, 4.0, 500.0])
def test_offset_is_a_threshold_of_the_distance_map(offset):
    sdm = signed_distance(ball(), SPACING)
    edited = Refinement(sdm, SPACING)
    edited.update(offset)
    assert np.array_equal(edited.mask, sdm <= np.float32(offset))
    assert np.array_equal(edited.mask, edited.distance <= 0)


def test_an_update_forgets_the_one_before():
    edited = refinement()
    for wish in ({"offset": 9.0}, {"offset": -3.0, "smoothing": 2.0}, {"points": [Point((15, 30, 52), True, 4)]}):
        edited.update(**wish)
        fresh = refinement()
        fresh.update(**wish)
        assert np.array_equal(edited.mask, fresh.mask)
    edited.update()
    assert np.array_equal(edited.mask, ball())


def test_the_changed_box_is_tight_and_holds_every_change():
    edited = refinement()
    drawn = edited.mask.copy()
    for wish in ({"offset": 3.0}, {"offset": 2.0}, {"points": [Point((15, 30, 52), True, 4)]}, {"offset": -30.0}, {}):
        box, mask = edited.update(**wish)
        changed = np.argwhere(drawn != edited.mask)
        assert [(s.start, s.stop) for s in box] == list(zip(changed.min(0), changed.max(0) + 1, strict=True))
        drawn[box] = mask
        assert np.array_equal(drawn, edited.mask)
        mask[:] = 0  # a copy
        assert np.array_equal(drawn, edited.mask)


def test_the_map_given_is_left_alone():
    sdm = signed_distance(ball(), SPACING)
    before = sdm.copy()
    Refinement(sdm, SPACING).update(2.0, [Point((15, 30, 52), True, 4)], True, True, 1.5)
    assert np.array_equal(sdm, before)


# --- points -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 1.5])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize(
    ("position", "inside"), [((15, 30, 54), True), ((15, 33.4, 38.3), False), ((24, 30, 30), True)]
)
def test_a_point_comes_to_lie_on_its_side_by_half_a_voxel(position, inside, offset, smoothing):
    edited = refinement()
    edited.update(offset, smoothing=smoothing)
    voxel = tuple(np.rint(position).astype(int))
    assert edited.mask[voxel] != inside
    edited.update(offset, [Point(position, inside, 5.0)], smoothing=smoothing)
    assert edited.mask[voxel] == inside
    assert edited.distance[voxel] == pytest.approx(-HALF if inside else HALF, abs=1e-4)
    assert np.array_equal(edited.mask, edited.distance <= 0)
    edited.update(offset, smoothing=smoothing)
    assert edited.mask[voxel] != inside


@pytest.mark.parametrize("inside", [True, False])
def test_a_point_on_its_side_does_nothing(inside):
    edited = refinement()
    places = np.argwhere(ball() == inside)[::97]
    assert edited.update(points=[Point(tuple(p), inside, 8.0) for p in places]).box is None


def test_the_boundary_is_pulled_along_as_one_smooth_surface():
    # 12 mm outside and 8 mm inside the ball: far more than the radius asked for
    for position, inside in (((15, 30, 30 + 26 / 0.8), True), ((15, 30, 30 + 6 / 0.8), False)):
        edited = refinement()
        edited.update(points=[Point(position, inside, 1.0)])
        assert parts(edited.mask) == parts(~edited.mask) == 1
        assert edited.mask[tuple(np.rint(position).astype(int))] == inside
        jump = np.abs(np.diff(edited.distance - signed_distance(ball(), SPACING), axis=2)) / 0.8
        assert 0.8 < jump.max() < 1


def test_the_boundary_moves_with_a_point_that_is_dragged():
    edited = refinement()
    volumes = []
    for i in range(46, 60):
        edited.update(points=[Point((15, 30, i), True, 6.0)])
        assert edited.mask[15, 30, i]
        assert not edited.mask[15, 30, max(i + 2, 50)]
        volumes.append(int(edited.mask.sum()))
    assert volumes == sorted(volumes)
    steps = np.diff([v for v in volumes if v > volumes[0]])
    assert steps.max() < 0.1 * volumes[-1]


def test_what_lies_beyond_the_radius_stays():
    edited = refinement()
    before = edited.distance
    edited.update(points=[Point((15, 30, 49), True, 10.0)])
    apart = np.linalg.norm((np.argwhere(before < np.inf) - (15, 30, 49)) * SPACING[::-1], axis=1).reshape(SHAPE)
    assert np.array_equal(edited.distance[apart > 10], before[apart > 10])
    assert np.all(edited.distance[apart < 9.9] < before[apart < 9.9])


@pytest.mark.parametrize("seed", range(6))
def test_many_points_all_have_their_way(seed):
    rng = np.random.default_rng(seed)
    edited = refinement()
    near = np.argwhere(np.abs(edited.distance) < 6)
    chosen = near[rng.choice(len(near), 25, replace=False)]
    points = [Point(tuple(p), bool(rng.integers(2)), float(rng.uniform(0, 12))) for p in chosen]
    edited.update(float(rng.uniform(-3, 3)), points, smoothing=float(rng.integers(2)), largest=True, fill_holes=True)
    assert [edited.mask[tuple(p)] for p in chosen] == [point.inside for point in points]


def test_points_of_one_kind_do_not_add_up():
    alone, together = refinement(), refinement()
    alone.update(points=[Point((15, 30, 54), True, 8.0)])
    together.update(points=[Point((15, 30 + n, 54), True, 8.0) for n in (-1, 0, 1)])
    assert together.distance.min() == pytest.approx(alone.distance.min(), abs=0.1)
    assert together.distance[15, 30, 54] > -HALF - 0.5
    assert together.mask.sum() < 1.05 * alone.mask.sum()


@pytest.mark.parametrize("turn", [1, -1])
def test_two_points_are_both_just_met_in_whatever_order(turn):
    edited = refinement()
    points = [Point((15, 30 + n, 56), True, 8.0) for n in (-4, 4)]
    edited.update(points=points[::turn])
    assert [edited.distance[p.position] for p in points] == pytest.approx([-HALF, -HALF], abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_of_points_leaves_none_short(seed):
    rng = np.random.default_rng(seed)
    edited = refinement()
    crowd = np.argwhere((np.abs(edited.distance - 6) < 2) & (np.indices(SHAPE)[2] > 40))
    crowd = [tuple(p) for p in crowd[rng.choice(len(crowd), 40, replace=False)]]
    edited.update(points=[Point(p, True, float(rng.uniform(5, 25))) for p in crowd])
    depths = np.array([edited.distance[p] for p in crowd])
    assert depths.max() < -HALF + 1e-4
    assert depths.max() > -HALF - 1e-4


def test_a_point_beyond_what_is_smoothed_at_first_is_just_met():
    edited = refinement()
    edited.update(1.0, [Point((15, 30, 68), True, 3.0)], smoothing=2.0)
    assert edited.distance[15, 30, 68] == pytest.approx(-HALF, abs=1e-4)


def test_points_of_both_kinds_side_by_side():
    edited = refinement()
    edited.update(points=[Point((15, 30, 52), True, 20.0), Point((15, 30, 53), False, 20.0)])
    assert edited.mask[15, 30, 52] and not edited.mask[15, 30, 53]
    assert np.array_equal(edited.mask[:, :, 53:], ball()[:, :, 53:])


def test_of_two_points_in_one_voxel_the_last_counts():
    edited = refinement()
    one, other = Point((15.2, 30, 52.4), True, 5.0), Point((15, 30.1, 51.6), False, 5.0)
    edited.update(points=[one, other])
    assert not edited.mask[15, 30, 52]
    edited.update(points=[other, one])
    assert edited.mask[15, 30, 52]


def test_a_point_beyond_the_volume_does_nothing():
    for position in ((-1, 30, 30), (15, 30, 70), (15, 59.6, 30)):
        assert refinement().update(points=[Point(position, True, 50.0)]).box is None


def test_a_point_can_begin_an_empty_segment_and_empty_a_full_one():
    diagonal = np.float32(np.linalg.norm(np.multiply(SHAPE, SPACING[::-1])))
    for value, inside in ((diagonal, True), (-diagonal, False)):
        edited = Refinement(np.full(SHAPE, value), SPACING)
        assert (edited.mask != inside).all()
        edited.update(points=[Point((15, 30, 35), inside, 5.0)])
        assert edited.mask[15, 30, 35] == inside
        assert (edited.mask == inside).sum() < edited.mask.size / 4


# --- parts, holes, smoothing ------------------------------------------------------------------------------------------


def two_balls() -> np.ndarray:
    return ball(9.0) | ball(5.0, (15, 30, 58))


def test_the_largest_part_stays_and_parts_with_a_point():
    edited = refinement(two_balls())
    edited.update(largest=True)
    assert np.array_equal(edited.mask, ball(9.0))
    assert np.array_equal(edited.mask, edited.distance <= 0)
    edited.update(points=[Point((15, 30, 57), True, 3.0)], largest=True)
    assert np.array_equal(edited.mask, two_balls())


def test_holes_are_filled_but_for_those_with_a_point_and_those_open_to_the_border():
    hollow = ball() & ~ball(5.0)
    edited = refinement(hollow)
    edited.update(fill_holes=True)
    assert np.array_equal(edited.mask, ball()) and np.array_equal(edited.mask, ndimage.binary_fill_holes(hollow))
    assert np.array_equal(edited.mask, edited.distance <= 0)
    edited.update(points=[Point(CENTRE, False, 3.0)], fill_holes=True)
    assert np.array_equal(edited.mask, hollow)
    opened = hollow.copy()
    opened[:16, 30, 30] = False
    assert refinement(opened).update(fill_holes=True).box is None


@pytest.mark.parametrize("seed", range(3))
def test_parts_and_holes_in_the_box_are_those_of_the_whole_volume(seed):
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), (1, 2, 2.5)) > 0.02
    sdm = signed_distance(rough, SPACING)
    edited = Refinement(sdm, SPACING)
    edited.update(-0.2, largest=True, fill_holes=True)
    labels, _ = ndimage.label(sdm <= np.float32(-0.2))
    counts = np.bincount(labels.ravel())[1:]
    assert np.array_equal(edited.mask, ndimage.binary_fill_holes(labels == counts.argmax() + 1))


@pytest.mark.parametrize(("offset", "smoothing"), [(0.0, 0.3), (0.0, 2.0), (12.0, 1.0), (-2.0, 1.0)])
def test_smoothing_in_the_box_is_that_of_the_whole_map(offset, smoothing):
    rng = np.random.default_rng(0)
    mask = ball() ^ (ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) > 0.25)
    sdm = signed_distance(mask, SPACING)
    whole = ndimage.gaussian_filter(sdm, smoothing / np.array(SPACING[::-1]), mode="nearest", truncate=3.0)
    edited = Refinement(sdm, SPACING)
    edited.update(-5.0, smoothing=smoothing)
    edited.update(offset, smoothing=smoothing)
    assert np.array_equal(edited.mask, whole <= np.float32(offset))
    assert np.array_equal(edited.mask, edited.distance <= 0)


def test_smoothing_may_reach_beyond_the_segments_box():
    steep = np.where(ball(5.0), -50, 5).astype(np.float32)
    whole = ndimage.gaussian_filter(steep, 2.0 / np.array(SPACING[::-1]), mode="nearest", truncate=3.0)
    edited = Refinement(steep, SPACING)
    edited.update(smoothing=2.0)
    assert np.array_equal(edited.mask, whole <= 0) and edited.mask.sum() > 1.5 * ball(5.0).sum()


def test_an_empty_segment_takes_every_setting():
    edited = Refinement(np.full(SHAPE, 99.0, np.float32), SPACING)
    assert edited.update(5.0, (), True, True, 2.0).box is None
    assert not edited.mask.any()


# --- its surroundings -------------------------------------------------------------------------------------------------


def test_neighbours_keep_their_voxels():
    edited = refinement()
    neighbour = ball(8.0, (15, 30, 58))
    box, mask = edited.update(6.0)
    free = free_of(mask, [neighbour[box], np.zeros(mask.shape, np.uint8)])
    assert (mask & neighbour[box]).any() and not (free & neighbour[box]).any()
    assert np.array_equal(free, mask & ~neighbour[box])
    assert np.array_equal(free_of(mask, []), mask)
    with pytest.raises(ValueError, match="shape"):
        free_of(mask, mask)


@pytest.mark.parametrize("wish", [{"offset": float("nan")}, {"smoothing": -1.0}, {"smoothing": float("inf")}])
def test_what_is_no_number_is_refused_and_changes_nothing(wish):
    edited = refinement()
    with pytest.raises(ValueError):
        edited.update(**wish)
    assert np.array_equal(edited.mask, ball())


def test_a_map_needs_three_axes_and_a_spacing():
    with pytest.raises(ValueError, match="distance map"):
        Refinement(np.zeros((2, 3)), SPACING)
    with pytest.raises(ValueError, match="spacings"):
        Refinement(np.zeros((2, 3, 4)), (1, 0, 1))


def test_it_is_there_without_torch_scipy_and_simpleitk():
    package = Path(__file__).resolve().parents[2] / "SimCVDSegment"
    script = (
        f"import sys\nsys.path.insert(0, {str(package)!r})\nimport simcvd.refinement\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'scipy', 'SimpleITK')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
