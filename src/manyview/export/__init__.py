"""A trained model leaves: for timm, as ONNX, as TorchScript, as a folder of the hub."""
