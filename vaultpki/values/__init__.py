"""What a field may hold: names, hosts, times, PEM and DER, permissions, YAML and JSON; no document is known here.

Each check returns the normal form, or says in one sentence what is wrong and what to write.
"""
