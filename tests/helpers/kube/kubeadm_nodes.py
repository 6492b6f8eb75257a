"""Machines on which the real kubeadm runs: root folders of their own, containerd, and a kubelet as a service."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.kube import containerd
from helpers.kube.components import Programs
from helpers.kube.machines import Lan, Machine, Process, Ran, environment, lan
from helpers.product import PYTHONPATH
from vaultpki.model import NodeRole

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")

# What systemd does with the kubelet's unit of Kubernetes' own packages: it starts again whenever it has ended. Without
# a configuration of kubeadm's it would end at once, and take its time for that.
_KUBELET = """\
#!/bin/sh
while :; do
  if [ ! -e /run/kubelet.stopped ] && [ -e /var/lib/kubelet/config.yaml ]; then
    KUBELET_KUBEADM_ARGS=
    [ -e /var/lib/kubelet/kubeadm-flags.env ] && . /var/lib/kubelet/kubeadm-flags.env
    setpriv --pdeathsig KILL kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
      --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS &
    echo $! >/run/kubelet.pid
    wait $!
  fi
  sleep 0.3
done
"""

# kubeadm stops and starts the kubelet by it, and there is no systemd here.
_SYSTEMCTL = """\
#!/bin/sh
# The number is read once: the file soon has that of the next kubelet.
end() { old=$(cat /run/kubelet.pid); kill "$old"; while kill -0 "$old"; do sleep 0.1; done; } 2>/dev/null
case "$1 $2" in
# One may just have been started.
"stop kubelet") touch /run/kubelet.stopped; end; sleep 0.5; end ;;
"start kubelet") rm -f /run/kubelet.stopped ;;
"restart kubelet") rm -f /run/kubelet.stopped; end ;;
esac
exit 0
"""


# The product on a node.
_VAULTPKI = """\
#!/bin/sh
exec env PYTHONPATH={path} {python} -m vaultpki "$@"
"""


@dataclass(frozen=True, slots=True)
class KubeadmNode:
    """One node as kubeadm sees it; its agent has the files of the machine and its network."""

    name: str
    roles: frozenset[NodeRole]
    machine: Machine

    @property
    def address(self) -> str:
        return self.machine.address

    @property
    def tools(self) -> Path:
        """The folder with the node's programs, and with the stand-ins for what this machine lacks."""
        return self.machine.folder / "bin"

    @property
    def home(self) -> Path:
        """Where files arrive that are copied to no folder."""
        return self.machine.folder

    def run(self, *command: str | Path, expect: int | None = 0, stdin: str = "", timeout: float = 900) -> Ran:
        """A command on the machine, which finds Kubernetes' programs as on a node."""
        path = f"PATH={self.tools}:{environment(self.machine.folder)['PATH']}"
        return self.machine.run("env", path, *command, expect=expect, stdin=stdin, timeout=timeout)

    def install(self, programs: Programs, *names: str) -> None:
        """Puts these programs on the node, in place of other versions, as its package manager would."""
        for name in names:
            (self.tools / name).unlink(missing_ok=True)
            (self.tools / name).symlink_to(programs.path(name))

    def kubeadm(self, *arguments: str | Path, expect: int | None = 0, timeout: float = 900) -> Ran:
        return self.run("kubeadm", *arguments, expect=expect, timeout=timeout)

    def vaultpki(self, *arguments: str | Path, expect: int | None = 0) -> Ran:
        """The product on this node, to its end."""
        return self.run("vaultpki", *arguments, expect=expect)

    def resident(self) -> Process:
        """The node's agent as a process that stays; it ends with the machine."""
        return self.machine.start("agent", self.tools / "vaultpki", "agent")

    def seen(self, path: str) -> Path:
        """A path of the machine as this process can open it."""
        return Path(f"/proc/{self.machine.holder.pid}/root{path}")


@contextlib.contextmanager
def nodes(
    programs: Programs,
    folder: Path,
    roles: Mapping[str, frozenset[NodeRole]],
    addresses: Mapping[str, str],
    spare: Collection[str] = (),
) -> Iterator[tuple[Lan, dict[str, KubeadmNode]]]:
    """A machine for each name, ready for kubeadm: what its page of requirements asks for, and no certificate.

    The images of Kubernetes are not on those in `spare`, which may get a later version.
    """
    folder.mkdir(parents=True)
    archives = images(programs, folder)
    with lan(folder / "machines", addresses) as network:
        made = {}
        for name, machine in network.machines.items():
            node = made[name] = KubeadmNode(name, roles[name], machine)
            _own_folders(node, network.hosts)
            _tools(node)
            node.install(programs, "kubeadm", "kubelet", "kubectl")
            wanted = archives[-1:] if name in spare else needed(node, archives)
            containerd.start(machine, wanted, sandbox=sandbox(programs))
            machine.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.default.forwarding=1")
            service = node.tools / "kubelet-service"
            path = f"PATH={node.tools}:{environment(machine.folder)['PATH']}"
            machine.start("kubelet", "env", path, "sh", service)
        yield network, made


def _own_folders(node: KubeadmNode, hosts: Path) -> None:
    """An /etc of its own; /run and /var/lib are the machine's own already."""
    machine = node.machine
    machine.run("umount", "/etc/hosts")
    machine.run("umount", "/etc/resolv.conf")
    machine.run("mkdir", "/run/etc")
    machine.run("cp", "-a", "/etc/.", "/run/etc")
    machine.run("mount", "--bind", "/run/etc", "/etc")
    machine.run("mount", "--bind", hosts, "/etc/hosts")
    machine.run("mount", "--bind", "/dev/null", "/etc/resolv.conf")


def _tools(node: KubeadmNode) -> None:
    node.tools.mkdir()
    product = _VAULTPKI.format(path=PYTHONPATH, python=sys.executable)
    for name, text in {"kubelet-service": _KUBELET, "vaultpki": product}.items():
        (node.tools / name).write_text(text)
        (node.tools / name).chmod(0o755)
    with_systemctl(node)
    # Where the agent looks first for what it runs; on the host it holds what somebody has installed by hand.
    node.machine.run("mount", "-t", "tmpfs", "tmpfs", "/usr/local/sbin")
    node.machine.run("cp", node.tools / "systemctl", "/usr/local/sbin/systemctl")


def with_systemctl(node: KubeadmNode) -> None:
    """Gives the node what stops and starts its kubelet, for kubeadm."""
    (node.tools / "systemctl").write_text(_SYSTEMCTL)
    (node.tools / "systemctl").chmod(0o755)


def image_names(programs: Programs) -> dict[str, str]:
    """The images that kubeadm asks for, by their short names."""
    listing = [str(programs.path("kubeadm")), "config", "images", "list", "--kubernetes-version", programs.version]
    said = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    return {re.sub(r".*/|:.*", "", name): name for name in said}


def sandbox(programs: Programs) -> str:
    return image_names(programs)["pause"]


def needed(node: KubeadmNode, archives: list[Path]) -> list[Path]:
    """Those of `images` that a node runs."""
    return archives if NodeRole.CONTROL_PLANE in node.roles else archives[-2:]


def images(programs: Programs, folder: Path) -> list[Path]:
    """Archives of what `make conformance` builds, by the names that kubeadm asks for; the last two are for workers."""
    folder = folder / programs.version
    folder.mkdir(exist_ok=True)
    names = image_names(programs)
    made = []
    for name in ("etcd", *CONTROL_PLANE, "kube-proxy"):
        archive = folder / f"{name}.tar"
        made.append(archive)
        if archive.exists():
            continue
        files = with_libraries(programs.path(name), f"usr/local/bin/{name}")
        links = {}
        if name == "etcd":
            # As the image of Kubernetes' own registry has it.
            files |= with_libraries(programs.path("etcdctl"), "usr/local/bin/etcdctl")
        if name == "kube-proxy":
            files |= _iptables()
            files["bin/busybox"] = containerd.busybox()
            links = {f"bin/{applet}": "busybox" for applet in ("sh", "cat", "ls")}
        archive.write_bytes(containerd.packed([names[name]], files, links, entry=name))
    pause = folder / "pause.tar"
    pause.write_bytes(containerd.image(names["pause"]))
    return [*made, pause]


def with_libraries(program: Path, place: str) -> dict[str, bytes]:
    """The program, and the shared libraries that it needs, by their places in an image."""
    files = {place: program.read_bytes()}
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", said):
        files[library.lstrip("/")] = Path(library).read_bytes()
    return files


def _iptables() -> dict[str, bytes]:
    """What kube-proxy calls: iptables with its extensions."""
    files: dict[str, bytes] = {}
    for name in ("iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"):
        found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")
        assert found is not None, f"{name} is missing; as root, run: apt-get install iptables"
        files |= with_libraries(Path(found).resolve(), f"usr/sbin/{name}")
    for extension in Path("/usr/lib/x86_64-linux-gnu/xtables").glob("*.so"):
        files[str(extension).lstrip("/")] = extension.read_bytes()
    return files
