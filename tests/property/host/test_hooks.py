"""Whatever changes, fails and is killed, and when: each change gets its hook, and what did not change gets none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vaultpki.host import hooks
from vaultpki.host.hooks import Owed
from vaultpki.model import Hook

KEYS = ("kubelet", "kube-proxy", "etcd-ca")
HOOKED = {"kubelet": (Hook("systemd", name="kubelet"),), "etcd-ca": (Hook("static_pod", name="etcd"),)}

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(KEYS)),
        st.tuples(st.just("remove"), st.sampled_from(KEYS)),
        st.tuples(st.sampled_from(("pass", "pass, killed before it wrote", "clock set back", "wait")), st.just("")),
        st.tuples(st.just("fails"), st.sampled_from(sorted(HOOKED))),
    ),
    max_size=30,
)


@given(EVENTS)
@settings(deadline=None, max_examples=300)
def test_each_change_gets_its_hook_in_the_end(events: list[tuple[str, str]]) -> None:
    live, done = dict.fromkeys(KEYS, "0"), dict.fromkeys(KEYS, "0")
    owing: dict[str, Owed] = {}
    ran: dict[str, str] = {}
    failing: set[str] = set()
    now, count = 1_000_000.0, 0
    for event, key in [*events, *[("wait", ""), ("pass", "")] * 2]:
        if event == "change":
            count += 1
            live[key] = str(count)
        elif event == "remove":
            live.pop(key, None)
        elif event == "fails":
            failing.add(key)
        elif event == "wait":
            now += 600.0
        elif event == "clock set back":
            now -= 500_000.0
        else:
            kept = dict(done), dict(owing)
            done = hooks.settled(live, done, HOOKED)
            owing = hooks.pending(hooks.owed(live, done, HOOKED), owing, now)
            for due in hooks.ready(owing, now):
                assert due in HOOKED and done.get(due) != live[due], "ran though nothing had changed"
                if due in failing:
                    failing.discard(due)
                    owing[due] = hooks.failed(owing[due], "no", now, 0.5)
                    assert now < owing[due].not_before <= now + 600.0
                else:
                    ran[due] = done[due] = live[due]
            owing = hooks.pending(hooks.owed(live, done, HOOKED), owing, now)
            if event != "pass":
                done, owing = kept
    assert hooks.owed(live, done, HOOKED) == () and owing == {}
    assert all(ran.get(key, "0") == digest for key, digest in live.items() if key in HOOKED)
    assert ran.keys() <= HOOKED.keys()
