"""What does this domain ask for? TLSRPT discovery, and the parts every look-up outside stands on.

This room knows nothing of ``sender``: a site can run it alone.
"""
