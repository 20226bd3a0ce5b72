"""Delete what is older than it has to be kept."""

import datetime as dt

import sqlalchemy as sa

from sender import outcome
from sender.store import partitions, recorders, schema, suppressions


def delete_before(connection: sa.Connection, day: dt.date) -> None:
    """Delete the counts, reports and deliveries of days before ``day``, and hosts that were not heard of since.

    A report with a delivery that is still due stays, and so do its deliveries. So do positions in the journal: they go
    with their segments (``counts.forget``), which would be counted anew without.
    """
    due = sa.select(schema.deliveries.c.report_id).where(schema.deliveries.c.state == outcome.State.DUE.value)
    due = due.where(schema.deliveries.c.day < day)
    for table in (schema.reports, schema.deliveries):
        connection.execute(sa.delete(table).where(table.c.day < day, table.c.report_id.not_in(due)))
    for table in (schema.malformed, schema.sums, schema.closings):
        connection.execute(sa.delete(table).where(table.c.day < day))
    recorders.forget_before(connection, day)
    suppressions.forget_before(connection, day)
    partitions.drop_before(connection, day)
