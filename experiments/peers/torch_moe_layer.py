#!/usr/bin/env python3
"""Times PyTorch on one MoE layer on a GPU: router in fp32, softmax, top-k, balance loss 0.01, expert MLPs with GELU, no biases, all bf16.

Its one idea: the peer at its best. Two forms: `capacity` (a stable sort, a gather into (E, C, D), two batched products) and `dropless` (a stable
sort, torch's grouped product); each eager, in a CUDA graph, and compiled inside a graph. Weights are stored (E, in, out), so that the products
read them as they are and their gradients come out contiguous. Rulers: the dense MLP of equal FLOPs, and the batched products alone. Forward
and forward+backward with gradients for the input and all weights, written fresh each time. One JSON object a row.

  python3 torch_moe_layer.py --d 1024 --experts 32 --capacity 1.0
  python3 torch_moe_layer.py --d 1024 --experts 128 --forms dropless --runs compile
"""

import argparse
import json
import math
import statistics

import torch
import torch.nn.functional as F

FORMS, RUNS = ("capacity", "dropless", "dense", "products"), ("eager", "graph", "compile")


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(tokens=16384, d=1024, experts=32, top_k=1, hidden=0, steps=50, warmup=10, seed=1).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    p.add_argument("--capacity", type=float, default=1.0, help="capacity factor of the capacity form")
    p.add_argument("--skew", choices=("uniform", "zipf", "one"), default="uniform")
    p.add_argument("--forms", nargs="+", choices=FORMS, default=["capacity", "dropless", "dense"])
    p.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    return p.parse_args()


def skewed(args):
    """Tokens and router weights: random, or tokens that carry the expert they want in a feature that its router row reads."""
    make = dict(device="cuda", dtype=torch.float32)
    x = torch.randn(args.tokens, args.d, **make)
    router = torch.randn(args.experts, args.d, **make) * 0.02
    if args.skew != "uniform":
        share = torch.arange(1, args.experts + 1, **make).reciprocal()
        want = torch.multinomial(share, args.tokens, replacement=True) if args.skew == "zipf" else torch.zeros(args.tokens, device="cuda", dtype=torch.long)
        x[torch.arange(args.tokens, device="cuda"), want] += 50
        router = torch.eye(args.experts, args.d, **make)
    return x.bfloat16(), router


class Layer(torch.nn.Module):
    def __init__(self, args, router):
        super().__init__()
        self.experts, self.top_k = args.experts, args.top_k
        hidden = args.hidden or 4 * args.d
        place = math.ceil(args.tokens * args.top_k / args.experts * args.capacity)
        self.room = min(place, args.tokens)
        make = dict(device="cuda", dtype=torch.bfloat16)
        self.router = torch.nn.Parameter(router)                                                  # (E, D) f32
        self.up = torch.nn.Parameter(torch.randn(args.experts, args.d, hidden, **make) * 0.02)    # (E, D, F)
        self.down = torch.nn.Parameter(torch.randn(args.experts, hidden, args.d, **make) * 0.02)  # (E, F, D)

    def route(self, x):
        """-> weights (N k), experts (N k) and the balance loss"""
        p = F.linear(x.float(), self.router).softmax(-1)
        weight, chosen = p.topk(self.top_k, dim=-1)
        first = torch.zeros(self.experts, device=x.device).scatter_add_(0, chosen[:, 0], torch.ones_like(chosen[:, 0], dtype=torch.float32))
        balance = self.experts * (p.mean(0) * (first / x.shape[0])).sum()
        return weight.flatten(), chosen.flatten(), balance

    def sort(self, chosen):
        """-> order of the choices by expert, where each expert starts (E + 1)"""
        sorted_experts, order = chosen.sort(stable=True)
        starts = torch.searchsorted(sorted_experts, torch.arange(self.experts + 1, device=chosen.device))
        return sorted_experts, order, starts


class Capacity(Layer):
    def forward(self, x):
        weight, chosen, balance = self.route(x)
        sorted_experts, order, starts = self.sort(chosen)
        place = torch.arange(order.numel(), device=x.device) - starts[sorted_experts]
        slot_sorted = torch.where(place < self.room, sorted_experts * self.room + place, self.experts * self.room)
        slot = torch.empty_like(order).scatter_(0, order, slot_sorted)                            # (N k): E C = dropped
        token = torch.full((self.experts * self.room + 1,), x.shape[0], device=x.device).scatter_(0, slot_sorted, order // self.top_k)[:-1]
        rows = F.pad(x, (0, 0, 0, 1)).index_select(0, token).view(self.experts, self.room, -1)    # empty slots read a row of zeros
        out = torch.bmm(F.gelu(torch.bmm(rows, self.up), approximate="tanh"), self.down)
        out = F.pad(out.flatten(0, 1), (0, 0, 0, 1)).index_select(0, slot) * weight.to(x.dtype)[:, None]
        return out.view(x.shape[0], self.top_k, -1).sum(1) if self.top_k > 1 else out, balance


class Dropless(Layer):
    def forward(self, x):
        weight, chosen, balance = self.route(x)
        _, order, starts = self.sort(chosen)
        ends = starts[1:].to(torch.int32)
        rows = x.index_select(0, order // self.top_k)
        hidden = F.gelu(torch._grouped_mm(rows, self.up, offs=ends), approximate="tanh")
        out = torch._grouped_mm(hidden, self.down, offs=ends)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
        out = out.index_select(0, back) * weight.to(x.dtype)[:, None]
        return out.view(x.shape[0], self.top_k, -1).sum(1) if self.top_k > 1 else out, balance


class Dense(torch.nn.Module):
    """The ruler: an MLP of the FLOPs that a token's experts cost."""

    def __init__(self, args, _):
        super().__init__()
        hidden, make = (args.hidden or 4 * args.d) * args.top_k, dict(device="cuda", dtype=torch.bfloat16)
        self.up = torch.nn.Parameter(torch.randn(hidden, args.d, **make) * 0.02)
        self.down = torch.nn.Parameter(torch.randn(args.d, hidden, **make) * 0.02)

    def forward(self, x):
        return F.linear(F.gelu(F.linear(x, self.up), approximate="tanh"), self.down), x.new_zeros(())


class Products(Layer):
    """The ruler: the two batched products and GELU, tokens already in place."""

    def forward(self, x):
        rows = x.repeat(self.top_k, 1) if self.top_k > 1 else x
        each = rows.shape[0] // self.experts
        rows = rows[:each * self.experts].view(self.experts, each, -1)
        out = torch.bmm(F.gelu(torch.bmm(rows, self.up), approximate="tanh"), self.down)
        return out.flatten(0, 1)[:x.shape[0]], x.new_zeros(())


def median_ms(call, args):
    for _ in range(args.warmup):
        call()
    times = []
    for _ in range(args.steps):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(s.elapsed_time(e) for s, e in times)


def captured(call):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(form, run, args, x, router):
    torch.manual_seed(args.seed)
    layer = dict(capacity=Capacity, dropless=Dropless, dense=Dense, products=Products)[form](args, router)
    step = torch.compile(layer) if run == "compile" else layer
    x = x.detach().requires_grad_()
    dy = torch.randn_like(x)

    def forward():
        with torch.no_grad():
            step(x)

    def both():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y, balance = step(x)
        torch.autograd.backward([y, balance] if balance.requires_grad else [y], [dy[:y.shape[0]], balance.new_full((), 0.01)] if balance.requires_grad else [dy[:y.shape[0]]])

    calls = [forward, both]
    if run != "eager":
        calls = [captured(c) for c in calls]
    fwd, fwd_bwd = (median_ms(c, args) for c in calls)
    flops = 12 * args.tokens * args.top_k * args.d * (args.hidden or 4 * args.d)
    return dict(peer="torch", form=form, run=run, d=args.d, experts=args.experts, top_k=args.top_k, tokens=args.tokens, skew=args.skew,
                capacity=args.capacity if form == "capacity" else 0, fwd_ms=round(fwd, 4), fwd_bwd_ms=round(fwd_bwd, 4),
                tflops=round(flops / fwd_bwd * 1e-9, 1), version=torch.__version__)


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    x, router = skewed(args)
    for form in args.forms:
        for run in args.runs:
            torch.compiler.reset()
            try:
                print(json.dumps(measure(form, run, args, x, router)), flush=True)
            except Exception as error:  # a form that this version of torch cannot run is a row, not the end
                print(json.dumps(dict(peer="torch", form=form, run=run, error=str(error).splitlines()[0][:200])), flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
