"""One function over many jobs: on this computer's cores, or on the workers of a Dask cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from . import __version__

CONNECT_SECONDS = 5  # until a scheduler counts as unreachable, and then again until it counts as without workers
# Evaluated on the workers: the name of a built-in gets there whatever they have installed, a function of ours does not.
_VERSION_THERE = "__import__('hubmap_kit').__version__"

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    scheduler: str | None = None,
    jobs_at_once: int | None = None,
) -> Generator[tuple[Job, Result | Exception], None, None]:
    """Do jobs in parallel and yield each as it ends, in any order; one that fails yields its exception.

    Without a scheduler they are done by threads of this process. With one, by the workers of a Dask
    cluster, each as many at once as it has threads; jobs of a worker that is lost are done by the others.
    Workers and scheduler need this version of the kit. Files must lie on a file system that the workers
    share, under the same paths; name them absolutely. Leaving the loop early cancels what has not begun.

    Args:
        function: What to do. For a cluster it is importable (or a `functools.partial` of one that is), and it,
            the jobs, results and exceptions can be pickled; what it wants to keep from job to job it keeps itself.
        jobs: Its arguments.
        scheduler: Address of a Dask scheduler, such as ``tcp://10.0.0.1:8786``; None for threads.
        jobs_at_once: Threads (default: one a core). A cluster's workers bring their own number.

    Yields:
        The job, and its result or the exception that ended it; an ``OSError`` where workers died of it.

    Raises:
        ValueError: Dask is not installed, the scheduler cannot be reached, it has no worker, or it or a worker
            has no kit or one of another version.
        ConnectionError: The scheduler was lost.
    """
    if scheduler is None:
        yield from _on_threads(function, jobs, jobs_at_once or os.cpu_count())
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
        raise ValueError(f'--scheduler needs Dask ({error}): pip install "hubmap-kit[cluster]"') from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # its tracebacks would bury the one error
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # of many kinds, as the address is silent, malformed or another program's
        raise ValueError(
            f"the Dask scheduler {address} cannot be reached ({type(error).__name__}: {error}); start one with "
            "'dask scheduler', which prints its address, such as tcp://10.0.0.1:8786"
        ) from error
    with client:
        _check_versions(client, address)
        # Not pure: two runs with the same arguments are two runs, as the files may have changed in between.
        job_of = {(future := client.submit(function, job, pure=False)): job for job in jobs}
        try:
            for future in distributed.as_completed(list(job_of), loop=client.loop):
                if future.status in ("cancelled", "lost"):
                    raise ConnectionError(f"the Dask scheduler {address} was lost; run the command again")
                outcome = _outcome(future)
                if isinstance(outcome, distributed.scheduler.KilledWorker):
                    outcome = OSError(
                        f"{outcome.allowed_failures + 1} Dask workers died while they worked on it, as they do where "
                        "memory runs out; give them more, or fewer threads each"
                    )
                yield job_of.pop(future), outcome
        finally:
            client.cancel(list(job_of))


def _check_versions(client: Any, address: str) -> None:
    """Raise unless there is a worker, and each of them and the scheduler has this version of the kit."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ValueError(
            f"the Dask scheduler {address} has no worker; start some with: dask worker {address}"
        ) from error
    versions: dict[str, Any] = client.run(eval, _VERSION_THERE, on_error="return")
    try:
        versions[address] = client.run_on_scheduler(eval, _VERSION_THERE)  # it unpickles the jobs as well
    except ImportError as error:
        versions[address] = error
    for where, version in versions.items():
        if version != __version__:
            found = version if isinstance(version, Exception) else f"hubmap-kit {version}"
            raise ValueError(
                f"Dask at {where} has another kit than {__version__}, the one here ({found}); "
                "install the same version for the scheduler and all workers"
            )


def _outcome(future: Future[Result] | Any) -> Result | Exception:
    try:
        return future.result()
    except Exception as error:
        return error
