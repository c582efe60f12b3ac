#!/usr/bin/env python3
"""Times PyTorch's best whole training step on a GPU: forward, backward and AdamW of a GPT, dense or with experts in every other block.

Its one idea: the strongest plain-PyTorch choices we know of. Dense: float32 parameters under bf16 autocast. Experts: everything in
bf16, capacity 1.0, sorted into [E, C, D], batched GEMM with weights stored so that their gradients come out contiguous. torch.compile,
cuDNN attention, fused AdamW, random tokens. Prints one JSON object a line, medians of CUDA-event times.

  python3 torch_gpu_step.py 124m:32 350m:16 1.3b:16        # MODEL:BATCH, sequences of 1024
  python3 torch_gpu_step.py 350m_moe32:16 350m_pr_moe:16 --eager
"""

import argparse
import contextlib
import gc
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

VOCAB, LENGTH = 50304, 1024
# layers, dim, heads, experts of every odd block (empty = dense), residual
MODELS = {
    "124m": (12, 768, 12, [], False),
    "350m": (24, 1024, 16, [], False),
    "1.3b": (24, 2048, 16, [], False),
    "350m_moe32": (24, 1024, 16, [32] * 12, False),
    "350m_pr_moe": (24, 1024, 16, [32] * 10 + [64] * 2, True),
}


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh")), x.new_zeros((), dtype=torch.float32)


class CapacityMoe(nn.Module):
    """Top-1 experts with capacity 1.0 of the whole batch; a dropped token passes by unchanged."""

    def __init__(self, dim, experts, residual):
        super().__init__()
        self.experts = experts
        self.router = nn.Linear(dim, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, dim, 4 * dim))
        self.down = nn.Parameter(torch.empty(experts, 4 * dim, dim))
        self.mlp = Mlp(dim) if residual else None

    def forward(self, x):
        b, t, d = x.shape
        n, e = b * t, self.experts
        capacity = n // e
        flat = x.reshape(n, d)
        p = F.linear(flat.float(), self.router.weight.float()).softmax(-1)
        weight, chosen = p.max(-1)
        order = chosen.argsort(stable=True)
        count = F.one_hot(chosen, e).sum(0)
        begin = count.cumsum(0) - count
        place = torch.empty_like(order).scatter_(0, order, torch.arange(n, device=x.device)) - begin[chosen]
        kept = place < capacity
        slot = torch.where(kept, chosen * capacity + place, e * capacity)
        token = torch.full((e * capacity + 1,), n, device=x.device).scatter_(0, slot, torch.arange(n, device=x.device))
        padded = torch.cat([flat, flat.new_zeros(1, d)])
        rows = padded[token[:-1]].view(e, capacity, d)
        rows = torch.bmm(F.gelu(torch.bmm(rows, self.up), approximate="tanh"), self.down).view(-1, d)
        rows = torch.cat([rows, rows.new_zeros(1, d)])
        y = rows[slot] * weight.to(x.dtype)[:, None]
        balance = e * (p.mean(0) * (count / n)).sum()
        if self.mlp is not None:
            y = y + self.mlp(flat)[0]
        return y.view(b, t, d), balance


class Block(nn.Module):
    def __init__(self, dim, heads, experts, residual):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ffn = CapacityMoe(dim, experts, residual) if experts else Mlp(dim)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        y, balance = self.ffn(self.norm2(x))
        return x + y, balance


class Gpt(nn.Module):
    def __init__(self, layers, dim, heads, experts, residual):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, dim), nn.Embedding(LENGTH, dim)
        plan = [experts[i // 2] if experts and i % 2 else 0 for i in range(layers)]
        self.blocks = nn.ModuleList(Block(dim, heads, e, residual) for e in plan)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        balance = 0.0
        for block in self.blocks:
            x, more = block(x)
            balance = balance + more
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.float().view(-1, VOCAB), targets.view(-1)) + 0.01 * balance


def initialise(model):
    for name, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


def measure(name, batch, args):
    experts = MODELS[name][3]
    dtype = torch.bfloat16 if experts else torch.float32
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = Gpt(*MODELS[name]).to(dtype)
        initialise(model)
        tokens, targets = torch.randint(VOCAB, (2, batch, LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run = model if args.eager else torch.compile(model)
    mixed = contextlib.nullcontext() if experts else torch.autocast("cuda", torch.bfloat16)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with mixed, sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):
            loss = run(tokens, targets)
        loss.backward()
        optimizer.step()
        return loss

    begin = time.perf_counter()
    for _ in range(args.warmup):
        loss = step()
    torch.cuda.synchronize()
    ready = time.perf_counter() - begin
    torch.cuda.reset_peak_memory_stats()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(args.steps + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    ms = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
    median = statistics.median(ms)
    print(json.dumps({
        "peer": "PyTorch " + torch.__version__, "model": name, "batch": batch, "mode": "eager" if args.eager else "compile",
        "optimizer_bytes_per_param": 14 if experts else 28, "step_ms": round(median, 2), "step_ms_min": round(min(ms), 2),
        "tokens_per_s": round(batch * LENGTH / median * 1e3), "peak_bytes": torch.cuda.max_memory_allocated(),
        "params": sum(p.numel() for p in model.parameters()), "loss": round(loss.item(), 3), "warmup_s": round(ready, 1)}))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("rows", nargs="+", help=f"MODEL:BATCH, a model of {', '.join(MODELS)}")
    p.add_argument("--eager", action="store_true")
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=12)
    args = p.parse_args()
    torch.set_float32_matmul_precision("high")
    for row in args.rows:
        name, _, batch = row.partition(":")
        measure(name, int(batch or 16), args)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
