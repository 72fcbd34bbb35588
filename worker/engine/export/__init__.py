"""Turning a model into files that others load: safetensors folders, ONNX graphs and the model card."""
