"""Tables on the terminal."""

import pytest

from brainmets.apps.terminal import print_table

ROWS = [("lesion_sensitivity", "my_case_1", "0.5"), ("one_to_one_panoptic_quality", "b", "1")]


@pytest.mark.parametrize("width", [20, 40, 90])
def test_names_of_scores_break_between_words_and_nothing_is_lost(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table("Scores", ("score", "case", "mean"), ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    names, cases = ("".join(row[column] for row in cells) for column in (0, 1))
    wide = width == 90
    assert ("lesion_sensitivity" in names) == wide
    assert names.replace(" ", "").replace("_", "") == "lesionsensitivityonetoonepanopticquality"
    assert "my_case_1" in cases
    if width == 40:
        assert "lesion" in [row[0].split()[0] for row in cells if row[0]]
        assert "quality" in " ".join(row[0] for row in cells).split()
