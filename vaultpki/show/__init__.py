"""Shows a cluster's TLS at one look: pictures of who logs in to whom, with which pair, signed by which CA, until when.

And tables of its nodes, and one page about all of it. It imports every room above it. Entries: `expiries.of_folder`,
`expiries.of_fleet`, `graph_model.graph`, `graph_svg.svg`, `graph_text.mermaid`, `graph_text.dot`,
`node_rows.of_member`, `node_rows.of_status`, `node_table.node_lines`, `report_model.report`, `report_page.html`.
"""
