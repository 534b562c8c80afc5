"""What joins peewee_honker to other packages; each module needs its extra."""
