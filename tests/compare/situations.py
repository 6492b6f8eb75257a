"""The situations in which two checkouts are compared: a list to read, and to add to.

A life is a cluster on a server of its own. Each situation begins where the one before ended: its commands lead there,
and then the views of the life look at it. Commands are split by semicolons. One that ends with another code than 0 says
so (`=> 3`). `NODE# status` is done by root on a node. What is written in capitals is done by the comparison itself:

    JOIN NODE OPTIONS   enrol a node and let it join
    IMPORTED:FOLDER     what the signer has sent back there
    PASS                a pass of the agent of every node (PASS NODE: of this one)
    ONWARD COMMAND      passes and this command, again and again, until the step is made
    STAND WHAT          what stands around the cluster does something (stands.py)
    REAL COMMAND        with the times of gates as they are; else nothing waits for minutes
    AS TOKEN COMMAND    with this token;  AWAY COMMAND: while the server is away
    KEEP, PUTBACK PATH  note a record of Vault, and write it back, as a restored snapshot does
    AGE PATH            as if an hour had passed since the times in a record;  SPOIL PATH: it cannot be read any more
    EDIT, WRITE, WAIT   change a file (EDIT FILE OLD -> NEW), overwrite one, let seconds go by
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CA_VIEWS = "ca status => any; ca status --json => any"
NODE_VIEWS = "nodes => any; nodes --json => any; cp-1# status => any; w-1# status --json => any; cp-1# doctor => any"
VIEWS = f"{CA_VIEWS}; {NODE_VIEWS}; plan => any; PASS"


@dataclass(frozen=True, slots=True)
class Life:
    """A cluster from its beginning to its end; `situations` are commands by name, `files` what lies there first.

    `views` look at each situation. `join` are further options of `agent --join`, and `local` is appended to agent.yaml.
    """

    name: str
    situations: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    views: str = VIEWS
    join: str = ""
    local: str = ""


HEAD = """\
cluster: demo
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com], addresses: [10.0.0.10]}
"""
PLAIN = f"""\
{HEAD}nodes:
- {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11, "fd00::11"]}}
- {{name: w-1, roles: [worker], addresses: [10.0.0.21]}}
pools:
- {{name: autoscaled, roles: [worker], node_names: "p-*"}}
"""
OWN_ROWS = """\
certificates:
  kube-apiserver: {ttl: 7d, extra_names: [api.internal], extra_addresses: [192.0.2.10]}
  etcd-server: {key: ec-p384}
  kubelet: {extra_names: [kubelet.internal]}
  monitoring:
    kind: client
    common_name: monitoring
    ca: kubernetes
    roles: [worker, control-plane]
    organization: ["system:monitoring"]
    kubeconfig: monitoring.conf
templates:
  audit: {file: audit.yaml, template: audit.yaml.tmpl, roles: [control-plane, worker]}
"""
# The hook writes down what it was told.
LOCAL = """\
poll: 10s
hooks:
  kubelet: [[/bin/sh, -c, 'echo "kubelet: $VAULTPKI_CHANGED" >> {folder}/hook.txt']]
  kube-apiserver: [[/bin/sh, -c, 'echo "api: $VAULTPKI_CHANGED $VAULTPKI_DIRECTORY" >> {folder}/hook.txt']]
  kubelet-client: [["false"]]
"""
TURNS = "PASS; ca continue => 3; PASS; ca continue => 3; PASS"
RESTARTS = "STAND components cp-1 control-plane etcd; PASS"

CLUSTER = Life(
    "cluster",
    {
        "empty server": """schema; policy applier; policy enroller; plan --detailed-exitcode => 4; plan --json;
            ca status => 1; nodes => 1; enroll cp-1 -o joins/cp-1.json => 1""",
        "bad cluster.yaml": "plan -f bad.yaml => 1; apply -f bad.yaml --yes => 1; plan -f none.yaml => 1",
        "wrong token": "AS nobody plan => 1; AS nobody apply --yes => 1; AWAY plan => 1",
        "applied": "apply --yes; plan --detailed-exitcode; apply --yes --json; issue admin --dir operator",
        "join files": """enroll cp-1 -o joins/cp-1.json; enroll cp-1 -o joins/again.json => any;
            enroll nobody -o joins/nobody.json => 1;
            cp-1# doctor --join joins/cp-1.json --dir new/pki => any""",
        "joined": "JOIN cp-1 --replace; JOIN w-1; JOIN p-1 --pool autoscaled; PASS",
        "join file twice": """x-1# agent -c x-1.yaml --once --join joins/cp-1.json --dir x-1/pki => 1;
            enroll cp-1 -o joins/again.json => 1; enroll --all -o joins => 3""",
        "changed": """EDIT cluster.yaml ttl: 7d, extra_names: [api.internal] -> ttl: 6d, extra_names: [api2.internal];
            EDIT cluster.yaml etcd-server: {key: ec-p384} -> etcd-server: {ttl: 20d};
            plan --json --detailed-exitcode => 4; apply --yes --json; PASS""",
        "saved plan": """EDIT cluster.yaml kubelet.internal -> kubelet2.internal; plan -o saved.json; plan -o old.json;
            apply saved.json; apply saved.json; EDIT cluster.yaml kubelet2.internal -> kubelet3.internal;
            apply old.json => 1""",
        "renewed by hand": "w-1# renew kubelet => any; w-1# renew nothing => any; p-1# show kubelet => any",
        "hook that fails": "cp-1# renew kube-scheduler => any; w-1# renew kubelet-client => any",
        "surplus": """EDIT cluster.yaml roles: [worker, control-plane] -> roles: [worker]; apply --yes; PASS""",
        "pruned": "cp-1# agent --once --prune",
        "server away": "EDIT w-1/agent.yaml poll: 10s -> poll: 20s; w-1# agent --once --if-due => any; AWAY nodes => 1",
        "tampered files": "WRITE w-1/pki/kubelet-ca.crt nothing; w-1# status => any; PASS w-1",
        "certificate revoked": "revoke w-1 --yes => any; w-1# status => any; PASS",
        "locked node": "lock cp-1; cp-1# renew etcd-peer => 1; PASS cp-1",
        "enrolled anew": "enroll cp-1 --replace -o joins/cp-1b.json => any",
        "unenrolled": "unenroll p-1",
        "destroyed": "destroy --confirm demo; plan --json; PASS",
    },
    {
        "cluster.yaml": PLAIN + OWN_ROWS,
        "audit.yaml.tmpl": "node: ${node.json}\nserver: ${endpoint}\ntrust: ${directory}/kubernetes-ca-chain.crt\n",
        "bad.yaml": PLAIN.replace("roles: [worker], addr", "roles: [baker], addr") + "nodes: []\nsurprise: 1\n",
    },
    local=LOCAL,
)

CA = Life(
    "ca",
    {
        "steady": f"apply --yes; JOIN cp-1; JOIN w-1; {RESTARTS}; issue admin --dir operator",
        "refused": """ca continue => 1; ca abort => 1; ca rotate etdc => 2; ca rotate etcd --spread 31d => 2;
            ca rotate etcd --same-key --emergency => 2; ca recover etcd => any""",
        "prepared": "ca rotate etcd --spread 1s; ca rotate kubelet => 1",
        "prepared and given up": "ca abort",
        "published": "ca rotate etcd --spread 1s; ca continue; ca continue => 3",
        "published, restarts": """PASS; ca continue => 3; ca continue --restarted cp-9/etcd => 1;
            ca continue --without cp-1 => 1; ca continue --checked pods => 1""",
        "published, its last minute": "PASS; REAL ca continue => 3; REAL ca status --json => any",
        "switched": "ONWARD ca continue; WAIT 2",
        "retired": "ONWARD ca continue",
        "done": "ONWARD ca continue",
        "published and led back": "ca rotate etcd --spread 1s; ca continue; PASS; ONWARD ca abort",
        "switched, the second time": "ca rotate etcd --spread 1s; ca continue; ONWARD ca continue; WAIT 2; PASS",
        "returning": "KEEP rotation/etcd; ca abort; WAIT 2",
        "set back": "PUTBACK rotation/etcd; PASS; ca continue => any; ca abort => any",
        "recovered": "ca recover etcd --yes => any; PASS; ca status => any",
        "recovered, returning": "ONWARD ca abort; WAIT 2",
        "recovered, home": "ONWARD ca abort",
        "re-trusting": """ca rotate etcd --spread 1s; ca continue; ONWARD ca continue; WAIT 2; ONWARD ca continue; PASS;
            ca abort""",
        "returning from there": "ONWARD ca abort; WAIT 2",
        "home from there": "ONWARD ca abort",
        "same key": "ca rotate etcd --same-key; ca continue; ONWARD ca continue",
        "same key, done": "ONWARD ca continue; ONWARD ca continue => any",
        "kubernetes without a node": """ca rotate kubernetes --spread 1s --without w-1; ca continue; ONWARD ca continue;
            WAIT 2""",
        "operator's certificate": """PASS; ca continue => any; issue admin --dir operator2;
            ONWARD ca continue --without admin""",
        "kubernetes, done": "ONWARD ca continue",
        "emergency": "ca rotate kubelet --emergency => 1; ca rotate kubelet --emergency --yes",
        "emergency, done": "ONWARD ca continue",
        "unreadable record": "SPOIL rotation/etcd; apply --yes => any; ca rotate etcd => any",
    },
    {"cluster.yaml": PLAIN},
)

ROOT = Life(
    "root",
    {
        "steady": f"apply --yes; JOIN cp-1; JOIN w-1; {RESTARTS}",
        "refused": """ca rotate root --same-key => 1; ca rotate root --emergency --yes => 1;
            ca continue --kubeconfig none => 1""",
        "prepared": "ca rotate root --spread 1s; ca rotate etcd => 1",
        "published": "ca continue; ca continue --checked pods => any",
        "published, pods": TURNS,
        "published and led back": "ONWARD ca abort",
        "switched": f"ca rotate root --spread 1s; ca continue; {TURNS}; ca continue --checked pods",
        "switched, outside": "PASS; ca continue => 3; ca continue --checked pods => 1",
        "retired": "ca continue --checked outside",
        "re-trusting": "PASS; ca abort",
        "returning": f"{TURNS.replace('continue', 'abort')}; ca abort --checked pods --checked outside",
        "home": "ONWARD ca abort",
        "done": f"""ca rotate root --spread 1s; ca continue; {TURNS}; ca continue --checked pods; PASS;
            ca continue => 3; ca continue --checked outside; ONWARD ca continue; issue admin --dir operator""",
    },
    {"cluster.yaml": PLAIN},
)

OWN = "ca: {root_ttl: 10y}"
OUTSIDE = Life(
    "outside",
    {
        "begun": """STAND signer corp; apply --yes => 3; ca continue => any; ca csr -o asked; STAND signs corp asked;
            ca import --dry-run --csr asked asked/etcd.crt => any; ca import asked/etcd.crt => any""",
        "all signed": f"ca import IMPORTED:asked; JOIN cp-1; JOIN w-1; {RESTARTS}",
        "refused": "ca import bad.pem => any; ca rotate etcd --spread 1s; ca continue => any; ca csr -o etcd",
        "prepared, signed outside": "STAND signs corp etcd; ca import IMPORTED:etcd => any; ONWARD ca abort => any",
        "root moves home, prepared": """STAND home; plan => any; ca rotate root --spread 1s => any;
            ca continue => any""",
        "vouched for outside": "ca csr -o cross; STAND crosses corp cross; ca import IMPORTED:cross => any; PASS",
        "switched": f"{TURNS}; ca continue --checked pods; PASS",
        "retired": "PASS; ca continue --checked outside => any; ca continue => any",
        "done": "ONWARD ca continue; PASS",
    },
    {"cluster.yaml": PLAIN + "ca: {root: external, root_file: corp.pem, root_sha256: [corp-SHA256]}\n"},
)

KEYS_SPEC = f"""\
service_account_keys: true
{HEAD}nodes:
- {{name: cp-1, roles: [control-plane], addresses: [10.0.0.11]}}
- {{name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}}
- {{name: cp-3, roles: [control-plane], addresses: [10.0.0.13]}}
- {{name: w-1, roles: [worker], addresses: [10.0.0.21]}}
"""
KEYS_RECORD = "rotation/service-account-keys"
EMERGENCY = "ca rotate service-account-keys --emergency"
STEP, BACK = "ca continue --kubeconfig admin.conf", "ca abort --kubeconfig admin.conf"
# The API servers restart one after the other; then the tokens of their old keys must end.
STILL, STILL_BACK = f"PASS; {STEP} => 3;", f"PASS; {BACK} => 3;"
KEYS = Life(
    "keys",
    {
        "no node": "apply --yes; STAND tokens cp-1 cp-2; ca continue => 1; ca rotate service-account-keys => any",
        "first node joins": "JOIN cp-1; STAND apiserver cp-1; JOIN w-1",
        "may start": "ca continue; PASS",
        "started": "STAND serves cp-1; PASS",
        "second node joins": "JOIN cp-2; STAND apiserver cp-2; ca continue => any; PASS; ca continue => any; PASS",
        "steady": "ca continue => any; PASS; STAND serves cp-2; PASS; ca continue => any; ca jwks => any",
        "refused": """ca rotate service-account-keys --same-key => 2; ca rotate service-account-keys --stolen cp-1 => 2;
            ca rotate service-account-keys --without cp-1 => 2; ca abort => 1""",
        "published": "ca rotate service-account-keys; ca continue => any; ca rotate etcd => any",
        "published and led back": "PASS; ONWARD ca abort",
        "switched": f"ca rotate service-account-keys; PASS; ONWARD {STEP}",
        "switched, tokens": f"PASS; {STEP} => any; {STEP} --token-life 1s => any; {STEP} --token-life 1s --yes => any",
        "returning": "PASS; ca abort",
        "home": f"{4 * STILL_BACK} AGE {KEYS_RECORD}; ONWARD {BACK}",
        "retired": f"ca rotate service-account-keys; ONWARD {STEP}; {4 * STILL} AGE {KEYS_RECORD}; ONWARD {STEP}",
        "re-trusting": "PASS; ca abort",
        "switched again": f"ONWARD {STEP}",
        "retired again": f"{4 * STILL} AGE {KEYS_RECORD}; ONWARD {STEP}",
        "done": f"ONWARD {STEP}; PASS; {STEP} => any",
        "node leaves": f"""EDIT cluster.yaml - {{name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}}\\n -> ;
            ca continue => 1; apply --yes; ca continue => any; PASS cp-1; {STEP} => any""",
        "emergency": f"{EMERGENCY} => 1; {EMERGENCY} --yes => any; PASS cp-1",
        "emergency, done": f"ONWARD {STEP} => any",
        "stolen key": f"{EMERGENCY} --stolen cp-1 --yes => any; lock cp-1; {EMERGENCY} --stolen cp-1 --yes => any",
    },
    {"cluster.yaml": KEYS_SPEC},
)

OF = "--kubeconfig admin.conf"
ADOPT_ON, ADOPT_BACK = f"ONWARD adopt continue {OF} --yes", f"ONWARD adopt abort {OF} --yes"
ADOPTION = Life(
    "adoption",
    {
        "not begun": f"""STAND kubeadm; adopt inventory {OF} => any; adopt inventory {OF} --json => any;
            apply --yes; adopt start {OF} => any; adopt continue {OF} => 1""",
        "enrolled": "JOIN cp-1; JOIN cp-2; JOIN w-1; STAND taken",
        "prepared": f"adopt start {OF} --yes; PASS; ca rotate etcd => 1; unenroll w-1 => 1",
        "not agreed": f"adopt continue {OF} => any; adopt continue {OF} --confirm nobody => any",
        "published": f"adopt continue {OF} --yes => any; adopt continue {OF} --yes --confirm webhooks => any",
        "published, turns": f"PASS; adopt continue {OF} --yes => 3; PASS; adopt continue {OF} --yes => 3",
        "published and led back": f"{ADOPT_BACK}; {ADOPT_BACK} => any",
        "switched": f"""adopt start {OF} --yes => any; {ADOPT_ON}; PASS; adopt continue {OF} --yes => any;
            PASS; adopt continue {OF} --yes => any; PASS; adopt continue {OF} --yes => any; STAND pods; PASS;
            {ADOPT_ON} --confirm outside""",
        "returning": f"PASS; adopt abort {OF} --yes => any",
        "switched again": f"{ADOPT_ON}",
        "closed": f"{ADOPT_ON}",
        "retired": f"PASS; {ADOPT_ON} --confirm outside",
        "re-trusting": f"PASS; adopt abort {OF} --yes => any; PASS; adopt abort {OF} --yes => any",
        "switched, the third time": f"STAND pods; {ADOPT_ON} --confirm outside",
        "retired again": f"{ADOPT_ON}; {ADOPT_ON} --confirm outside",
        "done": f"{ADOPT_ON}; PASS; adopt continue {OF} --yes => any; adopt abort {OF} --yes => 1",
    },
    views=f"{VIEWS}; adopt status {OF} => any; adopt status {OF} --json => any",
    join="--kubeconfig-dir {folder}/kubernetes --kubelet-dir {folder}/kubelet",
)

LIVES = {each.name: each for each in (CLUSTER, CA, ROOT, OUTSIDE, KEYS, ADOPTION)}
