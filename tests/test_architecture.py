"""The house keeps its plan: who may import whom, and how large anything grows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import brainmets

SOURCE = Path(brainmets.__file__).parent
ROOMS = (
    "errors",
    "volume",
    "layouts",
    "cohort",
    "config",
    "concurrency",
    "memory",
    "io",
    "network",
    "preprocess",
    "inference",
    "lesions",
    "report",
    "pipeline",
    "batch",
    "profile",
    "simulate",
    "evaluation",
    "demo",
    "training",
    "apps",
)
"""A module imports from its own room and from rooms above it."""

ONLY_IN = {
    "torch": ("network", "inference", "simulate", "training", "concurrency", "preprocess/brain.py"),
    "openvino": ("network",),
    "pydicom": ("io",),
    "matplotlib": ("evaluation",),
    "pandas": (),
    "monai": (),
}
HEAVY = ("torch", "openvino", "matplotlib", "pandas", "pydicom", "monai", "scipy", "nibabel")
NAMELESS = ("utils", "util", "helpers", "helper", "common", "misc", "tools")
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {str(path.relative_to(SOURCE)): ast.parse(path.read_text("utf-8")) for path in FILES}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(module):
    """``io/nifti.py`` → ``io``, ``lesions.py`` → ``lesions``."""
    return module.split("/")[0].removesuffix(".py")


def imports_of(tree):
    """Full names of everything imported, in functions too.

    ``from a.b import c`` gives ``a.b.c``: only so is ``from brainmets import io`` seen.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def functions_of(tree):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTION)]


def length_of(function):
    """Lines of a function's body, its docstring left out, its comments and blanks counted."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def modules(*but):
    return [module for module in TREES if module not in but]


def test_every_room_is_in_the_plan():
    assert {room_of(module) for module in modules("__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("module", modules("__init__.py"))
def test_a_module_imports_only_from_its_own_room_and_those_above(module):
    own = ROOMS.index(room_of(module))
    below = [
        name
        for name in imports_of(TREES[module])
        if name.startswith("brainmets.")
        and (room := name.split(".")[1]) in ROOMS
        and ROOMS.index(room) > own
    ]
    assert below == []


def test_no_import_is_relative():
    assert not [m for m, tree in TREES.items() if any(n[0] == "." for n in imports_of(tree))]


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_framework_is_imported_only_where_it_belongs(package):
    users = {
        module
        for module, tree in TREES.items()
        for name in imports_of(tree)
        if package in name.split(".")[:2]  # safetensors.torch imports torch too
    }
    strangers = [user for user in users if room_of(user) not in ONLY_IN[package]]
    assert [user for user in strangers if user not in ONLY_IN[package]] == []


def test_nothing_imports_the_doors():
    users = {
        room_of(module)
        for module, tree in TREES.items()
        for name in imports_of(tree)
        if name.startswith("brainmets.apps")
    }
    assert users <= {"apps"}


def loaded_after(code):
    """Which heavy packages a fresh interpreter holds after running ``code``."""
    report = f"import sys; print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run(  # noqa: S603 - own script
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return ast.literal_eval(done.stderr)


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"]])
def test_help_loads_nothing_heavy(words):
    code = (
        "import sys\nfrom brainmets.apps.cli import main\n"
        f"sys.argv = {['brainmets', *words]!r}\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert loaded_after(code) == []


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import brainmets") == []


def test_the_line_itself_needs_no_torch_until_a_model_is_loaded():
    assert "torch" not in loaded_after("import brainmets.pipeline, brainmets.batch")


def test_no_module_has_a_name_that_says_nothing():
    names = {part for module in TREES for part in module.removesuffix(".py").split("/")}
    assert not names & set(NAMELESS)


def test_no_file_is_longer_than_600_lines():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 600} == {}


def test_no_function_is_longer_than_50_lines():
    lengths = {
        f"{module}:{function.name}": length_of(function)
        for module, tree in TREES.items()
        for function in functions_of(tree)
    }
    assert {name: n for name, n in lengths.items() if n > 50} == {}


def test_the_line_fits_on_one_screen():
    (analyse,) = [f for f in functions_of(TREES["pipeline.py"]) if f.name == "analyse"]
    assert length_of(analyse) <= 40


@pytest.mark.parametrize("module", TREES)
def test_what_is_public_says_what_it_is_for(module):
    tree = TREES[module]
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    public = [
        node
        for holder in (tree, *classes)
        for node in holder.body
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert ast.get_docstring(tree)
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_assert_stays_in_tests():
    users = [
        m for m, tree in TREES.items() if any(isinstance(n, ast.Assert) for n in ast.walk(tree))
    ]
    assert users == []
