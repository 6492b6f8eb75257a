"""What everything that is replaced in steps has in common: CAs, service-account keys, the CAs of an adopted cluster.

Nothing here reads a server, a file or the clock, and nothing here knows a record: records and the agent import it.
"""
