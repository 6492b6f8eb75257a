"""`vaultpki report --dir` as a person runs it: real files, what `verify` finds in them, and the page."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from helpers.node.handmade_files import HandmadeFiles, made
from helpers.vault.applied_cluster import Ran, vaultpki

ROW = re.compile(r'<tr data-state="(\w+)".*?<th scope="row">([\w-]+)</th><td>([^<]*)</td><td>([^<]*)</td>')


@pytest.fixture
def files(tmp_path: Path) -> HandmadeFiles:
    return made(tmp_path)


def ran(files: HandmadeFiles, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("report", "-f", files.file, "--dir", files.folder, "-o", page_of(files), *words, expect=expect)


def page_of(files: HandmadeFiles) -> Path:
    return files.folder / "report.html"


def states(files: HandmadeFiles) -> dict[tuple[str, str], tuple[str, str, str]]:
    """The state, component and CA of each certificate on the page, by its holder and name."""
    found = {}
    for block in page_of(files).read_text().split('<details data-node="')[1:]:
        holder = block.partition('"')[0]
        for state, name, component, ca in ROW.findall(block):
            found[holder, name] = (state, component, ca)
    return found


def test_every_certificate_of_every_folder_is_on_the_page(files: HandmadeFiles) -> None:
    assert ran(files).stdout == f"wrote {page_of(files)}\n"
    found = states(files)
    assert {state for state, _, _ in found.values()} == {"valid"}
    assert {holder for holder, _ in found} == {"cp-1", "worker-1", "w-7", "operator"}
    assert found["cp-1", "kube-apiserver-etcd"] == ("valid", "kube-apiserver", "etcd")
    assert {name for holder, name in found if holder == "w-7"} == {"kubelet", "kubelet-client", "kube-proxy"}
    text = page_of(files).read_text()
    assert "Nothing needs attention" in text and "all as they should be" in text
    for authority in (files.root, *files.issuing.values()):
        assert authority.certificate.fingerprint(hashes.SHA256()).hex() in text
    assert "root CA of prod, until " in text


def test_what_is_wrong_is_on_the_page_and_on_the_terminal(files: HandmadeFiles) -> None:
    gone = (-timedelta(days=9), -timedelta(hours=3))
    files.lay(files.pki("worker-1"), files.want("worker-1", "kube-proxy"), life=gone)
    (files.pki("w-7") / "kubelet.crt").unlink()
    # A pair of another CA: it is whole and in date, and only a handshake tells.
    stolen = files.pki("cp-1") / "front-proxy-client.crt"
    stolen.write_bytes((files.pki("cp-1") / "kube-apiserver-etcd.crt").read_bytes())
    done = ran(files, expect=3)
    said = done.stderr.splitlines()
    assert "worker-1: expired: kube-proxy: run `vaultpki renew kube-proxy` on worker-1" in said
    assert "w-7: missing: kubelet: run `vaultpki renew kubelet` on w-7" in said
    again = f"vaultpki verify -f {files.file} --dir {files.folder}"
    assert any(re.fullmatch(rf"\d+ of \d+ checks failed: run `{re.escape(again)}`", line) for line in said)
    assert said[-1] == f"vaultpki: {len(said) - 1} things need attention; see above, and {page_of(files)}"
    found = states(files)
    assert found["worker-1", "kube-proxy"][0] == "expired" and found["w-7", "kubelet"][0] == "missing"
    text = unescape(page_of(files).read_text())
    for line in said[:-1]:
        who, _, sentence = line.partition(": ") if line[0].isalpha() else ("", "", line)
        shown = re.sub("`([^`]*)`", r"<code>\1</code>", sentence)
        assert f"<p>{shown}</p>" in text and f"<b>{who}</b>" * bool(who) in text
    assert "cp-1/front-proxy-client" in text.partition("<h3>Failures</h3>")[2]
    assert 'class="met-wrong"' in text


def test_a_pair_is_what_verify_calls_it(files: HandmadeFiles) -> None:
    picture = files.folder / "a.svg"
    drawn = ("graph", "-f", files.file, "--dir", files.folder, "-o", picture)
    assert vaultpki(*drawn).stderr == ""
    (files.pki("w-7") / "kubelet.key").unlink()
    other = (files.pki("worker-1") / "kubelet-client.key").read_bytes()
    (files.pki("worker-1") / "kube-proxy.key").write_bytes(other)
    checked = vaultpki("verify", "-f", files.file, "--dir", files.folder, expect=3).stdout
    assert "kubelet.key" in checked and "is not the key of kube-proxy.crt" in checked
    lines = {
        "w-7: missing: kubelet: run `vaultpki renew kubelet` on w-7",
        "worker-1: broken: kube-proxy: run `vaultpki renew kube-proxy` on worker-1",
    }
    assert lines <= set(ran(files, expect=3).stderr.splitlines())
    found = states(files)
    assert found["w-7", "kubelet"][0] == "missing" and found["worker-1", "kube-proxy"][0] == "broken"
    assert "kube-proxy.key is not the key of kube-proxy.crt" in page_of(files).read_text()
    assert lines <= set(vaultpki(*drawn, expect=3).stderr.splitlines())
    text = picture.read_text()
    assert "1 of 2 missing, until " in text and "1 of 2 broken, until " in text
    assert all(line in unescape(text) for line in lines)


def test_a_folder_that_is_not_read_is_said(files: HandmadeFiles) -> None:
    (files.folder / "nodes" / "w-8").symlink_to("/etc")
    said = ran(files, expect=3).stderr
    assert "w-8: " in said and "is a link that leads out of" in said
    assert page_of(files).is_file()
    page_of(files).unlink()
    vaultpki("report", "-f", files.file, "--dir", files.folder / "none", "-o", page_of(files), expect=1)
    assert not page_of(files).exists()


def test_its_own_page_is_replaced_in_one_step_and_no_other_file(files: HandmadeFiles) -> None:
    ran(files)
    page = page_of(files)
    assert page.stat().st_mode & 0o777 == 0o644
    old, before = page.open("rb"), page.stat().st_ino
    ran(files)
    # Who reads the old one reads it whole.
    with old:
        assert old.read().endswith(b"</html>\n")
    assert page.stat().st_ino != before
    assert sorted(each.name for each in files.folder.iterdir()) == ["cluster.yaml", "nodes", "operator", "report.html"]

    # One node's folder is read sooner.
    words = ("--dir", files.pki("w-7").parent)
    spec, picture = files.file.read_bytes(), files.folder / "a.svg"
    said = ran(files, *words, "-o", files.file, expect=1).stderr
    assert said == f"vaultpki: {str(files.file)!r} is not a report of vaultpki: choose another name with -o\n"
    assert files.file.read_bytes() == spec
    vaultpki("graph", "-f", files.file, "-o", picture)
    link, pipe = files.folder / "link.html", files.folder / "pipe.html"
    link.symlink_to(page)
    os.mkfifo(pipe)
    for path, why in (
        (picture, "is not a report"),
        (link, "cannot be written"),
        (pipe, "is not a report"),
        (files.folder / "nowhere/a.html", "cannot be written"),
    ):
        assert why in ran(files, *words, "-o", path, expect=1).stderr


def test_what_a_program_reads(files: HandmadeFiles) -> None:
    page = str(page_of(files))
    assert json.loads(ran(files, "--json").stdout) == {"output": page, "ok": True, "notices": []}
    (files.pki("w-7") / "kubelet.crt").unlink()
    wrong = ran(files, "--json", expect=3)
    document = json.loads(wrong.stdout)
    assert (document["output"], document["ok"]) == (page, False)
    assert "w-7" in {each["who"] for each in document["notices"]} and "w-7" in wrong.stderr
    picture = files.folder / "a.dot"
    words = ("graph", "-f", files.file, "--dir", files.folder, "-o", picture, "--json")
    drawn = json.loads(vaultpki(*words, expect=3).stdout)
    assert (drawn["output"], drawn["format"], drawn["ok"]) == (str(picture), "dot", False)


def test_what_to_read_must_be_chosen(files: HandmadeFiles) -> None:
    words = ("report", "-f", files.file, "-o", page_of(files))
    for more in ((), ("--from-vault", "--dir", files.folder)):
        assert "choose one of --dir DIR, for files, and --from-vault" in vaultpki(*words, *more, expect=2).stderr
    assert "-o" in vaultpki("report", "-f", files.file, "--dir", files.folder, expect=2).stderr
