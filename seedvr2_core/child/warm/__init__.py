"""A child that outlives its job, with its engine loaded, and waits for the next one.

The flow process lets its child rest (`messages/life.py`) instead of ending it. The child closes
what it has of the job, keeps the engine and the lock of its GPU (`kept.py`), and listens at a
socket in a private folder (`seat.py`, `rest.py`). The next flow process that wants the same engine
on the same terms hands it new pipes there (`line.py`), and it works on as if it had just been
started.
"""
