"""Records of the stages, but for the rows of a task."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pandas as pd
from torch import Tensor

from mad.artifacts._base import Artifact, chunk_names
from mad.errors import ConfigError, nearest


class Checkpoint(Artifact):
    """A trained model: ``weights.safetensors`` and ``model.json``."""

    stage = "train"


class Features(Artifact):
    """Activations and logits of every row, in numbered chunks of safetensors."""

    stage = "extract"

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in model order."""
        return self.summary["layers"]

    @cached_property
    def chunks(self) -> list[dict[str, Tensor]]:
        """Memory-mapped chunks: a tensor per layer, ``logits``, ``mask`` where rows have positions."""
        return [self.tensors(name) for name in chunk_names(self)]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows, in the order of the chunks: id, part, label, clean_label, is_anomalous."""
        return self.table("rows.parquet")

    def bounds(self, part: str) -> tuple[int, int]:
        """First row and one past the last row of a part; parts are contiguous.

        Raises:
            ConfigError: no such part was extracted.
        """
        found = (self.rows["part"] == part).to_numpy().nonzero()[0]
        if not len(found):
            raise ConfigError(f"no features of part '{part}'{nearest(part, set(self.rows['part']))}")
        return int(found[0]), int(found[-1]) + 1


class FittedDetector(Artifact):
    """A fitted detector: ``state.safetensors`` and its config in the meta data."""

    stage = "fit"


class AnomalyScores(Artifact):
    """Scores per row and layer, aggregate, threshold and metrics."""

    stage = "detect"


class Report(Artifact):
    """Plots and tables."""

    stage = "report"


class Chunked(Artifact):
    """Rows of a table in numbered chunks of parquet."""

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All rows, in order."""
        return pd.concat([self.table(name) for name in chunk_names(self)], ignore_index=True)


class Prompts(Artifact):
    """What language models are asked."""

    stage = "prompts"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line per prompt, see ``mad.tasks.prompts._base``."""
        return self.table("rows.parquet")


class Generations(Chunked):
    """What a model answered: id, sample, text, tokens, prompt_tokens, finish."""

    stage = "generate"


class BehaviorScores(Chunked):
    """A behaviour of each generation: id, sample, score (or score_0, score_1, ...), NaN where missing."""

    stage = "judge"


class Evaluation(Artifact):
    """A behaviour of one model: ``evaluation.json``, ``rows.parquet`` and figures."""

    stage = "evaluate"

    @property
    def figures(self) -> dict[str, Any]:
        """What was found, see ``mad.stages.evaluate``."""
        return self.json("evaluation.json")


class ScorePairs(Artifact):
    """Scores of a baseline and a candidate on the same prompts."""

    stage = "pairs"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line per pair, in order: id, cluster, baseline, candidate (NaN where missing).

        Of vector scores baseline_0, baseline_1, ..., candidate_0, ... in place of the last two.
        """
        return self.table("pairs.parquet")


class AuditTrace(Artifact):
    """A behavioural-shift audit: ``verdict.json``, and ``trace.parquet`` with the test after each prompt."""

    stage = "audit"

    @property
    def verdict(self) -> dict[str, Any]:
        """What was found, see ``mad.stages.audit``."""
        return self.json("verdict.json")


class ScoreColumns(Artifact):
    """Scores of several candidates and their baselines on the same prompts."""

    stage = "columns"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line per row, in order: id, cluster, baseline_K and candidate_K (NaN where missing)."""
        return self.table("scores.parquet")

    @property
    def names(self) -> list[str]:
        """The candidates, comparison K at place K."""
        return self.summary["candidates"]

    def pairs(self, number: int, complete: bool = True) -> pd.DataFrame:
        """One comparison: id, cluster, baseline, candidate.

        Args:
            number: of the comparison.
            complete: only rows that lack no score of any comparison, so that all comparisons share their prompts.
        """
        rows = self.rows.dropna() if complete else self.rows
        sides = {f"baseline_{number}": "baseline", f"candidate_{number}": "candidate"}
        return rows[["id", "cluster", *sides]].rename(columns=sides)


class StreamedAudit(AuditTrace, Chunked):
    """An audit of two models while they answered: what an audit writes, and the batches that were made.

    ``rows``: id, sample, cluster, scores ``baseline`` and ``candidate``, ``text_<side>``, ``tokens_<side>``, ...
    """

    stage = "stream"
