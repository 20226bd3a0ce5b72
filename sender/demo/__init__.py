"""A made-up internet on loopback: certification authority, DNS, receiving MTAs, report receivers, a sending MTA.

Every server is real and listens on 127.0.0.1 with a port the system chooses, so nothing here needs
root and nothing leaves the machine. How each of them (mis)behaves is a typed value that can be
changed while it runs. ``tlsrpt demo`` shows the whole way in it; tests use it as a laboratory.
"""
