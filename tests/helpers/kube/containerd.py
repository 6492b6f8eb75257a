"""A container runtime of a machine's own, with images packed here: Debian's static busybox, and what is built."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import signal
import tarfile
from collections.abc import Sequence
from pathlib import Path

from helpers.kube.machines import Machine
from helpers.vault.servers import wait_for

IMAGE = "conformance.invalid/busybox:1"
APPLETS = ("cat", "echo", "env", "ls", "nc", "sh", "sleep", "true", "wget")
START_SECONDS = 30.0
# The native snapshotter copies every file, and three control planes have five large images each.
IMPORT_SECONDS = 600

# All pods of all clusters share one control group, and with it what one process of a session of its own gets: a control
# plane in pods would starve beside a test run. Only cgroup v1 has this file.
_SHARES = Path("/sys/fs/cgroup/cpu/k8s.io/cpu.shares")

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
  bin_dir = "{place}/plug-ins"
"""

# kubeadm asks a pod of this image for its version before an upgrade, to see that pods run.
_PAUSE = b'#!/bin/sh\n[ "$1" = -v ] || exec sleep 1000000\n'

# Most pods here are on their node's own network. The others get an address that leads nowhere, by this plug-in, which
# is also the one that the runtime looks for to set up loopback (CNI specification 0.4.0).
_NETWORK = {"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}
_PLUG_IN = """\
#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}' ;;
ADD) echo '{"cniVersion": "0.4.0", "interfaces": [{"name": "'"$CNI_IFNAME"'", "sandbox": "'"$CNI_NETNS"'"}],
  "ips": [{"version": "4", "interface": 0, "address": "192.0.2.9/24"}]}' ;;
esac
"""


def socket_of(machine: Machine) -> Path:
    # Where kubeadm looks for it. /run is the machine's own.
    return Path("/run/containerd/containerd.sock")


def start(machine: Machine, images: Sequence[Path] = (), sandbox: str = IMAGE) -> None:
    """containerd on the machine, with the image of busybox and these archives imported; `sandbox` is for pods."""
    place = machine.folder / "containerd"
    (place / "cni").mkdir(parents=True)
    (place / "cni" / "none.conflist").write_text(json.dumps(_NETWORK))
    (place / "plug-ins").mkdir()
    (place / "plug-ins" / "loopback").write_text(_PLUG_IN)
    (place / "plug-ins" / "loopback").chmod(0o755)
    socket = socket_of(machine)
    configuration = place / "config.toml"
    configuration.write_text(_CONFIGURATION.format(place=place, socket=socket, image=sandbox))
    # In a process namespace of its own, which takes shims and pods along at its end; the kubelet's mounts reach it.
    own = ("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc")
    # unshare(1) waits for its child with SIGTERM blocked.
    machine.start("containerd", *own, "containerd", "--config", configuration, ending=signal.SIGKILL)
    if (_SHARES.parents[1] / _SHARES.name).exists():
        _SHARES.parent.mkdir(exist_ok=True)
        _SHARES.write_text("16384")
    archive = place / "image.tar"
    archive.write_bytes(image())
    load(machine, (archive, *images))


def load(machine: Machine, images: Sequence[Path]) -> None:
    """Imports archives of images into the machine's containerd, which may just have been started."""
    runtime = machine.processes["containerd"]
    where = ("--address", socket_of(machine), "--namespace", "k8s.io")
    client = ("ctr", *where, f"--timeout={IMPORT_SECONDS}s", "images", "import")

    def imported(file: Path) -> bool:
        runtime.check()
        ran = machine.run(*client, "--snapshotter", "native", file, expect=None, timeout=IMPORT_SECONDS)
        return ran.returncode == 0

    for file in images:
        wait_for(
            functools.partial(imported, file),
            START_SECONDS,
            lambda: f"containerd takes no image:\n{runtime.last_words()}",
            pause=0.2,
        )


def image(*names: str) -> bytes:
    """A Docker archive around busybox with these names; /pause is what a sandbox's first process runs."""
    files = {"bin/busybox": busybox(), "pause": _PAUSE}
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    return packed(names or (IMAGE,), files, links, entry="/pause")


def busybox() -> bytes:
    """The program that most commands of a pod are."""
    found = shutil.which("busybox")
    assert found is not None, "busybox is missing; as root, run: apt-get install busybox-static"
    program = Path(found).read_bytes()
    assert b"/ld-linux" not in program, "this busybox needs libraries; as root, run: apt-get install busybox-static"
    return program


def packed(names: Sequence[str], files: dict[str, bytes], links: dict[str, str], *, entry: str) -> bytes:
    """A Docker archive (moby's image spec 1.2) of one layer with these files."""
    folders = sorted({str(parent) for name in (*files, *links) for parent in Path(name).parents if parent.name})
    layer = _tar(files, links, folders=(*folders, "tmp"))
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [entry], "Env": ["PATH=/bin:/usr/bin:/usr/sbin:/usr/local/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": list(names), "Layers": ["layer.tar"]}]
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
