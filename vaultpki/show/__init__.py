"""Everything a person reads of a cluster: a plan, the state of its CAs, tables of its nodes, one page about all of it.

Entries: `plan`, `ca`, `verify` (text for a terminal), `expiries.of_folder`, `expiries.of_fleet`,
`node_table.node_lines`, `report_model.report`, `report_page.html`.
"""
