"""Models as files that run elsewhere: `torch.export` programs and ONNX.

`parts` says what of a model is exported, `program` traces it, `onnx_file` writes it in standard ONNX operators (which
`onnx_forms` has), and `checking` runs a file beside the model that it came from. ONNX is optional: see
requirements/export.txt.
"""
