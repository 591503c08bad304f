"""Features: declarations, the tables built from SQL, the historical join, the online read."""

import typeguard

# Feast marks its classes for type checks at run time; rewriting their 242 methods takes half of its
# import, at the start of the API as of every command. mypy checks this project's calls.
typeguard.typechecked = lambda target=None, **_: target or (lambda each: each)  # type: ignore[assignment]
