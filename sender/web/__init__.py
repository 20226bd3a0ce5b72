"""What a postmaster looks at in a browser, and what monitoring asks: read-only."""
