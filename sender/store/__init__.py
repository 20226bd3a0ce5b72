"""The store: counts, positions, reports and deliveries in a relational database (SQLite by default).

``schema`` has the tables, ``engine`` opens and migrates; each other module has the statements of one concern.
All of them take a connection of :meth:`engine.Store.read` or :meth:`engine.Store.write`. This package is the only
place where SQLAlchemy is imported.
"""
