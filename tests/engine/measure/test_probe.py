from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.engine.measure.graphs import token_rows, write_classifier
from worker.engine.measure.errors import MeasurementError, RuntimeUnavailable
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.measure.process import others_busy, peak_rss_bytes, tree_rss_bytes, waited_ns


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.fixture(scope="module")
def inputs() -> BenchInputs:
    return BenchInputs.in_order(token_rows(10), batch_size=4)


def test_logits_are_those_of_the_file_row_by_row(graph: Path, inputs: BenchInputs) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(graph)
    alone = [
        session.run(None, {"input_ids": row[None], "attention_mask": np.ones_like(row)[None]})[0][0]
        for row in inputs.ids
    ]
    with probe(ModelFile(graph), inputs, threads=1) as running:
        logits = running.logits()
    np.testing.assert_allclose(logits, np.stack(alone), atol=1e-5)


def test_a_timed_pass_has_one_time_for_every_call_and_repeat(graph: Path, inputs: BenchInputs) -> None:
    with probe(ModelFile(graph), inputs, threads=1) as running:
        turn = running.timed(calls=2, repeats=5, warmup=3)
        peak = running.peak_rss_bytes()
    assert turn.ms.shape == (5, 2)
    assert (turn.ms > 0).all()
    assert turn.waited >= 0
    assert 20e6 < peak < 400e6


def test_a_probe_that_shares_its_processor_says_that_it_waited(tmp_path: Path) -> None:
    graph = write_classifier(tmp_path / "model.onnx", products=40, width=256)
    inputs = BenchInputs.in_order(token_rows(8), batch_size=8)
    processor = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{processor}}}); print(flush=True)\nwhile True: pass"
    with probe(ModelFile(graph), inputs, threads=1) as running:
        os.sched_setaffinity(running._process.pid, {processor})
        for task in Path(f"/proc/{running._process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {processor})
        other = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            other.stdout.readline()
            shared = running.timed(calls=1, repeats=200).waited
        finally:
            other.kill()
            other.communicate()
    assert shared > 0.2


def test_the_probe_of_an_onnx_file_loads_neither_torch_nor_pydantic() -> None:
    script = (
        "import sys, worker.engine.measure.probe as p; "
        "print([m for m in ('torch', 'transformers', 'pydantic', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_is_no_model_is_a_typed_error_with_its_cause_and_no_path(
    tmp_path: Path, inputs: BenchInputs
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a graph")
    with (
        pytest.raises(MeasurementError, match=r"model\.onnx could not be measured .*[Pp]rotobuf") as caught,
        probe(ModelFile(broken), inputs, threads=1),
    ):
        pass
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.code == "measurement_failed"
    assert caught.value.pointer == "/target"


def test_a_failing_call_is_a_typed_error(graph: Path) -> None:
    beyond_the_vocabulary = BenchInputs.in_order([[1, 99]], batch_size=1)
    with (
        probe(ModelFile(graph), beyond_the_vocabulary, threads=1) as running,
        pytest.raises(MeasurementError, match=r"out of bounds|indices"),
    ):
        running.logits()


def test_a_probe_that_dies_is_an_error_and_not_a_hang(graph: Path, inputs: BenchInputs) -> None:
    with probe(ModelFile(graph), inputs, threads=1) as running:
        running._process.kill()
        with pytest.raises(MeasurementError, match="ended with code -9"):
            running.logits()


def test_a_probe_that_is_too_slow_is_an_error_and_is_ended(graph: Path, inputs: BenchInputs) -> None:
    with (
        pytest.raises(MeasurementError, match="no answer in time"),
        probe(ModelFile(graph), inputs, threads=1, start_seconds=0.0),
    ):
        pass
    assert "measure.probe" not in _commands_of_children()


def test_leaving_the_block_by_an_exception_ends_the_process(graph: Path, inputs: BenchInputs) -> None:
    def interrupted() -> None:
        with probe(ModelFile(graph), inputs, threads=1):
            assert "measure.probe" in _commands_of_children()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "measure.probe" not in _commands_of_children()


def test_a_probe_ends_by_itself_when_its_parent_is_gone(
    graph: Path, inputs: BenchInputs, tmp_path: Path
) -> None:
    inputs.save(tmp_path / "inputs.npz")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "worker.engine.measure.probe", "--model", str(graph)),
            *("--runtime", "onnxruntime", "--threads", "1", "--inputs", str(tmp_path / "inputs.npz")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"ready": True}
    process.stdin.write(b'{"do": "pass", "first": 0, "calls": 3, "repeats": 100000000, "warmup": 0}\n')
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    process.stdout.close()


def test_cuda_without_a_device_says_so(graph: Path, inputs: BenchInputs) -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this machine has one")
    with (
        pytest.raises(RuntimeUnavailable),
        probe(ModelFile(graph, device="cuda"), inputs, threads=1),
    ):
        pass


def test_memory_of_a_tree_counts_its_children() -> None:
    alone = tree_rss_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(80_000_000); print(len(x), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_rss_bytes() - alone > 70e6
        assert peak_rss_bytes(child.pid) > 80e6
    finally:
        child.kill()
        child.communicate()
    assert peak_rss_bytes() >= 10e6


def _commands_of_children() -> str:
    children = (Path(f"/proc/{os.getpid()}/task") / str(os.getpid()) / "children").read_text().split()
    return " ".join(Path(f"/proc/{child}/cmdline").read_bytes().decode() for child in children)


def test_a_thread_that_ends_meanwhile_counts_no_more(tmp_path: Path) -> None:
    for thread in ("1", "2"):
        (tmp_path / thread).mkdir()
    (tmp_path / "1" / "schedstat").write_text("5 7 1\n")
    (tmp_path / "2" / "schedstat").symlink_to(tmp_path / "gone")
    assert waited_ns(tmp_path) == 7


def test_a_thread_that_computes_is_busy_and_one_that_waits_is_not(tmp_path: Path) -> None:
    def thread(number: int, state: str) -> None:
        (tmp_path / str(number)).mkdir(exist_ok=True)
        (tmp_path / str(number) / "stat").write_text(f"{number} (a (name) R) {state} 1 2 3\n")

    thread(threading.get_native_id(), "R")  # the one that asks
    thread(1, "S")
    (tmp_path / "2").mkdir()  # it ended
    assert not others_busy(tmp_path)
    thread(1, "R")
    assert others_busy(tmp_path)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor has no second thread")
def test_a_probe_is_idle_when_it_has_answered(tmp_path: Path) -> None:
    def computed(pid: int) -> int:
        books = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(book.read_text(encoding="ascii").split()[0]) for book in books)

    graph = write_classifier(tmp_path / "model.onnx", products=40, width=256)
    with probe(ModelFile(graph), BenchInputs.in_order(token_rows(8), batch_size=8), threads=2) as running:
        for _ in range(3):
            running.timed(calls=1, repeats=20)
            before = computed(running._process.pid)
            time.sleep(0.02)
            assert computed(running._process.pid) - before < 10e6, "threads still looked for work"
