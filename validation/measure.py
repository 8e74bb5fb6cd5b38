"""Run real steps on a GPU and write what they took: the rows that accuracy is read from.

    uv run --with torch --with transformers --with peft --with bitsandbytes validation/measure.py [NAME...]
        [--out FILE] [--list]

A case is a request of this service that torch and transformers can carry out. Each runs in a process of its own, on a
bundled model with random weights made from its configuration: a few whole training steps, or a prefill and decode
steps. Of each, three rows are written: what torch's allocator handed out at most, what it reserved, and what the
driver shows, in the form that `validation/compare.py` reads. Without names every case of the plan runs that the
card's memory lets run; a case that does not fit is reported and leaves no row.

Needs an NVIDIA GPU that nothing else uses. Torch and transformers are wanted for these runs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calculator.library import library

MEASURED = Path(__file__).resolve().parent / "measured.jsonl"
STEPS = 3  # optimizer states exist from the first on; the last is measured
DECODED = 3
NEED = "uv run --with torch --with transformers --with peft --with bitsandbytes validation/measure.py"


@dataclass(frozen=True, slots=True)
class Case:
    """One run: the endpoint and the request it measures."""

    name: str
    endpoint: str
    request: dict[str, Any] = field(hash=False)


def training_case(model: str, batch: int, length: int, label: str, **fields: Any) -> Case:
    """A training step in the recipe `label`."""
    request = {"model_name": model, "batch_size": batch, "sequence_length": length, **fields}
    return Case(f"{model}-b{batch}-s{length}-{label}".lower(), "/api/memory/training", request)


def inference_case(model: str, batch: int, length: int, precision: str = "bfloat16") -> Case:
    """A prefill of the whole context, and decode steps after it."""
    request = {
        "model_name": model,
        "batch_size": batch,
        "sequence_length": length,
        "precision": precision,
        "engine": "transformers",
    }
    return Case(f"{model}-b{batch}-s{length}-{precision}-inference".lower(), "/api/memory/inference", request)


PURE = {"precision": "bfloat16", "mixed_precision": "none"}
MIXED = {"precision": "float32", "mixed_precision": "autocast"}
CHECKPOINTED = {"gradient_checkpointing": "full"}
LORA = {"method": "lora", "lora": {"rank": 16, "target_modules": "all-linear"}, **PURE}
QLORA = {"method": "qlora", "quantization": "bnb-nf4-dq", "lora": {"rank": 16, "target_modules": "all-linear"}, **PURE}


def plan() -> Iterator[Case]:
    """A spread over sizes, recipes, checkpointing, adapters, prefill and decode: small to large."""
    for model, batch in (("Qwen3-0.6B", 8), ("Llama-3.2-1B", 4), ("Qwen3-1.7B", 4), ("Llama-3.2-3B", 2)):
        yield training_case(model, batch, 2048, "pure", **PURE)
        yield training_case(model, batch, 2048, "pure-checkpointed", **PURE, **CHECKPOINTED)
        yield training_case(model, batch, 2048, "autocast-checkpointed", **MIXED, **CHECKPOINTED)
        yield training_case(model, batch, 2048, "fused-adamw", optimizer_implementation="fused", **PURE)
    yield training_case("Qwen3-0.6B", 8, 1024, "float32", precision="float32", mixed_precision="none")
    yield training_case("Qwen3-0.6B", 4, 1024, "eager", attention="eager", **PURE)
    yield training_case("Llama-3.2-1B", 4, 2048, "sgd", optimizer="SGD", **PURE)
    yield training_case("Llama-3.2-1B", 4, 2048, "adamw-8bit", optimizer="Quantized AdamW", **PURE)
    for model, batch in (("Llama-3.2-3B", 4), ("Llama-3.1-8B", 2), ("Qwen3-8B", 2), ("Qwen3-14B", 1)):
        yield training_case(model, batch, 2048, "lora", **LORA)
        yield training_case(model, batch, 2048, "lora-checkpointed", **LORA, **CHECKPOINTED)
        yield training_case(model, batch, 2048, "qlora-checkpointed", **QLORA, **CHECKPOINTED)
    for model in ("Qwen3-0.6B", "Llama-3.2-3B", "Llama-3.1-8B", "Qwen3-14B"):
        yield inference_case(model, 1, 8192)
        yield inference_case(model, 16, 2048)


# ------------------------------------------------------------------------------------------------ one run


def run(case: Case) -> dict[str, Any]:
    """Carry the case out in this process; raises what torch raises."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: measuring needs an NVIDIA GPU")
    measure = _inference if case.endpoint.endswith("inference") else _training
    return {**measure(torch, case.request), **_environment(torch)}


def _environment(torch: Any) -> dict[str, Any]:
    import transformers

    free, total = torch.cuda.mem_get_info()
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_memory": total,
        "driver": total - free,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _built(torch: Any, request: dict[str, Any], dtype: str, quantize: bool = False) -> Any:
    """The model class of a bundled configuration with random weights, on the GPU."""
    from transformers import AutoConfig, AutoModelForCausalLM

    entry, _ = library().get(request["model_name"])
    values = dict(entry.model.config)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    attention = {"flash": "flash_attention_2"}.get(request.get("attention", "sdpa"), request.get("attention", "sdpa"))
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    torch.set_default_dtype(kind)
    try:
        with torch.device("cpu" if quantize else "cuda"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(torch.float32)
    return _packed(torch, model, request) if quantize else model.to(kind)


def _packed(torch: Any, model: Any, request: dict[str, Any]) -> Any:
    """Every linear layer but the head in bitsandbytes' 4 bits."""
    import bitsandbytes

    double = request.get("quantization", "bnb-nf4-dq") == "bnb-nf4-dq"
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name.endswith("lm_head"):
            continue
        made = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=module.weight.dtype,
            compress_statistics=double,
            quant_type="nf4",
        )
        made.weight = bitsandbytes.nn.Params4bit(
            module.weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4"
        )
        if module.bias is not None:
            made.bias = module.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, made)
    return model.to("cuda")


def _optimizer(torch: Any, request: dict[str, Any], parameters: list[Any]) -> Any:
    name, how = request.get("optimizer", "AdamW"), request.get("optimizer_implementation", "foreach")
    if name == "Quantized AdamW":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters)
    flags = {"fused": how == "fused", "foreach": how == "foreach"}
    if name == "AdamW":
        return torch.optim.AdamW(parameters, **flags)
    if name == "SGD":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, **flags)
    raise SystemExit(f"measuring knows AdamW, Quantized AdamW and SGD, not {name}")


def _training(torch: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Whole steps as a training loop makes them: forward, backward, step, gradients dropped."""
    method = request.get("method", "full")
    model = _built(torch, request, request["precision"], quantize=method == "qlora")
    if method != "full":
        from peft import LoraConfig, get_peft_model

        lora = request["lora"]
        model.enable_input_require_grads()
        config = LoraConfig(r=lora["rank"], target_modules=lora["target_modules"], lora_dropout=0.0)
        model = get_peft_model(model, config)
    if request.get("gradient_checkpointing") == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = _optimizer(torch, request, trained)
    size = (request["batch_size"], request["sequence_length"])
    ids = torch.randint(0, model.config.vocab_size, size, device="cuda")
    autocast = request.get("mixed_precision") == "autocast"
    for _ in range(STEPS):
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del loss
    torch.cuda.synchronize()
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "trained": sum(each.numel() for each in trained),
    }


def _inference(torch: Any, request: dict[str, Any]) -> dict[str, Any]:
    """A prefill with the logits of its last position, then tokens one at a time."""
    model = _built(torch, request, request["precision"]).eval()
    size = (request["batch_size"], request["sequence_length"])
    ids = torch.randint(0, model.config.vocab_size, size, device="cuda")
    with torch.no_grad():
        torch.cuda.reset_peak_memory_stats()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        prefill = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        del out
        for _ in range(DECODED):
            token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    torch.cuda.synchronize()
    decode = torch.cuda.max_memory_allocated()
    return {
        "allocated": max(prefill, decode),
        "reserved": torch.cuda.max_memory_reserved(),
        "prefill": prefill,
        "decode": decode,
    }


# ------------------------------------------------------------------------------------------------ rows


def rows(case: Case, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one run: allocated, reserved, driver."""
    total = "inference_memory" if case.endpoint.endswith("inference") else "training_memory"
    gpu = figures["gpu"]
    source = f"validation/measure.py: torch {figures['torch']}, transformers {figures['transformers']}, {gpu}"
    expect: dict[str, Any] = {f"memory_bytes.{total}": figures["allocated"]}
    expect |= {f"phases.{name}": figures[name] for name in ("prefill", "decode") if name in figures}
    told = {
        "torch allocated": (case.request, expect),
        "torch reserved": (case.request, {f"memory_bytes.{total}": figures["reserved"]}),
        "driver": (
            {**case.request, "gpu_memory_gib": round(figures["gpu_memory"] / 2**30, 3)},
            {"fit.used_gib": round(figures["driver"] / 2**30, 4)},
        ),
    }
    return [
        {
            "id": f"{case.name}#{metric.split()[-1]}",
            "family": "measured here",
            "source": source,
            "endpoint": case.endpoint,
            "request": request,
            "expect": wanted,
            "metric": metric,
            "quality": "high" if metric == "torch allocated" else "medium",
        }
        for metric, (request, wanted) in told.items()
    ]


def written(path: Path, made: list[dict[str, Any]]) -> None:
    """Put rows into the file in place of those with the same id; others stay as they are."""
    kept: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                kept[json.loads(line)["id"]] = line
    kept |= {row["id"]: json.dumps(row, separators=(",", ":")) for row in made}
    path.write_text("".join(line + "\n" for line in kept.values()), encoding="utf-8")


Runner = Callable[[Case], dict[str, Any]]


def apart(case: Case) -> dict[str, Any]:
    """The case in a process of its own, so that nothing of another run is on the card."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps([case.name, case.endpoint, case.request])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RuntimeError(lines[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def chosen(names: list[str]) -> list[Case]:
    """The cases of the plan whose name holds one of the words; all without words. Raises SystemExit if none does."""
    every = list(plan())
    found = [case for case in every if not names or any(name.lower() in case.name for name in names)]
    if not found:
        raise SystemExit(f"no case is called {' or '.join(names)}; --list shows the {len(every)} there are")
    return found


def main(arguments: list[str] | None = None, runner: Runner = apart, out: TextIO = sys.stdout) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases whose name holds this word; all if absent")
    parser.add_argument("--out", type=Path, default=MEASURED, help="file the rows go to (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(run(Case(*json.loads(options.one)))), file=out)
        return 0
    cases = chosen(options.names)
    if options.list:
        for case in cases:
            print(case.name, file=out)
        return 0
    failed = 0
    for case in cases:
        try:
            figures = runner(case)
        except RuntimeError as fault:
            failed += 1
            print(f"{case.name}: {fault}", file=out)
            if "No module named" in str(fault):
                print(f"run it as: {NEED}", file=out)
                return 2
            continue
        written(options.out, rows(case, figures))
        print(f"{case.name}: {figures['allocated'] / 2**30:.2f} GiB allocated", file=out)
    return 1 if failed == len(cases) else 0


if __name__ == "__main__":
    sys.exit(main())
