"""The same seed gives the same rows in every process: the old code split, poisoned and drew noise and fields anew."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from mad.tasks import adversarial, backdoor, toy_features
from mad.tasks.triggers import noise, wanet

PROGRAM = (
    "import json; from tests.tasks.test_replay import CASES, digests; print(json.dumps([digests(*c) for c in CASES]))"
)

CASES = [
    (backdoor, backdoor.Config(trigger=noise.Config())),
    (backdoor, backdoor.Config(trigger=wanet.Config(), max_rows=900, trusted_fraction=0.5)),
    (adversarial, adversarial.Config(control_trigger=wanet.Config())),
    (toy_features, toy_features.Config(classes=3)),
]


def digests(task, config):
    """Digests of the table, of the inputs, of the variants and of the trigger's tensors."""
    rows = task.build(config, 7)
    tensors = [rows.inputs, rows.variants, *(rows.state[name] for name in sorted(rows.state))]
    contents = [rows.table.to_json().encode(), *(tensor.numpy().tobytes() for tensor in tensors)]
    return [hashlib.sha256(content).hexdigest() for content in contents]


def test_rows_and_triggers_are_replayed_in_another_process():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout) == [digests(*case) for case in CASES]
