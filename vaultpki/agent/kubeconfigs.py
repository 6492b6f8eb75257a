"""The kubeconfigs that are plain files: those of kubeadm's layout, in a folder that other programs use too.

A plain file has no generation and no link that says who made it. It is ours if it names the files of our pair. A file
that a static pod mounts by itself is written once: the pod would never see another one in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from vaultpki.agent.bundles import site_of
from vaultpki.agent.context import Context
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import BUNDLES, file_set, laid_out
from vaultpki.disk.generations import File, StoredFile
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.errors import StoreError
from vaultpki.host.log import Event
from vaultpki.issue.bundles_and_kubeconfigs import Site, kubeconfig, named_server, names_pair
from vaultpki.model import Certificate
from vaultpki.places import PKI, KubeconfigFile, Layout


def install(context: Context, server: str, items: Iterable[PairStatus]) -> None:
    """Write the kubeconfigs of the installed pairs that are missing or may be replaced; `server` is their URL.

    Failures and warnings go to `context.found`.
    """
    folder = context.folders.kubeconfigs
    if folder is None:
        return
    written = []
    site = site_of(context.config, server)
    for item in items:
        # No kubeconfig may point at a pair that is not there yet.
        if not item.ready or not is_plain(item.want):
            continue
        name = str(item.want.kubeconfig)
        try:
            if _install(context, folder, item.want, kubeconfig(site, item.want)):
                written.append(name)
        except StoreError as error:
            context.found.failures[name] = error
    if written:
        context.found.events.append(Event("bundles", f"wrote {', '.join(written)}"))


def remove_surplus(context: Context, held: Collection[Certificate]) -> None:
    """Remove our kubeconfigs of certificates that this node no longer holds, once their pairs are gone.

    Raises StoreError if that fails.
    """
    folder, paths = context.folders.kubeconfigs, context.config.paths
    names, pairs = {certificate.name for certificate in held}, context.folders.file_sets()
    for row in laid_out(Layout.KUBEADM) if folder is not None else ():
        if folder is None or row.kubeadm is None or row.kubeconfig is None or row.operator or row.name in names:
            continue
        if (row.kubeadm.folder, file_set(row.kubeadm.stem)) in pairs:
            continue
        stored = folder.read(row.kubeconfig)
        if stored.data is not None and names_pair(stored.data, paths[row.kubeadm.folder], row.kubeadm.stem):
            folder.remove(row.kubeconfig)
            text = f"removed {row.kubeconfig}, whose certificate this node no longer holds"
            context.found.events.append(Event("removed", text))


def problems(site: Site, folder: PlainFolder | None, certificates: Iterable[Certificate]) -> Iterator[tuple[str, str]]:
    """Yield the name of each certificate whose plain kubeconfig needs somebody, and in one word why."""
    for certificate in certificates if folder is not None else ():
        if folder is not None and is_plain(certificate):
            stored = folder.read(str(certificate.kubeconfig))
            if problem := _problem(site, certificate, stored, kubeconfig(site, certificate)):
                yield certificate.name, f"kubeconfig-{problem}"


def servers(context: Context, items: Iterable[PairStatus]) -> dict[str, str]:
    """Return the servers that the installed kubeconfigs of Kubernetes' components name, each with its CA file.

    Only files that name our pairs count. Raises StoreError.
    """
    found, folders, paths = dict[str, str](), context.folders, context.config.paths
    own = {row.name for row in laid_out(context.config.layout)}
    for want in (item.want for item in items if item.want.name in own and item.want.kubeconfig):
        name = str(want.kubeconfig)
        plain = folders.kubeconfigs if is_plain(want) else None
        stored = plain.read(name) if plain is not None else folders.read(PKI, BUNDLES, [name])[name]
        if stored.data is not None and names_pair(stored.data, paths[want.folder], want.stem):
            server = named_server(stored.data)
            found |= {server[0]: server[1]} if server is not None else {}
    return found


def is_plain(certificate: Certificate) -> bool:
    """Return whether the kubeconfig of a certificate is a plain file."""
    return certificate.kubeconfig is not None and certificate.kubeconfig_file is not KubeconfigFile.LINKED


def _problem(site: Site, certificate: Certificate, stored: StoredFile, wanted: File) -> str:
    if stored.data == wanted.data:
        return ""
    if stored.data is None:
        return "missing" if stored.problem == "missing" else "unreadable"
    return "outdated" if names_pair(stored.data, site.paths[certificate.folder], certificate.stem) else "foreign"


def _install(context: Context, folder: PlainFolder, want: Certificate, wanted: File) -> bool:
    name, site_paths = str(want.kubeconfig), context.config.paths
    path, stored = f"{folder.path}/{name}", folder.read(name)
    if stored.problem == "missing":
        folder.write(name, wanted, replace=False)
        return True
    if stored.data is None:
        raise StoreError(f"{path}: it cannot be read ({stored.problem}); move it away and run again")
    same, unsafe = stored.data == wanted.data, folder.unsafe(stored, wanted)
    if same and not unsafe:
        if stored.mode != wanted.mode:
            folder.mend(name, wanted)
        return False
    if not same and not names_pair(stored.data, site_paths[want.folder], want.stem):
        raise StoreError(f"{path}: this file was not made by vaultpki; move it away and run again")
    if unsafe:
        # Also one that a static pod mounts: what somebody else can still write is worse than what is outdated.
        folder.rewrite(name, wanted)
        if want.kubeconfig_file is KubeconfigFile.FIXED:
            text = f"{path}: restart the static pod {want.name}, which mounts the file that others could write to"
            context.found.events.append(Event("kubeconfig", text, "warning", {"certificate": want.name}))
        return not same
    if want.kubeconfig_file is KubeconfigFile.FIXED:
        text = (
            f"{path}: it is outdated and stays, because a static pod mounts this very file; remove it, run "
            f"`vaultpki agent --once`, and restart the static pod {want.name}"
        )
        context.found.events.append(Event("kubeconfig", text, "warning", {"certificate": want.name}))
        return False
    folder.write(name, wanted, replace=True)
    return True
