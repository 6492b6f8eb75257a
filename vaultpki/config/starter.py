"""The cluster.yaml that `vaultpki init` writes."""

from __future__ import annotations

_TEXT = """\
# cluster.yaml: what the cluster is. `vaultpki plan` shows what it would change in Vault, `vaultpki apply` makes it so.
# A line behind #: is a default or an example; take the #: away to change it.
#: version: 1                       # of this file's form

cluster: prod                       # lower-case letters, digits and hyphens, at most 40

#: prefix: vaultpki/prod            # where in Vault everything lies

#: vault:                           # what nodes are told; default: VAULT_ADDR, VAULT_CACERT and VAULT_NAMESPACE
#:   addresses: [https://vault.example.com:8200]
#:   ca_file: vault-ca.crt          # CA of Vault's own TLS certificate, beside this file
#:   namespace: team1/prod          # where the server has namespaces: OpenBao, Vault Enterprise

api_server:
  endpoint: https://api.example.com:6443   # what kubeconfigs say; default: port 6443 on the first of addresses,
                                    # else on the first control-plane node's first address
  names: [api.example.com]          # further DNS names of the API server; default: none
  addresses: [10.0.0.10]            # load balancer, VIP; default: none
  service_cidr: 10.96.0.0/12        # the default; a list of two for dual stack
  dns_domain: cluster.local         # the default

nodes:                              # listed nodes: names and addresses are fixed here
  - {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
  - {name: worker-1, roles: [worker], addresses: [10.0.0.21]}

#: pools:                           # nodes that come and go: no addresses in their certificates
#:   - {name: autoscaled, roles: [worker], node_names: "w-*"}
#:   - name: cloud                    # one whose nodes prove who they are by a token of an issuer, with no join file
#:     roles: [worker]
#:     node_names: "c-*"
#:     jwt:
#:       issuer: https://issuer.example.com  # exactly as the tokens' claim iss says it; one for all pools
#:       audiences: [vaultpki]        # a token names one of them
#:       node_claim: node             # holds the node's name; may be a JSON pointer: /kubernetes.io/node/name
#:       jwks_url: https://issuer.example.com/jwks  # where Vault fetches the issuer's keys
#:       jwks_ca_file: issuer-ca.crt  # default: the roots of Vault's machine
#:       # public_keys_file: keys.pem # instead of these two: the keys themselves, beside this file

# Durations are written 90s, 15m, 12h, 30d, 10y; keys ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096, and ed25519 for
# certificates that are no CA's.
ca:
  root_ttl: 10y                     # the default; longer than issuing_ttl
  issuing_ttl: 5y                   # the default; longer than every certificate's ttl
  key: ec-p256                      # the default
#:   root_sha256: 4f1c0e1b5b7d0a2f6c3e8d9a7b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c  # `apply` prints it; no other root

defaults:
  ttl: 30d                          # the default
  key: ec-p256                      # the default
  allow_short_ttl: false            # the default; true allows down to 30s what takes its default from here

allow_short_ttl: false              # the default; true allows a ttl down to 30s everywhere, for trying things out

#: certificates:
#:   kube-apiserver:                # a certificate of the table: every key is optional
#:     ttl: 7d
#:     key: ec-p384
#:     extra_names: [api.internal]  # servers only
#:     extra_addresses: [192.0.2.10]
#:     file: kube-apiserver         # without extension
#:     allow_short_ttl: false
#:   monitoring:                    # one of your own
#:     kind: client                 # client, server or both
#:     common_name: monitoring      # {node} and {domain} may stand in it
#:     ca: kubernetes               # kubernetes, kubelet, etcd or front-proxy
#:     roles: [worker]              # the nodes that get it
#:     organization: ["system:monitoring"]
#:     kubeconfig: monitoring.conf  # clients of kube-apiserver only
#:     from: prometheus             # for people
#:     to: kube-apiserver
#:   registry:
#:     kind: server
#:     common_name: registry
#:     ca: kubelet
#:     roles: [worker]
#:     names: ["{node}", registry.example.com]
#:     addresses: ["{node_addresses}"]

#: templates:                       # further files that nodes render into their directory
#:   audit:
#:     file: audit.yaml
#:     template: audit.yaml.tmpl    # in this file's folder or below; its values are ${node}, ${cluster}, ${endpoint}
#:                                  # and ${directory}, quoted for YAML and JSON ${node.json}, and a dollar is $$
#:     roles: [control-plane]
"""


def starter() -> str:
    """A commented cluster.yaml that loads as it is and shows every key with its default or an example."""
    return _TEXT
