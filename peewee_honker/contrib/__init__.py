"""What joins peewee_honker to other packages, each of which is an extra: nothing here is imported unless you do it."""

__all__: list[str] = []
