"""The command line says what is wrong in one line, and never leaves half an output."""

import csv
import hashlib
import io
import json
import struct
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from brainmets import __version__
from brainmets.apps import cli, options
from brainmets.config import Architecture, DecisionRule, Recipe, Tiling
from brainmets.errors import CohortError
from brainmets.io import download, nifti
from brainmets.io.download import RemoteFile
from brainmets.network import bundle as bundles
from brainmets.network.bundle import Bundle
from brainmets.network.torch_engine import build
from brainmets.network.unet import UNet
from brainmets.training import extractor
from dicom_series import Layout, slices_of, write
from label_heads import write_label_map
from stand_ins import COARSE_BALLS, coarse_grid, stripped_head, write_scan


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A network of random weights that calls few voxels lesions, and can be verified."""
    torch.manual_seed(3)
    network = UNet(Architecture(width=4)).eval()
    tile = np.random.default_rng(1).standard_normal((32, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(tile)[None, None]).numpy() + 4.6
    network.head.weight.data *= 12 / np.abs(logits).max()
    network.head.bias.data[:] = 0
    weights = {k: v.numpy().astype(np.float16) for k, v in network.state_dict().items()}
    bundle = Bundle(
        name="tiny",
        architecture=Architecture(width=4),
        recipe=Recipe(spacing_mm=5.0),
        tiling=Tiling(tile_vox=32),
        rule=DecisionRule(low=0.9, high=0.95),
        weights=weights,
        example={},
        card={"trained_on": "nothing", "limits": ["finds nothing"]},
    )
    with torch.inference_mode():
        logits = build(bundle)(torch.from_numpy(tile)[None, None])[0, 0]
    middle = (logits.max() + logits.min()) / 2
    weights["head.bias"] = np.array([-float(middle)], np.float16)
    with torch.inference_mode():
        output = torch.sigmoid(build(bundle)(torch.from_numpy(tile)[None, None]))[0, 0].numpy()
    path = tmp_path_factory.mktemp("model") / "tiny.brainmets"
    example = {"input": tile, "output": output}
    bundles.write(Bundle(**{**bundle.__dict__, "example": example}), path)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: arguments → exit status, output, error output."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["brainmets", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        text = capsys.readouterr()
        return stop.value.code, text.out, text.err

    return call


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "good.nii.gz")


@pytest.fixture
def examination(tmp_path):
    """A DICOM study: T1 after contrast, FLAIR and a CT."""
    recipe = Layout(shape=(8, 8, 12), spacing_mm=(9.0, 9.0, 8.0))
    for number, (words, modality) in enumerate(
        [("T1 Miller +C", "MR"), ("AX T2 FLAIR", "MR"), ("head", "CT")], start=1
    ):
        recipe.tags = {"SeriesNumber": number, "SeriesDescription": words, "Modality": modality}
        write(tmp_path / "dicom", slices_of(recipe, f"1.2.3.4.{number}"), prefix=f"s{number}-")
    return tmp_path / "dicom"


def test_stress_writes_tables_and_a_page_and_prints_an_overview(run, model_file, tmp_path):
    """The small head has no brain that the extractor finds: a case that is refused, and counts."""
    head = write_label_map(tmp_path / "head.nii.gz")
    words = ("stress", model_file, "-o", tmp_path / "out", "--cases", "1", "--anatomy", head)
    code, out, err = run(*words)
    assert (code, "Traceback" in err) == (0, False)
    assert "false positives per scan" in out
    assert "The scans are simulated." in out
    assert (tmp_path / "out" / "stress.html").is_file()
    summary = json.loads((tmp_path / "out" / "stress.json").read_text("utf-8"))
    assert summary["scans"] == 1
    with (tmp_path / "out" / "scans.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert summary["refused"] == int(bool(row["refused"]))


def test_stress_of_nothing_is_refused(run, model_file, tmp_path):
    code, _, err = run("stress", model_file, "-o", tmp_path, "--anatomy", tmp_path / "absent")
    assert code == 2
    assert err.startswith("error:")


def test_inspect_lists_every_series_with_its_verdict_and_names_nobody(run, examination):
    code, out, err = run("inspect", examination)
    assert (code, err) == (0, "")
    assert "study-" in out
    words = " ".join(out.replace("│", " ").split())
    for told in ("read T1 by its description", "not read FLAIR", "not read no MR (modality CT)"):
        assert told in words
    assert not [word for word in ("miller", "Doe", "PAT-77", "1.2.3") if word in out.lower()]


def test_inspect_shows_descriptions_if_asked_to(run, examination):
    assert "miller" in run("inspect", examination, "--descriptions")[1]


def test_inspect_of_what_is_no_dicom_is_one_clear_error(run, tmp_path, scan):
    require_one_error(run("inspect", tmp_path), 2, "no DICOM")


def test_the_series_of_an_examination_can_be_asked_for(run, examination, tmp_path):
    nifti.write(stripped_head(coarse_grid()).lesions, tmp_path / "m.nii.gz")
    out = tmp_path / "out"
    words = ["measure", examination, tmp_path / "m.nii.gz", "-o", out]
    require_one_error(run(*words, "--series", "3"), 2, "modality CT")
    require_one_error(run(*words, "--series", "9"), 2, "no series for --series")
    require_one_error(run(*words), 2, "different grids")


def test_the_door_offers_the_names_that_there_are():
    from brainmets.io import dicom_cases

    assert [way.value for way in options.IdFrom] == [way.value for way in dicom_cases.IdFrom]


def test_help_says_that_other_names_identify(run):
    code, out, _ = run("predict", "--help")
    assert code == 0
    assert "write identifiers" in " ".join(out.replace("│", " ").split())


def errors_in(text):
    return [line for line in text.splitlines() if line.startswith("error:")]


def require_one_error(result, status, *words):
    code, _, err = result
    assert code == status, err
    assert "Traceback" not in err
    (line,) = errors_in(err)
    for word in words:
        assert word in line
    return line


# Bad scans


def patched(path, scan, *changes):
    """An uncompressed copy of a scan with numbers of its header changed."""
    nifti.write(nifti.read(scan).volume, path)
    content = bytearray(path.read_bytes())
    for offset, value in changes:
        struct.pack_into("<f", content, offset, value)
    path.write_bytes(content)


def stored(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, coarse_grid().affine if affine is None else affine), path)


def with_nan(path, scan):
    data = nifti.read(scan).volume.data.copy()
    data[5, 5, 5] = np.nan
    stored(path, data)


SROW = [280 + 16 * row for row in range(3)]
BAD_SCANS = {
    "empty.nii.gz": lambda path, _: path.write_bytes(b""),
    "cut.nii.gz": lambda path, scan: path.write_bytes(scan.read_bytes()[:-2000]),
    "text.nii": lambda path, _: path.write_text("This is no image. " * 50),
    "two-d.nii.gz": lambda path, _: stored(path, np.ones((30, 30), np.float32)),
    "series.nii.gz": lambda path, _: stored(path, np.ones((9, 9, 9, 4), np.float32)),
    "nan.nii.gz": with_nan,
    "constant.nii.gz": lambda path, _: stored(path, np.full((26, 30, 24), 7, np.float32)),
    "zero-spacing.nii": lambda path, scan: patched(
        path, scan, (80, 0.0), *((row, 0.0) for row in SROW)
    ),
    "singular.nii": lambda path, scan: patched(
        path, scan, *((row + 4 * axis, 5.0 * (row == SROW[0])) for row in SROW for axis in (0, 1))
    ),
    "absent.nii.gz": lambda _path, _scan: None,
}


@pytest.mark.parametrize("name", BAD_SCANS)
def test_a_bad_scan_is_one_line_and_leaves_no_case(run, tmp_path, scan, model_file, name):
    bad, out = tmp_path / name, tmp_path / "out"
    BAD_SCANS[name](bad, scan)
    result = run("predict", bad, "--out", out, "--model", model_file, "--device", "cpu")
    case = name.split(".")[0]
    line = require_one_error(result, 2, f"error: {case}: ")
    assert len(line) > len(f"error: {case}: ") + 20
    assert str(tmp_path) not in line
    assert [p.name for p in out.iterdir()] == ["summary.csv"]


def test_among_many_bad_scans_the_good_one_finishes(run, tmp_path, scan, model_file):
    for name, spoil in BAD_SCANS.items():
        spoil(tmp_path / name, scan)
    out = tmp_path / "out"
    words = [tmp_path / name for name in BAD_SCANS]
    code, _, err = run("predict", *words[:5], scan, *words[5:], "-o", out, "--model", model_file)
    assert code == 2
    assert len(errors_in(err)) == len(BAD_SCANS)
    assert sorted(p.name for p in out.iterdir()) == ["good", "summary.csv"]
    with (out / "summary.csv").open(newline="") as file:
        status = {row["case"]: row["status"] for row in csv.DictReader(file)}
    assert status.pop("good") == "done"
    assert status == {name.split(".")[0]: "failed" for name in BAD_SCANS}


# Bad inputs and options: nothing is written at all


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


def one_byte_changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, one_byte_changed])
@pytest.mark.parametrize("command", ["predict", "info", "verify"])
def test_a_damaged_model_is_refused(run, tmp_path, scan, model_file, damage, command):
    broken, out = tmp_path / "broken.brainmets", tmp_path / "out"
    broken.write_bytes(model_file.read_bytes())
    damage(broken)
    words = ["predict", scan, "--out", out, "--model"] if command == "predict" else [
        "models", command
    ]  # fmt: skip
    require_one_error(run(*words, broken), 2, "broken.brainmets")
    assert not out.exists()


def test_an_unknown_model_is_refused(run, tmp_path, scan):
    for name in ("no-such-model", tmp_path):
        result = run("predict", scan, "--out", tmp_path / "out", "--model", name)
        require_one_error(result, 2, "no model")
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused(run, tmp_path, scan, model_file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(
        "predict", scan, "--out", tmp_path / "out", "--model", model_file, "--device", "cuda"
    )
    require_one_error(result, 2, "no CUDA GPU")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["out", "out/deeper"])
def test_an_output_that_cannot_be_written_is_a_failed_run(run, tmp_path, scan, model_file, place):
    (tmp_path / "out").write_text("mine")
    result = run("predict", scan, "--out", tmp_path / place, "--model", model_file)
    require_one_error(result, 1, "cannot write")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_without_scans_is_refused(run, tmp_path, model_file):
    (tmp_path / "nothing").mkdir()
    result = run("predict", tmp_path / "nothing", "-o", tmp_path / "out", "--model", model_file)
    require_one_error(result, 2, "nothing")
    assert not (tmp_path / "out").exists()


def test_the_same_scan_twice_is_refused(run, tmp_path, scan, model_file):
    result = run("predict", scan, scan, "-o", tmp_path / "out", "--model", model_file)
    require_one_error(result, 2, "good.nii.gz is given twice")
    assert not (tmp_path / "out").exists()


def test_one_brain_mask_for_two_scans_is_refused(run, tmp_path, scan, model_file):
    other = write_scan(tmp_path / "other.nii.gz")
    result = run(
        "predict", scan, other, "-o", tmp_path / "out", "--model", model_file, "--brain-mask", scan
    )
    require_one_error(result, 2, "--brain-mask")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "evaluate", "train"])
def test_a_misspelt_column_names_the_right_one(run, tmp_path, scan, model_file, command):
    table, out = tmp_path / "cohort.csv", tmp_path / "out"
    table.write_text(f"case,image,msak\na,{scan.name},\n")
    words = {
        "predict": ("predict", table, "-o", out, "--model", model_file),
        "evaluate": ("evaluate", tmp_path, table, "-o", out),
        "train": ("train", table, "-o", out),
    }[command]
    require_one_error(run(*words), 2, "'msak'", "did you mean 'mask'?")
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("predict",),
        ("predict", "a.nii"),
        ("predict", "a.nii", "-o", "out", "--device", "abacus"),
        ("predict", "a.nii", "-o", "out", "--threads", "0"),
        ("simulate", "out", "--cases", "0"),
        ("simulate", "out", "--seed", "-1"),
        ("no-such-command",),
        ("predict", "a.nii", "-o", "out", "--no-such-option"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_without_a_traceback(run, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*words)
    assert code == 2
    assert "Usage" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


# Faults of our own


def test_an_unforeseen_fault_is_one_line_unless_debugging(run, tmp_path, scan, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("division")

    monkeypatch.setattr("brainmets.pipeline.load_model", fail)
    result = run("predict", scan, "-o", tmp_path / "out")
    require_one_error(result, 1, "unforeseen ZeroDivisionError", "--debug")
    monkeypatch.setattr(sys, "argv", ["brainmets", "--debug", "models", "info", "absent"])
    with pytest.raises(Exception, match="no model"):
        cli.main()


def test_a_fault_in_one_case_shows_its_traceback_when_debugging(
    run, tmp_path, scan, model_file, monkeypatch, caplog
):
    def fail(*_, **__):
        raise ZeroDivisionError("division")

    monkeypatch.setattr("brainmets.pipeline.prepare", fail)
    words = ("predict", scan, "-o", tmp_path / "out", "--model", model_file)
    require_one_error(run(*words), 1, "good: unforeseen ZeroDivisionError")
    assert "Traceback" not in caplog.text
    require_one_error(run("--debug", *words), 1, "good: unforeseen ZeroDivisionError")
    assert "Traceback" in caplog.text


def test_control_c_stops_with_the_usual_status(run, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "shipped", interrupt)
    code, _, err = run("models", "list")
    assert code == 130
    assert "Traceback" not in err


# What works


@pytest.mark.parametrize(
    "command",
    ["", "predict", "measure", "simulate", "train", "evaluate", "stress", "demo", "models",
     "models list", "models info", "models verify", "models combine", "models fetch",
     "models train-extractor"],
)  # fmt: skip
def test_every_command_explains_itself(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Usage" in out
    assert len(out) > 200


def test_the_version_is_told(run):
    assert run("--version")[:2] == (0, f"{__version__}\n")


def test_predicting_writes_reports_and_a_second_start_keeps_them(run, tmp_path, scan, model_file):
    out = tmp_path / "out"
    words = ("predict", scan, "-o", out, "--model", model_file, "--save-probability")
    code, text, err = run(*words, "--threads", "1")
    assert code == 0, err
    assert "good" in text
    assert cli.NOTICE in text
    assert f"report: {out / 'good' / 'report.html'}" in text
    assert (out / "good" / "probability.nii.gz").is_file()
    assert errors_in(err) == []
    assert "already done" in run(*words)[1]


def test_a_given_brain_mask_is_used(run, tmp_path, scan, model_file):
    mask = tmp_path / "brain.nii.gz"
    nifti.write(stripped_head(coarse_grid()).brain, mask)
    out = tmp_path / "out"
    code, _, err = run(
        "predict", scan, "-o", out, "--model", model_file, "--brain-mask", mask, "--device", "cpu"
    )
    assert code == 0, err
    report = json.loads((out / "good" / "report.json").read_text())
    assert report["provenance"]["extractor"]["name"] == "given mask"


@pytest.fixture
def measured(run, tmp_path, scan):
    """Scan, true mask, and the folder of a finished measurement."""
    truth = stripped_head(coarse_grid(), COARSE_BALLS).lesions
    mask = tmp_path / "truth.nii.gz"
    nifti.write(truth.with_data(truth.data.astype(np.uint8)), mask)
    code, _, err = run("measure", scan, mask, "-o", tmp_path / "out")
    assert code == 0, err
    return scan, mask, tmp_path / "out"


def test_the_brain_extractor_can_be_chosen(run, tmp_path, scan, model_file):
    words = ("predict", scan, "-o", tmp_path / "out", "--model", model_file)
    code, _, err = run(*words, "--brain-extractor", "none")
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "good" / "report.json").read_text())
    assert report["provenance"]["extractor"]["name"] == "already stripped"
    weights = ("--synthstrip-weights", tmp_path / "absent.pt")
    require_one_error(run(*words, "--brain-extractor", "builtin", *weights), 2, "takes no weights")
    require_one_error(run(*words, "--brain-extractor", "synthstrip", *weights), 2, "absent.pt")


def test_weights_that_cannot_be_fetched_are_one_line_that_says_where_to_put_them(
    run, tmp_path, monkeypatch
):
    nowhere = RemoteFile("synthstrip.1.pt", "http://127.0.0.1:9/x.pt", "ab" * 32, 7, "some licence")
    monkeypatch.setitem(download.REMOTE_FILES, "synthstrip.1.pt", nowhere)
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    result = run("models", "fetch", "synthstrip")
    require_one_error(result, 1, "synthstrip.1.pt", str(tmp_path / "cache"), "ab" * 32)
    assert "licence: some licence" in result[1]
    scans = ("predict", tmp_path, "-o", tmp_path / "out", "--brain-extractor", "synthstrip")
    require_one_error(run(*scans), 1, "synthstrip.1.pt", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "synthstrip.1.pt").write_bytes(b"another")
    require_one_error(run("models", "fetch", "synthstrip"), 1, "found a file with SHA-256")
    require_one_error(run("models", "fetch", "nonesuch"), 2, "synthstrip")


def test_training_an_extractor_needs_its_label_maps(run, tmp_path):
    words = ("models", "train-extractor", tmp_path, "-o", tmp_path / "x.safetensors")
    require_one_error(run(*words), 2, "training_seg_01.nii.gz")
    require_one_error(run(*words, "--start", tmp_path / "no.safetensors"), 2, "no.json")


def test_training_an_extractor_does_not_write_over_what_it_begins_with(run, tmp_path):
    weights = tmp_path / "x.safetensors"
    weights.write_bytes(b"weights")
    card = json.dumps({
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        **dict.fromkeys(("version", "recipe", "architecture")),
    })  # fmt: skip
    weights.with_suffix(".json").write_text(card)
    words = ("models", "train-extractor", tmp_path, "-o", weights, "--start", weights)
    require_one_error(run(*words), 2, "choose another file")
    words = ("models", "train-extractor", tmp_path, "-o", tmp_path / "x.bin", "--start", weights)
    require_one_error(run(*words), 2, "choose another file")  # its card would be the same


def test_training_that_begins_with_an_extractor_learns_at_half_the_rate(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        extractor, "train_extractor", lambda *words, **named: asked.append((words[2], named))
    )
    monkeypatch.setattr(extractor, "read_start", lambda path: path.name)
    words = ("models", "train-extractor", tmp_path, "-o", tmp_path / "x.safetensors")
    run(*words)
    run(*words, "--start", tmp_path / "y.safetensors")
    (plain, nothing), (begun, start) = asked
    assert begun.learning_rate == plain.learning_rate / 2
    assert (nothing["start"], start["start"]) == (None, "y.safetensors")


def test_measuring_reports_every_lesion_of_the_mask(measured):
    report = json.loads((measured[2] / "good" / "report.json").read_text())
    assert report["summary"]["lesion_count"] == 2


def test_a_mask_on_another_grid_is_refused(run, tmp_path, scan):
    other = tmp_path / "other.nii.gz"
    nifti.write(stripped_head(balls=COARSE_BALLS).lesions, other)
    result = run("measure", scan, other, "-o", tmp_path / "out")
    require_one_error(result, 2, "mask and scan", "different grids")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["summary.csv"]


def test_evaluating_compares_with_the_reference(run, tmp_path, measured):
    scan, mask, out = measured
    table, scores = tmp_path / "cohort.tsv", tmp_path / "scores"
    table.write_text(f"case\timage\tmask\ngood\t{scan.name}\t{mask.name}\n")
    code, text, err = run("evaluate", out, table, "-o", scores)
    assert code == 0, err
    assert text
    assert sorted(p.name for p in scores.iterdir()) == [
        "cases.csv", "evaluation.html", "lesions.csv", "sizes.csv", "summary.csv", "summary.json",
    ]  # fmt: skip
    with (scores / "cases.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["dice"]) == 1


def test_a_terminal_of_plain_ascii_is_no_obstacle(tmp_path, measured, monkeypatch):
    scan, mask, out = measured
    table = tmp_path / "cohort.tsv"
    table.write_text(f"case\timage\tmask\ngood\t{scan.name}\t{mask.name}\n")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["brainmets", "evaluate", str(out), str(table)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    stream.flush()
    assert b"dice" in stream.buffer.getvalue().lower()


def test_a_missing_prediction_is_one_line_and_no_table(run, tmp_path, measured):
    scan, mask, out = measured
    table, scores = tmp_path / "cohort.tsv", tmp_path / "scores"
    row = f"{scan.name}\t{mask.name}\n"
    table.write_text(f"case\timage\tmask\ngood\t{row}other\t{row}")
    require_one_error(run("evaluate", out, table, "-o", scores), 2, "other")
    require_one_error(run("evaluate", tmp_path / "absent", table, "-o", scores), 2, "absent")
    assert not scores.exists()


def test_models_are_listed_described_and_verified(run, model_file):
    assert run("models", "list")[0] == 0
    code, text, _ = run("models", "info", model_file)
    assert code == 0
    card = json.loads(text)
    assert (card["name"], card["architecture"]["width"]) == ("tiny", 4)
    code, text, err = run("models", "verify", model_file, "--device", "cpu")
    assert code == 0, err
    assert "hashes match" in text


def test_a_model_is_quantised_used_and_verified(run, tmp_path, model_file, scan):
    table, out = tmp_path / "cohort.tsv", tmp_path / "eight.brainmets"
    table.write_text(f"image\n{scan}\n")
    code, text, err = run("models", "quantise", model_file, table, "-o", out)
    assert code == 0, err
    assert "cases_with_the_same_lesions" in text
    code, text, _ = run("models", "info", out)
    assert json.loads(text)["card"]["int8"]["cases"] == 1
    code, _, err = run(
        "predict", scan, "--model", out, "-o", tmp_path / "out", "--engine", "openvino",
        "--precision", "int8",
    )  # fmt: skip
    assert code == 0, err
    (report,) = (tmp_path / "out").glob("*/run.json")
    assert "int8" in report.read_text("utf-8")
    plain = run("predict", scan, "--model", model_file, "-o", tmp_path / "x", "--precision", "int8",
                "--engine", "openvino")  # fmt: skip
    require_one_error(plain, 2, "models quantise")


def test_models_are_combined_verified_and_used(run, tmp_path, model_file, scan):
    bundle = bundles.read(model_file)
    weights = {k: v * np.float16(0.9) for k, v in bundle.weights.items()}
    other = tmp_path / "other.brainmets"
    bundles.write(Bundle(**{**bundle.__dict__, "weights": weights}), other)
    whole = tmp_path / "whole.brainmets"
    code, text, err = run("models", "combine", model_file, other, "-o", whole)
    assert code == 0, err
    assert "of 2 networks" in text
    code, text, _ = run("models", "info", whole)
    assert json.loads(text)["networks"] == 2
    code, _, err = run("predict", scan, "--model", whole, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0, err
    same = run("models", "combine", model_file, model_file, "-o", tmp_path / "x.brainmets")
    require_one_error(same, 2, "the same weights")
    unlike = run("models", "combine", model_file, "starter", "-o", tmp_path / "x.brainmets")
    require_one_error(unlike, 2, "starter has another architecture")
    begun = run("train", tmp_path, "--start", whole, "-o", tmp_path / "x.brainmets")
    require_one_error(begun, 2, "averages 2 networks")
    assert not (tmp_path / "x.brainmets").exists()


def test_a_model_that_computes_otherwise_is_found_out(run, tmp_path, model_file):
    bundle = bundles.read(model_file)
    example = {**bundle.example, "output": bundle.example["output"] * np.float32(0.98)}
    bundles.write(Bundle(**{**bundle.__dict__, "example": example}), tmp_path / "x.brainmets")
    result = run("models", "verify", tmp_path / "x.brainmets", "--device", "cpu")
    require_one_error(result, 2, "differs from the expected output")


def test_simulating_from_a_bad_label_map_is_refused(run, tmp_path, scan):
    require_one_error(run("simulate", tmp_path / "out", "--anatomy", tmp_path / "absent"), 2)
    result = run("simulate", tmp_path / "out", "--cases", "1", "--anatomy", scan)
    require_one_error(result, 2, "good.nii.gz")
    assert not list((tmp_path / "out").glob("sim-*"))


@pytest.mark.parametrize(
    ("word", "given"), [("--contrast", True), ("--no-contrast", False), (None, None)]
)
def test_whether_contrast_is_given_is_handed_on(word, given, run, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "brainmets.simulate.examination.simulate_cohort", lambda _out, **how: asked.update(how)
    )
    assert run("simulate", tmp_path / "out", *([word] if word else []))[0] == 0
    assert asked["contrast"] is given


@pytest.mark.parametrize("words", [(), ("--varied-plexus",)])
def test_whether_the_plexus_is_varied_is_handed_on(words, run, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "brainmets.simulate.examination.simulate_cohort", lambda _out, **how: asked.update(how)
    )
    assert run("simulate", tmp_path / "out", *words)[0] == 0
    assert asked["varied_plexus"] is bool(words)


@pytest.mark.parametrize("words", [(), ("--large",)])
def test_whether_metastases_are_large_is_handed_on(words, run, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "brainmets.simulate.examination.simulate_cohort", lambda _out, **how: asked.update(how)
    )
    assert run("simulate", tmp_path / "out", *words)[0] == 0
    assert asked["large"] is bool(words)


@pytest.fixture
def masked(tmp_path):
    """A cohort table of seven cases with masks, which nobody opens."""
    rows = ["case\timage\tmask"]
    for name in "abcdefg":
        (tmp_path / f"{name}.nii.gz").touch()
        rows.append(f"{name}\t{name}.nii.gz\t{name}.nii.gz")
    (tmp_path / "masked.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "masked.tsv"


@pytest.mark.parametrize(
    ("words", "begins_with", "rate"),
    [
        ((), "starter", 0.001),
        (("--start", "none"), None, 0.002),
        (("--learning-rate", "0.01"), "starter", 0.01),
    ],
)
def test_where_a_second_network_begins(
    words, begins_with, rate, run, masked, tmp_path, monkeypatch
):
    asked = {}

    def stopped(*given, start, **_):
        asked.update(schedule=given[5], start=start)

    monkeypatch.setattr("brainmets.training.detail_fit.train_model_detail", stopped)
    where = ("--out", tmp_path / "m.brainmets", "--work", tmp_path / "work")
    assert run("models", "train-detail", masked, *where, *words)[0] == 0
    assert (asked["start"] and asked["start"].name) == begins_with
    assert asked["schedule"].learning_rate == rate


def test_a_second_network_is_not_written_over_the_one_it_begins_with(run, masked, tmp_path):
    mine = tmp_path / "mine.brainmets"
    mine.write_bytes(bundles.find("starter").read_bytes())
    words = ("--model", mine, "--out", mine, "--work", tmp_path / "work")
    require_one_error(run("models", "train-detail", masked, *words), 2)
    assert mine.read_bytes() == bundles.find("starter").read_bytes()


def test_what_is_left_out_of_a_simulation_is_handed_on(run, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "brainmets.simulate.examination.simulate_cohort", lambda _out, **how: asked.update(how)
    )
    words = ("--without", "mass-effect", "--without", "vessels")
    assert run("simulate", tmp_path / "out", *words)[0] == 0
    assert set(asked["without"]) == {"mass-effect", "vessels"}
    assert run("simulate", tmp_path / "out", "--without", "brains")[0] == 2


def test_the_share_of_patches_to_paste_into_is_handed_on(run, tmp_path, monkeypatch):
    asked = {}

    def planned(*_words, options, **_rest):
        asked.update(options)
        raise CohortError("seen")

    monkeypatch.setattr("brainmets.training.model.plan_training", planned)
    run("train", tmp_path, "-o", tmp_path / "m.brainmets", "--paste", "0.25")
    assert asked["paste_share"] == 0.25
    assert run("train", tmp_path, "-o", tmp_path / "m", "--paste", "1.5")[0] == 2


@pytest.mark.slow
def test_simulating_then_predicting_then_evaluating(run, tmp_path, model_file):
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    steps = [
        ("simulate", cohort, "--cases", "1", "--seed", "4"),
        ("predict", cohort, "-o", out, "--model", model_file),
        ("evaluate", out, cohort),
    ]
    for words in steps:
        code, _, err = run(*words)
        assert code == 0, err
    result = run("predict", cohort, "-o", cohort, "--model", model_file)
    require_one_error(result, 1, "would be lost")
    assert (cohort / "sim-0000" / "t1c.nii.gz").is_file()


@pytest.mark.slow
def test_the_demonstration_runs_from_nothing_to_a_comparison(run, tmp_path, model_file):
    code, text, err = run("demo", "-o", tmp_path / "demo", "--model", model_file)
    assert code == 0, err
    assert "The patient is simulated" in text
    assert (tmp_path / "demo" / "simulated-patient" / "report.html").is_file()
