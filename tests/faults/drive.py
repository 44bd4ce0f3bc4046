"""A ``mad`` command whose pieces of work are written down and held: ``python -m tests.faults.drive JOURNAL WORDS``."""

from __future__ import annotations

import sys

from tests.faults.holding import install

if __name__ == "__main__":
    install(sys.argv[1])
    from mad.__main__ import main

    sys.exit(main(sys.argv[2:]))
