"""The procedures in which machines of nodes take part, each a module with what the agent and the views need of it.

They are registered here, in one tuple, which every entry point hands over. The main job imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultpki.procedures import adoption, move

if TYPE_CHECKING:
    from vaultpki.node.procedures import Procedures

ON_NODES: Final[Procedures] = (adoption, move)
"""What `PassOptions` and each look at a node get."""
