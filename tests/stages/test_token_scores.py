"""The tokens behind a score: a mean over a row that is the row's score, and a page that shows them in the text."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from mad.models.language_checkpoint import load_tokenizer
from mad.stages._text_page import text_page
from mad.stages._token_scores import pieces
from tests.conftest import World, make_engine, run_chain
from tests.stages.test_extract_text import TINY

REPORT = {"detect.bootstrap": "0", "report.extreme_texts": "4", "report.pca": "false", "report.variance": "false"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A small classifier of texts with the activations of every token."""
    engine = make_engine(tmp_path_factory.mktemp("tokens"))
    return World(engine, run_chain(engine, "extract", {**TINY, "extract.pool": "all"}))


def reported(tokens, **flags):
    made = {"prepare": tokens.split, "train": tokens.checkpoint}
    if "extract.pool" not in flags:
        made["extract"] = tokens.features
    found = tokens.run("report", {**REPORT, **flags}, **made)
    return found["detect"], found["report"]


def table_of(report, name):
    return pd.read_csv(report.folder / name, keep_default_na=False)


@pytest.mark.parametrize("detector", ["mahalanobis", "knn"])
def test_the_mean_over_the_tokens_of_a_row_is_its_score(tokens, detector):
    scores, report = reported(tokens, detector=detector)
    shown, found = table_of(report, "texts.csv"), table_of(report, "tokens.csv")
    expected = scores.table("scores.parquet").set_index("id")["score"]
    by_row = found.groupby("id")
    assert set(by_row.groups) == set(shown["id"]) and len(shown) == 8
    np.testing.assert_allclose(by_row["score"].mean(), expected.loc[list(by_row.groups)], rtol=1e-4, atol=1e-4)
    tokenizer = load_tokenizer(tokens.checkpoint.folder)
    for row in shown.itertuples():
        mine = found[(found["end"] == row.end) & (found["rank"] == row.rank)]
        assert "".join(mine["token"]) == "<bos>" + row.text
        assert list(mine["position"]) == list(range(len(tokenizer(row.text)["input_ids"])))
        assert mine["score"].std() > 0


def test_positions_of_a_slice_are_those_of_the_text(tokens):
    _, report = reported(tokens, **{"extract.pool": "-3:"})
    found, shown = table_of(report, "tokens.csv"), table_of(report, "texts.csv")
    tokenizer = load_tokenizer(tokens.checkpoint.folder)
    for row in shown.itertuples():
        mine = found[(found["end"] == row.end) & (found["rank"] == row.rank)]
        length = len(tokenizer(row.text)["input_ids"])
        assert list(mine["position"]) == [length - 3, length - 2, length - 1]
        assert row.text.endswith("".join(mine["token"]))


@pytest.mark.parametrize("flags", [{"extract.pool": "last"}, {"detector": "beatrix"}, {"detector": "msp"}])
def test_no_tokens_where_the_detector_does_not_score_them(tokens, flags):
    _, report = reported(tokens, **flags)
    assert {"texts.csv", "texts.html"} <= set(report.meta["files"]) and "tokens.csv" not in report.meta["files"]
    assert "texts.html" in report.summary["plots"]


class Reader(HTMLParser):
    """Cells of the text column, and the strength of every marked token."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []
        self.marks: list[tuple[str, float]] = []
        self.inside, self.strength = False, 0.0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "td":
            self.inside = given.get("class") == "text"
            self.texts += [""] * self.inside
        if tag == "span":
            look = given.get("style")
            self.strength = float(look.rpartition(",")[2].rstrip(")")) if look else 0.0

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"

    def handle_data(self, data):
        if self.inside and data.strip("\n"):
            self.texts[-1] += data
            self.marks.append((data, self.strength))


def test_the_page_shows_the_texts_with_the_strongest_tokens_marked(tokens):
    _, report = reported(tokens, detector="mahalanobis")
    shown, found = table_of(report, "texts.csv"), table_of(report, "tokens.csv")
    reader = Reader()
    reader.feed((report.folder / "texts.html").read_text(encoding="utf-8"))
    assert [text.removeprefix("<bos>") for text in reader.texts] == list(shown["text"])
    strength = dict(reader.marks)
    strongest = found.loc[found["score"].idxmax(), "token"]
    assert strength[strongest] == 1.0 and min(strength.values()) == 0.0


def test_a_text_is_shown_as_text_whatever_is_in_it():
    text = "<script>alert('x')</script> & <b>bold</b>"
    row = {"end": "most", "rank": 1, "id": "<i>", "is_anomalous": True, "control": "", "score": 1.0, "text": text}
    page = text_page(pd.DataFrame([row]), None)
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page
    reader = Reader()
    reader.feed(page)
    assert reader.texts == [text]


@pytest.mark.parametrize("text", ["The film was dull.", "  two  spaces\n", "naïve café — 好 😀!", "a"])
def test_pieces_joined_are_the_text(tokens, text):
    tokenizer = load_tokenizer(tokens.checkpoint.folder)
    found = pieces(tokenizer, text)
    assert len(found) == len(tokenizer(text)["input_ids"])
    assert found[0] == "<bos>" and "".join(found[1:]) == text
