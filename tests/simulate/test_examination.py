"""A simulated cohort is a function of its seed alone, and its truth lies where the scan has it."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from brainmets.cohort import read_cohort
from brainmets.errors import CohortError, VolumeError
from brainmets.io import nifti
from brainmets.simulate import examination
from brainmets.simulate.anatomy import CSF, embedded_head, read_anatomy
from brainmets.simulate.contrast import DURAL_SINUSES, Ingredient, Style, render
from brainmets.simulate.examination import simulate, simulate_cohort
from brainmets.simulate.metastases import PATCHY, paint, plan_metastases
from brainmets.simulate.scanner import AXIAL_LPS, CORONAL, Protocol, acquire, acquire_truth
from brainmets.volume import to_nearest_ras
from label_heads import write_label_map


@pytest.fixture(scope="module")
def map_path(tmp_path_factory):
    return write_label_map(tmp_path_factory.mktemp("head") / "small.nii.gz")


@pytest.fixture(scope="module")
def anatomy(map_path):
    return read_anatomy(map_path)


@pytest.fixture(scope="module")
def cohort(map_path, tmp_path_factory):
    """Three cases of seed 5; tests copy it before they change it."""
    out = tmp_path_factory.mktemp("cohort") / "sim"
    simulate_cohort(out, cases=3, seed=5, anatomies=[map_path])
    return out


@pytest.fixture
def copy(cohort, tmp_path):
    return shutil.copytree(cohort, tmp_path / "copy")


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module", params=[0, 1, 2])
def case(request, anatomy):
    return simulate(anatomy, np.random.default_rng(request.param), lesions=5)


def test_scan_mask_and_brain_share_a_grid(case):
    assert case.scan.grid == case.mask.grid == case.brain.grid
    assert (case.scan.data.dtype, case.mask.data.dtype) == (np.int16, np.uint8)
    assert set(np.unique(case.brain.data)) == {0, 1}


def test_every_lesion_voxel_lies_in_the_brain(case):
    assert case.mask.data.any()
    assert case.brain.data[case.mask.data > 0].all()


def test_lesions_are_numbered_without_gaps_one_piece_each(case):
    count = int(case.mask.data.max())
    assert set(np.unique(case.mask.data)) == set(range(count + 1))
    for label in range(1, count + 1):
        assert ndimage.label(case.mask.data == label, np.ones((3, 3, 3)))[1] == 1
    assert ndimage.label(case.mask.data > 0, np.ones((3, 3, 3)))[1] == count


def test_the_truth_is_about_as_large_as_planned(case):
    """Not more than planned plus lumps; less where dura or a sinus cuts it."""
    planned = sum(np.pi / 6 * plan.diameter_mm**3 for plan in case.plans)
    volume = (case.mask.data > 0).sum() * case.mask.grid.voxel_volume_mm3
    assert 0.15 * planned < volume < 1.6 * planned + 30


def test_the_brain_is_brighter_than_the_air_around(case):
    border = [case.scan.data[i] for i in ((0,), (-1,), (slice(None), 0))]
    inside = np.median(case.scan.data[case.brain.data > 0])
    assert inside > 3 * max(np.median(b) for b in border)


def test_the_same_generator_state_gives_the_same_examination(anatomy):
    one, same, other = (simulate(anatomy, np.random.default_rng(s), lesions=2) for s in (7, 7, 8))
    np.testing.assert_array_equal(one.scan.data, same.scan.data)
    np.testing.assert_array_equal(one.mask.data, same.mask.data)
    assert one.plans == same.plans
    assert not np.array_equal(one.scan.data.shape, other.scan.data.shape) or not np.array_equal(
        one.scan.data, other.scan.data
    )


def test_without_contrast_agent_there_is_the_same_head_and_no_lesion(anatomy):
    given, found = (
        simulate(anatomy, np.random.default_rng(0), lesions=6, contrast=told)
        for told in (True, False)
    )
    assert (given.style.contrast, found.style.contrast) == (True, False)
    np.testing.assert_array_equal(given.head.labels, found.head.labels)
    assert given.mask.data.any()
    assert found.plans == ()
    assert not found.mask.data.any()
    assert found.brain.data.any()


def test_the_examination_tells_its_head_and_protocol(case):
    scanned = acquire_truth((case.head.labels > 0).astype(np.float32), case.protocol)
    assert scanned.grid == case.scan.grid


def test_no_lesion_asked_for_no_lesion_there(anatomy):
    found = simulate(anatomy, np.random.default_rng(0), lesions=0)
    assert not found.mask.data.any()


def test_counts_are_0_in_one_of_seven_and_rarely_above_20():
    rng = np.random.default_rng(0)
    counts = np.array([examination._draw_count(rng, large=False) for _ in range(3000)])
    assert (counts == 0).mean() == pytest.approx(1 / 7, abs=0.03)
    assert counts.min() == 0
    assert counts.max() <= 25
    assert 5 < counts[counts > 0].mean() < 8


@pytest.mark.parametrize("order", [AXIAL_LPS, CORONAL])
def test_a_bright_block_is_where_the_truth_says(order):
    """Through slices of 3 mm, a turned field of view and any axis order."""
    image = np.full((40, 44, 48), 0.2, np.float32)
    block = np.zeros_like(image)
    block[10:16, 20:29, 30:39] = 1
    protocol = Protocol((1.0, 0.8, 3.0), order, (5, -4, 3), noise=0.0, bias=0.0)
    scan, _ = acquire(image + block, protocol, np.random.default_rng(0))
    truth = acquire_truth(block, protocol)
    assert scan.grid == truth.grid
    np.testing.assert_array_equal(scan.data > 0.7 / 1.2 * scan.data.max(), truth.data > 0)
    straight = to_nearest_ras(truth)
    np.testing.assert_allclose(straight.grid.spacing_mm, (1.0, 0.8, 3.0))
    volume = truth.data.sum() * truth.grid.voxel_volume_mm3
    assert volume == pytest.approx(6 * 9 * 9, rel=0.15)


def test_noise_is_as_strong_as_stated():
    image = np.ones((30, 30, 30), np.float32)
    protocol = Protocol((1, 1, 1), AXIAL_LPS, (0, 0, 0), noise=0.05, bias=0.0)
    scan = acquire(image, protocol, np.random.default_rng(0))[0].data.astype(float)
    assert scan.std() / scan.mean() == pytest.approx(0.05, rel=0.05)


def test_a_cohort_can_be_read_and_used(cohort):
    cases = list(read_cohort(cohort))
    assert [case.case_id for case in cases] == ["sim-0000", "sim-0001", "sim-0002"]
    for case in cases:
        scan, mask = nifti.read(case.image).volume, nifti.read_labels(case.mask)
        brain = nifti.read_labels(case.brain_mask)
        assert scan.grid == mask.grid == brain.grid
        assert brain.data[mask.data > 0].all()


def test_cases_depend_on_seed_and_number_alone(map_path, cohort, tmp_path):
    """Fewer cases give the same first ones; more are added to those that are there."""
    simulate_cohort(tmp_path / "one", cases=1, seed=5, anatomies=[map_path])
    alone, whole = contents(tmp_path / "one"), contents(cohort)
    assert {k: v for k, v in alone.items() if "/" in k}.items() <= whole.items()
    simulate_cohort(tmp_path / "one", cases=3, seed=5, anatomies=[map_path])
    assert contents(tmp_path / "one") == whole


def test_another_seed_gives_other_scans(map_path, cohort, tmp_path):
    simulate_cohort(tmp_path / "sim", cases=1, seed=6, anatomies=[map_path])
    one, other = (f / "sim-0000" / "t1c.nii.gz" for f in (cohort, tmp_path / "sim"))
    assert one.read_bytes() != other.read_bytes()


def test_a_killed_cohort_goes_on(map_path, cohort, copy, monkeypatch):
    """A case is missing, and one that was being written lies about under a temporary name."""
    shutil.rmtree(copy / "sim-0001")
    (copy / "cohort.tsv").unlink()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: dead.pid)
        from brainmets.io import storage

        leftover = copy / f"{storage._prefix()}xyz"
    leftover.mkdir()
    (leftover / "t1c.nii.gz").write_bytes(b"half")
    kept = (copy / "sim-0000" / "t1c.nii.gz").stat().st_mtime_ns
    simulate_cohort(copy, cases=3, seed=5, anatomies=[map_path])
    assert contents(copy) == contents(cohort)
    assert (copy / "sim-0000" / "t1c.nii.gz").stat().st_mtime_ns == kept


def test_killed_while_a_case_is_written_leaves_no_half_case(map_path, cohort, copy, monkeypatch):
    shutil.rmtree(copy / "sim-0002")
    write = nifti.write

    def dies(volume, path):
        if path.name == "brain.nii.gz":
            raise KeyboardInterrupt
        write(volume, path)

    monkeypatch.setattr(nifti, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        simulate_cohort(copy, cases=3, seed=5, anatomies=[map_path])
    assert not (copy / "sim-0002").exists()
    monkeypatch.setattr(nifti, "write", write)
    simulate_cohort(copy, cases=3, seed=5, anatomies=[map_path])
    assert contents(copy) == contents(cohort)


def test_a_folder_of_other_settings_is_refused_untouched(map_path, copy):
    before = contents(copy)
    for settings in ({"seed": 6, "anatomies": [map_path]}, {"seed": 5, "anatomies": []}):
        with pytest.raises(CohortError, match="other settings"):
            simulate_cohort(copy, cases=3, **settings)
    assert contents(copy) == before


def test_every_case_has_as_many_metastases_as_asked_for(map_path, tmp_path):
    simulate_cohort(tmp_path, cases=3, seed=5, anatomies=[map_path], lesions=2)
    for number in range(3):
        mask = nifti.read_labels(tmp_path / f"sim-{number:04d}" / "mask.nii.gz")
        assert 1 <= mask.data.max() <= 2  # one may lie between slices, or two touch
    assert "lesions 2" in (tmp_path / "simulation.txt").read_text()
    with pytest.raises(CohortError, match="other settings"):
        simulate_cohort(tmp_path, cases=3, seed=5, anatomies=[map_path])


def test_with_the_number_given_slices_are_thick_as_often(anatomy, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "brainmets.simulate.examination.simulate", lambda *_, **given: asked.append(given) or 1 / 0
    )
    for number in range(300):
        with pytest.raises(ZeroDivisionError):
            examination._write_case(
                (Path("none"), examination._Made(3, frozenset(), 4, None), number, ())
            )
    assert {given["lesions"] for given in asked} == {4}
    assert np.mean([given["thick"] for given in asked]) == pytest.approx(0.3, abs=0.08)


def test_a_cohort_without_contrast_has_no_metastasis(map_path, tmp_path):
    simulate_cohort(tmp_path, cases=2, seed=5, anatomies=[map_path], contrast=False)
    for number in range(2):
        assert not nifti.read_labels(tmp_path / f"sim-{number:04d}" / "mask.nii.gz").data.any()
    assert "contrast absent" in (tmp_path / "simulation.txt").read_text()
    with pytest.raises(CohortError, match="other settings"):
        simulate_cohort(tmp_path, cases=2, seed=5, anatomies=[map_path])


def test_a_varied_plexus_is_another_one_in_the_same_head(anatomy):
    usual, varied = (
        simulate(anatomy, np.random.default_rng(0), lesions=4, varied_plexus=told)
        for told in (False, True)
    )
    np.testing.assert_array_equal(usual.head.labels, varied.head.labels)
    assert not np.array_equal(usual.head.structures, varied.head.structures)
    assert varied.mask.data.any()


def test_a_cohort_says_that_its_plexus_is_varied(map_path, tmp_path):
    simulate_cohort(tmp_path, cases=1, seed=5, anatomies=[map_path], varied_plexus=True)
    assert "plexus varied" in (tmp_path / "simulation.txt").read_text()
    with pytest.raises(CohortError, match="other settings"):
        simulate_cohort(tmp_path, cases=1, seed=5, anatomies=[map_path])


@pytest.mark.parametrize("lesions", [None, 2])
def test_every_scan_has_a_large_metastasis_where_they_are_asked_for(anatomy, lesions):
    kinds = set()
    for seed in range(6):
        found = simulate(
            anatomy, np.random.default_rng(seed), lesions=lesions, thick=False, large=True
        )
        first, *others = found.plans
        assert found.style.contrast
        assert np.pi / 6 * first.diameter_mm**3 >= 3900
        kinds |= {first.kind}
        assert PATCHY not in {plan.kind for plan in others}
    assert PATCHY in kinds
    assert kinds - {PATCHY}


def test_a_cohort_says_that_its_metastases_are_large(map_path, tmp_path):
    simulate_cohort(tmp_path, cases=1, seed=5, anatomies=[map_path], lesions=1, large=True)
    assert "large metastases" in (tmp_path / "simulation.txt").read_text()
    with pytest.raises(CohortError, match="other settings"):
        simulate_cohort(tmp_path, cases=1, seed=5, anatomies=[map_path], lesions=1)


@pytest.mark.parametrize("given", [{"lesions": 0}, {"contrast": False}])
def test_a_large_metastasis_where_there_are_none_is_refused(given, tmp_path):
    with pytest.raises(CohortError, match="large metastasis"):
        simulate_cohort(tmp_path / "sim", cases=1, seed=0, large=True, **given)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize("contrast", [True, False, None])
def test_contrast_is_given_as_asked_for(contrast, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "brainmets.simulate.examination.simulate", lambda *_, **given: asked.append(given) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        examination._write_case(
            (Path("none"), examination._Made(3, frozenset(), None, contrast), 0, ())
        )
    assert asked[0]["contrast"] is contrast


def test_metastases_that_nobody_could_see_are_refused(tmp_path):
    with pytest.raises(CohortError, match="without contrast"):
        simulate_cohort(tmp_path / "sim", cases=1, seed=0, lesions=3, contrast=False)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize("lesions", [-1, 201])
def test_more_metastases_than_a_mask_holds_or_fewer_than_none_are_refused(tmp_path, lesions):
    with pytest.raises(CohortError, match="0 to 200"):
        simulate_cohort(tmp_path / "sim", cases=1, seed=0, lesions=lesions)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize("cases", [0, -3])
def test_no_case_is_refused(tmp_path, cases):
    with pytest.raises(CohortError, match="at least 1"):
        simulate_cohort(tmp_path / "sim", cases=cases, seed=0)
    assert not (tmp_path / "sim").exists()


def test_a_map_that_cannot_serve_stops_with_its_name(tmp_path):
    path = write_label_map(tmp_path / "coarse.nii.gz", spacing_mm=2.0)
    with pytest.raises(VolumeError, match=r"coarse\.nii\.gz"):
        simulate_cohort(tmp_path / "sim", cases=1, seed=0, anatomies=[path])
    assert not (tmp_path / "sim" / "cohort.tsv").exists()


def test_progress_counts_the_cases(map_path, copy):
    told = []
    simulate_cohort(
        copy, cases=3, seed=5, anatomies=[map_path], progress=lambda *step: told.append(step)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_workers_give_the_same_bytes(map_path, cohort, tmp_path):
    simulate_cohort(tmp_path / "sim", cases=3, seed=5, anatomies=[map_path], workers=2)
    assert contents(tmp_path / "sim") == contents(cohort)


@pytest.mark.slow
def test_the_embedded_head_gives_a_plausible_examination():
    """Brain + CSF of an adult, lesions inside it and brighter than what surrounds them."""
    found = simulate(embedded_head(), np.random.default_rng(3), lesions=8)
    litres = found.brain.data.sum() * found.brain.grid.voxel_volume_mm3 / 1e6
    assert 1.0 < litres < 2.0
    assert found.brain.data[found.mask.data > 0].all()
    assert found.mask.data.max() >= 4


@pytest.mark.parametrize("left_out", list(Ingredient))
def test_what_is_left_out_changes_neither_the_head_nor_the_metastases(anatomy, left_out):
    whole, less = (
        simulate(anatomy, np.random.default_rng(3), lesions=4, contrast=True, without=without)
        for without in ((), (left_out,))
    )
    assert less.plans == whole.plans
    np.testing.assert_array_equal(less.head.labels, whole.head.labels)
    np.testing.assert_array_equal(less.mask.data, whole.mask.data)
    assert (less.scan.data != whole.scan.data).any()


def test_sinuses_left_out_do_not_enhance(anatomy):
    head = anatomy
    where = np.isin(head.structures, list(DURAL_SINUSES))
    images = [
        render(head, Style(spin_echo=False, contrast=True, without=without), generator)
        for without, generator in (
            (frozenset(), np.random.default_rng(1)),
            (frozenset({Ingredient.SINUSES, Ingredient.VESSELS}), np.random.default_rng(1)),
        )
    ]
    assert where.any()
    assert np.median(images[0][where]) > 1.2 > np.median(images[1][where])


def test_vessels_left_out_leave_no_bright_lines_in_the_fluid(anatomy):
    fluid = anatomy.labels == CSF
    with_them, without = (
        render(anatomy, Style(False, True, frozenset(parts)), np.random.default_rng(2))[fluid]
        for parts in ((), (Ingredient.VESSELS,))
    )
    assert (with_them > 1.2).sum() > (without > 1.2).sum()
    assert (with_them >= without - 1e-6).mean() > 0.9


def test_without_mass_effect_tissue_stays_where_it_was(anatomy):
    plan = replace(plan_metastases(anatomy, 1, np.random.default_rng(0))[0], diameter_mm=12.0)
    around = np.zeros(anatomy.labels.shape, bool)
    around[plan.centre_vox] = True
    distance = ndimage.distance_transform_edt(~around)
    tissue = render(anatomy, Style(False, True), np.random.default_rng(2))
    changed = []
    for mass_effect in (True, False):
        image = tissue.copy()
        paint(image, anatomy, (plan,), np.random.default_rng(4), mass_effect=mass_effect)
        changed.append((np.abs(image - tissue)[distance > 18] > 1e-6).sum())
    assert changed[0] > changed[1]


def test_what_is_left_out_is_noted_in_the_folder(map_path, tmp_path):
    out = tmp_path / "sim"
    left_out = [Ingredient.VESSELS, Ingredient.SINUSES]
    simulate_cohort(out, cases=1, seed=5, anatomies=[map_path], without=left_out)
    assert "without sinuses vessels" in (out / "simulation.txt").read_text()
    with pytest.raises(CohortError, match="other settings"):
        simulate_cohort(out, cases=1, seed=5, anatomies=[map_path])


def test_a_cohort_without_vessels_has_other_scans_and_the_same_truth(cohort, map_path, tmp_path):
    simulate_cohort(tmp_path, cases=1, seed=5, anatomies=[map_path], without=[Ingredient.VESSELS])
    mask, scan = (Path("sim-0000") / name for name in ("mask.nii.gz", "t1c.nii.gz"))
    assert (tmp_path / mask).read_bytes() == (cohort / mask).read_bytes()
    assert (tmp_path / scan).read_bytes() != (cohort / scan).read_bytes()
