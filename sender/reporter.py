"""The reporter role: the daily job by the clock.

APScheduler runs three jobs: after ``settle`` the day is closed, its reports are built and what is too old is
deleted; reports that had to wait for the DNS are tried again; what is due is delivered. Each runs once at the
start, which catches up on days missed while nobody ran. A job that fails says so and runs again at its next
time; nothing is lost, because all state is in the store.
"""

import asyncio
import datetime as dt
import signal
from collections.abc import Callable, Coroutine

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from sender import config, daily, summary
from sender.store import engine

DELIVER_EVERY = 15
"""Seconds. How late a delivery may be; a look costs one indexed query."""

BUILD_EVERY = 15 * 60
"""Seconds. How soon a domain whose DNS did not answer is asked again."""

Job = Callable[[daily.Daily], Coroutine[None, None, None]]

log = structlog.get_logger()


async def close_and_build(job: daily.Daily) -> None:
    """Close what has settled, build its reports, and delete what is too old."""
    days = await job.close()
    log.info("closed", days=[day.isoformat() for day in days])
    await build(job)
    log.info("deleted what is too old", domain_days=job.forget())


async def build(job: daily.Daily) -> None:
    """Build the reports of what is closed."""
    done = summary.Summary()
    async for built in job.build():
        done.built(built)
    if done.decided:
        log.info("built", reports=done.reports, skipped=done.skipped, waiting=done.waiting)


async def deliver(job: daily.Daily) -> None:
    """Deliver what is due."""
    done = summary.Summary()
    async for attempt in job.deliver():
        state = done.attempted(attempt)
        log.info(
            "delivery",
            report_id=attempt.delivery.report_id,
            rua=attempt.delivery.rua,
            state=state,
            answer=attempt.step.answer,
        )


def schedule(job: daily.Daily, settle: int) -> AsyncIOScheduler:
    """Return the scheduler with all jobs, not started; each runs once at the start."""
    scheduler = AsyncIOScheduler(
        timezone=dt.UTC,
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    settled = dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=settle)
    triggers: dict[Job, CronTrigger | IntervalTrigger] = {
        close_and_build: CronTrigger(hour=settled.hour, minute=settled.minute, second=settled.second),
        build: IntervalTrigger(seconds=BUILD_EVERY),
        deliver: IntervalTrigger(seconds=DELIVER_EVERY),
    }
    for function, trigger in triggers.items():
        now = dt.datetime.now(dt.UTC)
        scheduler.add_job(_safely, trigger, args=[function, job], id=function.__name__, next_run_time=now)
    return scheduler


async def _safely(function: Job, job: daily.Daily) -> None:
    try:
        await function(job)
    except engine.StoreError as error:
        log.error("a job failed, it is run again at its next time", job=function.__name__, error=str(error))


async def run(settings: config.Config, store: engine.Store) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        config.ConfigError: something in the configuration cannot be used.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with daily.open_daily(settings, store) as job:
        scheduler = schedule(job, settings.report.settle)
        scheduler.start()
        log.info("reporter started")
        await stop.wait()
        scheduler.shutdown(wait=False)
    log.info("reporter stopped")
