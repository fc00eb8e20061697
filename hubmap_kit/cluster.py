"""Run one function on many jobs in parallel: in threads of this process, or on the workers of a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from . import __version__
from .machine import FULL, cores

CONNECT_S = 5  # time to wait for the scheduler's answer, and again for its first worker
# Evaluated on the workers by the built-in `eval`. Workers without this package could not run a function of it.
_VERSION_THERE = (
    "str(__import__('hubmap_kit').__version__) if __import__('importlib.util').util.find_spec('hubmap_kit') else 'none'"
)

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    scheduler: str | None = None,
    jobs_at_once: int | None = None,
) -> Generator[tuple[Job, Result | Exception], None, None]:
    """Do jobs in parallel and yield each when it ends, in any order; a job that fails yields its exception.

    Without a scheduler, threads of this process do the jobs. With one, the workers of a Dask cluster do them; each
    worker does as many at once as it has threads, and the jobs of a worker that is lost are given to the others.
    Scheduler and workers need this version of the kit. Files must lie under the same paths on a file system that the
    workers share; use absolute paths. Leaving the loop early cancels the jobs that have not begun.

    Jobs and results are pickled. So whoever reaches a scheduler or worker can run code there, and a scheduler or worker
    can run code here. Use only your own, on addresses that nobody else reaches, or with TLS (docs/many-devices.md).
    Their versions are checked first, and reading that answer runs no code.

    Args:
        function: Does one job. For a cluster it must be importable (or a `functools.partial` of an importable one),
            and function, jobs, results and exceptions must be picklable. It must itself keep any state between jobs.
        jobs: The arguments of `function`, one per call.
        scheduler: Address of a Dask scheduler, such as ``tcp://127.0.0.1:8786`` or ``tls://10.0.0.1:8786``; None for
            threads.
        jobs_at_once: Number of threads; one per core by default. Ignored with a cluster, whose workers set it.

    Yields:
        The job, and its result or the exception that ended it: an ``OSError`` if it killed its workers.

    Raises:
        ValueError: Dask is not installed, the scheduler cannot be reached or has no worker, or the scheduler or a
            worker has another version of the kit, or none.
        ConnectionError: The scheduler was lost.
        OSError: A job found the disk full.

    >>> sorted(spread(abs, [-2, 3]))
    [(-2, 2), (3, 3)]
    """
    if scheduler is None:
        yield from _on_threads(function, jobs, jobs_at_once or cores())
    else:
        yield from _on_cluster(function, jobs, scheduler)


def _on_threads(
    function: Callable[[Job], Result], jobs: Iterable[Job], threads: int | None
) -> Generator[tuple[Job, Result | Exception], None, None]:
    pool = ThreadPoolExecutor(threads)
    try:
        job_of = {pool.submit(function, job): job for job in jobs}
        for future in as_completed(job_of):
            yield job_of.pop(future), _outcome(future)
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(
    function: Callable[[Job], Result], jobs: Iterable[Job], address: str
) -> Generator[tuple[Job, Result | Exception], None, None]:
    try:
        import distributed
    except ImportError as error:
        raise ValueError(f"--scheduler needs Dask ({error}): pip install dask distributed") from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # its tracebacks would hide the one error
    try:
        asking = distributed.Client(address, timeout=CONNECT_S, set_as_default=False, deserializers=["msgpack"])
    except Exception as error:  # of many types: no answer, a malformed address, another program's port
        raise ValueError(
            f"the Dask scheduler {address} cannot be reached ({type(error).__name__}: {error}); start one with "
            "'dask scheduler --host 127.0.0.1', which prints its address; use TLS if others can reach it "
            "(docs/many-devices.md)"
        ) from error
    with asking:
        _check_versions(asking, address)
    with distributed.Client(address, timeout=CONNECT_S, set_as_default=False) as client:
        # Not pure, because files change: the result of an equal earlier job must not be used again.
        job_of = {(future := client.submit(function, job, pure=False)): job for job in jobs}
        try:
            for future in distributed.as_completed(list(job_of), loop=client.loop):
                if future.status in ("cancelled", "lost"):
                    raise ConnectionError(f"the Dask scheduler {address} was lost; run the command again")
                outcome = _outcome(future)
                if isinstance(outcome, distributed.scheduler.KilledWorker):
                    outcome = OSError(
                        f"{outcome.allowed_failures + 1} Dask workers died while they worked on it, most often because "
                        "memory ran out; give the workers more memory, or fewer threads each"
                    )
                yield job_of.pop(future), outcome
        finally:
            client.cancel(list(job_of))


def _check_versions(client: Any, address: str) -> None:
    """Raise unless there is a worker, and each of them and the scheduler has this version of the kit."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        raise ValueError(
            f"the Dask scheduler {address} has no worker; start some with: dask worker {address} --host 127.0.0.1 "
            "(on other computers use TLS: docs/many-devices.md)"
        ) from error
    try:
        versions: dict[str, Any] = client.run(eval, _VERSION_THERE, on_error="return")
        versions[address] = client.run_on_scheduler(eval, _VERSION_THERE)  # the scheduler unpickles jobs too
    except (OSError, TypeError) as error:  # an answer is pickled
        raise ValueError(
            f"Dask at {address} does not say in plain text which version of hubmap-kit it has ({error}); "
            "use only a scheduler and workers of your own"
        ) from error
    for where, version in versions.items():
        if version != __version__:
            raise ValueError(
                f"Dask at {where} has another version of hubmap-kit ({version}) than this process ({__version__}); "
                "install the same version for the scheduler and all workers"
            )


def _outcome(future: Future[Result] | Any) -> Result | Exception:
    """The result of a job, or its exception; a full disk is raised, since the job did not cause it."""
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        return error
