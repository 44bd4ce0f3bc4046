"""The command line: ``mad STAGE ...``, ``mad sweep NAME ...``, ``mad gc``, ``mad ui``, ``mad sync``."""

from __future__ import annotations

import importlib
import os
import sys

from mad.errors import ConfigError, MadError, nearest
from mad.redaction import redactor

STAGES = (
    "prepare",
    "train",
    "attack",
    "extract",
    "fit",
    "detect",
    "report",
    "prompts",
    "generate",
    "judge",
    "two_sample",
)
COMMANDS = {
    "prepare": "build a task's rows: clean, poisoned, trusted, untrusted, validation, test",
    "train": "train a classifier on the poisoned training rows",
    "attack": "turn the rows that a task marks into adversarial examples against the model",
    "extract": "run the model once and keep activations and logits",
    "fit": "fit a detector on trusted (and untrusted) features",
    "detect": "score rows with a fitted detector, measure AUROC, AP, FPR at 95% TPR",
    "report": "plots of a detector's scores and its worst mistakes; with --experiment NAME alone, a table of its runs",
    "prompts": "take prompts from a data set or a file",
    "generate": "let a language model answer prompts",
    "judge": "score a behavior of generations",
    "evaluate": "a behavior of one language model, or of a row of them: --models '[A, B, C]'",
    "audit": "has the behaviour of a candidate shifted from that of a baseline? From --scores FILE, or of two models "
    "while they answer: --baseline_model A --candidate_model B",
    "calibrate": "a tolerance for the audit from scores of accepted reference changes: --references '[a, b]'",
    "monitor": "alarms on a stream of scores, in their order, with a false alarm only every --run_length N prompts",
    "distances": "how far the scores of --candidates '[a, b]' are from a baseline's, with bootstrap intervals",
    "power": "how many prompts an audit will need, for an assumed shift or one seen in a --pilot FILE",
    "two_sample": "power and false alarms of a bet or a baseline on generated samples",
    "plan": "what memory a language model takes at a stage, and how to place it: --model ID_OR_FOLDER --gpu h100",
    "sweep": "mad sweep NAME: a whole study with Ray Tune (the same as python -m mad.sweep NAME)",
    "gc": "delete old artifacts: --keep_days N, --dry_run",
    "ui": "open the MLflow UI on loopback: --port N",
    "sync": "send runs to MLflow that could not be sent before",
}

OWN = {
    "audit": "audit_command",
    "calibrate": "calibrate_command",
    "evaluate": "evaluate_command",
    "plan": "plan_command",
    "power": "power_command",
    "distances": "distances_command",
    "monitor": "monitor_command",
}
"""Commands with a module of their own in ``mad.runtime``."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when done, 2 after a mistake in what was asked or given (told in one line), 3 at a verdict that
        ``audit --fail_on`` names, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())  # plug-ins here are found by `mad` as they are by `python -m mad`
    return guarded(lambda: _dispatch(words))


def guarded(action) -> int:  # type: ignore[no-untyped-def]
    """Turn a MadError into one line and exit code 2; leave bugs their traceback."""
    try:
        from mad import terminal

        terminal.setup_logging()
        return action() or 0
    except MadError as error:
        print(redactor()(f"mad: error: {' '.join(str(error).split())}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mad: stopped; what is done is kept, the same command goes on from there", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int | None:
    if not words or words[0] in ("-h", "--help", "help"):
        _usage()
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise ConfigError(f"unknown command '{command}'{nearest(command, COMMANDS)}")
    if command == "sweep":
        from mad.sweep import run

        return run(rest)
    if command in OWN:
        return _own(command, rest)
    if command in STAGES:
        return _stage(command, rest)
    from mad.runtime import upkeep

    return upkeep.run(command, rest)


def _usage() -> None:
    from mad import terminal

    terminal.out.print("usage: mad COMMAND [--section.option VALUE ...]      mad COMMAND -h")
    terminal.table("", ("command", "does"), COMMANDS.items())


def _own(command: str, words: list[str]) -> int:
    """A command with a module of its own: ``run(flags)``, ``help_groups(flags)`` and, if need be, ``join(words)``."""
    from mad.config import split_flags

    module = importlib.import_module(f"mad.runtime.{OWN[command]}")
    asked = {"-h", "--help"} & set(words)
    join = getattr(module, "join", list)
    flags = split_flags(join([w for w in words if w not in asked]))
    if not asked:
        return module.run(flags)
    from mad.terminal import options_help

    options_help(f"mad {command}", COMMANDS[command], module.help_groups(flags))
    return 0


def _stage(target: str, words: list[str]) -> int:
    from mad.config import split_flags
    from mad.runtime import commands, comparison

    asked = [w for w in words if w in ("-h", "--help")]
    flags = split_flags([w for w in words if w not in asked])
    if asked:
        from mad.terminal import options_help

        groups = commands.help_options(target, flags)
        if target == "report":
            groups.insert(0, comparison.help_group())
        options_help(f"mad {target}", COMMANDS[target], groups)
        return 0
    if target == "report" and comparison.asked(flags):
        comparison.run(flags)
        return 0
    artifact = commands.run_stage(target, flags)
    if artifact is not None:
        commands.print_result(target, artifact)
    return 0


if __name__ == "__main__":
    sys.exit(main())
