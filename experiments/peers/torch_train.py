#!/usr/bin/env python3
"""Times PyTorch on the model of torch_gpt.py: training steps (dense or MoE) and greedy decoding with a KV cache.

Its one idea: give the peer its best. `--mode best` measures eager and compiled code, and for MoE each form of the experts, every one
in a fresh process, and reports the fastest; the rest stay in the output. Prints one JSON object. docs/benchmarks.md explains the fields.

  python3 torch_train.py --layers 6 --dim 384 --heads 6 --context 256 --batch 16 --mode best
  python3 torch_train.py --layers 6 --dim 384 --heads 6 --context 256 --batch 16 --experts 32 --top-k 1 --mode best
  python3 torch_train.py --layers 6 --dim 384 --heads 6 --context 256 --batch 1 --mode decode
"""

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch

from torch_gpt import FORMS, Gpt, gemm_flops_per_step


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(layers=6, dim=384, heads=6, context=256, batch=16, vocab=8192).items():
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--experts", type=int, default=0, help="experts in every layer; 0 = dense")
    p.add_argument("--top-k", type=int, default=1)
    p.add_argument("--form", choices=FORMS, default="sorted", help="how experts run (one process, not --mode best)")
    p.add_argument("--mode", choices=("eager", "compile", "best", "decode", "machine"), default="best")
    p.add_argument("--decode-with", choices=("eager", "compile", "freeze", "best"), default="best")
    p.add_argument("--adamw", choices=("fused", "foreach"), default="fused")
    p.add_argument("--steps", type=int, default=5, help="timed steps; the median counts")
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--no-machine", action="store_true", help="leave out the GEMM and read speed of this machine")
    return p.parse_args()


# --- the machine ------------------------------------------------------------------------------------------------------

def status_bytes(key):
    """VmRSS or VmHWM of this process."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key + ":"))


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
        return True
    except OSError:
        return False


def best_seconds(f, budget=1.0):
    f()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        begin = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - begin)
    return best


def gemm_gflops(threads):
    """Best of square f32 products, GF/s over `threads` threads."""
    torch.set_num_threads(threads)
    best = 0.0
    for n in (1024, 1536, 2048):
        a, b, c = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        best = max(best, 2 * n ** 3 / best_seconds(lambda: torch.mm(a, b, out=c)) / 1e9)
    return best


def read_gbs(threads):
    """Read bandwidth: the sum of 512 MiB, far larger than any cache."""
    torch.set_num_threads(threads)
    x = torch.ones(128 << 20)
    return x.numel() * 4 / best_seconds(x.sum) / 1e9


def machine(threads):
    return {"gemm_gflops": gemm_gflops(threads), "gemm_gflops_1_thread": gemm_gflops(1), "read_gbs": read_gbs(threads)}


# --- training ---------------------------------------------------------------------------------------------------------

def make_optimizer(model, kind):
    decay = [p for n, p in model.named_parameters() if p.dim() > 1 and "bias" not in n]
    plain = [p for n, p in model.named_parameters() if p.dim() == 1 or "bias" in n]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), **{kind: True})


def time_training(args, baseline):
    torch.manual_seed(1)
    model = Gpt(args, args.form)
    optimizer = make_optimizer(model, args.adamw)
    run = torch.compile(model, dynamic=False) if args.mode == "compile" else model
    batches = [torch.randint(args.vocab, (2, args.batch, args.context)) for _ in range(args.warmup + args.steps)]
    seconds, exact = [], False
    for i, (tokens, targets) in enumerate(batches):
        if i == args.warmup:
            gc.collect()
            exact = reset_peak()
            wall, cpu = time.perf_counter(), time.process_time()
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        seconds.append(time.perf_counter() - begin)
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall) / args.threads
    step = statistics.median(seconds[args.warmup:])
    out = {"tokens_per_s": args.batch * args.context / step, "step_ms": step * 1e3,
           "step_ms_min": min(seconds[args.warmup:]) * 1e3, "cpu_share": busy, "loss": value,
           "gemm_gflops_in_step": gemm_flops_per_step(args) / step / 1e9,
           "params": sum(p.numel() for p in model.parameters())}
    if exact:
        out["peak_bytes_steps"] = status_bytes("VmHWM") - baseline
    return out


# --- decoding ---------------------------------------------------------------------------------------------------------

def time_decoding(args):
    """ms a token with `context` cache entries read: the last position is decoded again and again, each time a new token."""
    torch.manual_seed(1)
    model = Gpt(args, args.form).eval()
    shape = (2, args.batch, args.heads, args.context, args.dim // args.heads)
    caches = [torch.randn(shape) for _ in range(args.layers)]
    step, position = model.decode, args.context - 1
    if args.decode_with != "eager":
        import torch._inductor.config as inductor
        inductor.freezing = args.decode_with == "freeze"
        step, position = torch.compile(model.decode, dynamic=False), torch.tensor([args.context - 1])
    token, seconds = torch.zeros(args.batch, 1, dtype=torch.long), []
    with torch.no_grad():
        for _ in range(10 * args.warmup + 20 * args.steps):
            begin = time.perf_counter()
            token = step(token, caches, position)
            token[0, 0].item()
            seconds.append(time.perf_counter() - begin)
    ms = statistics.median(seconds[10 * args.warmup:]) * 1e3
    dense = [p for n, p in model.named_parameters() if ".each." not in n and "positions" not in n]
    experts = sum(p.numel() for n, p in model.named_parameters() if ".each." in n)
    active = experts // max(args.experts, 1) * min(args.experts, args.top_k * args.batch)   # at most
    bytes_read = 4 * (sum(p.numel() for p in dense) + active + sum(c.numel() for c in caches))
    return {"ms_per_token": ms, "bytes_read": bytes_read, "read_gbs_in_step": bytes_read / ms / 1e6}


# --- choosing the best ------------------------------------------------------------------------------------------------

def variants(args):
    if args.mode == "decode":
        return [["--decode-with", w] for w in (("eager",) if args.experts else ("eager", "compile", "freeze"))]
    return [["--mode", m] + (["--form", f] if args.experts else [])
            for f in (FORMS if args.experts else (None,)) for m in ("eager", "compile")]


def best(args):
    """Runs each variant in its own process; a variant that fails is reported with its error, not hidden."""
    tried = {}
    for extra in variants(args):
        command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--no-machine", *extra]
        done = subprocess.run(command, capture_output=True, text=True)
        name = " ".join(extra[1::2])
        tried[name] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()[-300:]}
        print(f"{name}: {tried[name].get('step_ms') or tried[name].get('ms_per_token') or 'failed'}", file=sys.stderr)
    speed = {n: r.get("tokens_per_s") or 1 / r["ms_per_token"] for n, r in tried.items() if "error" not in r}
    if not speed:
        sys.exit(f"every variant failed: {tried}")
    winner = max(speed, key=speed.get)
    return {"best": winner, **tried[winner], "tried": tried}


def main():
    baseline = status_bytes("VmRSS")          # Python with torch imported, nothing allocated
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.mode == "machine":
        out = {}
    elif args.mode == "best" or (args.mode == "decode" and args.decode_with == "best"):
        out = best(args)
    else:
        out = time_decoding(args) if args.mode == "decode" else time_training(args, baseline)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        out |= {"mode": args.mode, "peak_bytes": peak, "peak_bytes_beyond_import": peak - baseline,
                "torch": torch.__version__, "threads": args.threads}
    if not args.no_machine:
        out |= machine(args.threads)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
