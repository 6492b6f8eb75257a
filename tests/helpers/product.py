"""Where processes of tests find the product, as it is or for a Kubernetes that is built with quick clients."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vaultpki.certificates import CLIENT_LOOK

CHECKOUT = Path(__file__).parents[2]
QUICK = Path(__file__).with_name("kube") / "quick"
"""On PYTHONPATH this folder has the product count on quick clients: in the process of tests, and in all they start."""

IS_QUICK = str(QUICK) in sys.path
PYTHONPATH = os.pathsep.join(map(str, (QUICK, CHECKOUT) if IS_QUICK else (CHECKOUT,)))
CLIENTS = f"vaultpki counts on clients that look at their files every {CLIENT_LOOK} s"
"""What a run says of itself."""

assert (CLIENT_LOOK < 5 * 60) == IS_QUICK, f"{QUICK} is on PYTHONPATH: {IS_QUICK}, and CLIENT_LOOK is {CLIENT_LOOK}"
