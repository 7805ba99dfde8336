"""The engines that speed.py compares. Each runs in a process of its own, in its own environment.

    python peers.py convert ENGINE CHECKPOINT TARGET      # into the engine's own format, where it has one
    python peers.py forward ENGINE CHECKPOINT THREADS     # or encode: the worker

A worker reads one JSON object a line, `{"inputs": PATH, "repeats": N, "save": PATH or null}`, runs its engine N times
on these inputs and answers with the seconds that one run took. Reading and saving are not counted.
Nothing but NumPy is imported until an engine is made: the environments have little in common.
"""

import json
import os
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PACKAGES = ["torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "nncf", "ctranslate2"]
TENSORS = ["input_ids", "attention_mask", "token_type_ids"]
OUTPUTS = ["last_hidden_state", "pooler_output"]


class Engine:
    "From inputs to hidden states. The methods up to `forward` are not timed."

    saved = ""  # what `convert` writes

    def __init__(self, folder: Path, precision: str, threads: int):
        "Load the checkpoint, or what was converted from it."

    @staticmethod
    def convert(folder: Path, target: Path, precision: str) -> None:
        "Write the checkpoint in the engine's own format."

    def inputs(self, arrays: dict[str, np.ndarray]) -> Any:
        "The padded arrays as the engine likes them."
        return arrays

    def forward(self, inputs: Any) -> Any:
        "What is timed: all tokens' last hidden states, and the pooled output."
        raise NotImplementedError

    def states(self, output: Any) -> np.ndarray:
        "The (batch, seq, hidden) states of an output, in float32."
        return np.array(output)

    def vectors(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        "One vector for each row: the mean over its tokens."
        mask = arrays["attention_mask"][:, :, None].astype(np.float32)
        return (np.where(mask == 1, self.states(self.forward(self.inputs(arrays))), 0) * mask).sum(1) / mask.sum(1)


class Torch(Engine):
    "What all engines of torch share."

    def __init__(self, folder: Path, precision: str, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.torch, self.dtype = torch, getattr(torch, precision)
        self.model = self.load(folder)
        self.mode = torch.inference_mode()  # kept, as it ends with this object
        self.mode.__enter__()

    def load(self, folder: Path) -> Any:
        raise NotImplementedError

    def inputs(self, arrays: dict[str, np.ndarray]) -> Any:
        return {name: self.torch.from_numpy(array) for name, array in arrays.items()}

    def forward(self, inputs: Any) -> Any:
        return self.model(**inputs).last_hidden_state

    def states(self, output: Any) -> np.ndarray:
        return output.float().numpy()


class Eager(Torch):
    "transformers, attention step by step: the base of all ratios."

    attention = "eager"

    def load(self, folder: Path) -> Any:
        from transformers import BertModel

        return BertModel.from_pretrained(folder, attn_implementation=self.attention).to(self.dtype).eval()


class Sdpa(Eager):
    "transformers with torch's fused attention."

    attention = "sdpa"


class FastPath(Eager):
    "torch's nn.TransformerEncoder: without gradients it takes its own fused path, and packs padded batches."

    def load(self, folder: Path) -> Any:
        from torch import nn

        model, cat = super().load(folder), self.torch.cat
        sizes = model.config.hidden_size, model.config.num_attention_heads, model.config.intermediate_size
        layer = nn.TransformerEncoderLayer(
            *sizes, activation="gelu", layer_norm_eps=model.config.layer_norm_eps, batch_first=True, norm_first=False
        )
        self.encoder = nn.TransformerEncoder(layer, model.config.num_hidden_layers, enable_nested_tensor=True).eval()
        for new, old in zip(self.encoder.layers, model.encoder.layer, strict=True):
            attention, (inner, after) = new.self_attn, (old.attention.self, old.attention.output)
            parts = [inner.query, inner.key, inner.value]
            attention.in_proj_weight.data = cat([part.weight.data for part in parts])
            attention.in_proj_bias.data = cat([part.bias.data for part in parts])
            pairs = [(attention.out_proj, after.dense), (new.norm1, after.LayerNorm)]
            pairs += [(new.linear1, old.intermediate.dense), (new.linear2, old.output.dense)]
            for theirs, ours in [*pairs, (new.norm2, old.output.LayerNorm)]:
                theirs.load_state_dict(ours.state_dict())
        model.encoder = None
        return model

    def forward(self, inputs: Any) -> Any:
        embedded = self.model.embeddings(inputs["input_ids"], inputs["token_type_ids"])
        states = self.encoder(embedded, src_key_padding_mask=inputs["attention_mask"] == 0)
        self.model.pooler(states)
        return states


class Reading(Torch):
    "minibert as its pages read it."

    def load(self, folder: Path) -> Any:
        from minibert.model import BertModel

        return BertModel.from_pretrained(folder).eval()


class Packed(Reading):
    "minibert without padding."

    def forward(self, inputs: Any) -> Any:
        return self.model.packed(**inputs).last_hidden_state


class Prepared(Packed):
    "The same with its weights prepared for the processor."

    def load(self, folder: Path) -> Any:
        return super().load(folder).prepare(self.dtype)


class OnnxRuntime(Engine):
    "The graph from torch, its attention, norms and GELU fused by ONNX Runtime's optimiser for BERT."

    saved = "model.onnx"

    @staticmethod
    def convert(folder: Path, target: Path, precision: str) -> None:
        import onnx
        import torch
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.transformers.optimizer import optimize_model

        model, example = example_of(folder, "eager")
        axes = {name: {0: "batch", 1: "seq"} for name in [*TENSORS, OUTPUTS[0]]} | {OUTPUTS[1]: {0: "batch"}}
        # torch's older exporter: in what the newer one writes, the optimiser does not find the attention.
        torch.onnx.export(
            model, tuple(example.values()), str(target), input_names=TENSORS, output_names=OUTPUTS,
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
        heads, hidden = model.config.num_attention_heads, model.config.hidden_size
        fused = optimize_model(str(target), "bert", num_heads=heads, hidden_size=hidden, opt_level=0)
        if fused.get_fused_operator_statistics()["Attention"] != model.config.num_hidden_layers:
            raise RuntimeError("the optimiser did not fuse the attention of every layer")
        fused.save_model_to_file(str(target))
        if precision == "int8":
            options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of what the fused operators give
            quantize_dynamic(target, target, per_channel=True, weight_type=QuantType.QInt8, extra_options=options)

    def __init__(self, folder: Path, precision: str, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs others compute
        self.session = onnxruntime.InferenceSession(folder / self.saved, options, providers=["CPUExecutionProvider"])

    def forward(self, inputs: Any) -> Any:
        return self.session.run(OUTPUTS, inputs)[0]


class OpenVino(Engine):
    "The graph from torch; int8 by its own compression of weights, with activations quantised as they come."

    saved = "model.xml"

    @staticmethod
    def convert(folder: Path, target: Path, precision: str) -> None:
        import openvino

        model, example = example_of(folder, "sdpa")
        graph = openvino.convert_model(model, example_input=example)
        if precision == "int8":
            import nncf

            graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(graph, target, compress_to_fp16=False)

    def __init__(self, folder: Path, precision: str, threads: int):
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.model = openvino.Core().compile_model(folder / self.saved, "CPU", options)

    def forward(self, inputs: Any) -> Any:
        return self.model(inputs, share_inputs=True, share_outputs=True)[OUTPUTS[0]]


class CTranslate2(Engine):
    "Takes lists of ids and packs them itself."

    saved = "model"

    @staticmethod
    def convert(folder: Path, target: Path, precision: str) -> None:
        from ctranslate2.converters import TransformersConverter

        class Converter(TransformersConverter):
            def load_model(self, model_class: Any, name: str, **_: Any) -> Any:  # without what 4.43.4 doesn't know
                return model_class.from_pretrained(name)

        Converter(str(folder)).convert(str(target))

    def __init__(self, folder: Path, precision: str, threads: int):
        import ctranslate2

        path = str(folder / self.saved)
        self.encoder = ctranslate2.Encoder(path, compute_type=precision, inter_threads=1, intra_threads=threads)

    def inputs(self, arrays: dict[str, np.ndarray]) -> Any:
        lengths = arrays["attention_mask"].sum(1)
        return [row[:length].tolist() for row, length in zip(arrays["input_ids"], lengths, strict=True)]

    def forward(self, inputs: Any) -> Any:
        return self.encoder.forward_batch(inputs).last_hidden_state


class Encode(Torch):
    "From sentences to vectors. The inputs are batches of sentences: one call of `encode` for each."

    def inputs(self, arrays: dict[str, np.ndarray]) -> Any:
        texts: list[str] = arrays["texts"].tolist()
        return [[text] for text in texts] if arrays["alone"] else [texts]

    def forward(self, inputs: Any) -> Any:
        return [self.model.encode(texts, batch_size=32) for texts in inputs]

    def vectors(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(part, np.float32) for part in self.forward(self.inputs(arrays))])


class SentenceTransformers(Encode):
    def load(self, folder: Path) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu").to(self.dtype)


class EncodePacked(Encode):
    def load(self, folder: Path) -> Any:
        from minibert.sentence import SentenceEncoder

        return SentenceEncoder.from_pretrained(folder)


class EncodePrepared(EncodePacked):
    def load(self, folder: Path) -> Any:
        encoder = super().load(folder)
        encoder.model.prepare(self.dtype)
        return encoder


class Entry(NamedTuple):
    "An engine in one precision, and where it runs."

    label: str
    precision: str
    environment: str  # a key of speed.PINS, or "" for that of speed.py itself
    forward: type[Engine] | None
    encode: type[Engine] | None = None


ENGINES = {
    "eager": Entry("transformers 4.43.4, eager", "float32", "", Eager),
    "sdpa": Entry("transformers 4.43.4, SDPA", "float32", "", Sdpa),
    "newest": Entry("transformers 5.24.0, SDPA", "float32", "new", Sdpa),
    "newest-bf16": Entry("transformers 5.24.0, SDPA", "bfloat16", "new", Sdpa),
    "fast-path": Entry("torch's TransformerEncoder", "float32", "", FastPath),
    "onnx": Entry("ONNX Runtime", "float32", "onnx", OnnxRuntime),
    "onnx-int8": Entry("ONNX Runtime", "int8", "onnx", OnnxRuntime),
    "openvino": Entry("OpenVINO", "float32", "openvino", OpenVino),
    "openvino-bf16": Entry("OpenVINO", "bfloat16", "openvino", OpenVino),
    "openvino-int8": Entry("OpenVINO", "int8", "openvino", OpenVino),
    "ct2": Entry("CTranslate2", "float32", "ct2", CTranslate2),
    "ct2-int8": Entry("CTranslate2", "int8", "ct2", CTranslate2),
    "st": Entry("sentence-transformers", "float32", "new", None, SentenceTransformers),
    "st-bf16": Entry("sentence-transformers", "bfloat16", "new", None, SentenceTransformers),
    "reading": Entry("minibert, as on its pages", "float32", "", Reading),
    "packed": Entry("minibert, packed", "float32", "", Packed, EncodePacked),
    "prepared": Entry("minibert, prepared", "float32", "", Prepared, EncodePrepared),
    "prepared-bf16": Entry("minibert, prepared", "bfloat16", "", Prepared, EncodePrepared),
    "prepared-int8": Entry("minibert, prepared", "int8", "", Prepared, EncodePrepared),
}


def example_of(folder: Path, attention: str) -> tuple[Any, dict[str, Any]]:
    "A model of transformers to convert, and a padded batch of two texts."
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, attn_implementation=attention).eval()
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    return model, dict(zip(TENSORS, [torch.arange(1, 17).view(2, 8), mask, torch.zeros_like(mask)], strict=True))


def versions() -> dict[str, str]:
    "Of the packages that stand in this environment."
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def work(engine: Engine) -> None:
    "Answer the lines of standard input, until it ends."
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    print(json.dumps({"versions": versions()}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        arrays = dict(np.load(asked["inputs"]))
        if asked["save"]:
            np.save(asked["save"], engine.vectors(arrays))
        inputs = engine.inputs(arrays)
        if asked["repeats"] > 1:
            engine.forward(inputs)  # others have used the caches since
        start = time.perf_counter()
        for _ in range(asked["repeats"]):
            engine.forward(inputs)
        seconds = (time.perf_counter() - start) / asked["repeats"]
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


def main() -> None:
    task, name, folder, last = sys.argv[1:]
    entry = ENGINES[name]
    kind: Any = entry.encode if task == "encode" else entry.forward
    if task == "convert":
        kind.convert(Path(folder), Path(last), entry.precision)
    else:
        work(kind(Path(folder), entry.precision, int(last)))


if __name__ == "__main__":
    main()
