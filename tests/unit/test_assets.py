"""What ships beside the code, and the sandbox its templates are filled in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vaultpki import assets
from vaultpki.certificates import CSR_SIGNER, TABLE
from vaultpki.errors import TemplateError

CONFIG = {
    "cluster": "prod",
    "server": "https://api.example.com:6443",
    "ca_file": "/etc/kubernetes/pki/kubernetes-ca.crt",
    "user": "system:node:cp-1",
    "certificate": "/etc/kubernetes/pki/kubelet-client.crt",
    "key": "/etc/kubernetes/pki/kubelet-client.key",
}


def fails(template: str, values: dict[str, str] | None = None) -> str:
    with pytest.raises(TemplateError) as caught:
        assets.render(template, values or {}, name="flags.conf")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "flags.conf" in sentence
    return sentence


def test_a_value_stands_raw_or_as_json_and_a_dollar_is_doubled() -> None:
    values = {"name": 'a "b"\n', "x": "$name ${name}"}
    assert assets.render("${name}|${name.json}|$$|$${name}", values, name="t") == 'a "b"\n|"a \\"b\\"\\n"|$|${name}'
    assert assets.render("${x}", values, name="t") == "$name ${name}", "a value is never a template"


def test_an_unknown_name_is_refused_with_line_and_the_names_that_exist() -> None:
    assert fails("a\nb\n${nmae}\n", {"node": "", "name": ""}) == (
        "template flags.conf, line 3: there is no value named nmae; there are: name, node"
    )
    assert "there are: none" in fails("${x}")


@pytest.mark.parametrize(
    "bad",
    [
        *("$name", "${name", "${}", "$", "$ {name}", "${na me}", "${name.yaml}", "${name.json.json}", "${name!r}"),
        *("${0}", "${name[0]}", "${name.__class__}", "${na\nme}", "${näme}", "$(name)", "$" * 3),
    ],
)
def test_what_is_no_placeholder_is_refused(bad: str) -> None:
    assert "line 2: " in (sentence := fails(f"ok\n{bad}", {"name": "v"}))
    assert "is not a placeholder" in sentence


def test_nul_and_lone_surrogates_are_refused() -> None:
    assert "line 2: the template contains a NUL" in fails("a\nb\0c")
    assert "line 2: the value of x contains a NUL" in fails("a\n${x}", {"x": "a\0"})
    assert "not valid Unicode" in fails("${x}", {"x": "\udc80"})
    assert "not valid Unicode" in fails("${x.json}", {"x": "\udc80"})


def test_the_output_is_bounded_before_it_is_built() -> None:
    assert len(assets.render("${x}", {"x": "a" * assets.MAX_OUTPUT}, name="t")) == assets.MAX_OUTPUT
    assert "256 KiB" in fails("${x}b", {"x": "a" * assets.MAX_OUTPUT})
    assert "256 KiB" in fails("${x}", {"x": "é" * (assets.MAX_OUTPUT // 2 + 1)})
    # Built first and measured after, this would take 25 GB.
    assert "256 KiB" in fails("${x}" * 100_000, {"x": "a" * assets.MAX_OUTPUT})


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yes",
        "1e3",
        "null",
        "- a",
        "a: b # c",
        "\x7f\x85\x9f",
        "\u2028\u2029\ufeff",
        "\ufffe",
        "😀",
        "\t\r\n\x01",
        "한글",
    ],
)
def test_a_json_value_is_a_yaml_string(value: str) -> None:
    document = assets.render("k: ${v.json}\n", {"v": value}, name="t")
    assert yaml.safe_load(document) == {"k": value}
    assert json.loads(document.removeprefix("k: ")) == value


@pytest.mark.parametrize("name", ["a", "flags.conf", "a..", "x" * 100, "kubelet flags", "깃발.conf"])
def test_plain_file_names(name: str) -> None:
    assert assets.plain_file_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "/a",
        "../a",
        "a\0",
        "a\nb",
        "a\x1bb",
        "x" * 101,
        "깃" * 100,
        "\udc80",
        "a\u202eb",
    ],
)
def test_names_that_leave_the_directory_or_a_terminal_in_disorder(name: str) -> None:
    assert not assets.plain_file_name(name)


def test_kubeconfig_names_files_and_one_context() -> None:
    config = yaml.safe_load(assets.kubeconfig(**CONFIG))
    assert config == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "prod",
                "cluster": {"server": CONFIG["server"], "certificate-authority": CONFIG["ca_file"]},
            }
        ],
        "users": [
            {
                "name": CONFIG["user"],
                "user": {"client-certificate": CONFIG["certificate"], "client-key": CONFIG["key"]},
            }
        ],
        "contexts": [
            {"name": "system:node:cp-1@prod", "context": {"cluster": "prod", "user": CONFIG["user"]}},
        ],
        "current-context": "system:node:cp-1@prod",
    }


@pytest.mark.parametrize("field", ["ca_file", "certificate", "key"])
def test_kubeconfig_wants_absolute_paths(field: str) -> None:
    with pytest.raises(TemplateError, match="not an absolute path"):
        assets.kubeconfig(**{**CONFIG, field: "pki/a.crt"})


def test_every_manifest_of_the_table_renders_and_binds_the_rows_own_subject() -> None:
    bound = {}
    for row in (row for row in TABLE if row.manifest and row.name != CSR_SIGNER):
        assert row.manifest is not None
        group = row.organization[0] if row.organization else ""
        binding = yaml.safe_load(assets.manifest(row.manifest, user=row.common_name, group=group))
        assert (binding["apiVersion"], binding["kind"]) == ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding")
        (subject,) = binding["subjects"]
        assert subject["name"] == (group if subject["kind"] == "Group" else row.common_name)
        assert {subject["apiGroup"], binding["roleRef"]["apiGroup"]} == {"rbac.authorization.k8s.io"}
        bound[row.manifest] = (
            binding["metadata"]["name"],
            subject["kind"],
            subject["name"],
            binding["roleRef"]["name"],
        )
    # The names are kubeadm's own, so that a cluster it manages finds its objects.
    assert bound == {
        "cluster-admins.yaml": ("kubeadm:cluster-admins", "Group", "kubeadm:cluster-admins", "cluster-admin"),
        "kubelet-api-admin.yaml": (
            "kubeadm:kubelet-api-admin",
            "User",
            "kube-apiserver-kubelet-client",
            "system:kubelet-api-admin",
        ),
    }


@pytest.mark.parametrize("people", [False, True])
@pytest.mark.parametrize("approve", [False, True])
def test_a_signer_may_answer_what_is_served_and_nothing_else(people: bool, approve: bool) -> None:
    text = assets.manifest("signer.yaml", user="vaultpki:signer", group="", people=people, approves=approve)
    objects = list(yaml.safe_load_all(text))
    roles = {(each["kind"], each["metadata"].get("namespace")): each for each in objects}
    kubelets = ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"]
    served = [*kubelets, *(["kubernetes.io/kube-apiserver-client"] if people else [])]
    may = [
        (rule["resources"], rule.get("resourceNames"), rule["verbs"]) for rule in roles["ClusterRole", None]["rules"]
    ]
    approves = [
        (["certificatesigningrequests/approval"], None, ["update"]),
        (["signers"], ["kubernetes.io/kubelet-serving"], ["approve"]),
    ]
    assert may == [
        (["certificatesigningrequests"], None, ["get", "list", "watch"]),
        (["certificatesigningrequests/status"], None, ["update"]),
        (["signers"], served, ["sign"]),
        *(approves if approve else []),
        (["nodes"], None, ["list"]),
    ]
    (lease,) = roles["Role", "kube-system"]["rules"]
    assert (lease["resourceNames"], lease["verbs"]) == (["vaultpki-signer"], ["get", "update"])
    (leases,) = roles["Role", "kube-node-lease"]["rules"]
    assert (leases["resources"], leases["verbs"]) == (["leases"], ["get"])
    assert roles["Lease", "kube-system"]["metadata"]["name"] == "vaultpki-signer"
    bindings = [each for each in objects if each["kind"].endswith("Binding")]
    assert [(each["kind"], each["metadata"].get("namespace")) for each in bindings] == [
        ("ClusterRoleBinding", None),
        ("RoleBinding", "kube-system"),
        ("RoleBinding", "kube-node-lease"),
    ]
    for each in bindings:
        assert each["subjects"] == [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "vaultpki:signer"}
        ]


@pytest.mark.parametrize("name", ["nothing.conf", "../pyproject.toml", "/etc/passwd", "", "."])
def test_a_file_that_does_not_ship_is_named_with_those_that_do(name: str) -> None:
    with pytest.raises(TemplateError, match=r"there are: .*kubeconfig\.conf"):
        assets.text("templates", name)


def test_a_copy_of_the_package_alone_reads_the_folders_inside_it(tmp_path: Path) -> None:
    package = Path(assets.__file__).parent
    inside = tmp_path / "vaultpki"
    (inside / "templates").mkdir(parents=True)
    for module in ("__init__.py", "errors.py", "assets.py"):
        (inside / module).write_bytes((package / module).read_bytes())
    (inside / "templates" / "only.conf").write_text("from the wheel")
    code = "from vaultpki import assets; print(assets.text('templates', 'only.conf'))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout == "from the wheel\n", ran.stderr
