"""Event targets on servers, for what has outgrown one file. Each needs the extra of its name."""
