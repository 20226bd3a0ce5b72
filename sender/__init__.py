"""What happened, and whom do we tell? Record, tally, report, deliver, inspect (RFC 8460)."""
