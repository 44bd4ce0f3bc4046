"""The campaign's table after the tests, and the cluster that they share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.ray_nodes import Nodes
from tests.faults.scenario import STARTED
from tests.faults.table import ROWS, markdown


def pytest_terminal_summary(terminalreporter) -> None:
    """Show what was injected; with several test processes each knows its own faults only."""
    if not ROWS:
        return
    changed = [row for row in ROWS if row.outcome.isupper()]
    terminalreporter.section(f"{len(ROWS)} faults injected, {len(changed)} results lost or changed")
    for line in markdown(ROWS):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """A test that fails leaves no command running."""
    yield
    while STARTED:
        STARTED.pop().end()


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """A head without CPUs, and three nodes of one CPU each."""
    made = Nodes(workers=3)
    yield made
    made.end()
