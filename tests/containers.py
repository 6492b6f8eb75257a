"""A container runtime of a machine's own, with the one image there is: Debian's static busybox."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import tarfile
from pathlib import Path

from machines import Machine
from servers import wait_for

IMAGE = "conformance.invalid/busybox:1"
APPLETS = ("cat", "echo", "env", "ls", "nc", "sh", "sleep", "true", "wget")
START_SECONDS = 30.0

_CONFIGURATION = """\
version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{image}"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "{place}/cni"
"""

# The runtime calls the node's network ready once it has read one. Every pod here is on its node's own network, so the
# plug-in it names is never run.
_NETWORK = {"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}


def socket_of(machine: Machine) -> Path:
    # Not in the machine's folder: a socket's path has at most 107 characters (unix(7)). /run is the machine's own.
    return Path("/run/containerd.sock")


def start(machine: Machine) -> None:
    """containerd on the machine, with the image imported."""
    place = machine.folder / "containerd"
    (place / "cni").mkdir(parents=True)
    (place / "cni" / "none.conflist").write_text(json.dumps(_NETWORK))
    socket = socket_of(machine)
    configuration = place / "config.toml"
    configuration.write_text(_CONFIGURATION.format(place=place, socket=socket, image=IMAGE))
    # In a process namespace of its own, which takes shims and pods along at its end; the kubelet's mounts reach it.
    own = ("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc")
    # unshare(1) waits for its child with SIGTERM blocked.
    runtime = machine.start("containerd", *own, "containerd", "--config", configuration, ending=signal.SIGKILL)
    archive = place / "image.tar"
    archive.write_bytes(image())

    def imported() -> bool:
        runtime.check()
        client = ("ctr", "--address", socket, "--namespace", "k8s.io", "--timeout", "10s")
        done = machine.run(*client, "images", "import", "--snapshotter", "native", archive, expect=None)
        return done.returncode == 0

    wait_for(imported, START_SECONDS, lambda: f"containerd takes no image:\n{runtime.last_words()}", pause=0.2)


def image() -> bytes:
    """A Docker archive (moby's image spec 1.2) around busybox; /pause is what a sandbox's first process runs."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is missing; as root, run: apt-get install busybox-static"
    program = Path(busybox).read_bytes()
    assert b"/ld-linux" not in program, "this busybox needs libraries; as root, run: apt-get install busybox-static"
    files = {"bin/busybox": program, "pause": b"#!/bin/sh\nexec sleep 1000000\n"}
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    layer = _tar(files, links, folders=("bin", "tmp"))
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    parts = {"config.json": configuration, "manifest.json": manifest}
    return _tar({"layer.tar": layer} | {name: json.dumps(part).encode() for name, part in parts.items()})


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None, folders: tuple[str, ...] = ()) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return written.getvalue()
