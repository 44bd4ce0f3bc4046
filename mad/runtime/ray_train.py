"""Running a training loop on a Ray Train group: failures retried from the last checkpoint."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointConsistencyMode,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mad.context import Metrics, Progress, TrainLoop
from mad.errors import ClusterError, ConfigError, DataError, FitError, MadError
from mad.runtime.cluster import check_capacity, connect, request

Size = int | tuple[int, int]
"""Workers of a group, or the fewest and the most of one that follows the cluster."""
MAX_FAILURES, MAX_NODE_LOSSES = 5, 20
"""Times that a group of fixed size, and one that follows the cluster, is started again after workers died."""
RESIZE_SECONDS = 60.0
"""Between two looks whether a group can grow; growing begins again at the last checkpoint."""
START_SECONDS, STARTS = 30, 60
"""A group that follows the cluster waits so long for its workers before it counts the nodes anew, and so often."""
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
CERTAIN = (ConfigError, DataError, FitError)
"""Errors that come again however often one tries."""


class RayWorker:
    """One process of a Ray Train group."""

    def __init__(self, queue: Queue | None, total: int, what: str = "train"):
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = str(get_device())
        self._queue, self._total, self._what, self._done = queue, total, what, 0
        self._copy: tempfile.TemporaryDirectory[str] | None = None

    def resume_folder(self) -> Path | None:
        """A local copy of the last registered checkpoint, there until the worker is closed."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        self._copy = tempfile.TemporaryDirectory(prefix="mad-resume-")
        folder = Path(checkpoint.to_directory(self._copy.name))
        self._done = int((folder / "step").read_text())
        return folder

    def close(self) -> None:
        """Remove the copy."""
        if self._copy is not None:
            self._copy.cleanup()

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        """Register a checkpoint (rank 0) and tell the driver.

        Ray takes reports in later, and forgets one that it has not taken in when a worker dies: rank 0, without which
        nobody gets far, waits until it has, so that a death costs one epoch at most.
        """
        self._done += 1
        if self.rank != 0:
            ray.train.report(dict(metrics))
            return
        with tempfile.TemporaryDirectory(prefix="mad-checkpoint-") as name:
            save(Path(name))
            (Path(name) / "step").write_text(str(self._done))
            ray.train.report(dict(metrics), checkpoint=Checkpoint.from_directory(name))
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
        self.tell(self._what, self._done, self._total, metrics)

    def tell(self, what: str, done: int | None, total: int, figures: Metrics | None = None) -> None:
        """Send progress to the driver."""
        if self._queue is not None:
            self._queue.put((what, done, total, dict(figures or {})))


class _Certain(UserCallback):
    """Ends a run whose workers raised what they will raise again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        error = _told(worker_exceptions.values())
        if isinstance(error, CERTAIN):
            raise error


def driver_node() -> NodeAffinitySchedulingStrategy:
    """The driver's node, for helpers of a run: no other node that goes may take them along."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def run_group(
    loop: Callable[[dict[str, Any], RayWorker], None],
    payload: dict[str, Any],
    workers: Size,
    use_gpu: bool,
    storage: str,
    name: str,
    total: int,
    progress: Progress,
    what: str = "train",
) -> ray.train.Result:
    """Run ``loop(payload, worker)`` on every worker of a group.

    A run of the same name in the same storage goes on from its last checkpoint. So does a group that follows the
    cluster, with fewer workers when nodes have gone and with more when nodes have come.

    Raises:
        ClusterError: the cluster cannot hold the group, or it failed more often than is retried.
        MadError: what a worker raised for the user.
    """
    connect()
    asked = request(use_gpu)
    follows = not isinstance(workers, int)
    check_capacity(asked.bundle(), workers if isinstance(workers, int) else workers[0])
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": driver_node()})

    def on_worker(config: dict[str, Any]) -> None:
        worker = RayWorker(queue, total, what)
        try:
            loop(config, worker)
        finally:
            worker.close()

    trainer = TorchTrainer(
        on_worker,
        train_loop_config=payload,
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker=asked.amounts,
            accelerator_type=asked.kind,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=_run_config(name, storage, follows),
    )
    listener = threading.Thread(target=_listen, args=(queue, progress), daemon=True)
    listener.start()
    try:
        with _patience(follows):
            return trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _for_user(error) from error
    finally:
        queue.put(None)
        listener.join(timeout=10)
        queue.shutdown(force=True)


def _run_config(name: str, storage: str, follows: bool) -> RunConfig:
    # Ray declares an option on the class that the name becomes at run time.
    failures = FailureConfig(  # type: ignore[call-arg]
        max_failures=MAX_NODE_LOSSES if follows else MAX_FAILURES, controller_failure_limit=STARTS if follows else 1
    )
    return RunConfig(
        name=name,
        storage_path=storage,
        failure_config=failures,
        checkpoint_config=CheckpointConfig(num_to_keep=2),
        callbacks=[_Certain()],  # type: ignore[list-item]
    )


def _listen(queue: Queue, progress: Progress) -> None:
    while (event := queue.get()) is not None:
        progress.update(*event)


@contextmanager
def _patience(follows: bool) -> Iterator[None]:
    """How long workers are waited for; Ray takes it from the environment of the driver.

    Ray learns after a while that a node has gone: until then a group asks for more workers than there can be. One of
    fixed size has nothing better to do than to wait.
    """
    before = os.environ.get(START_TIMEOUT)
    if follows:
        os.environ[START_TIMEOUT] = str(START_SECONDS)
    try:
        yield
    finally:
        os.environ.pop(START_TIMEOUT, None)
        os.environ |= {} if before is None else {START_TIMEOUT: before}


def _told(failures: Iterable[Exception]) -> MadError | None:
    """The first MadError among failures and what caused them."""
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, MadError):
                return cause
            cause = cause.__cause__ or getattr(cause, "cause", None)
    return None


def _for_user(error: ray.train.TrainingFailedError) -> Exception:
    """What a worker raised for the user; otherwise the failure itself, with its traceback."""
    controller = [found] if (found := getattr(error, "controller_failure", None)) else []
    told = _told([*getattr(error, "worker_failures", {}).values(), *controller])
    if told is not None:
        return told
    if "ControllerError" in type(error).__name__:
        return ClusterError(f"the training group could not run: {str(error).strip().splitlines()[-1]}")
    return error


def train_on_ray(
    loop: TrainLoop,
    payload: dict[str, Any],
    workers: Size,
    use_gpu: bool,
    storage: str,
    name: str,
    epochs: int,
    progress: Progress,
    scratch: Path,
    what: str = "train",
) -> Path:
    """Train on a group; returns a local folder with the last checkpoint."""
    result = run_group(loop, payload, workers, use_gpu, storage, name, epochs, progress, what)
    if result.checkpoint is None:
        raise RuntimeError("the training group reported no checkpoint")
    shutil.rmtree(scratch, ignore_errors=True)
    return Path(result.checkpoint.to_directory(str(scratch)))
