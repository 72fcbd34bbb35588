"""A run on the screen: live, in lines, as JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from axforge.cli.certificate import count, render
from axforge.cli.progress import ProgressView, duration
from tests.sdk.samples import CERTIFICATE, candidate


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def show(view: ProgressView, clock: Clock) -> None:
    """A short run."""
    with view:
        view.event("dataset.columns", "text is 'q' [guessed]", {"text": "q"})
        view.progress("baseline", 0, 40)
        for step in range(1, 41):
            clock.now += 1.0
            view.progress("baseline", step, 40, metrics={"loss": 1.0 / step})
        view.progress("search", 1, message="masking heads", eta=75.0)
        view.candidate(candidate(0))
        view.candidate(candidate(0))
        view.candidate(candidate(1, accepted=False, reason="too slow"))
        clock.now += 20.0
        view.progress("search", 2)
        view.certificate(CERTIFICATE)


def terminal(file: io.StringIO) -> Console:
    return Console(file=file, color_system=None, force_terminal=True, width=140, _environ={"TERM": "xterm"})


def plain() -> str:
    clock, file = Clock(), io.StringIO()
    show(ProgressView(Console(file=file, width=120), clock=clock), clock)
    return file.getvalue()


def test_lines_in_a_pipe_are_few_and_plain() -> None:
    shown = plain()
    lines = shown.splitlines()
    assert "\x1b" not in shown
    assert lines[0] == "dataset.columns: text is 'q' [guessed]"
    baseline = [line for line in lines if line.startswith("baseline")]
    assert baseline[0] == "baseline 0/40"
    assert baseline[1] == "baseline 10/40, about 0:30 left in baseline, loss 0.1"
    assert baseline[-1] == "baseline 40/40, loss 0.025"
    assert len(baseline) == 5
    assert "search 1, about 1:15 left, masking heads" in lines
    assert "candidate 0 accepted, metric 0.9100, 23.0 MB, speedup 2.50x, the loss fell" in lines
    assert "search 2, 2 candidates (1 accepted)" in lines


def test_json_lines_carry_everything() -> None:
    clock, file = Clock(), io.StringIO()
    show(ProgressView(Console(file=file), json=True, clock=clock), clock)
    documents = [json.loads(line) for line in file.getvalue().splitlines()]
    assert documents[0] == {
        "type": "event",
        "event": "dataset.columns",
        "message": "text is 'q' [guessed]",
        "data": {"text": "q"},
    }
    steps = [document for document in documents if document.get("stage") == "baseline"]
    assert len(steps) == 41
    assert steps[20]["eta_seconds"] == 20.0
    assert steps[20]["metrics"] == {"loss": 0.05}
    assert documents[-1] == {"type": "certificate", "certificate": CERTIFICATE}


def test_a_terminal_that_is_interrupted_shows_how_far_it_came() -> None:
    file = io.StringIO()

    def run() -> None:
        with ProgressView(terminal(file)) as view:
            view.event("dataset.columns", "text is 'q' [guessed]")
            view.progress("baseline", 40, 40)
            view.candidate(candidate(0))
            view.candidate(candidate(1, accepted=False))
            view.progress("search", 2, 9, "masking [heads]", {"loss": 0.25}, eta=75.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    shown = file.getvalue()
    assert "✓ search" not in shown
    assert shown.endswith("\x1b[?25h")  # the cursor is back
    for expected in (
        "dataset.columns",
        "text is 'q' [guessed]",
        "✓ baseline",
        "40/40",
        "2/9",
        "1:15 left",
        "loss 0.25, masking [heads]",
        "2 candidates (1 accepted)",
    ):
        assert expected in shown


def test_a_terminal_ends_with_all_stages_ticked_and_the_certificate() -> None:
    clock, file = Clock(), io.StringIO()
    show(ProgressView(terminal(file), clock=clock), clock)
    last = file.getvalue().rpartition("✓ baseline")[2]
    assert "✓ search" in last
    assert last.index("✓ search") < last.index("Certificate") < last.index("Verdict")


def test_a_certificate_may_come_after_the_view() -> None:
    file = io.StringIO()
    with ProgressView(terminal(file)) as view:
        view.progress("certify", 1, 1)
    view.certificate(CERTIFICATE)
    assert "Verdict" in file.getvalue()


def test_the_certificate_shows_each_number_and_what_failed() -> None:
    file = io.StringIO()
    Console(file=file, width=120).print(render(CERTIFICATE))
    shown = file.getvalue()
    for expected in (
        "0.9200",
        "0.9154",
        "-0.50%",
        "90.9 MB",
        "15.2 MB",
        "6.00x smaller",
        "8 ms",
        "2.5 ms",
        "4.00x faster",
        "3.80x faster",
        "125.0/s",
        "4.00x more",
        "22.7 M",
        "340.0 M",
        "872 holdout rows",
        "-0.20% to +1.21%",
        "accuracy.max_relative_drop",
        "constraints not met",
    ):
        assert expected in shown
    failed = next(line for line in shown.splitlines() if "speed.min_speedup" in line)
    assert "5" in failed
    assert "NO" in failed


def test_a_certificate_without_constraints_has_no_empty_table() -> None:
    file = io.StringIO()
    Console(file=file, width=120).print(render({**CERTIFICATE, "constraints": [], "verdict": "met"}))
    assert "required" not in file.getvalue()
    assert "constraints met" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(7, "0:07"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (4500, "4.5 k"), (22_713_216, "22.7 M"), (3e9, "3.0 G")]
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text
