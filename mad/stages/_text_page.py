"""A page with the most and the least anomalous texts, the strongest tokens of each marked."""

from __future__ import annotations

from html import escape

import pandas as pd

COLOUR = "213, 94, 0"
"""vermillion of the figures, red, green and blue"""
FAINT, STRONG = 0.5, 0.98
"""quantiles of the tokens' scores at which the colour begins and is full: one token may be far above all others"""

_STYLE = """
body { font: 15px/1.6 sans-serif; margin: 2em auto; max-width: 60em; color: #000; background: #fff }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #ccc; padding: .4em .8em .4em 0; text-align: left; vertical-align: top }
td.text { white-space: pre-wrap; overflow-wrap: anywhere }
td.number { font-variant-numeric: tabular-nums }
"""


def text_page(rows: pd.DataFrame, tokens: pd.DataFrame | None) -> str:
    """HTML without scripts or outside files.

    Args:
        rows: columns end, rank, id, is_anomalous, control, score, text.
        tokens: columns end, rank, token, score, in the order of each text; None where tokens have no scores.
    """
    parts = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">', "<title>Texts by score</title>"]
    parts.append(f"<style>{_STYLE}</style></head><body>")
    if tokens is not None:
        low, high = tokens["score"].quantile([FAINT, STRONG])
        parts.append("<p>The darker a token, the more anomalous it is to the detector; point at it for its score.</p>")
    for end in dict.fromkeys(rows["end"]):
        parts.append(f"<h2>{escape(end).capitalize()} anomalous</h2><table>")
        parts.append("<tr><th>rank</th><th>score</th><th>row</th><th>text</th></tr>")
        for row in rows[rows["end"] == end].itertuples():
            shown = escape(str(row.text))
            if tokens is not None:
                mine = tokens[(tokens["end"] == row.end) & (tokens["rank"] == row.rank)]
                shown = "".join(_marked(t, s, low, high) for t, s in zip(mine["token"], mine["score"], strict=True))
            kind = row.control or ("anomalous" if row.is_anomalous else "clean")
            named = f"{escape(str(kind))}<br><small>{escape(str(row.id))}</small>"
            parts.append(f'<tr><td>{row.rank}</td><td class="number">{row.score:.4g}</td><td>{named}</td>')
            parts.append(f'<td class="text">{shown}</td></tr>')
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>", ""])


def _marked(token: str, score: float, low: float, high: float) -> str:
    strength = min(max((score - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    look = f' style="background: rgba({COLOUR}, {strength:.2f})"' if strength > 0 else ""
    return f'<span title="{score:.3g}"{look}>{escape(token)}</span>'
