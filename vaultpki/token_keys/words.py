"""Decides whether what a person says of service-account keys counts, as a word for one component of one node; pure."""

from __future__ import annotations

from vaultpki.procedure import words
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, KeyRecord
from vaultpki.redact import first_few, stamp
from vaultpki.token_keys.gates import KeyTransition
from vaultpki.token_keys.holders import KeyHolder, final_on_disk
from vaultpki.token_keys.issuer import JWKS, PUBLISH
from vaultpki.token_keys.starts import READS_KEYS
from vaultpki.token_keys.states import STEPS_OF_KEY_SETS


def restart_refused(record: KeyRecord, holder: KeyHolder | None, said: str) -> str:
    """Return why a person's word that kube-apiserver was restarted does not count, as a sentence; "" if it does.

    `said` is the word (`cp-1/kube-apiserver`). It counts only once the node has reported the files of this state, and
    not against what its agent sees.
    """
    name, _, component = said.partition("/")
    if holder is None or name not in record.nodes or holder.keys is None:
        return f"{name} has no service-account keys in this cluster; look at its name"
    if component != READS_KEYS:
        return f"only kube-apiserver reads these keys when it starts; write `--restarted {name}/{READS_KEYS}`"
    if not final_on_disk(record, holder):
        return words.too_early(said, "the files", "those")
    if holder.keys.loaded and record.turn != name:
        return words.seen_already(said)
    if holder.keys.reader.running and not holder.keys.holds_files:
        since = f" since {stamp(holder.keys.reader.started)}" if holder.keys.reader.started is not None else ""
        files = f" of {stamp(holder.keys.installed)}" if holder.keys.installed is not None else ""
        return words.runs_without(said, f"{since}, without the files{files} that are there now")
    return ""


def check_refused(step: KeyTransition, word: str) -> str:
    """Return why a person's word about the published key set does not count, as a sentence; "" if it does."""
    record = step.record
    if word != JWKS or step.path not in STEPS_OF_KEY_SETS or not step.published:
        state = f"{SERVICE_ACCOUNT_KEYS} are {record.state.value}"
        return f"{state}, and do not wait for {word}; leave out `--checked {word}`"
    unmade = [
        name
        for name, keys in sorted(record.nodes.items())
        if any(number not in keys.certificates for number in keys.accepted(record.state))
    ]
    if unmade:
        return (
            f"the next key of {first_few(unmade)} is not in the record yet, so no key set can have it. Publish it "
            f"once `vaultpki ca status` waits for {JWKS} alone, and pass `--checked {JWKS}` then"
        )
    lacking = [each.sentence for each in step.published if each.lacking]
    if not lacking:
        return ""
    return f"the key set is not whole: {lacking[0]}. First {PUBLISH}. Then pass `--checked {JWKS}`"
