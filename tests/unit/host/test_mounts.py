"""Which folders are of other machines: a read there may never end."""

from __future__ import annotations

from pathlib import Path

from vaultpki.host.mounts import remote

TABLE = """\
/dev/sda1 / ext4 rw 0 0
/dev/disk/by-path/pci-0000:00:1f.2 /srv ext4 rw 0 0
overlay /var/lib/a overlay rw 0 0
tank/home /export zfs rw 0 0
files.example.com:/home /home nfs4 rw 0 0
//files/people /mnt/our\\040people cifs rw 0 0
systemd-1 /net autofs rw 0 0
me@there:/ /media/sshfs fuse.sshfs rw 0 0

odd
"""


def test_file_systems_of_other_machines_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    assert remote(str(tmp_path)) == ()
    (tmp_path / "self/mounts").write_text(TABLE)
    assert remote(str(tmp_path)) == ("/home", "/mnt/our people", "/net", "/media/sshfs")
