"""The package uses the words of the field; words left out stay out; class names are unique."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mirnet_edge"
# with the word that is used instead
IN_TEXT = {
    r"pictures?": "image",
    r"colour\w*": "color",
    r"grey(scale)?": "gray",
    r"(un)?labelled|labelling": "labeled",
    r"flavour|neighbour\w*|behaviour|centre[ds]?|licence": "American spelling",
    r"(?:normal|optim|minim|recogn|quant|initial|equal)is(?:e|ed|es|ing|ation)": "-ize",
    r"rivals?": "competitor",
    r"contestants?": "entry",
    r"adopted": "accepted",
    r"steadied": "smoothed over time",
    r"mailbox": "latest-frame buffer",
    r"befallen|made bad": "degraded",
    r"dearest": "most sensitive",
    r"pupil": "student",
    r"unquiet": "unstable",
    r"hangup": "disconnect",
    r"pooled vectors|anchored pooling": "global context vectors",
    r"nobody vouches": "untrusted checkpoint",
    r"lit_share": "well_lit_fraction",
    r"by heart": "overfitted",
    r"ageing": "aging",
}
IN_NAMES = {
    "told", "asked", "glance", "steadied", "picture", "pictures", "befallen", "contestant", "rival",
    "judge", "judging", "adopted", "knock", "hangup", "patience", "studio", "mailbox", "pupil",
    "dearest", "colour", "grey", "begun", "drawn",
}  # fmt: skip
# keys of older schemas, options kept for old scripts, and what other libraries call it
FORMER = re.compile(r"former|hidden|deprecated|av\.|PictureType|picture-in-picture", re.IGNORECASE)


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def texts():
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs/guides").glob("*.md"),
        *sorted((ROOT / "docs/decisions").glob("*.md")),
        *sorted((ROOT / "benchmarks/reports").rglob("*.md")),
    ]
    folders = [ROOT / name / "README.md" for name in ("export", "calibration", "benchmarks")]
    recipes = [*PACKAGE.rglob("*.toml"), *PACKAGE.rglob("*.js"), *PACKAGE.rglob("*.html")]
    return [*modules(), *pages, *folders, *sorted(recipes)]


def left_out(text, *, prose=False):
    """Return (line number, word, what to say instead) of each word that is left out.

    Lines of code that have a former name are not checked, of prose only the names in backquotes.
    """
    found, former = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if prose:
            line = re.sub("`[^`]*`", "", line) if FORMER.search(line) else line
        else:
            # a mapping of former keys runs on until its closing brace
            former = former and not line.strip().startswith("}")
            if former or FORMER.search(line):
                former = former or line.rstrip().endswith("{")
                continue
        for pattern, instead in IN_TEXT.items():
            found += [
                (number, match[0], instead)
                for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", line, re.IGNORECASE)
            ]
    return found


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_hold_no_word_that_was_left_out(path):
    assert not left_out(path.read_text(encoding="utf-8"), prose=path.suffix == ".md")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers_hold_no_word_that_was_left_out(path):
    names = {
        token.string
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        if token.type == tokenize.NAME and "PictureType" not in token.string
    }
    parts = {
        name: {one.lower() for one in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
        for name in names
    }
    assert not {name for name, words in parts.items() if words & IN_NAMES}


def test_the_checks_above_can_fail():
    assert left_out("the colour of a picture") == [
        (1, "picture", "image"), (1, "colour", "color"),
    ]  # fmt: skip
    assert not left_out('former_keys = {"pictures": "images"}')
    assert not left_out("the color of an image")
    assert left_out("the former picture, now `picture`", prose=True) == [(1, "picture", "image")]


def test_each_class_has_a_name_of_its_own():
    names = Counter(
        node.name
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert not {name for name, count in names.items() if count > 1}


def test_words_of_the_field_are_found():
    code = "\n".join(path.read_text(encoding="utf-8") for path in modules())
    for word in (
        "augment", "ground truth", "temporal", "backpressure", "student", "teacher", "pseudo-label",
        "EMA", "warm-up", "weight decay", "learning rate", "random seed", "calibration",
        "post-training quantization", "quantization-aware training", "sensitivity analysis",
        "accuracy drop", "speedup", "throughput", "scene-cut", "dropped frames", "reconnect",
        "execution provider", "optimization profile", "untrusted checkpoint", "L2-SP", "WiSE-FT",
    ):  # fmt: skip
        assert re.search(word, code, re.IGNORECASE), word
