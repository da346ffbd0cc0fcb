"""The page: self-contained, escaped, honest when nothing is found."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from brainmets.report.content import Check
from brainmets.report.page import render
from phantoms import Ball, make_head

VOID = {"meta", "input", "br", "image", "line", "path", "link", "img"}


class Outline(HTMLParser):
    """Collects text and attributes, and insists that tags nest."""

    def __init__(self, page):
        """Read a whole page."""
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Open a tag that holds something; void ones hold nothing."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note a tag that closes itself."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        """Close the tag that was opened last."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep what a reader sees."""
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        """All text, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def page(head, make_report):
    return render(make_report(head))


def test_the_page_is_whole_and_starts_with_its_doctype(page):
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    Outline(page)


def test_nothing_is_loaded_and_nothing_runs(page):
    parsed = Outline(page)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    addresses = [v for k, v in parsed.attributes if k in {"src", "href", "srcset", "action"}]
    assert all(a.startswith(("data:image/jpeg;base64,", "#")) for a in addresses)
    assert not [k for k, _ in parsed.attributes if k.startswith("on")]
    assert not re.search(r"url\(|@import", page)


def test_links_lead_somewhere(page):
    parsed = Outline(page)
    names = {v for k, v in parsed.attributes if k == "id"}
    assert {v[1:] for k, v in parsed.attributes if k == "href" and v.startswith("#")} <= names


def test_every_text_is_escaped(head, make_report):
    evil = '<script>alert("x")</script>'
    report = make_report(
        head,
        case_id=evil,
        checks=(Check(evil, False, evil),),
        provenance={
            "brainmets_version": evil,
            "model": {
                "name": evil,
                "card": {evil: [evil, {evil: evil}], "sensitivity_by_size": {evil: evil}},
            },
            "extractor": {"name": evil, "notes": [evil]},
            "engine": evil,
        },
    )
    parsed = Outline(render(report))
    assert "script" not in parsed.tags
    assert parsed.text.count(evil) >= 10


def test_the_notice_stands_first_and_sides_are_explained(page):
    text = Outline(page).text
    assert text.index("For research use only. Not a medical device.") < text.index("case 1", 40)
    assert "The patient's right is on the left of the picture" in text


def test_measurements_stand_in_the_page(head, make_report, page):
    text = Outline(page).text
    for lesion in make_report(head).lesions:
        assert f"{lesion.longest_diameter_mm:.1f}" in text
        assert f"{lesion.volume_mm3:,.0f}".replace(",", " ") in text
        sides = zip(("RL", "AP", "SI"), lesion.centroid_ras_mm, strict=True)
        assert " · ".join(f"{names[x < 0]} {abs(x):.1f}" for names, x in sides) in text


def test_scale_bars_are_as_long_as_they_say(page):
    """The view box is in mm, so the line's length is too."""
    bars = re.findall(r'class="bar" x1="([\d.]+)".*?x2="([\d.]+)"', page)
    said = re.findall(r">(\d+) mm</text>", page)
    assert len(bars) == len(said) == 3 + 3 * 2
    for (start, stop), length in zip(bars, said, strict=True):
        assert float(stop) - float(start) == pytest.approx(float(length), abs=0.011)


def test_markers_stand_where_they_belong(page):
    pattern = r'viewBox="0 0 ([\d.]+) ([\d.]+)".*?</svg>'
    drawings = list(re.finditer(pattern, page, re.DOTALL))
    assert len(drawings) == 9
    for drawing, sides in zip(drawings, ["RLAP", "RLSI", "APSI"] * 3, strict=True):
        width, height = float(drawing[1]), float(drawing[2])
        found = re.findall(r'class="marker" x="([\d.]+)" y="([\d.]+)">(\w)<', drawing[0])
        at = {letter: (float(x) / width, float(y) / height) for x, y, letter in found}
        left, right, up, down = (at[side] for side in sides)
        assert max(left[0], up[1]) < 0.1
        assert min(right[0], down[1]) > 0.9


def test_no_lesion_is_none_found_with_the_models_sensitivity(healthy, make_report):
    text = Outline(render(make_report(healthy))).text
    assert "None found. This does not mean that there is no lesion" in text
    assert "41 % (n 120)" in text
    assert text.index("< 3 mm") < text.index("3–4 mm")
    assert not re.search(r"no (brain )?metastas[ie]s", text, re.IGNORECASE)


def test_without_figures_in_the_card_none_are_made_up(healthy, make_report):
    report = make_report(healthy)
    bare = {**report.provenance, "model": {"name": "bare", "sha256": None, "card": None}}
    text = Outline(render(replace(report, provenance=bare))).text
    assert "states no sensitivity" in text


def test_the_card_says_first_what_a_reader_asks_and_folds_the_rest_away(head, make_report):
    bins = [{"share": 0.125, "voxels": 7}, {"share": 0.875, "voxels": 9}]
    card = {"history": "long ago", "limits": "few", "calibration": {"bins": bins},
            "mixed": [{"a": 1}, {"b": 2}], "none": []}  # fmt: skip
    report = make_report(head)
    told = {**report.provenance, "model": {"name": "bare", "sha256": None, "card": card}}
    page = render(replace(report, provenance=told))
    before, folded = page.split("<details>")
    assert "few" in Outline(page).text
    assert "few" in before
    assert "long ago" not in before
    folded = folded.split("</details>")[0]
    assert "long ago" in folded
    assert re.search(r"0\.125</td>\s*<td[^>]*>7</td>", folded)
    assert folded.count(">share<") == 1
    assert len(re.findall(r"<dt>[ab]</dt>", folded)) == 2


def test_a_given_mask_is_named_as_such(head, healthy, make_report):
    for who in (head, healthy):
        report = make_report(who)
        given = {**report.provenance, "model": None, "extractor": None}
        text = Outline(render(replace(report, provenance=given, brain=None))).text
        assert "outlined by: given mask" in text
        assert "a model" not in text


def test_what_needs_a_look_is_said_at_the_top(head, make_report):
    report = make_report(head, checks=(Check("slice thickness", False, "6.5 mm is thick"),))
    edge = replace(report.lesions[1], touches_mask_edge=True)
    text = Outline(render(replace(report, lesions=(report.lesions[0], edge)))).text
    top = text[: text.index("Overview")]
    assert "Slice thickness: 6.5 mm is thick" in top
    assert "Brain extraction: small brain" in top
    assert "lesion 2" in top


def test_an_empty_provenance_is_enough(head, make_report):
    assert "given mask" in Outline(render(make_report(head, provenance={}))).text


def test_sixty_lesions_stay_below_six_megabytes(make_report):
    rng = np.random.default_rng(1)
    spots = [(x, y, z) for x in range(-32, 33, 16) for y in (-40, -20, 0, 20) for z in (-20, 0, 20)]
    balls = [Ball(spot, float(rng.uniform(3, 5))) for spot in spots]
    page = render(make_report(make_head(balls=balls, noise=25)))
    assert len(balls) == 60
    assert page.count('<article class="lesion"') == 60
    assert len(page.encode()) < 6e6
