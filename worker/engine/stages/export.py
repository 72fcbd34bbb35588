"""Export: the files that the user gets, in every format asked for."""

from __future__ import annotations

from typing import Any

from models.spec import Loadable, Recipe
from worker.engine.delivery import write_onnx, write_torch
from worker.engine.export.safetensors import load_folder
from worker.engine.export.torch_program import save_program_folder
from worker.engine.run import Run


def export(run: Run) -> dict[str, Any]:
    """Write `optimized/`: a folder for each format. The model card comes with the certificate."""
    recovered = run.workspace.result("recover")
    assert recovered is not None
    recipe = Recipe.model_validate(recovered["recipe"])
    model = load_folder(run.workspace.folder("recover") / recovered["folder"] / "model")
    folder = run.workspace.folder("export") / "optimized"
    formats = run.spec.exports
    loadable: Loadable = "onnx"
    for number, name in enumerate(formats):
        run.progress("export", number, len(formats), name)
        if name == "safetensors":
            loadable = write_torch(run, model, recipe, folder / name)
        elif name == "torch_export":
            save_program_folder(model, run.tokenizer, folder / name, max_length=run.max_length)
        else:
            write_onnx(run, model, recipe, folder / name)
    return {"loadable": loadable, "recipe": recovered["recipe"]}
