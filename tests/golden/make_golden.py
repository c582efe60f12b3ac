#!/usr/bin/env python3
"""Records golden training steps: every model family, three optimizer steps in f64 by PyTorch on one CPU thread.

Its one idea: the model is written here a second time, as plainly as possible and by other means than the C++ code
(autograd of PyTorch, a loop over experts, torch.optim.AdamW), so that equal numbers mean that both are right.
The files it writes are read by the tests; README.md beside it states format and formulas.

  pip install torch && python3 tests/golden/make_golden.py            # rewrites all files
  python3 tests/golden/make_golden.py --check                         # writes nothing, compares with the files
"""

import argparse
import json
import math
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
STEPS, BATCH, CONTEXT, VOCAB = 3, 3, 12, 29
LR, BETAS, EPS, DECAY, CLIP, BALANCE = 1e-2, (0.9, 0.95), 1e-8, 0.1, 1.0, 0.01
KD_TEMPERATURE, KD_BETA = 2.0, 1.0


def config(dim, experts, **moe):
    """A config: key -> value, in the keys of our TOML files. `experts` has one entry a layer, 0 = dense."""
    keys = {"model.layers": len(experts), "model.dim": dim, "model.heads": 2,
            "model.context": CONTEXT, "model.vocab": VOCAB}
    if any(experts):
        keys |= {"moe.experts": " ".join(map(str, experts)), "moe.top_k": 1, "moe.hidden": 0, "moe.group": 1,
                 "moe.capacity_factor": 0.0, "moe.min_capacity": 1, "moe.renormalize": False,
                 "moe.residual": False, "moe.residual_mix": "sum", "moe.balance_coef": BALANCE}
        keys |= {"moe." + name: value for name, value in moe.items()}
    return keys


PR = dict(residual=True)
FAMILIES = {  # name -> (config, config of the teacher or None, seed)
    "dense": (config(16, [0, 0]), None, 1),
    "moe_top1": (config(12, [0, 4]), None, 2),
    "moe_top2": (config(12, [0, 4], top_k=2, renormalize=True), None, 3),
    "moe_top1_capacity": (config(12, [4, 3], capacity_factor=1.0), None, 4),
    "moe_top2_capacity": (config(12, [0, 4], top_k=2, renormalize=True, capacity_factor=0.75, hidden=20), None, 5),
    "pr_moe_sum": (config(8, [0, 4, 0, 8], **PR), None, 6),
    "pr_moe_learned": (config(8, [0, 4, 0, 8], residual_mix="learned", **PR), None, 7),
    "mos": (config(8, [0, 2, 4], **PR), config(8, [0, 2, 0, 4], **PR), 8),
}


# --- parameters -------------------------------------------------------------------------------------------------------

def layer_experts(cfg):
    return [int(e) for e in cfg.get("moe.experts", " ".join(["0"] * cfg["model.layers"])).split()]


def expert_hidden(cfg):
    return cfg.get("moe.hidden", 0) or 4 * cfg["model.dim"]


def parameter_shapes(cfg):
    """Name -> shape, in declaration order. A linear weight is (out, in): y = x W^T + b."""
    d, shapes = cfg["model.dim"], {}

    def linear(name, *lead_out_in):
        *lead, out, inner = lead_out_in
        shapes[name + ".weight"] = (*lead, out, inner)
        shapes[name + ".bias"] = (*lead, out)

    def norm(name):
        shapes[name + ".weight"] = shapes[name + ".bias"] = (d,)

    shapes["embed.tokens"] = (VOCAB, d)
    shapes["embed.positions"] = (CONTEXT, d)
    for i, experts in enumerate(layer_experts(cfg)):
        block = f"blocks.{i}."
        norm(block + "norm1")
        linear(block + "attention.qkv", 3, d, d)
        linear(block + "attention.out", d, d)
        norm(block + "norm2")
        ffn = block + "ffn."
        if experts == 0:
            linear(ffn + "up", 4 * d, d)
            linear(ffn + "down", d, 4 * d)
            continue
        f, residual = expert_hidden(cfg), cfg["moe.residual"]
        moe = ffn + "moe." if residual else ffn
        shapes[moe + "router.weight"] = (experts, d)
        linear(moe + "experts.up", experts, f, d)
        linear(moe + "experts.down", experts, d, f)
        if residual:
            linear(ffn + "mlp.up", f, d)
            linear(ffn + "mlp.down", d, f)
            if cfg["moe.residual_mix"] == "learned":
                linear(ffn + "mix", 2, d)
    norm("norm")
    return shapes


def initial_parameters(cfg, generator):
    """Random everywhere, biases and norms included, so that no gradient is zero by symmetry."""
    params = {}
    for name, shape in parameter_shapes(cfg).items():
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        if "norm" in name and name.endswith(".weight"):
            x = 1 + 0.2 * x
        elif name.startswith("embed."):
            x = 0.5 * x
        elif name.endswith("router.weight"):
            x = 0.8 * x                       # decided but not saturated probabilities
        elif name.endswith(".bias"):
            x = 0.1 * x
        else:
            x = x / math.sqrt(shape[-1])
        params[name] = x
    return params


# --- model ------------------------------------------------------------------------------------------------------------

def linear(p, name, x):
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], eps=1e-5)


def mlp(p, name, x):
    return linear(p, name + "down", F.gelu(linear(p, name + "up", x), approximate="tanh"))


def attention(p, name, x, heads):
    b, t, d = x.shape
    q, k, v = (x @ p[name + "qkv.weight"][j].T + p[name + "qkv.bias"][j] for j in range(3))
    q, k, v = (y.view(b, t, heads, d // heads).transpose(1, 2) for y in (q, k, v))
    score = q @ k.transpose(-1, -2) / math.sqrt(d // heads)
    future = torch.ones(t, t, dtype=torch.bool).triu(1)
    y = score.masked_fill(future, -math.inf).softmax(-1) @ v
    return linear(p, name + "out", y.transpose(1, 2).reshape(b, t, d))


def route(cfg, logits):
    """logits (B, T, E) -> experts (B, T, k), weights (B, T, k) with 0 where dropped, balance loss. A group = a sequence."""
    b, t, experts = logits.shape
    k = cfg["moe.top_k"]
    p = logits.softmax(-1)
    top = p.topk(min(k + 1, experts), dim=-1)
    gap = (top.values[..., :-1] - top.values[..., 1:]).min().item()
    assert gap > 1e-6, f"a near tie ({gap:.1e}) would make the choice depend on rounding: change the seed"
    chosen, weight = top.indices[..., :k], top.values[..., :k]
    kept = torch.ones_like(weight)
    if cfg["moe.capacity_factor"] > 0:
        capacity = max(math.ceil(t / experts * cfg["moe.capacity_factor"] * k), cfg["moe.min_capacity"])
        for s in range(b):
            load = [0] * experts
            for j in range(k):                # all first choices in token order, then all second ones
                for n in range(t):
                    e = int(chosen[s, n, j])
                    kept[s, n, j] = float(load[e] < capacity)
                    load[e] += 1
    weight = weight * kept
    if cfg["moe.renormalize"]:                # over the choices that survived
        weight = weight / weight.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).eps)
    first = F.one_hot(chosen[..., 0], experts).double()
    balance = (experts * (p.mean(1) * first.mean(1)).sum(-1)).mean()
    return chosen, weight, balance


def moe(p, name, x, cfg, trace):
    b, t, d = x.shape
    chosen, weight, balance = route(cfg, x @ p[name + "router.weight"].T)
    trace.append((chosen, weight))
    y = torch.zeros_like(x)
    for e in range(p[name + "router.weight"].shape[0]):
        w = (weight * (chosen == e)).sum(-1, keepdim=True)     # (B, T, 1), zero for tokens that do not go there
        one = {key: p[f"{name}experts.{key}"][e] for key in ("up.weight", "up.bias", "down.weight", "down.bias")}
        y = y + w * mlp(one, "", x)
    return y, balance


def feed_forward(p, name, x, experts, cfg, trace):
    if experts == 0:
        return mlp(p, name, x), None
    if not cfg["moe.residual"]:
        return moe(p, name, x, cfg, trace)
    y, balance = moe(p, name + "moe.", x, cfg, trace)
    base = mlp(p, name + "mlp.", x)
    if cfg["moe.residual_mix"] == "sum":
        return base + y, balance
    c = linear(p, name + "mix", x).softmax(-1)
    return c[..., 0:1] * y + c[..., 1:2] * base, balance


def forward(p, cfg, tokens):
    """tokens (B, T) -> logits (B, T, V), sum of balance losses over layers, [(experts, weights)] a MoE layer."""
    x = p["embed.tokens"][tokens] + p["embed.positions"]
    aux, trace = torch.zeros((), dtype=torch.float64), []
    for i, experts in enumerate(layer_experts(cfg)):
        block = f"blocks.{i}."
        x = x + attention(p, block + "attention.", norm(p, block + "norm1", x), cfg["model.heads"])
        y, balance = feed_forward(p, block + "ffn.", norm(p, block + "norm2", x), experts, cfg, trace)
        x = x + y
        if balance is not None:
            aux = aux + balance
    return norm(p, "norm", x) @ p["embed.tokens"].T, aux, trace


def losses(p, cfg, tokens, targets, teacher):
    """-> total, parts {ce, aux, kl}, logits, trace. teacher: (params, config) or None."""
    logits, aux, trace = forward(p, cfg, tokens)
    parts = {"ce": F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1)), "aux": aux}
    total = parts["ce"] + BALANCE * aux
    if teacher is not None:
        with torch.no_grad():
            expected = forward(*teacher, tokens)[0]
        log_t = (expected / KD_TEMPERATURE).log_softmax(-1)
        log_s = (logits / KD_TEMPERATURE).log_softmax(-1)
        parts["kl"] = (log_t.exp() * (log_t - log_s)).sum(-1).mean()
        total = total + KD_BETA * KD_TEMPERATURE ** 2 * parts["kl"]
    return total, parts, logits, trace


# --- recording --------------------------------------------------------------------------------------------------------

def decays(name):
    """Weight decay is for matrices: by name, because a packed bias has two axes too."""
    return not name.endswith(".bias") and "norm" not in name


def check_gradients(cfg, params, batch, teacher, generator):
    """One central difference along a random direction for each parameter: autograd of this script is checked as well."""
    for name, x in params.items():
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        h, value = 1e-6, []
        for sign in (1, -1):
            moved = {k: v.detach() for k, v in params.items()} | {name: x.detach() + sign * h * direction}
            with torch.no_grad():
                value.append(losses(moved, cfg, *batch, teacher)[0].item())
        numeric, exact = (value[0] - value[1]) / (2 * h), (x.grad * direction).sum().item()
        assert abs(numeric - exact) < 1e-6 * (1 + abs(exact)), f"{name}: difference {numeric}, autograd {exact}"


def record(cfg, teacher_cfg, seed):
    """-> {tensor name: tensor}, one family."""
    g = torch.Generator().manual_seed(seed)
    out, rows = {}, {}
    params = initial_parameters(cfg, g)
    teacher = None
    if teacher_cfg is not None:
        teacher = (initial_parameters(teacher_cfg, g), teacher_cfg)
        out |= {"teacher." + k: v for k, v in teacher[0].items()}
    out |= {"param." + k: v.clone() for k, v in params.items()}
    for x in params.values():
        x.requires_grad_()
    groups = [{"params": [x for k, x in params.items() if decays(k)], "weight_decay": DECAY},
              {"params": [x for k, x in params.items() if not decays(k)], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, foreach=False)
    for step in range(STEPS):
        batch = [torch.randint(VOCAB, (BATCH, CONTEXT), generator=g) for _ in range(2)]
        adamw.zero_grad()
        total, parts, logits, trace = losses(params, cfg, *batch, teacher)
        total.backward()
        if step == 0:
            check_gradients(cfg, params, batch, teacher, g)
            out["logits"] = logits.detach()
            out |= {"grad." + k: x.grad.clone() for k, x in params.items()}
            moe_layers = [i for i, e in enumerate(layer_experts(cfg)) if e]
            for i, (chosen, weight) in zip(moe_layers, trace):
                out[f"route.{i}.expert"], out[f"route.{i}.weight"] = chosen.int(), weight.detach()
        grad_norm = torch.nn.utils.clip_grad_norm_(params.values(), CLIP, foreach=False)
        adamw.step()
        out |= {f"tokens.{step}": batch[0].int(), f"targets.{step}": batch[1].int()}
        scalars = {"loss": total, **parts, "grad_norm": grad_norm}
        out |= {f"{k}.{step}": v.detach().reshape(1) for k, v in scalars.items()}
        rows[f"step {step}"] = {k: v.item() for k, v in scalars.items()}
        dropped = sum(int((w == 0).sum()) for _, w in trace)
        rows[f"step {step}"]["dropped"] = dropped
        assert (dropped > 0) == (cfg.get("moe.capacity_factor", 0) > 0), "a capacity family must drop something"
    out |= {"final." + k: x.detach() for k, x in params.items()}
    return out, rows


def toml(cfg):
    return "".join(f"{k} = {json.dumps(v)}\n" for k, v in cfg.items())


def safetensors_bytes(tensors, metadata):
    """The safetensors format, written here so that the same numbers always give the same bytes. F64 first, then I32."""
    header, body = {"__metadata__": dict(sorted(metadata.items()))}, b""
    for name, x in sorted(tensors.items(), key=lambda item: (item[1].dtype != torch.float64, item[0])):
        kind, letter = ("F64", "d") if x.dtype == torch.float64 else ("I32", "i")
        data = struct.pack(f"<{x.numel()}{letter}", *x.flatten().tolist())
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def read_safetensors(data):
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    header.pop("__metadata__")
    letter = {"F64": "d", "I32": "i"}
    return {name: struct.unpack(f"<{math.prod(x['shape'])}{letter[x['dtype']]}", body[slice(*x["data_offsets"])])
            for name, x in header.items()}


def worst_difference(old, new):
    """Largest |a - b| / (1 + |b|) over all tensors; infinite when names or sizes differ."""
    if old.keys() != new.keys() or any(len(old[k]) != len(new[k]) for k in new):
        return math.inf
    return max(abs(a - b) / (1 + abs(b)) for k in new for a, b in zip(old[k], new[k]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs by more than 1e-12")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    index, bad = {}, []
    for name, (cfg, teacher_cfg, seed) in FAMILIES.items():
        tensors, index[name] = record(cfg, teacher_cfg, seed)
        metadata = {"config": toml(cfg), "family": name, "torch": torch.__version__, "seed": str(seed),
                    "adamw": json.dumps({"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY, "clip": CLIP})}
        if teacher_cfg is not None:
            metadata |= {"teacher_config": toml(teacher_cfg), "kd_temperature": str(KD_TEMPERATURE), "kd_beta": str(KD_BETA)}
        data, path = safetensors_bytes(tensors, metadata), HERE / f"{name}.safetensors"
        if args.check:
            worst = worst_difference(read_safetensors(path.read_bytes()), read_safetensors(data))
            print(f"{name:20} worst difference {worst:.1e}")
            bad += [name] if worst > 1e-12 else []
        else:
            path.write_bytes(data)
            last = index[name]["step 2"]
            print(f"{name:20} {len(data) / 1024:6.0f} KiB   loss {last['loss']:.6f}   norms",
                  " ".join(f"{row['grad_norm']:.3f}" for row in index[name].values()),
                  "  dropped", " ".join(str(row["dropped"]) for row in index[name].values()))
    if not args.check:
        (HERE / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    return f"these files differ from what was computed now: {', '.join(bad)}" if bad else 0


if __name__ == "__main__":
    sys.exit(main())
