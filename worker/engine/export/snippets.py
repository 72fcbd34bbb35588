"""How exported folders are loaded, task by task, as programs that run as they stand.

PATH/TO/THIS/FOLDER is the folder. Each begins from the text that a user would have.
"""

from __future__ import annotations

from typing import Literal

from models.spec import TaskName

Format = Literal["native", "remote_code", "onnx", "torch_export"]

_FOLDER = 'folder = "PATH/TO/THIS/FOLDER"'
_TRUSTED = f"{_FOLDER}  # its *.py files hold the model's code: read them first"
_ASKED: dict[TaskName, str] = {
    "question-answering": """\
question, context = "your question", "your text, in which the answer stands"
""",
    "multiple-choice": """\
text, choices = "your text", ["one choice", "another choice"]  # as many as there were in training
""",
}
_PIPELINES: dict[TaskName, tuple[str, str]] = {
    "text-classification": ("text-classification", ""),
    "multi-label-classification": ("text-classification", ", top_k=None"),
    "regression": ("text-classification", ', function_to_apply="none"'),
    "token-classification": ("token-classification", ', aggregation_strategy="simple"'),
    "causal-lm": ("text-generation", ", do_sample=False"),
}
_AUTO: dict[TaskName, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "multi-label-classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "causal-lm": "AutoModelForCausalLM",
}
_TORCH: dict[TaskName, str] = {
    "question-answering": """\
encoded = tokenizer(question, context, return_tensors="pt", truncation="only_second")
with torch.no_grad():
    output = model(**encoded)
first, last = int(output.start_logits[0].argmax()), int(output.end_logits[0].argmax())
print(tokenizer.decode(encoded["input_ids"][0, first : last + 1]))
""",
    "multiple-choice": """\
encoded = tokenizer([text] * len(choices), choices, return_tensors="pt", padding=True, truncation=True)
with torch.no_grad():
    logits = model(**{name: values[None] for name, values in encoded.items()}).logits
print(choices[int(logits[0].argmax())])
""",
}
_ONNX_BEFORE = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path("PATH/TO/THIS/FOLDER")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
about = json.loads((folder / "labels.json").read_text())
"""
_ONNX_VALUES = """\
values = {
    "input_ids": encoded.ids,
    "attention_mask": encoded.attention_mask,
    "token_type_ids": encoded.type_ids,
}
inputs = {name: np.array([values[name]], dtype=np.int64) for name in about["inputs"]}
"""
_ONNX_TEXT = f"""\
encoded = tokenizer.encode("your text")
{_ONNX_VALUES}logits = session.run(["logits"], inputs)[0]
"""
_ONNX: dict[TaskName, str] = {
    "text-classification": _ONNX_TEXT + 'print(about["labels"][int(logits[0].argmax())])\n',
    "multi-label-classification": _ONNX_TEXT
    + 'print([label for label, logit in zip(about["labels"], logits[0]) if logit >= 0])\n',
    "regression": _ONNX_TEXT + 'print(about["labels"][0], float(logits[0, 0]))\n',
    "token-classification": _ONNX_TEXT
    + """\
tags = [about["labels"][tag] for tag in logits[0].argmax(axis=1)]
print(list(zip(encoded.tokens, tags)))
""",
    "question-answering": f"""\
encoded = tokenizer.encode(question, context)  # a long text goes on in encoded.overflowing
{_ONNX_VALUES}start, end = session.run(["start_logits", "end_logits"], inputs)
first, last = int(start[0].argmax()), int(end[0].argmax())
print(context[encoded.offsets[first][0] : encoded.offsets[last][1]])
""",
    "multiple-choice": """\
tokenizer.enable_padding()
encoded = tokenizer.encode_batch([(text, choice) for choice in choices])
values = {
    "input_ids": [one.ids for one in encoded],
    "attention_mask": [one.attention_mask for one in encoded],
    "token_type_ids": [one.type_ids for one in encoded],
}
inputs = {name: np.array([values[name]], dtype=np.int64) for name in about["inputs"]}
logits = session.run(["logits"], inputs)[0]
print(choices[int(logits[0].argmax())])
""",
    "causal-lm": """\
tokens = tokenizer.encode("your text", add_special_tokens=False).ids
kept = [given for given in session.get_inputs() if given.name.startswith("past_key_values.")]
cache = {past.name: np.zeros((1, past.shape[1], 0, past.shape[3]), dtype=np.float32) for past in kept}
names = [output.name for output in session.get_outputs()]
read = 0  # tokens that the cache holds
for _ in range(20):
    inputs = {
        "input_ids": np.array([tokens[read:]], dtype=np.int64),
        "attention_mask": np.ones((1, len(tokens)), dtype=np.int64),
    }
    answers = dict(zip(names, session.run(names, {**inputs, **cache})))
    cache = {name: answers[name.replace("past_key_values", "present")] for name in cache}
    read = len(tokens)
    tokens.append(int(answers["logits"][0, -1].argmax()))
print(tokenizer.decode(tokens))
""",
}

_PROGRAM_BEFORE = """\
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

folder = Path("PATH/TO/THIS/FOLDER")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
model = torch.export.load(folder / "model.pt2").module()
about = json.loads((folder / "labels.json").read_text())
"""
_FOR_PROGRAMS = {
    "np.array([values[name]], dtype=np.int64)": "torch.tensor([values[name]])",
    'session.run(["logits"], inputs)[0]': "model(**inputs)",
    'session.run(["start_logits", "end_logits"], inputs)': "model(**inputs)",
    "argmax(axis=1)": "argmax(dim=1)",
}
"""What a program is asked by, in the place of an ONNX session."""


def snippet(task: TaskName, form: Format) -> str:
    """A Python program that loads such a folder and answers for one example."""
    asked = _ASKED.get(task, "")
    if form == "torch_export":
        text = _ONNX[task]
        for onnx, program in _FOR_PROGRAMS.items():
            text = text.replace(onnx, program)
        return _PROGRAM_BEFORE + asked + text
    if form == "onnx":
        return _ONNX_BEFORE + asked + _ONNX[task]
    if task in _PIPELINES:
        return _pipeline(task, form)
    trusted = ", trust_remote_code=True" if form == "remote_code" else ""
    auto = _AUTO[task]
    return f"""\
import torch
from transformers import {auto}, AutoTokenizer

{_TRUSTED if trusted else _FOLDER}
model = {auto}.from_pretrained(folder{trusted})
tokenizer = AutoTokenizer.from_pretrained(folder{trusted})
{asked}{_TORCH[task]}"""


def _pipeline(task: TaskName, form: Format) -> str:
    name, options = _PIPELINES[task]
    if form == "native":
        return f"""\
from transformers import pipeline

answer = pipeline("{name}", model="PATH/TO/THIS/FOLDER"{options})
print(answer("your text"))
"""
    auto = _AUTO[task]
    return f"""\
from transformers import {auto}, AutoTokenizer, pipeline

{_TRUSTED}
model = {auto}.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
answer = pipeline("{name}", model=model, tokenizer=tokenizer{options})
print(answer("your text"))
"""
