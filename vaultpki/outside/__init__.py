"""Judges what people, or another mount, sign for a cluster whose root is from outside, and says what to ask for.

It opens no file and reads no clock. Entries: `files.read_sent`, `verdicts.judge`, `request.terms`, `chain.changes`,
`root_vouching.cross_problems`; `imported_key.pair` for a CA that comes with its key. Most of it loads `cryptography`,
so other rooms import it inside the functions that need it.
"""
