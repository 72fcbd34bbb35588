from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from worker.engine.tasks.metrics import METRICS, confusion_matrix

PAIRS = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60
        ),
    )
)


@pytest.mark.filterwarnings("ignore:A single label:UserWarning")
@given(PAIRS)
def test_every_metric_agrees_with_scikit_learn(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = drawn
    labels, predictions = np.array(pairs).T
    confusion = confusion_matrix(predictions, labels, classes)
    f1 = {"average": "binary"} if classes == 2 else {"average": "macro"}
    assert METRICS["accuracy"](confusion) == pytest.approx(accuracy_score(labels, predictions))
    assert METRICS["f1"](confusion) == pytest.approx(f1_score(labels, predictions, zero_division=0, **f1))
    assert METRICS["matthews_correlation"](confusion) == pytest.approx(matthews_corrcoef(labels, predictions))
