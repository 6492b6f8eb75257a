"""Pure rules on certificates: what one says, whom to trust, when to renew. The only importer of `cryptography`.

It opens no file and reads no clock. Entries: `x509.read_certificates`, `keys.request`, `signed.check_signed`,
`chains.trust_below`, `renewal.assess`. `cryptography` takes 50 ms to load, so other rooms import
`x509`, `keys`, `signed`, `crl` and `ways_up` inside the functions that need them.
"""
