"""Shows what was measured as the table of the report, when all benchmarks are done."""

from __future__ import annotations

from tests.benchmarks import figures


def pytest_terminal_summary(terminalreporter):
    if figures.recorded:
        terminalreporter.section("figures")
        terminalreporter.write_line(figures.machine() + "\n")
        terminalreporter.write_line(figures.markdown(figures.recorded))
        terminalreporter.write_line(f"\nalso appended to {figures.FILE}")
