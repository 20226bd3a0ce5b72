"""``python -m sender`` is ``tlsrpt``."""

from sender import cli

cli.main()
