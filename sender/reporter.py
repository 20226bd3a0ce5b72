"""The reporter role: the daily job by the clock.

APScheduler runs four jobs: after ``settle`` the day is closed, its reports are built, and what is too old is
deleted; every quarter of an hour what could not be closed, or had to wait for the DNS, is tried again; what is
due is delivered, by mail and by HTTPS apart, so that neither waits for the other. Each runs once at the start,
which catches up on days missed while nobody ran. A job that fails says so and runs again at its next time;
nothing is lost, because all state is in the store. At the end a batch of deliveries that is under way is waited
for, since what was sent and not noted would be sent again; everything else may be broken off at any time.

Known limit: the jobs go by the wall clock. Where it ran ahead and is set back, they pause until it has caught
up, or until a restart.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from policy import stopping, tlsrpt
from sender import closing, config, daily, delivering, journal, metrics, outcome, readiness, signature, summary
from sender.store import deliveries, engine

DELIVER_EVERY = 5
"""Seconds. How late a delivery may be; a look costs one indexed query."""

BUILD_EVERY = 15 * 60
"""Seconds. How soon a domain whose DNS did not answer is asked again, and a day that could not be closed is closed."""

FINISH = 30.0
"""Seconds that a batch of deliveries has to finish at the end: less than the supervisor waits."""

Job = Callable[[], Coroutine[None, None, None]]

log = structlog.get_logger()


class Closer:
    """Closes days and builds their reports; two runs at once become one after the other."""

    def __init__(self, job: daily.Daily) -> None:
        self._job = job
        self._closed: dt.date | None = None
        """The newest day that was closed: what is tallied for it later waits for the next day's closing."""
        self._cleared: dt.date | None = None
        """The newest day after whose reports were built old ones were deleted."""
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Close what has settled unless that was done, build what is closed, delete what is too old."""
        async with self._busy:
            last = await self._job.last_to_close()
            if last != self._closed:
                days = closing.close(self._job.store, last)
                self._closed = last
                log.info("closed", days=[day.isoformat() for day in days])
            await self._build()
            if last != self._cleared:
                log.info("deleted what is too old", before=self._job.forget().isoformat())
                self._cleared = last

    async def _build(self) -> None:
        done = summary.Summary()
        async for built in self._job.build():
            metrics.count(metrics.DECIDED, done.built(built))
        if done.decided:
            log.info("built", reports=done.reports, skipped=done.skipped, waiting=done.waiting)


class Deliverer:
    """Delivers what is due by one scheme, batch by batch, until it is told to stop."""

    def __init__(self, job: daily.Daily, scheme: tlsrpt.Scheme) -> None:
        self._job = job
        self._selection = deliveries.Selection(scheme=scheme.value)
        self._stopped = False
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Deliver what is due."""
        async with self._busy:
            while not self._stopped and (attempts := await self._courier_delivers()):
                _log_attempts(attempts)

    async def _courier_delivers(self) -> list[delivering.Attempt]:
        return await self._job.courier.deliver(self._selection, lambda: self._stopped)

    async def stop(self) -> None:
        """Begin no more attempt, and wait for those under way, but not longer than :data:`FINISH`."""
        self._stopped = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH), self._busy:
                pass


def _log_attempts(attempts: Iterable[delivering.Attempt]) -> None:
    for attempt in attempts:
        metrics.count(metrics.ATTEMPTS, attempt.delivery.scheme, summary.ending(attempt))
        log.info(
            "delivery",
            report_id=attempt.delivery.report_id,
            rua=attempt.delivery.rua,
            state=summary.ending(attempt),
            answer=attempt.step.answer,
        )


def schedule(settle: int, closer: Closer, deliverers: Mapping[str, Deliverer]) -> AsyncIOScheduler:
    """Return the scheduler with all jobs, not started; each runs once at the start."""
    scheduler = AsyncIOScheduler(
        timezone=dt.UTC,
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    settled = dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=settle)
    # a trigger that is told no time zone takes the machine's, whatever the scheduler has
    midnight = CronTrigger(hour=settled.hour, minute=settled.minute, second=settled.second, timezone=dt.UTC)
    jobs: dict[str, tuple[Job, CronTrigger | IntervalTrigger]] = {
        "close": (closer.run, midnight),
        "build": (closer.run, IntervalTrigger(seconds=BUILD_EVERY, timezone=dt.UTC)),
    }
    for name, deliverer in deliverers.items():
        jobs[name] = (deliverer.run, IntervalTrigger(seconds=DELIVER_EVERY, timezone=dt.UTC))
    for name, (function, trigger) in jobs.items():
        now = dt.datetime.now(dt.UTC)
        scheduler.add_job(_safely, trigger, args=[name, function], id=name, name=name, next_run_time=now)
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)  # to be still at it is nothing to warn of
    return scheduler


async def _safely(name: str, function: Job) -> None:
    try:
        await function()
        metrics.show(metrics.JOB_SUCCESS, name, value=time.time())
    except (engine.StoreError, journal.JournalError) as error:
        log.error("a job failed, it is run again at its next time", job=name, error=str(error))
        metrics.count(metrics.JOB_ERRORS, name)
    except asyncio.CancelledError:
        log.info("a job was broken off", job=name)


def _tell_key(signer: signature.Signer) -> None:
    """Say what must be in the DNS for receivers to believe the signatures (RFC 8460 section 3)."""
    log.info("report mails are signed", dns_name=signature.dns_name(signer), txt=signature.dns_record(signer))
    if signer.is_weak:
        log.warning("the DKIM key is short: many receivers want 2048 bits", bits=signer.bits)


def _publish_nothing(jobs: Iterable[str]) -> None:
    """Publish what may never happen: an alert wants to see the first time, from 0 to 1."""
    for name in jobs:
        metrics.count(metrics.JOB_ERRORS, name, by=0)
    for scheme in tlsrpt.Scheme:
        for ending in (*(state.value for state in outcome.State if state is not outcome.State.DUE), summary.DEFERRED):
            metrics.count(metrics.ATTEMPTS, scheme.value, ending, by=0)
    for decided in ("built", "waiting", "skipped"):
        metrics.count(metrics.DECIDED, decided, by=0)


async def run(settings: config.Config, store: engine.Store) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        config.ConfigError: something in the configuration cannot be used.
    """
    stop = stopping.asked()
    async with daily.open_daily(settings, store) as job:
        deliverers = {f"deliver {scheme}": Deliverer(job, scheme) for scheme in tlsrpt.Scheme}
        scheduler = schedule(settings.report.settle, Closer(job), deliverers)
        scheduler.start()
        _publish_nothing(one.id for one in scheduler.get_jobs())
        log.info("reporter started")
        readiness.tell()
        if job.courier.signer:
            _tell_key(job.courier.signer)
        await stop.wait()
        await asyncio.gather(*(deliverer.stop() for deliverer in deliverers.values()))
        scheduler.shutdown(wait=False)
    log.info("reporter stopped")
