"""Go's own parser says what the tests of `pki.go_parser` say of it."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import go_refusals

pytestmark = pytest.mark.conformance

PARSER = """\
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		der, err := base64.StdEncoding.DecodeString(lines.Text())
		if err == nil {
			_, err = x509.ParseCertificate(der)
		}
		fmt.Println(err)
	}
}
"""


def test_go_refuses_these_and_takes_those(tmp_path: Path) -> None:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    (tmp_path / "main.go").write_text(PARSER)
    odd = {**go_refusals.REFUSED, **go_refusals.READ}
    lines = "".join(base64.b64encode(each.made()).decode() + "\n" for each in odd.values())
    ran = subprocess.run(
        [go, "run", "main.go"], cwd=tmp_path, input=lines, capture_output=True, text=True, check=True, timeout=600
    )
    said = dict(zip(odd, ran.stdout.splitlines(), strict=True))
    wanted = {what: each.go or "<nil>" for what, each in odd.items()}
    assert {what: text for what, text in said.items() if not text.startswith(wanted[what])} == {}
