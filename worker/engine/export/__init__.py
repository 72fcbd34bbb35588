"""Turning a model into files that others load: safetensors folders, ONNX graphs and the model card."""

from worker.engine.export.safetensors import load_folder, save_folder

__all__ = ["load_folder", "save_folder"]
