"""Where the code keeps the rules of the models; a test holds that (tests/unit/rotation/test_model.py)."""

from __future__ import annotations

CHECKS: dict[str, str | tuple[str, ...]] = {
    "_future": "time is left out of the model",
    "_old_agent": "an agent that does not know rotations keeps a gate closed, as one that never reports",
    "_behind": ("recover",),
    "_not_followed": "an agent that does not take the record reports nothing that answers it",
    "_echo": ("echo",),
    "_bundle": ("memory",),
    "_restarts": ("memory", "seen"),
    "_hooks": "a hook that has not succeeded is a restart that is still owed",
    "_leaf": ("leafword",),
}
"""The checks of a report before a step, in their order, each with rules of the model, or why it has none."""

KEPT_BY = {
    "counted": "rotation.gates:_counts",
    "echo": "rotation.reasons:fresh",
    "settle": "rotation.reasons:settled",
    "word": "pki.succession:_bundle",
    "leafword": "pki.succession:_signers",
    "intent": "rotation.mount_steps:next_write",
    "retrust": "rotation.reasons:TRUST_STEPS",
    "bound": "rotation.gates:restart_refused",
    "memory": "rotation.reasons:owes_restart",
    "seen": "rotation.reasons:_started",
    "compared": "rotation.listener_trust:looked",
    "newstate": "records.rotation:RotationRecord.moved",
    "operators": "rotation.gates:OperatorLeaf",
    "epoch": "pki.succession:RotationView.still",
    "recover": "ca.set_back:refuse",
    "back only": "rotation.recovery:recovered",
    "kept": "records.rotation:Kept",
    "default": "rotation.recovery:_kept",
    "default first": "ca.recover:_make_default",
    "waits": "pki.succession:acceptable",
    "nothing dropped": "pki.succession:_bundle",
    "steady": "rotation.recovery:_silent",
    "again": "rotation.reasons:wanted_cas",
    "limit": "records.rotation:MOST_AHEAD",
    "ids": "rotation.mount_steps:issuer_of",
    "defuse": "rotation.states:Presence.MUTE",
    "probe": "rotation.listener_trust:_wrong",
    "accepting": "rotation.listener_trust:held",
    "read again": "ca.mount_writes:reconcile_mount",
    "whole": "rotation.states:server_state",
    "parked": "pki.roots:Roots.parked",
    "keep-cross": "rotation.root_steps:cross_issuer",
    "sent": "rotation.root_gates:WITH_COMPANIONS",
    "pods": "rotation.root_gates:_pods",
    "outside": "rotation.root_gates:_needs_outside",
    "send-cross": "pki.succession:chain",
    "manager": "rotation.root_gates:without_leaves",
    "pins": "rotation.reasons:holds_final",
}
"""The code that keeps a rule, as `module:name`. `again` is the name of a rule of both models."""
