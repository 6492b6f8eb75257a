"""What our programs write for each other: records of the config store, join files, reports, and their paths.

They are read as strictly as what people write: a server may lie, and a node may be stolen.
"""
