"""Attention probing of a run: measured once beside the certificate, on the dense model and selection rows."""

from __future__ import annotations

from pathlib import Path

from worker.engine.anatomy import Shape
from worker.engine.report.probing import NOTHING_REMOVED, attention_probe, not_probed, removes_heads
from worker.engine.report.schema import AttentionProbe
from worker.engine.run import Run
from worker.engine.significance.attended import NoMaps, attended
from worker.engine.stages.problem import compared_rows, sample
from worker.engine.workspace import read_json, write_json

PROBED_ROWS = (256, 128, 64, 32)  # the first number that the time allows, as in `compared_rows`
PROBING_SHARE = 0.01  # of the budget
PLAIN = 3  # times a forward pass: one that works out maps and sums them up


def probed_attention(run: Run, after: Shape, file: Path) -> AttentionProbe:
    """What the heads that `after` lacks attended to in the dense model, beside those that it keeps.

    Read back from `file` where an earlier attempt has measured it.
    """
    if (stored := read_json(file)) is not None:
        return AttentionProbe.model_validate(stored)
    probe = _measured(run, after)
    write_json(file, probe.model_dump(mode="json"))
    return probe


def special_ids(run: Run) -> frozenset[int]:
    """Tokens that frame a text: [CLS] and [SEP], or the beginning and end of a sequence.

    Unknown words, masks and padding are not among them: the first two stand for content, the last is no key.
    """
    tokenizer = run.dense.tokenizer
    named = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return frozenset(each for each in named if each is not None)


def _measured(run: Run, after: Shape) -> AttentionProbe:
    anatomy = run.dense.anatomy
    full = anatomy.full_shape()
    if not removes_heads(full, after):
        return not_probed(NOTHING_REMOVED)
    run.progress("certify", 0, None, "looking at what the heads attend to")
    rows = compared_rows(run, PLAIN, PROBING_SHARE, PROBED_ROWS)
    split = sample(run.dense.selection, rows, run.spec.seed)
    try:
        found = attended(anatomy, split, special_ids(run), run.device, reporter=run.reporter)
    except NoMaps as missing:
        return not_probed(str(missing))
    return attention_probe(full, after, found, len(split))
