"""The documentation is true where a machine can tell: links, commands, options, names."""

import dataclasses
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import typer

from brainmets import batch, config, errors
from brainmets.apps.cli import app
from brainmets.cohort import COLUMNS
from brainmets.evaluation import tables as scores_on_disk
from brainmets.evaluation.case import score
from brainmets.evaluation.matching import RULES
from brainmets.evaluation.patientwise import statistics_of
from brainmets.evaluation.pooled import POOLED
from brainmets.report import tables
from brainmets.volume import Grid, Volume

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
TOLD = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
COMMAND_LINE = typer.main.get_command(app)
LEAVES = {
    **{n: c for n, c in COMMAND_LINE.commands.items() if not hasattr(c, "commands")},
    **{
        f"{group} {n}".removesuffix(" run"): c
        for group, inside in COMMAND_LINE.commands.items()
        if hasattr(inside, "commands")
        for n, c in inside.commands.items()
    },
}
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FORBIDDEN = re.compile(
    r"(?<![\w.])/(?:work|tmp|home|root)\b|\bsessions?\b|\bsub-?agents?\b", re.IGNORECASE
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number, name = 0, slug
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


def links(page: Path) -> list[str]:
    """Relative links of a page."""
    return [t for t in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", t)]


def target(page: Path, link: str) -> Path:
    name = link.partition("#")[0]
    return (page.parent / name).resolve() if name else page


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after ``brainmets`` of every line in a shell block that calls it."""
    for language, block in FENCE.findall(text_of(page)):
        if language not in ("", "sh", "bash", "shell", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            if words and Path(words[0]).name == "brainmets":
                ends = [i for i, w in enumerate(words) if w in ("|", ">", "&&", ";", "&")]
                yield words[1 : min(ends, default=len(words))]


def parse(words: list[str]) -> None:
    """Parse a command line as brainmets would, and run nothing."""
    command, name, context = COMMAND_LINE, "brainmets", None
    while True:
        try:
            context = command.make_context(name, list(words), parent=context)
        except typer.Exit:  # --help and --version
            return
        if not hasattr(command, "commands"):
            return
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        assert rest, f"{name} needs a command"
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command, name, words = command.commands[rest[0]], rest[0], rest[1:]


def id_of(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else ""


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        there, anchor = target(page, link), link.partition("#")[2]
        assert there.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(there), f"{link}: no such heading"


def test_every_page_can_be_reached_from_the_map() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen and page.suffix == ".md" and page.is_file():
            seen.add(page)
            waiting += [target(page, link) for link in links(page)]
    assert set(DOCS.rglob("*.md")) <= seen


@pytest.mark.parametrize("page", TOLD, ids=id_of)
def test_every_command_line_parses(page: Path) -> None:
    for words in command_lines(page):
        parse(words)


def test_the_pages_show_every_command() -> None:
    shown = [" ".join(words) + " " for page in TOLD for words in command_lines(page)]
    for name in LEAVES:
        if name not in ("demo", "models list"):  # described, but with nothing to show
            assert any(line.startswith(f"{name} ") for line in shown), name


@pytest.mark.parametrize(
    "words",
    ["predict a.nii", "predict a.nii -o out --nonesuch", "nonesuch", "train c.tsv -o m --steps x"],
)
def test_a_wrong_command_line_is_noticed(words: str) -> None:
    with pytest.raises(Exception, match=r"(?i)missing|no |valid"):
        parse(words.split())


def test_every_command_and_option_is_described() -> None:
    text = text_of(DOCS / "reference/command-line.md")
    parts = {p.partition("\n")[0]: p for p in re.split(r"^## +", text, flags=re.MULTILINE)}
    for name, command in LEAVES.items():
        assert name in parts, f"no heading for {name}"
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}`" in parts[name], f"{name} {option}"


def test_every_setting_is_described_with_its_default() -> None:
    text = text_of(DOCS / "reference/configuration.md")
    parts = {p.partition("\n")[0]: p for p in re.split(r"^## +", text, flags=re.MULTILINE)}
    kinds = [
        kind
        for _, kind in inspect.getmembers(config, dataclasses.is_dataclass)
        if kind.__module__ == config.__name__
    ]
    assert kinds
    for kind in kinds:
        for field in dataclasses.fields(kind):
            default = json.dumps(field.default)
            shown = default if isinstance(field.default, int | float) else f"`{default}`"
            assert f"| `{field.name}` | {shown} |" in parts[kind.__name__], field.name


def test_every_error_is_described_with_its_parent_and_exit_status() -> None:
    text = text_of(DOCS / "reference/errors.md")
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        parent = "" if kind is errors.BrainmetsError else f"`{kind.__base__.__name__}` "
        assert f"| `{name}` | {parent}| {kind.exit_code} |" in text


def test_every_column_of_a_cohort_is_described() -> None:
    text = text_of(DOCS / "how-to/describe-a-cohort.md")
    assert [c for c in COLUMNS if f"`{c}`" not in text] == []


def test_every_output_file_column_and_field_is_described() -> None:
    text = text_of(DOCS / "reference/files.md")
    schema = json.loads((files("brainmets.report") / "report.schema.json").read_text("utf-8"))
    names = {*batch.FILES, batch.SUMMARY, *tables.COLUMNS, *scores_on_disk.FILES}
    names |= {*scores_on_disk.LESION_COLUMNS, *scores_on_disk.SUMMARY_COLUMNS}
    names |= set(scores_on_disk.PATIENT_COLUMNS)
    names |= set(batch._run_record("", batch.Clock()))
    names |= set(schema["properties"]) | set(schema["$defs"]["lesion"]["properties"])
    for part in ("scan", "summary", "provenance"):
        names |= set(schema["properties"][part]["properties"])
    assert sorted(n for n in names if f"`{n}`" not in text) == []


def test_every_score_and_rule_is_described() -> None:
    text = text_of(DOCS / "reference/scores.md")
    mask = Volume(np.ones((3, 3, 3), bool), Grid((3, 3, 3), np.eye(4)))
    case = score(mask, mask, probability=mask.with_data(np.ones((3, 3, 3), np.float32)))
    names = {*case.scores, *POOLED, *statistics_of(()), "free_response_auc", "mean_sensitivity"}
    assert sorted(n for n in names if f"`{n}`" not in text) == []
    assert [n for n in RULES if f"`{n}`" not in text and f"`{n}:" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_no_page_speaks_of_the_machine_it_was_written_on(page: Path) -> None:
    assert FORBIDDEN.findall(text_of(page)) == []


def test_every_decision_is_in_the_index():
    listed = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f"(decisions/{page.name})" in listed, page.name
