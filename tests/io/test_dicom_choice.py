"""Which series of a study is read, and why; headers as hospitals write them."""

import pytest

from brainmets.errors import VolumeError
from brainmets.io import dicom
from brainmets.io.dicom_words import T1, contrast_in, first_word, names_agent, other_kind, plain
from dicom_series import Layout, slices_of, write

SMALL = (8, 8, 12)


def study(folder, *descriptions):
    """A study of small series, one for each description or mapping of tags, numbered from 1."""
    for number, given in enumerate(descriptions, start=1):
        tags = {"SeriesDescription": given} if isinstance(given, str) else given
        recipe = Layout(shape=SMALL, spacing_mm=(9.0, 9.0, 8.0))
        recipe.tags = {"SeriesNumber": number, "EchoTime": None, "RepetitionTime": None,
                       "MRAcquisitionType": None, "SliceThickness": None} | tags  # fmt: skip
        write(folder, slices_of(recipe, f"1.2.3.4.{number}"), prefix=f"s{number}-")
    return folder


def number_read(folder, **options):
    scan = dicom.read(folder, **options)
    return int(scan.notes[0].split()[2]), scan


WITH_CONTRAST = (
    "T1 post", "T1_SE_tra_GAD", "ax T1 +C", "T1 MPRAGE sag KM", "t1_mprage_sag_mit KM", "T1 CE",
    "3D T1 SPGR post gad", "AX BRAVO +C", "t1_vibe_fs_tra_Gd", "SAG 3D TFE +GADO", "T1 nach KM",
    "T1 SE AX APRÈS INJ", "T1 con contraste", "T1 dopo mdc", "T1 MPRAGE+MDC", "T1W_3D_TFE GADOVIST",
    "T1C", "t1ce", "T1 MPRAGE Kontrast", "T1 с контрастом", "T1 造影", "+C MPRAGE", "T1+", "T1-KM",
    "ax t1 postcontrast", "T1 FLAIR post",
)  # fmt: skip
WITHOUT_CONTRAST = (
    "T1 pre", "T1 nativ", "T1 w/o contrast", "T1 ohne KM", "T1 sans injection", "T1 non contrast",
    "T1 unenhanced", "T1 sin contraste", "T1 senza mdc", "T1 noncontrast", "T1 vor KM",
    "T1 zonder c", "T1 WO",
)  # fmt: skip
NEITHER = ("T1 MPRAGE", "SAG MPRAGE 220 FOV", "t1_space_sag", "T1 posterior", "AX T1 SE", "T1 prep")
OTHERS = {
    "AX T2 FLAIR": "FLAIR", "t2_tse_tra": "T2", "ep2d_diff_b1000_ADC": "diffusion",
    "Localizer": "localiser", "AAHead_Scout": "localiser", "3 Plane Loc": "localiser",
    "T1 SUB": "subtraction", "T1 post MIP": "projection", "ep2d_perf PWI": "perfusion",
    "SWI_Images": "susceptibility", "TOF 3D": "angiography", "T1 C-spine +C": "other body part",
    "tirm_tra_dark-fluid": "STIR", "t1 map": "map", "FLAIR +C": "FLAIR", "Lokalisator": "localiser",
    "T1 HWS KM": "other body part", "Soustraction T1": "subtraction", "REST BOLD": "functional",
    "RESTA T1": "subtraction", "差分": "subtraction", "T1差分": "subtraction",
    "T1 Differenz": "subtraction", "T1 cuello": "other body part", "T1 collo": "other body part",
    "T1 columna": "other body part", "T1 colonna": "other body part",
    "T1 WS KM": "other body part", "T1 HWS": "other body part", "T1 BWS": "other body part",
    "T1 LWS": "other body part", "T1 rest of brain": "",
}  # fmt: skip

SAID = {
    True: (
        "C/ CONTRASTE", "C/C", "m. KM", "IV+", "con CIV", "poscontraste", "postkontrast",
        "po kontrascie", "po KL", "с к/у", "после контраста", "造影後", "增强", "n. KM", "mit KM",
        "KM+", "Gd-DOTA", "MPRAGE - POST GD", "post Gd no FS", "+C non fat sat", "postop post Gd",
        "pre-op Gd", "Gd 0,1", "3.0 Gd", "3,0T GD", "- C+", "增強", "造影后", "post stealth",
    ),
    False: (
        "S/ CONTRASTE", "s/gad", "S/GD", "S/ GADO", "S/C", "o KM", "o. KM", "oKM", "kein KM",
        "KM nein", "KM: nein", "KM-", "Gd-", "-Gd", "(-Gd)", "0 Gd", "Gd 0 ml", "C-", "-C", "-KM",
        "C−", "C– tra", "not enhanced", "non-enhanced", "unenhanced", "prior to contrast",
        "NC", "prima mdc", "prima del contrasto", "antes contraste", "antes de contraste",
        "przed kontrastem", "przed KL", "до контраста", "до к/у", "без контраста", "造影前",
        "造影なし", "造影剤なし", "非造影", "単純", "平扫", "未增强", "avant IV", "IV-", "SIN CIV",
        "precontraste", "pre contraste", "pregado", "PREGD", "PREGAD", "preKM", "no Gd", "woGd",
        "contrast: none", "0,0 Gd", "vor Gd", "SANS IV", "postop pre Gd", "w/o_gd", "wo",
    ),
    None: (
        "- Gd", "+/- Gd", "± Gd", "W/WO", "S GADO", "S IV", "post RT",
        "pre-op", "postcraniotomy", "contour",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "words"), [(said, w) for said in SAID for w in SAID[said]])
@pytest.mark.parametrize("form", ["T1 {}", "T1_{}", "{} T1", "t1_mprage {} sag"])
def test_a_denial_never_reads_as_contrast(said, words, form):
    described = plain(form.format(words))
    assert contrast_in(described) is said
    assert other_kind(described) == ""
    assert first_word(T1, described)


NO_AGENTS = (
    "NO CONTRAST", "KEIN", "nein", "NON", "aucun", "Ninguno", "ohne KM", "Without contrast",
    "sin contraste", "NONE GIVEN", "Null", "No Gad", "N.A.", "n/a", "-", "--", "0 ml", "0.0 ml",
    "sem contraste", "нет", "なし", "none.", "not given", "Gadovist 0 ml", "",
)  # fmt: skip
AGENTS = ("Gd-DOTA 0.1", "Gadovist", "0.1 mmol/kg Gd", "DOTAREM 10 ml", "Novel", "yes", "IV")


@pytest.mark.parametrize("given", NO_AGENTS)
def test_what_denies_an_agent_names_none(given):
    assert not names_agent(given)
    assert not names_agent(given.upper())


@pytest.mark.parametrize("given", AGENTS)
def test_any_other_words_name_an_agent(given):
    assert names_agent(given)


def test_a_dash_at_the_end_denies_and_one_between_words_does_not():
    assert contrast_in(plain("T1 Gd -")) is False
    assert contrast_in(plain("T1 Gd - sag")) is True


@pytest.mark.parametrize("words", WITH_CONTRAST)
def test_contrast_is_known_in_many_languages(words):
    assert contrast_in(plain(words)) is True
    assert other_kind(plain(words)) == ""


@pytest.mark.parametrize("words", WITHOUT_CONTRAST)
def test_so_is_its_absence(words):
    assert contrast_in(plain(words)) is False


@pytest.mark.parametrize("words", NEITHER)
def test_what_says_nothing_of_contrast_is_left_open(words):
    assert contrast_in(plain(words)) is None
    assert other_kind(plain(words)) == ""


@pytest.mark.parametrize("words", OTHERS)
def test_other_kinds_of_series_are_known(words):
    assert other_kind(plain(words)) == OTHERS[words]


PREFERENCES = {
    "contrast before none": ("T1 MPRAGE", "T1 MPRAGE +C"),
    "said contrast before none, though the agent stands in both": (
        {"SeriesDescription": "T1 pre", "ContrastBolusAgent": "Gadovist"},
        {"SeriesDescription": "T1 MPRAGE", "ContrastBolusAgent": "Gadovist"},
    ),
    "agent in the header": (
        "T1 MPRAGE",
        {"SeriesDescription": "T1 MPRAGE", "ContrastBolusAgent": "Gd-DOTA 0.1"},
    ),
    "an agent of 'NONE' is none": (
        {"SeriesDescription": "T1 SE", "ContrastBolusAgent": "NONE", "MRAcquisitionType": "3D"},
        {"SeriesDescription": "T1 SE +C", "MRAcquisitionType": "2D"},
    ),
    "Portuguese": (
        {"SeriesDescription": "T1 S/ CONTRASTE", "SliceThickness": 1, "MRAcquisitionType": "3D"},
        "T1 C/ CONTRASTE",
    ),
    "German": (
        {"SeriesDescription": "T1 o. KM", "SliceThickness": 1, "MRAcquisitionType": "3D"},
        "T1 m. KM",
    ),
    "English": (
        {"SeriesDescription": "T1 non-enhanced", "SliceThickness": 1, "MRAcquisitionType": "3D"},
        "T1 enhanced",
    ),
    "contrast in the description before an agent in the header": (
        {"SeriesDescription": "T1 MPRAGE", "ContrastBolusAgent": "Gd", "MRAcquisitionType": "3D"},
        {"SeriesDescription": "T1 SE +C", "ContrastBolusAgent": "Gd"},
    ),
    "an agent denied in other words is none": (
        {"SeriesDescription": "T1", "ContrastBolusAgent": "KEIN", "MRAcquisitionType": "3D"},
        {"SeriesDescription": "T1", "ContrastBolusAgent": "Gadovist"},
    ),
    "water before fat by image type": (
        {"SeriesDescription": "T1 +C", "ImageType": ["ORIGINAL", "PRIMARY", "DIXON", "FAT"]},
        {"SeriesDescription": "T1 +C", "ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]},
    ),
    "water before fat by description": ("t1_vibe_dixon_KM_F", "t1_vibe_dixon_KM_W"),
    "in phase before out of phase": (
        {"SeriesDescription": "T1 +C", "ImageType": ["ORIGINAL", "PRIMARY", "M", "OPP_PHASE"]},
        {"SeriesDescription": "T1 +C", "ImageType": ["ORIGINAL", "PRIMARY", "M", "IN_PHASE"]},
    ),
    "in phase before out of phase by description": ("T1 Dixon +C opp", "T1 Dixon +C in"),
    "fat saturation is no fat image": ("T1 mDixon F", "T1 mDixon fat sat"),
    "3D before 2D": (
        {"SeriesDescription": "T1 SE +C", "MRAcquisitionType": "2D", "SliceThickness": 1},
        {"SeriesDescription": "T1 MPRAGE +C", "MRAcquisitionType": "3D", "SliceThickness": 2},
    ),
    "thin before thick": (
        {"SeriesDescription": "T1 +C", "SliceThickness": 5},
        {"SeriesDescription": "T1 +C", "SliceThickness": 1},
    ),
    "original before derived": (
        {"SeriesDescription": "T1 +C", "ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"SeriesDescription": "T1 +C", "SliceThickness": 6},
    ),
    "the whole head before a part": ("T1 +C orbits", "T1 +C"),
    "T1 by its timing before the unknown": (
        "series",
        {"SeriesDescription": "axial", "EchoTime": 3.0, "RepetitionTime": 8.0},
    ),
    "never a T2 that is called T1": (
        {"SeriesDescription": "T1 +C", "EchoTime": 98.0},
        "T1 MPRAGE",
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_better_series_is_read_whatever_its_number(tmp_path, name, turned):
    worse, better = PREFERENCES[name]
    pair = (better, worse) if turned else (worse, better)
    number, scan = number_read(study(tmp_path / "s", *pair))
    assert number == (1 if turned else 2)
    assert "chosen among 2: " in scan.notes[0]


def test_a_whole_examination_gives_its_thin_t1_after_contrast(tmp_path):
    folder = study(
        tmp_path / "s", "Localizer", "AX T2 FLAIR", "T1 MPRAGE", "ep2d_diff ADC", "SWI",
        {"SeriesDescription": "AX T1 SE +C", "SliceThickness": 5, "MRAcquisitionType": "2D"},
        {"SeriesDescription": "SAG T1 MPRAGE +C", "SliceThickness": 1, "MRAcquisitionType": "3D"},
        {"SeriesDescription": "T1 MPRAGE +C MPR ax", "ImageType": ["DERIVED", "SECONDARY", "MPR"],
         "SliceThickness": 1, "MRAcquisitionType": "3D"},
        {"SeriesDescription": "CT", "Modality": "CT"},
        {"SeriesDescription": "T1 +C", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
    )  # fmt: skip
    number, scan = number_read(folder)
    assert (number, scan.sequence, scan.contrast) == (7, "T1c", True)
    assert scan.notes[0].endswith(
        "chosen among 10: T1 by its description (MPRAGE), with contrast by its description, "
        "original, 3D, slices of 1 mm"
    )


def test_the_first_of_equals_is_read(tmp_path):
    assert number_read(study(tmp_path / "s", "T1 +C", "T1 +C"))[0] == 1


@pytest.mark.parametrize("how", ["number", "uid", "digits"])
def test_a_series_asked_for_is_read_and_said_to_be(tmp_path, how):
    folder = study(tmp_path / "s", "T1 +C", "AX T2 FLAIR")
    (found,) = dicom.studies(folder)
    wanted = {"number": "2", "uid": "1.2.3.4.2", "digits": found.series[1].key}[how]
    number, scan = number_read(folder, series=wanted)
    assert number == 2
    assert "as asked for" in scan.notes[0]
    assert scan.sequence == "FLAIR"
    assert any("would not have been chosen" in note for note in scan.notes)


def test_a_number_that_two_series_share_is_refused_with_their_digits(tmp_path):
    tags = {"SeriesDescription": "T1", "SeriesNumber": 5}
    folder = study(tmp_path / "s", tags, tags)
    (found,) = dicom.studies(folder)
    with pytest.raises(VolumeError, match="2 series for --series") as caught:
        dicom.read(folder, series="5")
    assert all(series.key in str(caught.value) for series in found.series)
    with pytest.raises(VolumeError, match="no series for --series"):
        dicom.read(folder, series="6")


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT"}, "no MR .modality CT"),
        ({"Modality": "MILLER"}, "no MR .modality unknown"),
        ({"Modality": "RTSTRUCT"}, "no MR .modality RTSTRUCT"),
        ({"SeriesDescription": "AX T2 FLAIR"}, "FLAIR"),
        ({"SeriesDescription": "T1", "EchoTime": 110.0}, "no T1: echo time 110 ms"),
        ({"SeriesDescription": "", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
    ],
)
def test_no_t1_among_the_series_is_an_error_with_the_reason(tmp_path, tags, reason):
    with pytest.raises(VolumeError, match=f"series 1 .*{reason}.*--series"):
        dicom.read(study(tmp_path / "s", tags))


def test_a_series_of_another_modality_is_refused_even_if_asked_for(tmp_path):
    with pytest.raises(VolumeError, match="modality CT"):
        dicom.read(study(tmp_path / "s", {"Modality": "CT"}), series="1")


@pytest.mark.parametrize(
    ("words", "sequence", "contrast"),
    [
        ("T1", "T1, contrast not stated", None),
        ("T1 pre", "T1 without contrast", False),
        ("head", None, None),
    ],
)
def test_a_lone_series_is_read_with_a_warning_if_it_does_not_say_contrast(
    tmp_path, words, sequence, contrast
):
    scan = dicom.read(study(tmp_path / "s", words))
    assert (scan.sequence, scan.contrast) == (sequence, contrast)
    assert any("without contrast" in note for note in scan.notes)


def test_several_series_of_which_none_says_t1_are_refused(tmp_path):
    with pytest.raises(VolumeError, match="name the one to read with --series"):
        dicom.read(study(tmp_path / "s", "head", "brain"))


def test_reasons_are_in_our_words_not_the_headers(tmp_path):
    scan = dicom.read(study(tmp_path / "s", "T1 JANE DOE +C", "Miller T1"))
    assert not [n for n in scan.notes if "doe" in n.lower() or "miller" in n.lower()]
